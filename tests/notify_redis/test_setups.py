"""Failovers, restored backups and slots that move: losses are reported as gaps, and nothing else is missed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import aclosing, suppress
from functools import partial
from time import monotonic
from typing import Literal, TypeAlias

import anyio
import anyio.to_thread
import pytest

from notify import BackendError, BackendUnavailableError, Event, ids
from notify_redis import RedisStore, RedisStreamStore
from notify_redis._names import TAGS, partition_of, slot_of
from tests.notify_redis.test_logs import gap_of
from tests.notify_redis.traffic import traffic
from tests.parts import until
from tests.servers.redis import Cluster, Server, cluster, free_port, plain_info, sentinels

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

Wake: TypeAlias = Literal["pubsub", "xread"]

by_wake = pytest.mark.parametrize("wake", ["pubsub", "xread"])


async def test_a_failover_that_loses_the_tail(victim: Server, prefix: str) -> None:
    """Where acknowledged events are lost, readers that saw them get a gap `rewound`; their ids are not reused."""
    async with aclosing(RedisStreamStore(victim.url, prefix=prefix)) as store:
        kept = [await store.save(Event("alice", "kept", number)) for number in range(3)]
        copy = victim.directory.parent / f"{victim.directory.name}-copy"
        shutil.copytree(victim.directory, copy)
        lost = [await store.save(Event("alice", "lost", number)) for number in range(5)]
        async with store.subscribe("alice", lost[0].id) as stream:
            assert [await stream.next(5) for _ in range(4)] == lost[1:]
            victim.kill()
            shutil.rmtree(victim.directory)
            copy.rename(victim.directory)
            await anyio.to_thread.run_sync(victim.start)
            after = [await store.save(Event("alice", "after", number)) for number in range(3)]
            assert [await stream.next(15) for _ in after] == after
            assert [gap.reason for gap in stream.gaps] == ["rewound"]
        assert after[0].prev == kept[-1].id
        assert ids.compare(lost[-1].id, after[0].id) < 0
        assert await gap_of(store, "alice", lost[-1].id) == "rewound"
        assert await gap_of(store, "alice", kept[-1].id) is None


async def caught_up(master: Server, replica: Server) -> None:
    """Wait until the replica has what the master had when this began: a log it never got would be `expired`."""
    offset = int(plain_info(master, "replication")["master_repl_offset"])
    await until(lambda: int(plain_info(replica, "replication")["slave_repl_offset"]) >= offset, 10)


@by_wake
@pytest.mark.parametrize("how", ["asked for", "master hangs"])
async def test_a_failover_of_the_sentinels(prefix: str, how: str, wake: Wake) -> None:
    """Pushes and streams follow the master that the sentinels choose; only what was lost with the old one is a gap."""
    with sentinels() as all_:
        here, there = (RedisStreamStore(all_.url, prefix=prefix, probe_interval=1.0, wake=wake) for _ in range(2))
        async with aclosing(here), aclosing(there), traffic(here, there) as load:
            old = all_.master_port()
            if how == "asked for":
                all_.sentinels[0].ask("SENTINEL", "FAILOVER", all_.service)
            else:
                await until(lambda: len(load.acked) == len(load.users))
                await caught_up(all_.master, all_.replica)
                all_.master.freeze()
            await until(lambda: all_.master_port() != old, 30)
            before = load.stored
            await until(lambda: load.stored > before + 50, 30)
            all_.master.thaw()
            await until(lambda: there.is_receiving, 30)
            await anyio.sleep(1.0)
            await load.settle(30)
            load.history.assert_ok(durable=False)
            assert set(load.gaps) <= {"rewound"}


async def persistently(store: RedisStreamStore, event: Event) -> Event:
    """Push until it is stored, as an application does: with a key."""
    stored: list[Event] = []

    async def push() -> bool:
        with suppress(BackendError):
            stored.append(await store.save(event))
        return bool(stored)

    await until(push, 30)
    return stored[0]


async def test_a_failover_without_lag(prefix: str) -> None:
    """Where the replica had everything, a master that dies costs a moment: nothing is lost, and there is no gap."""
    with sentinels() as all_:
        here, there = (RedisStreamStore(all_.url, prefix=prefix, min_replicas=1, probe_interval=1.0) for _ in range(2))
        async with aclosing(here), aclosing(there):
            kept = [await persistently(here, Event("alice", "kept", n, key=f"kept{n}")) for n in range(5)]
            async with there.subscribe("alice", "0") as stream, there.subscribe("alice") as live:
                assert [await stream.next(5) for _ in kept] == kept
                all_.master.kill()
                began = monotonic()
                unconfirmed = RedisStore(all_.url, prefix=prefix)  # there is no other replica left to confirm
                async with aclosing(unconfirmed):
                    after = [
                        await persistently(unconfirmed, Event("alice", "after", n, key=f"after{n}")) for n in range(3)
                    ]
                    assert [await stream.next(30) for _ in after] == after
                    assert [await live.next(30) for _ in after] == after
                assert monotonic() - began < 30
                assert not stream.gaps
                assert not live.gaps
            assert after[0].prev == kept[-1].id


async def test_a_failover_with_replication_lag(prefix: str) -> None:
    """Events that the promoted replica never got are lost: readers get a gap `rewound`; ids are not reused."""
    with sentinels() as all_:
        async with aclosing(RedisStreamStore(all_.url, prefix=prefix, probe_interval=1.0)) as store:
            kept = [await store.save(Event("alice", "kept", number)) for number in range(3)]
            await caught_up(all_.master, all_.replica)
            all_.replica.ask("REPLICAOF", "127.0.0.1", free_port())  # it keeps what it has, and gets nothing more
            async with store.subscribe("alice", kept[-1].id) as stream:
                lost = [await store.save(Event("alice", "lost", number)) for number in range(5)]
                assert [await stream.next(5) for _ in lost] == lost
                all_.master.kill()
                after = [await persistently(store, Event("alice", "after", n, key=f"after{n}")) for n in range(3)]
                assert [await stream.next(30) for _ in after] == after
                assert [gap.reason for gap in stream.gaps] == ["rewound"]
            assert after[0].prev == kept[-1].id
            assert ids.compare(lost[-1].id, after[0].id) < 0
            assert await gap_of(store, "alice", lost[-1].id) == "rewound"
            assert await gap_of(store, "alice", kept[-1].id) is None


def move_slot(all_: Cluster, slot: int) -> None:
    """Move a slot with all its keys to the next master, as the cluster's own tools do."""
    begin_to_move(all_, slot)()


