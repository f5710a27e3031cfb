"""The suites x the SQLite backend: real files, in a fresh directory for each test."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from notify.testing import (
    AgingStoreSuite,
    BoundedStoreSuite,
    ClockedStoreSuite,
    DurableStoreSuite,
    ForgetSuite,
    LeasedPresenceSuite,
    LivenessSuite,
    PrepareSuite,
    PresenceSuite,
    ReadManySuite,
    SaveManySuite,
    SaveSoonSuite,
    SharedStoreSuite,
    SharedStreamStoreSuite,
    StoreSuite,
    StreamStoreSuite,
)
from notify.testing.inbox import DurableInboxSuite, ForgetInboxSuite, InboxStoreSuite, SharedInboxSuite
from notify_sqlite import SQLitePresence, SQLiteStore, SQLiteStreamStore


class Files:
    """A new file for each part that a test makes."""

    backends = ("asyncio",)
    names: Iterator[Path]

    @pytest.fixture(autouse=True)
    def paths(self, tmp_path: Path) -> None:
        self.names = (tmp_path / f"{number}.db" for number in range(10))


class Made(Files):
    """How the suites' stores are made: of either kind."""

    kind: ClassVar[type[Any]]

    async def make(self) -> Any:
        self.path = next(self.names)
        return self.kind(self.path)

    async def reopen(self, store: Any) -> Any:
        return self.kind(self.path)

    async def another(self, store: Any) -> Any:
        return self.kind(self.path)

    async def make_bounded(self, max_len: int) -> Any:
        return self.kind(next(self.names), max_len=max_len)

    async def make_aging(self, max_age: float) -> Any:
        self.ahead = 0.0
        return self.kind(next(self.names), max_age=max_age, clock=lambda: time.time() + self.ahead)

    async def let_pass(self, seconds: float) -> None:
        self.ahead += seconds

    async def make_clocked(self, clock: Callable[[], float]) -> Any:
        return self.kind(next(self.names), clock=clock)

    async def traces(self, store: Any, user: str) -> list[str]:
        return [
            f"{table}: {row}"
            for table in await self.created(store)
            for row in self.rows(f"SELECT * FROM {table}")
            if user in row or any(isinstance(value, bytes) and user.encode() in value for value in row)
        ]

    async def created(self, store: Any) -> list[str]:
        if not self.path.exists():
            return []
        return [name for (name,) in self.rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as file:
            return file.execute(statement).fetchall()


class TestSQLiteStore(
    Made,
    StoreSuite,
    SaveManySuite,
    SaveSoonSuite,
    ReadManySuite,
    BoundedStoreSuite,
    AgingStoreSuite,
    ClockedStoreSuite,
    DurableStoreSuite,
    ForgetSuite,
    PrepareSuite,
    SharedStoreSuite,
):
    kind = SQLiteStore


class TestSQLiteStreamStore(
    Made,
    StreamStoreSuite,
    LivenessSuite,
    SaveManySuite,
    SaveSoonSuite,
    ReadManySuite,
    BoundedStoreSuite,
    AgingStoreSuite,
    ClockedStoreSuite,
    DurableStoreSuite,
    ForgetSuite,
    PrepareSuite,
    SharedStreamStoreSuite,
):
    kind = SQLiteStreamStore


class Inboxes(Made, InboxStoreSuite, DurableInboxSuite, SharedInboxSuite, ForgetInboxSuite):
    """The suites for inboxes."""

    lifetime = 0.3

    async def traces(self, store: Any, user: str) -> list[str]:
        rows = [(table, row) for table in await self.created(store) for row in self.rows(f"SELECT * FROM {table}")]
        return [f"{table}: {row}" for table, row in rows if user in row]


class TestSQLiteInbox(Inboxes):
    kind = SQLiteStore


class TestSQLiteStreamInbox(Inboxes):
    kind = SQLiteStreamStore


class TestSQLitePresence(Files, PresenceSuite, LeasedPresenceSuite):
    ttl = 0.5

    async def make(self) -> SQLitePresence:
        self.path = next(self.names)
        return SQLitePresence(self.path, ttl=self.ttl)

    async def another(self, tracker: SQLitePresence) -> SQLitePresence:
        return SQLitePresence(self.path, ttl=self.ttl)

    async def crash(self, tracker: SQLitePresence) -> None:
        await tracker._keeper.abandon()
        await tracker._database.aclose()

    async def lose_leases(self, tracker: SQLitePresence) -> None:
        with sqlite3.connect(self.path) as file:
            for table in ("leases", "presence"):
                file.execute(f"DELETE FROM notify_{table} WHERE lease = ?", (tracker._leases.lease,))
        file.close()
