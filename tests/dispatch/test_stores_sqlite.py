"""The suites x the store of deliveries in a SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from notify.testing.dispatch import (
    CapStoreSuite,
    DispatchForgetSuite,
    DispatchStoreSuite,
    DurableDispatchSuite,
    EndpointStoreSuite,
    GateStoreSuite,
    PreferenceStoreSuite,
    SharedDispatchSuite,
    UserForgetSuite,
    VirtualClock,
)
from notify_sqlite import SQLiteDispatchStore


class Made:
    """How the suites' stores are made: each in a new file, with a clock that is set by hand; no power is lost."""

    backends = ("asyncio",)
    names: Iterator[Path]

    @pytest.fixture(autouse=True)
    def paths(self, tmp_path: Path) -> None:
        self.names = (tmp_path / f"{number}.db" for number in range(10))
        self.clock = VirtualClock()

    async def make(self) -> SQLiteDispatchStore:
        self.path = next(self.names)
        return SQLiteDispatchStore(self.path, clock=self.clock, synchronous="NORMAL")

    async def reopen(self, store: object) -> SQLiteDispatchStore:
        return SQLiteDispatchStore(self.path, clock=self.clock, synchronous="NORMAL")

    async def another(self, store: object) -> SQLiteDispatchStore:
        return SQLiteDispatchStore(self.path, clock=self.clock, synchronous="NORMAL")

    async def let_pass(self, store: object, seconds: float) -> None:
        self.clock.advance(seconds)


class TestSQLiteDispatchStore(
    Made,
    DispatchStoreSuite[SQLiteDispatchStore],
    DispatchForgetSuite[SQLiteDispatchStore],
    DurableDispatchSuite[SQLiteDispatchStore],
    SharedDispatchSuite[SQLiteDispatchStore],
):
    pass


class TestSQLitePreferences(Made, PreferenceStoreSuite):
    pass


class TestSQLiteEndpoints(Made, EndpointStoreSuite):
    pass


class TestSQLiteCaps(Made, CapStoreSuite):
    pass


class TestSQLiteGates(Made, GateStoreSuite):
    pass


class TestSQLiteForgetting(Made, UserForgetSuite):
    pass
