"""The suite for inbox stores x the Redis backend: on a single server with both kinds of wake, and on a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, ClassVar

import pytest

from notify.testing.inbox import (
    DurableInboxSuite,
    ForgetInboxSuite,
    InboxStoreSuite,
    LosingInboxSuite,
    SharedInboxSuite,
)
from notify_redis import RedisStore, RedisStreamStore
from tests.servers.redis import Cluster, Server, cluster, single, traces

_PREFIXES = (f"inbox{number}" for number in count())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with single() as server:
        yield server


@pytest.fixture(scope="module")
def formed() -> Iterator[Cluster]:
    with cluster() as all_:
        yield all_


class WithHooks:
    """Where the parts under test are, and what the masters hold."""

    backends: ClassVar = ("asyncio",)
    lifetime = 0.5
    kind: type[RedisStore] = RedisStreamStore
    options: ClassVar[dict[str, Any]] = {}

    servers: Sequence[Server]
    url: str
    prefix: str

    async def make(self) -> RedisStore:
        return self.kind(self.url, prefix=self.prefix, **self.options)

    async def reopen(self, store: RedisStore) -> RedisStore:
        return await self.make()

    async def another(self, store: RedisStore) -> RedisStore:
        return await self.make()

    async def traces(self, store: RedisStore, user: str) -> list[str]:
        """What the masters hold about a user, whatever its name and type, but for what others have in their logs."""
        keys = traces(self.servers, user, f"{self.prefix}:*")
        return [key for key in keys if key.endswith(f":{user}") or (key.count(":") > 2 and not key.endswith("::w:"))]

    async def lose_log(self, store: RedisStore, user: str) -> None:
        """Remove the stream, as an eviction or its expiry does."""
        names = store._names
        for server in self.servers:
            server.ask("DEL", names.stream(user))


class OnServer(WithHooks):
    @pytest.fixture(autouse=True)
    def place(self, server: Server) -> None:
        self.servers = [server]
        self.url = server.url
        self.prefix = next(_PREFIXES)


class OnCluster(WithHooks):
    @pytest.fixture(autouse=True)
    def place(self, formed: Cluster) -> None:
        self.servers = formed.masters
        self.url = formed.url
        self.prefix = next(_PREFIXES)


class TestRedisInbox(
    OnServer,
    InboxStoreSuite[RedisStore],
    DurableInboxSuite[RedisStore],
    SharedInboxSuite[RedisStore],
    ForgetInboxSuite[RedisStore],
    LosingInboxSuite[RedisStore],
):
    kind = RedisStore


class TestRedisStreamInboxByXread(
    OnServer,
    InboxStoreSuite[RedisStore],
    DurableInboxSuite[RedisStore],
    SharedInboxSuite[RedisStore],
    ForgetInboxSuite[RedisStore],
):
    options: ClassVar[dict[str, Any]] = {"wake": "xread"}


class TestRedisStreamInboxOnCluster(
    OnCluster,
    InboxStoreSuite[RedisStore],
    DurableInboxSuite[RedisStore],
    SharedInboxSuite[RedisStore],
    ForgetInboxSuite[RedisStore],
):
    """Each user's inbox is on the master of its log; topics and sessions are on others."""
