"""Clusters that name their nodes in every way, and nodes that are missing."""

from __future__ import annotations

import socket
from contextlib import aclosing

import anyio
import pytest
from redis.exceptions import RedisError

from notify import Event, PushRejectedError, UsageError
from notify.testing import FaultProxy
from notify_redis import RedisStore, RedisStreamStore, _endpoint
from notify_redis._connection import format_address
from notify_redis._discovery import _address
from tests.parts import until
from tests.servers.redis import Server, cluster, single

pytestmark = pytest.mark.anyio

UNKNOWN = {"cluster-preferred-endpoint-type": "unknown-endpoint"}
HOSTNAME = {"cluster-preferred-endpoint-type": "hostname"}


async def one_node(server: Server, settings: dict[str, str]) -> None:
    server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
    for name, value in settings.items():
        server.ask("CONFIG", "SET", name, value)
    await until(lambda: "ok" in str(server.ask("CLUSTER", "INFO")))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        UNKNOWN,
        HOSTNAME,
        {**HOSTNAME, "cluster-announce-hostname": "localhost"},
        {"cluster-announce-ip": "127.0.0.1"},
        {"cluster-announce-hostname": "localhost"},
        {**UNKNOWN, "cluster-announce-hostname": "nowhere.invalid"},
    ],
    ids=["address", "unknown", "no hostname", "hostname", "announced", "hostname beside", "unknown, hostname beside"],
)
async def test_how_a_cluster_names_its_node(prefix: str, settings: dict[str, str]) -> None:
    """Null and empty endpoints mean the host that was asked; hostnames and announced addresses are used."""
    with single("--cluster-enabled", "yes", "--appendonly", "yes") as server:
        await one_node(server, settings)
        url = f"redis+cluster://127.0.0.1:{server.port}"
        async with aclosing(RedisStreamStore(url, prefix=prefix)) as store, store.subscribe("alice") as stream:
            event = await store.save(Event("alice", "t"))
            assert await stream.next(10) == event
            for _ in range(2):
                await store._client.refresh()
            assert await store.head("alice") == event.id


async def test_a_cluster_behind_one_address(prefix: str) -> None:
    """Where the endpoint is unknown, the connection goes where the question went: through the proxy."""
    with single("--cluster-enabled", "yes", "--appendonly", "yes") as server:
        await one_node(server, UNKNOWN)
        async with FaultProxy("127.0.0.1", server.port) as proxy:
            url = f"redis+cluster://localhost:{proxy.port}"
            async with aclosing(RedisStore(url, prefix=prefix)) as store:
                server.ask("CONFIG", "SET", "cluster-announce-port", str(proxy.port))
                await until(lambda: str(proxy.port) in str(server.ask("CLUSTER", "NODES")))
                event = await store.save(Event("alice", "t"))
                assert [node.address for node in store._client.nodes] == [("localhost", proxy.port)]
                assert await store.head("alice") == event.id


@pytest.mark.parametrize(
    ("node", "address"),
    [
        ([b"10.0.0.1", 7000, b"id"], ("10.0.0.1", 7000)),
        ([None, 7000, b"id", []], ("asked", 7000)),
        ([None, 7000, b"id", [b"ip", b"10.0.0.1"]], ("asked", 7000)),
        ([b"", 7000, b"id", []], ("asked", 7000)),
        ([b"?", 7000, b"id", [b"ip", b"10.0.0.1"]], ("10.0.0.1", 7000)),
        ([b"?", 7000, b"id", [b"hostname", b"x", b"ip", b"::1"]], ("::1", 7000)),
        ([b"?", 7000, b"id"], ("asked", 7000)),
        ([b"?", 7000, b"id", []], ("asked", 7000)),
        ([b"2001:db8::1", 7000, b"id", []], ("2001:db8::1", 7000)),
        ([b"host.example", 0, b"id", []], ("host.example", 6379)),
    ],
)
def test_nodes_in_a_reply(node: list[object], address: tuple[str, int]) -> None:
    """Each form that the protocol documents has its meaning, in replies of every version."""
    assert _address(node, ("asked", 6379)) == address


def test_addresses_in_messages() -> None:
    """An IPv6 address has brackets, so that its port can be told."""
    assert format_address(("::1", 7000)) == "[::1]:7000"
    assert format_address(("localhost", 7000)) == "localhost:7000"


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_ipv6(prefix: str, scheme: str) -> None:
    """A server on an IPv6 address, alone and as a cluster that announces it."""
    options = ["--cluster-enabled", "yes"] if scheme == "redis+cluster" else ["--appendonly", "yes"]
    with single(*options, "--bind", "127.0.0.1", "::1") as server:
        if scheme == "redis+cluster":
            await one_node(server, {"cluster-announce-ip": "::1"})
        async with aclosing(RedisStreamStore(f"{scheme}://[::1]:{server.port}", prefix=prefix)) as store:
            async with store.subscribe("alice") as stream:
                event = await store.save(Event("alice", "t"))
                assert await stream.next(10) == event


async def test_slots_without_a_master(prefix: str) -> None:
    """Where part of the slots has no master, the message counts the parts; once they have one, pushes are stored."""
    with single("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no") as server:
        server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        url = f"redis+cluster://127.0.0.1:{server.port}"
        async with aclosing(RedisStore(url, prefix=prefix, timeout=1.0)) as store:
            with pytest.raises(PushRejectedError, match="128 of 256 parts"):
                await store.save(Event("alice", "t"))
            server.ask("CLUSTER", "ADDSLOTSRANGE", 8192, 16_383)

            async def stored() -> bool:
                return isinstance((await store.save_many([Event("alice", "t")]))[0], Event)

            await until(stored, 10)


@pytest.mark.slow
async def test_nodes_of_the_list_that_are_gone(prefix: str) -> None:
    """Of several nodes in the URL one that answers is enough, whichever it is."""
    with cluster() as all_:
        hosts = ["127.0.0.1:1", "nowhere.invalid:7000", f"127.0.0.1:{all_.masters[2].port}"]
        async with aclosing(RedisStore(f"redis+cluster://{','.join(hosts)}", prefix=prefix, timeout=15.0)) as store:
            with anyio.fail_after(15):
                event = await store.save(Event("alice", "t"))
            assert await store.head("alice") == event.id


async def test_a_host_that_cannot_be_one(prefix: str) -> None:
    """A host name that cannot be encoded is an address that cannot be reached, not a mistake in the library."""
    async with aclosing(RedisStore(f"redis://{'x' * 80}.example:6379", prefix=prefix, timeout=0.5)) as store:
        with pytest.raises(PushRejectedError, match="cannot connect"):
            await store.save(Event("alice", "t"))


async def test_masters_are_looked_up_in_the_background(prefix: str) -> None:
    """What looks for the masters in the background ends when it has found them, and may start again."""
    with single("--cluster-enabled", "yes") as server:
        await one_node(server, {})
        async with aclosing(RedisStore(f"redis+cluster://127.0.0.1:{server.port}", prefix=prefix)) as store:
            client = store._client
            client._look_later()
            client._look_later()
            await until(lambda: not client._looking, 10)
            assert client.is_located
            assert await store.head("alice") == "0"


def test_options_that_the_driver_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever error the driver has for the value of an option, the message does not show it: it may be a secret."""

    def refuse(url: str) -> None:
        raise RedisError(f"cannot use {url}")

    monkeypatch.setattr(_endpoint.ConnectionPool, "from_url", refuse)
    with pytest.raises(UsageError, match="does not accept") as caught:
        RedisStore("redis://localhost?client_name=s3cret")
    assert "s3cret" not in str(caught.value)
