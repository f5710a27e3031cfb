"""What stores of deliveries may do: roles and logins with the documented rights, and who creates what, and when."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from notify import BackendError, BackendUnavailableError, PushRejectedError, UsageError
from notify.dispatch.abc import CapWindow, Endpoint, Move, State
from notify_pg import PostgresDispatchStore
from notify_pg._dispatch_schema import PostgresDispatchSchema
from notify_pg._names import PostgresNames
from notify_redis import RedisCaps
from tests.cli.commands import called
from tests.notify_pg.roles import role
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres
from tests.servers.redis import Server as RedisServer
from tests.servers.redis import single

from .dispatching import OPEN, submit

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NOW = datetime.now(UTC)

DROPPED = ("deliveries_user", "deliveries_after", "endpoints_session")
"""The indexes that an earlier release would not have created."""


async def tables(server: Server, schema: str) -> set[str]:
    connection = await asyncpg.connect(server.dsn)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
        return {row["tablename"] for row in rows}
    finally:
        await connection.close()


async def use(store: Any) -> None:
    """Do everything that a dispatcher does with a store."""
    ids = await submit(store, "n", 3)
    claims = await store.claim(datetime.now(UTC), lease=60, limit=2)
    assert len(claims) == 2
    for to in (State.SENDING, State.ACCEPTED):
        assert all(await store.advance([Move(each.delivery.id, each.delivery.fence, to) for each in claims], NOW))
    await store.resolve(claims[0].delivery.id, State.DELIVERED, NOW)
    assert await store.track(claims[0].delivery.id, "opened", NOW) is not None
    assert await store.record("n", "user0") is not None
    assert await store.delivery(ids[0]) is not None
    assert len(await store.stuck(OPEN)) == 1
    await store.hurry(NOW, user="user0")
    assert await store.cancel("n", NOW) == 1
    await store.close_digests(NOW)
    assert await store.digest_items("d") == []
    await store.patch("user0", b'{"a":1}', by="b", source="s", now=NOW)
    assert len(await store.consents("user0")) == 1
    endpoint = await store.register(Endpoint("user0", "push", "address"), NOW)
    await store.observe(endpoint.id, 1, NOW, ok=True)
    assert await store.retire(endpoint.id, 1, "gone", NOW)
    windows = [CapWindow("user0/promo/day", 1, NOW + timedelta(days=1))]
    assert await store.admit("n", "user0", windows, NOW) == -1
    await store.refund("n", "user0", windows)
    await store.close_gate("fcm", NOW + timedelta(days=1))
    assert len(await store.gates(NOW)) == 1
    assert await store.forget("user0") == 1
    assert await store.purge(NOW + timedelta(days=1)) == 1


async def test_a_role_with_the_documented_rights(postgres: Server) -> None:
    """Reading creates nothing; a role that may only use the tables can do everything, but not create them."""
    schema = fresh_schema()
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as store:
        await store.prepare()
        async with role(postgres, schema) as app, PostgresDispatchStore(app.dsn, schema=schema) as used:
            await use(used)
            other = PostgresDispatchStore(app.dsn, schema=f"{schema}_x")
            try:
                assert await other.stuck(OPEN) == []
                assert await other.forget("alice") == 0
                assert await other.purge(NOW) == 0
                with pytest.raises(BackendError, match="notify init"):
                    await other.prepare()
                with pytest.raises(PushRejectedError):
                    await submit(other, "n", 1)
            finally:
                await other.aclose()
    assert await tables(postgres, f"{schema}_x") == set()


async def test_indexes_that_a_later_release_added(postgres: Server, caplog: pytest.LogCaptureFixture) -> None:
    """They are created at the next start. If that is not allowed, or takes long, it is logged, and the store works."""
    schema = fresh_schema()
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as first:
        await first.prepare()
    connection = await asyncpg.connect(postgres.dsn)
    try:
        complete = await indexes(connection, schema)
        await drop_indexes(connection, schema)
        assert len(complete - await indexes(connection, schema)) == 3
        async with role(postgres, schema) as app, PostgresDispatchStore(app.dsn, schema=schema) as used:
            assert await used.stuck(OPEN) == []
            await use(used)
        assert [each.levelname for each in caplog.records] == ["WARNING"]
        assert "notify_deliveries_user_idx, notify_deliveries_after_idx, notify_endpoints_session_idx" in caplog.text
        assert "notify init --dispatch --print-sql" in caplog.text
        caplog.clear()
        async with connection.transaction():
            await connection.execute(f'LOCK TABLE "{schema}".notify_deliveries IN ROW EXCLUSIVE MODE')  # as a writer
            async with PostgresDispatchStore(postgres.dsn, schema=schema) as waiting:
                assert await waiting.stuck(OPEN) == []
        assert "statement timeout" in caplog.text
        async with connection.transaction():
            lock = PostgresNames(schema, "notify_").lock
            await connection.execute("SELECT pg_advisory_xact_lock($1)", lock)  # it adds them
            async with PostgresDispatchStore(postgres.dsn, schema=schema) as other:
                await use(other)
        async with PostgresDispatchStore(postgres.dsn, schema=schema) as later:
            assert await indexes(connection, schema) == complete
            await use(later)
        assert len(caplog.records) == 1
    finally:
        await connection.close()


async def test_indexes_that_their_owner_adds(postgres: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A process that works without them says so, once, as soon as it sees that they are there."""
    schema = fresh_schema()
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as first:
        await first.prepare()
    connection = await asyncpg.connect(postgres.dsn)
    try:
        await drop_indexes(connection, schema)
        async with role(postgres, schema) as app, PostgresDispatchStore(app.dsn, schema=schema) as used:
            assert [each.levelname for each in caplog.records] == ["WARNING"]
            async with PostgresDispatchStore(postgres.dsn, schema=schema):
                assert await lacking(connection, schema) == set()
            for _ in range(2):
                await used.prepare()
        assert [each.getMessage() for each in caplog.records[1:]] == [
            f"the tables of deliveries in schema {schema} have all their indexes"
        ]
    finally:
        await connection.close()


