"""A stream, as the live side of its log sees it: attached to its user's fan-out, fed with pages, detached.

`Subscription` adds what the reader sees. Attach first, then read: in this order no event is missed between the two.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from .._runtime._loop_guard import LoopGuard
from .._runtime._waking import Waiter, wake
from ..abc import Page, Position
from ..event import Event
from ._cursor import Cursor, State, Watermark
from ._stream_set import StreamSet
from ._user_streams import UserStreams

logger = logging.getLogger("notify")


class Source(Protocol):
    """The live side of a log, as its streams see it."""

    @property
    def guard(self) -> LoopGuard:
        """The event loop."""

    @property
    def has_log(self) -> bool:
        """Whether there is a log to read."""

    @property
    def observe(self) -> Callable[[Event], None] | None:
        """A function to call with each live event that is handed out, if any."""

    def attach(self, user: str) -> UserStreams:
        """Count one more open stream of this user."""

    def detach(self, streams: UserStreams) -> None:
        """Count one open stream fewer."""

    def request(self, stream: Attachment) -> None:
        """Read the page that the stream wants, and call its `receive` or `fail`."""

    def prefetch(self, stream: Attachment) -> None:
        """Read the page after the one that the stream still holds, unless reading takes no time."""


class Attachment:
    """The part of a stream that its log sees.

    Invariants:
        I1. `_rank < set.cutoff` exactly when the stream has ended; it is -1 once this stream was closed by itself.
        I2. `_streams` is set exactly while the stream counts as open.

    Attributes:
        user: the user whose log is read.
        waiter: what the reader waits on; set from the first attachment on.
        slot: see `_user_streams.WaitingStream`.
    """

    __slots__ = (
        "__weakref__",
        "_abandoned",
        "_cursor",
        "_failure",
        "_prefetched",
        "_rank",
        "_set",
        "_source",
        "_streams",
        "_track",
        "slot",
        "user",
        "waiter",
    )

    def __init__(
        self, source: Source, stream_set: StreamSet, user: str, position: Position, *, signals: bool, track: bool
    ) -> None:
        self._streams: UserStreams | None = None  # first: the finaliser reads it even if the position is refused
        self._cursor = Cursor(position, stream_set.counters, signals=signals)
        self.user = user
        self._source = source
        self._set = stream_set
        self._track = track
        self._rank = stream_set.next_rank()
        self._abandoned = False  # attached only until the page in flight has fixed or advanced the cursor
        self._prefetched: tuple[Page, bool, Watermark] | None = None  # accepted when the reader asks for more
        self._failure: Exception | None = None
        self.waiter: Waiter | None = None
        self.slot = 0

    async def _open(self) -> None:
        """Attach to the live side first, then let the log be read: in this order no event is missed."""
        if self._streams is None:
            self._source.guard.check()
            self.waiter = self._source.guard.new_waiter()
            self._set.opening()
            self._streams = self._source.attach(self.user)  # keeps I2
            self._cursor.attach(self._streams)
            self._set.attached(self.user, self._track)
        await self._set.ready(self.user, self._track)
        if self._rank < self._set.cutoff or self._streams is None:  # closed while it waited
            return
        if self._source.has_log:
            self._cursor.state = State.BEHIND
        else:
            self._cursor.state = State.LIVE
            self._cursor.opened = True

    @property
    def wanted(self) -> str | None:
        """The position to read from; None asks for the head alone."""
        return self._cursor.wanted

    @property
    def watermark(self) -> Watermark:
        """The position of the stream in its ring."""
        return Watermark(self._streams, self._cursor.index)

    @property
    def is_open(self) -> bool:
        """Whether the stream is open and its position fixed."""
        return self._cursor.opened and self._streams is not None and not self._abandoned

    @property
    def is_reading(self) -> bool:
        """Whether the stream waits for a page."""
        return self._cursor.state is State.READING

    def start_reading(self) -> None:
        """Note that a page was requested."""
        self._cursor.state = State.READING

    def wake_if_ended(self) -> None:
        """Let a waiting reader see that its stream has ended."""
        if self._rank < self._set.cutoff:
            wake(self.waiter)

    def receive(self, page: Page, reached_end: bool, watermark: Watermark) -> None:
        """Take a page that was read from `wanted`: called by the live side of the log, from any task.

        The cursor stays where it is until the reader asks, so the page in hand and `last_id` agree. The end of the log
        is noted at once, so that an audit finds later events, however long the reader is away.

        Args:
            page: what was read.
            reached_end: whether the log had no more at that time.
            watermark: the end of the ring when the read began.
        """
        streams = self._streams
        assert streams is not None  # by I2: a detached stream is not reading
        if reached_end:
            no_offer_since = watermark.ring is streams and watermark.end == streams.end
            streams.reached(page.position, no_offer_since=no_offer_since)
        if self._abandoned:
            self._accept(page, reached_end, watermark)
            self._detach()
            return
        if self.is_reading and not self._cursor.page:
            wake(self.waiter)
        self._prefetched = (page, reached_end, watermark)

    def fail(self, error: Exception) -> None:
        """Note that a read has failed: with any error before the stream has opened, later only with a final one."""
        cursor = self._cursor
        if self._abandoned:
            self._detach()
            return
        if cursor.page:
            cursor.state = State.BEHIND  # a failed prefetch is repeated when the page in hand is used up
            return
        self._failure = error
        if cursor.opened:
            self._close()
            return
        if self.is_reading:
            wake(self.waiter)
        cursor.state = State.BEHIND

    def _accept(self, page: Page, reached_end: bool, watermark: Watermark) -> None:
        self._prefetched = self._failure = None
        gap = self._cursor.accept(page, reached_end, watermark, self.user, time.time_ns() // 1000)
        if gap is not None:
            logger.warning("gap (%s) for user %r between %s and %s", gap.reason, self.user, gap.start, gap.end)

    def _close(self) -> None:
        """End for good, synchronously: works while cancelled and in a finaliser. Keeps I1."""
        self._rank = -1
        if self._streams is not None:
            self._detach()
        self._cursor.discard()
        wake(self.waiter)

    def _detach(self) -> None:
        """Leave the live side: keeps I2."""
        streams, self._streams = self._streams, None
        assert streams is not None
        self._prefetched = None
        self._abandoned = False
        self._cursor.detach(streams)
        streams.leave(self)
        self._source.detach(streams)
        self._set.detached(self.user, self._track)
