"""A stream, as the live side of its log sees it: attached to its user's fan-out, fed with pages, detached.

`Subscription` adds what the reader sees. Attach first, then read: in this order no event is missed between the two.
"""

from __future__ import annotations

import time
from functools import partial

from .._runtime._waking import wake
from ..abc import Page, Position
from ._base_stream import BaseStream, Source
from ._cursor import BEHIND, LIVE, READING, Cursor, Watermark
from ._position import FROM_NOW, parse_position
from ._stream_set import StreamSet
from ._user_streams import UserStreams


class Attachment(BaseStream):
    """The part of a stream of one log with which the hub works.

    Invariants:
        I1. That of `BaseStream`.
        I2. `_streams` is set exactly while the stream counts as open.

    Attributes:
        user: the user whose log is read.
        slot: see `_user_streams.WaitingStream`.
    """

    __slots__ = ("_abandoned", "_cursor", "_prefetched", "_streams", "slot", "user")

    def __init__(
        self,
        source: Source,
        stream_set: StreamSet,
        user: str,
        position: Position,
        signals: bool = False,
        max_lag: int | None = None,
        track: bool = True,
        expires: float | None = None,
        since: int | None = None,
    ) -> None:
        self._streams: UserStreams | None = None  # first: the finaliser reads it even if the position is refused
        self._cursor = Cursor(parse_position(position, user), stream_set.counters, signals)
        BaseStream.__init__(self, source, stream_set, track, max_lag, expires, since)
        self.user = user
        self._abandoned = False  # attached only until the page in flight has fixed or advanced the cursor
        self._prefetched: tuple[Page, bool, Watermark] | None = None  # accepted when the reader asks for more
        self.slot = 0

    @property
    def is_attached(self) -> bool:
        """Whether the stream counts as open."""
        return self._streams is not None

    @property
    def _name(self) -> str:
        return repr(self.user)

    def _attach(self) -> None:
        """Attach to the live side: only then may the log be read."""
        self._source.guard.check()
        if self._expires is not None:
            self._watch_expiry()
        if self._seen != self._set.generation and self.is_over:
            return
        self.waiter = self._source.guard.new_waiter()
        self._set.opening()
        self._streams = self._source.attach(self.user)  # keeps I2
        self._cursor.attach(self._streams)
        self._set.attached(self.user, self._track)

    async def _wait_until_ready(self) -> None:
        """Wait for presence and router; first fix the position of a stream that begins now: waits are cancellable."""
        if self._cursor.start is FROM_NOW and self._source.has_log:
            self._cursor.state = BEHIND
            self._source.request(self)
            await self._receive_page()
        if self._failure is None:
            await self._until_ready(partial(self._set.ready, self.user, self._track))

    async def _receive_page(self) -> None:
        """Wait for the page that was requested, unless it is there, and accept it."""
        if self._cursor.state is READING and self._prefetched is None and self.waiter is not None:
            await self.waiter
        if self._prefetched is not None:
            self._accept(*self._prefetched)

    def _opened(self) -> None:
        """Begin to read, unless the stream has ended or failed, or was interrupted, while it waited."""
        if self._streams is None or self._failure is not None:
            return
        if self._seen != self._set.generation and self._must_return:
            return
        if self._source.has_log:
            self._cursor.state = BEHIND
        else:
            self._cursor.state = LIVE
            self._cursor.open()

    @property
    def wanted(self) -> str | None:
        """The position to read from; None asks for the head alone."""
        cursor = self._cursor  # decides as `Cursor.wanted`, which is called only if it has to be
        return None if cursor.start is FROM_NOW and not cursor.page else cursor.wanted

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
        return self._cursor.state is READING

    def start_reading(self) -> None:
        """Note that a page was requested."""
        self._cursor.state = READING

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
        if self._cursor.state is READING and not self._cursor.page:
            wake(self.waiter)
        self._prefetched = (page, reached_end, watermark)

    def receive_head(self, head: str) -> None:
        """Begin at the head of the log, which was read just now: nothing can have been offered since."""
        streams = self._streams
        assert streams is not None  # by I2
        if streams.last_id is None:
            streams.last_id = head
        else:
            streams.reached(head, no_offer_since=True)
        self._failure = None
        self._cursor.begin(head, streams.end, self.user, time.time_ns() // 1000)

    def fail(self, error: Exception) -> None:
        """Note that a read has failed: with any error before the stream has opened, later only with a final one."""
        cursor = self._cursor
        if self._abandoned:
            self._detach()
            return
        if cursor.page:
            cursor.state = BEHIND  # a failed prefetch is repeated when the page in hand is used up
            return
        self._failure = error
        if cursor.opened:
            self._close()
            return
        if self.is_reading:
            wake(self.waiter)
        cursor.state = BEHIND

    def _accept(self, page: Page, reached_end: bool, watermark: Watermark) -> None:
        self._prefetched = self._failure = None
        gap = self._cursor.accept(page, reached_end, watermark, self.user, time.time_ns() // 1000)
        if gap is not None:
            self._set.gap_log.note(gap, self.user, time.monotonic())

    def _discard(self) -> None:
        self._cursor.discard()

    def _disconnection(self) -> str | None:
        return self._source.disconnection(self.user, abs(self._seen))

    def _lag(self, limit: int) -> int:
        if self._streams is None or not self._cursor.synced:
            return 0
        return self._cursor.lag(self._streams, limit)

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
