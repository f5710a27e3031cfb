"""Whether a server can be reached, as far as is known: one verdict for all connections of the process to it.

A server that has been unreachable for FAIL_FAST_AFTER seconds fails every call at once: pushes, reads, presence and
routing, of whichever store, router or tracker. Until then calls wait, because a server that restarts is back within a
second. What ends the verdict is a connection that is ready, or any reply; connections that have failed are tried again
in the background, so that no call has to find out.
"""

from __future__ import annotations

import time
from typing import Final
from weakref import WeakValueDictionary

FAIL_FAST_AFTER: Final = 1.0
"""Seconds for which a server must have been unreachable for calls to fail at once."""

FAILURE_MEMORY: Final = 6.0
"""Seconds after which a failed attempt to connect no longer says anything about the next one."""


class Reach:
    """What is known of one server.

    Attributes:
        failure: why the latest attempt failed.
    """

    def __init__(self) -> None:
        self._down_since = self._failed_at = 0.0
        self.failure: Exception | None = None

    def failed(self, failure: Exception, began: float) -> None:
        """Note a failed attempt, or a request without an answer, that began at this time of the monotonic clock."""
        self.failure = failure
        self._failed_at = time.monotonic()
        self._down_since = self._down_since or began

    def succeeded(self) -> None:
        """Note that the server has answered."""
        self._down_since = 0.0

    def down_for(self) -> float:
        """Return for how many seconds the server has been unreachable, as far as is known; 0 if it may be reachable."""
        now = time.monotonic()
        if not self._down_since or now - self._failed_at > FAILURE_MEMORY:
            return 0.0
        return now - self._down_since

    @property
    def is_failing(self) -> bool:
        """Whether the latest attempt failed."""
        return bool(self._down_since)

    @property
    def is_down(self) -> bool:
        """Whether calls fail at once."""
        return bool(self._down_since) and self.down_for() > FAIL_FAST_AFTER


_known: WeakValueDictionary[str, Reach] = WeakValueDictionary()


def reach_of(server: str) -> Reach:
    """Return what is known of a server, by a key that identifies it within this process."""
    found = _known.get(server)
    if found is None:
        found = _known[server] = Reach()
    return found
