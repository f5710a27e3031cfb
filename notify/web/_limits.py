"""How many streams there may be, and how many of them may replay at the same time.

After a restart every client comes back at once, each with a replay. Without a limit, the event loop would go through
all of them in turn, and a live event would wait until each of the thousands had done one more step. So only a few
replay at a time, in the order in which they came. A turn is for reading and encoding, not for sending: a client that
reads slowly holds up no other. Nor does a slow store: a turn is held for `HOLD` seconds at most, and then the next one
begins while the read goes on.
"""

from __future__ import annotations

import math
import time
from typing import Final, Protocol

import anyio

from ._ticker import NEVER, Ticker

TURNS: Final = 32
"""Streams that read and encode a replay at the same time."""

HOLD: Final = 1.0
"""Seconds for which a turn is held at most: a replay that takes longer waits for the store, and goes on without one."""


class Limited(Protocol):
    """A stream that is counted."""

    @property
    def user(self) -> str:
        """Whose it is."""

    def stop(self, reason: str) -> None:
        """End it soon, for this reason; never waits."""


class StreamLimits:
    """The open streams of one application.

    Args:
        max_streams: how many there may be in all; None for any number.
        max_streams_per_user: how many one user may have; the oldest is ended for a further one.

    Attributes:
        open: how many there are.
        is_full: whether no further one may be opened.
    """

    def __init__(self, max_streams: int | None, max_streams_per_user: int) -> None:
        self._max_streams = math.inf if max_streams is None else max_streams
        self._max_streams_per_user = max_streams_per_user
        self._users: dict[str, dict[Limited, None]] = {}
        self.open = 0
        self.is_full = self._max_streams <= 0

    def add(self, stream: Limited) -> None:
        """Count a stream, and end the oldest ones of a user that has too many."""
        streams = self._users.setdefault(stream.user, {})
        streams[stream] = None
        self.open += 1
        self.is_full = self.open >= self._max_streams
        while len(streams) > self._max_streams_per_user:
            oldest = next(iter(streams))
            self.discard(oldest)  # at once: it may take a while to end, and must not count twice
            oldest.stop("replaced")
            streams = self._users[stream.user]

    def discard(self, stream: Limited) -> None:
        """Stop counting a stream. Idempotent."""
        streams = self._users.get(stream.user)
        if streams is not None and stream in streams:
            del streams[stream]
            self.open -= 1
            self.is_full = self.open >= self._max_streams
            if not streams:
                del self._users[stream.user]


class Turns:
    """Lets a few replays run at a time, in the order in which they asked.

    Invariants:
        I1. While a holder waits, all turns are held, and `tick` is filed for when the oldest of them runs out.

    Args:
        turns: how many there are.

    Attributes:
        slot: see `_ticker.Timed`.
    """

    def __init__(self, turns: int = TURNS) -> None:
        self.slot = -1
        self._turns = turns
        self._ticker: Ticker | None = None
        self._held: dict[object, float] = {}  # since when, oldest first
        self._waiting: dict[object, anyio.Event] = {}  # first come first; an interrupted one keeps its place

    def start(self, ticker: Ticker) -> None:
        """Be called back by this ticker from now on, and no more by the one before."""
        if self._ticker is not None:
            self._ticker.discard(self)
        self._ticker = ticker
        self._file()

    @property
    def is_busy(self) -> bool:
        """Whether a holder would have to wait."""
        if len(self._held) >= self._turns:
            self._take_back(time.monotonic())
        return len(self._held) >= self._turns

    def is_held_by(self, holder: object) -> bool:
        """Whether this holder has a turn."""
        return holder in self._held

    def take(self, holder: object) -> bool:
        """Begin a turn, if the holder would not have to wait; return whether it has."""
        if len(self._held) >= self._turns and self.is_busy:
            return False
        self._held[holder] = time.monotonic()  # no task waits, by I1
        return True

    async def acquire(self, holder: object) -> bool:
        """Wait for a turn; return False after `interrupt`: then the place in the queue is kept until `discard`.

        Order: first come, first served.    Cancellation: leaves the queue; a turn that was just granted is passed on.
        """
        if holder in self._held or self.take(holder):  # it may have been granted after an interruption
            return True
        turn = self._waiting[holder] = anyio.Event()
        self._file()  # keeps I1
        try:
            await turn.wait()
        except BaseException:
            self.discard(holder)
            raise
        return holder in self._held

    def interrupt(self, holder: object) -> None:
        """End the wait of this holder, if it waits. Never waits."""
        turn = self._waiting.get(holder)
        if turn is not None:
            turn.set()

    def release(self, holder: object) -> None:
        """End a turn: the next holder has it, if one waits. Idempotent, because turns run out."""
        if self._held.pop(holder, None) is not None and self._waiting:
            self._pass_on()

    def discard(self, holder: object) -> None:
        """Leave the queue, or end the turn. Idempotent."""
        if self._waiting.pop(holder, None) is not None:
            self._file()
        self.release(holder)

    def tick(self, now: float) -> float:
        """Take back the turns that have run out; see `_ticker.Timed`."""
        self._take_back(now)
        return next(iter(self._held.values())) + HOLD if self._waiting else NEVER

    def _take_back(self, now: float) -> None:
        while self._held:
            holder, since = next(iter(self._held.items()))
            if now < since + HOLD:
                return
            del self._held[holder]
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the turn that has become free to the first in the queue (keeps I1)."""
        if self._waiting:
            holder = next(iter(self._waiting))
            self._held[holder] = time.monotonic()
            self._waiting.pop(holder).set()
            self._file()

    def _file(self) -> None:
        """Be called back exactly while a holder waits."""
        if self._ticker is None:
            return
        if not self._waiting:
            self._ticker.discard(self)
        elif self.slot < 0:
            self._ticker.add(self, next(iter(self._held.values())) + HOLD)
