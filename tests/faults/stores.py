"""Stores by URL; each driver is imported only where it is needed."""

from __future__ import annotations

from typing import Any

from notify import StreamStore


def open_store(url: str, space: str, **options: Any) -> StreamStore:
    """Return a stream store, in a part of its backend that no other test uses.

    Args:
        url: `sqlite:///path`, `redis...://` or `postgresql://`.
        space: the prefix, schema or name of the file.
        options: of its constructor.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        from notify_sqlite import SQLiteStreamStore

        return SQLiteStreamStore(f"{rest}/{space}.db", **options)
    if scheme.startswith("redis"):
        from notify_redis import RedisStreamStore

        return RedisStreamStore(url, prefix=space, **options)
    from notify_pg import PostgresStreamStore

    return PostgresStreamStore(url, schema=space, **options)
