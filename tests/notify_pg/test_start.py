"""Start-up demands no more than running does: rights, partitions, the row of the version, row level security."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from notify import BackendUnavailableError, Event, Notifier, PushRejectedError, RoutingInfo, UsageError, ids
from notify.abc import Prepare
from notify.testing._waits import assert_chain
from notify_pg import PostgresPresence, PostgresStore, PostgresStreamStore
from notify_pg._partitions import DAY, Partition, missing_ranges, name_of, parse_bound, pieces, uncovered
from tests.notify_pg.conftest import Make
from tests.notify_pg.roles import DOCUMENTED, Role, role
from tests.parts import until
from tests.servers.postgres import Bouncer, Server, running

pytestmark = pytest.mark.anyio


async def log_of(store: PostgresStore, user: str) -> list[Event]:
    return [*(await store.read(user, "0", 10_000)).events]


async def today(sql: asyncpg.Connection) -> int:
    return int(await sql.fetchval("SELECT floor(date_part('epoch', now()) / 86400)::bigint"))


async def drop_days(sql: asyncpg.Connection, schema: str, *days: int) -> None:
    for day in days:
        await sql.execute(f"DROP TABLE IF EXISTS {schema}.notify_events_{await today(sql) + day}")


async def insert(sql: asyncpg.Connection, schema: str, id_: int) -> None:
    columns = "user_id, id, prev, micros, type, data"
    await sql.execute(f"INSERT INTO {schema}.notify_events ({columns}) VALUES ('a', {id_}, 0, 0, 'n', '1')")


async def relations(sql: asyncpg.Connection, schema: str) -> set[str]:
    rows = await sql.fetch("SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace($1)", schema)
    return {row["relname"].removeprefix("notify_") for row in rows}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- the parts of days, purely -----------------------------------------------------------------------------------------


def partition(low: int, high: int) -> Partition:
    return Partition(f"events_{low}", low, high, 0, True)


def test_what_partitions_leave_uncovered() -> None:
    """Holes before, between and after partitions are found, whatever their order; foreign bounds are understood."""
    assert [*uncovered(0, 100, [])] == [(0, 100)]
    assert [*uncovered(0, 100, [partition(20, 30), partition(-50, 10), partition(90, 200)])] == [(10, 20), (30, 90)]
    assert [*uncovered(0, 100, [partition(-5, 105), Partition("", None, None, 0, True)])] == []
    assert parse_bound("FOR VALUES FROM ('-5') TO (MAXVALUE)") == (-5, (1 << 63) - 1)
    assert parse_bound("FOR VALUES FROM (MINVALUE) TO ('7')") == (-1 << 63, 7)
    assert parse_bound("DEFAULT") is None
    half = partition(7 * DAY, 7 * DAY + DAY // 2)
    assert missing_ranges(7, [half]) == [(7 * DAY + DAY // 2, 8 * DAY), (8 * DAY, 9 * DAY), (9 * DAY, 10 * DAY)]
    assert pieces(0, 100, [0, 30, 60, 100]) == [(0, 30), (30, 60), (60, 100)]
    assert [name_of(DAY, 2 * DAY), name_of(DAY, DAY + 5), name_of(DAY + 5, 2 * DAY)] == [
        "events_1", "events_1_0", "events_1_5",
    ]  # fmt: skip
    assert partition(5, 6).is_ours
    assert not Partition("events_default", None, None, 0, True).is_ours


# -- rows of today in the default partition ----------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [PostgresStore, PostgresStreamStore])
async def test_rows_of_today_in_the_default_partition(
    make: Make, sql: asyncpg.Connection, schema: str, caplog: pytest.LogCaptureFixture, cls: type
) -> None:
    """A new process starts, says so once, and works; maintenance moves the rows, and no reader notices."""
    old = await make()
    first = await old.save(Event("alice", "n", 1))
    await drop_days(sql, schema, 0, 1, 2)
    await old.save(Event("alice", "n", 2))
    assert first.id
    store = await make(cls)
    third = await store.save(Event("alice", "n", 3))
    assert len([text for text in warnings(caplog) if "partitions of" in text]) == 1
    assert "the default partition already holds events of that time" in caplog.text
    log = await log_of(store, "alice")
    assert [event.payload for event in log] == [2, 3]
    assert log[-1] == third
    assert await old._retention.maintain(0)
    assert await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_events_default") == 0
    day = await today(sql)
    assert {f"events_{day + n}" for n in range(3)} <= await relations(sql, schema)
    assert await log_of(store, "alice") == log
    await store._db.keep()
    assert "no partition of" in warnings(caplog)[-1]


async def test_the_default_partition_is_emptied_in_pieces_under_load(
    make: Make, sql: asyncpg.Connection, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While days are moved out of the default partition, in pieces, streams see every event once, in order."""
    monkeypatch.setattr("notify_pg._retention.PIECE", 100)
    store, writer = await make(PostgresStreamStore), await make()
    await writer.save(Event("alice", "n", 0))
    await drop_days(sql, schema, 0, 1, 2)
    await sql.execute(f"TRUNCATE {schema}.notify_heads")
    for number in range(0, 500, 50):
        await writer.save_many([Event("alice", "n", n) for n in range(number, number + 50)])
    day = await today(sql)
    for past in (1, 2):  # two earlier days as well
        await sql.execute(
            f"INSERT INTO {schema}.notify_events (user_id, id, prev, micros, type, data) "
            "SELECT 'past' || $1::int, $2::bigint + n, $2 + n - 1, 0, 'n', '1' FROM generate_series(1, 250) n",
            past, (day - past) * DAY,
        )  # fmt: skip
    stop = asyncio.Event()

    async def push() -> int:
        number = 500
        while not stop.is_set():
            await writer.save(Event("alice", "n", number))
            number += 1
        return number

    async def read_past() -> None:
        while not stop.is_set():
            rows = await sql.fetch(f"SELECT id FROM {schema}.notify_events WHERE user_id = 'past1' AND id > 0")
            assert len(rows) == 250
            await asyncio.sleep(0)

    async with store.subscribe("alice", "0") as stream, asyncio.TaskGroup() as tasks:
        pushing, reading = tasks.create_task(push()), tasks.create_task(read_past())
        events = [await stream.next(5) for _ in range(500)]
        assert await store._retention.maintain(0)
        stop.set()
        total = await pushing
        await reading
        events += [await stream.next(5) for _ in range(total - 500)]
        assert [event.payload for event in events] == [*range(total)]
        assert_chain(events)
        assert stream.gaps == ()
    assert await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_events_default") == 0
    names = {name for name in await relations(sql, schema) if name.startswith("events_") and "pkey" not in name}
    assert len(names) >= 10  # several for each of three days
    assert [event.payload for event in await log_of(writer, "alice")] == [*range(total)]


