"""Reads of the log for streams: in tasks that the library owns, one for all streams at the same position."""

from __future__ import annotations

import logging
import random
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final, get_args

import anyio

from .. import ids
from .._runtime._backoff import backoff
from ..abc import Page
from ..errors import BackendUnavailableError, UsageError
from ..event import Event
from ..ids import GapReason

if TYPE_CHECKING:
    from ._live import LiveLog
    from ._subscription import Subscription, Watermark

logger = logging.getLogger("notify")

PAGE_SIZE: Final = 500
"""Events to a page: large enough that a round trip does not matter, small enough that others run in between."""

_GAPS: Final = {None, *get_args(GapReason)}

CONCURRENT_READS: Final = 32
"""Reads under way at once; ten thousand clients that reconnect together queue here instead of at the database."""


class Read:
    """One read under way or queued, and the streams that wait for it (weakly: a dropped stream is not kept alive)."""

    __slots__ = ("after", "key", "streams", "user", "watermark")

    def __init__(self, user: str, after: str | None) -> None:
        self.user = user
        self.after = after
        # A head is shared with nobody: whoever asks later must not be told of an earlier end of the log.
        self.key: object = self if after is None else (user, after)
        self.watermark: Watermark | None = None  # where the ring ended when the read began; None: it has not
        self.streams: list[weakref.ref[Subscription]] = []

    def suits(self, stream: Subscription) -> bool:
        """Return whether the page will hold all that was offered before this stream came: else it must read itself."""
        return self.watermark is None or (
            stream.watermark.topic is self.watermark.topic and stream.watermark.end <= self.watermark.end
        )

    def waiting(self) -> list[Subscription]:
        """Return the streams that still want this page."""
        streams = (reference() for reference in self.streams)
        return [s for s in streams if s is not None and s.is_reading and s.wanted == self.after and self.suits(s)]


class Reads:
    """Single-flight reads with a bound on how many run at once, first come first served."""

    def __init__(self, live: LiveLog) -> None:
        self._live = live
        self._reads: set[Read] = set()
        self._shared: dict[object, Read] = {}
        self._queue: deque[Read] = deque()
        self._running = 0

    def request(self, stream: Subscription) -> None:
        """Have the page after `stream.wanted` handed to `stream.receive`, or an error to `stream.fail`."""
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

    def streams(self) -> list[Subscription]:
        """Return every stream that waits for a page."""
        return [stream for read in self._reads for stream in read.waiting()]

    def _start_next(self) -> None:
        while self._queue and self._running < CONCURRENT_READS and not self._live.background.closed:
            read = self._queue.popleft()
            self._running += 1
            self._live.background.start(self._run, read)

    async def _run(self, read: Read) -> None:
        outcome: Page | Exception = BackendUnavailableError("the read was abandoned", backend=self._live.name)
        watermark = self._live.watermark(read.user)
        delays = backoff(random.random)
        try:
            while True:
                watermark = read.watermark = self._live.watermark(
                    read.user
                )  # before: what is offered meanwhile proves nothing
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

    def _hand_over(self, stream: Subscription, outcome: Page | Exception, watermark: Watermark) -> None:
        if isinstance(outcome, Page):
            stream.receive(outcome, stream.wanted is None or len(outcome.events) < PAGE_SIZE, watermark)
        else:
            stream.fail(outcome)

    def _forget(self, read: Read) -> None:
        self._reads.discard(read)
        if self._shared.get(read.key) is read:
            del self._shared[read.key]

    async def _attempt(self, read: Read) -> Page | Exception:
        live = self._live
        try:
            with anyio.fail_after(live.read_timeout):
                page = await live.fetch(read.user, read.after)
            return checked_page(page)
        except UsageError as error:
            return error
        except Exception as error:
            live.counters.read_failures += 1
            logger.warning("cannot read the log of %r: %r", read.user, error)
            return as_unavailable(error, live.name)


def checked_page(page: Any) -> Page:
    """Refuse what is no page: a store that breaks the contract here fails, and poisons nothing."""
    if not isinstance(page, Page) or not ids.is_id(page.position) or page.gap not in _GAPS:
        raise TypeError(f"it returned {page!r:.80} for a page")
    kinds = {event.__class__ for event in page.events}
    if not all(issubclass(kind, Event) for kind in kinds) or not all([event.id for event in page.events]):
        raise TypeError(f"it returned {page!r:.80}, not only stored events, in a page")
    return page


def as_unavailable(error: Exception, backend: str) -> BackendUnavailableError:
    """Return the library's error for a read that failed."""
    if isinstance(error, BackendUnavailableError):
        return error
    wrapped = BackendUnavailableError(f"{backend} cannot be read: {error!r}", backend=backend)
    wrapped.__cause__ = error
    return wrapped
