"""What is carried and not stored: best effort, in order, bounded, and never waiting."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any, Literal, TypeAlias

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from notify import Event, Notifier, Stream
from notify_redis import RedisStreamStore, _ephemeral
from notify_redis._listen import Subscriptions
from notify_redis._names import TAGS, partition_of, slot_of
from tests.notify_redis.test_setups import begin_to_move, move_slot
from tests.parts import until, untraced_environment
from tests.servers.redis import Server, cluster

pytestmark = pytest.mark.anyio

Wake: TypeAlias = Literal["pubsub", "xread"]

by_wake = pytest.mark.parametrize("wake", ["pubsub", "xread"])


def make(url: str, prefix: str, wake: Wake, **options: Any) -> RedisStreamStore:
    return RedisStreamStore(url, prefix=prefix, wake=wake, **options)


def broadcast(type_: str, payload: object = None) -> Event:
    return Event("-", type_, payload).addressed_to("")


@asynccontextmanager
async def opened(store: RedisStreamStore, *users: str) -> AsyncIterator[list[Stream]]:
    """Streams that are open, of a store that receives."""
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(store.subscribe(user)) for user in users]
        await until(lambda: store.is_receiving)
        if isinstance(store._subscriptions, Subscriptions):
            await until(lambda: store._subscriptions.receives(store._wakes.broadcasts))
        yield streams


CHILD = """
import asyncio, sys
from notify import Notifier
from notify_redis import RedisStreamStore

async def main(url, prefix, wake):
    async with RedisStreamStore(url, prefix=prefix, wake=wake) as store, Notifier(store) as notifier:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, number = line.split()
            if what == "all":
                await notifier.broadcast("all", int(number))
            elif what == "user":
                await notifier.push("alice", "typing", int(number), ephemeral=True)

