"""Store, stream store, router and presence in PostgreSQL 14 and later."""

try:
    from ._dispatch import PostgresDispatchStore as PostgresDispatchStore
    from ._presence import PostgresPresence as PostgresPresence
    from ._router import PostgresRouter as PostgresRouter
    from ._store import PostgresStore as PostgresStore
    from ._stream_store import PostgresStreamStore as PostgresStreamStore
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("notify_pg needs asyncpg: pip install 'notify-streams[pg]'", name="asyncpg") from error

__all__ = ["PostgresDispatchStore", "PostgresPresence", "PostgresRouter", "PostgresStore", "PostgresStreamStore"]
