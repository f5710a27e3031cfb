"""What is special about the store: ids, batches, retries, retention, the schema."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.lowlevel
import asyncpg
import pytest

from notify import (
    BackendError,
    BackendUnavailableError,
    ClosedError,
    Event,
    Notifier,
    PushRejectedError,
    UsageError,
    ids,
)
from notify.testing._waits import assert_chain
from notify_pg import PostgresPresence, PostgresRouter, PostgresStore, PostgresStreamStore
from tests.notify_pg.conftest import Make
from tests.parts import until
from tests.servers.postgres import Server, free_port, fresh_schema

pytestmark = pytest.mark.anyio


async def fill(store: PostgresStore, user: str, count: int) -> list[Event]:
    return [await store.save(Event(user, "n", number)) for number in range(count)]


async def log_of(store: PostgresStore, user: str) -> list[Event]:
    return [*(await store.read(user, "0", 10_000)).events]


# -- ids and order -----------------------------------------------------------------------------------------------------


async def test_ids_grow_though_the_clock_was_ahead(store: PostgresStore, sql: asyncpg.Connection, schema: str) -> None:
    """After the server's clock stepped back by two hours, ids grow by one and the chain holds."""
    first = await store.save(Event("alice", "n"))
    ahead = ids.pack(first.id) + (7_200_000 << 20)
    await sql.execute(f"UPDATE {schema}.notify_heads SET last_id = $1", ahead)
    await sql.execute(f"UPDATE {schema}.notify_events SET id = $1", ahead)
    following = [*await fill(store, "alice", 2), *await store.save_many([Event("alice", "n")] * 3)]
    assert [ids.pack(event.id) for event in following] == [ahead + n for n in range(1, 6)]
    assert_chain([event for event in following if isinstance(event, Event)], ids.unpack(ahead))


async def test_a_log_that_vanished_while_the_clock_was_back_was_rewound(
    store: PostgresStore, sql: asyncpg.Connection, schema: str
) -> None:
    """A reader with an id from before the log was lost, ahead of the new one, gets the gap `rewound`."""
    event = await store.save(Event("alice", "n"))
    ahead = ids.unpack(ids.pack(event.id) + (7_200_000 << 20))
    await sql.execute(f"TRUNCATE {schema}.notify_heads, {schema}.notify_events")
    assert (await store.read("alice", ahead, 10)).gap == "expired"
    again = await store.save(Event("alice", "n"))
    page = await store.read("alice", ahead, 10)
    assert ([*page.events], page.gap, page.position) == ([], "rewound", again.id)


