"""The pub/sub connection: killed, silent, unsubscribed or slow, it costs a moment and no event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import anyio
import pytest

from notify import Event, Notifier, RoutingInfo
from notify.testing import FaultProxy, Faults
from notify_redis import RedisRouter, RedisStore, RedisStreamStore, _listen
from notify_redis._record import encode
from tests.notify_redis.traffic import traffic
from tests.parts import until
from tests.servers.redis import Server, plain_info

pytestmark = pytest.mark.anyio

PROMPT = 10.0
"""Seconds, on any machine, for an event that is announced; an audit would find it within half a minute."""


def channels(server: Server, prefix: str) -> int:
    return len(server.ask("PUBSUB", "CHANNELS", f"{prefix}:*"))


def listen_through(store: RedisStreamStore, proxy: FaultProxy) -> None:
    """Route the pub/sub connection of a store, and only that one, through a proxy."""
    node = store._client.node_of(0)
    node.connect = store._client.endpoint.at(("127.0.0.1", proxy.port)).connect


async def test_a_connection_that_is_killed(server: Server, prefix: str) -> None:
    """What is published while the pub/sub connection is killed and made again is seen all the same."""
    other = RedisStreamStore(server.url, prefix=prefix)
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store, aclosing(other):
        async with traffic(store, other) as load:
            for _ in range(5):
                await until(lambda: other.is_receiving)
                before, connections = load.stored, other._subscriptions.connections
                server.ask("CLIENT", "KILL", "TYPE", "pubsub")
                await until(partial(lambda n: other._subscriptions.connections > n, connections))
                await until(lambda before=before: load.stored > before + 20)
            await load.settle(5)
            load.history.assert_ok()
            assert not load.gaps


async def test_delays_start_anew_after_a_connection_that_lasted(
    server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The delay before reconnecting grows with each failure, but not after a connection that had lasted."""
    made: list[Iterator[float]] = []

    def delays(make: Callable[[], Iterator[float]] = _listen._delays) -> Iterator[float]:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(_listen, "_delays", delays)
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store, store.subscribe("alice"):
        await until(lambda: store.is_receiving)
        for steady_after, anew in ((3600.0, 0), (0.0, 1)):
            monkeypatch.setattr(_listen, "STEADY_AFTER", steady_after)
            for _ in range(3):
                before, connections = len(made), store._subscriptions.connections
                server.ask("CLIENT", "KILL", "TYPE", "pubsub")
                await until(partial(lambda n: store._subscriptions.connections > n, connections))
                await until(lambda: store.is_receiving)
                assert len(made) == before + anew


async def test_killed_and_published_at_once(server: Server, prefix: str) -> None:
    """Events that follow the kill in the same breath are not lost, though the last one is the end of the log."""
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store, store.subscribe("alice") as stream:
        other = RedisStore(server.url, prefix=prefix)
        async with aclosing(other):
            await other.save(Event("alice", "t", 0))
            assert (await stream.next(5)).payload == 0
            server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await other.save_many([Event("alice", "t", number) for number in range(1, 4)])
            assert [(await stream.next(5)).payload for _ in range(3)] == [1, 2, 3]


@pytest.mark.slow
async def test_a_connection_that_goes_silent(server: Server, prefix: str) -> None:
    """A half-open pub/sub connection is detected by missing probes, and replaced."""
    other = RedisStreamStore(server.url, prefix=prefix, probe_interval=0.5)
    async with FaultProxy("127.0.0.1", server.port) as proxy, aclosing(other):
        async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
            await other.head("alice")
            listen_through(other, proxy)
            async with other.subscribe("alice") as stream:
                await until(lambda: other.is_receiving)
                proxy.down = Faults(blackhole=True)
                event = await store.save(Event("alice", "t"))
                with pytest.raises(TimeoutError):
                    await stream.next(0.2)
                with suppress(TimeoutError):
                    await stream.next(3.0)
                assert stream.last_id == event.id  # found by the auditor, while nothing is received
                assert not other.is_receiving
                proxy.heal()
                await proxy.reset()
                await until(lambda: other.is_receiving)
                event = await store.save(Event("alice", "t"))
                assert await stream.next(PROMPT) == event


async def test_a_server_without_pubsub_for_a_while(server: Server, prefix: str) -> None:
    """While the pub/sub connection cannot be made, streams open, replay, and find what is new within seconds."""
    store = RedisStreamStore(server.url, prefix=prefix)
    async with FaultProxy("127.0.0.1", server.port) as proxy, aclosing(store):
        first = await store.save(Event("alice", "t"))
        listen_through(store, proxy)
        await proxy.refuse()
        async with store.subscribe("alice", "0") as stream:
            assert await stream.next(5) == first
            event = await store.save(Event("alice", "t"))
            assert await stream.next(5) == event
            assert not store.is_receiving
            proxy.heal()
            await until(lambda: store.is_receiving)


