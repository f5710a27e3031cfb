"""Keeps the shutdown of the server noticed between the polls of a client.

Signals reach an application only while it has a stream open. A client that polls has none between two requests; one
that came in after the signal would wait for its full time, and the server for it. So a long poll counts as a stream
for a while after it was answered.

A task of its own counts that while, because an event loop that ends cancels its tasks: nothing stays open after it, and
the handlers of signals are the process's own again.
"""

from __future__ import annotations

import time
from typing import Final

import anyio

from notify.adapters import Background

from ._closing import Closing, OpenStream

LINGER: Final = 5.0
"""Seconds after a poll in which the next one is expected."""


class PollLinger:
    """One for each application.

    Args:
        closing: the streams of the application.
    """

    def __init__(self, closing: Closing) -> None:
        self._closing = closing
        self._open: OpenStream | None = None
        self._until = 0.0

    def extend(self, background: Background) -> None:
        """Count as an open stream for `LINGER` seconds from now, because a poll has ended."""
        self._until = time.monotonic() + LINGER
        if self._open is None:
            background.start(self._linger)
            self._open = self._closing.stream(lambda: None)
            self._open.__enter__()

    async def _linger(self) -> None:
        try:
            while (left := self._until - time.monotonic()) > 0:  # noqa: ASYNC110 - all that is left, unless extended
                await anyio.sleep(left)
        finally:
            opened, self._open = self._open, None
            assert opened is not None  # `extend` sets it before this task begins
            opened.__exit__(None, None, None)
