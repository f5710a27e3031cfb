"""What transactions of a store of deliveries in PostgreSQL wait for, told by one that stays open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg
import pytest

from notify import PushUncertainError
from notify.dispatch.abc import (
    CapWindow,
    Delivery,
    Move,
    Notification,
    RecipientRecord,
    State,
    Submission,
    delivery_id,
    millis,
)
from notify_pg import PostgresDispatchStore
from notify_pg._delivery_rows import advance_arguments
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NOW = datetime.now(UTC)


async def until_it_waits(task: asyncio.Task[object], connection: asyncpg.Connection, schema: str) -> None:
    """Return once the task waits for a lock, or has ended."""
    waiting = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.query ~ $1"
    async with asyncio.timeout(20):
        while not task.done() and not await connection.fetchval(waiting, schema):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


async def submitted(store: PostgresDispatchStore, *users: str) -> list[Delivery]:
    """Submit a notification with one e-mail to each of these users; return the deliveries."""
    rows = [Delivery(delivery_id("n", user, "email"), "n", user, "email", due_at=NOW) for user in users]
    records = [RecipientRecord("n", user) for user in users]
    await store.submit(Submission(Notification("n", "t", b"{}", NOW), records, rows))
    return rows


def started(call: Awaitable[object]) -> asyncio.Task[object]:
    """Begin a call."""
    return asyncio.ensure_future(call)  # type: ignore[return-value]


async def test_caps_of_one_user_wait(postgres: Server) -> None:
    """A question about a user waits for a transaction that has asked about the same one, and counts what it counted."""
    schema, window = fresh_schema(), CapWindow("alice/cap", 1, NOW + timedelta(days=1))
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as store:
        transaction = connection.transaction()
        await transaction.start()
        first = await connection.fetchval(
            f"SELECT {schema}.notify_admit_notification_1('a', 'alice', $1, $2, $3, $4, false)",
            *([window.bucket], [1], [millis(window.expires_at)], millis(NOW)),
        )
        task = started(store.admit("b", "alice", [window], NOW))
        assert await store.admit("b", "bob", [CapWindow("bob/cap", 1, window.expires_at)], NOW) == -1
        await until_it_waits(task, connection, schema)
        await transaction.commit()
        assert (first, await task) == (-1, 0)
    await connection.close()


async def test_the_last_two_devices_wait_for_each_other(postgres: Server) -> None:
    """Of two transactions that end the last deliveries over a channel, the later one makes due what waits for it."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as store:
        row = partial(Delivery, notification="n", user="alice")
        devices = [
            row(id=delivery_id("n", "alice", "push", end), channel="push", endpoint=end, due_at=NOW) for end in "ab"
        ]
        waiting = row(id=delivery_id("n", "alice", "email"), channel="email", after="push", delay=10**6)
        records = [RecipientRecord("n", "alice")]
        await store.submit(Submission(Notification("n", "t", b"{}", NOW), records, [*devices, waiting]))
        claims = await store.claim(NOW, lease=600.0)
        begin = [Move(each.delivery.id, each.delivery.fence, State.SENDING) for each in claims]
        assert await store.advance(begin, NOW) == [True, True]
        first, second = (Move(each.delivery.id, each.delivery.fence, State.FAILED) for each in claims)
        transaction = connection.transaction()
        await transaction.start()
        arguments = advance_arguments([first], millis(NOW))
        places = ", ".join(f"${number}" for number in range(1, len(arguments) + 1))
        query = f"SELECT {schema}.notify_advance_deliveries_1({places})"
        assert await connection.fetchval(query, *arguments) == [first.id]
        task = started(store.advance([second], NOW))
        await until_it_waits(task, connection, schema)
        await transaction.commit()
        assert await task == [True]
        (claim,) = await store.claim(NOW, lease=600.0)
        assert claim.delivery.id == waiting.id
    await connection.close()


