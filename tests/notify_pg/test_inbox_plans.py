"""How much of a large inbox is looked at, when the server has no statistics: after a load, before it analyses."""

from __future__ import annotations

import json

import asyncpg
import pytest

from notify import Event
from notify.inbox.abc import InboxRetention, ItemQuery
from notify_pg import PostgresStore
from notify_pg._items import query_arguments, retention_arguments
from tests.notify_pg.conftest import Make

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


async def test_the_first_page(full: PostgresStore, sql: asyncpg.Connection) -> None:
    """The newest items are read from the end of the index, not sorted out of all."""
    _, *retention = retention_arguments(full.inbox_retention)
    statement = full._db.names.sql("inbox_page")
    for query in (ItemQuery(), ItemQuery(state="unread"), ItemQuery(limit=0)):
        arguments = ("alice", *retention, *(query_arguments(query) or ()), False)
        await blocks(sql, statement, *arguments)  # plans it, which reads the catalogue
        assert await blocks(sql, statement, *arguments) < 60
