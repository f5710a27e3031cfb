"""A store that loses an event, so that people can see the checker find it."""

from __future__ import annotations

from notify import Event, Page
from notify_memory import MemoryStore


class LeakyStore(MemoryStore):
    """Hides the first event that anybody reads from the log, and mends the chain of `prev` so that no stream notices.

    Attributes:
        lost: the event that is hidden.
    """

    lost: Event | None = None

    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        """Read, without the lost event."""
        page = super().read_nowait(user, after, limit)
        if self.lost is None and page.events:
            self.lost = page.events[0]
        if self.lost is None or self.lost not in page.events:
            return page
        events = list(page.events)
        at = events.index(self.lost)
        del events[at]
        if at < len(events):  # else the stream would notice, and report a gap
            events[at] = events[at].stored(events[at].id, self.lost.prev)
        return Page(events, page.gap, events[-1].id if events else after)