def begin_to_move(all_: Cluster, slot: int) -> Callable[[], None]:
    """Move the keys of a slot to the next master, and return what moves the slot itself."""
    names = [each.ask("CLUSTER", "MYID") for each in all_.masters]
    source = next(
        number
        for number, each in enumerate(all_.masters)
        if any(start <= slot <= end for start, end in owned(each, names[number]))
    )
    target = (source + 1) % 3
    here, there = all_.masters[source], all_.masters[target]
    there.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    here.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])

    def migrate() -> None:
        while keys := here.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            here.ask("MIGRATE", "127.0.0.1", there.port, "", 0, 5000, "KEYS", *keys)

    def finish() -> None:
        migrate()
        for each in (there, here, all_.masters[3 - source - target]):
            each.ask("CLUSTER", "SETSLOT", slot, "NODE", names[target])

    migrate()
    return finish


def owned(server: Server, name: bytes) -> list[tuple[int, int]]:
    client = server.client()
    client.response_callbacks.clear()
    try:
        ranges = client.execute_command("CLUSTER SLOTS")
    finally:
        client.close()
    return [(start, end) for start, end, master, *_ in ranges if master[2] == name]


@by_wake
async def test_slots_that_move_under_load(prefix: str, wake: Wake) -> None:
    """While the slots of all users move to other masters, every push is stored once and every stream misses nothing."""
    users = ("alice", "bob", "carol")
    with cluster() as all_:
        here, there = (RedisStreamStore(all_.url, prefix=prefix, probe_interval=1.0, wake=wake) for _ in range(2))
        async with aclosing(here), aclosing(there), traffic(here, there, users=users) as load:
            slots = [slot_of(TAGS[partition]) for partition in (*map(partition_of, users), 0)]  # 0: of a wake stream
            for slot in slots:
                await anyio.to_thread.run_sync(partial(move_slot, all_, slot))
                before = load.stored
                await until(lambda before=before: load.stored > before + 50, 30)
            await until(lambda: there.is_receiving, 30)
            await load.settle(30)
            load.history.assert_ok()
            assert not load.gaps
            assert set(load.outcomes) == {"ok"}


async def test_a_slot_that_is_half_moved(prefix: str) -> None:
    """While a move stands still with the keys on the other side, pushes wait; when it is over they are stored, once."""
    with cluster() as all_:
        slot = slot_of(TAGS[partition_of("alice")])
        async with aclosing(RedisStreamStore(all_.url, prefix=prefix, timeout=20.0)) as store:
            first = await store.save(Event("alice", "first"))
            async with store.subscribe("alice", "0") as stream:
                assert await stream.next(5) == first
                finish = await anyio.to_thread.run_sync(partial(begin_to_move, all_, slot))
                events: list[Event] = []

                async def save() -> None:
                    events.append(await store.save(Event("alice", "second")))

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(save)
                    await until(lambda: any(redirected(each) for each in all_.masters))
                    assert not events
                    await anyio.to_thread.run_sync(finish)
                assert await stream.next(30) == events[0]
                assert events[0].prev == first.id
                assert not stream.gaps


