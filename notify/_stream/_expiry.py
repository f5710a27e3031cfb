"""Ends streams at a time: one task and one heap for all streams of a notifier that have an `expires_at`.

What counts is the wall clock, as for the credentials from which such a time usually comes. It is compared when the next
stream is due and at least once a second, so a step of the clock is noticed within a second.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from datetime import datetime
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Protocol

import anyio

from .._runtime._background import Background
from .._runtime._loop_guard import LoopGuard
from .._runtime._waking import Waiter, wake
from ..errors import UsageError

CLOCK_CHECK: Final = 1.0
"""Seconds after which the wall clock is compared again: it may have been set."""

_LEAST_PURGE: Final = 64


class Expiring(Protocol):
    """A stream that ends at a time."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended already."""

    def expire(self) -> None:
        """End the stream; never waits."""


def moment_of(expires_at: object) -> float:
    """Return seconds since 1970.

    Raises:
        UsageError: not a datetime with a time zone.
    """
    if not isinstance(expires_at, datetime) or expires_at.utcoffset() is None:
        raise UsageError(
            "expires_at must be a datetime with a time zone, for example datetime.now(UTC) + timedelta(hours=1), "
            f"not {expires_at!r:.80}"
        )
    return expires_at.timestamp()


class Expiry:
    """The streams of one notifier that end at a time.

    Args:
        background: runs the task, from the first such stream on until none is left.
        guard: the event loop.
        clock: returns seconds since 1970.
    """

    def __init__(self, background: Background, guard: LoopGuard, clock: Callable[[], float] | None = None) -> None:
        self._background = background
        self._guard = guard
        self.clock = clock or time.time
        self._number = count()
        self._heap: list[tuple[float, int, weakref.ref[Expiring]]] = []
        self._purge_at = _LEAST_PURGE
        self._waiter: Waiter | None = None

    def watch(self, stream: Expiring, moment: float) -> None:
        """End the stream at this moment: at once if it has passed."""
        if moment <= self.clock():
            stream.expire()
            return
        if len(self._heap) >= self._purge_at:
            self._purge()
        heappush(self._heap, (moment, next(self._number), weakref.ref(stream)))
        if self._waiter is None:
            self._waiter = self._guard.new_waiter()
            self._background.start(self._run)
        elif self._heap[0][2]() is stream:
            wake(self._waiter)

    def _purge(self) -> None:
        """Forget the streams that are over or gone; costs little for each stream, however many there were."""
        self._heap = [entry for entry in self._heap if not _is_over(entry[2]())]
        heapify(self._heap)
        self._purge_at = max(2 * len(self._heap), _LEAST_PURGE)

    async def _run(self) -> None:
        try:
            while self._end_due():
                with anyio.move_on_after(min(CLOCK_CHECK, self._heap[0][0] - self.clock())):
                    await self._waiter  # type: ignore[misc]  # set before this task was started
        finally:
            self._waiter = None

    def _end_due(self) -> bool:
        """End every stream that is due; return whether others are left."""
        while self._heap:
            moment, _, reference = self._heap[0]
            stream = reference()
            if stream is not None and not stream.is_over:
                if moment > self.clock():
                    return True
                stream.expire()
            heappop(self._heap)
        return False


def _is_over(stream: Expiring | None) -> bool:
    return stream is None or stream.is_over
