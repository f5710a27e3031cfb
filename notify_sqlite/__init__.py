"""One SQLite file: several processes, nothing to run."""

from ._store import SQLiteStore as SQLiteStore
from ._stream_store import SQLiteStreamStore as SQLiteStreamStore

__all__ = ["SQLiteStore", "SQLiteStreamStore"]
