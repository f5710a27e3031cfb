"""Small parts by themselves, and failures that take two faults at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

import anyio
import asyncpg
import pytest

from notify import BackendUnavailableError, ClosedError, Event, PushRejectedError, PushUncertainError, ids
from notify.testing import FaultProxy, Faults
from notify_pg import PostgresRouter, PostgresStore
from notify_pg._dsn import check_dsn
from notify_pg._errors import unavailable
from notify_pg._pool import OwnPool
from notify_pg._record import page_of
from tests.notify_pg.conftest import Make
from tests.notify_pg.roles import role
from tests.parts import until
from tests.servers.postgres import Bouncer, Server

pytestmark = pytest.mark.anyio


HEAD = (1 << 40, None, 0, None, None, None, None, None)


def row(number: int, prev: int) -> tuple[Any, ...]:
    return (number, prev, 7, "n", b"1", None, None, '{"a": "b"}' if number % 2 else None)


def test_rows_become_a_page_whatever_their_order() -> None:
    """Rows that do not come in order, or do not chain, make the page that they should; `prev` is what was stored."""
    low = 1 << 30
    rows = [row(low + 3, low + 1), row(low, 0), row(low + 1, low)]
    for page in (page_of("alice", "0", [HEAD, *rows]), page_of("alice", "0", [*rows, HEAD])):
        assert [event.id for event in page.events] == [ids.unpack(low + n) for n in (0, 1, 3)]
        assert [event.prev for event in page.events] == ["0", ids.unpack(low), ids.unpack(low + 1)]
        assert [dict(event.meta) for event in page.events] == [{}, {"a": "b"}, {"a": "b"}]
        assert (page.gap, page.position) == (None, ids.unpack(low + 3))
    holed = page_of("alice", ids.unpack(low), [HEAD, row(low + 5, low + 4), row(low + 9, low + 7)])
    assert [event.prev for event in holed.events] == [ids.unpack(low + 4), ids.unpack(low + 7)]
    assert holed.gap == "trimmed"


async def test_what_the_driver_asks_is_asked_once(
    make: Make, sql: asyncpg.Connection, schema: str, pgbouncer: Bouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection of a process asks the server about arrays of numbers; about a user-defined type, each one asks."""
    asked: list[int] = []
    ask = asyncpg.Connection._introspect_types

    async def asking(connection: asyncpg.Connection, typeoids: Any, timeout: float | None) -> Any:
        asked.append(connection.get_server_pid())
        return await ask(connection, typeoids, timeout)

    monkeypatch.setattr(asyncpg.Connection, "_introspect_types", asking)
    monkeypatch.setattr("notify_pg._connect._described", {})
    await (await make()).save(Event("alice", "n"))
    before = len(asked)
    assert before
    for where in (None, None, pgbouncer.dsn):  # behind a pooler, statements are unnamed
        store = await make(where=where)
        event = await store.save(Event("alice", "n"))
        assert [*(await store.read("alice", event.prev, 10)).events] == [event]
    assert len(asked) == before
    await sql.execute(f"CREATE TYPE {schema}.word AS ENUM ('a', 'b')")
    for _ in range(2):
        (row,) = await (await make())._db.fetch(f"SELECT $1::{schema}.word[] AS found", ["b"])
        assert row["found"] == ["b"]
    assert len(asked) == before + 2


async def test_an_attempt_that_is_lost_and_one_that_is_refused(
    postgres: Server, schema: str, sql: asyncpg.Connection
) -> None:
    """While the first attempt may still arrive, what refuses the second one decides nothing: the push is uncertain."""
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        dsn = postgres.dsn.replace(str(postgres.port), str(proxy.port))
        async with PostgresStore(dsn, schema=schema) as store:
            await store.save(Event("bob", "n"))
            await until(lambda: not store._publisher._is_sending)
            store._db.timeout = 2.0
            proxy.up = Faults(blackhole=True)
            save = asyncio.ensure_future(store.save(Event("alice", "n")))
            await until(lambda: proxy.swallowed)
            await sql.execute(f"ALTER TABLE {schema}.notify_events ADD CONSTRAINT no CHECK (user_id <> 'alice')")
            proxy.heal()
            with pytest.raises(PushUncertainError):
                await save
            assert await store.head("alice") == "0"


