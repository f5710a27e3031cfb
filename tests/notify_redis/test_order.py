"""Pushes to one user are stored in the order of the calls, whatever has to be repeated, redirected or waited for."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import anyio.to_thread
import pytest

from notify import BackendError, Event
from notify.testing import Faults
from notify_redis import RedisStore
from notify_redis._names import TAGS, partition_of, slot_of
from tests.notify_redis.test_faults import proxied, url
from tests.notify_redis.test_setups import move_slot
from tests.parts import until, untraced
from tests.servers.redis import Server, cluster, sentinels, single

pytestmark = pytest.mark.anyio

USERS = [f"user{number}" for number in range(20)]
TASKS = 64

in_thread = anyio.to_thread.run_sync


class Pour:
    """Tasks that save to a few users in every way, and the number that each call to a user had."""

    def __init__(self, store: RedisStore, *, users: list[str] = USERS) -> None:
        self.store = store
        self.users = users
        self.calls: dict[str, int] = defaultdict(int)
        self.accepted: dict[str, set[int]] = defaultdict(set)
        self.outcomes: dict[str, int] = defaultdict(int)
        self.pouring = True

    def event(self, user: str) -> Event:
        """The next call's event; from here to the call nothing may wait."""
        self.calls[user] += 1
        return Event(user, "t", self.calls[user])

    def done(self, event: Event, outcome: object) -> None:
        self.outcomes["ok" if isinstance(outcome, Event) else type(outcome).__name__] += 1
        if isinstance(outcome, Event):
            self.accepted[event.user].add(event.payload)

    async def one(self, user: str) -> None:
        event, finished = self.event(user), anyio.Event()

        def done(outcome: object) -> None:
            self.done(event, outcome)
            finished.set()

        self.store.save_soon(event, done)
        await finished.wait()

    async def many(self, user: str) -> None:
        events = [self.event(each) for each in (user, self.users[0], user, user, self.users[0])]
        for event, outcome in zip(events, await self.store.save_many(events), strict=True):
            self.done(event, outcome)

    async def task(self, number: int) -> None:
        chance = random.Random(number)
        while self.pouring:
            user = chance.choice(self.users)
            await (self.many if chance.random() < 0.1 else self.one)(user)
            if chance.random() < 0.05:
                await anyio.sleep(0.001)

    async def check(self, reader: RedisStore, *, durable: bool = True) -> None:
        """Every log is in the order of the calls, without repetitions, and holds what was accepted."""
        for user in self.users:
            logged: list[int] = []
            position = "0"
            while events := (await reader.read(user, position, 1000)).events:
                logged += [event.payload for event in events]
                position = events[-1].id
            assert all(one < other for one, other in pairwise(logged)), (user, self.outcomes)
            assert not durable or self.accepted[user] <= set(logged), (user, self.outcomes)


async def poured(store: RedisStore, sabotage: Callable[[Pour], Awaitable[object]], **options: Any) -> Pour:
    """Pour while something is sabotaged, and for a moment before and afterwards."""
    pour = Pour(store, **options)
    with untraced():
        async with anyio.create_task_group() as tasks:
            for number in range(TASKS):
                tasks.start_soon(pour.task, number)
            await more(pour)
            await sabotage(pour)
            await more(pour)
            pour.pouring = False
    return pour


async def more(pour: Pour, count: int = 200, within: float = 60.0) -> None:
    """Wait until so many more are stored."""
    before = pour.outcomes["ok"]
    await until(lambda: pour.outcomes["ok"] > before + count, within)


def store_at(address: str, prefix: str, **options: Any) -> RedisStore:
    return RedisStore(address, prefix=prefix, max_len=100_000, timeout=10.0, **options)


async def flush_scripts(server: Server, pour: Pour) -> None:
    for _ in range(30):
        await in_thread(server.ask, "SCRIPT", "FLUSH")
        await more(pour, 20)


async def toggle_read_only(server: Server, pour: Pour) -> None:
    for _ in range(10):
        await in_thread(server.ask, "REPLICAOF", "127.0.0.1", 1)
        await anyio.sleep(0.02)
        await in_thread(server.ask, "REPLICAOF", "NO", "ONE")
        await more(pour, 20)


async def keep_busy(server: Server, pour: Pour) -> None:
    server.ask("CONFIG", "SET", "busy-reply-threshold", "20")
    script = (
        "local t = redis.call('TIME') repeat local n = redis.call('TIME') until (n[1] - t[1]) * 1e6 + n[2] - t[2] > 8e4"
    )
    for _ in range(10):
        await in_thread(server.ask, "EVAL", script, 0)
        await more(pour, 20)


async def fill_memory(server: Server, pour: Pour) -> None:
    for _ in range(20):
        await in_thread(server.ask, "CONFIG", "SET", "maxmemory", "1")
        await anyio.sleep(0.01)
        await in_thread(server.ask, "CONFIG", "SET", "maxmemory", "0")
        await more(pour, 20)


async def demand_replicas(server: Server, pour: Pour) -> None:
    for _ in range(20):
        await in_thread(server.ask, "CONFIG", "SET", "min-replicas-to-write", "1")
        await anyio.sleep(0.01)
        await in_thread(server.ask, "CONFIG", "SET", "min-replicas-to-write", "0")
        await more(pour, 20)


