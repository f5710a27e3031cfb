"""The suites x the Redis backend, on a single server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import ClassVar, Literal

import pytest

from notify.testing.presence import LeasedPresenceSuite, PresenceSuite
from notify.testing.router import RouterSuite
from notify.testing.store import (
    AgingStoreSuite,
    BoundedStoreSuite,
    DurableStoreSuite,
    ForgetSuite,
    PrepareSuite,
    ReadManySuite,
    SaveManySuite,
    SaveSoonSuite,
    SharedStoreSuite,
    StoreSuite,
)
from notify.testing.stream_store import LivenessSuite, SharedStreamStoreSuite, StreamStoreSuite
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore
from tests.servers.redis import Server, single, traces

_PREFIXES = (f"test{number}" for number in count())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with single() as server:
        yield server


class OnServer:
    """Where the parts under test are."""

    server: Server
    url: str
    prefix: str

    backends: ClassVar = ("asyncio",)

    @pytest.fixture(autouse=True)
    def place(self, server: Server) -> None:
        self.server = server
        self.url = server.url
        self.prefix = next(_PREFIXES)

    async def traces(self, store: RedisStore, user: str) -> list[str]:
        """What the server holds about a user, whatever its name and type."""
        return traces([self.server], user, f"{self.prefix}:*")

    async def created(self, store: RedisStore) -> list[str]:
        """Nothing but data: keys are made by the writes that need them."""
        keys = [key for key, _ in self.server.contents(f"{self.prefix}:*")]
        return [key for key in keys if not key.endswith((":alice", "::users", "::w:", "::wn:"))]


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
    ForgetSuite,
    PrepareSuite,
):
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


class TestInexactRedisStore(OnServer, BoundedStoreSuite):
    slack = 100

    async def make(self) -> RedisStore:
        return RedisStore(self.url, prefix=self.prefix, exact=False)

    async def make_bounded(self, max_len: int) -> RedisStore:
        return RedisStore(self.url, prefix=next(_PREFIXES), max_len=max_len, exact=False)


class TestRedisStreamStore(
    OnServer,
    StreamStoreSuite,
    LivenessSuite,
    SaveManySuite,
    SaveSoonSuite,
    ReadManySuite,
    DurableStoreSuite,
    SharedStreamStoreSuite,
    ForgetSuite,
    PrepareSuite,
    BoundedStoreSuite,
    AgingStoreSuite,
):
    wake: Literal["pubsub", "xread"] = "pubsub"

    async def make(self) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=self.prefix, wake=self.wake)

    async def reopen(self, store: RedisStreamStore) -> RedisStreamStore:
        return await self.make()

    async def another(self, store: RedisStreamStore) -> RedisStreamStore:
        return await self.make()

    async def make_bounded(self, max_len: int) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=next(_PREFIXES), max_len=max_len, wake=self.wake)

    async def make_aging(self, max_age: float) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=next(_PREFIXES), max_age=max_age, wake=self.wake)


class TestRedisStreamStoreByXread(TestRedisStreamStore):
    wake = "xread"


class TestRedisStreamStoreOfBothKinds(OnServer, SharedStreamStoreSuite, ForgetSuite):
    """Processes that are told in different ways tell each other everything."""

    async def make(self) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=self.prefix)

    async def another(self, store: RedisStreamStore) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=self.prefix, wake="xread")


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
