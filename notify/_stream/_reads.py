"""Reading the log for streams: in tasks that the library owns, one read for all streams at the same position."""

from __future__ import annotations

import logging
import random
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, get_args

import anyio

from .. import ids
from .._runtime._background import Background, without_stray_cancellation
from .._runtime._backoff import backoff
from .._runtime._stats import Counters
from ..abc import Page
from ..errors import BackendUnavailableError, ClosedError, UsageError
from ..event import Event
from ..ids import GapReason
from ._cursor import Watermark

logger = logging.getLogger("notify")

PAGE_SIZE: Final = 500
"""Events per page: large enough that a round trip does not matter, small enough that others run in between."""

CONCURRENT_READS: Final = 32
"""Reads in flight at once; ten thousand clients that reconnect together queue here instead of at the database."""

_GAPS: Final = {None, *get_args(GapReason)}


class PageReader(Protocol):
    """A stream that wants a page."""

    @property
    def user(self) -> str:
        """The user whose log is read."""

    @property
    def wanted(self) -> str | None:
        """The position to read from; None asks for the head alone."""

    @property
    def watermark(self) -> Watermark:
        """The position of the stream in its ring."""

    @property
    def is_open(self) -> bool:
        """Whether the stream is open: then a failed read is retried, and the stream is not told."""

    @property
    def is_reading(self) -> bool:
        """Whether it still waits for the page."""

    def start_reading(self) -> None:
        """Note that a page was requested."""

    def receive(self, page: Page, reached_end: bool, watermark: Watermark) -> None:
        """Take the page."""

    def receive_head(self, head: str) -> None:
        """Take the head of the log: instead of `receive`, if only that was wanted and the store answers at once."""

    def fail(self, error: Exception) -> None:
        """Learn that there will be no page."""

    def wake_if_ended(self) -> None:
        """Let its reader see that the stream has ended, if it has."""


class Read:
    """One read, queued or in flight, and the streams that wait for it (weakly: it does not keep a stream alive)."""

    __slots__ = ("after", "key", "streams", "user", "watermark")

    def __init__(self, user: str, after: str | None) -> None:
        self.user = user
        self.after = after
        # A head is not shared: a stream that asks later must not get an earlier end of the log.
        self.key: object = self if after is None else (user, after)
        self.watermark: Watermark | None = None  # the end of the ring when the read began; None: it has not begun
        self.streams: list[weakref.ref[PageReader]] = []

    def suits(self, stream: PageReader) -> bool:
        """Return whether the page will hold all that was offered before this stream joined; if not, it reads alone."""
        if self.watermark is None:
            return True
        ring, end = stream.watermark
        return ring is self.watermark.ring and end <= self.watermark.end

    def waiting(self) -> list[PageReader]:
        """Return the streams that still want this page."""
        streams = (reference() for reference in self.streams)
        return [s for s in streams if s is not None and s.is_reading and s.wanted == self.after and self.suits(s)]


class Reads:
    """Single-flight reads with a bound on how many run at once, first come first served.

    Args:
        fetch: reads one page of a user's log after a position, or the head alone for None.
        watermark: returns the end of a user's ring.
        background: whose tasks read.
        counters: where failed reads are counted.
        name: the store's name, for errors.
        timeout: seconds that one read may take before it counts as failed.
    """

    def __init__(
        self,
        fetch: Callable[[str, str | None], Awaitable[Page]],
        watermark: Callable[[str], Watermark],
        *,
        background: Background,
        counters: Counters,
        name: str,
        timeout: float,
    ) -> None:
        self._fetch = fetch
        self._watermark = watermark
        self._background = background
        self._counters = counters
        self._name = name
        self._timeout = timeout
        self._reads: set[Read] = set()
        self._shared: dict[object, Read] = {}
        self._queue: deque[Read] = deque()
        self._running = 0

    @property
    def in_flight(self) -> int:
        """How many reads are queued or running."""
        return len(self._reads)

    def request(self, stream: PageReader) -> None:
        """Read the page after `stream.wanted` and pass it to its `receive`, or the error to its `fail`."""
        read = Read(stream.user, stream.wanted)
        shared = self._shared.get(read.key)
        if shared is not None and shared.suits(stream):
            shared.streams.append(weakref.ref(stream))
            return
        read.streams.append(weakref.ref(stream))
        self._shared[read.key] = read
        self._reads.add(read)
        self._queue.append(read)
        self._start_next()

    def streams(self) -> list[PageReader]:
        """Return every stream that waits for a page."""
        return [stream for read in self._reads for stream in read.waiting()]

    def _start_next(self) -> None:
        while self._queue and self._running < CONCURRENT_READS and not self._background.closed:
            read = self._queue.popleft()
            self._running += 1
            self._background.start(self._run, read)

    async def _run(self, read: Read) -> None:
        outcome: Page | Exception = ClosedError(f"{self._name} is closed")  # what else can cancel this task
        watermark = self._watermark(read.user)
        delays = backoff(random.random)
        try:
            while True:
                # Taken before the read: an event that is offered during it proves nothing about the page.
                watermark = read.watermark = self._watermark(read.user)
                outcome = await self._attempt(read)
                streams = read.waiting()
                if isinstance(outcome, Page | UsageError) or not any(stream.is_open for stream in streams):
                    break
                for stream in streams:
                    if not stream.is_open:
                        stream.fail(outcome)
                await anyio.sleep(next(delays))
        finally:
            self._running -= 1
            self._forget(read)
            for stream in read.waiting():
                self._hand_over(stream, outcome, watermark)
            self._start_next()

    def _hand_over(self, stream: PageReader, outcome: Page | Exception, watermark: Watermark) -> None:
        if not stream.is_reading:
            return  # it detached, attached again and joined twice: the first page was enough
        if isinstance(outcome, Page):
            stream.receive(outcome, stream.wanted is None or len(outcome.events) < PAGE_SIZE, watermark)
        else:
            stream.fail(outcome)

    def _forget(self, read: Read) -> None:
        self._reads.discard(read)
        if self._shared.get(read.key) is read:
            del self._shared[read.key]

    async def _attempt(self, read: Read) -> Page | Exception:
        try:
            with anyio.fail_after(self._timeout):
                page = await without_stray_cancellation(self._fetch, read.user, read.after)
            return checked_page(page)
        except UsageError as error:
            return error
        except Exception as error:
            self._counters.read_failures += 1
            logger.warning("cannot read the log of %r: %r", read.user, error)
            return as_unavailable(error, self._name)


def checked_page(page: Any) -> Page:
    """Return a valid page, or raise TypeError: a store that breaks the contract must not corrupt a stream."""
    if not isinstance(page, Page) or not ids.is_id(page.position) or page.gap not in _GAPS:
        raise TypeError(f"the store returned {page!r:.80}, which is not a valid page")
    unusual: list[Any] = [event for event in page.events if event.__class__ is not Event or not event.id]
    if not all(isinstance(event, Event) and event.id for event in unusual):
        raise TypeError(f"the store returned {page!r:.80}, whose events are not all stored events")
    return page


def as_unavailable(error: Exception, backend: str) -> BackendUnavailableError:
    """Return the library's error for a read that failed."""
    if isinstance(error, BackendUnavailableError):
        return error
    wrapped = BackendUnavailableError(f"{backend} cannot be read: {error!r}", backend=backend)
    wrapped.__cause__ = error
    return wrapped
