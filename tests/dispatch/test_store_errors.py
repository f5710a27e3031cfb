"""What stores of deliveries on databases do when they begin, and when something fails."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from notify import BackendUnavailableError, OverloadedError, PushRejectedError, PushUncertainError, UsageError
from notify.dispatch.abc import Delivery, Move, Notification, RecipientRecord, State, Submission
from notify_pg import PostgresDispatchStore, PostgresStore
from notify_redis import RedisCaps
from notify_sqlite import SQLiteDispatchStore, SQLiteStore
from tests.servers.postgres import Server, free_port, fresh_schema
from tests.servers.postgres import postgres as postgres

from .dispatching import submit

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NOW = datetime.now(UTC)


@pytest.fixture
async def sql(postgres: Server) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres.dsn)
    yield connection
    await connection.close()


async def empty(store: Any) -> None:
    """Assert that a store finds nothing."""
    assert await store.record("n", "alice") is None
    assert await store.delivery("id") is None
    assert await store.preferences(["alice"]) == {}
    assert await store.endpoints(["alice"]) == {}
    assert await store.gates(NOW) == {}
    assert await store.digest_items("d:1") == []
    assert await store.purge(NOW) == 0
    assert await store.forget("alice") == 0


# -- SQLite ----------------------------------------------------------------------------------------------------------


async def test_reading_makes_no_file(tmp_path: Path) -> None:
    """Before the first write there is no file, and nothing in it; the log's file gets these tables beside its own."""
    path = tmp_path / "one.db"
    async with SQLiteStore(path), asyncio.timeout(20):
        store = SQLiteDispatchStore(path)
        await empty(store)
        assert await store.claim(NOW, lease=1.0) == []
        assert await store.close_digests(NOW) == 0
        with closing(sqlite3.connect(path)) as file:
            assert file.execute("SELECT part FROM notify_schema").fetchall() == [("store",)]
        await submit(store, "n", 1)
        assert len(await store.claim(datetime.now(UTC), lease=1.0)) == 1
        with closing(sqlite3.connect(path)) as file:
            assert file.execute("SELECT part, version FROM notify_schema").fetchall() == [("dispatch", 1), ("store", 1)]
        await store.aclose()


async def test_a_file_of_a_later_version(tmp_path: Path) -> None:
    """A file that a later version of the library has made is refused, for reading and for writing."""
    path = tmp_path / "one.db"
    async with SQLiteDispatchStore(path) as store:
        await submit(store, "n", 1)
    with closing(sqlite3.connect(path)) as file:
        file.execute("UPDATE notify_schema SET version = 2")
        file.commit()
    later = SQLiteDispatchStore(path)
    with pytest.raises(BackendUnavailableError, match="upgrade the library"):
        await later.record("n", "user0")
    with pytest.raises(PushRejectedError, match="upgrade the library"):
        await submit(later, "m", 1)
    await later.aclose()


async def test_a_file_that_another_program_locks(tmp_path: Path) -> None:
    """While the file is locked, writes are certainly not done; reads go on."""
    path = tmp_path / "one.db"
    async with SQLiteDispatchStore(path, timeout=0.1) as store:
        (id,) = await submit(store, "n", 1)
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            with pytest.raises(OverloadedError):
                await store.claim(datetime.now(UTC), lease=60.0)
            with pytest.raises(PushRejectedError):
                await store.advance([Move(id, 1, State.SENDING)], NOW)
            assert await store.delivery(id) is not None
            file.execute("ROLLBACK")
        assert len(await store.claim(datetime.now(UTC), lease=60.0)) == 1


async def test_the_script_of_a_file(tmp_path: Path) -> None:
    """What an administrator is given creates all that the store needs, and may be run again."""
    path = tmp_path / "one.db"
    store = SQLiteDispatchStore(path)
    with closing(sqlite3.connect(path)) as file:
        for _ in range(2):
            file.executescript(store.script())
        tables = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
    await submit(store, "n", 1)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM sqlite_master").fetchone() == tables
    await store.aclose()


# -- PostgreSQL ------------------------------------------------------------------------------------------------------


async def test_reading_makes_no_table(postgres: Server, sql: asyncpg.Connection) -> None:
    """Before the first write there is no table; a log in the same schema has its own, and neither needs the other's."""
    schema = fresh_schema()
    tables = "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relname = $2"
    async with PostgresStore(postgres.dsn, schema=schema):
        store = PostgresDispatchStore(postgres.dsn, schema=schema)
        await empty(store)
        assert await sql.fetchval(tables, schema, "notify_deliveries") == 0
        await submit(store, "n", 1)
        assert len(await store.claim(datetime.now(UTC), lease=1.0)) == 1
        await store.aclose()
    alone = fresh_schema()
    async with PostgresDispatchStore(postgres.dsn, schema=alone):
        assert await sql.fetchval(tables, alone, "notify_deliveries") == 1
        assert await sql.fetchval(tables, alone, "notify_events") == 0


