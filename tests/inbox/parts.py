"""What the tests of an inbox share: its kinds of stores, and readers that wait for what they expect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.lowlevel

from notify import Event, Notifier
from notify.inbox import Change, Follow, Inbox, InboxRetention, InboxStream, ItemPage
from notify.inbox.abc import ItemQuery
from notify_memory import MemoryStore, MemoryStreamStore
from notify_sqlite import SQLiteStore, SQLiteStreamStore
from tests.parts import PlainStore


class PlainInboxStore(PlainStore):
    """An inbox store by somebody else: its methods and nothing else; each call really waits once, and may fail."""

    def __init__(self, inner: MemoryStore | None = None) -> None:
        super().__init__(inner)
        self.failure: Exception | None = None

    async def _enter(self, name: str) -> None:
        await super()._enter(name)
        if self.failure is not None:
            raise self.failure

    @property
    def inbox_retention(self) -> InboxRetention:
        return self.inner.inbox_retention

    @inbox_retention.setter
    def inbox_retention(self, retention: InboxRetention) -> None:
        self.inner.inbox_retention = retention

    async def change(self, draft: Event) -> Change:
        await self._enter("change")
        return await self.inner.change(draft)

    async def pull(self, user: str) -> int:
        await self._enter("pull")
        return await self.inner.pull(user)

    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        await self._enter("items")
        return await self.inner.items(user, query)

    async def edges(self, *, user: str = "", topic: str = "", after: str = "", limit: int = 100) -> Sequence[Follow]:
        await self._enter("edges")
        return await self.inner.edges(user=user, topic=topic, after=after, limit=limit)

    async def sweep(self, limit: int = 500) -> int:
        await self._enter("sweep")
        return await self.inner.sweep(limit)


KINDS: dict[str, Callable[[Path], Any]] = {
    "memory": lambda path: MemoryStore(),
    "memory stream": lambda path: MemoryStreamStore(),
    "plain": lambda path: PlainInboxStore(),
    "sqlite": lambda path: SQLiteStore(path / "log.db"),
    "sqlite stream": lambda path: SQLiteStreamStore(path / "log.db"),
}
"""One store of each kind; the last two wait for a disk."""


@asynccontextmanager
async def inbox_on(kind: str, path: Path, **options: Any) -> AsyncIterator[Inbox]:
    """An inbox over a new store, with a notifier that finds quickly what others have written."""
    store = KINDS[kind](path)
    try:
        async with Notifier(store, poll_interval=0.05) as notifier:
            inbox = Inbox(notifier, **options)
            try:
                yield inbox
            finally:
                await inbox.aclose()
    finally:
        await store.aclose()


async def read(stream: InboxStream, count: int, seconds: float = 30.0) -> list[Event]:
    """The next so many events that are not signals."""
    events: list[Event] = []
    while len(events) < count:
        event = await stream.next(seconds)
        if event.type not in ("notify.sync", "notify.counts", "notify.gap"):
            events.append(event)
    return events


async def read_until(stream: InboxStream, condition: Callable[[Event], object], seconds: float = 30.0) -> list[Event]:
    """Every event up to the first that meets a condition."""
    events: list[Event] = []
    with anyio.fail_after(seconds):
        while not events or not condition(events[-1]):
            events.append(await stream.next())
    return events


def unread(event: Event) -> int | None:
    """The unread items that a signal tells; None for another event."""
    return int(event.payload["unread"]) if event.type in ("notify.counts", "notify.sync") else None
