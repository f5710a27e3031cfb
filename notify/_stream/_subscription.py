"""The stream that `Notifier.subscribe` and our stream stores return: a cursor and a wake flag.

It owns no queue, no task and no connection. An idle one is this object, its reader's task and one future.
Longer than the other modules because a stream's whole state machine is in one place.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Coroutine
from datetime import datetime
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import anyio
import anyio.lowlevel

from .. import ids
from .._codec import encode_payload
from .._runtime._waking import Waiter, wake
from ..abc import Gap, Page, Position
from ..errors import ClosedError, InvalidEventIdError, SlowConsumerError, UsageError
from ..event import NO_META, Event, build_event
from ..ids import GapReason
from ._ring import RESYNC
from ._splice import Verdict, splice

if TYPE_CHECKING:
    from ._live import LiveLog, StreamSet, UserStreams

logger = logging.getLogger("notify")

GAPS_KEPT = 16


class Start(Enum):
    """What kind of position a stream starts from: it decides which gaps its first read may report."""

    NOW = "now"
    ZERO = "zero"
    TIME = "time"
    ID = "id"


class State(Enum):
    """What a stream does next when it has nothing to yield."""

    NEW = "open"
    BEHIND = "read the log"
    READING = "wait for a page"
    LIVE = "wait for an offer"


_LIVE = State.LIVE  # a member of an enum is a descriptor in Python 3.11: 80 ns at each access


def parse_position(last_id: Position) -> tuple[Start, str]:
    """Return the kind of a position and its canonical id (empty for `Start.NOW`).

    Raises:
        InvalidEventIdError: it is no position.
    """
    if last_id is None or last_id == "":
        return Start.NOW, ""
    if isinstance(last_id, datetime):
        return Start.TIME, ids.before(last_id)
    if not isinstance(last_id, str):
        raise InvalidEventIdError(f"a position is None, an id or a datetime, not {last_id!r:.80}")
    cursor = ids.canonical(last_id)
    return (Start.ZERO if cursor == ids.ZERO else Start.ID), cursor


class Watermark(NamedTuple):
    """A point in a user's ring: whatever was offered before it was in the log by then, or never will be."""

    topic: UserStreams | None
    end: int


