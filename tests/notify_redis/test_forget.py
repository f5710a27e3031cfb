"""Erasing a user: no key of any type names the user afterwards, on one server and in a cluster; others keep theirs."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Literal

import anyio
import pytest

from notify import Event, Notifier, RoutingInfo
from notify_redis import RedisPresence, RedisStore, RedisStreamStore, _store
from tests.parts import until
from tests.servers.redis import Server, cluster, traces

pytestmark = pytest.mark.anyio

USER = "carol/ä:1"
ENCODED = "carol%2F%C3%A4%3A1"


def left(servers: list[Server], prefix: str) -> list[str]:
    """The keys in which the user is still named, as typed or as in a key."""
    spellings = (USER, ENCODED, repr(USER.encode())[2:-1])
    return [name for user in spellings for name in traces(servers, user, f"{prefix}:*")]


async def fill(store: RedisStreamStore, presence: RedisPresence) -> int:
    """Make every kind of key that has to do with the user; return how many events there are."""
    await presence.register(USER, RoutingInfo("here", {"user": "secret"}))
    await store.save_many([Event(USER, "t", number, key=f"k {number}") for number in range(20)])
    await store.trim(datetime.now(UTC) + timedelta(days=1))  # their keys outlive them
    await store.save_many([Event(USER, "t", number, key=f"n{number}", group="g") for number in range(3)])
    await store.save(Event(USER, "large", "x" * 10_000))
    store.send_ephemeral(Event(USER, "typing"))
    return 4


@pytest.mark.parametrize("wake", ["pubsub", "xread"])
@pytest.mark.parametrize("kind", ["single", "cluster"])
async def test_nothing_is_left(server: Server, prefix: str, kind: str, wake: Literal["pubsub", "xread"]) -> None:
    """Log, idempotency keys of trimmed events too, presence, index and wake streams name the user no longer."""
    if kind == "single":
        await erase(server.url, [server], prefix, wake)
        return
    with cluster() as all_:
        await erase(all_.url, all_.masters, prefix, wake)


async def erase(url: str, servers: list[Server], prefix: str, wake: Literal["pubsub", "xread"]) -> None:
    store = RedisStreamStore(url, prefix=prefix, wake=wake)
    reader = RedisStreamStore(url, prefix=prefix, wake="xread")
    presence = RedisPresence(url, prefix=prefix)
    async with aclosing(store), aclosing(reader), aclosing(presence), Notifier(store) as notifier:
        async with reader.subscribe("bob") as bob:
            await until(lambda: reader.is_receiving)
            count = await fill(store, presence)
            other = await store.save(Event("bob", "t", key="k"))
            assert await bob.next(5) == other
            assert len(left(servers, prefix)) >= 27
            assert await notifier.forget(USER) == count
            assert left(servers, prefix) == []
            await anyio.sleep(0.05)  # the command to the other processes is on its way
            assert left(servers, prefix) == []
            assert (await store.read("bob", "0", 10)).events == [other]
            assert await store.save(Event("bob", "again", key="k")) == other
            event = await store.save(Event("bob", "t"))
            assert await bob.next(5) == event
            assert not bob.gaps


async def test_what_others_wrote_is_not_touched(server: Server, prefix: str) -> None:
    """Keys of other programs, however similar their names are, stay."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        await store.save(Event("alice", "t", key="k"))
        stream = store._names.stream("alice").decode()
        foreign = [f"{stream}x", f"{stream}:k:other", f"{stream}:x", f"x{stream}", stream.replace("alice", "alic")]
        for name in foreign:
            server.ask("SET", name, "alice")
        await store.forget("alice")
        assert [server.ask("GET", name) for name in foreign] == [b"alice"] * len(foreign)
        keys = {key for key, _ in server.contents(f"*{prefix}*")}
        assert keys == {*foreign}


async def test_a_log_that_is_written_all_the_time(server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is an event in each millisecond, `forget` does not wait for ever."""
    monkeypatch.setattr(_store, "FORGET_ATTEMPTS", 2)
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        stop = anyio.Event()

        async def write() -> None:
            while not stop.is_set():
                await store.save_many([Event("alice", "t")] * 20)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(write)
            erased = [await store.forget("alice") for _ in range(20)]
            stop.set()
        assert sum(erased) > 0
        await store.forget("alice")
        assert await store.head("alice") == "0"


async def test_keys_that_expired_leave_the_index(server: Server, prefix: str) -> None:
    """The index of idempotency keys holds those that live, and expires with the last of them."""
    async with aclosing(RedisStore(server.url, prefix=prefix, key_window=0.3)) as store:
        await store.save(Event("alice", "t", key="first"))
        index = store._names.idempotency_index("alice")
        assert server.ask("ZRANGE", index, 0, -1) == [b"first"]
        await anyio.sleep(0.2)
        await store.save(Event("alice", "t", key="second"))
        await until(lambda: not server.ask("EXISTS", store._names.idempotency("alice", "first")))
        await store.save(Event("alice", "t", key="third"))
        assert server.ask("ZRANGE", index, 0, -1)[-2:] == [b"second", b"third"]
        assert b"first" not in server.ask("ZRANGE", index, 0, -1)
        await until(lambda: not server.ask("EXISTS", index))


async def test_wake_streams_that_take_several_calls(
    server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All entries of a long wake stream are looked at; those of others stay."""
    monkeypatch.setattr(_store, "WAKES_PER_CALL", 2)
    async with aclosing(RedisStreamStore(server.url, prefix=prefix, wake="xread")) as store:
        for _ in range(4):
            await store.save(Event("alice", "t"))
            await store.save(Event("bob", "t"))
        stream, _ = store._wakes.keys(0)
        assert server.ask("XLEN", stream) == 8
        assert await store.forget("alice") == 4
        assert server.ask("XLEN", stream) == 4