async def test_a_day_that_is_too_large_to_move_stays(
    make: Make, sql: asyncpg.Connection, schema: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A day with too many events to move stays in the default partition, which is said, and is read from there."""
    monkeypatch.setattr("notify_pg._retention.MAX_MOVED", 2)
    store = await make()
    await drop_days(sql, schema, 0)
    events = [await store.save(Event("alice", "n", n)) for n in range(3)]
    assert await store._retention.maintain(0)
    assert "there are 3 of one day, which is too many to move" in caplog.text
    assert await log_of(store, "alice") == events
    await store.trim(events[-1].id)
    assert await store._retention.maintain(0)
    assert await log_of(store, "alice") == events[-1:]
    assert await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_events_default") == 0


async def test_expired_partitions_go_whatever_they_are(
    make: Make, sql: asyncpg.Connection, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Pieces of days are dropped too; a partition that another program has attached is emptied, not dropped."""
    store = await make(max_age=86_400.0)
    day = await today(sql)
    for name, low, high in (
        (f"notify_events_{day - 5}_0", (day - 5) * DAY, (day - 5) * DAY + 100),
        ("archive", (day - 4) * DAY, (day - 3) * DAY),
    ):
        await sql.execute(
            f"CREATE TABLE {schema}.{name} PARTITION OF {schema}.notify_events FOR VALUES FROM ({low}) TO ({high})"
        )
        await insert(sql, schema, low)
    async with sql.transaction():
        await sql.execute(f"SELECT FROM {schema}.notify_events")
        assert await store._retention.maintain(0)
        assert "changing a partition failed and is retried later: LockNotAvailableError" in caplog.text
    assert f"events_{day - 5}_0" in await relations(sql, schema)
    assert await store._retention.maintain(0)
    found = await relations(sql, schema)
    assert f"events_{day - 5}_0" not in found
    assert "archive" in found
    assert await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_events") == 0


# -- a role with the documented rights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [PostgresStore, PostgresStreamStore])
async def test_the_documented_rights_last(
    make: Make, postgres: Server, sql: asyncpg.Connection, schema: str, caplog: pytest.LogCaptureFixture, cls: type
) -> None:
    """A role that may only use the tables starts and works on each day that comes, trims, and says once what is due."""
    await make()
    async with role(postgres, schema) as app:
        for missing in ((), (2,), (1, 2), (0, 1, 2)):
            await drop_days(sql, schema, *missing)
            caplog.clear()
            async with cls(app.dsn, schema=schema) as store, Notifier(store) as notifier:
                event = await notifier.push("alice", "n", len(missing))
                assert event is not None
                assert await store.head("alice") == event.id
                assert await store._retention.maintain(0) in (True, False)
                await store._db.keep()
                assert (await notifier.check()).ok
                said = [text for text in warnings(caplog) if "partitions of" in text]
                assert len(said) == bool(missing)
                assert all("notify init" in text and f"{schema}.notify_events" in text for text in said)
        async with cls(app.dsn, schema=schema) as store:
            assert await store.trim(event.id) >= 0
            assert await log_of(store, "alice") == [event]
        async with PostgresPresence(app.dsn, schema=schema) as presence:
            registration = await presence.register("alice")
            await registration.aclose()


async def test_a_role_that_owns_the_tables_takes_over(
    make: Make, postgres: Server, sql: asyncpg.Connection, schema: str
) -> None:
    """What a role could not do, `prepare` of the owner does, at once; the turn is left to an owner."""
    owner = await make()
    async with role(postgres, schema) as app:
        await drop_days(sql, schema, 0, 1, 2)
        async with PostgresStore(app.dsn, schema=schema) as store:
            events = [await store.save(Event("alice", "n", n)) for n in range(3)]
            await sql.execute(f"UPDATE {schema}.notify_meta SET maintained = now() - interval '20 minutes'")
            assert not await store._retention.maintain(900)
            assert await owner._retention.maintain(900) is True
            assert await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_events_default") == 0
            await sql.execute(f"UPDATE {schema}.notify_meta SET maintained = now() - interval '40 minutes'")
            assert await store._retention.maintain(900)
            await drop_days(sql, schema, 1, 2)
            await owner.prepare()
            day = await today(sql)
            assert {f"events_{day + n}" for n in range(3)} <= await relations(sql, schema)
            assert await store.trim(events[2].id) == 2  # in a partition on which the role has no right
            assert await log_of(store, "alice") == events[2:]


async def test_old_events_of_a_table_that_is_not_owned(
    make: Make, postgres: Server, sql: asyncpg.Connection, schema: str
) -> None:
    """A role that may not drop partitions removes the events in them."""
    await make()
    low = (await today(sql) - 5) * DAY
    await sql.execute(
        f"CREATE TABLE {schema}.notify_events_{low // DAY} PARTITION OF {schema}.notify_events "
        f"FOR VALUES FROM ({low}) TO ({low + DAY})"
    )
    await insert(sql, schema, low)
    async with role(postgres, schema) as app, PostgresStore(app.dsn, schema=schema, max_age=86_400.0) as store:
        await sql.execute(f"UPDATE {schema}.notify_meta SET maintained = '-infinity'")
        assert await store._retention.maintain(0)
        assert await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_events") == 0


async def test_a_role_that_may_only_read(make: Make, postgres: Server, schema: str) -> None:
    """SELECT on the tables is enough to read, also on the two tables of the logs alone; a push is rejected."""
    owner = await make()
    event = await owner.save(Event("alice", "n"))
    async with role(postgres, schema, rights="SELECT") as app:
        store = PostgresStreamStore(app.dsn, schema=schema)
        assert await store.head("alice") == event.id
        async with store.subscribe("alice", "0") as stream:
            assert await stream.next(5) == event
        with pytest.raises(PushRejectedError, match="permission denied for table notify_nonces"):
            await store.save(Event("alice", "n"))
        await store.aclose()


async def test_rights_on_the_logs_alone(make: Make, postgres: Server, sql: asyncpg.Connection, schema: str,
                                        caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    """A reader needs no right on the table of the version, nor on any other that it does not read."""
    owner = await make()
    event = await owner.save(Event("alice", "n"))
    async with role(postgres, schema, rights=None) as app:
        await sql.execute(f"GRANT USAGE ON SCHEMA {schema} TO {app.name}")
        await sql.execute(f"GRANT SELECT ON {schema}.notify_events, {schema}.notify_heads TO {app.name}")
        async with PostgresStore(app.dsn, schema=schema) as store:
            assert await log_of(store, "alice") == [event]
    assert warnings(caplog) == []


async def test_no_usage_on_the_schema(make: Make, postgres: Server, schema: str) -> None:
    """Without USAGE, reading fails with the schema's name: a log that may not be seen is not an empty one."""
    owner = await make()
    await owner.save(Event("alice", "n"))
    async with role(postgres, schema, rights=None) as app:
        store = PostgresStore(app.dsn, schema=schema)
        with pytest.raises(BackendUnavailableError, match=f"permission denied for schema {schema}"):
            await store.head("alice")
        with pytest.raises(PushRejectedError, match=f"permission denied for schema {schema}"):
            await store.save(Event("alice", "n"))
        await store.aclose()


@pytest.mark.parametrize("table", ["heads", "events", "keys", "nonces", "outbox", "meta", "presence", "trackers"])
async def test_one_right_is_missing(
    make: Make, postgres: Server, sql: asyncpg.Connection, schema: str, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The error names the table; what does not need it works."""
    owner = await make()
    await owner.save(Event("alice", "n"))
    async with role(postgres, schema) as app:
        await sql.execute(f"REVOKE ALL ON {schema}.notify_{table} FROM {app.name}")
        async with PostgresStore(app.dsn, schema=schema, timeout=3) as store:
            outcome = (await store.save_many([Event("alice", "n", key="k")]))[0]
            if table in ("heads", "events", "keys", "nonces"):
                assert isinstance(outcome, PushRejectedError)
                assert f"permission denied for table notify_{table}" in str(outcome)
            else:
                assert isinstance(outcome, Event)
        if table in ("presence", "trackers"):
            async with PostgresPresence(app.dsn, schema=schema) as presence:
                with pytest.raises(BackendUnavailableError, match=f"permission denied for table notify_{table}"):
                    await presence.register("alice")


async def test_a_sequence_without_rights(make: Make, postgres: Server, sql: asyncpg.Connection, schema: str) -> None:
    """The outbox needs no right on its sequence: it belongs to an identity column."""
    await make()
    async with role(postgres, schema) as app:
        connection = await asyncpg.connect(app.dsn)
        async with PostgresStore(app.dsn, schema=schema) as store:
            async with connection.transaction():
                await store.enqueue(Event("alice", "n", 1), connection=connection)
            await until(lambda: log_of(store, "alice"))
        await connection.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"default_transaction_isolation": "serializable"},
        {"search_path": "pg_catalog"},
        {"search_path": ""},
        {"TimeZone": "'Pacific/Kiritimati'", "DateStyle": "'SQL, DMY'", "IntervalStyle": "sql_standard"},
        {"standard_conforming_strings": "off", "escape_string_warning": "off"},
        {"lock_timeout": "'100ms'", "statement_timeout": "'3s'", "idle_in_transaction_session_timeout": "'1s'"},
        {"bytea_output": "escape", "extra_float_digits": "0"},
        {"default_tablespace": "pg_default", "default_table_access_method": "heap"},
        {"synchronous_commit": "off", "plan_cache_mode": "force_generic_plan"},
        {"client_min_messages": "debug1", "client_encoding": "'LATIN1'"},
        {"default_transaction_deferrable": "on", "enable_partition_pruning": "off"},
    ],
    ids=lambda settings: next(iter(settings)),
)
async def test_settings_of_the_role(postgres: Server, sql: asyncpg.Connection, schema: str, settings: Any) -> None:
    """Whatever a role has set, everything works: creating the tables, pushing, reading, maintenance."""
    async with role(postgres, schema, rights=None) as app:
        await sql.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {app.name}")
        for name, value in settings.items():
            await sql.execute(f"ALTER ROLE {app.name} SET {name} = {value or chr(39) * 2}")
        async with PostgresStreamStore(app.dsn, schema=schema) as store, store.subscribe("alice", "0") as stream:
            events = [await store.save(Event("alice", "n", text, key=text)) for text in ("é", "\\x07'$$", "☃")]
            assert [await stream.next(5) for _ in events] == events
            assert await log_of(store, "alice") == events
            await drop_days(sql, schema, 0, 1)
            await store.save(Event("bob", "n"))
            assert await store._retention.maintain(0)
            assert await store._retention.sweep(0)
            assert await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_events_default") == 0


async def test_no_query_is_compiled(make: Make, postgres: Server, sql: asyncpg.Connection, schema: str) -> None:
    """Whatever the role has set: compiling a query takes longer than any of the library's queries may last."""
    await make()
    async with role(postgres, schema) as app:
        await sql.execute(f"ALTER ROLE {app.name} SET jit = on")
        await sql.execute(f"ALTER ROLE {app.name} SET jit_above_cost = 0")
        async with PostgresStore(app.dsn, schema=schema) as store:
            await store.save(Event("alice", "n"))
            (plan,) = await store._db.fetch(
                f"EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM {schema}.notify_events"
            )
    assert "Plan" in plan[0]
    assert "JIT" not in plan[0]


async def test_large_reads_in_sessions_of_others_are_not_compiled(
    postgres: Server, sql: asyncpg.Connection, schema: str
) -> None:
    """In the caller's pool, a read for many users runs with `jit` off, and the session is left as it was."""
    queries: list[str] = []

    async def note(connection: asyncpg.Connection) -> None:
        connection.add_query_logger(lambda record: queries.append(record.query))

    settings = {"jit": "on", "jit_above_cost": "0"}
    plan = f"EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM {schema}.notify_events"
    async with asyncpg.create_pool(postgres.dsn, min_size=1, max_size=1, setup=note, server_settings=settings) as pool:
        async with PostgresStore(pool, schema=schema) as store:
            event = await store.save(Event("alice", "n"))
            for count, is_large in ((100, False), (101, True)):
                queries.clear()
                users = ["alice", *(f"user{number}" for number in range(count - 1))]
                pages = await store.read_many(dict.fromkeys(users, "0"), 10)
                assert pages["alice"].events == [event]
                assert any("jit = off" in query for query in queries) == is_large
                (found,) = await store._db.fetch(plan, is_large=is_large)
                assert "Plan" in found[0]
                assert ("JIT" in found[0]) == (not is_large and await sql.fetchval("SELECT pg_jit_available()"))
            assert (await store._db.fetch("SELECT current_setting('jit')"))[0][0] == "on"
            await sql.execute(f"DROP SCHEMA {schema} CASCADE")
            assert await store.read_many(dict.fromkeys(users, "0"), 10) == {}
            assert (await store.save(Event("alice", "n"))).prev == "0"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ["off", "force_generic_plan"]),
        ("?jit=on&plan_cache_mode=auto", ["on", "auto"]),
        ("?options=-c%20JIT%3Don%20--plan_cache_mode%3Dauto", ["on", "auto"]),
        ("?options=-c%20application_name%3Djit", ["off", "force_generic_plan"]),
    ],
)
async def test_settings_of_the_dsn(postgres: Server, schema: str, words: str, expected: list[str]) -> None:
    """The DSN may set how queries are planned, but not what guarantees depend on, such as `row_security`."""
    dsn = f"{postgres.dsn}{words}{'&' if words else '?'}row_security=on"
    async with PostgresStore(dsn, schema=schema) as store:
        (row,) = await store._db.fetch(
            "SELECT current_setting('jit'), current_setting('plan_cache_mode'), current_setting('row_security')"
        )
        assert [*row] == [*expected, "off"]


