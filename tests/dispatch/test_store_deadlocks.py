"""Concurrent calls that lock many rows of a store in PostgreSQL: they never deadlock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from notify.dispatch.abc import Delivery, Move, Notification, RecipientRecord, State, Submission, delivery_id
from notify_pg import PostgresDispatchStore
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=1)
ROWS = 250
ROUNDS = 12


async def deadlocks(connection: asyncpg.Connection) -> int:
    """Return how many deadlocks the server has ended in this database; connections tell that when they end."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    async with asyncio.timeout(60):
        while await connection.fetchval(others):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    return int(await connection.fetchval(query))


async def at_once(calls: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Call all of them at the same time, in a random order."""
    await asyncio.gather(*(call() for call in random.sample(calls, len(calls))))


@asynccontextmanager
async def two_processes(postgres: Server) -> AsyncIterator[tuple[PostgresDispatchStore, PostgresDispatchStore]]:
    """Yield the stores of two processes; in the end the server has found no deadlock."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    try:
        before = await deadlocks(connection)
        async with (
            PostgresDispatchStore(postgres.dsn, schema=schema, timeout=60.0) as store,
            PostgresDispatchStore(postgres.dsn, schema=schema, timeout=60.0) as other,
        ):
            yield store, other
        assert await deadlocks(connection) == before
    finally:
        await connection.close()


async def test_many_rows_of_one_user(postgres: Server) -> None:
    """Cancelling, hurrying, erasing and purging lock rows in one order, whatever order they are stored in."""
    async with two_processes(postgres) as (store, other):
        for number in range(ROUNDS):
            name = f"n{number}"
            ids = [delivery_id(name, "alice", "push", f"e{place}") for place in range(ROWS)]
            rows = [
                Delivery(
                    id,
                    name,
                    "alice",
                    "push",
                    f"e{place}",
                    due_at=LATER,
                    state=random.choice((State.WAITING, State.PARKED)),
                )
                for place, id in enumerate(ids)
            ]
            await store.submit(Submission(Notification(name, "t", b"{}", NOW), [RecipientRecord(name, "alice")], rows))
            await at_once(
                [
                    lambda name=name: store.cancel(name, NOW),  # type: ignore[misc]
                    lambda: other.hurry(NOW, user="alice"),
                    lambda: store.hurry(NOW, user="alice"),
                    lambda: other.hurry(NOW, user="alice", channel="push"),
                    lambda name=name: other.cancel(name, NOW, user="alice"),  # type: ignore[misc]
                    lambda: other.forget("alice"),
                    lambda: store.purge(LATER),
                ]
            )


async def test_many_rows_of_one_channel(postgres: Server) -> None:
    """A channel that works again meets who cancels what waits for it."""
    async with two_processes(postgres) as (store, other):
        for number in range(ROUNDS):
            name, users = f"n{number}", [f"u{place}" for place in range(ROWS)]
            rows = []
            for place, user in enumerate(users):
                state, due = random.choice((State.WAITING, State.PARKED)), LATER - timedelta(seconds=place)
                rows.append(Delivery(delivery_id(name, user, "push"), name, user, "push", due_at=due, state=state))
            records = [RecipientRecord(name, user) for user in users]
            await store.submit(Submission(Notification(name, "t", b"{}", NOW), records, rows))
            await at_once(
                [
                    lambda: store.hurry(NOW, channel="push"),
                    lambda: other.hurry(NOW, channel="push"),
                    lambda name=name: store.cancel(name, NOW),  # type: ignore[misc]
                    lambda name=name: other.cancel(name, NOW, channel="push"),  # type: ignore[misc]
                ]
            )


async def test_what_waits_for_another_channel(postgres: Server) -> None:
    """A worker that ends deliveries, and so makes others due, does not meet who cancels or erases all of them."""
    async with two_processes(postgres) as (store, other):
        for number in range(ROUNDS):
            name, users = f"n{number}", [f"u{place}" for place in range(ROWS // 2)]
            rows = []
            for user in users:
                rows.append(Delivery(delivery_id(name, user, "push"), name, user, "push", due_at=NOW))
                rows.append(Delivery(delivery_id(name, user, "email"), name, user, "email", after="push", delay=60.0))
            records = [RecipientRecord(name, user) for user in users]
            await store.submit(Submission(Notification(name, "t", b"{}", NOW), records, rows))
            claims = await store.claim(NOW, lease=600.0, limit=ROWS)
            moves = [Move(each.delivery.id, each.delivery.fence, State.SKIPPED) for each in claims]
            await at_once(
                [
                    lambda moves=moves: store.advance(moves, NOW),  # type: ignore[misc]
                    lambda name=name: other.cancel(name, NOW),  # type: ignore[misc]
                    lambda: other.hurry(NOW, user="u0"),
                    lambda: store.forget("u1"),
                ]
            )


async def test_moves_in_any_order(postgres: Server) -> None:
    """Calls that move the same deliveries, each in an order of its own, wait for each other; one of them moves all."""
    async with two_processes(postgres) as (store, other):
        for number in range(ROUNDS):
            name, users = f"n{number}", [f"u{place}" for place in range(ROWS)]
            rows = [Delivery(delivery_id(name, user, "push"), name, user, "push", due_at=NOW) for user in users]
            records = [RecipientRecord(name, user) for user in users]
            await store.submit(Submission(Notification(name, "t", b"{}", NOW), records, rows))
            claims = await store.claim(NOW, lease=600.0, limit=ROWS)
            moves = [Move(each.delivery.id, each.delivery.fence, State.SENDING) for each in claims]
            each_order = (random.sample(moves, ROWS) for _ in range(4))
            made = await asyncio.gather(
                *(each.advance(order, NOW) for each, order in zip((store, other) * 2, each_order, strict=True))
            )
            assert sorted(map(sum, made)) == [0, 0, 0, ROWS]