async def test_a_batch_in_opposite_orders_meets_no_deadlock(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """Batches lock their users in one order; where an application's own transaction does not, one retry helps."""
    store = await make()
    await store.save_many([Event(user, "n") for user in "abcd"])
    before = await sql.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    async with sql.transaction():
        await store.save_in(Event("c", "n", "mine"), sql)
        async with asyncio.TaskGroup() as tasks:
            batch = tasks.create_task(store.save_many([Event(user, "n", "batch") for user in "dcba"]))
            await anyio.sleep(0.02)
            await store.save_in(Event("a", "n", "mine"), sql)
            await sql.execute("COMMIT")
            await sql.execute("BEGIN")
            outcomes = await batch
    assert all(isinstance(outcome, Event) for outcome in outcomes)
    for user in "abcd":
        assert_chain(await log_of(store, user))
    after = await sql.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert after - before <= 1


async def test_concurrent_saves_share_statements(store: PostgresStore, sql: asyncpg.Connection, schema: str) -> None:
    """A thousand saves at once take a few transactions, not a thousand, and each user's keep their order."""
    events = [Event(f"user{number % 10}", "n", number) for number in range(1000)]
    stored = await asyncio.gather(*(store.save(event) for event in events))
    assert [event.payload for event in stored] == [*range(1000)]
    assert await sql.fetchval(f"SELECT count(DISTINCT xmin::text) FROM {schema}.notify_events") <= 20
    for user in range(10):
        log = await log_of(store, f"user{user}")
        assert [event.payload for event in log] == [*range(user, 1000, 10)]
        assert_chain(log)


async def test_a_hundred_large_events(store: PostgresStore) -> None:
    """Batches are bounded in bytes too: large payloads come back as they went."""
    data = b'"' + b"x" * 65_000 + b'"'
    stored = await asyncio.gather(*(store.save(Event(f"u{n}", "n", data=data)) for n in range(100)))
    assert {len(event.data) for event in stored} == {65_002}
    assert (await store.read("u7", "0", 1)).events[0].data == data


# -- keys --------------------------------------------------------------------------------------------------------------


async def test_a_key_is_forgotten_after_its_window(make: Make) -> None:
    """A key that is older than the window stores again, and the new event is the first from then on."""
    store = await make(key_window=2)
    first = await store.save(Event("alice", "n", 1, key="k"))
    await anyio.sleep(2.1)
    second = await store.save(Event("alice", "n", 2, key="k"))
    assert second.prev == first.id
    assert await store.save(Event("alice", "n", 3, key="k")) == second


async def test_the_first_event_of_a_key_may_be_trimmed(store: PostgresStore, sql: asyncpg.Connection) -> None:
    """A repeated key whose first event was trimmed stores nothing, and returns the first one's id."""
    first = await store.save(Event("alice", "n", 1, key="k"))
    last = await store.save(Event("alice", "n", 2))
    await store.trim(last.id)
    again = await store.save(Event("alice", "n", 1, key="k"))
    assert (again.id, again.prev) == (first.id, first.prev)
    assert await log_of(store, "alice") == [last]


# -- what the database refuses -----------------------------------------------------------------------------------------


async def refuse(sql: asyncpg.Connection, schema: str, state: str, condition: str = "true") -> None:
    """Make the server itself refuse events, with the error that it would have."""
    await sql.execute(f"""
        CREATE OR REPLACE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF {condition} THEN RAISE 'refused' USING ERRCODE = '{state}'; END IF; RETURN NEW; END $$;
        CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON {schema}.notify_events
        FOR EACH ROW EXECUTE FUNCTION {schema}.refuse();
    """)


@pytest.mark.parametrize("state", ["53100", "42501", "57014", "XX000"])
async def test_what_the_server_refuses_is_rejected(
    make: Make, sql: asyncpg.Connection, schema: str, state: str
) -> None:
    """A full disk, a missing right, a cancelled statement: certainly not stored; reads go on, and so does the rest."""
    store = await make()
    before = await store.save(Event("alice", "n"))
    await refuse(sql, schema, state)
    with pytest.raises(PushRejectedError) as caught:
        await store.save(Event("alice", "n"))
    assert caught.value.backend == "PostgresStore"
    assert isinstance(caught.value.__cause__, asyncpg.PostgresError)
    assert await log_of(store, "alice") == [before]
    await sql.execute(f"DROP TRIGGER refuse ON {schema}.notify_events")
    assert (await store.save(Event("alice", "n"))).prev == before.id


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_rollback_that_may_not_come_again_is_repeated_once(
    make: Make, sql: asyncpg.Connection, schema: str, state: str
) -> None:
    """The victim of a deadlock or serialisation failure is repeated once, and only once."""
    store = await make()
    await store.save(Event("alice", "n"))
    await sql.execute(f"CREATE SEQUENCE {schema}.attempts")
    await refuse(sql, schema, state, f"nextval('{schema}.attempts') = 1")
    assert (await store.save(Event("alice", "n", 2))).payload == 2
    await refuse(sql, schema, state, f"nextval('{schema}.attempts') > 0")
    with pytest.raises(PushRejectedError):
        await store.save(Event("alice", "n", 3))
    assert await sql.fetchval(f"SELECT last_value FROM {schema}.attempts") == 4


async def test_one_event_that_is_refused_does_not_take_the_batch_along(
    make: Make, sql: asyncpg.Connection, schema: str
) -> None:
    """Of a batch with one event that a constraint of the operator's forbids, the others are stored."""
    store = await make()
    await store.save(Event("alice", "n"))
    await refuse(sql, schema, "23514", "NEW.type = 'bad'")
    events = [Event(f"u{number}", "bad" if number == 13 else "n") for number in range(40)]
    outcomes = await store.save_many(events)
    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, PushRejectedError)] == [13]
    assert len(await log_of(store, "u12")) == 1
    async with Notifier(store) as notifier:
        report = await notifier.push_many([f"v{number}" for number in range(3)], "n")
    assert len(report.events) == 3


