"""PostgreSQL 14 and later."""

from ._store import PostgresStore as PostgresStore
from ._stream_store import PostgresStreamStore as PostgresStreamStore

__all__ = ["PostgresStore", "PostgresStreamStore"]