async def test_a_read_only_role(make: Make, postgres: Server, sql: asyncpg.Connection, schema: str) -> None:
    """`default_transaction_read_only`: a process starts and reads, though days are missing; a push is rejected."""
    owner = await make()
    event = await owner.save(Event("alice", "n"))
    await drop_days(sql, schema, 1, 2)
    async with role(postgres, schema) as app:
        await sql.execute(f"ALTER ROLE {app.name} SET default_transaction_read_only = on")
        async with PostgresStreamStore(app.dsn, schema=schema) as store:
            assert await log_of(store, "alice") == [event]
            with pytest.raises(PushRejectedError, match="read-only"):
                await store.save(Event("alice", "n"))
            with pytest.raises(BackendUnavailableError, match="read-only"):
                await store.forget("alice")


async def test_a_trigger_that_forbids_changes_of_the_schema(caplog: pytest.LogCaptureFixture) -> None:
    """An event trigger that refuses DDL stops no process whose tables exist: the partitions are left for later."""
    with running() as server:
        sql = await asyncpg.connect(server.dsn)
        async with PostgresStore(server.dsn) as store:
            await store.save(Event("alice", "n"))
        await sql.execute(
            "CREATE FUNCTION no_ddl() RETURNS event_trigger LANGUAGE plpgsql "
            "AS $$ BEGIN RAISE 'no changes on Fridays'; END $$;"
            "CREATE EVENT TRIGGER forbid ON ddl_command_start EXECUTE FUNCTION no_ddl()"
        )
        await sql.execute("ALTER EVENT TRIGGER forbid DISABLE")
        for day in range(3):
            await sql.execute(f"DROP TABLE notify_events_{await today(sql) + day}")
        await sql.execute("ALTER EVENT TRIGGER forbid ENABLE")
        async with PostgresStore(server.dsn) as store:
            assert (await store.save(Event("alice", "n"))).id
            assert await store._retention.maintain(0)
        assert "no changes on Fridays" in caplog.text
        with pytest.raises(BackendUnavailableError, match=r"no changes on Fridays.*notify init"):
            async with PostgresStore(server.dsn, schema="other"):
                pass
        await sql.close()


