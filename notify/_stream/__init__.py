"""From the log to the reader: cursors, rings of recent events, and reading the log."""
