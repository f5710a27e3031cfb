"""The suites x PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import asyncpg
import pytest

from notify.testing.inbox import (
    DurableInboxSuite,
    ForgetInboxSuite,
    InboxStoreSuite,
    InboxTransactionSuite,
    LosingInboxSuite,
    SharedInboxSuite,
)
from notify.testing.presence import LeasedPresenceSuite, PresenceSuite
from notify.testing.router import RouterSuite
from notify.testing.store import (
    AgingStoreSuite,
    BoundedStoreSuite,
    DurableStoreSuite,
    ForgetSuite,
    PrepareSuite,
    ReadManySuite,
    SaveInTransactionSuite,
    SaveManySuite,
    SaveSoonSuite,
    SharedStoreSuite,
    StoreSuite,
)
from notify.testing.stream_store import LivenessSuite, SharedStreamStoreSuite, StreamStoreSuite
from notify_pg import PostgresPresence, PostgresRouter, PostgresStore, PostgresStreamStore
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres


class Transactions:
    """How a transaction of the caller's begins and ends."""

    dsn: str

    @asynccontextmanager
    async def connection(self, store: PostgresStore) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.dsn)
        try:
            yield connection
        finally:
            await connection.close()

    def transaction(self, connection: asyncpg.Connection) -> asyncpg.transaction.Transaction:
        return connection.transaction()


class Database:
    """A schema of the test's own, and what is in it, looked at without the store."""

    dsn: str
    schema: str

    @pytest.fixture(autouse=True)
    def server(self, postgres: Server) -> None:
        self.dsn = postgres.dsn
        self.schema = fresh_schema()

    async def traces(self, store: PostgresStore, user: str) -> Collection[str]:
        """The rows of any table of the schema whose text has the user in it."""
        connection = await asyncpg.connect(self.dsn)
        try:
            tables = await connection.fetch(
                "SELECT c.oid::regclass::text AS name FROM pg_class c WHERE c.relkind = 'r' "
                "AND c.relnamespace = to_regnamespace($1)",
                self.schema,
            )
            rows = [row for table in tables for row in await connection.fetch(f"SELECT t::text FROM {table['name']} t")]
            return [row[0] for row in rows if re.search(rf"\b{user}\b", row[0])]
        finally:
            await connection.close()

    async def created(self, store: PostgresStore) -> Collection[str]:
        connection = await asyncpg.connect(self.dsn)
        try:
            query = "SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace($1) ORDER BY 1"
            return [row[0] for row in await connection.fetch(query, self.schema)]
        finally:
            await connection.close()


class TestPostgresStore(
    Transactions,
    Database,
    ForgetSuite,
    PrepareSuite,
    StoreSuite,
    SaveManySuite,
    SaveSoonSuite,
    SaveInTransactionSuite,
    ReadManySuite,
    BoundedStoreSuite,
    AgingStoreSuite,
    DurableStoreSuite,
    SharedStoreSuite,
):
    backends = ("asyncio",)

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
    Transactions,
    Database,
    ForgetSuite,
    PrepareSuite,
    StreamStoreSuite,
    SharedStreamStoreSuite,
    LivenessSuite,
    SaveManySuite,
    SaveSoonSuite,
    SaveInTransactionSuite,
    ReadManySuite,
    BoundedStoreSuite,
    AgingStoreSuite,
    DurableStoreSuite,
):
    backends = ("asyncio",)

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


class TestPostgresInbox(
    Transactions,
    Database,
    InboxStoreSuite,
    DurableInboxSuite,
    SharedInboxSuite,
    InboxTransactionSuite,
    ForgetInboxSuite,
    LosingInboxSuite,
):
    backends = ("asyncio",)

    async def make(self) -> PostgresStore:
        return PostgresStore(self.dsn, schema=self.schema)

    async def reopen(self, store: PostgresStore) -> PostgresStore:
        return await self.make()

    async def another(self, store: PostgresStore) -> PostgresStore:
        return await self.make()

    async def lose_log(self, store: PostgresStore, user: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            for table in ("events", "keys", "heads"):
                await connection.execute(f"DELETE FROM {self.schema}.notify_{table} WHERE user_id = $1", user)
        finally:
            await connection.close()


class TestPostgresRouter(RouterSuite):
    backends = ("asyncio",)

    @pytest.fixture(autouse=True)
    def server(self, postgres: Server) -> None:
        self.dsn = postgres.dsn
        self.schema = fresh_schema()

    async def make(self) -> PostgresRouter:
        return PostgresRouter(self.dsn, schema=self.schema)

    async def another(self, router: PostgresRouter) -> PostgresRouter:
        return await self.make()

    async def garbage(self, router: PostgresRouter) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            for text in ("", "garbage", "* name 0 1 !!!", "* name x y z", "\u2028" * 100):
                await connection.execute("SELECT pg_notify($1, $2)", f"{self.schema}.notify_route", text)
        finally:
            await connection.close()


class TestPostgresPresence(PresenceSuite, LeasedPresenceSuite):
    backends = ("asyncio",)
    ttl = 0.6

    @pytest.fixture(autouse=True)
    def server(self, postgres: Server) -> None:
        self.dsn = postgres.dsn
        self.schema = fresh_schema()

    async def make(self) -> PostgresPresence:
        return PostgresPresence(self.dsn, schema=self.schema, ttl=self.ttl)

    async def another(self, tracker: PostgresPresence) -> PostgresPresence:
        return await self.make()

    async def crash(self, tracker: PostgresPresence) -> None:
        await tracker._keeper.abandon()
        await tracker._db.aclose()

    async def lose_leases(self, tracker: PostgresPresence) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            for table in ("presence", "trackers"):
                query = f"DELETE FROM {self.schema}.notify_{table} WHERE tracker = $1"
                await connection.execute(query, tracker._leases.tracker)
        finally:
            await connection.close()
