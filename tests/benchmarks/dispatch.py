"""Stores of deliveries next to their drivers: four workers claim, begin and finish what is due.

The limit is the least that such a queue can do: one table with a number for its key and an index by due time, and three
statements, each with its commit: claim fifty rows, begin them, finish them. Ours also checks fences and leases, keeps a
list of attempts, looks for what waits for another channel, and returns each row with its notification and recipient.
Once as a batch, for channels that recognise a repetition, and once one by one, for those that do not. The rows about
channels are made in `dispatch_channels`.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiosqlite
import asyncpg

from notify.dispatch.abc import (
    Claim,
    Delivery,
    Move,
    Notification,
    RecipientRecord,
    State,
    Submission,
    delivery_id,
)
from notify_pg import PostgresDispatchStore
from notify_sqlite import SQLiteDispatchStore
from tests.servers.postgres import AS_DEPLOYED, fresh_schema, running

from . import dispatch_channels, dispatch_many
from .harness import ROUNDS, Row, at_least, progress, rate, ratio, run

WORKERS: Final = 4
BATCH: Final = 50
MANY: Final = 4000
FEW: Final = 400
LEASE: Final = 600.0
PATIENCE: Final = 60.0

Step = Callable[[str, Sequence[Any]], Awaitable[Any]]
"""Executes one of the statements for some rows, in a transaction of its own, and returns rows."""

_TABLE = """CREATE TABLE deliveries (id {key}, notification bigint NOT NULL, recipient text NOT NULL,
channel text NOT NULL, endpoint text NOT NULL, state smallint NOT NULL DEFAULT 0, due_at bigint NOT NULL,
fence int NOT NULL DEFAULT 0,
lease_until bigint, attempts smallint NOT NULL DEFAULT 0, reason text, provider_id text)"""
_COLUMNS = ("id", "notification", "recipient", "channel", "endpoint", "due_at")
_INDEX = "CREATE INDEX deliveries_due ON deliveries (due_at) WHERE state < 10"
_CLAIM = """UPDATE deliveries SET state = 1, fence = fence + 1, lease_until = {now} + 600000, due_at = {now} + 600000
WHERE id IN (SELECT id FROM deliveries WHERE state < 10 AND due_at <= {now} ORDER BY due_at LIMIT 50{lock})
RETURNING id, fence"""
_BEGIN = "UPDATE deliveries SET state = 2, attempts = attempts + 1 WHERE {these} AND fence = 1 AND state = 1"
_FINISH = "UPDATE deliveries SET state = 10 WHERE {these} AND fence = 1 AND state = 2"


def _bare_rows(count: int) -> list[tuple[object, ...]]:
    return [
        (number, number, f"user{number % 997}", "email", f"user{number}@example.net", 1)
        for number in range(1, count + 1)
    ]


# -- the drivers -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def bare_sqlite(count: int) -> AsyncIterator[list[Step]]:
    """Return what each worker executes statements with: a connection of its own to one file."""

    def step(db: aiosqlite.Connection) -> Step:
        async def execute(name: str, ids: Sequence[Any]) -> Any:
            await db.execute("BEGIN IMMEDIATE")
            rows: Any = None
            if name == "claim":
                now = int(time.time() * 1000)
                rows = await db.execute_fetchall(_CLAIM.format(now=now, lock=""))
            else:
                sql = (_BEGIN if name == "begin" else _FINISH).format(these="id = ?")
                await db.executemany(sql, [(id,) for id in ids])
            await db.execute("COMMIT")
            return rows

        return execute

    with tempfile.TemporaryDirectory() as directory:
        connections = []
        try:
            for _ in range(WORKERS):
                path = Path(directory) / "bare.db"
                connections.append(await aiosqlite.connect(path, isolation_level=None, timeout=PATIENCE))
                await connections[-1].execute("PRAGMA journal_mode = WAL")
                await connections[-1].execute("PRAGMA synchronous = FULL")
            first = connections[0]
            await first.execute(_TABLE.format(key="INTEGER PRIMARY KEY"))
            await first.execute(_INDEX)
            await first.execute("BEGIN")
            await first.executemany(
                f"INSERT INTO deliveries ({', '.join(_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)",
                _bare_rows(count),
            )
            await first.execute("COMMIT")
            yield [step(connection) for connection in connections]
        finally:
            for connection in connections:
                await connection.close()


@asynccontextmanager
async def bare_postgres(dsn: str, count: int) -> AsyncIterator[list[Step]]:
    """Return what each worker executes statements with: a connection of its own to one server."""

    def step(db: asyncpg.Connection) -> Step:
        claim = _CLAIM.format(now="$1::bigint", lock=" FOR UPDATE SKIP LOCKED")

        async def execute(name: str, ids: Sequence[Any]) -> Any:
            if name == "claim":
                return await db.fetch(claim, int(time.time() * 1000))
            sql = (_BEGIN if name == "begin" else _FINISH).format(these="id = ANY ($1::bigint[])")
            return await db.execute(sql, [*ids])

        return execute

    schema = fresh_schema()
    connections = [await asyncpg.connect(dsn, server_settings={"search_path": schema}) for _ in range(WORKERS)]
    try:
        first = connections[0]
        await first.execute(f"CREATE SCHEMA {schema}")
        await first.execute(_TABLE.format(key="bigint PRIMARY KEY") + " WITH (fillfactor = 70)")
        await first.execute(_INDEX)
        rows = _bare_rows(count)
        await first.copy_records_to_table("deliveries", schema_name=schema, records=rows, columns=_COLUMNS)
        await first.execute("VACUUM ANALYZE deliveries")
        yield [step(connection) for connection in connections]
    finally:
        for connection in connections:
            await connection.close()


async def bare(opened: AbstractAsyncContextManager[list[Step]], size: int) -> float:
    """Deliver all rows by the driver alone, `size` of them to a statement; return the seconds."""

    async def work(execute: Step) -> None:
        while rows := [*await execute("claim", ())]:
            ids = [row[0] for row in rows]
            for start in range(0, len(ids), size):
                await execute("begin", ids[start : start + size])
                await execute("finish", ids[start : start + size])

    async with opened as steps:
        started = time.perf_counter()
        await asyncio.gather(*map(work, steps))
        return time.perf_counter() - started


# -- ours ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def our_sqlite(count: int) -> AsyncIterator[SQLiteDispatchStore]:
    """A store on a new file, filled."""
    with tempfile.TemporaryDirectory() as directory:
        async with SQLiteDispatchStore(Path(directory) / "ours.db", timeout=PATIENCE) as store:
            await fill(store, count)
            yield store


@asynccontextmanager
async def our_postgres(dsn: str, count: int) -> AsyncIterator[PostgresDispatchStore]:
    """A store in a new schema, filled."""
    schema = fresh_schema()
    async with PostgresDispatchStore(dsn, schema=schema, timeout=PATIENCE) as store:
        await fill(store, count)
        connection = await asyncpg.connect(dsn)
        await connection.execute(f"VACUUM ANALYZE {schema}.notify_deliveries")
        await connection.close()
        yield store


async def fill(store: Any, count: int) -> None:
    """Submit as many deliveries, of notifications to a hundred users each."""
    now = datetime.now(UTC)
    for number in range(0, count, 100):
        name, users = f"n{number}", [f"user{user}" for user in range(100)]
        rows = [Delivery(delivery_id(name, user, "email"), name, user, "email", due_at=now) for user in users]
        records = [RecipientRecord(name, user) for user in users]
        await store.submit(Submission(Notification(name, "comment.created", b'{"post":7}', now), records, rows))


async def ours(opened: AbstractAsyncContextManager[Any], size: int) -> float:
    """Deliver all rows by a store, `size` of them to a call; return the seconds."""

    def moves(claims: Sequence[Claim], to: State) -> list[Move]:
        return [Move(claim.delivery.id, claim.delivery.fence, to) for claim in claims]

    async def work(store: Any) -> None:
        while claims := await store.claim(datetime.now(UTC), lease=LEASE, limit=BATCH):
            for start in range(0, len(claims), size):
                part = claims[start : start + size]
                assert all(await store.advance(moves(part, State.SENDING), datetime.now(UTC)))
                assert all(await store.advance(moves(part, State.ACCEPTED), datetime.now(UTC)))

    async with opened as store:
        started = time.perf_counter()
        await asyncio.gather(*(work(store) for _ in range(WORKERS)))
        return time.perf_counter() - started


def measure() -> list[Row]:
    """Measure everything."""
    with running(AS_DEPLOYED) as server:
        places: dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]] = {
            "sqlite": (bare_sqlite, our_sqlite),
            "postgres": (partial(bare_postgres, server.dsn), partial(our_postgres, server.dsn)),
        }
        rows = dispatch_many.measure(server.dsn)
        for place, (limit, store) in places.items():
            for size, count, how in ((BATCH, MANY, "fifty at a time"), (1, FEW, "one by one")):
                theirs, mine = list[float](), list[float]()
                for number in range(1, ROUNDS + 1):
                    progress(f"dispatch, {place}, {how}: round {number} of {ROUNDS}")
                    theirs.append(run(lambda: bare(limit(count), size)))  # noqa: B023 - called at once
                    mine.append(run(lambda: ours(store(count), size)))  # noqa: B023 - called at once
                spread = ratio(theirs, mine)
                rows.append(
                    Row(
                        f"deliveries claimed, begun and finished {how}, {place}",
                        "1/s",
                        rate(count, mine),
                        rate(count, theirs),
                        spread,
                        at_least(spread, 0.5),
                    )
                )
        return rows + dispatch_channels.rows()
