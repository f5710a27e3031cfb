"""One SQLite file: several processes, nothing to run."""

from ._presence import SQLitePresence as SQLitePresence
from ._store import SQLiteStore as SQLiteStore
from ._stream_store import SQLiteStreamStore as SQLiteStreamStore

__all__ = ["SQLitePresence", "SQLiteStore", "SQLiteStreamStore"]
