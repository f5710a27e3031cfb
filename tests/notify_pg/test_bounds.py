"""Bounds that hold while the server is frozen, gone, full or read-only, and while thousands come and go."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from notify import (
    BackendUnavailableError,
    ClosedError,
    Event,
    Notifier,
    PushRejectedError,
    PushUncertainError,
    UsageError,
)
from notify.testing import FaultProxy, Faults
from notify.testing._waits import assert_chain
from notify_pg import PostgresPresence, PostgresRouter, PostgresStore, PostgresStreamStore
from notify_pg._pool import OwnPool
from tests.notify_pg.conftest import Make
from tests.parts import until
from tests.servers.postgres import Server, running, small_disk

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent

FATAL = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
"""The last words of a server over a connection that an administrator has ended."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that the tests of this module freeze and stop; each leaves it running."""
    with running() as server:
        yield server


def pool_of(store: PostgresStore) -> OwnPool:
    assert isinstance(store._db._pool, OwnPool)
    return store._db._pool


def is_clean(store: PostgresStore) -> bool:
    """Whether every connection is back in the pool and none is in a transaction or in the middle of something."""
    pool = pool_of(store)
    idle = [connection for _, connection in pool._idle]
    return (
        not pool._in_use
        and pool._slots._value == pool.size
        and not any(connection.is_in_transaction() for connection in idle if not connection.is_closed())
    )


# -- connections -------------------------------------------------------------------------------------------------------


async def test_a_connection_whose_end_is_not_known_yet_fails_no_call(store: PostgresStore) -> None:
    """Where the server's last words over an idle connection have come, and its end has not, calls take another one.

    The driver then fails with "cannot switch to state 12; another operation (2) is in progress": as if two tasks had
    used the connection. None did, and nothing was sent.
    """
    event = await store.save(Event("alice", "n"))
    await until(lambda: is_clean(store))

    def last_words() -> list[Any]:
        connections = [connection for _, connection in pool_of(store)._idle]
        for connection in connections:
            connection._protocol.data_received(b"E" + (len(FATAL) + 4).to_bytes(4, "big") + FATAL)
        return connections

    connections = last_words()
    with pytest.raises(asyncpg.InternalClientError, match=r"cannot switch to state 1\d; another operation \(2\)"):
        await connections[0].fetch("SELECT 1")
    pool_of(store)._idle[:] = []
    for connection in connections:
        connection.terminate()
    assert [*(await store.read("alice", "0", 10)).events] == [event]
    last_words()
    assert [*(await store.read("alice", "0", 10)).events] == [event]
    last_words()
    following = await store.save(Event("alice", "n"))
    assert [*(await store.read("alice", "0", 10)).events] == [event, following]