async def test_a_move_is_judged_by_what_it_locked(postgres: Server) -> None:
    """A move waits for a transaction that has the row, and is then made or not by what that transaction left."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as store:
        row = partial(Delivery, notification="n", user="alice", endpoint="", due_at=NOW)
        rows = [row(id=delivery_id("n", "alice", name), channel=name) for name in ("push", "email")]
        records = [RecipientRecord("n", "alice")]
        await store.submit(Submission(Notification("n", "t", b"{}", NOW), records, rows))
        claims = await store.claim(NOW, lease=600.0)
        taken, kept = (each.delivery.id for each in claims)
        transaction = connection.transaction()
        await transaction.start()
        table = f"{schema}.notify_deliveries"
        await connection.execute(f"UPDATE {table} SET fence = fence + 1 WHERE id = $1", taken)
        await connection.execute(f"UPDATE {table} SET opened_at = 1, attempts = attempts + 5 WHERE id = $1", kept)
        begin = [Move(each.delivery.id, each.delivery.fence, State.SENDING) for each in claims]
        task = started(store.advance(begin, NOW))
        await until_it_waits(task, connection, schema)
        assert not task.done()
        await transaction.commit()
        assert await task == [False, True]
        claim = await store.delivery(kept)
        assert claim is not None
        found = claim.delivery
        assert (found.state, found.attempts, millis(found.opened_at or NOW)) == (State.SENDING, 6, 1)
    await connection.close()


async def test_a_lease_that_ends_before_the_row_is_free(postgres: Server) -> None:
    """A delivery does not begin once its lease has ended, though it had not when the call began to wait for the row."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema, timeout=60.0) as store:
        await submitted(store, "alice")
        (claim,) = await store.claim(NOW, lease=1.0)
        async with connection.transaction():
            held = f"SELECT lease_until FROM {schema}.notify_deliveries FOR UPDATE"
            lease_until = await connection.fetchval(held)
            task = started(store.advance([Move(claim.delivery.id, claim.delivery.fence, State.SENDING)], NOW))
            await until_it_waits(task, connection, schema)
            rest = "SELECT pg_sleep(greatest($1 / 1000.0 - date_part('epoch', clock_timestamp()) + 0.01, 0))"
            await connection.execute(rest, lease_until)
        assert await task == [False]
        (again,) = await store.claim(NOW, lease=60.0)
        assert not again.is_ambiguous
    await connection.close()


async def test_a_renewed_lease_begins_when_the_rows_are_free(postgres: Server) -> None:
    """However long the call has waited for one row, each of its deliveries is the worker's for the whole lease."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema, timeout=60.0) as store:
        await submitted(store, "alice", "bob")
        claims = await store.claim(NOW, lease=600.0)
        moves = [Move(each.delivery.id, each.delivery.fence, State.SENDING, lease=1.0) for each in claims]
        table, last = f"{schema}.notify_deliveries", max(each.id for each in moves)
        async with connection.transaction():
            await connection.execute(f"SELECT FROM {table} WHERE id = $1 FOR UPDATE", last)
            task = started(store.advance(moves, NOW))
            await until_it_waits(task, connection, schema)
            clock = "SELECT date_part('epoch', clock_timestamp()) * 1000 FROM pg_sleep(1.5)"
            freed_at = await connection.fetchval(clock)
        assert await task == [True, True]
        leases = await connection.fetch(f"SELECT lease_until FROM {table}")
        assert all(freed_at + 1000 <= each["lease_until"] + 100 for each in leases)
    await connection.close()


async def test_a_late_outcome_leaves_nothing_of_what_is_erased(postgres: Server) -> None:
    """An outcome that comes too late, while a transaction erases the user, is not listed after that."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema, timeout=60.0) as store:
        (row,) = await submitted(store, "alice")
        (first,) = await store.claim(NOW, lease=600.0)
        assert await store.advance([Move(row.id, first.delivery.fence, State.SENDING)], NOW) == [True]
        await connection.execute(f"UPDATE {schema}.notify_deliveries SET due_at = 0, lease_until = 0")
        (second,) = await store.claim(NOW, lease=600.0)
        assert second.is_ambiguous
        async with connection.transaction():
            await connection.execute(f"SELECT {schema}.notify_forget_recipient_1('alice', 'alice/')")
            late = Move(row.id, first.delivery.fence, State.FAILED, error="of alice")
            assert await store.advance([late], NOW) == [False]  # without waiting, which could be a deadlock
        assert await connection.fetchval(f"SELECT count(*) FROM {schema}.notify_attempts") == 0
    await connection.close()