asyncio.run(main(*sys.argv[1:]))
"""


@by_wake
async def test_another_process(victim: Server, prefix: str, wake: Wake) -> None:
    """Ephemeral events and broadcasts of a real process arrive in order, also after the server was killed."""
    command = [sys.executable, "-c", CHILD, victim.url, prefix, wake]
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": untraced_environment()}
    async with aclosing(make(victim.url, prefix, wake, probe_interval=0.5)) as store:
        async with opened(store, "alice", "bob") as (alice, bob):
            with subprocess.Popen(command, text=True, **options) as child:  # noqa: ASYNC220 - it waits for nothing
                assert child.stdin is not None
                assert child.stdout is not None
                stdin = child.stdin

                def tell(what: str, *numbers: int) -> None:
                    stdin.write("".join(f"{what} {number}\n" for number in numbers))
                    stdin.flush()

                assert await anyio.to_thread.run_sync(child.stdout.readline) == "ready\n"
                for turn in range(2):
                    tell("user", *range(5))
                    assert [(await alice.next(10)).payload for _ in range(5)] == [*range(5)]
                    tell("all", 7)
                    assert [(await each.next(10)).payload for each in (alice, bob)] == [7, 7]
                    if not turn:
                        await anyio.to_thread.run_sync(victim.kill)
                        await anyio.to_thread.run_sync(victim.start)
                        await until(lambda: store.is_receiving, 10)
                        while True:  # the first ones find the old connection dead: best effort
                            tell("user", 99)
                            try:
                                assert (await alice.next(0.5)).payload == 99
                                break
                            except TimeoutError:
                                pass
                        tell("all", 100)
                        while (await alice.next(10)).payload != 100:
                            pass
                        assert (await bob.next(10)).payload == 100
                stdin.close()
                child.wait(10)


@by_wake
async def test_a_burst_keeps_its_order(server: Server, prefix: str, wake: Wake) -> None:
    """Five hundred at once arrive in the order of the calls, and a broadcast is one message, whoever is here."""
    users = [f"user{number}" for number in range(100)]
    async with aclosing(make(server.url, prefix, wake)) as here, aclosing(make(server.url, prefix, wake)) as there:
        async with opened(there, "alice", *users) as (alice, *others):
            await here.head("alice")
            for number in range(500):
                here.send_ephemeral(Event("alice", "t", number))
                if number % 50 == 0:
                    await anyio.lowlevel.checkpoint()
            received = []
            async with anyio.create_task_group() as tasks:

                async def read() -> None:
                    while len(received) < 436:  # what a reader that is away may lose is another test's subject
                        received.append((await alice.next(5)).payload)

                tasks.start_soon(read)
            assert received == sorted(received)
            before = called(server, "evalsha")
            here.send_ephemeral(broadcast("all"))
            for stream in others:
                assert (await stream.next(5)).type == "all"
            assert called(server, "evalsha") - before == 1


def called(server: Server, command: str) -> int:
    calls = server.client().info("commandstats").get(f"cmdstat_{command}", {"calls": 0})
    return int(calls["calls"])


@by_wake
async def test_an_outage_is_logged_once(
    victim: Server, prefix: str, wake: Wake, caplog: pytest.LogCaptureFixture
) -> None:
    """While the server is away nothing is raised, nothing waits, and two lines tell of it."""
    async with aclosing(make(victim.url, prefix, wake)) as store:
        await store.head("alice")
        store.send_ephemeral(Event("alice", "t"))
        await until(lambda: called(victim, "evalsha") >= 1)
        await anyio.to_thread.run_sync(victim.kill)
        for number in range(20):
            store.send_ephemeral(Event("alice", "t", number))
            await anyio.sleep(0.01)
        assert store._ephemerals._bytes <= 20 * 1000
        await anyio.to_thread.run_sync(victim.start)

        def sent() -> bool:
            store.send_ephemeral(Event("alice", "t"))
            return any("sends ephemeral events and broadcasts again" in line for line in caplog.messages)

        await until(sent, 10)
        begun = [line for line in caplog.messages if "cannot send ephemeral events" in line]
        warned = [r for r in caplog.records if r.getMessage() in begun and r.levelno == logging.WARNING]
        assert len(warned) == 1


async def test_what_was_sent_before_closing(victim: Server, prefix: str) -> None:
    """A process that sends and closes at once has sent; if the server does not answer, closing does not wait long."""
    async with aclosing(make(victim.url, prefix, "pubsub")) as there, opened(there, "alice") as (alice,):
        for number in range(3):
            here = make(victim.url, prefix, "pubsub")
            here.send_ephemeral(Event("alice", "t", number))
            await here.aclose()
            assert (await alice.next(5)).payload == number
        here = make(victim.url, prefix, "pubsub")
        await here.head("alice")
        victim.freeze()
        here.send_ephemeral(Event("alice", "t"))
        with anyio.fail_after(2):
            await here.aclose()
        victim.thaw()


async def test_it_is_bounded(
    server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is sent faster than it can go out is lost beyond a bound, and logged once."""
    monkeypatch.setattr(_ephemeral, "MAX_WAITING", 100)
    async with aclosing(make(server.url, prefix, "pubsub")) as store:
        for number in range(150):
            store.send_ephemeral(Event("alice", "t", number))
        assert len(store._ephemerals._waiting) == 100
        assert ["too many are waiting" in line for line in caplog.messages].count(True) == 1
        await until(lambda: not store._ephemerals._waiting)
        monkeypatch.setattr(_ephemeral, "MAX_WAITING_BYTES", 5000)
        for _ in range(4):
            store.send_ephemeral(Event("alice", "t", "x" * 2000))
        assert len(store._ephemerals._waiting) == 2
        assert store._ephemerals._outage.is_failing


