"""The fan-out to one user's open streams: a ring of recent events, and the streams that wait for its next entry."""

from __future__ import annotations

from typing import Protocol

from .. import ids
from .._runtime._waking import Wakeable, wake
from ..event import Event
from ._ring import Ring


class WaitingStream(Protocol):
    """A stream, as its user's fan-out sees it.

    Attributes:
        waiter: wakes its reader; set while the stream is attached.
        slot: its index in `UserStreams.waiting` while it is there.
    """

    slot: int

    @property
    def waiter(self) -> Wakeable | None:
        """What wakes its reader."""

    def wake_if_ended(self) -> None:
        """Let its reader see that the stream has ended, if it has."""


class UserStreams(Ring):
    """The ring of one user with open streams, and the streams that wait for its next entry.

    Invariants:
        I1. `streams` counts the attached streams; the hub holds this object exactly while it is positive.
        I2. A stream in `waiting` has read the whole ring.
    """

    __slots__ = ("streams", "user", "waiting")

    def __init__(self, user: str, size: int, volatile: bool) -> None:
        Ring.__init__(self, size, volatile)
        self.user = user
        self.streams = 0
        self.waiting: list[WaitingStream] = []

    def offer(self, event: Event) -> bool:
        """Add an event and wake the waiting streams; return False for a duplicate."""
        waiting = self.waiting
        if len(waiting) == self.streams and (event.prev == self.last_id or not event.id):
            # Nearly every offer: by I2 no stream needs the older entries, and by its `prev` this is the next one.
            # In place: a list made for each event would be one more young object for the garbage collector to visit.
            events = self.events
            if len(events) == 1:
                events[0] = event
            else:
                self.events = [event]
            self.oldest = self.end
            self.end += 1
            if event.id:
                self.last_id = event.id
            else:
                self._ephemerals += 1
            for stream in waiting:
                stream.waiter.wake()  # type: ignore[union-attr]  # a waiting stream has a waiter
            waiting.clear()
            return True
        if not self.append(event):
            return False
        self.wake()
        return True

    def reached(self, position: str, *, no_offer_since: bool) -> None:
        """Note where a stream's replay ended.

        The other streams have not seen what one stream read, so a later position stays for the audit to find. An
        earlier one, with no offer since the read began, means that the log went back: all streams have to read it
        again.

        Args:
            position: the end of the log, as the stream read it.
            no_offer_since: whether nothing was offered since the read began.
        """
        if self.last_id is None:
            self.last_id = position
        elif no_offer_since and ids.parse(position) < ids.parse(self.last_id):
            self.resync()

    def leave(self, stream: WaitingStream) -> None:
        """Remove a stream from the waiting ones, in constant time, if it is among them."""
        waiting, slot = self.waiting, stream.slot
        if slot < len(waiting) and waiting[slot] is stream:
            last = waiting.pop()
            if last is not stream:
                waiting[slot] = last
                last.slot = slot

    def wake(self) -> None:
        """Wake every waiting stream."""
        waiting = self.waiting
        if waiting:
            self.waiting = []
            for stream in waiting:
                wake(stream.waiter)

    def resync(self) -> None:
        """Make every stream read the log again."""
        super().resync()
        self.wake()