async def test_no_two_calls_share_a_connection(
    make: Make, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While calls of all kinds fail, expire and time out, no connection is lent twice or returned in use."""
    store = await make(pool_size=4)
    await store.save(Event("alice", "n"))
    await until(lambda: is_clean(store))
    store._db.timeout = 1.0
    pool = pool_of(store)
    acquire, release = pool.acquire, pool.release
    lent: Counter[int] = Counter()
    faults: list[str] = []

    async def acquiring() -> Any:
        connection = await acquire()
        lent[id(connection)] += 1
        if lent[id(connection)] > 1:
            faults.append("lent twice")
        return connection

    async def releasing(connection: Any) -> None:
        lent[id(connection)] -= 1
        if not connection.is_closed() and connection._protocol.is_in_transaction():
            faults.append("returned in a transaction")
        await release(connection)
        if not connection.is_closed():
            try:
                connection._protocol._check_state()
            except AttributeError:
                pass
            except asyncpg.InterfaceError as error:
                faults.append(str(error))

    monkeypatch.setattr(pool, "acquire", acquiring)
    monkeypatch.setattr(pool, "release", releasing)

    async def use(number: int) -> None:
        calls = (
            store.save(Event(f"u{number % 7}", "n", number)),
            store.read(f"u{number % 7}", "0", 10),
            store._db.fetch("SELECT pg_sleep(0.05), 1 / $1::int", number % 2),
            store._db.fetch("SELECT pg_sleep(3)"),
        )
        for index, call in enumerate(calls):
            if index != number % 4:
                call.close()
        try:
            await calls[number % 4]
        except (BackendUnavailableError, PushRejectedError, PushUncertainError):
            pass

    async with asyncio.TaskGroup() as tasks:
        for number in range(80):
            tasks.create_task(use(number))
        for _ in range(3):
            await anyio.sleep(0.2)
            await pool.expire()
    assert not faults
    assert set(lent.values()) <= {0}
    assert is_clean(store)


async def test_cancelled_at_every_await(make: Make) -> None:
    """A pusher who is cancelled at any step leaves a clean pool; the event is stored or not, and the chain holds."""
    store = await make(pool_size=3)
    async with Notifier(store) as notifier:
        await notifier.push("alice", "n")
        for steps in range(60):
            task = asyncio.ensure_future(notifier.push("alice", "n", steps))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await until(lambda: is_clean(store))
        last = await notifier.push("alice", "n", "last")
    log = [*(await store.read("alice", "0", 100)).events]
    assert log[-1] == last
    assert_chain(log)
    numbers = [event.payload for event in log[1:-1]]
    assert numbers == sorted(set(numbers))


async def test_ten_thousand_that_leave_at_once(make: Make, sql: asyncpg.Connection) -> None:
    """Ten thousand callers who are cancelled within a second use no connection beyond the pool, and leave none busy.

    On a busy machine it takes some seconds. The long `timeout` is there because no call may end before it is cancelled.
    """
    store = await make(pool_size=5, timeout=60.0)
    await store.save(Event("alice", "n"))
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL"
    before = await sql.fetchval(count) - len(pool_of(store)._idle)
    most = 0
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(store.read(f"u{n}", "0", 10)) for n in range(5000)]
        calls += [tasks.create_task(store.save(Event(f"u{n % 50}", "n", n))) for n in range(5000)]  # type: ignore[misc]
        for number in range(50):
            for call in calls[number::50]:
                call.cancel()
            most = max(most, await sql.fetchval(count))
    assert most - before <= 5
    await until(lambda: is_clean(store), 60)
    assert (await store.save(Event("alice", "n"))).id


async def test_two_hundred_subscribers_on_a_default_pool(make: Make) -> None:
    """Two hundred streams and their pushes share the default pool; each gets every event, in order."""
    here, there = await make(PostgresStreamStore), await make(PostgresStreamStore)
    async with Notifier(here) as notifier, Notifier(there) as other, asyncio.TaskGroup() as tasks:
        opened: list[int] = []

        async def read(number: int) -> list[Any]:
            async with other.subscribe(f"user{number}") as stream:
                opened.append(number)
                return [(await stream.next(20)).payload for _ in range(10)]

        readers = [tasks.create_task(read(number)) for number in range(200)]
        await until(lambda: len(opened) == 200, 20)
        for payload in range(10):
            await asyncio.gather(*(notifier.push(f"user{number}", "n", payload) for number in range(200)))
        assert {tuple(await reader) for reader in readers} == {tuple(range(10))}


async def test_ten_thousand_users_and_one_that_listens(
    make: Make, sql: asyncpg.Connection, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand open streams take one listening connection; when it is replaced, a few queries read for all."""
    store, writer = await make(PostgresStreamStore, pool_size=4), await make()
    listening = f"SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%{schema}.%'"
    async with AsyncExitStack() as streams:
        opened = [store.subscribe(f"user{number}") for number in range(10_000)]
        for start in range(0, len(opened), 100):
            await asyncio.gather(*(streams.enter_async_context(stream) for stream in opened[start : start + 100]))
        await until(lambda: store.is_receiving and not store.live._catch_up.is_busy)
        (row,) = await sql.fetch(listening)
        assert await sql.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL") < 30
        queries: list[str] = []
        fetch = store._db.fetch

        async def fetching(query: str, *args: object, **options: Any) -> list[Any]:
            queries.append(query)
            return await fetch(query, *args, **options)

        monkeypatch.setattr(store._db, "fetch", fetching)
        await sql.execute("SELECT pg_terminate_backend($1)", row["pid"])
        event = await writer.save(Event("user7777", "n"))
        assert await opened[7777].next(20) == event
        await until(
            lambda: store._listener.connections == 2 and store.is_receiving and not store.live._catch_up.is_busy, 20
        )
        assert sum("unnest" in query and "heads" in query for query in queries) >= 20
        assert len(queries) < 100


async def test_streams_that_open_while_the_listener_does(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that are being opened when a connection begins to listen read once each, and miss nothing."""
    store, writer = await make(PostgresStreamStore), await make()
    fetch = store._db.fetch
    queries: list[str] = []

    async def fetching(query: str, *args: object, **options: Any) -> list[Any]:
        queries.append(query)
        return await fetch(query, *args, **options)

    async with AsyncExitStack() as streams, store.subscribe("bob"):
        await until(lambda: store.is_receiving)
        monkeypatch.setattr(store._db, "fetch", fetching)
        opened = [store.subscribe(f"user{number}", "0") for number in range(300)]
        opening = [asyncio.ensure_future(streams.enter_async_context(stream)) for stream in opened]
        await until(lambda: len(store.live.positions()) == 301)
        store.live.catch_up()  # as where the connection was replaced just now
        await writer.save_many([Event(f"user{number}", "n", number) for number in range(300)])
        await asyncio.gather(*opening)
        assert [(await stream.next(10)).payload for stream in opened] == [*range(300)]
        await until(lambda: not store.live._catch_up.is_busy)
    assert sum("LIMIT $3" in query and "unnest" not in query for query in queries) <= 330


async def test_a_user_whose_stream_is_being_opened_is_looked_at_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wake message during a stream's first read, which may have been too early for the event, is not forgotten."""
    store, writer = await make(PostgresStreamStore), await make()
    async with store.subscribe("bob"):
        await until(lambda: store.is_receiving)
        head = store.head
        event: list[Event] = []

        async def slow_head(user: str) -> str:
            found = await head(user)
            if not event:
                event.append(await writer.save(Event(user, "n")))
                await until(lambda: user in store.live._catch_up._opening)  # the message finds it still opening
            return found

        monkeypatch.setattr(store, "head", slow_head)
        async with store.subscribe("alice") as stream:
            assert await stream.next(5) == event[0]


async def test_opposite_orders_in_several_processes(make: Make, sql: asyncpg.Connection) -> None:
    """Pushes to the same users in opposite orders, from several stores at once, meet no deadlock."""
    stores = [await make() for _ in range(3)]
    users = [f"user{number}" for number in range(30)]
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = await sql.fetchval(deadlocks)
    async with asyncio.TaskGroup() as tasks:
        for number in range(30):
            order = users if number % 2 else users[::-1]
            tasks.create_task(stores[number % 3].save_many([Event(user, "n", key=f"{number}") for user in order]))
    for user in users:
        log = [*(await stores[0].read(user, "0", 100)).events]
        assert len(log) == 30
        assert_chain(log)
    assert await sql.fetchval(deadlocks) == before


# -- time --------------------------------------------------------------------------------------------------------------


async def test_closing_and_waiting_with_a_frozen_server(server: Server, schema: str, stack: AsyncExitStack) -> None:
    """While the server is frozen, `next` ends at its deadline and `aclose` at once, within a tenth of a second.

    The best of five: the machine may be busy, and what waits for the server waits each time.
    """
    async with PostgresStreamStore(server.dsn, schema=schema) as store, Notifier(store) as notifier:
        async with notifier.subscribe("alice") as stream, notifier.subscribe("bob") as other:
            await until(lambda: store.is_receiving)
            await notifier.push("bob", "n")
            await other.next(5)
            others = [await stack.enter_async_context(notifier.subscribe("bob")) for _ in range(5)]
            server.freeze()
            try:
                waits = [await late(stream) for _ in range(5)]
                closings = [await closing(one) for one in others]
            finally:
                server.thaw()
            await other.aclose()
    assert min(waits) < 0.1
    assert min(closings) < 0.1


async def late(stream: Any) -> float:
    """Return how long after its deadline `next` has ended."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await stream.next(0.1)
    return time.monotonic() - began - 0.1


async def closing(stream: Any) -> float:
    """Return how long it takes until a stream is closed and its reader knows."""
    waiting = asyncio.ensure_future(stream.next())
    await asyncio.sleep(0)
    began = time.monotonic()
    await stream.aclose()
    with pytest.raises(ClosedError):
        await waiting
    return time.monotonic() - began


@pytest.mark.parametrize("where", ["a new store", "a store in use", "a given pool"])
async def test_pushes_to_a_frozen_server_end_in_time(
    server: Server, schema: str, where: str, stack: AsyncExitStack
) -> None:
    """A push to a server that does not answer ends at its deadline, the first one too; later all is well."""
    address: Any = server.dsn
    if where == "a given pool":
        address = await stack.enter_async_context(asyncpg.create_pool(server.dsn, min_size=0, max_size=3))
    store = await stack.enter_async_context(aclosing(PostgresStore(address, schema=schema, timeout=1.5)))
    if where != "a new store":
        await store.save(Event("bob", "n"))
        await until(lambda: not store._publisher._is_sending)
    server.freeze()
    try:
        began = time.monotonic()
        outcomes = await asyncio.gather(*(store.save(Event("alice", "n", n)) for n in range(5)), return_exceptions=True)
        assert time.monotonic() - began < 2.9
        assert all(isinstance(outcome, PushRejectedError | PushUncertainError) for outcome in outcomes)
        began = time.monotonic()
        with pytest.raises(BackendUnavailableError):
            await store.head("alice")
        assert time.monotonic() - began < 2.9
    finally:
        server.thaw()

    async def is_well() -> bool:
        try:
            return bool((await store.save(Event("bob", "n"))).id)
        except (PushRejectedError, PushUncertainError):
            return False

    await until(is_well, 20)


async def test_pushes_to_a_server_that_is_gone(server: Server, schema: str) -> None:
    """While there is no server, pushes end within their time; as soon as it is back they succeed by themselves."""
    async with PostgresStreamStore(server.dsn, schema=schema, probe_interval=0.5) as store:
        async with store.subscribe("alice") as stream:
            first = await store.save(Event("alice", "n", 1))
            assert await stream.next(5) == first
            store._db.timeout = 1.0
            await anyio.to_thread.run_sync(server.kill)
            began = time.monotonic()
            with pytest.raises((PushRejectedError, PushUncertainError)):
                await store.save(Event("alice", "n", 2))
            assert time.monotonic() - began < 3.5  # the default timeout is 4
            await anyio.to_thread.run_sync(server.start)

            async def is_stored() -> bool:
                try:
                    return bool(await store.save(Event("alice", "n", 3, key="k")))
                except (PushRejectedError, PushUncertainError):
                    return False

            await until(is_stored, 20)
            assert (await stream.next(10)).payload == 3
            await until(lambda: store.is_receiving, 20)
            assert not stream.gaps


# -- what the server refuses -------------------------------------------------------------------------------------------


async def test_a_server_that_becomes_read_only(server: Server, schema: str) -> None:
    """A server that only reads rejects a push over a new connection; reads go on, and pushes once it writes again."""
    control = await asyncpg.connect(server.dsn)
    async with PostgresStore(server.dsn, schema=schema) as store:
        event = await store.save(Event("alice", "n"))
        await until(lambda: is_clean(store))
        before = {connection.get_server_pid() for _, connection in pool_of(store)._idle}
        await control.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await control.execute("SELECT pg_reload_conf()")

        async def is_rejected() -> bool:
            try:
                await store.save(Event("bob", "n"))
            except PushRejectedError as error:
                return isinstance(error.__cause__, asyncpg.ReadOnlySQLTransactionError)
            return False

        await until(is_rejected)
        assert before.isdisjoint(connection.get_server_pid() for _, connection in pool_of(store)._idle)
        assert [*(await store.read("alice", "0", 10)).events] == [event]
        await control.execute("SET default_transaction_read_only = off")
        await control.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await control.execute("SELECT pg_reload_conf()")

        async def is_stored() -> bool:
            try:
                return (await store.save(Event("alice", "n", key="k"))).prev == event.id
            except PushRejectedError:
                return False

        await until(is_stored)
    await control.close()


if (
    os.geteuid() == 0
):  # only root may mount a small disk; the same error, raised by hand, is among the tests of the store

    async def test_a_full_disk(server: Server, schema: str) -> None:
        """Where the disk is full, pushes are rejected, reads go on, and once there is room pushes succeed."""
        control = await asyncpg.connect(server.dsn)
        with small_disk(server) as path:
            await control.execute(f"CREATE TABLESPACE small_{schema} LOCATION '{path}'")
            async with PostgresStore(server.dsn, schema=schema, timeout=10) as store:
                first = await store.save(Event("alice", "n"))
                tables = await control.fetch(
                    "SELECT c.relname FROM pg_class c WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'r' "
                    "AND c.relname LIKE 'notify_events_%'",
                    schema,
                )
                for table in tables:
                    await control.execute(f"ALTER TABLE {schema}.{table['relname']} SET TABLESPACE small_{schema}")
                    await control.execute(
                        f"ALTER TABLE {schema}.{table['relname']} ALTER COLUMN data SET STORAGE EXTERNAL"
                    )
                data = b'"' + b"x" * 60_000 + b'"'
                outcomes: list[Any] = []
                while not outcomes or all(isinstance(outcome, Event) for outcome in outcomes):
                    outcomes = [*await store.save_many([Event("bob", "n", data=data)] * 50)]
                assert {type(outcome) for outcome in outcomes} <= {PushRejectedError, Event}
                assert isinstance(outcomes[-1].__cause__, asyncpg.DiskFullError)
                assert [*(await store.read("alice", "0", 10)).events] == [first]
                log = [*(await store.read("bob", "0", 1000)).events]
                assert_chain(log)
                for table in tables:
                    await control.execute(f"ALTER TABLE {schema}.{table['relname']} SET TABLESPACE pg_default")
                assert (await store.save(Event("bob", "n"))).prev == log[-1].id
            await control.execute(f"DROP SCHEMA {schema} CASCADE")
            await control.execute(f"DROP TABLESPACE small_{schema}")
        await control.close()


# -- settings, versions, processes -------------------------------------------------------------------------------------


async def test_settings_that_would_break_promises_are_refused(server: Server, schema: str) -> None:
    """The first use looks at the server: what would fail later and now and then is refused at once, with a remedy."""
    control = await asyncpg.connect(server.dsn)
    await control.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    latin = server.dsn.replace("/postgres", "/latin").replace("//latin", "//postgres")
    repeatable = f"{server.dsn}?default_transaction_isolation=repeatable%20read"
    async with asyncpg.create_pool(repeatable, min_size=0, max_size=4) as pool:
        for where, remedy in ((latin, "UTF8"), (pool, "read%20committed")):
            for cls in (PostgresStore, PostgresStreamStore, PostgresPresence):
                with pytest.raises(UsageError, match=remedy):
                    async with cls(where, schema=schema):
                        pass
    async with PostgresStore(repeatable, schema=schema) as store:  # our own sessions are set as they have to be
        stored = await asyncio.gather(*(store.save(Event("alice", "n")) for _ in range(50)))
        assert len({event.id for event in stored}) == 50
    async with asyncpg.create_pool(server.dsn, min_size=0, max_size=1) as pool:
        with pytest.raises(UsageError, match="kept to listen"):
            async with PostgresStreamStore(pool, schema=schema):
                pass
        async with PostgresStreamStore(pool, schema=schema, listen_dsn=server.dsn) as live:
            async with live.subscribe("alice", "0") as stream:
                assert (await stream.next(5)).user == "alice"
        async with PostgresRouter(pool, schema=schema) as router:
            with pytest.raises(UsageError, match="kept to listen"):
                await router.route(Event("alice", "n"), None)
    await control.execute("DROP DATABASE latin")
    await control.close()


async def test_an_old_server_is_refused(store: PostgresStore, monkeypatch: pytest.MonkeyPatch, schema: str) -> None:
    """A server before the oldest supported version is named in the error."""
    monkeypatch.setattr("notify_pg._connection.MIN_VERSION", 99)
    assert store._db._dsn is not None
    with pytest.raises(UsageError, match="PostgreSQL 99 or later"):
        async with PostgresStore(store._db._dsn, schema=schema):
            pass


async def test_a_migration_with_many_at_once(make: Make, sql: asyncpg.Connection, schema: str,
                                             monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """A later version changes the tables once, however many processes start at once; a running process goes on."""
    old = await make()
    first = await old.save(Event("alice", "n"))
    from notify_pg import _names, _schema

    text = _names._text

    def with_second(operation: str) -> str:
        return "ALTER TABLE {outbox} ADD COLUMN probe integer" if operation == "schema_2" else text(operation)

    monkeypatch.setattr(_names, "_text", with_second)
    monkeypatch.setattr(_schema, "VERSION", 2)
    monkeypatch.setattr(_schema, "SCRIPTS", (*_schema.SCRIPTS, "schema_2"))
    stores = [PostgresStore(old._db._dsn, schema=schema) for _ in range(6)]
    stored = await asyncio.gather(*(store.save(Event("alice", "n")) for store in stores), old.save(Event("alice", "n")))
    assert len({event.id for event in stored}) == 7
    assert await sql.fetchval(f"SELECT version FROM {schema}.notify_meta") == 2
    log = [*(await old.read("alice", "0", 10)).events]
    assert log[0] == first
    assert_chain(log)
    monkeypatch.setattr(_schema, "VERSION", 1)
    with pytest.raises(UsageError, match="version 2"):
        async with PostgresStore(old._db._dsn, schema=schema):
            pass
    await asyncio.gather(*(store.aclose() for store in stores))


FORK = """
import asyncio, os, sys
from notify import Event
from notify_pg import PostgresStore

async def main(dsn, schema):
    async with PostgresStore(dsn, schema=schema) as store:
        await store.save(Event("alice", "n"))
        if not os.fork():
            try:
                await store.save(Event("alice", "n"))
            except Exception as error:
                os.write(1, type(error).__name__.encode() + b" " + str(error).encode())
            os._exit(0)
        os.wait()
        await store.save(Event("alice", "n"))
        print(" after", len((await store.read("alice", "0", 10)).events))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_worker_that_inherits_a_store(postgres: Server, schema: str) -> None:
    """After a real fork the child gets an error that says what to do, and the parent's connections are unharmed."""
    command = [sys.executable, "-W", "ignore", "-c", FORK, postgres.dsn, schema]
    done = await anyio.run_process(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.stdout.startswith(b"UsageError"), done.stderr
    assert b"before a fork" in done.stdout
    assert b" after 2" in done.stdout


async def test_a_proxy_that_trickles(postgres: Server, schema: str) -> None:
    """Over a connection that carries few bytes at a time, everything works as ever, just slower."""
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        proxy.up = proxy.down = Faults(slice=7)
        dsn = postgres.dsn.replace(str(postgres.port), str(proxy.port))
        async with PostgresStreamStore(dsn, schema=schema) as store, store.subscribe("alice") as stream:
            event = await store.save(Event("alice", "n", "x" * 500))
            assert await stream.next(20) == event
