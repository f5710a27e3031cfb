"""One of the logs of a stream that reads several: a cursor, attached to its user's fan-out.

There may be many of them, so a log that waits is this object and nothing else: no task, no waiter, no page. It holds no
strong reference to its stream, because the stream could not be released while the log waits in the fan-out.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Protocol

from .._runtime._stats import Counters
from .._runtime._waking import Waiter, wake
from ..abc import Page
from ..event import Event
from ._cursor import Cursor, CursorState, Watermark
from ._position import Position
from ._ring import RESYNC, Ring
from ._splice import Contiguity
from ._user_streams import UserStreams


class Owner(Protocol):
    """A stream of several logs, as its logs see it."""

    def page_arrived(self, log: MergedLog) -> None:
        """React to the page that was requested for this log; it is in `Shared.arrived`."""

    def read_failed(self, log: MergedLog, error: Exception) -> None:
        """React to a failed read: no page will arrive."""

    def wake_if_ended(self) -> None:
        """Wake the reader if the stream has ended."""


class Shared:
    """What the logs of one stream have in common.

    Attributes:
        everyone: the ring of the broadcasts.
        waiter: what the reader of the stream waits on.
        ready: logs that were woken, or that have more entries in their ring.
        arrived: pages that were read and not accepted yet.
        opened: whether the position of every log is fixed.
        owner: the stream; None if it is gone.
    """

    __slots__ = ("arrived", "everyone", "opened", "owner", "ready", "waiter")

    def __init__(self, owner: Owner, everyone: Ring) -> None:
        self.owner = weakref.ref(owner)
        self.everyone = everyone
        self.waiter: Waiter | None = None
        self.ready: deque[MergedLog] = deque()
        self.arrived: dict[MergedLog, tuple[Page, bool, Watermark]] = {}
        self.opened = False


class MergedLog(Cursor):
    """The cursor of one log of a stream that reads several, and its place in the user's fan-out.

    Broadcasts are in the ring of every user, so this cursor skips them; its stream reads them from `everyone`, once.

    Attributes:
        shared: what it has in common with the stream's other logs.
        slot: see `_user_streams.WaitingStream`.
        streams: the user's fan-out while attached.
    """

    __slots__ = ("__weakref__", "shared", "slot", "streams")

    def __init__(self, position: Position, counters: Counters, shared: Shared, *, signals: bool) -> None:
        super().__init__(position, counters, signals)
        self.tell_no_sync()  # the stream itself yields `notify.sync`, when the replay of all logs is over
        self.shared = shared
        self.slot = 0
        self.streams: UserStreams | None = None

    # -- in the fan-out: `WaitingStream` -------------------------------------------------------------------------

    @property
    def waiter(self) -> MergedLog:
        """What an offer wakes: this object."""
        return self

    def wake(self) -> None:
        """Note that there is something to read here, and wake the reader of the stream."""
        shared = self.shared
        shared.ready.append(self)
        wake(shared.waiter)

    def wake_if_ended(self) -> None:
        """Wake the reader if the stream has ended."""
        owner = self.shared.owner()
        if owner is not None:
            owner.wake_if_ended()

    def rest(self) -> None:
        """Wait in the fan-out for the next entry."""
        assert self.streams is not None
        waiting = self.streams.waiting
        self.slot = len(waiting)
        if waiting:
            waiting.append(self)
        else:
            self.streams.waiting = [self]  # allocates no spare room, unlike append

    # -- reading: `PageReader` -----------------------------------------------------------------------------------

    @property
    def user(self) -> str:
        """The user whose log is read, while attached."""
        assert self.streams is not None
        return self.streams.user

    @property
    def watermark(self) -> Watermark:
        """The position in the ring."""
        return Watermark(self.streams, self.index)

    @property
    def is_open(self) -> bool:
        """Whether a failed read is retried: the stream is open, even if this log was added later."""
        return self.shared.opened and self.streams is not None

    @property
    def is_reading(self) -> bool:
        """Whether it waits for a page."""
        return self.state is CursorState.READING

    def start_reading(self) -> None:
        """Note that a page was requested."""
        self.state = CursorState.READING

    def receive(self, page: Page, reached_end: bool, watermark: Watermark) -> None:
        """Take a page that was read from `wanted`; see `Attachment.receive`."""
        streams = self.streams
        assert streams is not None  # a detached log is not reading
        if reached_end:
            no_offer_since = watermark.ring is streams and watermark.end == streams.end
            streams.reached(page.position, no_offer_since=no_offer_since)
        self.shared.arrived[self] = (page, reached_end, watermark)
        owner = self.shared.owner()
        if owner is not None:
            owner.page_arrived(self)

    def receive_head(self, head: str) -> None:
        """Take the head of the log, as a page without events."""
        assert self.streams is not None
        self.receive(Page((), None, head), True, Watermark(self.streams, self.streams.end))

    def fail(self, error: Exception) -> None:
        """Note that a read has failed; see `Attachment.fail`."""
        owner = self.shared.owner()
        self.state = CursorState.BEHIND
        if not self.page and owner is not None:  # a failed prefetch is repeated when the page in hand is used up
            owner.read_failed(self, error)

    # -- broadcasts ----------------------------------------------------------------------------------------------

    def ephemerals_in(self, ring: Ring) -> int:
        """Return a number that grows by one with each ephemeral entry that is not a broadcast.

        Every broadcast is in this ring and in that of everyone, so the difference of their counts does not change.
        """
        return ring.ephemerals - (0 if ring is self.shared.everyone else self.shared.everyone.end)

    def ephemerals_gone(self, ring: Ring) -> int:
        """Return that number for the entries that can no longer be read."""
        window = ring.events[-ring.readable :] if ring.events else []
        return self.ephemerals_in(ring) - sum(self._is_shown(event, ring) for event in window)

    def lag(self, ring: Ring, limit: int) -> int:
        """Return how many live events are still to be handed out, broadcasts left out."""
        entries = ring.end - self.index
        window = ring.events[-entries:] if entries else []
        broadcasts = 0 if ring is self.shared.everyone else sum(not (e.user or e is RESYNC) for e in window)
        return super().lag(ring, 0) - broadcasts

    def _is_shown(self, event: Event, ring: Ring) -> bool:
        """Whether this is an ephemeral event for this reader."""
        if ring is self.shared.everyone:
            return True
        return event.user != "" and (ring.volatile or not event.id)

    def _judge(self, event: Event, ring: Ring) -> Contiguity:
        if not event.user and event is not RESYNC and ring is not self.shared.everyone:
            return Contiguity.SEEN
        return super()._judge(event, ring)
