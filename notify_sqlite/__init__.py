"""One SQLite file: several processes, nothing to run."""

try:
    from ._dispatch import SQLiteDispatchStore as SQLiteDispatchStore
    from ._presence import SQLitePresence as SQLitePresence
    from ._store import SQLiteStore as SQLiteStore
    from ._stream_store import SQLiteStreamStore as SQLiteStreamStore
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "notify_sqlite needs aiosqlite: pip install 'notify-streams[sqlite]'", name="aiosqlite"
    ) from error

__all__ = ["SQLiteDispatchStore", "SQLitePresence", "SQLiteStore", "SQLiteStreamStore"]
