"""The smallest store that keeps the contract: something to hold events where another part is under test."""

from __future__ import annotations

import time
from datetime import datetime

from notify import ClosedError, Event, Guarantees, Page, ids


class ListStore:
    """One list of events for all users, searched from the start each time."""

    guarantees = Guarantees()

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._heads: dict[str, str] = {}
        self._closed = False

    async def save(self, event: Event) -> Event:
        """See `notify.abc.Store.save`."""
        self._check_open()
        if event.key is not None:
            for first in self._events:
                if (first.user, first.key) == (event.user, event.key):
                    return first
        head = self._heads.get(event.user, ids.ZERO)
        stored = event.stored(ids.following(head, time.time()), head)
        self._heads[event.user] = stored.id
        self._events.append(stored)
        return stored

    async def read(self, user: str, after: str, limit: int) -> Page:
        """See `notify.abc.Store.read`."""
        head = await self.head(user)
        start = ids.parse(after)
        events = [event for event in self._events if event.user == user and ids.parse(event.id) > start][:limit]
        return Page.of(events, after, head)

    async def head(self, user: str) -> str:
        """See `notify.abc.Store.head`."""
        self._check_open()
        return self._heads.get(user, ids.ZERO)

    async def trim(self, before: datetime | str) -> int:
        """See `notify.abc.Store.trim`."""
        self._check_open()
        first = ids.parse(before) if isinstance(before, str) else (ids.parse(ids.before(before))[0] + 1, 0)
        kept = [event for event in self._events if ids.parse(event.id) >= first]
        removed = len(self._events) - len(kept)
        self._events = kept
        return removed

    async def aclose(self) -> None:
        """See `notify.abc.Store.aclose`."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the store is closed")
