"""The suites for stores x the memory backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from notify.testing.store import (
    AgingStoreSuite,
    BoundedStoreSuite,
    ClockedStoreSuite,
    ForgetSuite,
    ImmediateStoreSuite,
    PrepareSuite,
    ReadManySuite,
    SaveManySuite,
    StoreSuite,
)
from notify_memory import MemoryStore


class TestMemoryStore(
    StoreSuite,
    SaveManySuite,
    ReadManySuite,
    ImmediateStoreSuite,
    ForgetSuite,
    PrepareSuite,
    BoundedStoreSuite,
    AgingStoreSuite,
    ClockedStoreSuite,
):
    async def make(self) -> MemoryStore:
        return MemoryStore()

    async def make_bounded(self, max_len: int) -> MemoryStore:
        return MemoryStore(max_len=max_len)

    async def make_aging(self, max_age: float) -> MemoryStore:
        self.ahead = 0.0
        return MemoryStore(max_age=max_age, clock=lambda: time.time() + self.ahead)

    async def let_pass(self, seconds: float) -> None:
        self.ahead += seconds

    async def make_clocked(self, clock: Callable[[], float]) -> MemoryStore:
        return MemoryStore(clock=clock)

    async def traces(self, store: MemoryStore, user: str) -> Collection[str]:
        return [name for name in store._logs if name == user]

    async def created(self, store: MemoryStore) -> Collection[str]:
        return []


class TestMemoryStoreInRealTime(AgingStoreSuite):
    max_age = 0.4

    async def make(self) -> MemoryStore:
        return MemoryStore()

    async def make_aging(self, max_age: float) -> MemoryStore:
        return MemoryStore(max_age=max_age)