async def test_users_are_subscribed_while_they_are_here(server: Server, prefix: str) -> None:
    """A process is subscribed to exactly the users with open streams in it, over one connection for all."""
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store:
        before = int(plain_info(server, "clients")["connected_clients"])
        streams = [store.subscribe(f"user{number}") for number in range(1000)]
        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(stream.__aenter__)
        assert channels(server, prefix) == 1002  # and the probe's, and that of broadcasts
        assert int(plain_info(server, "clients")["connected_clients"]) - before <= 2
        for stream in streams[:900]:
            await stream.aclose()
        await until(lambda: channels(server, prefix) == 102)
        again = store.subscribe("user7")
        async with again:
            event = await store.save(Event("user7", "t"))
            assert await again.next(5) == event
        for stream in streams[900:]:
            await stream.aclose()
        await until(lambda: channels(server, prefix) == 2)


async def test_ten_thousand_users(server: Server, prefix: str) -> None:
    """A process with ten thousand users who all get an event has three connections."""
    users = [f"user{number}" for number in range(10_000)]
    before = int(plain_info(server, "clients")["connected_clients"])
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store:
        streams = [store.subscribe(user) for user in users]
        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(stream.__aenter__)
        outcomes = await store.save_many([Event(user, "t") for user in users])
        for stream, outcome in zip(streams, outcomes, strict=True):
            assert await stream.next(10) == outcome
        assert int(plain_info(server, "clients")["connected_clients"]) - before == 3
        for stream in streams:
            await stream.aclose()


async def test_users_who_come_and_go_miss_nothing(server: Server, prefix: str) -> None:
    """Streams that close while others of the same user open do not leave them unsubscribed."""
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store:
        other = RedisStore(server.url, prefix=prefix)
        async with aclosing(other):
            for number in range(100):
                async with store.subscribe("alice"):
                    pass
                if number % 2:
                    await anyio.sleep(0.0005 * (number % 7))
                async with store.subscribe("alice") as stream:
                    event = await other.save(Event("alice", "t", number))
                    assert await stream.next(PROMPT) == event


async def test_large_events_are_fetched(server: Server, prefix: str) -> None:
    """Events that are too large to be announced whole arrive as promptly, in their order among the small ones."""
    other = RedisStreamStore(server.url, prefix=prefix)
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store, aclosing(other):
        async with other.subscribe("alice") as stream:
            for size in (10, 5000, 10, 60_000, 5000, 10):
                event = await store.save(Event("alice", "t", "x" * size))
                assert await stream.next(PROMPT) == event


async def test_a_push_is_heard_without_being_read(server: Server, prefix: str) -> None:
    """A live event costs the readers no query: it travels with its announcement."""
    other = RedisStreamStore(server.url, prefix=prefix)
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store, aclosing(other):
        async with other.subscribe("alice") as stream:
            await store.save(Event("alice", "t", "first"))
            await stream.next(5)
            before = reads(server)
            for number in range(20):
                event = await store.save(Event("alice", "t", number))
                assert await stream.next(5) == event
            assert reads(server) == before


def reads(server: Server) -> str:
    found = plain_info(server, "commandstats").get("cmdstat_xread", "calls=0")
    return found.partition(",")[0]


async def test_a_message_of_another_program_does_no_harm(server: Server, prefix: str) -> None:
    """A message of another program on a user's channel is not yielded, and the next event arrives."""
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store, store.subscribe("alice") as stream:
        channel = store._names.stream("alice")
        forged = Event("bob", "t", "forged").stored("99-0", "0")
        garbage: list[Any] = [b"", b"x", b"1-1", b"1-1 0 garbage", b"1-1 0 " + encode(forged), b"\xff \xff \xff"]
        for message in garbage:
            server.ask("PUBLISH", channel, message)
        event = await store.save(Event("alice", "t"))
        assert await stream.next(5) == event


async def test_a_router_connects_again(server: Server, prefix: str) -> None:
    """After its connection was killed a router receives again, and streams find in the log what it missed."""
    routers = [RedisRouter(server.url, prefix=prefix) for _ in range(2)]
    stores = [RedisStore(server.url, prefix=prefix) for _ in range(2)]
    options = {"poll_interval": 3600.0}
    async with routers[0], routers[1], stores[0], stores[1]:
        async with (
            Notifier(stores[0], router=routers[0], instance_id="a", **options) as here,
            Notifier(stores[1], router=routers[1], instance_id="b", **options) as there,
            there.subscribe("alice") as stream,
        ):
            for number in range(3):
                server.ask("CLIENT", "KILL", "TYPE", "pubsub")
                await anyio.sleep(0.01)
                missed = await here.push("alice", "t", number)
                await until(lambda: channels(server, prefix) >= 3)
                seen = []
                while missed not in seen:
                    await here.push("alice", "t", "after")
                    with suppress(TimeoutError):
                        seen.append(await stream.next(0.2))
            await routers[0].route(Event("alice", "bye"), RoutingInfo("b"))
            while (await stream.next(5)).type != "bye":
                pass
