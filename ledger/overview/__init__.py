"""What a history looks like as a whole, as values that charts, reports and pages show."""
