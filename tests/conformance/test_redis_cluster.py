"""The suites x the Redis backend on a cluster of three masters, and on what sentinels watch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import ClassVar, Literal

import pytest

from notify.testing.presence import LeasedPresenceSuite, PresenceSuite
from notify.testing.router import RouterSuite
from notify.testing.store import (
    DurableStoreSuite,
    ForgetSuite,
    PrepareSuite,
    ReadManySuite,
    SaveManySuite,
    SaveSoonSuite,
)
from notify.testing.stream_store import LivenessSuite, SharedStreamStoreSuite, StreamStoreSuite
from notify_redis import RedisPresence, RedisRouter, RedisStreamStore
from tests.servers.redis import Cluster, Sentinels, Server, cluster, sentinels, traces

_PREFIXES = (f"test{number}" for number in count())


@pytest.fixture(scope="module")
def formed() -> Iterator[Cluster]:
    with cluster() as all_:
        yield all_


@pytest.fixture(scope="module")
def watched() -> Iterator[Sentinels]:
    with sentinels() as all_:
        yield all_


class WithTraces:
    """What the masters hold, found without the store."""

    servers: Sequence[Server]
    prefix: str

    async def traces(self, store: RedisStreamStore, user: str) -> list[str]:
        """What they hold about a user, whatever its name and type."""
        return traces(self.servers, user, f"{self.prefix}:*")

    async def created(self, store: RedisStreamStore) -> list[str]:
        """Nothing but data: keys are made by the writes that need them."""
        keys = [key for server in self.servers for key, _ in server.contents(f"{self.prefix}:*")]
        return [key for key in keys if not key.endswith((":alice", "::users", "::w:", "::wn:"))]


class OnCluster(WithTraces):
    """Where the parts under test are."""

    url: str

    backends: ClassVar = ("asyncio",)

    @pytest.fixture(autouse=True)
    def place(self, formed: Cluster) -> None:
        self.url = formed.url
        self.servers = formed.masters
        self.prefix = next(_PREFIXES)


class TestRedisStreamStoreOnCluster(
    OnCluster,
    StreamStoreSuite,
    SharedStreamStoreSuite,
    LivenessSuite,
    SaveManySuite,
    SaveSoonSuite,
    ReadManySuite,
    DurableStoreSuite,
    ForgetSuite,
    PrepareSuite,
):
    wake: Literal["pubsub", "xread"] = "pubsub"

    async def make(self) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=self.prefix, wake=self.wake)

    async def reopen(self, store: RedisStreamStore) -> RedisStreamStore:
        return await self.make()

    async def another(self, store: RedisStreamStore) -> RedisStreamStore:
        return await self.make()


class TestRedisStreamStoreOnClusterByXread(TestRedisStreamStoreOnCluster):
    wake = "xread"


class TestRedisStreamStoreOfBothKindsOnCluster(OnCluster, SharedStreamStoreSuite, ForgetSuite):
    """Processes that are told in different ways tell each other everything."""

    async def make(self) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=self.prefix)

    async def another(self, store: RedisStreamStore) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=self.prefix, wake="xread")


class TestRedisRouterOnCluster(OnCluster, RouterSuite):
    async def make(self) -> RedisRouter:
        return RedisRouter(self.url, prefix=self.prefix)

    async def another(self, router: RedisRouter) -> RedisRouter:
        return await self.make()

    async def garbage(self, router: RedisRouter) -> None:
        """The listening half is the one of a single server: see `TestRedisRouter`."""


class TestRedisPresenceOnCluster(OnCluster, PresenceSuite, LeasedPresenceSuite):
    ttl = 0.6

    async def make(self) -> RedisPresence:
        return RedisPresence(self.url, prefix=self.prefix, ttl=self.ttl)

    async def another(self, tracker: RedisPresence) -> RedisPresence:
        return await self.make()

    async def crash(self, tracker: RedisPresence) -> None:
        await tracker._keeper.abandon()
        await tracker._client.aclose()

    async def lose_leases(self, tracker: RedisPresence) -> None:
        leases = tracker._leases
        keys = [(leases._keys.of_user(user)[3], leases._keys.presence(user)) for user in ("alice", "bob")]
        await leases.ask([(part, b"*2\r\n$3\r\nDEL\r\n$%d\r\n%b\r\n" % (len(key), key)) for part, key in keys])
        await leases.ask([(0, b"*2\r\n$3\r\nDEL\r\n$%d\r\n%b\r\n" % (len(leases.lease_key), leases.lease_key))])


class TestRedisStreamStoreBehindSentinels(
    WithTraces,
    StreamStoreSuite,
    SharedStreamStoreSuite,
    LivenessSuite,
    SaveManySuite,
    SaveSoonSuite,
    ReadManySuite,
    DurableStoreSuite,
    ForgetSuite,
    PrepareSuite,
):
    backends: ClassVar = ("asyncio",)
    wake: Literal["pubsub", "xread"] = "pubsub"

    @pytest.fixture(autouse=True)
    def place(self, watched: Sentinels) -> None:
        self.url = watched.url
        self.servers = [watched.master]
        self.prefix = next(_PREFIXES)

    async def make(self) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=self.prefix, min_replicas=1, wake=self.wake)

    async def reopen(self, store: RedisStreamStore) -> RedisStreamStore:
        return await self.make()

    async def another(self, store: RedisStreamStore) -> RedisStreamStore:
        return await self.make()


class TestRedisStreamStoreBehindSentinelsByXread(TestRedisStreamStoreBehindSentinels):
    wake = "xread"
