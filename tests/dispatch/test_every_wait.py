"""Submitting, cancelling, erasing and sending, cancelled at every single wait, by `Task.cancel` and by a cancel scope.

The cancelled call is done, not done, or can be repeated: nothing is half stored, lost, doubled, held for longer than a
lease, or unavailable to the next call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify.dispatch import Digest, FrequencyCap, NotificationType, Recipient, Schedule, State
from notify.testing.dispatch import VirtualClock
from notify_pg import PostgresDispatchStore
from notify_sqlite import SQLiteDispatchStore
from tests.dispatch.cancelling import MOST, How, WaitingStore, cancelled_at, never
from tests.dispatch.world import START, World
from tests.parts import until
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

from .dispatching import OPEN

LEASE = 60.0

TYPES = [
    NotificationType("note", channels=["in_app", "email", "web_push"], caps=[FrequencyCap(1000)]),
    NotificationType("sum", channels=["email"], digest=Digest(window=60.0)),
    NotificationType("news", channels=["email"]),
]

ALL = {"in_app": [State.ACCEPTED], "email": [State.ACCEPTED], "web_push": [State.ACCEPTED]}

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize(
        ("anyio_backend", "kind", "how"),
        [
            ("asyncio", "memory", "task"),
            ("asyncio", "memory", "scope"),
            ("trio", "memory", "scope"),
            ("asyncio", "sqlite", "task"),
            ("asyncio", "sqlite", "scope"),
            ("asyncio", "postgres", "task"),
            ("asyncio", "postgres", "scope"),
        ],
    ),
]


class Stage:
    """One store, on which each example has a user and a dispatcher of its own.

    The store has one connection: if a cancelled call kept it, no later call would get any.
    """

    def __init__(self, store: Any, clock: VirtualClock, server: tuple[str, str] | None) -> None:
        self.store = store
        self.clock = clock
        self._server = server
        self._users = 0

    def world(self) -> tuple[World, str]:
        """Return a dispatcher with everything around it, as a new process has it, and a user."""
        self._users += 1
        world, user = World(TYPES, self.clock, self.store), f"u{self._users:03}"

        async def recipients(ids: Sequence[str]) -> list[Recipient]:
            await anyio.lowlevel.checkpoint()
            return [Recipient(each) for each in ids]

        object.__setattr__(world.dispatcher._parts, "recipients", recipients)
        return world, user

    async def rows(self, user: str) -> list[Any]:
        """Return the deliveries of a user, and of those whose names begin so, that were not expanded."""
        found = await self.store.stuck([*State], limit=100_000)
        return [each for each in found if each.user.startswith(user) and each.state is not State.EXPANDED]

    async def check_leases(self, user: str) -> None:
        """Check that what is claimed is not so for longer than a lease."""
        for each in await self.rows(user):
            if each.state in (State.CLAIMED, State.SENDING):
                assert each.due_at <= await self._now() + timedelta(seconds=LEASE + 1)

    async def _now(self) -> Any:
        if self._server is None:
            return self.clock.now()
        (now,) = await self._query("SELECT now()")
        return now

    async def end_leases(self) -> None:
        """Let all leases end."""
        self.clock.advance(LEASE + 1)
        if self._server is not None:
            await self._query(f"UPDATE {self._server[1]}.notify_deliveries SET lease_until = 0 RETURNING 1")

    async def _query(self, query: str) -> Any:
        import asyncpg

        assert self._server is not None
        connection = await asyncpg.connect(self._server[0])
        try:
            return await connection.fetchrow(query)
        finally:
            await connection.close()

    async def finish(self, world: World) -> None:
        """Let what a cancelled call has left come to its end."""
        with anyio.fail_after(60):
            await world.settle()
        await self.end_leases()
        with anyio.fail_after(60):
            await world.settle()
        await world.notifier.aclose()


@pytest.fixture
async def stage(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """An empty store."""
    async with _opened(kind, tmp_path, request) as found:
        yield found


@asynccontextmanager
async def _opened(kind: str, folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    clock = VirtualClock(START)
    if kind == "memory":
        async with WaitingStore(clock=clock) as store:
            yield Stage(store, clock, None)
    elif kind == "sqlite":
        path = folder / "dispatch.db"
        async with SQLiteDispatchStore(path, clock=clock, synchronous="NORMAL", timeout=60.0) as file:
            yield Stage(file, clock, None)
    else:
        server: Server = request.getfixturevalue("postgres")
        schema = fresh_schema()
        dsn = f"{server.dsn}?synchronous_commit=off"
        async with PostgresDispatchStore(dsn, schema=schema, pool_size=1, timeout=60.0) as rows:
            yield Stage(rows, clock, (server.dsn, schema))


async def at_each_wait(how: How, example: Callable[[int], Coroutine[Any, Any, bool]]) -> None:
    """Run an example for n = 1, 2, 3, until a call has fewer waits."""
    for number in range(1, MOST):
        if not await example(number):
            assert number > 1, "nothing was ever cancelled"
            return
    pytest.fail("the call never ended")


async def test_submit(stage: Stage, how: How) -> None:
    """It is stored with all its deliveries, or not at all; repeated, it is sent once over each channel."""

    async def example(number: int) -> bool:
        world, user = stage.world()
        await world.device(user, user)

        async def submit() -> Any:
            return await world.dispatcher.submit("note", user, {"n": 1}, idempotency_key=user)

        is_struck = await cancelled_at(number, how, submit, never)
        assert len(await stage.rows(user)) in (0, 3)
        ticket = await submit()
        assert Counter(each.notification for each in await stage.rows(user)) == {ticket.id: 3}
        await stage.finish(world)
        assert await world.states(ticket.id, user) == ALL
        assert [len(each.jobs) for each in (world.in_app, world.email, world.push)] == [1, 1, 1]
        return is_struck

    await at_each_wait(how, example)


async def test_submit_without_a_key(stage: Stage, how: How) -> None:
    """It is stored with all its deliveries, which are sent, or not at all."""

    async def example(number: int) -> bool:
        world, user = stage.world()
        await world.device(user, user)

        async def submit() -> Any:
            return await world.dispatcher.submit("note", user, {"n": 1})

        is_struck = await cancelled_at(number, how, submit, never)
        await world.dispatcher.cancel("nothing")  # comes after the write, whose wait was abandoned
        await stage.finish(world)
        sent = [len([job for job in each.jobs if job.user == user]) for each in (world.in_app, world.email, world.push)]
        assert sent in ([0, 0, 0], [1, 1, 1])
        assert [each.state for each in await stage.rows(user)] == [State.ACCEPTED] * sum(sent)
        return is_struck

    await at_each_wait(how, example)


async def test_submit_many(stage: Stage, how: How) -> None:
    """Some batches are stored; repeated, it goes on, and each recipient gets one message."""

    async def example(number: int) -> bool:
        world, user = stage.world()
        users = [f"{user}-{each}" for each in range(5)]

        async def submit() -> Any:
            return await world.dispatcher.submit_many("news", users, {"n": 1}, idempotency_key=user, batch=2)

        is_struck = await cancelled_at(number, how, submit, never)
        assert len(await stage.rows(user)) in (0, 2, 4, 5)
        ticket = await submit()
        assert {each.notification for each in await stage.rows(user)} == {ticket.id}
        await stage.finish(world)
        assert sorted(job.user for job in world.email.jobs) == users
        return is_struck

    await at_each_wait(how, example)


async def test_cancel(stage: Stage, how: How) -> None:
    """All of it is stopped, or none; repeated, nothing is sent."""

    async def example(number: int) -> bool:
        world, user = stage.world()
        ticket = await world.dispatcher.submit("note", user)

        async def cancel() -> None:
            await world.dispatcher.cancel(ticket)

        is_struck = await cancelled_at(number, how, cancel, never)
        assert len({each.state for each in await stage.rows(user)}) == 1
        await cancel()
        assert {each.state for each in await stage.rows(user)} == {State.CANCELLED}
        await stage.finish(world)
        assert not world.in_app.jobs + world.email.jobs
        return is_struck

    await at_each_wait(how, example)


async def test_forget(stage: Stage, how: How) -> None:
    """Some of it may be erased; repeated, all of it is, and nothing is sent any more."""

    async def example(number: int) -> bool:
        world, user = stage.world()
        await world.device(user, user)
        await world.dispatcher.set_preferences(user, {"channels": {"web_push": False}})
        sent = await world.dispatcher.submit("note", user)
        await world.settle()
        waiting = [await world.dispatcher.submit(key, user) for key in ("note", "sum")]
        before = len(world.email.jobs)

        async def forget() -> None:
            await world.dispatcher.forget(user)

        is_struck = await cancelled_at(number, how, forget, never)
        await forget()
        assert await stage.rows(user) == []
        assert [await stage.store.record(each.id, user) for each in (sent, *waiting)] == [None] * 3
        assert await stage.store.preferences([user]) == {}
        assert await stage.store.endpoints([user], retired=True) == {}
        stage.clock.advance("2m")  # the end of the digest
        await stage.finish(world)
        assert len(world.email.jobs) == before
        return is_struck

    await at_each_wait(how, example)


@pytest.mark.parametrize("method", ["tick", "run"])
async def test_sending(stage: Stage, how: How, method: str) -> None:
    """What has begun is finished; the rest is sent once, by whoever comes next, after the lease at the latest."""

    async def example(number: int) -> bool:
        world, user = stage.world()
        await world.device(user, user)
        await world.dispatcher.submit("sum", user, {"n": 1})
        await world.dispatcher.submit("sum", user, {"n": 2})
        stage.clock.advance("1m")  # the end of the digest
        ticket = await world.dispatcher.submit("note", user)

        async def is_sent() -> bool:
            rows = await stage.rows(user)
            return len(rows) == 4 and {each.state for each in rows} == {State.ACCEPTED}

        async def over() -> None:
            await (until(is_sent, 60) if method == "run" else never())

        call = world.dispatcher.tick if method == "tick" else lambda: world.dispatcher.run(poll_interval=0.01)
        is_struck = await cancelled_at(number, how, call, over)
        assert all(each.state is not State.SENDING for each in await stage.rows(user))
        await stage.check_leases(user)
        was_sent = await is_sent()
        await stage.finish(world)
        assert await world.states(ticket.id, user) == ALL
        assert Counter(job.type for job in world.email.jobs) == {"note": 1, "sum": 1}
        assert [len(each.jobs) for each in (world.in_app, world.push)] == [1, 1]
        assert not [each for each in await stage.rows(user) if each.state in OPEN]
        return is_struck and not was_sent

    await at_each_wait(how, example)


async def test_schedules(stage: Stage, how: How) -> None:
    """A run that is interrupted goes on with the next process, and each recipient gets one message."""

    async def example(number: int) -> bool:
        world, user = stage.world()
        users = [f"{user}-{each}" for each in range(3)]
        stage.clock.set(stage.clock.now().replace(hour=8, minute=59, second=0) + timedelta(days=1))
        schedule = Schedule(user, "news", users, tz="UTC", grace=80_000.0)
        world.dispatcher.schedule(schedule)
        await world.settle()
        stage.clock.advance("2m")
        is_struck = await cancelled_at(number, how, world.dispatcher.tick, never)
        await stage.finish(world)
        assert sorted(job.user for job in world.email.jobs) == users
        return is_struck

    await at_each_wait(how, example)