async def test_what_is_released_is_not_purged(postgres: Server) -> None:
    """A parked delivery that is released while old notifications are being removed stays, with its notification."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema, timeout=60.0) as store:
        (row,) = await submitted(store, "alice")
        (claim,) = await store.claim(NOW, lease=600.0)
        assert await store.advance([Move(row.id, claim.delivery.fence, State.PARKED)], NOW) == [True]
        async with connection.transaction():
            await connection.execute(f"UPDATE {schema}.notify_deliveries SET state = 0")
            task = started(store.purge(NOW + timedelta(days=1)))
            await until_it_waits(task, connection, schema)
        assert await task == 0
        found = await store.delivery(row.id)
        assert found is not None
        assert found.delivery.state is State.WAITING
        assert await store.advance([Move(row.id, claim.delivery.fence, State.PARKED)], NOW) == [False]
    await connection.close()


async def test_erasing_a_user_may_take_longer_than_other_calls(postgres: Server) -> None:
    """What a call with the store's timeout gives up waiting for, `forget` waits for."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema, timeout=1.0) as store:
        row = Delivery(delivery_id("n", "alice", "email"), "n", "alice", "email", due_at=NOW)
        submission = Submission(Notification("n", "t", b"{}", NOW), [RecipientRecord("n", "alice")], [row])
        await store.submit(submission)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f"UPDATE {schema}.notify_deliveries SET opened_at = 1")
        task = started(store.forget("alice"))
        await until_it_waits(task, connection, schema)
        with pytest.raises(PushUncertainError):
            await store.cancel("n", NOW)
        assert not task.done()
        await transaction.commit()
        assert await task == 1
    await connection.close()


@pytest.mark.parametrize("asked", [None, ["email", "push", "sms"]])
async def test_a_claim_is_full_although_others_hold_what_it_counted(postgres: Server, asked: list[str] | None) -> None:
    """What other transactions hold is made up for by other channels of the priority, then by lower priorities."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as store:
        rows = [
            Delivery(f"{channel}{priority}{number}", "n", "a", channel, due_at=due + timedelta(seconds=number),
                     priority=priority, endpoint=f"{priority}{number}")
            for channel, due in (("email", NOW - timedelta(hours=1)), ("push", NOW - timedelta(minutes=1)))
            for priority in (1, 2)
            for number in range(5)
        ]  # fmt: skip
        records = [RecipientRecord("n", "a")]
        await store.submit(Submission(Notification("n", "t", b"{}", NOW), records, rows))
        async with connection.transaction():
            held = f"SELECT id FROM {schema}.notify_deliveries WHERE channel = 'email' AND priority = 2 FOR UPDATE"
            assert len(await connection.fetch(held)) == 5
            claims = await store.claim(NOW, lease=60.0, limit=12, channels=asked)
        names = [claim.delivery.id for claim in claims]
        assert names[:5] == [f"push2{number}" for number in range(5)]
        assert names[5:] == [f"email1{number}" for number in range(5)] + ["push10", "push11"]
        rest = await store.claim(NOW, lease=60.0, limit=12, channels=asked)
        assert len(rest) == 8
        assert not {claim.delivery.id for claim in rest} & {*names}
    await connection.close()


async def test_a_short_claim_takes_from_a_channel_that_had_no_share(postgres: Server) -> None:
    """Of one priority, a later channel gets the places of rows that others hold; none is claimed twice or left out."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as store:
        rows = [
            Delivery(f"{channel}{number}", "n", "a", channel, due_at=NOW - timedelta(seconds=ago - number),
                     endpoint=str(number))
            for channel, ago, count in (("email", 90, 4), ("push", 60, 2), ("sms", 30, 9))
            for number in range(count)
        ]  # fmt: skip
        await store.submit(Submission(Notification("n", "t", b"{}", NOW), [RecipientRecord("n", "a")], rows))
        async with connection.transaction():
            held = f"SELECT id FROM {schema}.notify_deliveries WHERE channel = 'email' FOR UPDATE"
            assert len(await connection.fetch(held)) == 4
            claims = await store.claim(NOW, lease=60.0, limit=5)  # counts four e-mails and one push
        assert [claim.delivery.id for claim in claims] == ["push0", "push1", "sms0", "sms1", "sms2"]
    await connection.close()


