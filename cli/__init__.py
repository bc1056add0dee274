"""The `ledger` command: words become one call of a use case, its result a table or JSON."""
