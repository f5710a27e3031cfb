"""Private servers for tests."""
