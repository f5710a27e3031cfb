"""The stores that the benchmark of inboxes compares, each with the bytes that it occupies."""

from __future__ import annotations

import gc
import sqlite3
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from itertools import count
from pathlib import Path

import asyncpg
from redis.asyncio import Redis

from notify.inbox.abc import InboxStore
from notify_memory import MemoryStreamStore
from notify_pg import PostgresStreamStore
from notify_redis import RedisStreamStore
from notify_sqlite import SQLiteStreamStore
from tests.servers import postgres, redis

PATIENCE = 60.0
"""Seconds for one call, so that a busy machine makes a figure worse but ends no run."""

Size = Callable[[], Awaitable[int]]
"""Returns the bytes that the store occupies."""

Open = Callable[[], AbstractAsyncContextManager[tuple[InboxStore, Size]]]
"""Opens an empty store."""


@asynccontextmanager
async def memory() -> AsyncIterator[tuple[InboxStore, Size]]:
    """In this process; its bytes are known only while `tracemalloc` runs."""

    async def size() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async with MemoryStreamStore(max_len=1000) as store:
        yield store, size


@asynccontextmanager
async def on_sqlite() -> AsyncIterator[tuple[InboxStore, Size]]:
    """A file of its own, `synchronous=FULL`; the bytes are those of its file after a checkpoint."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "inbox.db"

        async def size() -> int:
            with closing(sqlite3.connect(path)) as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return path.stat().st_size

        async with SQLiteStreamStore(path, timeout=PATIENCE) as store:
            yield store, size


def on_redis(url: str) -> Open:
    """A prefix of its own; the bytes are those of the whole server."""
    numbers = count()

    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[InboxStore, Size]]:
        client = Redis.from_url(url)

        async def size() -> int:
            return int((await client.info("memory"))["used_memory_dataset"])

        async with client, RedisStreamStore(url, prefix=f"inbox{next(numbers)}", timeout=PATIENCE) as store:
            yield store, size

    return opened


def on_postgres(dsn: str) -> Open:
    """A schema of its own; the bytes are those of its tables and their indexes."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[InboxStore, Size]]:
        schema = postgres.fresh_schema()
        connection = await asyncpg.connect(dsn)

        async def size() -> int:
            return int(
                await connection.fetchval(
                    "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c"
                    " WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'r'",
                    schema,
                )
            )

        async with PostgresStreamStore(dsn, schema=schema, timeout=PATIENCE) as store:
            yield store, size
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
        await connection.close()

    return opened


@contextmanager
def every_store() -> Iterator[dict[str, Open]]:
    """The four backends; Redis and PostgreSQL on private servers."""
    with redis.single() as server, postgres.running(postgres.AS_DEPLOYED) as database:
        yield {
            "memory": memory,
            "sqlite": on_sqlite,
            "redis": on_redis(server.url),
            "postgres": on_postgres(database.dsn),
        }
