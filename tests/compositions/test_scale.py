"""Many users in one instance: none waits for a connection, and the server counts few of them."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import asyncpg  # type: ignore[import-untyped]
import pytest

from notify import Notifier, Stream
from tests.parts import until, untraced
from tests.servers.redis import Cluster, Server, cluster

from .conftest import Start
from .places import COMPOSITIONS, Place

pytestmark = pytest.mark.anyio

CLIENTS = 200
USERS = 10_000


@pytest.mark.parametrize("composition", ["redis", "postgres", "redis-redis-redis", "postgres-postgres-postgres"])
async def test_more_subscribers_than_connections(place: Place, start: Start, composition: str) -> None:
    """Two hundred users wait on pools of default size: each gets what is pushed elsewhere, again and again."""
    one, two = [await start(place, COMPOSITIONS[composition]) for _ in range(2)]
    users = [f"user{number}" for number in range(CLIENTS)]
    waiting = 0
    got: dict[str, list[int]] = {}

    async def read(user: str) -> None:
        nonlocal waiting
        async with two.subscribe(user) as stream:
            waiting += 1
            got[user] = [(await stream.next(timeout=20)).payload for _ in range(3)]

    async with anyio.create_task_group() as tasks:
        for user in users:
            tasks.start_soon(read, user)
        await until(lambda: waiting == CLIENTS, 20)
        for value in range(3):
            async with anyio.create_task_group() as pushes:
                for user in users:
                    pushes.start_soon(one.push, user, "t", value)
    assert got == {user: [0, 1, 2] for user in users}


async def open_streams(notifier: Notifier, count: int) -> list[Stream]:
    """Open a stream for each of so many users; who drops them closes them."""
    streams = [notifier.subscribe(f"user{number}") for number in range(count)]
    with untraced():
        for begin in range(0, count, 500):
            async with anyio.create_task_group() as tasks:
                for stream in streams[begin : begin + 500]:
                    tasks.start_soon(stream.__aenter__)
    assert notifier.statistics().users == count
    return streams


async def push_some(one: Notifier, streams: Sequence[Stream]) -> None:
    """Push to a hundred users elsewhere, and see it arrive."""
    report = await one.push_many([f"user{number}" for number in range(0, USERS, 100)], "t", 1)
    for stream in streams[::100]:
        assert await stream.next(timeout=20) == report.events[stream.user]


def connections(server: Server) -> int:
    """How many clients the server counts, without the one that asks."""
    kinds = [server.ask("CLIENT", "LIST", "TYPE", kind).splitlines() for kind in ("normal", "pubsub")]
    return sum(map(len, kinds)) - 1


async def test_connections_to_redis(own_place: Place, own_redis: Server, start: Start) -> None:
    """An instance with ten thousand subscribed users has three connections to the server, and a second one three."""
    one = await start(own_place, COMPOSITIONS["redis"])
    two = await start(own_place, COMPOSITIONS["redis"])
    before = connections(own_redis)
    streams = await open_streams(two, USERS)
    assert connections(own_redis) - before <= 3
    await push_some(one, streams)
    assert connections(own_redis) - before <= 6


async def test_connections_to_a_cluster(own_place: Place, start: Start) -> None:
    """Three connections to each node of a cluster, for ten thousand users all over it."""
    with cluster() as nodes:
        here = Place(nodes.url, own_place.dsn, own_place.name, own_place.file)
        one, two = [await start(here, COMPOSITIONS["redis"]) for _ in range(2)]
        before = counts(nodes)
        streams = await open_streams(two, USERS)
        assert all(now - then <= 3 for now, then in zip(counts(nodes), before, strict=True))
        await push_some(one, streams)
        assert all(now - then <= 6 for now, then in zip(counts(nodes), before, strict=True))
        await two.aclose()
        await one.aclose()


def counts(nodes: Cluster) -> list[int]:
    return [connections(each) for each in nodes.masters]


LISTENING = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND query LIKE $1"
ALL = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


async def test_connections_to_postgres(own_place: Place, start: Start) -> None:
    """An instance with ten thousand subscribed users listens over one connection, beside its pool of eight."""
    sql = await asyncpg.connect(own_place.dsn)
    try:
        one = await start(own_place, COMPOSITIONS["postgres"])
        two = await start(own_place, COMPOSITIONS["postgres"])
        streams = await open_streams(two, USERS)
        await push_some(one, streams)
        assert await sql.fetchval(LISTENING, f"%{own_place.name}.%") == 1
        assert await sql.fetchval(ALL) <= 2 * 8 + 1
    finally:
        await sql.close()