def redirected(server: Server) -> bool:
    """Whether the server has replied with a redirection, or with TRYAGAIN, while a slot is moved."""
    return bool({"errorstat_ASK", "errorstat_TRYAGAIN"} & set(plain_info(server, "errorstats")))


@by_wake
async def test_a_master_of_the_cluster_that_is_killed(prefix: str, wake: Wake) -> None:
    """While one master is away, users of the others are served; after its restart, its own are again."""
    users = [f"user{number}" for number in range(6)]
    with cluster() as all_:
        here, there = (RedisStreamStore(all_.url, prefix=prefix, probe_interval=1.0, wake=wake) for _ in range(2))
        async with aclosing(here), aclosing(there), traffic(here, there, users=users) as load:
            all_.masters[1].kill()
            before = load.stored
            await until(lambda: load.stored > before + 50, 30)
            await anyio.to_thread.run_sync(all_.masters[1].start)
            await until(lambda: there.is_receiving, 30)
            heads = dict(load.acked)
            await until(lambda: all(load.acked.get(user) != heads.get(user) for user in users), 30)
            await load.settle(30)
            load.history.assert_ok()
            assert not load.gaps


async def test_reading_from_all_masters_while_one_is_away(prefix: str) -> None:
    """What is asked of several masters at once fails as a whole, in time, and works again once all are back."""
    after = {f"user{number}": ids.ZERO for number in range(20)}
    with cluster() as all_:
        async with aclosing(RedisStore(all_.url, prefix=prefix, timeout=1.0)) as store:
            await store.save_many([Event(user, "t") for user in after])
            all_.masters[1].kill()
            with anyio.fail_after(5), pytest.raises(BackendUnavailableError):
                await store.read_many(after, 10)
            await anyio.to_thread.run_sync(all_.masters[1].start)

            async def all_read() -> bool:
                with suppress(BackendUnavailableError):
                    return all(len(page.events) == 1 for page in (await store.read_many(after, 10)).values())
                return False

            await until(all_read, 30)


@by_wake
async def test_a_replica_of_the_cluster_that_takes_over(prefix: str, wake: Wake) -> None:
    """When a master is killed its replica takes over: pushes and streams of its users follow within half a minute."""
    users = [f"user{number}" for number in range(6)]
    with cluster(replicas=True) as all_:
        here, there = (RedisStreamStore(all_.url, prefix=prefix, probe_interval=1.0, wake=wake) for _ in range(2))
        async with aclosing(here), aclosing(there), traffic(here, there, users=users) as load:
            port = all_.masters[1].port
            orphans = [
                user for user in users if here._client.node_of(partition_of(user)).address == ("127.0.0.1", port)
            ]
            assert orphans
            await until(lambda: all(user in load.acked for user in orphans))
            await caught_up(all_.masters[1], all_.replicas[1])
            all_.masters[1].kill()
            for store in (here, there):
                await until(lambda store=store: port not in {node.address[1] for node in store._client.nodes}, 30)
            heads = dict(load.acked)
            await until(lambda: all(load.acked.get(user) != heads.get(user) for user in users), 30)
            await until(lambda: there.is_receiving, 30)
            await load.settle(30)
            load.history.assert_ok(durable=False)
            assert set(load.gaps) <= {"rewound"}


async def test_connections_to_each_node(prefix: str) -> None:
    """A process has at most three connections to each master of a cluster, however many users have streams in it."""
    users = [f"user{number}" for number in range(300)]
    with cluster() as all_:
        before = [clients(each) for each in all_.masters]
        async with aclosing(RedisStreamStore(all_.url, prefix=prefix)) as store:
            streams = [store.subscribe(user) for user in users]
            async with anyio.create_task_group() as tasks:
                for stream in streams:
                    tasks.start_soon(stream.__aenter__)
            await store.save_many([Event(user, "t") for user in users])
            for stream in streams:
                await stream.next(30)
            for each, known in zip(all_.masters, before, strict=True):
                await until(lambda each=each, known=known: clients(each) - known <= 3)
            for stream in streams:
                await stream.aclose()


def clients(server: Server) -> int:
    return int(plain_info(server, "clients")["connected_clients"])


async def test_trimming_reaches_every_master(prefix: str) -> None:
    """In a cluster, trimming empties the logs of all users wherever they are, and counts them."""
    with cluster() as all_:
        async with aclosing(RedisStore(all_.url, prefix=prefix)) as store:
            users = [f"user{number}" for number in range(200)]
            outcomes = await store.save_many([Event(user, "t") for user in users])
            assert all(isinstance(each, Event) for each in outcomes)
            assert len({store._client.node_of(partition_of(user)) for user in users}) == 3
            assert await store.trim("9999999999999-0") == 200
