"""Inboxes when processes compete: tables equal the pure fold of the log."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import asyncpg
import pytest

from notify import Event, ids
from notify.inbox import InboxFold, InboxRetention
from notify.inbox.abc import ItemQuery
from notify_pg import PostgresStore, PostgresStreamStore
from tests.notify_pg.conftest import Make
from tests.notify_pg.test_inbox import assert_counted, change
from tests.parts import untraced_environment
from tests.servers.postgres import Server

pytestmark = pytest.mark.anyio

FOREVER = InboxRetention(max_items=100_000, max_age=None)

CHILD = """
import asyncio, random, sys
from notify import Event
from notify_pg import PostgresStore

async def main(dsn, schema, seed, count, mixed):
    rng = random.Random(seed)
    async with PostgresStore(dsn, schema=schema, timeout=30.0) as store:
        print("ready", flush=True)
        for n in range(count) if count else iter(int, 1):
            await store.save(Event("alice", "n", [seed, n], group="g", meta={"notify.item": ""}))
            if mixed:
                await store.save(Event("alice", "n", [seed, n], group=rng.choice("abc"), meta={"notify.item": ""}))
                kind = rng.choice(("seen", "read", "unread", "dismissed", "restored"))
                await store.change(Event("alice", "notify." + kind, {"group": rng.choice("abcg")}))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "mixed"))
"""


def start(dsn: str, schema: str, seed: int, count: int, kind: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", CHILD, dsn, schema, str(seed), str(count), kind]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=untraced_environment())


async def log_of(store: PostgresStore, user: str) -> list[Event]:
    return [*(await store.read(user, "0", 100_000)).events]


async def assert_folded(store: PostgresStore, user: str) -> None:
    """What is listed is the fold of the whole log: contents, order, states and counts."""
    fold = InboxFold(user)
    for event in await log_of(store, user):
        fold.apply(event, ids.parse(event.id)[0], FOREVER)
    query = ItemQuery(limit=100_000, state="all")
    page, expected = await store.items(user, query), fold.page(query, await store.head(user), 0, FOREVER)
    states = [
        [(each.id, each.event, each.seen_at is None, each.read_at is None, each.dismissed_at is None) for each in items]
        for items in (page.items, expected.items)
    ]
    assert states[0] == states[1]
    assert page.counts == expected.counts


async def test_a_hundred_sends_in_one_group_by_several_processes(
    make: Make, postgres: Server, sql: asyncpg.Connection, schema: str
) -> None:
    """One item is left, the last of the log; every device sees the same order; it can be dismissed."""
    store: PostgresStreamStore = await make(PostgresStreamStore, max_len=10_000, timeout=20.0)
    async with store.subscribe("alice", "0") as one, store.subscribe("alice", "0") as two:
        children = [start(postgres.dsn, schema, seed, 25) for seed in range(4)]
        try:
            events = [await one.next(30) for _ in range(100)]
            assert events == [await two.next(30) for _ in range(100)]
            for child in children:
                assert await asyncio.to_thread(child.wait, 30) == 0
        finally:
            for child in children:
                child.kill()
                child.communicate()
        page = await store.items("alice", ItemQuery())
        assert ([each.id for each in page.items], page.counts.total) == ([events[-1].id], 1)
        other: PostgresStore = await make(timeout=20.0)
        made = await other.change(change("alice", "dismissed", group="g"))
        assert (made.ids, made.counts.total) == ((events[-1].id,), 0)
        assert await one.next(30) == await two.next(30) == made.event
    await assert_folded(store, "alice")
    await assert_counted(sql, schema)
