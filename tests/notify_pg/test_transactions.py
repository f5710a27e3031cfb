"""Pushes in the caller's own transactions, directly and by way of the outbox."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import anyio
import asyncpg
import pytest

from notify import Event, Notifier, PushRejectedError, UsageError
from notify.testing._waits import assert_chain
from notify_pg import PostgresStore, PostgresStreamStore
from tests.notify_pg.conftest import Make
from tests.parts import until
from tests.servers.postgres import Server

pytestmark = pytest.mark.anyio


async def test_a_commit_is_seen_everywhere(make: Make, sql: asyncpg.Connection) -> None:
    """An event saved in a transaction reaches the streams of every process soon after the commit, not before."""
    here, there = await make(PostgresStreamStore), await make(PostgresStreamStore)
    async with Notifier(here) as notifier, notifier.subscribe("alice") as stream, there.subscribe("alice") as far:
        async with sql.transaction():
            event = await notifier.push("alice", "order.paid", {"order": 7}, connection=sql)
            assert event is not None
            with pytest.raises(TimeoutError):
                await stream.next(0.1)
            assert await here.head("alice") == "0"
        with anyio.fail_after(10):
            assert await stream.next() == await far.next() == event


async def test_a_rollback_leaves_nothing(make: Make, sql: asyncpg.Connection) -> None:
    """After a rollback the event was never there: the next one has its place, and there is no gap."""
    store = await make(PostgresStreamStore)
    first = await store.save(Event("alice", "n"))
    async with store.subscribe("alice", "0") as stream:
        transaction = sql.transaction()
        await transaction.start()
        await store.save_in(Event("alice", "never"), sql)
        await store.enqueue(Event("alice", "never"), connection=sql)
        await transaction.rollback()
        following = await store.save(Event("alice", "n"))
        assert following.prev == first.id
        assert [await stream.next(5), await stream.next(5)] == [first, following]
        assert not stream.gaps


async def test_a_late_commit_is_not_skipped(make: Make, sql: asyncpg.Connection) -> None:
    """A transaction that began to push first and commits last is not skipped: its user's log has commit order."""
    store = await make(PostgresStreamStore)
    async with store.subscribe("alice", "0") as stream, store.subscribe("bob", "0") as other:
        transaction = sql.transaction()
        await transaction.start()
        slow = await store.save_in(Event("alice", "slow"), sql)
        waiting = asyncio.ensure_future(store.save(Event("alice", "quick")))
        event = await store.save(Event("bob", "n"))
        assert await other.next(5) == event
        await transaction.commit()
        quick = await waiting
        assert [await stream.next(5), await stream.next(5)] == [slow, quick]
        assert_chain([slow, quick])


async def is_moved(sql: asyncpg.Connection, schema: str) -> bool:
    return not await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_outbox")


async def test_keys_count_in_transactions(store: PostgresStore, sql: asyncpg.Connection, schema: str) -> None:
    """A key that was used, before or in the transaction, returns the first event."""
    first = await store.save(Event("alice", "n", 1, key="k"))
    async with sql.transaction():
        assert await store.save_in(Event("alice", "n", 2, key="k"), sql) == first
        second = await store.save_in(Event("alice", "n", 3, key="l"), sql)
        assert await store.save_in(Event("alice", "n", 4, key="l"), sql) == second
        await store.enqueue(Event("alice", "n", 5, key="l"), connection=sql)
    assert await store.save(Event("alice", "n", 6, key="l")) == second
    await until(lambda: is_moved(sql, schema))
    assert [event.payload for event in (await store.read("alice", "0", 10)).events] == [1, 3]


async def test_a_push_that_fails_in_a_transaction_is_rejected(
    store: PostgresStore, sql: asyncpg.Connection, schema: str
) -> None:
    """What the database refuses is a rejection: the transaction cannot commit any more."""
    await store.save(Event("alice", "n"))
    for call in (store.save_in, lambda event, connection: store.enqueue(event, connection=connection)):
        transaction = sql.transaction()
        await transaction.start()
        with pytest.raises(asyncpg.PostgresError):
            await sql.execute("SELECT 1 / 0")
        with pytest.raises(PushRejectedError):
            await call(Event("alice", "n"), sql)
        await transaction.rollback()
    assert len((await store.read("alice", "0", 10)).events) == 1


