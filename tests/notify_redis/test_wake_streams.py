"""`wake="xread"`: one blocked read for each master, which goes on where it was, and works without pub/sub."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest

from notify import BackendError, BackendUnavailableError, Event, Notifier, UsageError
from notify.testing import FaultProxy, Faults
from notify_redis import RedisStore, RedisStreamStore, _ephemeral, _wake, _xread
from notify_redis._names import PARTITIONS
from notify_redis._xread import WakeReader
from tests.notify_redis.traffic import traffic
from tests.parts import until
from tests.servers.redis import Server, blocked_reads, cluster, end_blocked_reads, plain_info, single

pytestmark = pytest.mark.anyio


def stream_store(server: Server, prefix: str, **options: Any) -> RedisStreamStore:
    return RedisStreamStore(server.url, prefix=prefix, wake="xread", **options)


def keys_of(store: RedisStreamStore) -> tuple[bytes, bytes]:
    """The wake stream of a single server, and its counter."""
    return store._wakes.keys(0)


def reader_of(store: RedisStreamStore) -> WakeReader:
    assert isinstance(store._subscriptions, WakeReader)
    return store._subscriptions


def read_through(store: RedisStreamStore, proxy: FaultProxy) -> None:
    """Route the connection that reads the wake stream, and only that one, through a proxy."""
    node = store._client.node_of(0)
    endpoint = store._client.endpoint.at(("127.0.0.1", proxy.port))
    node.connect = endpoint.connect


class Counted(RedisStreamStore):
    """Counts for how many users a log was looked at."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.looked: list[str] = []

    async def read(self, user: str, after: str, limit: int) -> Any:
        self.looked.append(user)
        return await super().read(user, after, limit)

    async def read_many(self, after: Any, limit: int) -> Any:
        self.looked += after
        return await super().read_many(after, limit)


@pytest.mark.slow
async def test_a_wire_that_is_cut_for_five_seconds(server: Server, prefix: str) -> None:
    """All that is pushed in between arrives afterwards, in order, and no log is read for it."""
    users = [f"user{number}" for number in range(50)]
    async with FaultProxy("127.0.0.1", server.port) as proxy, aclosing(RedisStore(server.url, prefix=prefix)) as other:
        url = server.url.replace(str(server.port), str(proxy.port))
        async with aclosing(Counted(url, prefix=prefix, wake="xread")) as store, AsyncExitStack() as stack:
            streams = {user: await stack.enter_async_context(store.subscribe(user)) for user in users}
            await until(lambda: store.is_receiving)
            store.looked.clear()
            await proxy.refuse()
            await proxy.reset()
            events: list[Any] = []
            for number in range(10):
                events += await other.save_many([Event(user, "t", number) for user in users[:7]])
                await anyio.sleep(0.5)  # the fault itself lasts so long
            assert not store.is_receiving
            proxy.heal()
            for event in events:
                assert await streams[event.user].next(10) == event
            assert store.looked == []


async def test_a_read_that_is_ended(server: Server, prefix: str) -> None:
    """Events that are pushed in the same breath as the connection is killed come through the wake stream."""
    async with (
        aclosing(Counted(server.url, prefix=prefix, wake="xread")) as store,
        aclosing(RedisStore(server.url, prefix=prefix)) as other,
        store.subscribe("alice") as stream,
    ):
        await until(lambda: store.is_receiving)
        await until(lambda: blocked_reads(server))
        store.looked.clear()
        for number in range(5):
            connections = reader_of(store).connections
            assert end_blocked_reads(server)
            events = [await other.save(Event("alice", "t", [number, n])) for n in range(3)]
            assert [await stream.next(5) for _ in events] == events
            assert reader_of(store).connections > connections
            await until(lambda: blocked_reads(server))
        assert store.looked == []


async def test_a_trimmed_wake_stream(server: Server, prefix: str) -> None:
    """Where entries were trimmed before they were read, the chain shows it and the logs are read."""
    async with (
        aclosing(stream_store(server, prefix)) as store,
        aclosing(RedisStore(server.url, prefix=prefix)) as other,
        FaultProxy("127.0.0.1", server.port) as proxy,
    ):
        await store.head("alice")
        read_through(store, proxy)
        async with store.subscribe("alice") as stream, store.subscribe("bob") as bob:
            await until(lambda: store.is_receiving)
            await proxy.refuse()
            await proxy.reset()
            event = await other.save(Event("alice", "t"))
            assert server.ask("XTRIM", keys_of(store)[0], "MAXLEN", 0) == 1
            last = await other.save(Event("bob", "t"))
            proxy.heal()
            assert await bob.next(5) == last
            assert await stream.next(5) == event