async def kill_connections(server: Server, pour: Pour) -> None:
    for _ in range(20):
        await in_thread(server.ask, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await more(pour, 20)


async def freeze(server: Server, pour: Pour) -> None:
    server.freeze()
    await anyio.sleep(2.6)  # longer than one attempt: the bytes wait in the old connection
    server.thaw()
    await more(pour, 20)


async def restart(server: Server, pour: Pour) -> None:
    server.kill()
    await in_thread(server.start)
    await more(pour, 20)


async def nothing(_server: Server, pour: Pour) -> None:
    await more(pour, 5000)


@pytest.mark.parametrize(
    "sabotage",
    [
        nothing,
        flush_scripts,
        toggle_read_only,
        keep_busy,
        fill_memory,
        demand_replicas,
        kill_connections,
        freeze,
        restart,
    ],
)
@pytest.mark.parametrize("users", [len(USERS), 1])
async def test_a_server_in_trouble(
    victim: Server, prefix: str, sabotage: Callable[[Server, Pour], Awaitable[None]], users: int
) -> None:
    """Whatever a server answers or loses, each log is in the order of the calls."""
    async with aclosing(store_at(victim.url, prefix)) as store:
        pour = await poured(store, partial(sabotage, victim), users=USERS[:users])
        await pour.check(store)


async def test_a_network_in_trouble(server: Server, prefix: str) -> None:
    """Connections that are cut within a pipeline, and replies that are lost, reorder nothing."""
    async with proxied(server) as proxy, aclosing(store_at(url(proxy), prefix)) as store:

        async def sabotage(pour: Pour) -> None:
            for number in range(20):
                proxy.up = proxy.down = Faults(delay=0.001, jitter=0.005, slice=700) if number % 3 else Faults()
                if number % 2:
                    proxy.drop_reply(request=b"EVALSHA")
                else:
                    await proxy.reset()
                await more(pour, 20)
            proxy.heal()

        await (await poured(store, sabotage)).check(store)


async def test_pushes_before_the_first_connection(prefix: str) -> None:
    """What is pushed while the server is not there yet is stored in order once it is."""
    with single() as server:
        server.kill()
        async with aclosing(store_at(server.url, prefix)) as store:
            pour = Pour(store)
            async with anyio.create_task_group() as tasks:
                for number in range(TASKS):
                    tasks.start_soon(pour.task, number)
                await anyio.sleep(0.3)
                await in_thread(server.start)
                await more(pour)
                pour.pouring = False
            await pour.check(store)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["asked for", "killed"])
async def test_a_failover_of_the_sentinels_under_load(prefix: str, how: str) -> None:
    """Pushes that are repeated at the new master stay in order."""
    with sentinels() as all_:
        async with aclosing(store_at(all_.url, prefix)) as store:

            async def sabotage(pour: Pour) -> None:
                old = all_.master_port()
                if how == "killed":
                    all_.master.kill()
                else:
                    await in_thread(all_.sentinels[0].ask, "SENTINEL", "FAILOVER", all_.service)
                await until(lambda: all_.master_port() != old, 30)
                await more(pour)

            pour = await poured(store, sabotage)
            await pour.check(store, durable=False)


@pytest.mark.slow
async def test_slots_that_move_while_pushes_are_in_flight(prefix: str) -> None:
    """Pushes that are redirected, wait for a move, or are for another master by now, stay in order."""
    with cluster() as all_:
        async with aclosing(store_at(all_.url, prefix)) as store:

            async def sabotage(pour: Pour) -> None:
                for user in pour.users[:6]:
                    await in_thread(partial(move_slot, all_, slot_of(TAGS[partition_of(user)])))
                    await more(pour, 50)

            await (await poured(store, sabotage)).check(store)


@pytest.mark.slow
async def test_a_failover_of_the_cluster_under_load(prefix: str) -> None:
    """When a replica takes over, pushes that are repeated there stay in order."""
    with cluster(replicas=True) as all_:
        async with aclosing(store_at(all_.url, prefix)) as store:

            async def sabotage(pour: Pour) -> None:
                dead = all_.masters[1].port
                all_.masters[1].kill()
                await until(lambda: dead not in {node.address[1] for node in store._client.nodes}, 60)
                await more(pour)

            pour = await poured(store, sabotage)
            await pour.check(store, durable=False)


async def test_a_failed_save_holds_up_nobody(server: Server, prefix: str) -> None:
    """A push that is refused for good leaves the others of its user in order, in one call and in several."""
    async with aclosing(store_at(server.url, prefix)) as store:
        server.ask("SET", store._names.stream("bad"), "not a stream")
        users = ["alice", "bad", "alice", "bob", "bad"] * 100
        events = [Event(user, "t", number) for number, user in enumerate(users)]
        outcomes = await store.save_many(events)
        for user in ("alice", "bob"):
            stored = (await store.read(user, "0", 1000)).events
            assert [event.payload for event in stored] == [n for n, name in enumerate(users) if name == user]
        assert all(
            isinstance(each, BackendError) == (user == "bad") for user, each in zip(users, outcomes, strict=True)
        )
        assert not store._saver._attempts.held
