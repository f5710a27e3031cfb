"""Redis: logs in streams, live by pub/sub; a single server, Sentinel or Cluster. asyncio."""

try:
    from ._caps import RedisCaps as RedisCaps
    from ._presence import RedisPresence as RedisPresence
    from ._router import RedisRouter as RedisRouter
    from ._store import RedisStore as RedisStore
    from ._stream_store import RedisStreamStore as RedisStreamStore
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("notify_redis needs redis: pip install 'notify-streams[redis]'", name="redis") from error

__all__ = ["RedisCaps", "RedisPresence", "RedisRouter", "RedisStore", "RedisStreamStore"]