async def test_no_server_at_first(prefix: str, victim: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Where no master was ever found, events are lost, and the next ones are sent when there is one."""
    with cluster() as all_:
        url = all_.url
    async with aclosing(make(url, prefix, "pubsub")) as store:
        store.send_ephemeral(Event("alice", "t"))
        await until(lambda: store._ephemerals._outage.is_failing, 10)
        assert not store._ephemerals._waiting
        assert not store._ephemerals._bytes


async def test_scripts_that_are_flushed(server: Server, prefix: str) -> None:
    """A server that has forgotten the script is given it again; nothing is lost, and the order stays."""
    async with (
        aclosing(make(server.url, prefix, "pubsub")) as here,
        aclosing(make(server.url, prefix, "pubsub")) as far,
    ):
        async with opened(far, "alice") as (alice,):
            await here.head("alice")
            for turn in range(3):
                server.ask("SCRIPT", "FLUSH")
                for number in range(10):
                    here.send_ephemeral(Event("alice", "t", [turn, number]))
                    await anyio.lowlevel.checkpoint()
                assert [(await alice.next(5)).payload for _ in range(10)] == [[turn, number] for number in range(10)]


async def test_a_refusal_is_logged_once(victim: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """A login that may not publish, or run scripts, loses what it sends; a warning names the reason once."""
    caplog.set_level(logging.INFO, "notify.redis")
    victim.ask("ACL", "SETUSER", "app", "on", ">secret", "~*", "resetchannels", "+@all")
    url = victim.url.replace("redis://", "redis://app:secret@")
    async with aclosing(make(url, prefix, "pubsub")) as store:
        await store.head("alice")
        for _ in range(3):
            store.send_ephemeral(Event("alice", "t"))
            await until(lambda: not store._ephemerals._busy and not store._ephemerals._waiting)
        lines = [line for line in caplog.messages if "cannot send ephemeral events" in line]
        assert len(lines) == 1
        assert "&PREFIX:*" in lines[0]
        victim.ask("ACL", "SETUSER", "app", "-evalsha")
        store.send_ephemeral(Event("alice", "t"))
        await until(lambda: sum("cannot send ephemeral events" in line for line in caplog.messages) == 2)
        assert not store._ephemerals._waiting


@pytest.mark.slow
@by_wake
async def test_slots_that_move(prefix: str, wake: Wake) -> None:
    """While the slot of a user moves, and after it has, what is sent to the user arrives in order."""
    with cluster() as all_:
        slot = slot_of(TAGS[partition_of("alice")])
        async with aclosing(make(all_.url, prefix, wake, probe_interval=1.0)) as here:
            there = make(all_.url, prefix, wake, probe_interval=1.0)
            async with aclosing(there), opened(there, "alice") as (alice,):
                here.send_ephemeral(Event("alice", "t", 0))
                assert (await alice.next(5)).payload == 0
                await anyio.to_thread.run_sync(partial(move_slot, all_, slot))
                received: list[int] = []
                sent = 0
                with anyio.fail_after(40):
                    while len(received) < 20:  # until the reader has found the new master, they are lost
                        sent += 1
                        here.send_ephemeral(Event("alice", "t", sent))
                        try:
                            received.append((await alice.next(0.1)).payload)
                        except TimeoutError:
                            pass
                assert received == sorted(received)
                finish = await anyio.to_thread.run_sync(partial(begin_to_move, all_, slot_of(TAGS[0])))
                here.send_ephemeral(broadcast("all"))
                await anyio.to_thread.run_sync(finish)
                await until(lambda: not here._ephemerals._waiting and not here._ephemerals._busy, 20)


async def test_what_others_publish_is_not_delivered(server: Server, prefix: str) -> None:
    """A message with an id, with a user, or that is none, is logged and not yielded."""
    async with aclosing(make(server.url, prefix, "pubsub")) as store, opened(store, "alice") as (stream,):
        forged = [Event("bob", "t"), Event("alice", "t").stored("5-5", "0")]
        channel = store._names.channel("alice")
        for message in [b"~ ", b"~ {}", *(b"~ " + event.to_bytes() for event in forged)]:
            assert server.ask("PUBLISH", channel, message) == 1
        assert server.ask("PUBLISH", store._wakes.broadcasts, b"~ garbage") == 1
        event = await store.save(Event("alice", "t"))
        assert await stream.next(5) == event


async def test_worlds_do_not_mix(server: Server, prefix: str) -> None:
    """Another prefix, and another database, get neither ephemeral events nor broadcasts, in both ways."""
    for wake in ("pubsub", "xread"):
        places = [(server.url, prefix), (server.url, f"{prefix}x"), (f"{server.url}/1", prefix)]
        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(aclosing(make(url, name, wake))) for url, name in places]
            streams = [(await stack.enter_async_context(opened(store, "alice")))[0] for store in stores]
            for number, (store, stream) in enumerate(zip(stores, streams, strict=True)):
                store.send_ephemeral(Event("alice", "t", number))
                assert (await stream.next(5)).payload == number
                store.send_ephemeral(broadcast("all", number))
                assert (await stream.next(5)).payload == number
            for stream in streams:
                with pytest.raises(TimeoutError):
                    await stream.next(0.05)


async def test_only_processes_with_streams_are_told(server: Server, prefix: str) -> None:
    """By pub/sub, an event for a user goes to the processes that have streams of this user, and to no other."""
    async with (
        aclosing(make(server.url, prefix, "pubsub")) as here,
        aclosing(make(server.url, prefix, "pubsub")) as far,
    ):
        async with opened(here, "alice") as (alice,), opened(far, "bob"), Notifier(here) as notifier:
            told: list[bytes] = []
            inner = far._on_message
            far._subscriptions._on_message = lambda channel, message: (told.append(message), inner(channel, message))[1]
            await notifier.push("alice", "typing", ephemeral=True)
            here.send_ephemeral(Event("alice", "again"))
            assert [(await alice.next(5)).type for _ in range(2)] == ["typing", "again"]
            assert told == []
