"""The inboxes of a memory store: `InboxFolds` itself, with which the other backends are compared.

The save that appends an item or a change also passes it to `InboxFolds`. Nothing awaits in between, so the rows, the
counters and the end of the log agree at every moment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import anyio.lowlevel

from notify import Event, UsageError
from notify.inbox import InboxFolds
from notify.inbox.abc import Change, Follow, InboxRetention, ItemPage, ItemQuery


class MemoryInboxes(ABC):
    """Mixin that makes a memory store an `InboxStore`."""

    def __init__(self) -> None:
        """Begin without inboxes."""
        self._inboxes = InboxFolds(self._end)

    @abstractmethod
    def save_nowait(self, event: Event) -> Event:
        """See `notify.abc.Immediate.save_nowait`."""

    @abstractmethod
    def _end(self, user: str) -> str:
        """Return the id of the last event ever appended to a user's log."""

    @abstractmethod
    def _check_open(self) -> None: ...

    @abstractmethod
    def _now(self) -> int:
        """Return the time in milliseconds since 1970."""

    @property
    def inbox_retention(self) -> InboxRetention:
        """How many items each inbox keeps, and for how long."""
        return self._inboxes.retention

    @inbox_retention.setter
    def inbox_retention(self, retention: InboxRetention) -> None:
        self._inboxes.retention = retention

    async def change(self, draft: Event) -> Change:
        """See `notify.inbox.abc.InboxStore.change`."""
        self._check_open()
        now = self._now()
        event, ids = self._inboxes.prepare(draft, now)
        if event is not None:
            event = self.save_nowait(event)  # applies it
        return Change(ids, self._inboxes.counts(draft.user, now), event)

    async def pull(self, user: str) -> int:
        """See `notify.inbox.abc.InboxStore.pull`."""
        self._check_open()
        return self._inboxes.pull(user, self._now())

    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        """See `notify.inbox.abc.InboxStore.items`."""
        self._check_open()
        now = self._now()
        self._inboxes.pull(user, now)
        return self._inboxes.page(user, query, now)

    async def edges(self, *, user: str = "", topic: str = "", after: str = "", limit: int = 100) -> Sequence[Follow]:
        """See `notify.inbox.abc.InboxStore.edges`."""
        self._check_open()
        if bool(user) == bool(topic):
            raise UsageError("edges() takes either user= or topic=, and exactly one of them")
        return self._inboxes.edges(user, topic, after, limit)

    async def sweep(self, limit: int = 500) -> int:
        """See `notify.inbox.abc.InboxStore.sweep`. Cost: linear in the number of inboxes; others run between steps."""
        self._check_open()
        removed = 0
        for count in self._inboxes.sweeping(limit, self._now()):
            removed += count
            await anyio.lowlevel.checkpoint()
        return removed
