"""What the tests of PostgreSQL share: asyncio only, a schema for each test, and a connection beside the library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from notify_pg import PostgresStore, PostgresStreamStore
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import pgbouncer as pgbouncer
from tests.servers.postgres import postgres as postgres


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def schema() -> str:
    return fresh_schema()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def sql(postgres: Server) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(postgres.dsn)
    yield connection
    await connection.close()


Make = Callable[..., Any]


@pytest.fixture
def make(postgres: Server, schema: str, stack: AsyncExitStack) -> Make:
    """A function that returns stores on the shared server, closed at the end of the test."""

    async def make(cls: type = PostgresStore, where: object = None, **options: object) -> Any:
        options = {"schema": schema, **options}
        return await stack.enter_async_context(cls(where or postgres.dsn, **options))

    return make


@pytest.fixture
async def store(make: Make) -> PostgresStore:
    store: PostgresStore = await make()
    return store


@pytest.fixture
async def live(make: Make) -> PostgresStreamStore:
    store: PostgresStreamStore = await make(PostgresStreamStore)
    return store
