"""Calls read only the rows they need, however many wait for other channels or have ended: counted, not timed."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import anyio.lowlevel
import asyncpg
import pytest

from notify.dispatch.abc import Move, State
from notify_pg import PostgresDispatchStore
from notify_sqlite._delivery_rows import DeliveryRows
from notify_sqlite._schema import create, statements
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

T = TypeVar("T")

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])

COUNT = 20_000
"""Deliveries over channels that are not asked for: of these that are due, that are not yet, and that were skipped."""

NOW = 10**6
CLOCK = NOW

ROWS = {
    "email": (COUNT, State.WAITING, NOW - 1000),
    "letter": (COUNT, State.WAITING, NOW + 1000),
    "skipped": (COUNT, State.SKIPPED, NOW - 1000),
    "push": (60, State.WAITING, NOW),
    "fax": (60, State.WAITING, NOW + 1000),
    "sms": (10, State.PARKED, NOW),
}
"""Deliveries of each channel: how many, their state, when they are due; at two priorities."""

INSERT = """INSERT INTO {table} (id, notification_id, user_id, channel, endpoint, state, due_at, priority,
after_channel, delay, fence, attempts, reason, provider_id, updated_at) """

JOINED = (
    (
        "digests",
        "id, key, generation, is_open, user_id, type, channels, opened_at, closes_at, due_at, count",
        """'d' || n, 'k' || n, 1, true, 'user' || n, 't', '["email"]', 0, 0, 0, 1""",
    ),
    ("digest_items", "key, notification_id, digest_id, joined_at", "'k' || n, 'm', 'd' || n, 0"),
)
"""A notification that each of its many recipients has in a digest: tables, columns, values for the number n."""

SCANNING = {
    "in_states": "a state that no index has, asked for by an operator: in order of the ids, from one of them",
    "notifications_of_user": "erasing a user",
    "forget_items": "erasing a user",
    "forget_digests": "erasing a user",
    "forget_verdicts": "erasing a user",
    "forget_requests": "erasing a user",
}
"""Statements that may read a table through, and why."""


# -- PostgreSQL ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def filled(postgres: Server) -> AsyncIterator[tuple[asyncpg.Connection, PostgresDispatchStore]]:
    """A connection with the settings of the store's own ones, and a store on these rows; they were never analysed."""
    schema = fresh_schema()
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as store:
        connection = await asyncpg.connect(postgres.dsn)
        table = f"{schema}.notify_deliveries"
        await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        for channel, (count, state, due_at) in ROWS.items():
            await connection.execute(
                INSERT.format(table=table) + f"SELECT '{channel}' || n, 'n' || n, 'alice', '{channel}', '', {state:d}, "
                f"{due_at}, n % 2, '', 0, 0, 0, '', '', 0 FROM generate_series(1, {count}) AS n"
            )
        prefix = f"{schema}.notify_"
        await connection.execute(
            f"INSERT INTO {prefix}notifications (id, type, data, created_at, meta) "
            f"SELECT 'n' || n, 't', '{{}}', {NOW}, '{{}}' FROM generate_series(1, 100) AS n"
        )
        await connection.execute(
            f"INSERT INTO {prefix}recipients SELECT 'n' || n, 'alice', '[]', '' FROM generate_series(1, 100) AS n"
        )
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        yield connection, store
        await connection.close()


