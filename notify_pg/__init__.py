"""PostgreSQL 14 and later."""

from notify.errors import missing_extra

try:
    from ._presence import PostgresPresence as PostgresPresence
    from ._router import PostgresRouter as PostgresRouter
    from ._store import PostgresStore as PostgresStore
    from ._stream_store import PostgresStreamStore as PostgresStreamStore
except ModuleNotFoundError as error:
    raise missing_extra(error, __name__, "pg") from error

__all__ = ["PostgresPresence", "PostgresRouter", "PostgresStore", "PostgresStreamStore"]
