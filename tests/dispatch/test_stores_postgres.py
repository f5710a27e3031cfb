"""The suites x the store of deliveries in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from notify.testing.dispatch import (
    CapStoreSuite,
    DispatchStoreSuite,
    DispatchTransactionSuite,
    DurableDispatchSuite,
    EndpointStoreSuite,
    GateStoreSuite,
    PreferenceStoreSuite,
    SharedDispatchSuite,
)
from notify_pg import PostgresDispatchStore
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres


class Made:
    """How the suites' stores are made: each in a schema of its own."""

    backends = ("asyncio",)

    @pytest.fixture(autouse=True)
    def server(self, postgres: Server) -> None:
        self.dsn = postgres.dsn
        self.schema = fresh_schema()

    async def make(self) -> PostgresDispatchStore:
        return PostgresDispatchStore(self.dsn, schema=self.schema)

    async def reopen(self, store: object) -> PostgresDispatchStore:
        return PostgresDispatchStore(self.dsn, schema=self.schema)

    async def another(self, store: object) -> PostgresDispatchStore:
        return PostgresDispatchStore(self.dsn, schema=self.schema)

    @asynccontextmanager
    async def transaction(self, store: object) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.dsn)
        try:
            async with connection.transaction():
                yield connection
        finally:
            await connection.close()


class TestPostgresDispatchStore(
    Made,
    DispatchStoreSuite[PostgresDispatchStore],
    DurableDispatchSuite[PostgresDispatchStore],
    SharedDispatchSuite[PostgresDispatchStore],
    DispatchTransactionSuite[PostgresDispatchStore],
):
    pass


class TestPostgresPreferences(Made, PreferenceStoreSuite):
    pass


class TestPostgresEndpoints(Made, EndpointStoreSuite):
    pass


class TestPostgresCaps(Made, CapStoreSuite):
    pass


class TestPostgresGates(Made, GateStoreSuite):
    pass