async def test_a_transaction_must_be_open(store: PostgresStore, sql: asyncpg.Connection, postgres: Server) -> None:
    """Without a transaction, or with an object that is not a connection of the driver, the error says what to pass."""
    for connection in (sql, None, "postgresql://"):
        with pytest.raises(UsageError):
            await store.save_in(Event("alice", "n"), connection)
        with pytest.raises(UsageError):
            await store.enqueue(Event("alice", "n"), connection=connection)
    async with asyncpg.create_pool(postgres.dsn, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection, connection.transaction():
            assert (await store.save_in(Event("alice", "n"), connection)).prev == "0"
        with pytest.raises(UsageError):
            await store.save_in(Event("alice", "n"), connection)  # it went back to its pool
    await store.save(Event("alice", "n"))


async def test_a_connection_that_returned_to_its_pool_has_ended_its_transaction(make: Make, postgres: Server) -> None:
    """The wake-up comes after the commit, though the connection is back in its pool, or closed, by then."""
    store = await make(PostgresStreamStore)
    async with store.subscribe("alice") as stream:
        async with asyncpg.create_pool(postgres.dsn, min_size=1, max_size=1) as pool:
            async with pool.acquire() as connection, connection.transaction():
                event = await store.save_in(Event("alice", "n"), connection)
        assert await stream.next(10) == event
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute("BEGIN")
        second = await store.save_in(Event("alice", "n"), connection)
        await connection.execute("COMMIT")
        await connection.close()
        assert await stream.next(10) == second


async def test_a_commit_that_the_library_cannot_see(make: Make, sql: asyncpg.Connection) -> None:
    """`wake` brings an event of a commit that the library cannot see; it needs no transaction and no stream."""
    store, other = await make(PostgresStreamStore), await make(PostgresStore)
    async with store.subscribe("alice") as stream, store.subscribe("bob") as quiet:
        await until(lambda: store.is_receiving)
        transaction = sql.transaction()
        await transaction.start()
        event = await other.save_in(Event("alice", "n"), sql)
        other._transactions._waiting.clear()
        await transaction.commit()
        other.wake("alice", "unknown", "bob")
        assert await stream.next(10) == event
        with pytest.raises(TimeoutError):
            await quiet.next(0.05)


async def test_only_so_many_transactions_are_watched(
    make: Make, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a bound transactions are not watched, and all they lose is the wake-up."""
    monkeypatch.setattr("notify_pg._outbox.MAX_WATCHED", 1)
    store = await make()
    async with sql.transaction():
        for user in ("alice", "bob", "carol"):
            await store.save_in(Event(user, "n"), sql)
        assert len(store._transactions._waiting) <= 1
    assert await store.head("carol") != "0"


# -- the calls that other libraries make ------------------------------------------------------------------------------


async def test_the_calls_of_sqlalchemy(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """What SQLAlchemy's asyncpg dialect does (a manual transaction, savepoints, a commit) works with one connection.

    SQLAlchemy itself is not needed: `(await session.connection()).get_raw_connection()` leads to the same object.
    """
    store = await make(PostgresStreamStore)
    await sql.execute(f"CREATE TABLE {schema}.orders (id int)")
    async with Notifier(store) as notifier, notifier.subscribe("alice") as stream:
        transaction = sql.transaction(isolation="read_committed")
        await transaction.start()
        await sql.execute(f"INSERT INTO {schema}.orders VALUES (1)")
        savepoint = sql.transaction()
        await savepoint.start()
        await notifier.push("alice", "undone", connection=sql)
        await savepoint.rollback()
        event = await notifier.push("alice", "order.paid", connection=sql)
        await transaction.commit()
        assert await stream.next(10) == event
    assert await sql.fetchval(f"SELECT count(*) FROM {schema}.orders") == 1


# -- outbox ------------------------------------------------------------------------------------------------------------


async def test_the_outbox_delivers_after_the_commit(make: Make, sql: asyncpg.Connection) -> None:
    """What is enqueued reaches the log, and the streams, within a moment of the commit, whole and in order."""
    store, other = await make(PostgresStreamStore), await make(PostgresStreamStore)
    drafts = [Event("alice", "n", number, group="g", key=f"k{number}", meta={"a": "b"}) for number in range(5)]
    async with store.subscribe("alice") as stream, other.subscribe("alice") as far:
        async with sql.transaction():
            await store.enqueue(*drafts, Event("bob", "n"), connection=sql)
            assert await store.head("alice") == "0"
        for one in (stream, far):
            events = [await one.next(10) for _ in drafts]
            assert events == [draft.stored(event.id, event.prev) for draft, event in zip(drafts, events, strict=True)]
            assert_chain(events)
    assert await store.head("bob") != "0"


async def test_the_outbox_takes_what_many_have_in_common(store: PostgresStore, sql: asyncpg.Connection) -> None:
    """The same event for many users, and none at all, are enqueued like any others."""
    draft = Event("-", "n", "x" * 50, meta={"a": "b"})
    async with sql.transaction():
        await store.enqueue(connection=sql)
        await store.enqueue(*(draft.addressed_to(f"user{number}") for number in range(30)), connection=sql)
    await until(lambda: is_stored(store, "user29", 1))
    for number in range(30):
        (event,) = (await store.read(f"user{number}", "0", 10)).events
        assert (event.payload, event.type, event.micros, dict(event.meta)) == ("x" * 50, "n", draft.micros, {"a": "b"})


async def test_the_outbox_locks_no_log(make: Make, sql: asyncpg.Connection) -> None:
    """While a transaction that has enqueued stays open, no push waits, not even one to the same user."""
    store = await make()
    async with sql.transaction():
        await store.enqueue(Event("alice", "late"), connection=sql)
        with anyio.fail_after(40):
            await asyncio.gather(*(store.save(Event("alice", "n")) for _ in range(20)))
    await until(lambda: is_stored(store, "alice", 21))


async def is_stored(store: PostgresStore, user: str, count: int) -> bool:
    return len((await store.read(user, "0", 1000)).events) == count


async def test_several_relays_move_everything_once(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """Relays in several processes move what any of them, or a process that died, has left: once, and in order."""
    store = await make(relay=3600)
    values = ", ".join(f"('user{number % 7}', 'n', '{number}'::bytea)" for number in range(2000))
    await sql.execute(f"INSERT INTO {schema}.notify_outbox (user_id, type, data) VALUES {values}")
    for _ in range(3):
        await make(relay=0.01)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(store._outbox.relay())
    await until(lambda: is_moved(sql, schema))
    for number in range(7):
        log = [*(await store.read(f"user{number}", "0", 1000)).events]
        assert [event.payload for event in log] == [*range(number, 2000, 7)]
        assert_chain(log)


async def test_a_relay_goes_on_after_a_failure(
    make: Make, sql: asyncpg.Connection, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A relay that fails says so, loses nothing, and goes on."""
    store = await make(relay=0.02)
    await sql.execute(f"ALTER TABLE {schema}.notify_outbox RENAME TO gone")
    await until(lambda: "the outbox relay is failing" in caplog.text)
    await sql.execute(f"ALTER TABLE {schema}.gone RENAME TO notify_outbox")
    async with sql.transaction():
        await store.enqueue(Event("alice", "n"), connection=sql)
    await until(lambda: is_stored(store, "alice", 1))


PAGE = Path(__file__).parent.parent.parent / "docs" / "howto" / "transactions.md"


async def test_what_other_programs_insert(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """The statement of the page on transactions, as any driver would send it, ends in the log like a push."""
    store = await make(PostgresStreamStore, relay=0.02)
    (statement,) = re.findall(r'"(INSERT INTO notify_outbox [^"]+)"', PAGE.read_text(encoding="utf-8"))
    for number in range(1, 4):
        statement = statement.replace("%s", f"${number}", 1)
    await sql.execute(f"SET search_path TO {schema}")
    async with store.subscribe("alice") as stream:
        async with sql.transaction():
            await sql.execute(statement, "alice", "order.paid", b'{"order": 7}')
        event = await stream.next(10)
        assert (event.type, event.payload, event.key, event.group, dict(event.meta)) == (
            "order.paid", {"order": 7}, None, None, {},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("user_id", ""), ("user_id", "x" * 256), ("user_id", "a\nb"),
        ("type", ""), ("type", "a b"), ("type", "notify.gap"),
        ("data", b"{"), ("data", b""), ("data", b"NaN"), ("data", b'"\xff"'), ("topic", ""), ("key", "k" * 256),
        ("meta", "[]"), ("meta", "{"),
    ],
)  # fmt: skip
async def test_the_outbox_refuses_what_a_push_refuses(
    store: PostgresStore, sql: asyncpg.Connection, schema: str, column: str, value: object
) -> None:
    """A row that no log can hold would block the relay, so it is refused where it is inserted."""
    row = {"user_id": "alice", "type": "n", "data": b"1", column: value}
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    with pytest.raises((asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)):
        await sql.execute(f"INSERT INTO {schema}.notify_outbox ({', '.join(row)}) VALUES ({places})", *row.values())
    assert await store._outbox.relay() == 0
