"""Reads the counts that streams yield, once for all streams of a user in this process.

Concurrent requests for one user are one read, and while it runs no second one is started for that user. Users are read
concurrently, but only a few at a time, because an item of a topic changes the counts of all its followers at once.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from heapq import heappop, heappush
from typing import Final, Protocol
from weakref import WeakSet

import anyio

from notify import BackendError, ClosedError, NotifyError
from notify.adapters import Background, OutageLog, backoff

from .abc import Counts

logger = logging.getLogger("notify")

CONCURRENT_READS: Final = 8
"""How many users' counts are read at the same time."""

STEP: Final = 0.1
"""Seconds to which times of expiry are rounded up, so that items that expire together cause one read per user."""

CLOCK_CHECK: Final = 1.0
"""Seconds after which the wall clock is read again, because it may have been set."""


class CountsReceiver(Protocol):
    """A stream that yields counts."""

    @property
    def user(self) -> str:
        """Whose counts."""

    def accept_counts(self, counts: Counts | None) -> None:
        """Accept the counts; None: they could not be read, which is retried unless the inbox is closed. Never waits."""


class Counting:
    """Reads counts for the streams of one Inbox; refers to the streams weakly, so that it does not keep them alive.

    Invariant: while users wait for a read, as many tasks run as there are such users, at most `CONCURRENT_READS`.

    Args:
        read: reads the counts of a user.
        background: runs the tasks.
        clock: returns seconds since 1970.
    """

    def __init__(
        self,
        read: Callable[[str], Awaitable[Counts]],
        background: Background,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._read = read
        self._background = background
        self._clock = clock
        self._waiting: dict[str, WeakSet[CountsReceiver]] = {}
        self._reading: set[str] = set()
        self._tasks = 0
        self._due: dict[float, WeakSet[CountsReceiver]] = {}
        self._moments: list[float] = []
        self._timer: anyio.Event | None = None
        self._outage = OutageLog(
            logger,
            "the counts of inboxes cannot be read, so streams do not yield them",
            "the counts of inboxes are read again",
        )

    # -- reading -------------------------------------------------------------------------------------------------

    def request(self, stream: CountsReceiver) -> None:
        """Read the counts of the stream's user soon, and pass them to the stream. Never waits."""
        streams = self._waiting.get(stream.user)
        if streams is None:
            streams = self._waiting[stream.user] = WeakSet()
        streams.add(stream)
        if self._tasks < CONCURRENT_READS:
            try:
                self._background.start(self._work)
            except ClosedError:
                self._give_up()
            else:
                self._tasks += 1

    async def _work(self) -> None:
        """Read the counts of one waiting user after the other, until no user waits."""
        delays = backoff(random.random)
        try:
            while (user := self._next()) is not None:
                if await self._read_for(user):
                    delays = backoff(random.random)
                else:
                    await anyio.sleep(next(delays))
        finally:
            self._tasks -= 1
            if self._background.closed:
                self._give_up()

    def _give_up(self) -> None:
        """Answer the streams that wait, because the inbox is closed."""
        while self._waiting:
            for stream in tuple(self._waiting.popitem()[1]):
                stream.accept_counts(None)

    def _next(self) -> str | None:
        return next((user for user in self._waiting if user not in self._reading), None)

    async def _read_for(self, user: str) -> bool:
        """Read once for all waiting streams of a user; return whether to go on at once, instead of after a pause."""
        streams = self._waiting.pop(user)
        counts: Counts | None = None
        self._reading.add(user)
        try:
            counts = await self._read(user)
        except BackendError as error:
            self._outage.failed(error)
            self._waiting[user] = streams | self._waiting.get(user, WeakSet())
        except NotifyError:
            pass  # the store is closed: asking again is of no use
        else:
            self._outage.recovered()
            return True
        finally:
            self._reading.discard(user)
            for stream in tuple(streams):  # also if this task is cancelled: a stream waits for an answer
                stream.accept_counts(counts)
        return False

    # -- expiry --------------------------------------------------------------------------------------------------

    def expires(self, stream: CountsReceiver, ms: int) -> None:
        """Request the counts for a stream at the time when an item that it has yielded expires. Never waits.

        Args:
            stream: gets the counts.
            ms: when the item expires, in milliseconds since 1970.
        """
        moment = math.floor(ms / 1000 / STEP + 1) * STEP
        streams = self._due.get(moment)
        if streams is None:
            streams = self._due[moment] = WeakSet()
            heappush(self._moments, moment)
        streams.add(stream)
        if self._timer is None:
            self._timer = anyio.Event()
            try:
                self._background.start(self._watch)
            except ClosedError:
                self._timer = None
                self._due.clear()
                self._moments.clear()
        elif moment == self._moments[0]:
            self._timer.set()

    async def _watch(self) -> None:
        """Request counts as items expire, while a stream waits for one to expire. One task, whatever their number."""
        try:
            while any(self._due.values()):
                while self._moments and self._moments[0] <= self._clock():
                    for stream in tuple(self._due.pop(heappop(self._moments))):
                        self.request(stream)
                if self._moments:
                    timer = self._timer = anyio.Event()
                    with anyio.move_on_after(min(CLOCK_CHECK, max(0.0, self._moments[0] - self._clock()))):
                        await timer.wait()
        finally:
            self._timer = None
            self._due.clear()
            self._moments.clear()
