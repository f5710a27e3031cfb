"""Stores of deliveries for tests that run on each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from notify.testing.dispatch import VirtualClock
from notify_memory import MemoryDispatchStore
from notify_pg import PostgresDispatchStore
from notify_sqlite import SQLiteDispatchStore

NAMES = ("memory", "sqlite", "postgres")


async def empty(dsn: str, schema: str) -> None:
    """Delete all rows of a schema, since creating the tables again would take longer than a test."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT c.oid::regclass::text AS name FROM pg_class c "
            "WHERE c.relkind = 'r' AND c.relnamespace = to_regnamespace($1) AND c.relname !~ '_meta$'",
            schema,
        )
        if rows:
            await connection.execute(";".join(f"DELETE FROM {row['name']}" for row in rows))
    finally:
        await connection.close()


@asynccontextmanager
async def opened(name: str, clock: VirtualClock, folder: Path, dsn: str, schema: str) -> AsyncIterator[Any]:
    """Return an empty store. PostgreSQL measures leases by its own clock."""
    if name == "memory":
        store: Any = MemoryDispatchStore(clock=clock)
    elif name == "sqlite":
        store = SQLiteDispatchStore(folder / "dispatch.db", clock=clock, synchronous="NORMAL")
    else:
        await empty(dsn, schema)
        store = PostgresDispatchStore(f"{dsn}?synchronous_commit=off", schema=schema)
    async with store:
        yield store
