"""PostgreSQL is killed at each step of a submission: what the caller is told, and what repeating the call does."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio.to_thread
import asyncpg
import pytest

from notify import BackendError, BackendUnavailableError, PushRejectedError, PushUncertainError
from notify.dispatch import Accepted, Dispatcher, Job, NotificationType, Recipient, State, Ticket
from notify.dispatch.abc import Notification, Submission
from notify.testing import FaultProxy, Faults
from notify_pg import PostgresDispatchStore
from tests.servers.postgres import Server, fresh_schema, running, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

WAITS = {
    "executing": "CREATE TRIGGER waits BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {schema}.waits()",
    "committing": "CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED "
    "FOR EACH ROW EXECUTE FUNCTION {schema}.waits()",
}
"""Where the statement of a submission waits for a lock of the test's."""

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory'"


OTHERS = (
    "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' "
    "AND datname = current_database()"
)


class Paper:
    has_endpoints = deduplicates = False

    def __init__(self) -> None:
        self.titles: list[str] = []

    async def send(self, job: Job) -> Accepted:
        self.titles.append(job.data["title"])
        return Accepted()


class Application:
    """A dispatcher whose connections to the server lead through a proxy."""

    def __init__(self, server: Server, proxy: FaultProxy, schema: str) -> None:
        self.server = server
        self.proxy = proxy
        self.schema = schema
        self.paper = Paper()
        dsn = server.dsn.replace(f":{server.port}/", f":{proxy.port}/")
        self.store = PostgresDispatchStore(dsn, schema=schema, timeout=60.0)
        types = [NotificationType("note", channels=["paper"])]
        self.dispatcher = Dispatcher(None, self.store, types, {"paper": self.paper}, recipients=_recipients)

    async def submit(self, key: str | None) -> Ticket:
        return await self.dispatcher.submit("note", "alice", {"title": "hello"}, idempotency_key=key)

    async def repeat(self, key: str) -> Ticket:
        """Repeat the call until the server answers again."""
        async with asyncio.timeout(60):
            while True:
                try:
                    return await self.submit(key)
                except BackendError:
                    await asyncio.sleep(0.02)

    async def stored(self) -> int:
        return len(await self.store.stuck([*State]))

    async def sent(self) -> list[str]:
        """What arrives once the workers have done all there is."""
        while (await self.dispatcher.tick()).claimed:
            pass
        return self.paper.titles


async def _recipients(ids: object) -> list[Recipient]:
    return [Recipient("alice")]


@asynccontextmanager
async def observing(server: Server) -> AsyncIterator[asyncpg.Connection]:
    """A connection beside the proxy, which may be lost."""
    connection = await asyncpg.connect(server.dsn)
    try:
        yield connection
    finally:
        connection.terminate()


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
async def application(server: Server) -> AsyncIterator[Application]:
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        made = Application(server, proxy, fresh_schema())
        async with made.store:
            yield made


async def kill(server: Server, what: str, pids: list[int]) -> None:
    """End the processes of these sessions, or all of the server's, and wait until it answers again."""

    def act() -> None:
        if what == "server":
            server.kill()
            server.start()
            return
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.is_ready(), "the server to recover")

    await anyio.to_thread.run_sync(act)


async def hold(connection: asyncpg.Connection, schema: str, step: str) -> None:
    """Let submissions wait at a step until this connection unlocks, or ends."""
    await connection.execute(
        f"CREATE FUNCTION {schema}.waits() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$"
    )
    await connection.execute(WAITS[step].format(table=f"{schema}.notify_notifications", schema=schema))
    await connection.execute("SELECT pg_advisory_lock(1)")


async def until_waiting(connection: asyncpg.Connection) -> list[int]:
    async with asyncio.timeout(60):
        while not (rows := await connection.fetch(WAITING)):
            await connection.execute("SELECT pg_sleep(0.01)")
    return [row["pid"] for row in rows]


async def failure(task: asyncio.Future[Ticket]) -> BackendError:
    with pytest.raises(BackendError) as caught:
        await task
    return caught.value


kills = pytest.mark.parametrize("what", ["backend", "server"])
keys = pytest.mark.parametrize("key", [None, "k"], ids=["without a key", "with a key"])


@keys
@kills
@pytest.mark.parametrize("step", WAITS)
async def test_before_the_commit(
    application: Application, server: Server, step: str, what: str, key: str | None
) -> None:
    """Nothing is stored, but the caller cannot know: the error says so. With the key, a repetition stores it."""
    async with observing(server) as connection:
        await hold(connection, application.schema, step)
        task = asyncio.ensure_future(application.submit(key))
        await kill(server, what, await until_waiting(connection))
    error = await failure(task)
    assert isinstance(error, PushUncertainError)
    assert "may have done it" in str(error)
    assert await application.stored() == 0
    if key is not None:
        assert not (await application.repeat(key)).replayed
        assert (await application.repeat(key)).replayed
        assert await application.sent() == ["hello"]


@keys
@kills
async def test_after_the_commit(application: Application, server: Server, what: str, key: str | None) -> None:
    """It is stored, and the answer lost: the error says that this is unknown. With the key, a repetition finds it."""
    async with observing(server) as connection:
        await hold(connection, application.schema, "committing")
        task = asyncio.ensure_future(application.submit(key))
        pids = await until_waiting(connection)
        application.proxy.down = Faults(blackhole=True)
        await connection.execute("SELECT pg_advisory_unlock(1)")
        async with asyncio.timeout(60):
            while not await connection.fetchval(f"SELECT count(*) FROM {application.schema}.notify_notifications"):
                await connection.execute("SELECT pg_sleep(0.01)")
        await kill(server, what, pids)
        application.proxy.heal()
    error = await failure(task)
    assert isinstance(error, PushUncertainError)
    assert "may have done it" in str(error)
    (row,) = await application.store.stuck([*State])
    if key is not None:
        again = await application.repeat(key)
        assert (again.replayed, again.id) == (True, row.notification)
    assert await application.sent() == ["hello"]


@keys
@kills
async def test_before_the_statement(application: Application, server: Server, what: str, key: str | None) -> None:
    """The connections in the pool are dead: it is stored over a new one, or the error says that nothing is stored."""
    async with observing(server) as connection:
        pids = [row["pid"] for row in await connection.fetch(OTHERS)]
    assert pids
    await kill(server, what, pids)
    try:
        await application.submit(key)
    except (PushRejectedError, BackendUnavailableError):
        assert await application.stored() == 0
        await application.repeat(key or "k")
    assert await application.stored() == 1
    if key is not None:
        assert (await application.repeat(key)).replayed
    assert await application.sent() == ["hello"]


async def test_while_the_server_is_down(application: Application, server: Server) -> None:
    """The error says that nothing could be read, or, if only the writing failed, that nothing is stored."""
    server.kill()
    application.store._db.timeout = 1.0
    assert isinstance(await failure(asyncio.ensure_future(application.submit("k"))), BackendUnavailableError)
    rows = Submission(Notification("n", "note", b"{}", datetime.now(UTC)), [], [])
    with pytest.raises(PushRejectedError):
        await application.store.submit(rows)
    application.store._db.timeout = 60.0
    server.start()
    assert not (await application.repeat("k")).replayed
    assert await application.sent() == ["hello"]