async def test_an_index_that_takes_too_long_after_one_that_did_not(
    postgres: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one stays, and the time limit covers only the indexes: later statements have none."""
    schema = fresh_schema()
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as first:
        await first.prepare()
    looked = PostgresDispatchSchema._missing_indexes
    limits = list[str]()

    async def looking(self: Any, connection: Any) -> list[str]:
        limits.append(await connection.fetchval("SHOW statement_timeout"))
        return await looked(self, connection)

    monkeypatch.setattr(PostgresDispatchSchema, "_missing_indexes", looking)
    connection = await asyncpg.connect(postgres.dsn)
    try:
        await drop_indexes(connection, schema)
        async with connection.transaction():
            await connection.execute(f'LOCK TABLE "{schema}".notify_endpoints IN ROW EXCLUSIVE MODE')  # as a writer
            async with PostgresDispatchStore(postgres.dsn, schema=schema) as waiting:
                assert await waiting.stuck(OPEN) == []
                assert await waiting.claim(NOW, lease=60) == []
        assert limits == ["0", "0", "0"]
        assert await lacking(connection, schema) == {"notify_endpoints_session_idx"}
        assert len(caplog.records) == 1
    finally:
        await connection.close()


async def test_an_index_that_was_not_completed(postgres: Server, caplog: pytest.LogCaptureFixture) -> None:
    """An index such as a failed CREATE INDEX CONCURRENTLY leaves is named in the log, once, as not valid."""
    schema = fresh_schema()
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as first:
        await first.prepare()
    connection = await asyncpg.connect(postgres.dsn)
    try:
        index = f'"{schema}".notify_deliveries_after_idx'
        await connection.execute(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass")
        await connection.execute(f'DROP INDEX "{schema}".notify_deliveries_user_idx')
        async with PostgresDispatchStore(postgres.dsn, schema=schema) as used:
            await use(used)
        assert await lacking(connection, schema) == set()
        (record,) = caplog.records
        assert "are not valid, and calls may be slow: notify_deliveries_after_idx;" in record.getMessage()
    finally:
        await connection.close()


async def test_indexes_that_take_longer_than_a_call_may(postgres: Server) -> None:
    """A store with a short `timeout` works without them, too."""
    schema = fresh_schema()
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as first:
        await first.prepare()
    connection = await asyncpg.connect(postgres.dsn)
    try:
        await drop_indexes(connection, schema)
        async with connection.transaction():
            await connection.execute(f'LOCK TABLE "{schema}".notify_deliveries IN ROW EXCLUSIVE MODE')  # as a writer
            async with PostgresDispatchStore(postgres.dsn, schema=schema, timeout=0.9) as waiting:
                assert await waiting.claim(NOW, lease=60) == []
    finally:
        await connection.close()


async def lacking(connection: Any, schema: str) -> set[str]:
    """Return which of the indexes that `drop_indexes` drops do not exist."""
    names = {f"notify_{name}_idx" for name in DROPPED}
    return names - await indexes(connection, schema)


async def indexes(connection: Any, schema: str) -> set[str]:
    """Return the names of the indexes in a schema."""
    rows = await connection.fetch("SELECT indexname FROM pg_indexes WHERE schemaname = $1", schema)
    return {each["indexname"] for each in rows}


async def drop_indexes(connection: Any, schema: str) -> None:
    """Drop some indexes, as if an earlier release had created the tables."""
    for name in DROPPED:
        await connection.execute(f'DROP INDEX "{schema}"."notify_{name}_idx"')


def test_tables_that_the_command_creates(postgres: Server, tmp_path: Path, anyio_backend: str) -> None:
    """`notify init --dispatch` creates those of deliveries, too, and what it prints does the same."""
    made, printed, plain = (fresh_schema() for _ in range(3))
    place = ("init", "--store", postgres.dsn, "--schema")
    done = called(tmp_path, *place, made, "--dispatch")
    assert [line.split(" at ")[0] for line in done.out.splitlines()] == [
        "ready: PostgresStreamStore",
        "ready: PostgresDispatchStore",
    ]
    assert called(tmp_path, *place, plain).status == 0
    script = called(tmp_path, *place, printed, "--dispatch", "--print-sql")

    async def execute() -> list[set[str]]:
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute(script.out)
        await connection.execute(script.out)  # it may be run again
        await connection.close()
        async with PostgresDispatchStore(postgres.dsn, schema=printed) as store:
            await use(store)
        return [await tables(postgres, schema) for schema in (made, printed, plain)]

    by_init, by_script, without = asyncio.run(execute())
    assert {"notify_heads", "notify_deliveries", "notify_gates"} <= by_init & by_script
    assert {name for name in by_init ^ by_script if not re.search(r"_\d", name)} == set()
    assert "notify_heads" in without
    assert "notify_deliveries" not in without


def test_a_file_that_the_command_prepares(tmp_path: Path, anyio_backend: str) -> None:
    """SQLite has the tables in the same file; a backend without deliveries says so."""
    assert called(tmp_path, "init", "--dispatch").out == (
        "ready: SQLiteStreamStore at sqlite:///notify.db\nready: SQLiteDispatchStore at sqlite:///notify.db\n"
    )
    assert "notify_deliveries" in called(tmp_path, "init", "--dispatch", "--print-sql").out
    refused = called(tmp_path, "init", "--dispatch", "--print-sql", "--store", "redis://localhost")
    assert (refused.status, "no store of deliveries is known for redis://" in refused.err) == (2, True)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with single() as server:
        yield server


async def test_rows_that_a_role_must_not_see(postgres: Server) -> None:
    """With row level security a worker would overlook deliveries, so it does not begin."""
    schema = fresh_schema()
    async with PostgresDispatchStore(postgres.dsn, schema=schema), role(postgres, schema) as app:
        sql = await asyncpg.connect(postgres.dsn)
        await sql.execute(f"ALTER TABLE {schema}.notify_deliveries ENABLE ROW LEVEL SECURITY")
        await sql.close()
        store = PostgresDispatchStore(app.dsn, schema=schema)
        try:
            for call in (store.prepare(), store.stuck(OPEN), submit(store, "n", 1)):
                with pytest.raises(UsageError, match=f"hides rows of notify_deliveries from the role '{app.name}'"):
                    await call
        finally:
            await store.aclose()


async def test_a_login_that_may_not_count(redis_server: RedisServer) -> None:
    """Counting has certainly changed nothing; that and reading end with what the server said, and what to do."""
    redis_server.ask("ACL", "SETUSER", "guest", "reset", "on", ">secret", "~other:*", "resetchannels", "+@all")
    async with RedisCaps(f"redis://guest:secret@127.0.0.1:{redis_server.port}", prefix="prefix") as store:
        with pytest.raises(PushRejectedError, match="Redis refused to count: this user has no permissions"):
            await store.admit("a", "alice", [CapWindow("alice/promo/day", 1, NOW + timedelta(days=1))], NOW)
        with pytest.raises(BackendUnavailableError, match="the server refuses: this user has no permissions"):
            await store.gates(NOW)


async def test_the_rights_of_caps_in_the_documentation(redis_server: RedisServer) -> None:
    """A login with the rights that the page on Redis lists for caps, and no others, can do everything."""
    page = (Path(__file__).parents[2] / "docs" / "backends" / "redis.md").read_text(encoding="utf-8")
    rights = re.findall(r"\+[a-z|]+", page.partition("- *Rights of `RedisCaps`.*")[2].partition(", in a cluster")[0])
    assert len(rights) > 10
    redis_server.ask("ACL", "LOG", "RESET")
    redis_server.ask("ACL", "SETUSER", "caps", "reset", "on", ">secret", "~prefix:*", "resetchannels", *rights)
    async with RedisCaps(f"redis://caps:secret@127.0.0.1:{redis_server.port}", prefix="prefix") as store:
        windows = [CapWindow("alice/promo/day", 1, NOW + timedelta(days=1))]
        assert [await store.admit(name, "alice", windows, NOW) for name in "aab"] == [-1, -1, 0]
        assert await store.admit("b", "alice", windows, NOW, mode="record") == -1
        await store.refund("a", "alice", windows)
        await store.close_gate("fcm", NOW + timedelta(days=1))
        assert len(await store.gates(NOW)) == 1
        assert await store.forget("alice") == 0
        assert await store.admit("c", "alice", windows, NOW) == -1
    assert redis_server.ask("ACL", "LOG") == []
