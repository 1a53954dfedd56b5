"""The text index: what SEARCH asks before it opens messages. Derived data, one SQLite file for each account."""
