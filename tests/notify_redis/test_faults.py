"""Servers that die, hang, refuse and lose replies: what was acknowledged is there once, in order, and is seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from time import monotonic

import anyio
import anyio.to_thread
import pytest

from notify import (
    BackendError,
    BackendUnavailableError,
    ClosedError,
    Event,
    Notifier,
    PushRejectedError,
    PushUncertainError,
    ids,
)
from notify.testing import FaultProxy, Faults
from notify_redis import RedisRouter, RedisStore, RedisStreamStore
from tests.notify_redis.test_logs import gap_of
from tests.notify_redis.traffic import traffic
from tests.parts import until
from tests.servers.redis import DURABLE, VOLATILE, Server, follows, plain_info, single, wait_for

pytestmark = pytest.mark.anyio

SOON = 3.0
"""Seconds, on any machine, for a call that waits for no server; one that waits takes the store's timeout, 4 seconds."""


@asynccontextmanager
async def proxied(server: Server) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        yield proxy


def url(proxy: FaultProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}"


async def in_thread(function: object) -> None:
    await anyio.to_thread.run_sync(function)  # type: ignore[arg-type]


async def test_a_server_that_is_killed_and_restarted(victim: Server, prefix: str) -> None:
    """After SIGKILL and a restart from the append-only file, every push has its outcome, and nothing is missed."""
    async with aclosing(RedisStreamStore(victim.url, prefix=prefix)) as store, traffic(store) as load:
        victim.kill()
        await anyio.sleep(0.5)
        await in_thread(victim.start)
        before = load.stored
        await until(lambda: load.stored > before + 50, 10)
        await load.settle(10)
        load.history.assert_ok()
        assert not load.gaps
        assert set(load.outcomes) <= {"ok", "PushUncertainError", "PushRejectedError"}


@pytest.mark.slow
async def test_a_server_that_hangs(victim: Server, prefix: str) -> None:
    """While the server is stopped for 15 s pushes end by their deadline; then nothing is there twice or missing."""
    async with aclosing(RedisStreamStore(victim.url, prefix=prefix, timeout=3.0)) as store, traffic(store) as load:
        began = monotonic()
        victim.freeze()
        try:
            await until(lambda: {"PushUncertainError", "PushRejectedError"} <= set(load.outcomes), 10)
            await until(lambda: not store.is_receiving, 15)
            await anyio.sleep(max(0.0, began + 15.0 - monotonic()))
        finally:
            victim.thaw()
        before = load.stored
        await until(lambda: load.stored > before + 50, 10)
        await load.settle(10)
        load.history.assert_ok()
        assert not load.gaps


