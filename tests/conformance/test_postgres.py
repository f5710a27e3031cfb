"""The suites x PostgreSQL."""

from __future__ import annotations

import pytest

from notify.testing.store import (
    AgingStoreSuite,
    BoundedStoreSuite,
    DurableStoreSuite,
    ReadManySuite,
    SaveManySuite,
    SharedStoreSuite,
    StoreSuite,
)
from notify.testing.stream_store import SharedStreamStoreSuite, StreamStoreSuite
from notify_pg import PostgresStore, PostgresStreamStore
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres


class TestPostgresStore(
    StoreSuite, SaveManySuite, ReadManySuite, BoundedStoreSuite, AgingStoreSuite, DurableStoreSuite, SharedStoreSuite
):
    backends = ("asyncio",)

    @pytest.fixture(autouse=True)
    def server(self, postgres: Server) -> None:
        self.dsn = postgres.dsn
        self.schema = fresh_schema()

    async def make(self) -> PostgresStore:
        return PostgresStore(self.dsn, schema=self.schema)

    async def make_bounded(self, max_len: int) -> PostgresStore:
        return PostgresStore(self.dsn, schema=self.schema, max_len=max_len)

    async def make_aging(self, max_age: float) -> PostgresStore:
        return PostgresStore(self.dsn, schema=self.schema, max_age=max_age)

    async def reopen(self, store: PostgresStore) -> PostgresStore:
        return await self.make()

    async def another(self, store: PostgresStore) -> PostgresStore:
        return await self.make()


class TestPostgresStreamStore(
    StreamStoreSuite,
    SharedStreamStoreSuite,
    SaveManySuite,
    ReadManySuite,
    BoundedStoreSuite,
    AgingStoreSuite,
    DurableStoreSuite,
):
    backends = ("asyncio",)

    @pytest.fixture(autouse=True)
    def server(self, postgres: Server) -> None:
        self.dsn = postgres.dsn
        self.schema = fresh_schema()

    async def make(self) -> PostgresStreamStore:
        return PostgresStreamStore(self.dsn, schema=self.schema)

    async def make_bounded(self, max_len: int) -> PostgresStreamStore:
        return PostgresStreamStore(self.dsn, schema=self.schema, max_len=max_len)

    async def make_aging(self, max_age: float) -> PostgresStreamStore:
        return PostgresStreamStore(self.dsn, schema=self.schema, max_age=max_age)

    async def reopen(self, store: PostgresStreamStore) -> PostgresStreamStore:
        return await self.make()

    async def another(self, store: PostgresStreamStore) -> PostgresStreamStore:
        return await self.make()
