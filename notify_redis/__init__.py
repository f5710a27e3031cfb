"""Redis: logs in streams, live by pub/sub; a single server, Sentinel or Cluster. asyncio."""

from ._presence import RedisPresence as RedisPresence
from ._router import RedisRouter as RedisRouter
from ._store import RedisStore as RedisStore
from ._stream_store import RedisStreamStore as RedisStreamStore

__all__ = ["RedisPresence", "RedisRouter", "RedisStore", "RedisStreamStore"]
