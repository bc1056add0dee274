"""What people look at rather than read: the report, and the pages of `ledger serve`."""
