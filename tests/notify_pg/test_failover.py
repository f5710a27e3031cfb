"""A primary that dies, and a standby that takes over: with everything, or without the last events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import asyncpg
import pytest

from notify import Event, Notifier, NotifyError, ids
from notify.testing._waits import assert_chain
from notify_pg import PostgresStreamStore
from tests.parts import until
from tests.servers.postgres import Server, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    """A primary and its standby."""
    with running() as primary, running(primary=primary) as standby:
        yield primary, standby


async def caught_up(primary: Server, standby: Server) -> None:
    """Wait until the standby has all that the primary has."""
    one, other = await asyncpg.connect(primary.dsn), await asyncpg.connect(standby.dsn)

    async def is_there() -> bool:
        position = await one.fetchval("SELECT pg_current_wal_flush_lsn()::text")
        return bool(await other.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", position))

    await until(is_there, 30)
    await one.close()
    await other.close()


async def run_on(standby: Server, *statements: str) -> None:
    connection = await asyncpg.connect(standby.dsn)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def stored(store: PostgresStreamStore, event: Event) -> Event:
    """Save an event, as often as it takes: its key makes it one."""
    found: list[Event] = []

    async def is_stored() -> bool:
        try:
            found.append(await store.save(event))
        except NotifyError:
            return False
        return True

    await until(is_stored, 40)
    return found[0]


@pytest.mark.parametrize("lag", [False, True])
async def test_a_standby_takes_over(pair: tuple[Server, Server], schema: str, lag: bool) -> None:
    """After a failover pushes and streams go on by themselves; a lost tail is a gap, and its ids are not reused."""
    primary, standby = pair
    dsn = (
        f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        "?target_session_attrs=read-write"
    )
    async with PostgresStreamStore(dsn, schema=schema, probe_interval=0.5) as store, Notifier(store) as notifier:
        async with notifier.subscribe("alice", signals=True) as stream:
            events = [await store.save(Event("alice", "n", number)) for number in range(3)]
            await caught_up(primary, standby)
            if lag:
                await run_on(standby, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
                await until(lambda: is_cut_off(standby), 20)
                events += [await store.save(Event("alice", "n", number)) for number in (3, 4)]
            got: list[Any] = []
            while len(got) < len(events):
                event = await stream.next(10)
                if event.type == "n":
                    got.append(event)
            assert got == events
            await anyio.to_thread.run_sync(primary.kill)
            await run_on(standby, "SELECT pg_promote()")
            after = await stored(store, Event("alice", "n", "after", key="k"))
            told = [await stream.next(40)]
            while told[-1].id != after.id or told[-1].type != "n":
                told.append(await stream.next(40))
            gaps = [event.payload["reason"] for event in told if event.type == "notify.gap"]
            assert gaps == (["rewound"] if lag else [])
            assert ids.parse(after.id) > ids.parse(events[-1].id)
            kept = [*(await store.read("alice", "0", 10)).events]
            assert kept == [*events[:3], after]
            assert_chain(kept)
            await until(lambda: store.is_receiving, 30)


async def is_cut_off(standby: Server) -> bool:
    connection = await asyncpg.connect(standby.dsn)
    try:
        return not await connection.fetch("SELECT FROM pg_stat_wal_receiver")
    finally:
        await connection.close()