class Subscription:
    """One reader's cursor into one user's log; see `notify.abc.Stream` for the promises.

    Invariants:
        I1. Everything in the log up to `last_id` was yielded, covered by a gap, or lies before the start. The cursor
            moves only in the synchronous step that returns the event.
        I2. A LIVE stream that waits has read every entry of its topic's ring, and is in `topic.waiting`.
        I3. `_rank < group.cutoff` exactly when the stream has ended: -1 once closed itself.
        I4. `_topic` is set exactly while the stream counts as open.
    """

    __slots__ = (
        "__weakref__",
        "_busy",
        "_controls",
        "_dropped",
        "_ephemerals",
        "_failure",
        "_gaps",
        "_group",
        "_index",
        "_live",
        "_max_lag",
        "_opened",
        "_page",
        "_prefetched",
        "_proven",
        "_rank",
        "_signals",
        "_start",
        "_state",
        "_synced",
        "_topic",
        "_track",
        "last_id",
        "slot",
        "user",
        "waiter",
    )

    def __init__(
        self,
        live: LiveLog,
        group: StreamSet,
        user: str,
        position: Position,
        *,
        signals: bool = False,
        max_lag: int | None = None,
        track: bool = True,
    ) -> None:
        self._rank = -1
        self._topic: UserStreams | None = None
        start, self.last_id = parse_position(position)
        self._start: Start | None = start  # None once the first page has come
        self.user = user
        self._live = live
        self._group = group
        self._signals = signals
        self._max_lag = max_lag
        self._track = track
        self._rank = group.next_rank()
        self._state = State.NEW
        self._opened = self._synced = False
        self._busy = False
        self._page: list[Event] | None = None
        self._prefetched: tuple[Page, bool, Watermark] | None = None  # the next page; the reader's task turns it
        self._controls: tuple[Event, ...] = ()  # what the next page begins with
        self.waiter: Waiter | None = None
        self._failure: Exception | None = None
        self._gaps: deque[Gap] | None = None
        self._dropped = 0
        self._index = self._proven = self._ephemerals = self.slot = 0

    # -- what the reader sees ------------------------------------------------------------------------------------

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The latest gaps this stream met, oldest first, at most 16."""
        return tuple(self._gaps or ())

    @property
    def dropped(self) -> int:
        """How many ephemeral events were lost because the reader was away and the buffer full."""
        if self._topic is None:
            return self._dropped
        return self._dropped + max(0, self._topic.ephemerals_gone() - self._ephemerals)

    @property
    def synced(self) -> bool:
        """Whether the replay is over: what follows is live."""
        return self._state is State.LIVE and not self._page

    def __aiter__(self) -> Self:
        """Return the stream."""
        return self

    async def __anext__(self, ended: type[Exception] = StopAsyncIteration) -> Event:
        """As `next()`, but a closed stream ends the loop.

        What nearly every event meets stands in this one frame: another would cost each idle stream 200 bytes.
        """
        if self._busy:
            self._check_idle()
        while True:
            if self._rank < self._group.cutoff or self._max_lag is not None:
                self._raise_if_ended(ended)
            page = self._page
            if page:
                event = page.pop()
                self.last_id = event.id  # keeps I1
                return event
            topic = self._topic
            if topic is not None and self._state is _LIVE:
                behind = topic.end - self._index
                if not behind:
                    self.slot = len(topic.waiting)
                    topic.waiting.append(self)  # keeps I2
                    self._busy = True
                    try:
                        await self.waiter  # type: ignore[misc]  # a live stream has one
                    finally:
                        self._busy = False
                        if topic.waiting:
                            topic.leave(self)  # unless the topic has just woken it
                    continue
                if behind <= len(topic.events) and behind <= topic.size:
                    event = topic.events[-behind]
                    if event.prev == self.last_id and event.id and not topic.volatile:  # what nearly every offer is
                        self._index += 1  # keeps I1
                        self.last_id = event.id
                        if self._live.observe is not None:
                            self._live.observe(event)
                        return event
            taken = self._take()
            if taken is not None:
                return taken
            if self._state is not _LIVE:
                await self._advance()

    def next(self, timeout: float | None = None) -> Coroutine[Any, Any, Event]:
        """Return the next event; see `notify.abc.Stream.next`."""
        return self.__anext__(ClosedError) if timeout is None else self._next_within(timeout)

    async def aclose(self) -> None:
        """End the stream at once; no event comes after. Idempotent, never waits."""
        self._close()

    async def __aenter__(self) -> Self:
        """Open the stream: its position is fixed, and from here on nothing is missed."""
        self._check_idle()
        try:
            self._raise_if_ended(ClosedError)
            while not self._opened:
                await self._advance()
                self._raise_if_ended(ClosedError)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        self._close()

    def __del__(self) -> None:
        if self._topic is not None:
            self._live.loop.call(self._close)  # whichever thread collects the garbage

    def __repr__(self) -> str:
        return f"<Subscription user={self.user!r} last_id={self.last_id!r} {self._state.value}>"

    def _check_idle(self) -> None:
        if self._busy:
            self._raise_if_ended(ClosedError)
            raise UsageError("another task waits for the next event of this stream")

    # -- taking events -------------------------------------------------------------------------------------------

    async def _next_within(self, timeout: float) -> Event:
        with anyio.fail_after(timeout):
            return await self.__anext__(ClosedError)

    def _take(self) -> Event | None:
        """Return what can be yielded without waiting and move the cursor past it: keeps I1."""
        topic = self._topic
        if self._state is not _LIVE or topic is None:
            return None
        remaining = topic.end - self._index
        while remaining:
            if remaining > len(topic.events) or remaining > topic.size:
                if not self._fall_off(topic):
                    return None
                remaining = topic.end - self._index
                continue
            event = topic.events[-remaining]
            if event is RESYNC:
                verdict = Verdict.BEHIND
                self._index += 1
            else:
                verdict = Verdict.NEXT if topic.volatile else splice(self.last_id, event)
                if verdict is Verdict.BEHIND and self._index < self._proven:
                    verdict = Verdict.SEEN  # offered before a read that did not find it: the log has lost it
            if verdict is Verdict.BEHIND:
                self._state = State.BEHIND
                return None
            self._index += 1
            remaining -= 1
            if verdict is Verdict.NEXT:
                if event.id:
                    self.last_id = event.id
                if topic.volatile or not event.id:
                    self._ephemerals += 1
                if self._live.observe is not None:
                    self._live.observe(event)
                return event
        return None

    def _fall_off(self, topic: UserStreams) -> bool:
        """Skip what the ring no longer holds; return whether the rest can be yielded without reading the log."""
        gone = topic.ephemerals_gone()
        lost = gone - self._ephemerals
        self._dropped += lost
        self._group.counters.dropped += lost
        self._ephemerals = gone
        self._index = topic.end - topic.readable
        if topic.volatile:
            return True
        self._state = State.BEHIND
        return False

    # -- opening and reading -------------------------------------------------------------------------------------

    async def _advance(self) -> None:
        """Do one step towards having something to yield: open, read a page, or wait for the page."""
        self._check_idle()
        self._busy = True
        was_open = self._opened
        try:
            if self._state is State.NEW:
                await self._open()
            if self._state is State.BEHIND and self._topic is not None and self._rank >= self._group.cutoff:
                self._live.request(self)
            if self._state is State.READING and self._prefetched is None and self.waiter is not None:
                await self.waiter
            if self._prefetched is not None:
                ahead, self._prefetched = self._prefetched, None
                self._accept_page(*ahead)
            if self._state is State.BEHIND and self._page:
                self._live.prefetch(self)
                await anyio.lowlevel.checkpoint()  # one step for its task, one for that of the store: only then the
                await anyio.lowlevel.checkpoint()  # server is asked, and works while this page is handed out
            elif was_open:
                await anyio.lowlevel.checkpoint()  # a long replay lets others run; last, so that every call gets on
        finally:
            self._busy = False
        failure = self._failure
        if failure is not None and not self._opened and self._topic is not None:
            self._failure = None
            self._detach()
            raise failure

    async def _open(self) -> None:
        """Attach to the live side first, then let the log be read: in this order nothing falls between."""
        if self._topic is None:
            self._live.loop.check()
            self.waiter = self._live.loop.new_waiter()
            self._group.opening()
            topic = self._topic = self._live.attach(self.user)  # keeps I4
            self._index = topic.end
            self._ephemerals = topic.end if topic.volatile else topic.ephemerals
            self._group.attached(self.user, self._track)
        await self._group.ready(self.user, self._track)
        if self._rank < self._group.cutoff or self._topic is None:  # closed while it waited
            return
        if self._live.store is None:
            self._state = State.LIVE
            self._opened = True
        else:
            self._state = State.BEHIND

    @property
    def wanted(self) -> str | None:
        """The position to read from; None asks for the head alone."""
        if self._page:
            return self._page[0].id  # a page that is not the last one ends with an event
        return None if self._start is Start.NOW else self.last_id

    @property
    def watermark(self) -> Watermark:
        """Where in its topic's ring the stream is."""
        return Watermark(self._topic, self._index)

    @property
    def is_open(self) -> bool:
        """Whether the stream is open and its position fixed."""
        return self._opened and self._topic is not None

    @property
    def is_reading(self) -> bool:
        """Whether the stream waits for a page."""
        return self._state is State.READING

    def start_reading(self) -> None:
        """Note that a page was requested."""
        self._state = State.READING

    def wake_if_ended(self) -> None:
        """Let a waiting reader see that its stream has ended."""
        if self._rank < self._group.cutoff:
            wake(self.waiter)

    def receive(self, page: Page, reached_end: bool, watermark: Watermark) -> None:
        """Take a page that was read from `wanted`: called by the live side of the log, in no particular task.

        The cursor stays where it is until the reader asks, so what it has in hand and `last_id` agree; that the log
        ends here is told at once, so that an audit finds what comes after, however long the reader is away.

        Args:
            page: what was read.
            reached_end: whether the log had no more at that time.
            watermark: the end of the ring when the read began.
        """
        topic = self._topic
        assert topic is not None  # by I4: whoever is closed no longer reads
        if reached_end:
            topic.reached(page.position, watermark.topic is topic and watermark.end == topic.end)
        if self._state is State.READING and not self._page:
            wake(self.waiter)
        self._prefetched = (page, reached_end, watermark)

    def _accept_page(self, page: Page, reached_end: bool, watermark: Watermark) -> None:
        """Go on to a page that was received, and cross the gap before it."""
        events = list(page.events)
        start, self._start = self._start, None
        if page.gap is not None and not _excused(start, page):
            if page.gap == "rewound" and not events and start is not None:
                # Ahead of the log, and nothing yielded yet: all that is left follows, read before the gap is yielded.
                self._cross_gap(page.gap, ids.ZERO)
                self.last_id = ids.ZERO
                self._start = Start.ZERO
                self._state = State.BEHIND
                return
            self._cross_gap(page.gap, (events[0].prev or self.last_id) if events else page.position)
        elif not events:
            self.last_id = page.position
        self._group.counters.delivered_replayed += len(events)
        self._opened = True
        self._failure = None
        self._state = State.LIVE if reached_end else State.BEHIND
        if reached_end:
            self._proven = watermark.end
            if self._signals and not self._synced:
                events.append(self._control("notify.sync", page.position, page.position, {}))
            self._synced = True
        self._page = [*self._controls, *events][::-1]
        self._controls = ()

    def fail(self, error: Exception) -> None:
        """Take the news that the log cannot be read: any error before the stream opened, later a final one."""
        if self._page:
            self._state = State.BEHIND  # what was read ahead in vain is read again at its time
            return
        self._failure = error
        if self._opened:
            self._close()
        else:
            if self._state is State.READING:
                wake(self.waiter)
            self._state = State.BEHIND

    def _cross_gap(self, reason: GapReason, end: str) -> None:
        """Report a gap, and move the cursor to its far side: with signals when the reader gets to know of it."""
        gap = Gap(reason, self.last_id, end)
        self._gaps = self._gaps or deque(maxlen=GAPS_KEPT)
        self._gaps.append(gap)
        self._group.counters.gaps[reason] += 1
        logger.warning("gap (%s) for user %r between %s and %s", reason, self.user, gap.start, gap.end)
        if self._signals:
            payload = {"reason": reason, "from": gap.start, "to": gap.end}
            self._controls = (self._control("notify.gap", end, gap.start, payload),)
        else:
            self.last_id = end

    def _control(self, type_: str, position: str, prev: str, payload: dict[str, str]) -> Event:
        micros = time.time_ns() // 1000
        return build_event(position, prev, self.user, type_, encode_payload(payload), micros, None, None, NO_META)

    # -- ending --------------------------------------------------------------------------------------------------

    def _raise_if_ended(self, ended: type[Exception]) -> None:
        topic = self._topic
        if self._rank >= self._group.cutoff:
            if self._max_lag is None or topic is None or not self._synced:
                return
            lag = self._lag(topic)
            if lag <= self._max_lag:
                return
            message = f"the reader of {self.user!r} is {lag} live events behind; at most {self._max_lag} are allowed"
            self._failure = SlowConsumerError(message, last_id=self.last_id)
        self._close()
        if isinstance(self._failure, SlowConsumerError):
            raise self._failure
        raise ended(f"the stream of {self.user!r} is closed") from self._failure

    def _lag(self, topic: UserStreams) -> int:
        """Return how many live events are still to be yielded; above `max_lag` exactly, without what is none."""
        entries = topic.end - max(self._index, self._proven)
        if self._max_lag is None or entries <= self._max_lag:
            return entries
        held = self._page[0].id if self._page else self.last_id
        window = topic.events[-entries:]
        seen = [event is not RESYNC and splice(held, event) is Verdict.SEEN for event in window]
        if seen[0]:
            entries = len(window)  # then what the ring no longer holds is older still
        return entries - sum(seen) - window.count(RESYNC)

    def _close(self) -> None:
        """End for good, synchronously: works while cancelled and in a finaliser. Keeps I3 and I4."""
        self._rank = -1
        self._page = self._prefetched = None
        if self._topic is not None:
            self._dropped = self.dropped
            self._detach()
        wake(self.waiter)

    def _detach(self) -> None:
        topic, self._topic = self._topic, None
        assert topic is not None
        self._state = State.NEW
        topic.leave(self)
        self._live.detach(topic)
        self._group.detached(self.user, self._track)


def _excused(start: Start | None, page: Page) -> bool:
    """Return whether a first read may ignore this gap, because the position never claimed that anything precedes it."""
    if start is Start.ZERO:
        return True
    if start is Start.TIME:
        unborn = page.gap == "expired" and (bool(page.events) or page.position == ids.ZERO)
        return unborn or page.gap == "rewound"
    return False