async def test_a_claim_beside_what_a_worker_left_keeps_the_order(postgres: Server) -> None:
    """If other workers hold a channel's earliest rows, its next rows still come before later rows of other channels."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema, timeout=60.0) as store:
        rows = [
            Delivery(f"{name}{number}", "n", "a", channel, due_at=NOW - timedelta(seconds=ago - number),
                     endpoint=f"{name}{number}")
            for name, channel, ago, count in
            (("left", "email", 90, 2), ("email", "email", 60, 8), ("push", "push", 30, 9))
            for number in range(count)
        ]  # fmt: skip
        await store.submit(Submission(Notification("n", "t", b"{}", NOW), [RecipientRecord("n", "a")], rows))
        assert len(await store.claim(NOW, lease=600.0, limit=2)) == 2
        ended = millis(NOW - timedelta(seconds=80))
        await connection.execute(f"UPDATE {schema}.notify_deliveries SET lease_until = $1 WHERE fence > 0", ended)
        async with connection.transaction():
            held = f"SELECT id FROM {schema}.notify_deliveries WHERE id = ANY ($1) FOR UPDATE"
            assert len(await connection.fetch(held, [f"email{number}" for number in range(6)])) == 6
            claims = await store.claim(NOW, lease=60.0, limit=5)
        names = [claim.delivery.id for claim in claims]
        assert {*names[:2]} == {"left0", "left1"}  # both leases ended at the same time
        assert names[2:] == ["email6", "email7", "push0"]
    await connection.close()


@pytest.mark.parametrize("channel", ["email", "push"])
@pytest.mark.parametrize("limit", [1, 3])
async def test_a_claim_locks_only_what_it_takes(postgres: Server, limit: int, channel: str) -> None:
    """Where workers have left rows, an uncommitted claim leaves all rows that it does not take to the next claim."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    async with PostgresDispatchStore(postgres.dsn, schema=schema, timeout=60.0) as store:
        rows = [
            Delivery(f"{name}{number}", "n", "a", channel if name == "waits" else "email",
                     due_at=NOW - timedelta(seconds=ago - number), endpoint=f"{name}{number}")
            for name, ago in (("left", 90), ("waits", 60))
            for number in range(3)
        ]  # fmt: skip
        await store.submit(Submission(Notification("n", "t", b"{}", NOW), [RecipientRecord("n", "a")], rows))
        assert len(await store.claim(NOW, lease=600.0, limit=3)) == 3
        ended = millis(NOW - timedelta(seconds=20))
        await connection.execute(f"UPDATE {schema}.notify_deliveries SET lease_until = $1 WHERE fence > 0", ended)
        async with connection.transaction():
            first = await connection.fetch(store._names.sql("dispatch_claim"), millis(NOW), 60_000, limit, None)
            second = await store.claim(NOW, lease=60.0, limit=limit)
            third = await store.claim(NOW, lease=60.0, limit=6)
        names = [each["id"] for each in first] + [each.delivery.id for each in (*second, *third)]
        assert names == [row.id for row in rows[3:] + rows[:3]]
        assert (len(first), len(second)) == (limit, limit)
    await connection.close()
