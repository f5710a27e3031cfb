"""On every backend alike: streams that cannot open, pushes to thousands, and trackers that hold thousands."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import asyncpg  # type: ignore[import-untyped]
import pytest

from notify import PresenceTracker, Store
from notify.errors import BackendUnavailableError
from notify_pg import PostgresPresence
from notify_redis import RedisPresence
from notify_sqlite import SQLitePresence
from tests.parts import until
from tests.servers.postgres import Server as PostgresServer
from tests.servers.redis import Server as RedisServer

from .conftest import Start
from .places import PLAIN, STREAMING, Parts, Place

pytestmark = pytest.mark.anyio

MANY = 10_000
HOLDERS = 3000
TTL = 1.5


@pytest.mark.parametrize("backend", [*PLAIN[1:], *STREAMING[1:]], ids=lambda backend: backend.__name__)
async def test_a_stream_of_a_dead_server(
    own_place: Place, own_redis: RedisServer, own_postgres: PostgresServer, start: Start, backend: type[Store]
) -> None:
    """Opening raises the library's error in time and leaves no stream; when the server is back, it opens."""
    notifier = await start(own_place, Parts(backend), timeout=1.0, patience=0.8)
    own_redis.kill()
    own_postgres.kill()
    for last_id in (None, "0"):
        with pytest.raises(BackendUnavailableError), anyio.fail_after(10):
            async with notifier.subscribe("alice", last_id):
                pytest.fail("it cannot have opened")
        assert notifier.statistics().open_streams == notifier.statistics().users == 0
    own_redis.start()
    own_postgres.start()

    async def opens() -> bool:
        try:
            async with notifier.subscribe("alice"):
                return True
        except BackendUnavailableError:
            return False

    await until(opens, 20)


@pytest.mark.parametrize("backend", STREAMING, ids=lambda backend: backend.__name__)
async def test_single_pushes_beside_a_push_to_thousands(place: Place, start: Start, backend: type[Store]) -> None:
    """While ten thousand users are pushed to, others' pushes are stored and delivered in between."""
    notifier = await start(place, Parts(backend), timeout=20.0)
    async with notifier.subscribe("alice") as stream:
        await notifier.push("alice", "t", "before")
        assert (await stream.next(timeout=10)).payload == "before"
        task = asyncio.ensure_future(notifier.push_many([f"user{number}" for number in range(MANY)], "t", 1))
        meanwhile = 0
        while not task.done():
            event = await notifier.push("alice", "t", meanwhile)
            assert await stream.next(timeout=10) == event
            meanwhile += 1
        report = await task
    assert len(report.events) == MANY
    assert not report.failed
    assert meanwhile >= 3


@asynccontextmanager
async def counting(place: Place, kind: type[PresenceTracker], redis: RedisServer) -> AsyncIterator[Callable[[], Any]]:
    """A function that returns how many commands or transactions the backend has seen."""
    if kind is RedisPresence:
        yield lambda: int(redis.ask("INFO", "stats")["total_commands_processed"])
    elif kind is PostgresPresence:
        sql = await asyncpg.connect(place.dsn)
        try:
            yield lambda: sql.fetchval("SELECT sum(xact_commit) FROM pg_stat_database")
        finally:
            await sql.close()
    else:
        with sqlite3.connect(place.file) as file:
            yield lambda: file.execute("PRAGMA data_version").fetchone()[0]
        file.close()


@pytest.mark.parametrize("kind", [SQLitePresence, RedisPresence, PostgresPresence], ids=lambda kind: kind.__name__)
async def test_thousands_of_registrations(
    own_place: Place, own_redis: RedisServer, kind: type[PresenceTracker]
) -> None:
    """Three thousand holders are refreshed together: a handful of tasks and commands, and all of them stay online."""
    async with aclosing(own_place.make(kind, ttl=TTL)) as tracker, aclosing(own_place.make(kind, ttl=TTL)) as other:
        await tracker.register("first")
        tasks = len(asyncio.all_tasks())
        users = [f"user{number}" for number in range(HOLDERS)]
        for begin in range(0, HOLDERS, 500):
            async with anyio.create_task_group() as group:
                for user in users[begin : begin + 500]:
                    group.start_soon(tracker.register, user)
        assert len(asyncio.all_tasks()) <= tasks + 5
        async with counting(own_place, kind, own_redis) as count:

            async def counted() -> int:
                number = count()
                return int(await number if asyncio.iscoroutine(number) else number)

            await anyio.sleep(2 * TTL)  # what is counted is what happens by itself
            before = await counted()
            await anyio.sleep(2 * TTL)
            assert await counted() - before < 100
        assert len(await other.locate(users)) == HOLDERS
