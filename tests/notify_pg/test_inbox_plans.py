"""How much of a large inbox is looked at, when the server has no statistics: after a load, before it analyses."""

from __future__ import annotations

import json
import secrets
import time

import asyncpg
import pytest

from notify import Event
from notify.inbox.abc import InboxRetention, ItemQuery
from notify_pg import PostgresStore
from notify_pg._items import named_arguments, query_arguments, retention_arguments
from tests.notify_pg.conftest import Make
from tests.notify_pg.test_inbox import assert_counted, change, item

pytestmark = pytest.mark.anyio

ITEMS = 4000
"""Of 200 bytes and more: 150 blocks of the table, and 30 of its index."""


@pytest.fixture
async def full(make: Make, sql: asyncpg.Connection, schema: str) -> PostgresStore:
    """A store with one large inbox, which holds as much as it may, on tables that were never analysed."""
    store: PostgresStore = await make(timeout=20.0)
    store.inbox_retention = InboxRetention(max_items=ITEMS)
    for table in ("items", "inboxes", "heads", "follows", "events_default"):
        await sql.execute(f"ALTER TABLE {schema}.notify_{table} SET (autovacuum_enabled = off)")
    for _ in range(ITEMS // 1000):
        await store.save_many([Event("alice", "n", "x" * 200, meta={"notify.item": ""}) for _ in range(1000)])
    await sql.execute("SET plan_cache_mode = force_generic_plan")
    return store


async def blocks(sql: asyncpg.Connection, query: str, *arguments: object) -> int:
    """Return how many blocks a query looks at."""
    plan = json.loads(await sql.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", *arguments))[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def page_blocks(store: PostgresStore, sql: asyncpg.Connection, query: ItemQuery) -> int:
    """Return how many blocks the page of a query looks at."""
    _, *retention = retention_arguments(store.inbox_retention)
    asked = query_arguments(query) if query.ids is None else named_arguments(query.ids)
    arguments = ("alice", *retention, *asked, False)
    statement = store._db.names.sql("inbox_page" if query.ids is None else "inbox_named")
    await blocks(sql, statement, *arguments)  # plans it, which reads the catalogue
    return await blocks(sql, statement, *arguments)


async def test_the_first_page(full: PostgresStore, sql: asyncpg.Connection) -> None:
    """The newest items are read from the end of the index, not sorted out of all."""
    for query in (ItemQuery(), ItemQuery(state="unread"), ItemQuery(limit=0)):
        assert await page_blocks(full, sql, query) < 60


async def test_items_by_their_ids(full: PostgresStore, sql: asyncpg.Connection) -> None:
    """Each id is looked up in the index: two of many items cost as much as two of few."""
    page = await full.items("alice", ItemQuery(limit=ITEMS))
    query = ItemQuery(ids=(page.items[-1].id, page.items[ITEMS // 2].id))
    assert [each.id for each in (await full.items("alice", query)).items] == [*reversed(query.ids or ())]
    assert await page_blocks(full, sql, query) < 60


async def change_blocks(store: PostgresStore, sql: asyncpg.Connection, draft: Event) -> int:
    """Return how many blocks an item, or a change, looks at: the second of two, since the first one plans."""
    found = 0
    for _ in range(2):
        head = (secrets.randbits(62), time.time_ns() // 1000 + 100_000_000, False, 5000)
        statement, arguments = await store._saver.statement([draft], sql.fetch)
        found = await blocks(sql, statement, *head, *arguments)
    return found


async def test_old_items_that_are_kept_because_they_are_unread(
    full: PostgresStore, sql: asyncpg.Connection, schema: str
) -> None:
    """They are looked at once, not by each read, send and sweep after it; those that are read after all are removed."""
    full.inbox_retention = InboxRetention(max_items=10, max_age=0.0, keep_unread=True)
    assert await full.sweep() == 0
    assert await page_blocks(full, sql, ItemQuery(limit=0)) < 60
    sweep = (full._db.names.sql("inbox_sweep"), False, -1, "", 500, 0, True)
    await blocks(sql, *sweep)
    assert await blocks(sql, *sweep) < 60
    page = await full.items("alice", ItemQuery(limit=3))
    assert page.counts.total == ITEMS
    await full.change(change("alice", "read", ids=[each.id for each in page.items[1:]]))
    assert (await full.items("alice", ItemQuery(limit=0))).counts.total == ITEMS - 2
    assert await full.sweep() == 2
    await assert_counted(sql, schema)


@pytest.mark.parametrize("max_age", [None, 0.0])
async def test_sends_to_an_inbox_full_of_unread_items(
    full: PostgresStore, sql: asyncpg.Connection, schema: str, max_age: float | None
) -> None:
    """They do not look at the others, neither at first nor after the newest was read; what was read has to go."""
    full.inbox_retention = InboxRetention(max_items=ITEMS // 10 - 1, max_age=max_age, keep_unread=True)
    draft = item("alice", 1)
    await full.save(draft)
    for _ in range(3):
        assert await change_blocks(full, sql, draft) < 150
        newest = (await full.items("alice", ItemQuery(limit=1))).items[0]
        await full.change(change("alice", "read", ids=[newest.id]))
        assert await change_blocks(full, sql, draft) < 150
        assert [*(await full.items("alice", ItemQuery(ids=(newest.id,)))).items] == []
    page = await full.items("alice", ItemQuery(limit=ITEMS))
    oldest = page.items[-1]
    await full.change(change("alice", "read", ids=[oldest.id]))
    await full.save(draft)
    assert [*(await full.items("alice", ItemQuery(ids=(oldest.id,)))).items] == []
    assert (await full.items("alice", ItemQuery(limit=0))).counts.total == ITEMS - 10
    await assert_counted(sql, schema)


async def test_a_batch_of_items_that_are_due_on_arrival(
    full: PostgresStore, sql: asyncpg.Connection, schema: str
) -> None:
    """Each costs the same, wherever it is in the batch: none has to skip dead rows of those before it."""
    for user in ("alice", "bob"):  # the first inbox is full
        found = 0
        for _ in range(2):
            drafts = [item(user, n, f"g{n}", "1") for n in range(250)]
            head = (secrets.randbits(62), time.time_ns() // 1000 + 100_000_000, False, 5000)
            statement, arguments = await full._saver.statement(drafts, sql.fetch)
            found = await blocks(sql, statement, *head, *arguments)
        assert found < 250 * 40
    await assert_counted(sql, schema)
