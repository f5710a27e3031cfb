"""The suite for inbox stores x the memory backend."""

from __future__ import annotations

from collections.abc import Collection
from itertools import count

from notify import Guarantees
from notify.testing.inbox import ForgetInboxSuite, InboxStoreSuite, LosingInboxSuite
from notify_memory import MemoryStore, MemoryStreamStore
from notify_memory._open import NamedMemoryStore
from tests.inbox.parts import PlainInboxStore


class Plain(PlainInboxStore):
    """The methods of the protocol and nothing else, such as a batch."""

    guarantees = Guarantees()


class TestPlainInbox(InboxStoreSuite[Plain]):
    lifetime = 0.3

    async def make(self) -> Plain:
        return Plain()


class TestMemoryInbox(InboxStoreSuite[MemoryStore], ForgetInboxSuite[MemoryStore], LosingInboxSuite[MemoryStore]):
    lifetime = 0.3

    async def make(self) -> MemoryStore:
        return MemoryStore()

    async def traces(self, store: MemoryStore, user: str) -> Collection[str]:
        return [name for name in (*store._logs, *store._inboxes.users()) if name == user]

    async def lose_log(self, store: MemoryStore, user: str) -> None:
        del store._logs[user]


class TestMemoryStreamInbox(InboxStoreSuite[MemoryStreamStore], ForgetInboxSuite[MemoryStreamStore]):
    lifetime = 0.3

    async def make(self) -> MemoryStreamStore:
        return MemoryStreamStore()

    async def traces(self, store: MemoryStreamStore, user: str) -> Collection[str]:
        return [name for name in (*store._logs, *store._inboxes.users()) if name == user]


class TestNamedMemoryInbox(InboxStoreSuite[NamedMemoryStore], ForgetInboxSuite[NamedMemoryStore]):
    names = count()

    lifetime = 0.3

    async def make(self) -> NamedMemoryStore:
        return NamedMemoryStore(f"inbox{next(self.names)}")

    async def traces(self, store: NamedMemoryStore, user: str) -> Collection[str]:
        inner = store._store
        return [name for name in (*inner._logs, *inner._inboxes.users()) if name == user]
