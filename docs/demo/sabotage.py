"""A store that loses an event, to show that the history checker finds it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from console import say

from notify import Page
from notify_sqlite import SQLiteStreamStore


class LeakyStore(SQLiteStreamStore):
    """Hides the first event that is read from the log, and adjusts `prev` of the next one so that no stream notices.

    Attributes:
        lost: id of the hidden event; empty until one is hidden.
    """

    lost: str = ""

    async def read(self, user: str, after: str, limit: int) -> Page:
        """Read, without the lost event."""
        page = await super().read(user, after, limit)
        if not self.lost and page.events:
            self.lost = page.events[0].id
            say(json.dumps({"hidden": self.lost}))
        return self._leak(page)

    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        """Read many users, without the lost event."""
        pages = await super().read_many(after, limit)
        return {user: self._leak(page) for user, page in pages.items()}

    def _leak(self, page: Page) -> Page:
        events = list(page.events)
        for at, event in enumerate(events):
            if event.id == self.lost:
                del events[at]
                if at < len(events):  # otherwise the stream would report a gap
                    events[at] = events[at].stored(events[at].id, event.prev)
                return Page(events, page.gap, events[-1].id if events else event.prev)
        return page
