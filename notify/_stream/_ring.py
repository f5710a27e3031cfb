"""Pure: the recent events of one user, shared by all of the user's streams without copies.

Rules:
    1. Entries are numbered from 0 on; `end` is the number of the next one. A reader keeps the number of its next entry.
    2. Only the newest `size` entries can be read. A reader further behind has lost the ephemeral ones among them and
       finds the others in the log.
    3. A stored event at or before the newest one that was offered is a duplicate and is not appended. A reordered
       one is skipped too: the reader notices by `prev` and reads the log.
    4. In a volatile ring, that of a notifier without a store, every entry counts as ephemeral.
"""

from __future__ import annotations

from typing import Final

from .. import ids
from ..event import Event, build_event

RESYNC = build_event("", "", "", "notify.resync", b"null", 0, None, None, {})
"""An entry that is not an event: a reader that reaches it reads the log again."""


_NO_EVENTS: Final[list[Event]] = []
"""Shared by the rings that are empty; never changed."""


class Ring:
    """See the rules above.

    Attributes:
        end: the number of the next entry.
        oldest: the number of the oldest entry that can still be read; `end` if there is none.
        events: the newest entries, up to twice `size` of them so that trimming is rare.
        last_id: the newest position known; None while unknown.
        volatile: whether there is no log to read from.
    """

    __slots__ = ("_ephemerals", "end", "events", "last_id", "oldest", "size", "volatile")

    def __init__(self, size: int, volatile: bool = False) -> None:
        self.size = size
        self.volatile = volatile
        self.events = _NO_EVENTS
        self.end = self.oldest = 0
        self.last_id: str | None = None
        self._ephemerals = 0

    def append(self, event: Event) -> bool:
        """Add an offered event; return False for one that is a duplicate or late."""
        if event.id:
            last = self.last_id
            if event.prev != last and last is not None:
                if event.id == last or ids.parse(event.id) <= ids.parse(last):
                    return False
            self.last_id = event.id
        else:
            self._ephemerals += 1
        self._push(event)
        return True

    def resync(self) -> None:
        """Make every reader read the log again, and forget what the newest position was."""
        self.last_id = None
        self._push(RESYNC)

    @property
    def readable(self) -> int:
        """How many entries can still be read."""
        return self.end - self.oldest

    @property
    def ephemerals(self) -> int:
        """How many ephemeral entries there ever were."""
        return self.end if self.volatile else self._ephemerals

    def ephemerals_gone(self) -> int:
        """Return how many ephemeral entries can no longer be read."""
        if self.volatile:
            return self.end - self.readable
        window = self.events[-self.readable :] if self.events else ()
        return self._ephemerals - sum(not event.id and event is not RESYNC for event in window)

    def _push(self, event: Event) -> None:
        events = self.events
        self.end += 1
        self.oldest = max(self.oldest, self.end - self.size)
        if not events:
            self.events = [event]
            return
        events.append(event)
        if len(events) > 2 * self.size:
            del events[: -self.size]
