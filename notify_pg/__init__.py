"""PostgreSQL 14 and later."""

from ._store import PostgresStore as PostgresStore

__all__ = ["PostgresStore"]
