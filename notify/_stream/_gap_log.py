"""Warnings about gaps: few, however many streams report one."""

from __future__ import annotations

import logging
from typing import Final

from ..abc import Gap

QUIET: Final = 60.0
"""Seconds after a warning in which further gaps of the same reason are logged at level DEBUG only.

A client causes a gap by each position that it makes up, and after a restored backup every stream reports one. The log
must show this without being filled by it. The counters count every gap.
"""

logger = logging.getLogger("notify")


class GapLog:
    """Logs the gaps of all streams of one set."""

    def __init__(self) -> None:
        self._quiet_until: dict[str, float] = {}

    def note(self, gap: Gap, user: str, now: float) -> None:
        """Log a gap in the stream of a user; `now` is the monotonic time in seconds."""
        arguments = (gap.reason, user, gap.start, gap.end)
        if now < self._quiet_until.get(gap.reason, now):
            logger.debug("gap (%s) for user %r between %s and %s", *arguments)
            return
        self._quiet_until[gap.reason] = now + QUIET
        logger.warning("gap (%s) for user %r between %s and %s", *arguments)