async def test_a_hung_server_is_tried_twice_and_stores_once(victim: Server, prefix: str) -> None:
    """A push whose first attempt waits in the socket of a stopped server while a second one is made is stored once."""
    async with aclosing(RedisStore(victim.url, prefix=prefix, timeout=8.0)) as store:
        await store.save(Event("alice", "first"))
        victim.freeze()
        events: list[Event] = []

        async def save() -> None:
            events.append(await store.save(Event("alice", "second")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(save)
            await anyio.sleep(2.6)  # longer than one attempt: the connection has been given up, and its bytes wait
            victim.thaw()
        page = await store.read("alice", "0", 10)
        assert [event.type for event in page.events] == ["first", "second"]
        assert [*page.events][1:] == events


@pytest.mark.parametrize("lost", [1, 3])
async def test_replies_that_are_lost(server: Server, prefix: str, lost: int) -> None:
    """A push whose reply is lost, once or again and again, is repeated and stored once."""
    async with proxied(server) as proxy, aclosing(RedisStore(url(proxy), prefix=prefix)) as store:
        await store.save(Event("alice", "first"))
        proxy.drop_reply(request=b"second", times=lost)
        event = await store.save(Event("alice", "second"))
        assert proxy.lost_replies == lost
        assert [*(await store.read("alice", "0", 10)).events][1:] == [event]


async def test_the_reply_decides_where_an_event_stands(prefix: str) -> None:
    """An event that was announced, then forgotten by a server without persistence, has the place of its repetition."""
    with single(*VOLATILE) as server:
        async with proxied(server) as proxy, aclosing(RedisStreamStore(url(proxy), prefix=prefix)) as store:
            async with Notifier(store) as notifier, notifier.subscribe("alice") as stream:
                await until(lambda: store.is_receiving, 5)
                proxy.drop_reply(request=b"EVALSHA", times=1000)  # until the server has forgotten what it said
                async with anyio.create_task_group() as tasks:
                    pushed: list[Event | None] = []

                    async def push() -> None:
                        pushed.append(await notifier.push("alice", "t"))

                    tasks.start_soon(push)
                    await stream.next(5)
                    await in_thread(server.kill)
                    await in_thread(server.start)
                    proxy.heal()
                assert pushed == [*(await store.read("alice", "0", 10)).events]


async def test_replies_that_vanish(server: Server, prefix: str) -> None:
    """A push whose replies vanish ends uncertain by its deadline, and is stored at most once."""
    async with proxied(server) as proxy, aclosing(RedisStore(url(proxy), prefix=prefix, timeout=2.5)) as store:
        await store.save(Event("alice", "first"))
        proxy.down = Faults(blackhole=True)
        with anyio.fail_after(20), pytest.raises(PushUncertainError) as caught:  # no reply would ever end it
            await store.save(Event("alice", "second"))
        assert proxy.swallowed > 0
        assert caught.value.backend == "RedisStore"
        proxy.heal()
        await proxy.reset()
        events: list[Event] = []

        async def is_back() -> bool:
            """Calls fail at once until a connection has been made, which may take two seconds: see the outages."""
            try:
                events[:] = (await store.read("alice", "0", 10)).events
            except BackendUnavailableError:
                return False
            return True

        await until(is_back)
        assert [event.type for event in events] in (["first"], ["first", "second"])
        assert (await store.save(Event("alice", "third"))).prev == events[-1].id


async def test_replies_that_are_slow_and_connections_that_break(server: Server, prefix: str) -> None:
    """Through a network that delays, slices and resets, every push is stored once and seen in order."""
    async with proxied(server) as proxy:
        proxy.up = proxy.down = Faults(delay=0.002, jitter=0.01, slice=700)
        async with aclosing(RedisStreamStore(url(proxy), prefix=prefix)) as store, traffic(store) as load:
            for number in range(8):
                before = load.stored
                await until(lambda before=before: load.stored > before + 20, 10)
                if number % 2:
                    proxy.drop_reply(request=b"EVALSHA")
                else:
                    await proxy.reset()
            await load.settle(10)
            load.history.assert_ok()
            assert set(load.outcomes) == {"ok"}


async def test_a_server_that_is_not_there(prefix: str) -> None:
    """Pushes are rejected and reads fail, each in time, when the server refuses connections."""
    with single() as server:
        address = server.url
    async with aclosing(RedisStore(address, prefix=prefix)) as store:
        with pytest.raises(PushRejectedError) as rejected:
            await store.save(Event("alice", "t"))
        with pytest.raises(BackendUnavailableError) as unavailable:
            await store.read("alice", "0", 10)
    for caught in (rejected, unavailable):
        assert caught.value.backend == "RedisStore"
        assert caught.value.__cause__ is not None
        assert "127.0.0.1" in str(caught.value)


async def test_passwords_stay_out_of_messages(prefix: str) -> None:
    """No error shows the credentials that a URL holds."""
    with single() as server:
        address = f"redis://me:hunter2@127.0.0.1:{server.port}"
    async with aclosing(RedisStore(address, prefix=prefix, timeout=0.3)) as store:
        with pytest.raises(PushRejectedError) as caught:
            await store.save(Event("alice", "t"))
    assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__!r}{store._client.endpoint!r}"


async def test_a_server_without_memory_left(victim: Server, prefix: str) -> None:
    """Out of memory with `noeviction`, pushes are rejected at once, reads go on, and both recover."""
    async with aclosing(RedisStore(victim.url, prefix=prefix)) as store:
        event = await store.save(Event("alice", "t"))
        victim.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(PushRejectedError, match="OOM"):
            await store.save(Event("alice", "t"))
        assert [*(await store.read("alice", "0", 10)).events] == [event]
        victim.ask("CONFIG", "SET", "maxmemory", "0")
        assert (await store.save(Event("alice", "t"))).prev == event.id


async def test_a_server_that_cannot_write_its_disk(victim: Server, prefix: str) -> None:
    """While the server refuses writes because it cannot persist them, pushes are rejected and reads go on."""
    async with aclosing(RedisStore(victim.url, prefix=prefix)) as store:
        event = await store.save(Event("alice", "t"))
        victim.ask("CONFIG", "SET", "save", "3600 1")
        (victim.directory / "dump.rdb").mkdir()
        victim.ask("BGSAVE")
        wait_for(lambda: plain_info(victim, "persistence")["rdb_last_bgsave_status"] == "err", "a failed save")
        with pytest.raises(PushRejectedError, match="MISCONF"):
            await store.save(Event("alice", "t"))
        assert [*(await store.read("alice", "0", 10)).events] == [event]
        (victim.directory / "dump.rdb").rmdir()
        victim.ask("BGSAVE")
        wait_for(lambda: plain_info(victim, "persistence")["rdb_last_bgsave_status"] == "ok", "a save")
        assert (await store.save(Event("alice", "t"))).prev == event.id


async def test_a_server_that_becomes_a_replica(victim: Server, server: Server, prefix: str) -> None:
    """A read-only server rejects pushes by their deadline; once it is a master again they go on."""
    async with aclosing(RedisStore(victim.url, prefix=prefix, timeout=1.5)) as store:
        await store.save(Event("alice", "t"))
        victim.ask("REPLICAOF", "127.0.0.1", str(server.port))
        with pytest.raises(PushRejectedError, match=r"(?i)read.?only"):
            await store.save(Event("alice", "t"))
        victim.ask("REPLICAOF", "NO", "ONE")
        await store.save(Event("alice", "t"))


async def test_too_few_replicas(server: Server, prefix: str) -> None:
    """With `min_replicas` and none there, a push is uncertain although it is stored."""
    async with aclosing(RedisStore(server.url, prefix=prefix, min_replicas=1)) as store:
        with pytest.raises(PushUncertainError, match="replicas"):
            await store.save(Event("alice", "t"))
        assert len((await store.read("alice", "0", 10)).events) == 1


@pytest.mark.slow
async def test_replicas_that_do_not_confirm(victim: Server, prefix: str) -> None:
    """While the replica hangs pushes are uncertain, though stored; when it goes on they are confirmed again."""
    victim.ask("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    with single(*DURABLE, "--replicaof", "127.0.0.1", str(victim.port)) as replica:
        wait_for(lambda: follows(replica, victim), "the replica follows")
        async with aclosing(RedisStore(victim.url, prefix=prefix, min_replicas=1)) as store:
            first = await store.save(Event("alice", "t"))
            replica.freeze()
            try:
                with pytest.raises(PushUncertainError, match="fewer than 1 replicas"):
                    await store.save(Event("alice", "t"))
            finally:
                replica.thaw()
            _, second = [*(await store.read("alice", "0", 10)).events]
            third = await store.save(Event("alice", "t"))
            assert (second.prev, third.prev) == (first.id, second.id)


@pytest.mark.parametrize("policy", ["volatile-lru", "allkeys-lru"])
async def test_a_server_that_evicts(victim: Server, prefix: str, policy: str) -> None:
    """Where the server evicts a log, live and resuming streams get a gap `expired` and continue."""
    async with aclosing(RedisStreamStore(victim.url, prefix=prefix)) as store, Notifier(store) as notifier:
        event = await store.save(Event("alice", "t"))
        async with notifier.subscribe("alice", "0", signals=True) as stream:
            assert await stream.next(5) == event
            assert (await stream.next(5)).type == "notify.sync"
            key = store._names.stream("alice")
            victim.ask("CONFIG", "SET", "maxmemory-policy", policy)
            used = int(plain_info(victim, "memory")["used_memory"])
            victim.ask("CONFIG", "SET", "maxmemory", used + 2_000_000)
            for number in range(2000):
                victim.ask("SET", f"filler{number}", "x" * 100_000, "EX", 1000)
                if not victim.ask("EXISTS", key):
                    break
            else:
                raise AssertionError("the log was not evicted")
            victim.ask("CONFIG", "SET", "maxmemory", 0)
            assert await gap_of(store, "alice", event.id) == "expired"
            after = await store.save(Event("alice", "t"))
            assert after.prev == ids.ZERO
            gap = await stream.next(5)
            assert (gap.type, gap.payload["reason"]) == ("notify.gap", "expired")
            assert await stream.next(5) == after


async def test_scripts_that_are_flushed_in_the_midst_of_a_batch(server: Server, prefix: str) -> None:
    """A batch of which some writes find the scripts and others do not is stored whole, each event once, in order."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        before = refused(server)
        number = 0
        while refused(server) == before:
            events = [Event(f"user{number % 3}", "t", number + n) for n in range(1000)]
            number += len(events)
            outcomes: list[object] = []

            async def save(events: list[Event] = events, outcomes: list[object] = outcomes) -> None:
                outcomes += await store.save_many(events)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(save)
                await anyio.sleep(0.001)
                await in_thread(lambda: server.ask("SCRIPT", "FLUSH"))
            assert all(isinstance(outcome, Event) for outcome in outcomes)
        for user in range(3):
            found = [*(await store.read(f"user{user}", "0", 100_000)).events]
            payloads = [event.payload for event in found]
            assert len(payloads) == len(set(payloads))
            assert all(later.prev == event.id for event, later in pairwise(found))


def refused(server: Server) -> str:
    """How often the server did not know a script."""
    return plain_info(server, "errorstats").get("errorstat_NOSCRIPT", "")


async def test_scripts_that_are_flushed(server: Server, prefix: str) -> None:
    """Flushing the script cache between and during batches stores each event once, and reads go on."""
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store, traffic(store) as load:
        for _ in range(20):
            before = load.stored
            server.ask("SCRIPT", "FLUSH")
            await until(lambda before=before: load.stored > before + 5)
        await load.settle(5)
        load.history.assert_ok()
        assert set(load.outcomes) == {"ok"}


async def test_cancelling_costs_no_connection(server: Server, prefix: str) -> None:
    """Ten thousand pushes and reads that are cancelled at any time leave the connections as they were.

    The timeout is so long that a busy machine is never taken for a server that does not answer.
    """
    async with aclosing(RedisStore(server.url, prefix=prefix, timeout=60.0)) as store:
        await store.save(Event("alice", "t"))
        await store.head("alice")
        before = int(plain_info(server, "stats")["total_connections_received"])

        async def hasty(number: int) -> None:
            with anyio.move_on_after(number % 50 * 0.0001):
                if number % 3:
                    await store.save(Event(f"user{number % 100}", "t", number))
                else:
                    await store.read("alice", "0", 10)

        for _ in range(10):
            async with anyio.create_task_group() as tasks:
                for number in range(1000):
                    tasks.start_soon(hasty, number)
        await store.save(Event("alice", "t"))
        after = int(plain_info(server, "stats")["total_connections_received"])
        assert after - before <= 2  # those that asked for these figures


async def test_closing_while_the_server_hangs(victim: Server, prefix: str) -> None:
    """Stream stores and their streams close at once though the server does not answer."""
    store = RedisStreamStore(victim.url, prefix=prefix)
    await store.save(Event("alice", "t"))
    ended: list[float] = []

    async def read() -> None:
        async for _ in store.subscribe("alice"):
            pass
        ended.append(monotonic())

    async def save() -> None:
        with pytest.raises(PushUncertainError):
            await store.save(Event("alice", "t"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await until(lambda: store.is_receiving)
        victim.freeze()
        tasks.start_soon(save)
        await anyio.sleep(0.1)
        began = monotonic()
        await store.aclose()
        closed = monotonic()
    assert closed - began < SOON
    assert ended[0] - began < SOON


async def test_closing_before_anything_was_sent(prefix: str) -> None:
    """A push that still waits for its connection when the store closes is rejected: nothing was sent."""
    with single() as server:
        store = RedisStore(server.url, prefix=prefix)
        async with anyio.create_task_group() as tasks:
            server.freeze()

            async def save() -> None:
                with pytest.raises(PushRejectedError, match="closed"):
                    await store.save(Event("alice", "t"))

            tasks.start_soon(save)
            await anyio.sleep(0.1)
            began = monotonic()
            await store.aclose()
        assert monotonic() - began < SOON
        with pytest.raises(ClosedError):
            store.save_soon(Event("alice", "t"), lambda outcome: None)


async def test_waiting_while_the_server_hangs(victim: Server, prefix: str) -> None:
    """`next` ends by its deadline, and a stream at once when it is closed, though the server does not answer."""
    async with aclosing(RedisStreamStore(victim.url, prefix=prefix)) as store, store.subscribe("alice") as stream:
        victim.freeze()
        for _ in range(3):
            began = monotonic()
            with pytest.raises(TimeoutError):
                await stream.next(0.05)
            assert monotonic() - began < SOON
        began = monotonic()
        await stream.aclose()
        assert monotonic() - began < SOON
        victim.thaw()


async def test_a_notifiers_pushes_while_the_server_is_dead(victim: Server, prefix: str) -> None:
    """Each of many pushes to a dead server ends by its deadline, rejected or uncertain; pushing goes on by itself."""
    async with aclosing(RedisStreamStore(victim.url, prefix=prefix, timeout=1.5)) as store, Notifier(store) as notifier:
        await notifier.push("alice", "t")
        victim.kill()
        outcomes: list[str] = []
        took: list[float] = []

        async def push(number: int) -> None:
            began = monotonic()
            try:
                await notifier.push(f"user{number}", "t")
            except (PushRejectedError, PushUncertainError) as error:
                outcomes.append(type(error).__name__)
            took.append(monotonic() - began)

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(push, number)
        assert len(outcomes) == 200
        assert max(took) < 10  # one after the other, two hundred deadlines would take five minutes
        assert notifier.statistics().pending_pushes == 0
        await in_thread(victim.start)

        async def stored() -> bool:
            try:
                return bool(await notifier.push("alice", "t"))
            except PushRejectedError:
                return False

        await until(stored, 10)


async def test_a_route_that_fails(prefix: str) -> None:
    """A router whose server is gone raises the library's error."""
    with single(*DURABLE) as server:
        address = server.url
    async with aclosing(RedisRouter(address, prefix=prefix, timeout=0.3)) as router:
        with pytest.raises(BackendUnavailableError):
            await router.route(Event("alice", "t"), None)


async def test_a_server_that_stays_away_delays_no_caller(prefix: str) -> None:
    """Once a server was unreachable for a second, pushes are rejected at once; they go on when it is back."""
    with single() as server:
        async with aclosing(RedisStore(server.url, prefix=prefix, timeout=3.0)) as store:
            await store.save(Event("alice", "t"))
            server.kill()
            with pytest.raises(BackendError):  # uncertain, if it was sent before the end was noticed
                await store.save(Event("alice", "t"))
            began = monotonic()
            for _ in range(20):
                with pytest.raises(PushRejectedError):
                    await store.save(Event("alice", "t"))
            assert monotonic() - began < 10  # twenty deadlines would take a minute
            await in_thread(server.start)

            async def stored() -> bool:
                try:
                    return bool(await store.save(Event("alice", "t")))
                except PushRejectedError:
                    return False

            await until(stored)