# -- publications ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_publication_of_all_tables(when: str) -> None:
    """Everything can be updated and deleted where all tables are published: each logged table has a key."""
    with running("wal_level = logical") as server:
        sql = await asyncpg.connect(server.dsn)
        if when == "before":
            await sql.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        async with PostgresStreamStore(server.dsn, max_len=10) as store, Notifier(store) as notifier:
            await notifier.push("alice", "n", 1, key="k")
            if when == "after":
                await sql.execute("CREATE PUBLICATION everything FOR ALL TABLES")
            for number in range(30):
                await notifier.push("alice", "n", number, key=f"k{number}")
            connection = await asyncpg.connect(server.dsn)
            async with connection.transaction():
                await store.enqueue(Event("bob", "n", 1), connection=connection)
            await until(lambda: log_of(store, "bob"))
            await drop_days(sql, "public", 0)
            await store.save(Event("carol", "n"))
            assert await store._retention.sweep(0)
            assert await store._retention.maintain(0)
            assert await sql.fetchval("SELECT count(*) FROM notify_events_default") == 0
            await store.trim("9" * 13 + "-0")
            async with PostgresPresence(server.dsn) as presence:
                registration = await presence.register("alice", RoutingInfo("x"))
                assert await presence._leases.renew(None)
                await registration.aclose()
            assert await store.forget("alice") >= 0
            await connection.close()
        without = await sql.fetch(
            "SELECT relname FROM pg_class c WHERE relkind IN ('r', 'p') AND relpersistence = 'p' "
            "AND relname ^@ 'notify_' "
            "AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)"
        )
        assert without == []
        await sql.close()


