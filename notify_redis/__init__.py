"""Redis: logs in streams, live by pub/sub; a single server, Sentinel or Cluster. asyncio."""

from ._store import RedisStore as RedisStore
from ._stream_store import RedisStreamStore as RedisStreamStore

__all__ = ["RedisStore", "RedisStreamStore"]