async def test_tables_of_a_later_version(postgres: Server, sql: asyncpg.Connection) -> None:
    """Tables that a later version of the library has made are refused."""
    schema = fresh_schema()
    async with PostgresDispatchStore(postgres.dsn, schema=schema):
        pass
    await sql.execute(f"UPDATE {schema}.notify_dispatch_meta SET version = 2")
    later = PostgresDispatchStore(postgres.dsn, schema=schema)
    for call in (later.prepare(), later.record("n", "alice"), submit(later, "n", 1)):
        with pytest.raises(UsageError, match="upgrade the library"):
            await call
    await later.aclose()


async def test_a_transaction_of_the_caller_that_has_failed(postgres: Server, sql: asyncpg.Connection) -> None:
    """The submission certainly changed nothing, and the error says why; the transaction is the caller's to end."""
    row = Delivery("d", "n", "alice", "email", due_at=NOW)
    submission = Submission(Notification("n", "t", b"{}", NOW), [RecipientRecord("n", "alice")], [row])
    async with PostgresDispatchStore(postgres.dsn, schema=fresh_schema()) as store:
        transaction = sql.transaction()
        await transaction.start()
        with pytest.raises(asyncpg.DivisionByZeroError):
            await sql.execute("SELECT 1 / 0")
        with pytest.raises(PushRejectedError, match="transaction is aborted"):
            await store.submit(submission, connection=sql)
        await transaction.rollback()
        assert await store.delivery("d") is None


async def test_several_processes_begin_at_once(postgres: Server, sql: asyncpg.Connection) -> None:
    """Stores that begin at the same time create the tables once; what is missing later is created again."""
    schema = fresh_schema()
    stores = [PostgresDispatchStore(postgres.dsn, schema=schema, pool_size=1) for _ in range(4)]
    await asyncio.gather(*(submit(store, f"n{number}", 1) for number, store in enumerate(stores)))
    await sql.execute(f"DROP FUNCTION {schema}.notify_purge_notification_1; DROP TABLE {schema}.notify_gates")
    await stores[0].close_gate("g", datetime(2100, 1, 1, tzinfo=UTC))
    assert len(await stores[1].gates(NOW)) == 1
    for store in stores:
        await store.aclose()


async def test_the_script_of_a_schema(postgres: Server, sql: asyncpg.Connection) -> None:
    """What an administrator is given creates all that the store needs, and may be run again."""
    schema = fresh_schema()
    store = PostgresDispatchStore(postgres.dsn, schema=schema)
    for _ in range(2):
        await sql.execute(store.script())
    before = await sql.fetch("SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace($1) ORDER BY oid", schema)
    await submit(store, "n", 1)
    after = await sql.fetch("SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace($1) ORDER BY oid", schema)
    assert before == after
    await store.aclose()


def test_caps_without_time(anyio_backend: str) -> None:
    """A limit of no seconds is a mistake, told where it is made."""
    with pytest.raises(UsageError, match="timeout must be greater than 0"):
        RedisCaps("redis://127.0.0.1", timeout=0.0)


async def test_a_server_that_is_away() -> None:
    """Where no server answers, reads are unavailable, and writes are certainly not done."""
    store = PostgresDispatchStore(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres", timeout=0.5)
    with pytest.raises(BackendUnavailableError):
        await store.record("n", "alice")
    with pytest.raises(PushRejectedError):
        await submit(store, "n", 1)
    await store.aclose()
    caps = RedisCaps(f"redis://127.0.0.1:{free_port()}", timeout=0.5)
    with pytest.raises(BackendUnavailableError):
        await caps.gates(NOW)
    with pytest.raises(PushUncertainError):
        await caps.close_gate("g", NOW)
    await caps.aclose()


async def test_a_connection_that_is_lost(postgres: Server, sql: asyncpg.Connection) -> None:
    """A write whose connection is lost is uncertain; repeated, it is made or was made, once."""
    schema = fresh_schema()
    async with PostgresDispatchStore(postgres.dsn, schema=schema, pool_size=2) as store:
        (id,) = await submit(store, "n", 1)
        (claim,) = await store.claim(datetime.now(UTC), lease=600.0)
        begin = Move(id, claim.delivery.fence, State.SENDING)
        async with sql.transaction():
            await sql.execute(f"SELECT FROM {schema}.notify_deliveries FOR UPDATE")
            task = asyncio.ensure_future(store.advance([begin], NOW))
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ $1"
            async with asyncio.timeout(20):
                while not (pids := await sql.fetch(waiting, f"{schema}.*advance")):
                    await sql.execute("SELECT pg_stat_clear_snapshot()")
                    await asyncio.sleep(0.01)
            await sql.execute("SELECT pg_terminate_backend($1)", pids[0]["pid"])
            with pytest.raises(PushUncertainError):
                await task
        assert await store.advance([begin], NOW) == [True]
        assert await store.advance([begin], NOW) == [False]
