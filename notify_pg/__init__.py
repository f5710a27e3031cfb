"""PostgreSQL 14 and later."""

from ._presence import PostgresPresence as PostgresPresence
from ._router import PostgresRouter as PostgresRouter
from ._store import PostgresStore as PostgresStore
from ._stream_store import PostgresStreamStore as PostgresStreamStore

__all__ = ["PostgresPresence", "PostgresRouter", "PostgresStore", "PostgresStreamStore"]
