"""The suites x the Redis backend on a cluster of three masters, and on what sentinels watch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import ClassVar

import pytest

from notify.testing.presence import LeasedPresenceSuite, PresenceSuite
from notify.testing.router import RouterSuite
from notify.testing.store import DurableStoreSuite, ReadManySuite, SaveManySuite, SaveSoonSuite
from notify.testing.stream_store import LivenessSuite, SharedStreamStoreSuite, StreamStoreSuite
from notify_redis import RedisPresence, RedisRouter, RedisStreamStore
from tests.servers.redis import cluster, sentinels

_PREFIXES = (f"test{number}" for number in count())


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    with cluster() as all_:
        yield all_.url


@pytest.fixture(scope="module")
def sentinel_url() -> Iterator[str]:
    with sentinels() as all_:
        yield all_.url


class OnCluster:
    """Where the parts under test are."""

    backends: ClassVar = ("asyncio",)

    @pytest.fixture(autouse=True)
    def place(self, cluster_url: str) -> None:
        self.url = cluster_url
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
):
    async def make(self) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=self.prefix)

    async def reopen(self, store: RedisStreamStore) -> RedisStreamStore:
        return await self.make()

    async def another(self, store: RedisStreamStore) -> RedisStreamStore:
        return await self.make()


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
    StreamStoreSuite,
    SharedStreamStoreSuite,
    LivenessSuite,
    SaveManySuite,
    SaveSoonSuite,
    ReadManySuite,
    DurableStoreSuite,
):
    backends: ClassVar = ("asyncio",)

    @pytest.fixture(autouse=True)
    def place(self, sentinel_url: str) -> None:
        self.url = sentinel_url
        self.prefix = next(_PREFIXES)

    async def make(self) -> RedisStreamStore:
        return RedisStreamStore(self.url, prefix=self.prefix, min_replicas=1)

    async def reopen(self, store: RedisStreamStore) -> RedisStreamStore:
        return await self.make()

    async def another(self, store: RedisStreamStore) -> RedisStreamStore:
        return await self.make()