async def blocks(connection: asyncpg.Connection, query: str, *arguments: object) -> int:
    """Return how many blocks a statement looks at: in the second of two times, since the first one plans."""
    for _ in range(2):
        found = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", *arguments))
    plan = found[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@asyncio_only
@pytest.mark.parametrize("channels", [["push"], ["fax"], ["sms", "webhook"], [f"schedule:{n}" for n in range(20)]])
@pytest.mark.anyio
async def test_claims_of_other_channels(
    filled: tuple[asyncpg.Connection, PostgresDispatchStore], channels: list[str]
) -> None:
    """What is due over a channel that has no room is not read by the claims of the others, whether they find any."""
    connection, store = filled
    claim = store._names.sql("dispatch_claim")
    assert await blocks(connection, claim, NOW, 60_000, 10, channels) < 500


@asyncio_only
@pytest.mark.anyio
async def test_what_waits_for_no_channel(filled: tuple[asyncpg.Connection, PostgresDispatchStore]) -> None:
    """To find out that nothing waits for a delivery that has ended, no row is read."""
    connection, store = filled
    settle = f"SELECT {store._names.function('settle_deliveries')}($1, $2, $3, $4)"
    names = [f"n{number}" for number in range(1, 51)]
    assert await blocks(connection, settle, names, ["alice"] * 50, ["push"] * 50, NOW) < 150


@asyncio_only
@pytest.mark.anyio
async def test_releasing_a_channel(filled: tuple[asyncpg.Connection, PostgresDispatchStore]) -> None:
    """Neither what waits for other channels is read, nor what has ended."""
    connection, store = filled
    for channel in ("fax", "sms", "webhook"):
        statement = store._names.sql("dispatch_hurry_channel")
        assert await blocks(connection, statement, NOW, channel, 10) < 300


@asyncio_only
@pytest.mark.anyio
async def test_the_channels_of_what_is_open(filled: tuple[asyncpg.Connection, PostgresDispatchStore]) -> None:
    """They are found in steps of the index, not by reading what is open."""
    connection, store = filled
    assert await store.open_channels() == ["email", "fax", "letter", "push"]
    assert await blocks(connection, store._names.sql("dispatch_channels")) < 100


@asyncio_only
@pytest.mark.anyio
async def test_listing_what_needs_an_operator(filled: tuple[asyncpg.Connection, PostgresDispatchStore]) -> None:
    """What was skipped is not read to find what has failed."""
    connection, store = filled
    for state in (State.UNKNOWN, State.PARKED, State.FAILED):
        assert await blocks(connection, store._names.sql("dispatch_stuck_late"), int(state), "", 100) < 50


@asyncio_only
@pytest.mark.anyio
async def test_no_step_of_a_delivery_is_compiled(filled: tuple[asyncpg.Connection, PostgresDispatchStore]) -> None:
    """Once the tables are analysed, plans cost enough for the server to compile them, which takes longest of all."""
    connection, store = filled
    plans: list[str] = []
    for table in ("deliveries", "notifications", "recipients"):
        await connection.execute(f"VACUUM ANALYZE {store._names.table(table)}")
    await connection.execute(
        "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; "
        "SET client_min_messages = log; SET jit = on; SET jit_above_cost = 100"
    )
    connection.add_log_listener(lambda _, message: plans.append(str(message.message)))
    (claim,) = await connection.fetch(store._names.sql("dispatch_claim"), NOW, 60_000, 1, ["push"])
    cancel = f"SELECT {store._names.function('cancel_deliveries')}($1, $2, NULL, NULL, NULL, '')"
    assert await connection.fetchval(cancel, claim["notification_id"], NOW) > 0
    assert await connection.fetchval("SELECT 1") == 1  # the messages of the calls before have come by now
    await anyio.lowlevel.checkpoint()
    assert [plan for plan in plans if "WITH claimed AS" in plan]
    assert not [plan for plan in plans if "JIT:" in plan]


@asyncio_only
@pytest.mark.parametrize("is_analysed", [False, True])
@pytest.mark.anyio
async def test_cancelling_for_one_recipient_of_many(
    filled: tuple[asyncpg.Connection, PostgresDispatchStore], is_analysed: bool
) -> None:
    """Neither the deliveries nor the digests of the others are read."""
    connection, store = filled
    await connection.execute(
        INSERT.format(table=store._names.table("deliveries"))
        + f"SELECT 'm' || n, 'm', 'user' || n, 'email', '', 0, {NOW}, 0, '', 0, 0, 0, '', '', 0 "
        f"FROM generate_series(1, {COUNT}) AS n"
    )
    for table, columns, values in JOINED:
        await connection.execute(
            f"INSERT INTO {store._names.table(table)} ({columns}) SELECT {values} FROM generate_series(1, {COUNT}) AS n"
        )
        if is_analysed:
            await connection.execute(f"ANALYZE {store._names.table(table)}")
    cancel = f"SELECT {store._names.function('cancel_deliveries')}($1, $2, $3, $4, $5, '')"
    for channel, only in ((None, None), ("email", '["email"]')):
        assert await blocks(connection, cancel, "m", NOW, "user7", channel, only) < 100
    assert await connection.fetchval(cancel, "m", NOW, "user8", "email", '["email"]') == 2
    assert await connection.fetchval(cancel, "m", NOW, None, None, None) == 2 * COUNT - 4


# -- SQLite ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A file with these rows."""
    with closing(sqlite3.connect(tmp_path / "dispatch.db")) as db:
        create(db, statements("dispatch", "notify_"))
        for channel, (count, state, due_at) in ROWS.items():
            db.executemany(
                INSERT.format(table="notify_deliveries")
                + "VALUES (?, 'n', 'alice', ?, '', ?, ?, ?, '', 0, 0, 0, '', '', 0)",
                [(f"{channel}{number}", channel, int(state), due_at, number % 2) for number in range(count)],
            )
        db.execute("INSERT INTO notify_notifications (id, type, data, created_at, meta) VALUES ('n', 't', '', 0, '')")
        db.execute("INSERT INTO notify_recipients VALUES ('n', 'alice', '', '')")
        yield db


def steps(db: sqlite3.Connection, act: Callable[[DeliveryRows], object]) -> int:
    """Return how many hundred steps the database's machine makes for a call."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    db.set_progress_handler(step, 100)
    act(DeliveryRows(db, statements("dispatch", "notify_")))
    db.set_progress_handler(None, 0)
    return count


def test_claims_of_other_channels_in_a_file(file: sqlite3.Connection) -> None:
    """What is due over a channel that has no room is not read by the claims of the others, whether they find any."""
    for channels in (["push"], ["fax"], ["sms", "webhook"], [f"schedule:{n}" for n in range(20)]):
        assert steps(file, lambda rows: rows.due(NOW, CLOCK, 1, channels)) < 100  # noqa: B023 - called at once
        assert steps(file, lambda rows: rows.claim(NOW, CLOCK, 60.0, 10, channels)) < 100  # noqa: B023


def reads(db: sqlite3.Connection, act: Callable[[DeliveryRows], T]) -> tuple[int, T]:
    """Return how many statements of a call read, and what it returns."""
    found: list[str] = []
    db.set_trace_callback(found.append)
    result = act(DeliveryRows(db, statements("dispatch", "notify_")))
    db.set_trace_callback(None)
    return sum(each.startswith("SELECT") for each in found), result


def test_a_batch_in_a_file_reads_as_often_as_one_row(file: sqlite3.Connection) -> None:
    """Claiming, beginning and finishing twenty rows takes as many reads as of one row: all are read at once."""
    counts = []
    for limit in (1, 20):
        count, claims = reads(file, lambda rows: rows.claim(NOW, CLOCK, 60.0, limit, ["push"]))  # noqa: B023
        assert len(claims) == limit
        for state in (State.SENDING, State.ACCEPTED):
            moves = [Move(each.delivery.id, each.delivery.fence, state) for each in claims]
            more, made = reads(file, lambda rows: rows.advance(moves, NOW, CLOCK))  # noqa: B023
            assert all(made)
            count += more
        counts.append(count)
    assert counts[0] == counts[1]


def test_releasing_a_channel_of_a_file(file: sqlite3.Connection) -> None:
    """Neither what waits for other channels is read, nor what has ended."""
    for channel in ("fax", "sms", "webhook"):
        assert steps(file, lambda rows: rows.hurry(channel, NOW, 10)) < 100  # noqa: B023 - called at once


def test_cancelling_for_one_recipient_of_many_in_a_file(file: sqlite3.Connection) -> None:
    """Neither the deliveries nor the digests of the others are read."""
    numbers = f"WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {COUNT})"
    file.execute(
        INSERT.format(table="notify_deliveries")
        + f"{numbers} SELECT 'm' || n, 'm', 'user' || n, 'email', '', 0, {NOW}, 0, '', 0, 0, 0, '', '', 0 FROM numbers"
    )
    for table, columns, values in JOINED:
        file.execute(f"INSERT INTO notify_{table} ({columns}) {numbers} SELECT {values} FROM numbers")
    for channel in (None, "email"):
        assert steps(file, lambda rows: rows.cancel("m", NOW, "user7", channel, "")) < 100  # noqa: B023 - called at once
    rows = DeliveryRows(file, statements("dispatch", "notify_"))
    assert rows.cancel("m", NOW, "user8", "email", "") == 2
    assert rows.cancel("m", NOW, None, None, "") == 2 * COUNT - 4


def test_the_channels_of_what_is_open_in_a_file(file: sqlite3.Connection) -> None:
    """They are found in steps of the index, not by reading what is open."""
    assert DeliveryRows(file, statements("dispatch", "notify_")).open_channels() == ["email", "fax", "letter", "push"]
    assert steps(file, DeliveryRows.open_channels) < 100


def test_what_a_file_reads_is_found_by_an_index() -> None:
    """No statement scans a table, but those of which that is known."""
    sql = statements("dispatch", "notify_")
    with closing(sqlite3.connect(":memory:")) as db:
        create(db, sql)
        plans = {
            name: " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {text}", [1] * _parameters(text)))
            for name, text in sql.items()
            if not name.startswith(("create_", "start_"))
        }
    assert len(plans) > 80
    scans = {name for name, plan in plans.items() if re.search(r"SCAN (notify_|\w\b)|\((notification_)?id>\?\)", plan)}
    assert scans - {"version"} == SCANNING.keys()


def _parameters(text: str) -> int:
    numbered = [int(number) for number in re.findall(r"\?(\d+)", text)]
    return max(numbered, default=text.count("?"))
