"""The suites x the store of deliveries in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from notify.testing.dispatch import (
    CapStoreSuite,
    DispatchForgetSuite,
    DispatchStoreSuite,
    DispatchTransactionSuite,
    DurableDispatchSuite,
    EndpointStoreSuite,
    GateStoreSuite,
    PreferenceStoreSuite,
    SharedDispatchSuite,
    UserForgetSuite,
)
from notify_pg import PostgresDispatchStore
from tests.dispatch.stores import empty
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

SCHEMA = fresh_schema()
"""One for all tests of a process, since creating the tables takes longer than a test; emptied before each."""


class Made:
    """How the suites' stores are made; no power is lost."""

    backends = ("asyncio",)

    @pytest.fixture(autouse=True)
    def server(self, postgres: Server) -> None:
        self.dsn = f"{postgres.dsn}?synchronous_commit=off"
        self.plain = postgres.dsn

    async def make(self) -> PostgresDispatchStore:
        await empty(self.plain, SCHEMA)
        return PostgresDispatchStore(self.dsn, schema=SCHEMA)

    async def reopen(self, store: object) -> PostgresDispatchStore:
        return PostgresDispatchStore(self.dsn, schema=SCHEMA)

    async def another(self, store: object) -> PostgresDispatchStore:
        return PostgresDispatchStore(self.dsn, schema=SCHEMA)

    @asynccontextmanager
    async def transaction(self, store: object) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.plain)
        try:
            async with connection.transaction():
                yield connection
        finally:
            await connection.close()


class TestPostgresDispatchStore(
    Made,
    DispatchStoreSuite[PostgresDispatchStore],
    DispatchForgetSuite[PostgresDispatchStore],
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


class TestPostgresForgetting(Made, UserForgetSuite):
    pass
