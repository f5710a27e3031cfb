"""What any program inserts into the outbox is moved, refused by the table, or set aside; poison reaches no log."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import asyncpg
import pytest

from notify import Event, InvalidEventError, Notifier
from notify.abc import Backlog, HasOutbox
from notify.cli._inspect import describe
from notify.errors import BackendUnavailableError, PayloadTooLargeError
from notify_pg import PostgresStore, PostgresStreamStore
from notify_pg import _outbox as outbox
from tests.notify_pg.conftest import Make
from tests.parts import until

pytestmark = pytest.mark.anyio

REFUSED = {
    "user empty": {"user_id": ""},
    "user with newline": {"user_id": "a\nb"},
    "user with DEL": {"user_id": "a\x7fb"},
    "user with C1": {"user_id": "a\x85b"},
    "user over 255": {"user_id": "ä" * 128},
    "key empty": {"key": ""},
    "key 300": {"key": "k" * 300},
    "key newline": {"key": "a\nb"},
    "topic empty": {"topic": ""},
    "topic newline": {"topic": "a\nb"},
    "topic C1": {"topic": "a\x9fb"},
    "type empty": {"type": ""},
    "type 200": {"type": "t" * 200},
    "type space": {"type": "a b"},
    "type ours": {"type": "notify.gap"},
    "meta list": {"meta": "[1]"},
    "meta text": {"meta": "x"},
    "meta int values": {"meta": '{"a": 1}'},
    "meta null value": {"meta": '{"a": null}'},
    "meta nested": {"meta": '{"a": {"b": "c"}}'},
    "meta list of texts": {"meta": '{"a": ["b"]}'},
    "meta surrogate": {"meta": '{"a": "\\ud800"}'},
    "data empty": {"data": b""},
    "data not utf8": {"data": b'"\xff"'},
    "data not JSON": {"data": b"{bad"},
    "data two texts": {"data": b"1 2"},
    "data NaN": {"data": b"NaN"},
    "data BOM": {"data": b"\xef\xbb\xbf1"},
    "micros huge": {"micros": 2**62},
    "micros year 10000": {"micros": 253_402_300_800_000_000},
    "micros negative": {"micros": -1},
}
"""What the table itself refuses: the program that inserts learns of it."""

SET_ASIDE = {
    "data lone surrogate": {"data": b'"\\ud800"'},
    "data 1e400": {"data": b"1e400"},
    "data -1e400 inside": {"data": b'{"a": [-1e400]}'},
    "data 5000 digits": {"data": b"1" * 5000},
    "data deep": {"data": b"[" * 10_000 + b"]" * 10_000},
    "data 65 KiB": {"data": b'"' + b"x" * 65_535 + b'"'},
    "data 1 MiB": {"data": b'"' + b"x" * (1 << 20) + b'"'},
    "meta reserved": {"meta": '{"notify.other": ""}'},
    "meta too long": {"meta": json.dumps({"a": "x" * 9000})},
}
"""What only the relay can tell."""

MOVED: dict[str, tuple[dict[str, Any], bytes]] = {
    "spaces and lines": ({"data": b' {"a" :\r\n\t[1, 2.50, "x  y\\n\\" z"]} '}, b'{"a":[1,2.50,"x  y\\n\\" z"]}'),
    "numbers as written": ({"data": b"[1e2, 1.10, 12345678901234567890123]"}, b"[1e2,1.10,12345678901234567890123]"),
    "NUL": ({"data": b'"\\u0000"'}, b'"\\u0000"'),
    "not ASCII": ({"data": '"\U0001f600é"'.encode()}, '"\U0001f600é"'.encode()),
    "exactly the limit, compact": ({"data": b'[ "' + b"x" * 65_532 + b'" ]'}, b'["' + b"x" * 65_532 + b'"]'),
    "names": ({"key": "kä", "topic": "t t", "meta": '{"a": "b"}'}, b"1"),
    "oldest": ({"micros": 0}, b"1"),
    "newest": ({"micros": 253_402_300_799_999_999}, b"1"),
    "meta empty": ({"meta": "{}"}, b"1"),
    "meta NUL": ({"meta": '{"a": "\\u0000"}'}, b"1"),
}


@pytest.fixture
async def waiting(make: Make, sql: asyncpg.Connection, schema: str) -> asyncpg.Connection:
    """A connection to a database whose tables exist and whose outbox nothing relays."""
    await make()
    await sql.execute(f"SET search_path = {schema}")
    return sql


async def insert(sql: asyncpg.Connection, **columns: Any) -> None:
    columns = {"user_id": "alice", "type": "t", "data": b"1"} | columns
    marks = ", ".join(f"${number + 1}" for number in range(len(columns)))
    await sql.execute(f"INSERT INTO notify_outbox ({', '.join(columns)}) VALUES ({marks})", *columns.values())


async def drained(store: PostgresStore) -> None:
    while await store._outbox.relay():
        pass


@pytest.mark.parametrize("what", REFUSED)
async def test_what_the_table_refuses(waiting: asyncpg.Connection, what: str) -> None:
    """What `push` refuses and SQL can tell is refused when it is inserted."""
    with pytest.raises((asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)):
        await insert(waiting, **REFUSED[what])


async def test_what_the_relay_sets_aside(
    make: Make, waiting: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """What `push` refuses and only the relay can tell is set aside with the reason; what stands behind it is moved."""
    store = await make()
    for number, columns in enumerate(SET_ASIDE.values()):
        await insert(waiting, user_id=f"user{number}", **columns)
        await insert(waiting, user_id=f"user{number}", data=b"%d" % number)
    await drained(store)
    dead = await waiting.fetch("SELECT * FROM notify_outbox_dead ORDER BY id")
    assert [row["user_id"] for row in dead] == [f"user{number}" for number in range(len(SET_ASIDE))]
    for row, (what, columns) in zip(dead, SET_ASIDE.items(), strict=True):
        assert row["reason"], what
        assert row["data"] == columns.get("data", b"1")
    assert [row["id"] for row in dead] == [*range(1, 2 * len(SET_ASIDE), 2)]
    for number in range(len(SET_ASIDE)):
        (event,) = (await store.read(f"user{number}", "0", 10)).events
        assert event.payload == number
    assert await waiting.fetchval("SELECT count(*) FROM notify_outbox") == 0
    (text,) = [record.getMessage() for record in caplog.records if "set aside" in record.getMessage()]
    assert "xxxx" not in text


async def test_what_is_moved_is_what_push_would_store(make: Make, waiting: asyncpg.Connection) -> None:
    """What is moved has compact JSON, its numbers as written, and passes every wire form and stream."""
    store = await make(PostgresStreamStore)
    for number, (columns, _) in enumerate(MOVED.values()):
        await insert(waiting, user_id=f"user{number}", **columns)
    await drained(store)
    assert not await waiting.fetchval("SELECT count(*) FROM notify_outbox_dead")
    for number, (what, (columns, data)) in enumerate(MOVED.items()):
        async with store.subscribe(f"user{number}", "0") as stream:
            event = await stream.next(5)
        assert event.data == data, what
        assert event.payload == json.loads(columns.get("data", b"1"))
        assert Event.from_bytes(event.to_bytes()) == event
        assert event.timestamp.year >= 1970
        assert (event.key, event.group) == (columns.get("key"), columns.get("topic"))
        assert dict(event.meta) == json.loads(columns.get("meta", "{}"))


@pytest.mark.parametrize("what", [*REFUSED, *SET_ASIDE])
async def test_rows_that_an_earlier_table_let_in(make: Make, waiting: asyncpg.Connection, what: str) -> None:
    """Where the table has none of the checks, as one of an earlier release may, the relay sets aside the same."""
    for row in await waiting.fetch(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'notify_outbox'::regclass AND contype = 'c'"
    ):
        await waiting.execute(f"ALTER TABLE notify_outbox DROP CONSTRAINT {row['conname']}")
    store = await make()
    await insert(waiting, **({**REFUSED, **SET_ASIDE}[what]))
    await insert(waiting, user_id="bob")
    await drained(store)
    assert await waiting.fetchval("SELECT count(*) FROM notify_outbox_dead") == 1
    assert len((await store.read("bob", "0", 10)).events) == 1
    assert await waiting.fetchval("SELECT count(*) FROM notify_events") == 1


async def test_a_row_that_the_database_refuses(make: Make, waiting: asyncpg.Connection) -> None:
    """A row that one of the operator's constraints forbids is set aside with its reason, and blocks no other."""
    await waiting.execute("ALTER TABLE notify_events ADD CONSTRAINT no_seven CHECK (convert_from(data, 'UTF8') <> '7')")
    store = await make()
    for number in range(12):
        await insert(waiting, data=b"%d" % number)
    await drained(store)
    assert [event.payload for event in (await store.read("alice", "0", 20)).events] == [
        number for number in range(12) if number != 7
    ]
    assert "no_seven" in await waiting.fetchval("SELECT reason FROM notify_outbox_dead")


