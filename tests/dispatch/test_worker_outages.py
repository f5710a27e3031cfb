"""Workers whose store goes away: they try again, lose nothing, and store what they know as soon as they can."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from notify import BackendError
from notify.dispatch import Accepted, Dispatcher, Job, NotificationType, Outcome, Recipient, State, Ticket
from notify_pg import PostgresDispatchStore
from notify_sqlite import SQLiteDispatchStore
from tests.dispatch.world import Recorder
from tests.parts import until
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import own_postgres as own_postgres

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


class Held(Recorder):
    """A channel that holds each message until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = anyio.Event()

    async def send(self, job: Job) -> Outcome:
        """Keep the job, and answer when it is released."""
        self.jobs.append(job)
        await self.released.wait()
        return Accepted()


async def recipients(ids: Sequence[str]) -> list[Recipient]:
    return [Recipient(each) for each in ids]


def over(store: Any, channel: Recorder) -> Dispatcher:
    types = [NotificationType("note", channels=["post"])]
    return Dispatcher(None, store, types, {"post": channel}, recipients=recipients)


async def submit(dispatcher: Dispatcher, key: str) -> Ticket:
    """Submit, again and again until the store takes it."""
    while True:
        try:
            ticket = await dispatcher.submit("note", "alice", {"title": key}, idempotency_key=key)
        except BackendError:
            await anyio.sleep(0.05)
        else:
            return ticket


async def is_accepted(ticket: Ticket) -> bool:
    """Whether the outcome is stored, as far as the store can be read."""
    try:
        return [each.state for each in await ticket.report()] == [State.ACCEPTED]
    except BackendError:
        return False


async def test_postgres_that_is_killed(own_postgres: Server) -> None:
    """A worker sends while PostgreSQL is down, and stores the outcome when it is back; then it goes on."""
    channel = Held()
    async with PostgresDispatchStore(own_postgres.dsn, schema=fresh_schema(), timeout=20.0) as store:
        dispatcher = over(store, channel)
        with anyio.fail_after(90):
            async with dispatcher.running(poll_interval=0.05):
                first = await submit(dispatcher, "1")
                await until(lambda: channel.jobs, 60)
                own_postgres.kill()
                channel.released.set()
                with pytest.raises(BackendError):
                    await dispatcher.submit("note", "alice")
                await anyio.to_thread.run_sync(own_postgres.start)
                await until(lambda: is_accepted(first), 60)
                second = await submit(dispatcher, "2")
                assert (await submit(dispatcher, "2")).replayed
                await until(lambda: is_accepted(second), 60)
    assert [job.content.title for job in channel.jobs] == ["1", "2"]


async def test_sqlite_that_another_process_locks(tmp_path: Path) -> None:
    """A worker sends while another connection holds the write lock, and stores the outcome when it is free."""
    channel = Held()
    async with SQLiteDispatchStore(tmp_path / "deliveries.db", timeout=0.1) as store:
        dispatcher = over(store, channel)
        with anyio.fail_after(60), closing(sqlite3.connect(tmp_path / "deliveries.db", isolation_level=None)) as other:
            async with dispatcher.running(poll_interval=0.05):
                first = await submit(dispatcher, "1")
                await until(lambda: channel.jobs, 60)
                other.execute("BEGIN IMMEDIATE")
                channel.released.set()
                with pytest.raises(BackendError):
                    await dispatcher.submit("note", "alice")
                other.execute("COMMIT")
                await until(lambda: is_accepted(first), 60)
                second = await submit(dispatcher, "2")
                await until(lambda: is_accepted(second), 60)
    assert [job.content.title for job in channel.jobs] == ["1", "2"]
