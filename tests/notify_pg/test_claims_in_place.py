"""Claiming a delivery and beginning to send it leave its index entries as they are, as the server's counters show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from notify.dispatch.abc import Delivery, Move, Notification, RecipientRecord, State, Submission, millis
from notify_pg import PostgresDispatchStore
from notify_pg._delivery_rows import advance_arguments
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NOW = datetime(2026, 11, 2, 9, tzinfo=UTC)


async def submitted(store: PostgresDispatchStore, *rows: Delivery) -> None:
    await store.submit(Submission(Notification("n", "t", b"{}", NOW), [RecipientRecord("n", "alice")], rows))


def row(id: str, due_at: datetime, channel: str = "email") -> Delivery:
    return Delivery(id, "n", "alice", channel, id, due_at=due_at)


@pytest.mark.parametrize("lease", [None, 60.0])
async def test_a_claim_and_a_begin_write_no_index(postgres: Server, lease: float | None) -> None:
    """The server counts all of these updates as "hot" (heap-only tuples), which means that they wrote no index."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as store:
        await submitted(store, *(row(f"d{number}", NOW) for number in range(5)))
        table = f"'{schema}.notify_deliveries'::regclass"
        counts = f"SELECT pg_stat_get_xact_tuples_updated({table}), pg_stat_get_xact_tuples_hot_updated({table})"
        async with connection.transaction():
            claimed = await connection.fetch(store._names.sql("dispatch_claim"), millis(NOW), 60_000, 5, None)
            moves = [Move(each["id"], each["fence"], State.SENDING, lease=lease) for each in claimed]
            begin = advance_arguments(moves, millis(NOW))
            assert len(await connection.fetchval(store._names.sql("dispatch_advance"), *begin)) == 5
            assert tuple(await connection.fetchrow(counts)) == (10, 10)
    await connection.close()


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(days=900)])
async def test_what_a_worker_has_is_due_when_its_lease_ends(postgres: Server, ahead: timedelta) -> None:
    """Every call returns the end of the lease as `due_at`, even if the caller's clock is years ahead."""
    async with PostgresDispatchStore(postgres.dsn, schema=fresh_schema()) as store:
        now = datetime.now(UTC) + ahead
        rows = [row(name, now, channel=name) for name in ("finished", "cancelled", "resolved", "renewed", "left")]
        await submitted(store, *rows)
        claims = {each.delivery.id: each.delivery for each in await store.claim(now, lease=60.0)}
        ends = {each.due_at for each in claims.values()}
        assert len(ends) == 1
        (end,) = ends
        assert end is not None
        assert abs(end - datetime.now(UTC) - timedelta(seconds=60)) < timedelta(seconds=50)
        begun = [Move(name, 1, State.SENDING) for name in ("finished", "resolved")]
        assert all(await store.advance([*begun, Move("renewed", 1, State.SENDING, lease=600.0)], now))
        assert await store.advance([Move("finished", 1, State.ACCEPTED)], now) == [True]
        assert await store.cancel("n", now, channel="cancelled") == 1
        assert await store.resolve("resolved", State.ACCEPTED, now) is not None
        found = await store.record("n", "alice")
        assert found is not None
        due = {each.id: each.due_at for each in found[2]}
        renewed = due.pop("renewed")
        assert due == dict.fromkeys(("finished", "cancelled", "resolved", "left"), end)
        assert renewed is not None
        assert renewed > end + timedelta(seconds=400)


async def test_what_was_left_is_claimed_again_whatever_the_clocks_say(postgres: Server) -> None:
    """A row claimed by a caller whose clock is ahead can later be claimed by one whose clock is right."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as store:
        now = datetime.now(UTC)
        ahead = now + timedelta(hours=1)
        await submitted(store, row("d", ahead), row("later", ahead, channel="push"))
        (claim,) = await store.claim(ahead, lease=60.0, channels=["email"])
        assert not await store.claim(now, lease=60.0)  # it is leased, and the other one is not due
        await connection.execute(f"UPDATE {schema}.notify_deliveries SET lease_until = 1 WHERE fence > 0")
        (again,) = await store.claim(now, lease=60.0)
        assert (again.delivery.id, again.delivery.fence) == (claim.delivery.id, 2)
    await connection.close()


@pytest.mark.parametrize("channels", ["email email email email", "email push sms email"])
@pytest.mark.parametrize("limit", [1, 2])
async def test_what_was_left_is_due_at_the_end_of_its_lease(postgres: Server, channels: str, limit: int) -> None:
    """It is claimed after what became due before that, and before what became due later, by calls of any size."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as store:
        ago = {"left": 60, "before": 30, "after": 10, "last": 5}
        rows = [
            row(name, NOW - timedelta(seconds=ago[name]), each)
            for name, each in zip(ago, channels.split(), strict=True)
        ]
        await submitted(store, *rows)
        (left,) = await store.claim(NOW, lease=600.0, limit=1)
        assert left.delivery.id == "left"
        ended = millis(NOW - timedelta(seconds=20))
        await connection.execute(f"UPDATE {schema}.notify_deliveries SET lease_until = $1 WHERE fence > 0", ended)
        found = list[str]()
        while claims := await store.claim(NOW, lease=600.0, limit=limit):
            found += [each.delivery.id for each in claims]
        assert found == ["before", "left", "after", "last"]
    await connection.close()
