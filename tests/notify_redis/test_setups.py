"""Failovers, restored backups, and slots that move: what was lost is told, and what was not is not missed."""

from __future__ import annotations

import shutil
from contextlib import aclosing
from functools import partial

import anyio
import anyio.to_thread
import pytest

from notify import Event, ids
from notify_redis import RedisStore, RedisStreamStore
from notify_redis._keys import TAGS, partition_of, slot_of
from tests.notify_redis.test_logs import gap_of
from tests.notify_redis.traffic import traffic
from tests.parts import until
from tests.servers.redis import Cluster, Server, cluster, sentinels

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_failover_that_loses_the_tail(victim: Server, prefix: str) -> None:
    """Where acknowledged events are lost, whoever saw them is told `rewound`, and their ids are not given again."""
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


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["asked for", "master hangs"])
async def test_a_failover_of_the_sentinels(prefix: str, how: str) -> None:
    """Pushes and streams follow the master that the sentinels choose; only what was lost with the old one is a gap."""
    with sentinels() as all_:
        here, there = (RedisStreamStore(all_.url, prefix=prefix, canary=1.0) for _ in range(2))
        async with aclosing(here), aclosing(there), traffic(here, there) as load:
            old = all_.master_port()
            if how == "asked for":
                all_.sentinels[0].ask("SENTINEL", "FAILOVER", all_.service)
            else:
                all_.master.freeze()
            await until(lambda: all_.master_port() != old, 30)
            before = load.stored
            await until(lambda: load.stored > before + 50, 30)
            all_.master.thaw()
            await until(lambda: there.hears, 30)
            await anyio.sleep(1.0)
            await load.settle(30)
            load.history.assert_ok(durable=False)
            assert set(load.gaps) <= {"rewound"}


def move_slot(all_: Cluster, slot: int) -> None:
    """Move a slot with all its keys to the next master, as the cluster's own tools do."""
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
    while keys := here.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
        here.ask("MIGRATE", "127.0.0.1", there.port, "", 0, 5000, "KEYS", *keys)
    there.ask("CLUSTER", "SETSLOT", slot, "NODE", names[target])
    here.ask("CLUSTER", "SETSLOT", slot, "NODE", names[target])
    all_.masters[3 - source - target].ask("CLUSTER", "SETSLOT", slot, "NODE", names[target])


def owned(server: Server, name: bytes) -> list[tuple[int, int]]:
    client = server.client()
    client.response_callbacks.clear()
    try:
        ranges = client.execute_command("CLUSTER SLOTS")
    finally:
        client.close()
    return [(start, end) for start, end, master, *_ in ranges if master[2] == name]


@pytest.mark.timeout(120)
async def test_slots_that_move_under_load(prefix: str) -> None:
    """While the slots of all users move to other masters, every push is stored once and every stream misses nothing."""
    users = ("alice", "bob", "carol")
    with cluster() as all_:
        here, there = (RedisStreamStore(all_.url, prefix=prefix, canary=1.0) for _ in range(2))
        async with aclosing(here), aclosing(there), traffic(here, there, users=users) as load:
            for user in users:
                slot = slot_of(TAGS[partition_of(user)])
                await anyio.to_thread.run_sync(partial(move_slot, all_, slot))
                before = load.stored
                await until(lambda before=before: load.stored > before + 50, 30)
            await until(lambda: there.hears, 30)
            await load.settle(30)
            load.history.assert_ok()
            assert not load.gaps
            assert set(load.outcomes) == {"ok"}


@pytest.mark.timeout(120)
async def test_a_master_of_the_cluster_that_is_killed(prefix: str) -> None:
    """While one master is away, users of the others are served; after its restart, its own are again."""
    users = [f"user{number}" for number in range(6)]
    with cluster() as all_:
        here, there = (RedisStreamStore(all_.url, prefix=prefix, canary=1.0) for _ in range(2))
        async with aclosing(here), aclosing(there), traffic(here, there, users=users) as load:
            all_.masters[1].kill()
            before = load.stored
            await until(lambda: load.stored > before + 50, 10)
            await anyio.to_thread.run_sync(all_.masters[1].start)
            await until(lambda: there.hears, 30)
            heads = dict(load.acked)
            await until(lambda: all(load.acked[user] != heads[user] for user in users), 30)
            await load.settle(30)
            load.history.assert_ok()
            assert not load.gaps


async def test_trimming_reaches_every_master(prefix: str) -> None:
    """In a cluster, trimming empties the logs of all users wherever they are, and counts them."""
    with cluster() as all_:
        async with aclosing(RedisStore(all_.url, prefix=prefix)) as store:
            users = [f"user{number}" for number in range(200)]
            outcomes = await store.save_many([Event(user, "t") for user in users])
            assert all(isinstance(each, Event) for each in outcomes)
            assert len({store._client.node_of(partition_of(user)) for user in users}) == 3
            assert await store.trim("9999999999999-0") == 200
