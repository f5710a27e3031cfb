"""How many streams there may be, and how many of them may replay at the same time.

After a restart every client comes back at once, each with a replay. Without a limit, the event loop would go through
all of them in turn, and a live event would wait until each of the thousands had done one more step. So only a few
replay at a time, in the order in which they came. A turn is for reading and encoding, not for sending: a client that
reads slowly holds up no other.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

import anyio

TURNS: Final = 32
"""Streams that read and encode a replay at the same time."""


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
    """

    def __init__(self, max_streams: int | None, max_streams_per_user: int) -> None:
        self._max_streams = max_streams
        self._max_streams_per_user = max_streams_per_user
        self._users: dict[str, dict[Limited, None]] = {}
        self.open = 0

    @property
    def is_full(self) -> bool:
        """Whether no further stream may be opened."""
        return self._max_streams is not None and self.open >= self._max_streams

    def add(self, stream: Limited) -> None:
        """Count a stream, and end the oldest ones of a user that has too many."""
        streams = self._users.setdefault(stream.user, {})
        streams[stream] = None
        self.open += 1
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
            if not streams:
                del self._users[stream.user]


class Turns:
    """Lets a few replays run at a time, in the order in which they asked.

    Invariants:
        I1. `_free` is 0 while a task waits.
    """

    def __init__(self, turns: int = TURNS) -> None:
        self._free = turns
        self._waiting: deque[anyio.Event] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether a task would have to wait."""
        return not self._free

    async def acquire(self) -> None:
        """Wait for a turn.

        Order: first come, first served.    Cancellation: leaves the queue; a turn that was just granted is passed on.
        """
        if self._free:
            self._free -= 1
            return
        turn = anyio.Event()
        self._waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.release()
            else:
                self._waiting.remove(turn)
            raise

    def release(self) -> None:
        """End a turn: the next task has it, if there is one (keeps I1)."""
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._free += 1