async def test_a_failure_that_is_not_about_a_row(make: Make, waiting: asyncpg.Connection) -> None:
    """A failure of the server sets nothing aside: the rows wait, in their order."""
    store = await make()
    await insert(waiting, data=b"1")
    await insert(waiting, data=b"2")
    await waiting.execute("ALTER TABLE notify_events RENAME TO away")
    with pytest.raises(BackendUnavailableError):
        await store._outbox.relay()
    await waiting.execute("ALTER TABLE away RENAME TO notify_events")
    await drained(store)
    assert [event.payload for event in (await store.read("alice", "0", 10)).events] == [1, 2]


@pytest.mark.parametrize("lost", ["table", "right"])
async def test_rows_that_cannot_be_set_aside(
    make: Make, waiting: asyncpg.Connection, caplog: pytest.LogCaptureFixture, lost: str, schema: str,
    postgres: Any,
) -> None:  # fmt: skip
    """Where the table for them is missing, or the role may not use it, they stay in the outbox and block nothing."""
    dsn = postgres.dsn
    if lost == "table":
        store = await make()
        await store.head("alice")
        await waiting.execute("DROP TABLE notify_outbox_dead")
    else:
        role = f"r{schema}"
        await waiting.execute(
            f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role}; "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}; "
            f"REVOKE ALL ON notify_outbox_dead FROM {role}"
        )
        store = await make(PostgresStore, dsn.replace("postgres@", f"{role}@"))
    await insert(waiting, **SET_ASIDE["data deep"])
    for number in range(3):
        await insert(waiting, data=b"%d" % number)
        await drained(store)
    assert len((await store.read("alice", "0", 10)).events) == 3
    assert (await store.backlog()).waiting == 1
    assert (await store.backlog()).dead == 0
    assert len([record for record in caplog.records if "left there" in record.getMessage()]) == 1


