"""The suites x the Redis backend, on a single server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import ClassVar

import pytest

from notify.testing.presence import LeasedPresenceSuite, PresenceSuite
from notify.testing.router import RouterSuite
from notify.testing.store import (
    AgingStoreSuite,
    BoundedStoreSuite,
    DurableStoreSuite,
    ReadManySuite,
    SaveManySuite,
    SaveSoonSuite,
    SharedStoreSuite,
    StoreSuite,
)
from notify.testing.stream_store import LivenessSuite, SharedStreamStoreSuite, StreamStoreSuite
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore
from tests.servers.redis import Server, single

_PREFIXES = (f"test{number}" for number in count())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with single() as server:
        yield server


class OnServer:
    """Where the parts under test are."""

    backends: ClassVar = ("asyncio",)

    @pytest.fixture(autouse=True)
    def place(self, server: Server) -> None:
        self.server = server
        self.url = server.url
        self.prefix = next(_PREFIXES)


class TestRedisStore(
    OnServer,
    StoreSuite,
    SaveManySuite,
    SaveSoonSuite,
    ReadManySuite,
    DurableStoreSuite,
    SharedStoreSuite,
    BoundedStoreSuite,
    AgingStoreSuite,
):
    slack = 100

    async def make(self) -> RedisStore:
        return RedisStore(self.url, prefix=self.prefix)

    async def reopen(self, store: RedisStore) -> RedisStore:
        return RedisStore(self.url, prefix=self.prefix)

    async def another(self, store: RedisStore) -> RedisStore:
        return RedisStore(self.url, prefix=self.prefix)

    async def make_bounded(self, max_len: int) -> RedisStore:
        return RedisStore(self.url, prefix=next(_PREFIXES), max_len=max_len)

    async def make_aging(self, max_age: float) -> RedisStore:
        return RedisStore(self.url, prefix=next(_PREFIXES), max_age=max_age)


class TestExactRedisStore(OnServer, BoundedStoreSuite):
    async def make(self) -> RedisStore:
        return RedisStore(self.url, prefix=self.prefix, exact=True)

    async def make_bounded(self, max_len: int) -> RedisStore:
        return RedisStore(self.url, prefix=self.prefix, max_len=max_len, exact=True)


class TestRedisStreamStore(
    OnServer,
    StreamStoreSuite,
    LivenessSuite,
    SaveManySuite,
    SaveSoonSuite,
    ReadManySuite,
    DurableStoreSuite,
    SharedStreamStoreSuite,
    BoundedStoreSuite,
    AgingStoreSuite,
):
    slack = 100

    async def make(self) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=self.prefix)

    async def reopen(self, store: RedisStreamStore) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=self.prefix)

    async def another(self, store: RedisStreamStore) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=self.prefix)

    async def make_bounded(self, max_len: int) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=next(_PREFIXES), max_len=max_len)

    async def make_aging(self, max_age: float) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=next(_PREFIXES), max_age=max_age)


class TestRedisRouter(OnServer, RouterSuite):
    async def make(self) -> RedisRouter:
        return RedisRouter(self.url, prefix=self.prefix)

    async def another(self, router: RedisRouter) -> RedisRouter:
        return RedisRouter(self.url, prefix=self.prefix)

    async def garbage(self, router: RedisRouter) -> None:
        channels = self.server.ask("PUBSUB", "CHANNELS", f"{self.prefix}:*")
        assert len(channels) >= 2
        for channel in channels:
            self.server.ask("PUBLISH", channel, b"\xff garbage")


class TestRedisPresence(OnServer, PresenceSuite, LeasedPresenceSuite):
    ttl = 0.6

    async def make(self) -> RedisPresence:
        return RedisPresence(self.url, prefix=self.prefix, ttl=self.ttl)

    async def another(self, tracker: RedisPresence) -> RedisPresence:
        return RedisPresence(self.url, prefix=self.prefix, ttl=self.ttl)

    async def crash(self, tracker: RedisPresence) -> None:
        await tracker._keeper.abandon()
        await tracker._client.aclose()

    async def lose_leases(self, tracker: RedisPresence) -> None:
        keys = self.server.ask("KEYS", f"{self.prefix}:*")
        self.server.ask("DEL", *keys)