async def test_a_held_log_and_a_look_that_fails(
    make: Make, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it cannot be found out which logs are held, each user's events wait by themselves, and all are stored."""
    store = await make()
    await store.save(Event("alice", "n"))

    async def failing(query: str, *args: object) -> list[Any]:
        raise BackendUnavailableError("no")

    async with sql.transaction():
        await store.save_in(Event("alice", "n"), sql)
        with monkeypatch.context() as patched:
            patched.setattr(store._db, "fetch", failing)
            saves = [asyncio.ensure_future(store.save(Event(user, "n"))) for user in ("alice", "bob", "carol")]
            async with asyncio.timeout(3):
                await asyncio.wait(saves[1:])
        assert not saves[0].done()
    assert {(await save).user for save in saves} == {"alice", "bob", "carol"}


@pytest.mark.parametrize("has_tables", [False, True])
async def test_maintenance_of_partitions_without_a_server(postgres: Server, schema: str, has_tables: bool) -> None:
    """A partition that cannot be changed because the server is away fails like a read, before its tables exist too."""
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        dsn = postgres.dsn.replace(str(postgres.port), str(proxy.port))
        async with aclosing(PostgresStore(dsn, schema=schema)) as store:
            await (store.save(Event("alice", "n")) if has_tables else store.head("alice"))
            assert await store._db.has_tables() is has_tables
            assert isinstance(store._db._pool, OwnPool)
            await proxy.refuse()
            await proxy.reset()
            idle = store._db._pool._idle
            await until(lambda: all(connection.is_closed() for _, connection in idle))
            with pytest.raises(BackendUnavailableError):
                await store._retention._change(store._retention._drop_partition, "events_1")
            with pytest.raises(BackendUnavailableError):
                await store._db.keep()


async def test_an_idle_connection_is_closed(
    make: Make, sql: asyncpg.Connection, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that were idle for minutes are closed with the next call, all but the one that is in use."""
    store = await make()
    await asyncio.gather(*(store.read(f"user{number}", "0", 1) for number in range(20)))
    pool: Any = store._db._pool
    await until(lambda: not pool._in_use)
    assert len(pool._idle) > 1
    monkeypatch.setattr("notify_pg._pool.IDLE", 0.0)
    await anyio.sleep(0.01)
    await store.head("alice")
    assert len(pool._idle) == 1


async def test_a_given_pool_of_a_read_only_server(postgres: Server, schema: str, sql: asyncpg.Connection) -> None:
    """With a caller's pool too, a push that a read-only session has refused is tried over a new connection."""
    async with asyncpg.create_pool(postgres.dsn, min_size=1, max_size=3) as pool:
        async with PostgresStore(pool, schema=schema) as store:
            await store.save(Event("alice", "n"))
            await until(lambda: not store._publisher._is_sending)

            async def read_only(connection: Any) -> None:
                await connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")

            for holder in pool._holders:
                if holder._con is not None:
                    await read_only(holder._con)
            pool.set_connect_args(postgres.dsn)
            try:
                event = await store.save(Event("alice", "n", 2))
            except PushRejectedError as error:
                raise AssertionError("it was not tried over a new connection") from error
            assert (await store.read("alice", "0", 10)).events[-1] == event


async def test_a_router_that_closes_twice(make: Make) -> None:
    """Closing a router again does nothing, and is quick."""
    router = await make(PostgresRouter)
    await router.route(Event("alice", "n"), None)
    await router.aclose()
    with anyio.fail_after(20):
        await router.aclose()


def test_an_error_of_the_contract_stays_as_it_is() -> None:
    """What already says what the caller needs to know is not wrapped once more."""
    error = ClosedError("the store was closed")
    assert unavailable(error, "PostgresStore") is error


async def test_a_pool_whose_connections_are_all_in_use(make: Make) -> None:
    """Whoever wants one more waits for the next that is returned, for as long as it may."""
    store = await make(pool_size=1)
    pool = store._db._pool
    assert isinstance(pool, OwnPool)
    only = await pool.acquire(5)
    with pytest.raises(TimeoutError):
        await pool.acquire(0.05)
    waiting = asyncio.create_task(pool.acquire(5))
    await asyncio.sleep(0)
    await pool.release(only)
    assert await waiting is only
    await pool.release(only)


async def test_a_role_that_may_have_no_connection(postgres: Server, schema: str) -> None:
    """Where the server gives no connection, and there is none to wait for, calls fail soon, and say what is short."""
    async with role(postgres, schema, rights=None, options="CONNECTION LIMIT 0") as none:
        began = time.perf_counter()
        async with aclosing(PostgresStore(none.dsn, schema=schema, timeout=20)) as store:
            with pytest.raises(BackendUnavailableError, match="too many connections"):
                await store.head("alice")
        pool = OwnPool(check_dsn(none.dsn), 1)
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await pool.acquire(20)
        assert time.perf_counter() - began < 15
        assert not pool._slots.locked()
