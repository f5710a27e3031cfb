"""Keeps the shutdown of the server noticed between the polls of a client.

Signals reach an application only while it has a stream open. A client that polls has none between two requests; one
that came in after the signal would wait for its full time, and the server for it. So a long poll counts as a stream
for a while after it was answered.
"""

from __future__ import annotations

import time
from typing import Final

from ._closing import Closing, OpenStream
from ._ticker import NEVER, Ticker

LINGER: Final = 5.0
"""Seconds after a poll in which the next one is expected."""


class PollLinger:
    """One for each application.

    Args:
        closing: the streams of the application.

    Attributes:
        slot: see `_ticker.Timed`.
    """

    def __init__(self, closing: Closing) -> None:
        self.slot = -1
        self._closing = closing
        self._open: OpenStream | None = None
        self._until = 0.0

    def extend(self, ticker: Ticker) -> None:
        """Count as an open stream for `LINGER` seconds from now, because a poll has ended."""
        self._until = time.monotonic() + LINGER
        if self._open is None:
            self._open = self._closing.stream(lambda: None)
            self._open.__enter__()
            ticker.add(self, self._until)

    def tick(self, now: float) -> float:
        """See `_ticker.Timed`."""
        if now < self._until:
            return self._until
        self.close()
        return NEVER

    def close(self) -> None:
        """Stop counting. Idempotent."""
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None