async def test_it_is_bounded(server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake stream is trimmed by its bytes, and it and its counter expire."""
    monkeypatch.setattr(_wake, "WAKE_BYTES", 100_000)
    async with aclosing(stream_store(server, prefix)) as store, store.subscribe("alice"):
        await until(lambda: store.is_receiving)
        for size in (100, 4000):
            await store.save_many([Event(f"user{number}", "t", "x" * size) for number in range(500)])
        stream, counter = keys_of(store)
        assert 50_000 < server.ask("MEMORY", "USAGE", stream, "SAMPLES", 0) < 400_000
        for key in (stream, counter):
            assert 0 < server.ask("PTTL", key) <= _wake.WAKE_TTL * 1000


async def test_without_readers_nothing_is_written(server: Server, prefix: str) -> None:
    """Where no process reads wake streams, pushes of plain stores and of `pubsub` write none."""
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store, store.subscribe("alice") as stream:
        event = await store.save(Event("alice", "t"))
        assert await stream.next(5) == event
        store.send_ephemeral(Event("alice", "typing"))
        await store.save(Event("alice", "t"))
        assert server.ask("EXISTS", *store._wakes.keys(0)) == 0


@pytest.mark.parametrize("lost", ["flushed", "counter", "counter and clock", "garbage"])
async def test_a_wake_stream_that_is_lost(server: Server, prefix: str, lost: str) -> None:
    """Whatever became of the keys, events arrive, at the latest after a probe has found it out."""
    async with aclosing(stream_store(server, prefix, probe_interval=0.4)) as store:
        stream_key, counter = keys_of(store)
        other = stream_store(server, prefix)
        async with aclosing(other), store.subscribe("alice") as stream:
            first = await other.save(Event("alice", "t", 0))
            assert await stream.next(5) == first
            if lost == "flushed":
                server.ask("DEL", stream_key, counter)
            elif lost == "counter":
                server.ask("DEL", counter)
            elif lost == "counter and clock":
                server.ask("SET", counter, "1000-0")
            else:
                server.ask("SET", counter, "garbage")
            events = []
            for number in range(3):
                events.append(await other.save(Event("alice", "t", number)))
                await anyio.sleep(0.3)
            assert [await stream.next(10) for _ in events] == events
            if lost == "garbage":
                server.ask("DEL", counter)
            await until(lambda: store.is_receiving, 10)
            last = await other.save(Event("alice", "t", "last"))
            assert await stream.next(5) == last
            assert not stream.gaps


async def test_a_server_that_is_restarted(victim: Server, prefix: str) -> None:
    """After a restart, which may have lost the end of the wake stream, the logs are read; nothing is missed."""
    here, there = stream_store(victim, prefix), stream_store(victim, prefix)
    async with aclosing(here), aclosing(there), traffic(here, there) as load:
        for _ in range(2):
            before = load.stored
            await until(lambda before=before: load.stored > before + 20, 10)
            await anyio.to_thread.run_sync(victim.kill)
            await anyio.to_thread.run_sync(victim.start)
        await until(lambda: there.is_receiving, 10)
        await load.settle(10)
        load.history.assert_ok()
        assert not load.gaps


async def test_connections_that_are_killed(server: Server, prefix: str) -> None:
    """Under load the reading connection is killed again and again; nothing is missed and nothing is a gap."""
    here, there = stream_store(server, prefix), stream_store(server, prefix)
    async with aclosing(here), aclosing(there), traffic(here, there) as load:
        for _ in range(5):
            await until(lambda: blocked_reads(server))
            end_blocked_reads(server)
            before = load.stored
            await until(lambda before=before: load.stored > before + 20, 10)
        await load.settle(10)
        load.history.assert_ok()
        assert not load.gaps


@pytest.mark.slow
async def test_a_connection_that_goes_silent(server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection over which nothing arrives any more is replaced; if that takes long, the logs are searched."""
    monkeypatch.setattr(_xread, "RESUME_TIME", 0.5)

    async with (
        aclosing(stream_store(server, prefix, probe_interval=0.5)) as store,
        FaultProxy("127.0.0.1", server.port) as proxy,
    ):
        await store.head("alice")
        read_through(store, proxy)
        async with aclosing(RedisStore(server.url, prefix=prefix)) as other, store.subscribe("alice") as stream:
            await until(lambda: store.is_receiving)
            proxy.down = Faults(blackhole=True)
            event = await other.save(Event("alice", "t"))
            await until(lambda: not store.is_receiving, 10)
            assert await stream.next(5) == event  # found by an audit
            assert not store.is_receiving
            proxy.heal()
            await proxy.reset()
            await until(lambda: store.is_receiving, 10)
            event = await other.save(Event("alice", "t"))
            assert await stream.next(10) == event


async def test_closing_does_not_wait_for_the_read(server: Server, prefix: str) -> None:
    """`aclose` ends a blocked read at once, and no connection is left."""
    before = int(plain_info(server, "clients")["connected_clients"])
    took = []
    for _ in range(3):
        store = stream_store(server, prefix)
        async with store.subscribe("alice"):
            await until(lambda: blocked_reads(server))
            began = time.monotonic()
            await store.aclose()
            took.append(time.monotonic() - began)
    assert max(took) < 4.0  # the read is blocked for five seconds
    await until(lambda: int(plain_info(server, "clients")["connected_clients"]) == before)
    assert not blocked_reads(server)


async def test_ten_thousand_users(server: Server, prefix: str) -> None:
    """A process with ten thousand users has three connections, and no channel."""
    users = [f"user{number}" for number in range(10_000)]
    before = int(plain_info(server, "clients")["connected_clients"])
    async with aclosing(stream_store(server, prefix)) as store:
        streams = [store.subscribe(user) for user in users]
        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(stream.__aenter__)
        outcomes = await store.save_many([Event(user, "t") for user in users])
        for stream, outcome in zip(streams, outcomes, strict=True):
            assert await stream.next(10) == outcome
        assert int(plain_info(server, "clients")["connected_clients"]) - before == 3
        assert server.ask("PUBSUB", "CHANNELS", f"{prefix}:*") == []
        for stream in streams:
            await stream.aclose()


async def test_without_the_right_to_pubsub(prefix: str) -> None:
    """It works where the login may not use pub/sub at all, and after the first try nothing is refused."""
    with single() as server:
        server.ask("ACL", "SETUSER", "app", "on", ">secret", "~*", "resetchannels", "+@all", "-@pubsub")
        url = server.url.replace("redis://", "redis://app:secret@")
        here, there = (RedisStreamStore(url, prefix=prefix, wake="xread") for _ in range(2))
        async with aclosing(here), aclosing(there), Notifier(here) as near, Notifier(there) as far:
            async with far.subscribe("alice") as stream:
                await near.push("alice", "first")
                assert (await stream.next(5)).type == "first"
                await near.push("alice", "typing", ephemeral=True)
                assert (await stream.next(5)).type == "typing"
                await near.broadcast("all")
                assert (await stream.next(5)).type == "all"
                server.ask("ACL", "LOG", "RESET")
                for number in range(5):
                    event = await near.push("alice", "t", number)
                    assert await stream.next(5) == event
                assert server.ask("ACL", "LOG") == []
                assert (await far.check()).ok


async def test_messages_of_other_programs_do_no_harm(server: Server, prefix: str) -> None:
    """What another program appends is not yielded, and the next event arrives."""
    async with aclosing(stream_store(server, prefix)) as store, store.subscribe("alice") as stream:
        await until(lambda: store.is_receiving)
        channel, (key, _) = store._names.channel("alice"), keys_of(store)
        garbage: list[bytes] = [b"", b"x", b"~ ", b"~ garbage", b"1-1 0 garbage", b"\xff \xff \xff"]
        for message in garbage:
            event = await store.save(Event("alice", "t"))
            assert await stream.next(5) == event
            server.ask("XADD", key, "*", channel, message)
            server.ask("DEL", key, keys_of(store)[1])
        event = await store.save(Event("alice", "t"))
        assert await stream.next(10) == event


def test_what_wake_may_be() -> None:
    """Anything but the two ways is refused, and named."""
    for wrong in ("stream", "", None):
        with pytest.raises(UsageError, match="wake must be 'pubsub' or 'xread'"):
            RedisStreamStore("redis://localhost", wake=wrong)  # type: ignore[arg-type]


async def test_one_stream_for_each_master(prefix: str) -> None:
    """In a cluster each process has one blocked read at each master, and three connections at most."""
    with cluster() as all_:
        url = all_.url
        before = [int(plain_info(each, "clients")["connected_clients"]) for each in all_.masters]
        async with aclosing(RedisStreamStore(url, prefix=prefix, wake="xread")) as store:
            streams = [store.subscribe(f"user{number}") for number in range(30)]
            for stream in streams:
                await stream.__aenter__()
            for stream in streams:
                event = await store.save(Event(stream.user, "t"))
                assert await stream.next(5) == event
            await until(lambda: all(len(blocked_reads(each)) == 1 for each in all_.masters))
            for each, already in zip(all_.masters, before, strict=True):
                assert int(plain_info(each, "clients")["connected_clients"]) - already <= 3
            used = {store._wakes.partition_of(partition) for partition in range(PARTITIONS)}
            assert len(used) == 3
            for stream in streams:
                await stream.aclose()


async def test_what_no_wake_stream_brings_is_found(server: Server, prefix: str) -> None:
    """An event that was appended without an entry, as the version before does, is found by an audit."""
    async with aclosing(stream_store(server, prefix)) as store, Notifier(store, audit_interval=0.5) as notifier:
        async with notifier.subscribe("alice") as stream:
            await until(lambda: store.is_receiving)
            server.ask("DEL", keys_of(store)[1])  # so that a plain store writes none
            async with aclosing(RedisStore(server.url, prefix=prefix)) as other:
                event = await other.save(Event("alice", "t"))
            assert await stream.next(5) == event


async def test_a_master_that_was_asked_for_again(server: Server, prefix: str) -> None:
    """When the masters may have changed, the connection is replaced, and what was missed in between is found."""
    async with (
        aclosing(stream_store(server, prefix)) as store,
        aclosing(RedisStore(server.url, prefix=prefix)) as other,
    ):
        async with store.subscribe("alice") as stream:
            await until(lambda: blocked_reads(server))
            connections = reader_of(store).connections
            store._client._call_moved()
            event = await other.save(Event("alice", "t"))
            assert await stream.next(5) == event
            await until(lambda: reader_of(store).connections == connections + 1)
            await until(lambda: store.is_receiving)


@pytest.mark.parametrize("which", [0, 1])
async def test_a_name_that_another_program_has(server: Server, prefix: str, which: int) -> None:
    """A key of another type in the place of the stream or its counter is left alone; streams look into their logs."""
    async with (
        aclosing(stream_store(server, prefix)) as store,
        aclosing(RedisStore(server.url, prefix=prefix)) as other,
    ):
        key = keys_of(store)[which]
        server.ask("LPUSH", key, "foreign")
        async with store.subscribe("alice") as stream:
            event = await other.save(Event("alice", "t"))
            assert await stream.next(5) == event
            mine = await store.save(Event("alice", "t"))
            assert await stream.next(5) == mine
            await until(lambda: not store.is_receiving)
            assert server.ask("LRANGE", key, 0, -1) == [b"foreign"]
            server.ask("DEL", key)
            await until(lambda: store.is_receiving)


async def test_rights_that_come_late(prefix: str, victim: Server) -> None:
    """A login that may not read is told so by the log, and once it may, it does; INFO is not needed."""
    victim.ask("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-xread", "-info")
    url = victim.url.replace("redis://", "redis://app:secret@")
    async with aclosing(RedisStreamStore(url, prefix=prefix, wake="xread")) as store:
        stream = store.subscribe("alice")
        await stream.__aenter__()
        reader = reader_of(store)
        await until(lambda: reader._failed and not store.is_receiving)
        await until(lambda: not reader.is_reliable)
        victim.ask("ACL", "SETUSER", "app", "+xread", "-evalsha")
        await anyio.sleep(0.2)
        victim.ask("ACL", "SETUSER", "app", "+evalsha")
        async with store.subscribe("alice") as again:
            event = await store.save(Event("alice", "t"))
            assert await again.next(5) == event
            await until(lambda: store.is_receiving)
            await until(lambda: end_blocked_reads(victim))  # it may be between two reads
            event = await store.save(Event("alice", "t"))
            assert await again.next(5) == event
        await stream.aclose()


async def test_no_server_at_first(prefix: str) -> None:
    """Streams that are opened before there is a cluster fail, and work once there is one."""
    with cluster() as all_:
        for each in all_.masters:
            await anyio.to_thread.run_sync(each.kill)
        async with aclosing(RedisStreamStore(all_.url, prefix=prefix, wake="xread", timeout=1.0)) as store:
            with pytest.raises(BackendUnavailableError):
                await store.subscribe("alice").__aenter__()
            for each in all_.masters:
                await anyio.to_thread.run_sync(each.start)

            async def stored() -> bool:
                with suppress(BackendError):
                    await store.save(Event("alice", "t"))
                    return True
                return False

            await until(stored, 30)
            async with store.subscribe("alice") as stream:
                await until(lambda: store.is_receiving, 20)
                event = await store.save(Event("alice", "t"))
                assert await stream.next(5) == event


async def test_a_message_for_a_user_who_has_just_left(server: Server, prefix: str) -> None:
    """What arrives after the last stream of a user was closed is ignored."""
    async with aclosing(stream_store(server, prefix)) as store, store.subscribe("alice") as stream:
        await until(lambda: store.is_receiving)
        store._on_message(store._names.channel("bob"), _ephemeral.encode_message(Event("bob", "t")))
        store._on_message(store._names.channel("bob"), b"1-1 0 x ")
        event = await store.save(Event("alice", "t"))
        assert await stream.next(5) == event