FIRST_RELEASE = Path(__file__).parent / "first_release.sql"


async def test_tables_of_the_first_release(postgres: Server, sql: asyncpg.Connection, schema: str) -> None:
    """They get the key that they lack, keep their events, and processes of the first release go on beside new ones."""
    await sql.execute(f"CREATE SCHEMA {schema}")
    await sql.execute(FIRST_RELEASE.read_text().replace("{schema}", schema))
    await sql.execute(f"INSERT INTO {schema}.notify_meta (version) VALUES (1)")  # twice: a restore was repeated
    async with PostgresStreamStore(postgres.dsn, schema=schema) as store:
        event = await store.save(Event("alice", "n"))
        assert await sql.fetch(f"SELECT version FROM {schema}.notify_meta") == [(1,)]  # which the first release accepts
        key = await sql.fetchval(
            "SELECT indisprimary FROM pg_index WHERE indrelid = to_regclass($1)", f"{schema}.notify_meta"
        )
        assert key is True
        old = await sql.fetchrow(
            f"SELECT * FROM {schema}.notify_save_1(1, $1, false, 100, 1000, 1000, "
            "'{alice}', '{1}', '{n}', '{1}', NULL, NULL, NULL)", 1 << 62
        )  # fmt: skip
        assert old["prevs"] == [ids.pack(event.id)]