async def test_a_read_only_server_rejects(make: Make, sql: asyncpg.Connection) -> None:
    """On a server that only reads, pushes are rejected and reads go on; once it writes again, so do we."""
    event = await (await make()).save(Event("alice", "n"))
    await sql.execute("ALTER ROLE postgres SET default_transaction_read_only = on")
    try:
        store = await make()
        with pytest.raises(PushRejectedError) as caught:
            await store.save(Event("alice", "n"))
        assert isinstance(caught.value.__cause__, asyncpg.ReadOnlySQLTransactionError)
        assert await log_of(store, "alice") == [event]
    finally:
        await sql.execute("ALTER ROLE postgres RESET default_transaction_read_only")
    assert (await store.save(Event("alice", "n"))).prev == event.id


async def test_tables_that_were_removed_are_created_again(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """After the schema was dropped under a running store, the next push creates it again."""
    store = await make()
    await store.save(Event("alice", "n"))
    await sql.execute(f"DROP SCHEMA {schema} CASCADE")
    assert (await store.head("alice"), await log_of(store, "alice")) == ("0", [])
    assert not await sql.fetch("SELECT FROM pg_namespace WHERE nspname = $1", schema)
    assert (await store.save(Event("alice", "n"))).prev == "0"


async def test_no_server(schema: str) -> None:
    """With no server, a push is rejected within its time, since nothing was sent, and a read is unavailable."""
    store = PostgresStore(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres", schema=schema, timeout=0.3)
    with anyio.fail_after(2), pytest.raises(PushRejectedError):
        await store.save(Event("alice", "n"))
    with pytest.raises(BackendUnavailableError):
        await store.head("alice")
    with pytest.raises(BackendUnavailableError):
        await store.__aenter__()
    await store.aclose()


async def test_a_server_without_tls(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's own defaults ask for TLS first, and go on without where the server has none."""
    monkeypatch.delenv("PGSSLMODE")
    store = await make()
    assert (await store.save(Event("alice", "n"))).prev == "0"


async def test_a_database_that_does_not_exist(postgres: Server) -> None:
    """What no attempt can mend is rejected at once."""
    store = PostgresStore(postgres.dsn.replace("/postgres", "/nowhere").replace("//nowhere", "//postgres"), timeout=30)
    with anyio.fail_after(5), pytest.raises(PushRejectedError):
        await store.save(Event("alice", "n"))
    await store.aclose()


# -- transactions that hold a log --------------------------------------------------------------------------------------


async def test_a_held_log_holds_up_no_other(make: Make, sql: asyncpg.Connection) -> None:
    """While a transaction holds one user's log, pushes to that user wait, and those to others do not."""
    store = await make()
    store._db.timeout = 60.0
    await store.save(Event("alice", "n", 0))
    async with Notifier(store, timeout=60.0) as notifier, asyncio.TaskGroup() as tasks:
        async with sql.transaction():
            await notifier.push("alice", "n", 1, connection=sql)
            held = [tasks.create_task(notifier.push("alice", "n", n)) for n in (2, 3)]
            with anyio.fail_after(40):
                for number in range(20):
                    await asyncio.gather(*(notifier.push(f"user{n}", "n", number) for n in range(10)))
            assert not any(push.done() for push in held)
    assert [event.payload for event in await log_of(store, "alice")] == [0, 1, 2, 3]


async def test_a_log_that_is_held_for_too_long_rejects(make: Make, sql: asyncpg.Connection) -> None:
    """A push that waits too long for a lock is rejected within its time: it is certainly not stored."""
    store = await make()
    store._db.timeout = 1.0
    async with sql.transaction():
        await store.save_in(Event("alice", "n", 1), sql)
        outcomes: list[Any] = []
        with anyio.fail_after(3):
            outcomes += await store.save_many([Event("alice", "n", 2), Event("bob", "n", 3)])
        assert [type(outcome) for outcome in outcomes] == [PushRejectedError, Event]
    assert [event.payload for event in await log_of(store, "alice")] == [1]


# -- retention ---------------------------------------------------------------------------------------------------------


async def test_a_heavy_user_is_trimmed_during_pushes(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """`max_len` holds to a tenth, also for batches, and costs no other user anything."""
    store = await make(max_len=100)
    for start in range(0, 500, 50):
        await store.save_many([Event("alice", "n", number) for number in range(start, start + 50)])
    await fill(store, "bob", 3)
    log = await log_of(store, "alice")
    assert 100 <= len(log) <= 110
    assert log[-1].payload == 499
    assert len(await log_of(store, "bob")) == 3


async def test_a_day_of_events_is_dropped_whole(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """Retention drops partitions of past days, and creates those of days to come; readers get the gap `expired`."""
    store = await make(max_age=2 * 86_400.0)
    await sql.execute(f"SELECT FROM {schema}.notify_events")
    today = await sql.fetchval("SELECT floor(date_part('epoch', now()) / 86400)::bigint")
    old = today - 5
    await sql.execute(
        f"CREATE TABLE {schema}.notify_events_{old} PARTITION OF {schema}.notify_events "
        f"FOR VALUES FROM ({old * 86_400_000 << 20}) TO ({(old + 1) * 86_400_000 << 20})"
    )
    event = await store.save(Event("alice", "n"))
    number = old * 86_400_000 + 1000 << 20
    await sql.execute(f"UPDATE {schema}.notify_events SET id = $1", number)
    await sql.execute(f"UPDATE {schema}.notify_heads SET last_id = $1", number)
    await sql.execute(f"DROP TABLE {schema}.notify_events_{today + 2}")
    assert await store._retention.maintain(0)
    partitions = {row["relname"] for row in await sql.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind = 'r'", schema
    )}  # fmt: skip
    assert f"notify_events_{old}" not in partitions
    assert f"notify_events_{today + 2}" in partitions
    assert event.id
    assert await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_events") == 0
    page = await store.read("alice", ids.unpack(number - 5), 10)
    assert ([*page.events], page.gap) == ([], "expired")


async def test_heads_keys_and_attempts_of_long_ago_go(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """Heads that are idle for twice `max_age`, keys after their window and attempts after minutes are removed."""
    store = await make(max_age=0.1, key_window=0.1)
    await store.save(Event("alice", "n", key="k"))
    await anyio.sleep(0.3)
    young = await make()
    await sql.execute(f"UPDATE {schema}.notify_nonces SET born = now() - interval '1 hour'")
    assert await store._retention.maintain(0)
    assert not await young._retention.maintain(3600)
    assert await store._retention.sweep(0)
    assert not await young._retention.sweep(3600)
    for table in ("heads", "keys", "nonces"):
        assert await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_{table}") == 0


async def test_an_event_of_another_year_lands_in_the_default_partition(
    make: Make, sql: asyncpg.Connection, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After the clock jumped ahead by a year, events are stored, moved to a partition and read; a warning is logged."""
    store = await make()
    first = await store.save(Event("alice", "n"))
    ahead = ids.pack(first.id) + (366 * 86_400_000 << 20)
    await sql.execute(f"UPDATE {schema}.notify_heads SET last_id = $1", ahead)
    event = await store.save(Event("alice", "n"))
    assert ids.pack(event.id) == ahead + 1
    assert await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_events_default") == 1
    await store._retention.maintain(0)
    assert "the server's clock has jumped" in caplog.text
    assert await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_events_default") == 0
    assert [*(await store.read("alice", ids.unpack(ahead), 10)).events] == [event]


async def test_a_partition_that_cannot_be_made_is_left_for_later(
    make: Make,
    sql: asyncpg.Connection,
    schema: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A partition whose lock another session holds is left for later, and nothing breaks."""
    monkeypatch.setattr("notify_pg._retention.ATTEMPTS", 2)
    monkeypatch.setattr("notify_pg._retention.RETRY_AFTER", 0.01)
    store = await make()
    today = await sql.fetchval("SELECT floor(date_part('epoch', now()) / 86400)::bigint")
    await store.save(Event("alice", "n"))
    await sql.execute(f"ALTER TABLE {schema}.notify_events DETACH PARTITION {schema}.notify_events_{today}")
    await sql.execute(f"DROP TABLE {schema}.notify_events_{today}")
    event = await store.save(Event("alice", "n"))
    async with sql.transaction():
        await sql.execute(f"SELECT FROM {schema}.notify_events")
        assert await store._retention.maintain(0)
        assert "is not emptied: moving them has failed: LockNotAvailableError" in caplog.text
    assert await log_of(store, "alice") == [event]
    assert await store._retention.maintain(0)
    assert "is empty again" in caplog.text
    assert await log_of(store, "alice") == [event]


async def test_maintenance_goes_on_by_itself(make: Make, monkeypatch: pytest.MonkeyPatch, sql: asyncpg.Connection,
                                             schema: str, caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    """The task that maintains the tables does so after a while, and survives a failure."""
    monkeypatch.setattr("notify_pg._retention.SWEEP", 0.02)
    store = await make()

    async def done(column: str) -> bool:
        return bool(await sql.fetchval(f"SELECT {column} <> '-infinity' FROM {schema}.notify_meta"))

    await until(lambda: done("maintained"))
    await sql.execute(f"ALTER TABLE {schema}.notify_meta RENAME TO gone")
    await until(lambda: "table maintenance is failing" in caplog.text)
    await sql.execute(f"ALTER TABLE {schema}.gone RENAME TO notify_meta")
    await sql.execute(f"UPDATE {schema}.notify_meta SET maintained = '-infinity', swept = '-infinity'")
    await until(lambda: done("swept"))
    assert await store.head("alice") == "0"


# -- the schema --------------------------------------------------------------------------------------------------------


async def test_many_processes_start_at_once(make: Make) -> None:
    """Stores that are first used at the same moment make the tables once, and all of them work."""
    stores = [PostgresStore(where, schema=name) for where, name in [((await make())._db._dsn, fresh_schema())] * 8]
    stored = await asyncio.gather(*(store.save(Event("alice", "n")) for store in stores))
    assert len({event.id for event in stored}) == 8
    await asyncio.gather(*(store.aclose() for store in stores))


async def test_a_newer_schema_is_refused(make: Make, sql: asyncpg.Connection, schema: str, postgres: Server) -> None:
    """Tables of a later version are not touched: the error says what to do, and nothing is stored."""
    await make()
    await sql.execute(f"UPDATE {schema}.notify_meta SET version = 99")
    store = PostgresStore(postgres.dsn, schema=schema)
    with pytest.raises(UsageError, match="99"):
        await store.save(Event("alice", "n"))
    assert await sql.fetchval(f"SELECT version FROM {schema}.notify_meta") == 99
    with pytest.raises(UsageError):
        await store.head("alice")
    await store.aclose()


async def test_prefixes_keep_applications_apart(make: Make) -> None:
    """Two prefixes in one schema share nothing."""
    one, other = await make(table_prefix="one_"), await make(table_prefix="other_")
    await one.save(Event("alice", "n"))
    assert await other.head("alice") == "0"


@pytest.mark.parametrize("name", ["", "A", "1a", "a-b", 'a"b', "a.b", "a;", "é", "x" * 32, "a\n"])
def test_names_are_checked(name: str) -> None:
    """A schema or prefix that is not a plain lower-case name is refused before anything is sent."""
    for options in ({"schema": name}, {"table_prefix": name}):
        for cls in (PostgresStore, PostgresStreamStore, PostgresRouter, PostgresPresence):
            with pytest.raises(UsageError):
                cls("postgresql://", **options)


def test_long_names_together_are_checked() -> None:
    """The channel's name has to fit too."""
    with pytest.raises(UsageError):
        PostgresStore("postgresql://", schema="s" * 31, table_prefix="p" * 31)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        *((PostgresStore, {name: 0}) for name in ("max_len", "max_age", "key_window", "timeout", "pool_size", "relay")),
        (PostgresStreamStore, {"probe_interval": 0}),
        (PostgresRouter, {"probe_interval": 0}),
        (PostgresRouter, {"max_size": 0}),
        (PostgresPresence, {"ttl": 0}),
    ],
)
def test_options_are_checked(cls: Any, options: dict[str, float]) -> None:
    """Numbers that make no sense, and what is neither DSN nor pool, are refused by the constructor."""
    with pytest.raises(UsageError):
        cls("postgresql://", **options)
    with pytest.raises(UsageError):
        cls(7)


# -- pools, loops, processes -------------------------------------------------------------------------------------------


async def test_a_pool_that_was_given_stays_open(postgres: Server, schema: str) -> None:
    """A caller's pool is used as it is, and neither closed nor left with connections that are out."""
    async with asyncpg.create_pool(postgres.dsn, min_size=1, max_size=3) as pool:
        async with PostgresStreamStore(pool, schema=schema) as store, Notifier(store) as notifier:
            async with notifier.subscribe("alice") as stream:
                event = await notifier.push("alice", "n")
                assert await stream.next(5) == event
        assert await pool.fetchval("SELECT 1") == 1
        assert pool.get_idle_size() == pool.get_size()


async def test_the_connections_are_bounded(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """A storm of calls that are cancelled opens no more connections than the pool has, and leaves none busy."""
    store = await make(pool_size=5)
    await store.save(Event("alice", "n"))
    used = "SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL"
    before = await sql.fetchval(used)
    calls = [asyncio.create_task(store.save(Event(f"u{n % 50}", "n", n))) for n in range(3000)]
    calls += [asyncio.create_task(store.read(f"u{n % 50}", "0", 10)) for n in range(3000)]  # type: ignore[misc]
    for number in range(50):
        for call in calls[number::50]:
            call.cancel()
        await anyio.sleep(0.001)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    unexpected = [  # on a busy machine the last ones may run out of time
        each for each in outcomes if isinstance(each, Exception) and not isinstance(each, BackendError)
    ]
    assert not unexpected[:1]
    assert await sql.fetchval(used) <= before + 5
    assert (await store.save(Event("alice", "n"))).id
    for number in range(50):
        assert_chain(await log_of(store, f"u{number}"))
    assert not [name for name in asyncio.all_tasks() if "_cancel" in repr(name)]


def test_another_event_loop_is_refused(postgres: Server, schema: str) -> None:
    """A store belongs to the loop of its first use, and no loop but asyncio's will do."""
    store = PostgresStore(postgres.dsn, schema=schema)

    async def use() -> None:
        await store.head("alice")

    async def use_and_close() -> None:
        await use()
        await store._services.aclose(1)
        await store._db._pool.aclose()

    asyncio.run(use_and_close())
    with pytest.raises(UsageError, match="event loop"):
        asyncio.run(use())
    with pytest.raises(UsageError, match="asyncio"):
        anyio.run(PostgresStore(postgres.dsn).head, "alice", backend="trio")


async def test_another_process_is_refused(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fork, a store that was in use says so instead of sharing its sockets."""
    await store.head("alice")
    with monkeypatch.context() as patched:
        patched.setattr("notify._runtime._loop_guard._forks", -1)
        with pytest.raises(UsageError, match="fork"):
            await store.head("alice")


async def test_saves_that_wait_end_when_the_store_closes(make: Make, sql: asyncpg.Connection) -> None:
    """Closing while a log is held, and others queue behind it, ends every save with one of the library's errors."""
    store = await make()
    await store.save(Event("alice", "n"))
    async with sql.transaction():
        await store.save_in(Event("alice", "n"), sql)
        saves = [asyncio.ensure_future(store.save(Event("alice", "n", number))) for number in range(3)]
        await anyio.sleep(0.3)
        saves += [asyncio.ensure_future(store.save(Event("alice", "n", number))) for number in range(3)]
        await anyio.lowlevel.checkpoint()
        await store.aclose()
        outcomes = await asyncio.gather(*saves, return_exceptions=True)
    assert {type(outcome).__name__ for outcome in outcomes} <= {"ClosedError", "PushUncertainError"}
    with pytest.raises(ClosedError):
        await store.save(Event("alice", "n"))
