"""The suites x what Redis keeps for deliveries: counts of caps and gates; on one server, and on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from notify import PushRejectedError
from notify.dispatch.abc import CapWindow
from notify.testing.dispatch import CapStoreSuite, GateStoreSuite, UserForgetSuite
from notify_redis import RedisCaps
from tests.servers.redis import Cluster, Server, cluster, single

_PREFIXES = (f"caps{number}" for number in count())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with single() as server:
        yield server


@pytest.fixture(scope="module")
def formed() -> Iterator[Cluster]:
    with cluster() as all_:
        yield all_


class OnServer:
    """On one server, each store with a prefix of its own."""

    backends = ("asyncio",)

    @pytest.fixture(autouse=True)
    def place(self, server: Server) -> None:
        self.url = server.url

    async def make(self) -> RedisCaps:
        return RedisCaps(self.url, prefix=next(_PREFIXES))


class OnCluster(OnServer):
    """On a cluster of three masters."""

    @pytest.fixture(autouse=True)
    def place(self, formed: Cluster) -> None:
        self.url = formed.url


class TestCaps(OnServer, CapStoreSuite):
    pass


class TestGates(OnServer, GateStoreSuite):
    pass


class TestForgetting(OnServer, UserForgetSuite):
    pass


class TestCapsOnCluster(OnCluster, CapStoreSuite):
    pass


class TestGatesOnCluster(OnCluster, GateStoreSuite):
    pass


class TestForgettingOnCluster(OnCluster, UserForgetSuite):
    pass


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_counted_expires(server: Server) -> None:
    """Every key has an end, some time after what it holds has left, so nothing has to be cleaned up."""
    prefix, now = next(_PREFIXES), datetime.now(UTC)
    async with RedisCaps(server.url, prefix=prefix) as store:
        windows = [CapWindow("alice/day", 1, now + timedelta(days=1)), CapWindow("alice/week", 9, now + timedelta(7))]
        assert [await store.admit(name, "alice", windows, now) for name in "ab"] == [-1, 0]
        await store.close_gate("fcm", now + timedelta(days=1))
    with server.client() as client:
        keys = client.keys(f"{prefix}:*")
        ends = sorted((client.pexpiretime(key) / 1000 - now.timestamp() - 3600) / 86_400 for key in keys)
    assert ends == pytest.approx([1, 1, 7, 7, 7, 7], abs=0.001)  # a count, the gate; a count, two verdicts, the index


RIGHTS = (
    *("+evalsha", "+script|load", "+time", "+ping", "+info", "+config|get", "+get", "+set", "+del", "+pexpireat"),
    *("+zadd", "+zcard", "+zrem", "+zrange", "+zrevrange", "+zrangebyscore", "+zremrangebyscore", "+zscore", "+unlink"),
)
"""What docs/backends/redis.md lists."""


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("lacking", ["+evalsha", "+script|load", "+zadd", "+pexpireat", "+get", "keys", ""])
async def test_login_that_lacks_a_right(server: Server, lacking: str) -> None:
    """The error says that nothing was counted, and what the login needs; with the right, the cap counts from there."""
    prefix, now = next(_PREFIXES), datetime.now(UTC)
    windows = [CapWindow("alice/day", 1, now + timedelta(days=1))]
    with server.client() as client:
        client.script_flush()
        keys = () if lacking == "keys" else (f"~{prefix}:*",)
        rights = [each for each in RIGHTS if each != lacking]
        client.execute_command("ACL", "SETUSER", prefix, "on", ">pass", *keys, *rights)
        try:
            async with RedisCaps(f"redis://{prefix}:pass@127.0.0.1:{server.port}", prefix=prefix) as store:
                if lacking:
                    for _ in range(2):
                        with pytest.raises(PushRejectedError, match="the login"):
                            await store.admit("a", "alice", windows, now)
                    client.execute_command("ACL", "SETUSER", prefix, f"~{prefix}:*", *RIGHTS)
                await store.refund("a", "alice", windows)
                assert [await store.admit(name, "alice", windows, now) for name in "ab"] == [-1, 0]
        finally:
            client.execute_command("ACL", "DELUSER", prefix)