async def test_dead_letters_are_replayed_by_hand(make: Make, waiting: asyncpg.Connection) -> None:
    """The documented statement moves mended rows back into the outbox, and they arrive."""
    store = await make()
    await insert(waiting, **SET_ASIDE["data 1e400"])
    await drained(store)
    await waiting.execute("UPDATE notify_outbox_dead SET data = convert_to('1e4', 'UTF8')")
    await waiting.execute("""
        WITH mended AS (DELETE FROM notify_outbox_dead RETURNING *)
        INSERT INTO notify_outbox (user_id, type, data, micros, topic, key, meta)
        SELECT user_id, type, data, micros, topic, key, meta FROM mended ORDER BY id
    """)
    await drained(store)
    assert [event.payload for event in (await store.read("alice", "0", 10)).events] == [10_000.0]


async def test_a_payload_that_is_too_large_to_enqueue(make: Make, sql: asyncpg.Connection) -> None:
    """`enqueue` refuses what its relay would set aside, before anything is sent; the limit is an option."""
    store, large = await make(), await make(max_payload=200_000)
    event = Event("alice", "t", "x" * 100_000)
    async with sql.transaction():
        with pytest.raises(PayloadTooLargeError):
            await store.enqueue(event, connection=sql)
        await large.enqueue(event, connection=sql)

    async def is_there() -> bool:
        return len((await store.read("alice", "0", 10)).events) == 1

    await until(is_there)
    with pytest.raises(InvalidEventError):
        Event("alice", "t", float("inf"))


