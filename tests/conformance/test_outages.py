"""The suites for outages x the backends: servers behind the fault proxy, and a file that another process locks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

from notify.testing import (
    BehindFaultProxy,
    OutageSuite,
    PresenceOutageSuite,
    RouterOutageSuite,
    StoreOutageSuite,
    StreamStoreOutageSuite,
)
from notify_pg import PostgresPresence, PostgresRouter, PostgresStore, PostgresStreamStore
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore
from notify_sqlite import SQLitePresence, SQLiteStore, SQLiteStreamStore
from tests.servers import postgres as postgres_servers
from tests.servers import redis as redis_servers
from tests.servers.postgres import postgres as postgres

pytestmark = pytest.mark.slow

_PREFIXES = (f"outage{number}" for number in count())


class Outage(BehindFaultProxy[Any]):
    """How the parts are made: with timeouts of one second."""

    backends: ClassVar = ("asyncio",)
    detection: ClassVar = 8.0
    time_limit: ClassVar = 50.0
    kind: ClassVar[type[Any]]
    options: ClassVar[dict[str, Any]] = {}


@pytest.fixture(scope="module")
def redis() -> Iterator[redis_servers.Server]:
    with redis_servers.single() as server:
        yield server


class RedisOutage(Outage):
    @pytest.fixture(autouse=True)
    def place(self, redis: redis_servers.Server) -> None:
        self.redis_server = redis
        self.prefix = next(_PREFIXES)

    def server(self) -> tuple[str, int]:
        return "127.0.0.1", self.redis_server.port

    async def make_at(self, host: str, port: int) -> Any:
        return self.kind(f"redis://{host}:{port}", prefix=self.prefix, timeout=1.0, **self.options)


class TestRedisStoreOutage(RedisOutage, StoreOutageSuite[RedisStore]):
    kind = RedisStore


class TestRedisStreamStoreOutage(RedisOutage, StreamStoreOutageSuite[RedisStreamStore]):
    kind = RedisStreamStore
    options: ClassVar = {"probe_interval": 0.5}


class TestRedisRouterOutage(RedisOutage, RouterOutageSuite[RedisRouter]):
    kind = RedisRouter
    options: ClassVar = {"probe_interval": 0.5}


class TestRedisPresenceOutage(RedisOutage, PresenceOutageSuite[RedisPresence]):
    kind = RedisPresence
    options: ClassVar = {"ttl": 1.0}


class PostgresOutage(Outage):
    @pytest.fixture(autouse=True)
    def place(self, postgres: postgres_servers.Server) -> None:
        self.postgres = postgres
        self.schema = postgres_servers.fresh_schema()

    def server(self) -> tuple[str, int]:
        return "127.0.0.1", self.postgres.port

    async def make_at(self, host: str, port: int) -> Any:
        dsn = self.postgres.dsn.replace(f":{self.postgres.port}/", f":{port}/")
        return self.kind(dsn, schema=self.schema, timeout=1.0, **self.options)


class TestPostgresStoreOutage(PostgresOutage, StoreOutageSuite[PostgresStore]):
    kind = PostgresStore


class TestPostgresStreamStoreOutage(PostgresOutage, StreamStoreOutageSuite[PostgresStreamStore]):
    kind = PostgresStreamStore
    options: ClassVar = {"probe_interval": 0.5}


class TestPostgresRouterOutage(PostgresOutage, RouterOutageSuite[PostgresRouter]):
    kind = PostgresRouter
    options: ClassVar = {"probe_interval": 0.5}


class TestPostgresPresenceOutage(PostgresOutage, PresenceOutageSuite[PostgresPresence]):
    kind = PostgresPresence
    options: ClassVar = {"ttl": 1.0}


class SQLiteOutage(OutageSuite[Any]):
    """The outage of a file: it is moved away, as by a network file system that is not mounted.

    Reading creates no file, and there is none that could go away before the first save: so each part is entered.
    """

    backends: ClassVar = ("asyncio",)
    time_limit: ClassVar = 50.0
    kind: ClassVar[type[Any]]
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.path, self.away = tmp_path / "notify.db", tmp_path / "away"
        self.away.mkdir()

    async def make(self) -> Any:
        part = self.kind(self.path, **self.options)
        await part.__aenter__()
        return part

    async def interrupt(self, part: Any) -> None:
        self.move(self.path.parent, self.away)

    async def restore(self, part: Any) -> None:
        self.move(self.away, self.path.parent)

    def move(self, source: Path, target: Path) -> None:
        files = [*source.glob(f"{self.path.name}*")]
        assert source / self.path.name in files, "there is no file that could go away or come back"
        for file in files:
            file.rename(target / file.name)


class TestSQLiteStoreOutage(SQLiteOutage, StoreOutageSuite[SQLiteStore]):
    kind = SQLiteStore


class TestSQLiteStreamStoreOutage(SQLiteOutage, StreamStoreOutageSuite[SQLiteStreamStore]):
    kind = SQLiteStreamStore


class TestSQLitePresenceOutage(SQLiteOutage, PresenceOutageSuite[SQLitePresence]):
    kind = SQLitePresence
    options: ClassVar = {"ttl": 0.5}
