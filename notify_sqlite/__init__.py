"""One SQLite file: several processes, nothing to run."""

from notify.errors import missing_extra

try:
    from ._presence import SQLitePresence as SQLitePresence
    from ._store import SQLiteStore as SQLiteStore
    from ._stream_store import SQLiteStreamStore as SQLiteStreamStore
except ModuleNotFoundError as error:
    raise missing_extra(error, __name__, "sqlite") from error

__all__ = ["SQLitePresence", "SQLiteStore", "SQLiteStreamStore"]