async def test_tables_of_the_first_release_and_a_role_without_rights(
    postgres: Server, sql: asyncpg.Connection, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A role that may not add the key works with the tables as they are, and says once who has to do what."""
    await sql.execute(f"CREATE SCHEMA {schema}")
    await sql.execute(FIRST_RELEASE.read_text().replace("{schema}", schema))
    async with role(postgres, schema) as app, PostgresStore(app.dsn, schema=schema) as store:
        assert (await store.save(Event("alice", "n"))).id
        assert await store._retention.sweep(0)
        assert await store.forget("alice") == 1  # though a table of a later release does not exist
    said = [text for text in warnings(caplog) if "could not be brought up to date" in text]
    assert len(said) == 1
    assert "notify init" in said[0]


# -- the row of the version --------------------------------------------------------------------------------------------


async def test_an_empty_table_of_the_version(
    make: Make, postgres: Server, sql: asyncpg.Connection, schema: str
) -> None:
    """After all tables were truncated, new and running processes work, and the row is there again."""
    running_one = await make(PostgresStreamStore)
    await running_one.save(Event("alice", "n"))
    tables = "meta, heads, events, keys, nonces, outbox, trackers, presence"
    await sql.execute(f"TRUNCATE {', '.join(f'{schema}.notify_{table.strip()}' for table in tables.split(','))}")
    reader = PostgresStore(postgres.dsn, schema=schema)
    assert await reader.head("alice") == "0"
    assert await sql.fetch(f"SELECT FROM {schema}.notify_meta") == []
    await reader.aclose()
    async with role(postgres, schema) as app, PostgresStore(app.dsn, schema=schema) as store:
        event = await store.save(Event("alice", "n"))
        assert event.prev == "0"
    assert await sql.fetch(f"SELECT version FROM {schema}.notify_meta") == [(1,)]
    await sql.execute(f"TRUNCATE {schema}.notify_meta")
    assert not await running_one._retention.maintain(0)
    await running_one._db.keep()
    assert await running_one._retention.maintain(0)
    assert await running_one.head("alice") == event.id


async def test_an_empty_table_of_the_version_that_may_not_be_written(
    make: Make, postgres: Server, sql: asyncpg.Connection, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The row is housekeeping: a role that may not insert it says so once, and works."""
    await make()
    await sql.execute(f"TRUNCATE {schema}.notify_meta")
    async with role(postgres, schema) as app:
        await sql.execute(f"REVOKE INSERT ON {schema}.notify_meta FROM {app.name}")
        async with PostgresStore(app.dsn, schema=schema) as store:
            assert (await store.save(Event("alice", "n"))).id
            await store._db.keep()
    assert len([text for text in warnings(caplog) if "notify_meta holds no version" in text]) == 1


@pytest.mark.parametrize("table", ["meta", "keys", "nonces", "outbox", "presence"])
async def test_a_table_that_was_dropped_is_created_again(
    make: Make, sql: asyncpg.Connection, schema: str, table: str
) -> None:
    """One lost table that holds no log does not stop a process that may create it."""
    first = await make()
    event = await first.save(Event("alice", "n"))
    await sql.execute(f"DROP TABLE {schema}.notify_{table}")
    store = await make()
    assert (await store.save(Event("alice", "n", key="k"))).prev == event.id
    assert table in await relations(sql, schema)


@pytest.mark.parametrize("table", ["heads", "events"])
async def test_a_log_whose_half_is_lost(make: Make, sql: asyncpg.Connection, schema: str, table: str) -> None:
    """Where events or heads are gone, and the rest is not, nothing is created over it: the error says what to do."""
    store = await make()
    await store.save(Event("alice", "n"))
    await sql.execute(f"ALTER TABLE {schema}.notify_{table} RENAME TO elsewhere")
    with pytest.raises(UsageError, match=f"notify_{table} is missing.*restore it"):
        await make()
    with pytest.raises(BackendUnavailableError, match=f"notify_{table}"):
        await store.read("alice", "0", 1)
    await sql.execute(f"ALTER TABLE {schema}.elsewhere RENAME TO notify_{table}")
    assert (await store.save(Event("alice", "n"))).id


# -- row level security ------------------------------------------------------------------------------------------------

TABLES = ["heads", "events", "keys", "nonces", "outbox", "meta"]


async def secure(sql: asyncpg.Connection, schema: str, *tables: str) -> None:
    for table in tables:
        await sql.execute(f"ALTER TABLE {schema}.notify_{table} ENABLE ROW LEVEL SECURITY")


@pytest.mark.parametrize("table", TABLES)
async def test_filtered_rows_are_an_error(
    make: Make, postgres: Server, sql: asyncpg.Connection, schema: str, table: str
) -> None:
    """With row level security on any table, a role that it applies to is refused, with table, role and remedy."""
    owner = await make()
    event = await owner.save(Event("alice", "n"))
    async with role(postgres, schema) as app:
        await secure(sql, schema, table)
        for cls in (PostgresStore, PostgresStreamStore):
            store = cls(app.dsn, schema=schema)
            text = f"row level security hides rows of {schema}.notify_{table} from the role '{app.name}'.*BYPASSRLS"
            for call in (
                store.head,
                lambda user, s=store: s.read(user, "0", 1),
                lambda user, s=store: s.save(Event(user, "n")),
            ):
                with pytest.raises(UsageError, match=text):
                    await call("alice")
            async with Notifier(store) as notifier:
                assert not (await notifier.check()).ok
            await store.aclose()
        await sql.execute(f"ALTER ROLE {app.name} BYPASSRLS")
        async with PostgresStore(app.dsn, schema=schema) as store:
            assert await log_of(store, "alice") == [event]
    assert await log_of(owner, "alice") == [event]  # who owns the tables, or is a superuser, sees everything


async def test_forced_row_level_security(postgres: Server, sql: asyncpg.Connection, schema: str) -> None:
    """Its owner is filtered too where that is forced, and refused; without, it is not."""
    async with role(postgres, schema, rights=None) as app:
        await sql.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {app.name}")
        async with PostgresStore(app.dsn, schema=schema) as store:
            event = await store.save(Event("alice", "n"))
        await secure(sql, schema, *TABLES)
        async with PostgresStore(app.dsn, schema=schema) as store:
            assert await log_of(store, "alice") == [event]
        await sql.execute(f"ALTER TABLE {schema}.notify_heads FORCE ROW LEVEL SECURITY")
        with pytest.raises(UsageError, match="row level security"):
            async with PostgresStore(app.dsn, schema=schema):
                pass


@pytest.mark.parametrize("given", ["dsn", "pool"])
async def test_row_level_security_that_is_enabled_later(
    make: Make, postgres: Server, sql: asyncpg.Connection, schema: str, given: str
) -> None:
    """A running process fails too instead of reading an empty log: at once, or with a pool after a minute at most."""
    await (await make()).save(Event("alice", "n"))
    async with role(postgres, schema) as app, asyncpg.create_pool(app.dsn, min_size=0, max_size=4) as pool:
        async with PostgresStore(app.dsn if given == "dsn" else pool, schema=schema) as store:
            assert len(await log_of(store, "alice")) == 1
            await secure(sql, schema, "heads")
            if given == "pool":
                with pytest.raises(UsageError, match="row level security"):
                    await store._db.keep()  # as maintenance does
            with pytest.raises((UsageError, BackendUnavailableError), match=r"row.level security"):
                await store.head("alice")


async def test_presence_that_is_filtered(make: Make, postgres: Server, sql: asyncpg.Connection, schema: str) -> None:
    """A tracker whose rows are hidden would say that all users are offline: it is refused."""
    await make()
    async with role(postgres, schema) as app:
        await secure(sql, schema, "presence")
        async with PostgresStore(app.dsn, schema=schema) as store:  # which does not read that table
            assert await store.head("alice") == "0"
        presence = PostgresPresence(app.dsn, schema=schema)
        with pytest.raises(UsageError, match="notify_presence"):
            await presence.locate(["alice"])
        await presence.aclose()


# -- preparing, and reading what was never prepared --------------------------------------------------------------------


async def nothing(sql: asyncpg.Connection, schema: str) -> bool:
    return not await sql.fetch("SELECT FROM pg_namespace WHERE nspname = $1", schema)


async def test_reading_never_creates(
    postgres: Server, sql: asyncpg.Connection, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only reads finds empty logs in a schema that was never prepared, and leaves it so; maintenance as well."""
    monkeypatch.setattr("notify_pg._retention.SWEEP", 0.02)
    store = PostgresStreamStore(postgres.dsn, schema=schema)
    kept = 0
    keep = store._db.keep

    async def keeping() -> bool:
        nonlocal kept
        kept += 1
        return await keep()

    monkeypatch.setattr(store._db, "keep", keeping)
    assert await store.head("alice") == "0"
    page = await store.read("alice", "0", 10)
    assert ([*page.events], page.gap, page.position) == ([], None, "0")
    assert (await store.read("alice", "5-0", 10)).gap == "expired"
    assert await store.read_many({"alice": "0"}, 10) == {}
    assert await store.trim("5-0") == 0
    assert await store.forget("alice") == 0
    await until(lambda: kept >= 2)
    assert not await keep()
    notifier = Notifier(store)
    async with store.subscribe("alice", "0") as stream:
        await until(lambda: store.is_receiving)
        assert (await notifier.check()).ok
        presence = PostgresPresence(postgres.dsn, schema=schema)
        assert await presence.locate(["alice"]) == {}
        await presence._leases.release(())
        assert await nothing(sql, schema)
        async with PostgresStore(postgres.dsn, schema=schema) as writer:  # another process creates them
            event = await writer.save(Event("alice", "n"))
        assert await stream.next(5) == event
        assert await store.head("alice") == event.id
        await presence.aclose()
    await notifier.aclose()
    await store.aclose()


async def test_the_first_push_prepares(postgres: Server, sql: asyncpg.Connection, schema: str) -> None:
    """A save without `async with` creates the tables, after reads that did not; so do a registration and an outbox."""
    store = PostgresStore(postgres.dsn, schema=schema)
    assert await store.head("alice") == "0"
    event = await store.save(Event("alice", "n"))
    assert await store.head("alice") == event.id
    await store.aclose()
    await sql.execute(f"DROP SCHEMA {schema} CASCADE")
    presence = PostgresPresence(postgres.dsn, schema=schema)
    await presence.register("alice", RoutingInfo("here"))
    other = PostgresPresence(postgres.dsn, schema=schema)
    assert (await other.locate(["alice"]))["alice"][0].instance_id == "here"
    for tracker in (presence, other):
        await tracker.aclose()


@pytest.mark.parametrize("cls", [PostgresStore, PostgresStreamStore, PostgresPresence])
async def test_nothing_there_and_no_right_to_create(
    postgres: Server, sql: asyncpg.Connection, schema: str, cls: Any
) -> None:
    """The error names the schema, the right that is missing, and what to run; a push is rejected at once with it."""
    async with role(postgres, schema, rights=None) as app:
        part = cls(app.dsn, schema=schema)
        assert isinstance(part, Prepare)
        for call in (part.__aenter__, part.prepare):
            with pytest.raises(BackendUnavailableError, match=f"permission denied.*schema '{schema}'.*notify init"):
                await call()
        if hasattr(part, "save"):
            with pytest.raises(PushRejectedError, match=f"permission denied.*schema '{schema}'.*notify init"):
                await part.save(Event("alice", "n"))
        await part.aclose()
        assert await nothing(sql, schema)
        await sql.execute(f"CREATE SCHEMA {schema}")
        await sql.execute(f"GRANT USAGE ON SCHEMA {schema} TO {app.name}")
        with pytest.raises(BackendUnavailableError, match=f"permission denied for schema {schema}.*notify init"):
            async with cls(app.dsn, schema=schema):
                pass


def psql(server: Server, script: str) -> None:
    """Run a script as an administrator does, as one file."""
    path = server.directory / "script.sql"
    path.write_text(script)
    server.run("psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", server.dsn, "-f", path)


@pytest.mark.parametrize("prefix", ["notify_", "other_"])
async def test_the_script_of_an_administrator(
    postgres: Server, sql: asyncpg.Connection, schema: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What `script` returns is run with psql, twice; then a role without the right to create anything works."""
    script = PostgresStore("postgresql://", schema=schema, table_prefix=prefix).script()
    assert script == PostgresPresence("postgresql://", schema=schema, table_prefix=prefix).script()
    psql(postgres, script)
    psql(postgres, script)
    async with role(postgres, schema) as app:
        async with PostgresStreamStore(app.dsn, schema=schema, table_prefix=prefix) as store:
            async with Notifier(store) as notifier, notifier.subscribe("alice") as stream:
                event = await notifier.push("alice", "n", {"a": 1}, key="k")
                assert await stream.next(5) == event
            psql(postgres, script)
            assert await log_of(store, "alice") == [event]
        async with PostgresPresence(app.dsn, schema=schema, table_prefix=prefix) as presence:
            await presence.register("alice")
    assert warnings(caplog) == []


async def test_the_script_makes_what_prepare_makes(postgres: Server, sql: asyncpg.Connection, schema: str) -> None:
    """Table by table, column by column, index by index."""
    query = """
        SELECT c.relname::text, c.relkind::text, c.relpersistence::text, c.reloptions::text, array_agg(
            a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull ORDER BY a.attnum) AS c
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = to_regnamespace($1) GROUP BY 1, 2, 3, 4
        UNION ALL SELECT p.proname::text, 'f', '', md5(replace(p.prosrc, $1, '')), NULL FROM pg_proc p
        WHERE p.pronamespace = to_regnamespace($1) ORDER BY 1
    """
    other = f"{schema}_b"
    psql(postgres, PostgresStore("postgresql://", schema=other).script())
    async with PostgresStore(postgres.dsn, schema=schema) as store:
        await store.prepare()
        assert await sql.fetch(query, schema) == await sql.fetch(query, other)
    assert len(await sql.fetch(query, schema)) > 20


async def test_the_script_where_the_default_partition_holds_events(
    make: Make, postgres: Server, sql: asyncpg.Connection, schema: str
) -> None:
    """A day whose events are in the default partition is left out, and the rest of the script takes effect."""
    store = await make()
    await drop_days(sql, schema, 0, 1)
    event = await store.save(Event("alice", "n"))
    psql(postgres, store.script())
    found = await relations(sql, schema)
    day = await today(sql)
    assert f"events_{day}" not in found
    assert f"events_{day + 1}" in found
    assert await log_of(store, "alice") == [event]


async def test_a_restored_schema_without_rows(postgres: Server, sql: asyncpg.Connection) -> None:
    """`pg_dump --schema-only | psql` gives tables that work, for a role that owns nothing as well."""
    with running() as source:
        async with PostgresStore(source.dsn) as store:
            await store.save(Event("alice", "n"))
        dump = source.directory / "dump.sql"
        source.run("pg_dump", "--schema-only", "-d", source.dsn, "-f", dump)
        with running() as target:
            target.run("psql", "-X", "-q", "-d", target.dsn, "-f", dump)
            admin = await asyncpg.connect(target.dsn)
            await admin.execute(f"CREATE ROLE app LOGIN; GRANT {DOCUMENTED} ON ALL TABLES IN SCHEMA public TO app")
            await admin.close()
            app = Role("app", target)
            async with PostgresStreamStore(app.dsn) as store, Notifier(store) as notifier:
                assert await store.head("alice") == "0"
                event = await notifier.push("alice", "n")
                assert (await notifier.check()).ok
                assert await store.head("alice") == event.id


# -- poolers, and roles with little patience ---------------------------------------------------------------------------


async def test_a_pooler_that_is_not_recognized(
    pgbouncer: Bouncer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler that passes on the server's process id is recognized by refusing the settings of our sessions."""
    pids: dict[int, int] = {}

    async def pass_on(connection: asyncpg.Connection) -> None:
        pids[id(connection)] = await connection.fetchval("SELECT pg_backend_pid()")

    connect = asyncpg.connect

    async def connecting(*args: Any, **options: Any) -> asyncpg.Connection:
        connection = await connect(*args, **options)
        await pass_on(connection)
        monkeypatch.setattr(type(connection), "get_server_pid", lambda self: pids.get(id(self), 0))
        return connection

    monkeypatch.setattr(asyncpg, "connect", connecting)
    async with PostgresStore(pgbouncer.dsn, schema=schema) as store:
        event = await store.save(Event("alice", "n"))
        assert await log_of(store, "alice") == [event]
        assert store._db.is_pooled


async def test_processes_that_wait_for_each_other_longer_than_their_role_allows(
    postgres: Server, sql: asyncpg.Connection, schema: str
) -> None:
    """A role with short timeouts waits for another process that creates the tables."""
    async with role(postgres, schema, rights=None) as app:
        await sql.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {app.name}")
        await sql.execute(
            f"ALTER ROLE {app.name} SET lock_timeout = 50; ALTER ROLE {app.name} SET statement_timeout = 500"
        )
        store = PostgresStore(app.dsn, schema=schema)
        async with sql.transaction():
            await sql.fetchval("SELECT pg_advisory_xact_lock($1)", store._names.lock)
            starting = asyncio.ensure_future(store.prepare())
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            await until(lambda: sql.fetchval(waiting))
            await asyncio.sleep(0.7)  # longer than both
            assert not starting.done()
        await starting
        assert (await store.save(Event("alice", "n"))).id
        await store.aclose()


async def test_a_first_save_after_a_read_brings_the_tables_up_to_date(
    postgres: Server, sql: asyncpg.Connection, schema: str
) -> None:
    """A process that has read from tables of the first release adds what they lack when it first saves."""
    await sql.execute(f"CREATE SCHEMA {schema}")
    await sql.execute(FIRST_RELEASE.read_text().replace("{schema}", schema))
    key = f"SELECT count(*) FROM pg_index WHERE indrelid = '{schema}.notify_meta'::regclass"
    store = PostgresStore(postgres.dsn, schema=schema)
    assert await store.head("alice") == "0"
    assert await sql.fetchval(key) == 0
    await store.save(Event("alice", "n"))
    assert await sql.fetchval(key) == 1
    await store.aclose()


async def test_a_schema_called_like_a_table(make: Make, sql: asyncpg.Connection) -> None:
    """The name of the schema is not taken for that of a table."""
    store = PostgresStore((await make())._db._dsn, schema="heads", table_prefix="heads")
    assert await store.head("alice") == "0"
    await store.save(Event("alice", "n"))
    await store.aclose()
    await sql.execute("DROP SCHEMA heads CASCADE")
