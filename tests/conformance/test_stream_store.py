"""The suites for stream stores x the memory backend."""

from __future__ import annotations

import secrets
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
)
from notify.testing.stream_store import StreamStoreSuite
from notify_memory import MemoryStreamStore
from notify_memory._open import NamedMemoryStore


class TestMemoryStreamStore(
    StreamStoreSuite,
    SaveManySuite,
    ReadManySuite,
    ImmediateStoreSuite,
    ForgetSuite,
    PrepareSuite,
    BoundedStoreSuite,
    AgingStoreSuite,
    ClockedStoreSuite,
):
    async def make(self) -> MemoryStreamStore:
        return MemoryStreamStore()

    async def make_bounded(self, max_len: int) -> MemoryStreamStore:
        return MemoryStreamStore(max_len=max_len)

    async def make_aging(self, max_age: float) -> MemoryStreamStore:
        self.ahead = 0.0
        return MemoryStreamStore(max_age=max_age, clock=lambda: time.time() + self.ahead)

    async def let_pass(self, seconds: float) -> None:
        self.ahead += seconds

    async def make_clocked(self, clock: Callable[[], float]) -> MemoryStreamStore:
        return MemoryStreamStore(clock=clock)

    async def traces(self, store: MemoryStreamStore, user: str) -> Collection[str]:
        return [name for name in store._logs if name == user]

    async def created(self, store: MemoryStreamStore) -> Collection[str]:
        return []


class TestNamedMemoryStore(
    StreamStoreSuite,
    SaveManySuite,
    ReadManySuite,
    ImmediateStoreSuite,
    ForgetSuite,
    PrepareSuite,
    BoundedStoreSuite,
    AgingStoreSuite,
    ClockedStoreSuite,
):
    async def make(self) -> NamedMemoryStore:
        return NamedMemoryStore(secrets.token_hex(8))

    async def make_bounded(self, max_len: int) -> NamedMemoryStore:
        return NamedMemoryStore(secrets.token_hex(8), max_len=max_len)

    async def make_aging(self, max_age: float) -> NamedMemoryStore:
        self.ahead = 0.0
        return NamedMemoryStore(secrets.token_hex(8), max_age=max_age, clock=lambda: time.time() + self.ahead)

    async def let_pass(self, seconds: float) -> None:
        self.ahead += seconds

    async def make_clocked(self, clock: Callable[[], float]) -> NamedMemoryStore:
        return NamedMemoryStore(secrets.token_hex(8), clock=clock)

    async def traces(self, store: NamedMemoryStore, user: str) -> Collection[str]:
        return [name for name in store._store._logs if name == user]

    async def created(self, store: NamedMemoryStore) -> Collection[str]:
        return []
