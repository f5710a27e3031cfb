"""Where the parts of a composition are kept, and which compositions there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from notify import PresenceTracker, Router, Store
from notify_pg import PostgresPresence, PostgresRouter, PostgresStore, PostgresStreamStore
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore
from notify_sqlite import SQLitePresence, SQLiteStore, SQLiteStreamStore


@dataclass(frozen=True)
class Place:
    """A prefix, a schema and a file that one test has to itself."""

    redis: str
    dsn: str
    name: str
    file: Path

    def make(self, cls: Callable[..., Any], **options: Any) -> Any:
        """One more object on this place, as another process would make it."""
        if cls.__name__.startswith("Redis"):
            return cls(self.redis, prefix=self.name, **options)
        if cls.__name__.startswith("Postgres"):
            return cls(self.dsn, schema=self.name, **options)
        return cls(self.file, **options)


class Parts(NamedTuple):
    """What one instance is made of."""

    store: type[Store]
    router: type[Router] | None = None
    presence: type[PresenceTracker] | None = None


COMPOSITIONS = {
    "sqlite": Parts(SQLiteStreamStore),
    "redis": Parts(RedisStreamStore),
    "postgres": Parts(PostgresStreamStore),
    "sqlite-redis-redis": Parts(SQLiteStore, RedisRouter, RedisPresence),
    "sqlite-redis-sqlite": Parts(SQLiteStore, RedisRouter, SQLitePresence),
    "redis-redis-redis": Parts(RedisStore, RedisRouter, RedisPresence),
    "postgres-redis-redis": Parts(PostgresStore, RedisRouter, RedisPresence),
    "postgres-postgres-postgres": Parts(PostgresStore, PostgresRouter, PostgresPresence),
    "redis-postgres-none": Parts(RedisStore, PostgresRouter),
    "postgres stream-redis-redis": Parts(PostgresStreamStore, RedisRouter, RedisPresence),
}

PLAIN: tuple[type[Store], ...] = (SQLiteStore, RedisStore, PostgresStore)
STREAMING: tuple[type[Store], ...] = (SQLiteStreamStore, RedisStreamStore, PostgresStreamStore)