async def test_two_relays_move_each_row_once(make: Make, waiting: asyncpg.Connection) -> None:
    """Relays of several processes move each row once, in order."""
    first, second = await make(relay=0.01), await make(relay=0.01)
    for number in range(300):
        await insert(waiting, data=b"%d" % number)

    async def are_moved() -> bool:
        return not await waiting.fetchval("SELECT count(*) FROM notify_outbox")

    await until(are_moved)
    assert [event.payload for event in (await first.read("alice", "0", 500)).events] == [*range(300)]
    assert await second.head("alice") != "0"


# -- the backlog -------------------------------------------------------------------------------------------------------


async def test_the_backlog(make: Make, waiting: asyncpg.Connection, schema: str, postgres: Any) -> None:
    """What waits, since when, and what was set aside is known to the store, and to `check` if it is too much."""
    store = await make(PostgresStreamStore)
    assert isinstance(store, HasOutbox)
    async with Notifier(store) as notifier:
        assert await store.backlog() == Backlog() == store.last_backlog
        assert set((await notifier.check()).parts) == {"store", "live"}
        await insert(waiting)
        found = await store.backlog()
        assert found == store.last_backlog
        assert found.waiting == 1
        assert 0 <= found.age < 30
        assert (await notifier.check()).ok
        await waiting.execute("UPDATE notify_outbox SET micros = micros - 90000000")
        await insert(waiting)
        found = await store.backlog()
        assert found.waiting == 2
        assert 90 <= found.age < 120
        health = await notifier.check()
        assert not health.ok
        assert "2 events wait in the outbox, the oldest for 9" in health.parts["outbox"]
        assert "no relay moves them" in health.parts["outbox"]
        await drained(store)
        await insert(waiting, **SET_ASIDE["data deep"])
        await drained(store)
        health = await notifier.check()
        assert "1 events of the outbox were set aside" in health.parts["outbox"]
        assert (await store.backlog()).dead == 1
    async with aclosing(PostgresStore(postgres.dsn, schema=f"{schema}none")) as unprepared:
        assert await unprepared.backlog() == Backlog()


async def test_the_backlog_is_printed_and_measured(make: Make, waiting: asyncpg.Connection, schema: str) -> None:
    """`notify stats` prints what waits and whether a relay runs; the gauge reads what was found last."""
    store = await make(PostgresStreamStore)
    async with Notifier(store) as notifier:
        telemetry = notifier._parts.telemetry
        assert telemetry.waiting() == 0
        await insert(waiting)
        lines = [line async for line in describe(store, "postgresql://", ())]
        assert "outbox 1 waiting, the oldest for 0 s; 0 set aside" in lines
        assert telemetry.waiting() == 1
        await waiting.execute("UPDATE notify_outbox SET micros = micros - 90000000")
        lines = [line async for line in describe(store, "postgresql://", ())]
        assert any("s: no relay moves them; 0 set aside" in line for line in lines)


async def test_a_backlog_that_grows_old_is_logged_once(
    make: Make, waiting: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning says once that nothing moves the outbox, and once that it is moved again."""
    monkeypatch.setattr(outbox, "WATCH", 0.05)
    await insert(waiting)
    store = await make()
    backlog, calls = store._outbox.backlog, 0

    async def failing() -> Backlog:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise BackendUnavailableError("away")
        found: Backlog = await backlog()
        return found

    monkeypatch.setattr(store._outbox, "backlog", failing)

    def logged(text: str) -> int:
        return sum(text in record.getMessage() for record in caplog.records)

    await until(lambda: logged("no relay moves them"))
    seen = calls
    await until(lambda: calls > seen + 3)
    assert logged("no relay moves them") == 1
    await drained(store)
    await until(lambda: logged("the outbox is moved again"))


async def test_forgetting_covers_what_was_set_aside(make: Make, waiting: asyncpg.Connection) -> None:
    """Erasing a user erases its rows that were set aside as well."""
    store = await make()
    await insert(waiting, **SET_ASIDE["data deep"])
    await drained(store)
    await store.forget("alice")
    assert not await waiting.fetchval("SELECT count(*) FROM notify_outbox_dead")
