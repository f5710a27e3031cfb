"""Redis: logs in streams, live by pub/sub; a single server, Sentinel or Cluster. asyncio."""

from ._store import RedisStore as RedisStore

__all__ = ["RedisStore"]
