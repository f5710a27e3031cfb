"""Events that are not stored, between processes, and erasing a user."""

from __future__ import annotations

import asyncio
import logging
import time

import asyncpg
import pytest

from notify import BackendUnavailableError, Event, Notifier, RoutingInfo, UsageError, ids
from notify.testing import FaultProxy, Faults
from notify_pg import PostgresPresence, PostgresStore, PostgresStreamStore
from notify_pg._ephemeral import MAX_QUEUED
from notify_pg._names import short_key
from tests.notify_pg.conftest import Make
from tests.parts import until
from tests.servers.postgres import Bouncer, Server

pytestmark = pytest.mark.anyio


async def test_one_message_for_a_broadcast(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """A broadcast is one notification, however many streams are open; a user's event is for that user alone."""
    heard: list[str] = []
    await sql.add_listener(f"{schema}.notify_wake", lambda *notification: heard.append(notification[3]))
    sender, receiver = await make(PostgresStreamStore), await make(PostgresStreamStore)
    streams = [receiver.subscribe(f"user{number}") for number in range(50)]
    for stream in streams:
        await stream.__aenter__()
    await until(lambda: receiver.is_receiving)
    async with Notifier(sender) as notifier:
        await notifier.broadcast("maintenance", 1)
    sender.send_ephemeral(Event("user7", "typing", 2))
    assert [(await stream.next(5)).payload for stream in streams] == [1] * 50
    assert (await streams[7].next(5)).payload == 2
    await until(lambda: len([text for text in heard if text.startswith("=")]) == 2)
    with pytest.raises(TimeoutError):
        await streams[8].next(0.05)
    for stream in streams:
        await stream.aclose()


async def test_what_is_for_nobody_here_is_dropped_unread(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A payload for a user without open streams is not decoded; neither is a broken one; ours are no wake messages."""
    store = await make(PostgresStreamStore)
    async with store.subscribe("alice") as stream:
        store._on_wake(f"={short_key('bob')} name 0 1 !!!")
        assert caplog.text == ""
        store._on_wake(f"={short_key('alice')} name 0 1 !!!")
        assert "not a fragment" in caplog.text
        event = await (await make(PostgresStore)).save(Event("alice", "n"))
        assert await stream.next(5) == event


async def test_a_burst_goes_in_a_few_statements(
    make: Make, monkeypatch: pytest.MonkeyPatch, sql: asyncpg.Connection
) -> None:
    """A thousand events of twenty users arrive in the order of the calls, by far fewer statements."""
    sender, receiver = await make(PostgresStreamStore), await make(PostgresStreamStore)
    sent = 0
    send = sender._publisher.send

    async def counting(*payloads: str) -> None:
        nonlocal sent
        sent += 1
        await send(*payloads)

    monkeypatch.setattr(sender._publisher, "send", counting)
    streams = [receiver.subscribe(f"user{number}") for number in range(20)]
    for stream in streams:
        await stream.__aenter__()
    await until(lambda: receiver.is_receiving)
    for number in range(1000):
        sender.send_ephemeral(Event(f"user{number % 20}", "n", number))
    for user, stream in enumerate(streams):
        assert [(await stream.next(5)).payload for _ in range(50)] == [*range(user, 1000, 20)]
        await stream.aclose()
    assert sent <= 20


async def test_an_outage_loses_them_and_is_logged_once(
    make: Make, postgres: Server, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While the server is away, sending returns at once, whatever is lost; afterwards it works again."""
    receiver = await make(PostgresStreamStore)
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        dsn = postgres.dsn.replace(str(postgres.port), str(proxy.port))
        async with (
            PostgresStreamStore(dsn, schema=schema, timeout=0.3) as sender,
            receiver.subscribe("alice") as stream,
        ):
            await until(lambda: receiver.is_receiving)
            sender.send_ephemeral(Event("alice", "n", 1))
            assert (await stream.next(5)).payload == 1
            proxy.up = proxy.down = Faults(blackhole=True)
            sender.send_ephemeral(Event("alice", "n", 2))
            await until(lambda: sender._ephemerals._outage.is_failing)
            began = time.monotonic()
            for number in range(MAX_QUEUED + 1000):
                sender.send_ephemeral(Event("alice", "n", number))
            assert time.monotonic() - began < 20  # each could wait for 0.3 s
            assert len(sender._ephemerals._queue) <= MAX_QUEUED
            await until(lambda: "ephemeral events are lost" in caplog.text)
            proxy.heal()
            await until(lambda: not sender._ephemerals._is_sending, 30)
            await until(lambda: "ephemeral events reach other processes again" in caplog.text)
            sender.send_ephemeral(Event("alice", "last"))
            while (await stream.next(5)).type != "last":
                pass
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([record for record in said if "ephemeral events are lost" in record.getMessage()]) == 1


async def test_a_pooler_without_a_way_around(make: Make, pgbouncer: Bouncer, schema: str) -> None:
    """Through a pooler that swallows LISTEN they do not arrive, and stored events do; with `listen_dsn` both do."""
    sender = await make(PostgresStreamStore, pgbouncer.dsn)
    receiver = await make(PostgresStreamStore, pgbouncer.dsn, probe_interval=0.3)
    async with receiver.subscribe("alice") as stream:
        sender.send_ephemeral(Event("alice", "typing"))
        stored = await sender.save(Event("alice", "n"))
        assert await stream.next(5) == stored


async def test_a_closed_store_and_another_thread(make: Make) -> None:
    """Sending from where the store does not belong says so."""
    store = await make(PostgresStreamStore)
    store.send_ephemeral(Event("alice", "n"))

    async def elsewhere() -> None:
        store.send_ephemeral(Event("alice", "n"))

    with pytest.raises(UsageError, match="event loop"):
        await asyncio.to_thread(asyncio.run, elsewhere())


# -- erasing a user ----------------------------------------------------------------------------------------------------


async def rows_with(sql: asyncpg.Connection, schema: str, user: str) -> list[str]:
    """Every row of any table of the schema whose text has this user in it."""
    tables = await sql.fetch(
        "SELECT oid::regclass::text AS name FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace($1)",
        schema,
    )
    found = []
    for table in tables:
        query = f"SELECT t::text FROM {table['name']} t WHERE strpos(t::text, $1) > 0"
        found += [f"{table['name']} {row[0]}" for row in await sql.fetch(query, user)]
    return found


async def test_no_row_of_any_table_names_an_erased_user(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """Log in every partition, keys, head, outbox and presence; what other users have stays."""
    store: PostgresStreamStore = await make(PostgresStreamStore)
    presence: PostgresPresence = await make(PostgresPresence)
    for user in ("erased-user", "other-user"):
        await store.save_many([Event(user, "n", number, key=f"k{number}") for number in range(5)])
        await presence.register(user, RoutingInfo("here"))
        await sql.execute(f"INSERT INTO {schema}.notify_outbox (user_id, type, data) VALUES ($1, 'n', '1')", user)
    day = await sql.fetchval("SELECT floor(date_part('epoch', now()) / 86400)::bigint")
    columns = "user_id, id, prev, micros, type, data"
    for id_ in (((day + 1) * 86_400_000 + 5) << 20, ((day + 900) * 86_400_000) << 20):
        values = f"VALUES ('erased-user', {id_}, 0, 0, 'n', '1')"
        await sql.execute(f"INSERT INTO {schema}.notify_events ({columns}) {values}")
    tables = {row.partition(" ")[0].rpartition(".")[2] for row in await rows_with(sql, schema, "erased-user")}
    assert len(tables) == 7, tables  # three partitions, head, keys, outbox, presence
    others = await rows_with(sql, schema, "other-user")
    assert await store.forget("erased-user") == 7
    assert await rows_with(sql, schema, "erased-user") == []
    assert await rows_with(sql, schema, "other-user") == others
    assert await presence.locate(["other-user"]) != {}


async def test_a_relay_and_an_erasure_do_not_block_each_other(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """While a relay moves events of the user who is erased, again and again, neither fails, and the log stays whole."""
    store: PostgresStreamStore = await make(PostgresStreamStore, relay=0.05)
    for _ in range(10):
        rows = "SELECT 'alice', 'n', '1' FROM generate_series(1, 300)"
        await sql.execute(f"INSERT INTO {schema}.notify_outbox (user_id, type, data) {rows}")
        await asyncio.gather(store.forget("alice"), store._outbox.relay(), store.save(Event("alice", "n")))
    await until(lambda: sql.fetchval(f"SELECT count(*) = 0 FROM {schema}.notify_outbox"))
    await store.forget("alice")
    assert await rows_with(sql, schema, "alice") == []
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await sql.fetchval(deadlocks) >= 0


async def test_an_erasure_waits_for_a_transaction_only_so_long(make: Make, sql: asyncpg.Connection) -> None:
    """While a transaction of the caller's holds the log, it fails within the timeout, and changes nothing."""
    store = await make(timeout=1.0)
    event = await store.save(Event("alice", "n"))
    async with sql.transaction():
        await store.save_in(Event("alice", "n"), sql)
        with pytest.raises(BackendUnavailableError, match="lock timeout"):
            await store.forget("alice")
    assert (await store.read("alice", "0", 10)).events[0] == event
    assert await store.forget("alice") == 2


async def test_an_erasure_that_is_the_victim_of_a_deadlock_is_repeated(
    make: Make, sql: asyncpg.Connection, schema: str
) -> None:
    """A rollback that may not come again is repeated once."""
    store = await make()
    await store.save(Event("alice", "n"))
    await sql.execute(f"""
        CREATE SEQUENCE {schema}.attempts;
        CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('{schema}.attempts') = 1 THEN RAISE 'deadlock' USING ERRCODE = '40P01'; END IF;
            RETURN OLD; END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON {schema}.notify_heads FOR EACH ROW EXECUTE FUNCTION {schema}.refuse();
    """)
    assert await store.forget("alice") == 1
    await store.save(Event("alice", "n"))
    await sql.execute(f"ALTER TABLE {schema}.notify_heads DISABLE TRIGGER refuse")
    await sql.execute(f"""
        CREATE FUNCTION {schema}.always() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE 'deadlock' USING ERRCODE = '40P01'; END $$;
        CREATE TRIGGER always BEFORE DELETE ON {schema}.notify_heads FOR EACH ROW EXECUTE FUNCTION {schema}.always();
    """)
    with pytest.raises(BackendUnavailableError, match="deadlock"):
        await store.forget("alice")


async def test_the_new_log_of_a_user_whose_clock_was_ahead(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """If the last id is a little ahead of the clock, the new log waits until its ids are greater."""
    store = await make()
    event = await store.save(Event("alice", "n"))
    ahead = "floor(date_part('epoch', clock_timestamp()) * 1000 + 400)::bigint << 20"
    old = await sql.fetchval(f"UPDATE {schema}.notify_heads SET last_id = {ahead} RETURNING last_id")
    await store.forget("alice")
    new = await store.save(Event("alice", "n"))
    assert ids.pack(new.id) > old
    assert new.prev == "0"
    assert ids.parse(new.id) > ids.parse(event.id)


async def test_streams_of_another_process_learn_of_an_erasure(make: Make) -> None:
    """`Notifier.forget` reaches the streams of another process by the same way, without a router."""
    here, there = await make(PostgresStreamStore), await make(PostgresStreamStore)
    async with Notifier(here) as notifier, Notifier(there) as other, other.subscribe("alice") as stream:
        await until(lambda: there.is_receiving)
        await notifier.push("alice", "n")
        assert (await stream.next(5)).type == "n"
        assert await notifier.forget("alice") == 1
        event = await notifier.push("alice", "n", 2)
        assert await stream.next(5) == event
        assert [gap.reason for gap in stream.gaps] == ["expired"]
