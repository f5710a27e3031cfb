"""One SQLite file: several processes, nothing to run."""
