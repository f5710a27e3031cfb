"""Removes what is older than a dispatcher keeps, from time to time, while the dispatcher runs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

import anyio
import anyio.lowlevel

from notify import BackendError, ClosedError
from notify.adapters import OutageLog

from .abc import DispatchRecords

logger = logging.getLogger("notify")

EVERY: Final = 3600.0
"""Seconds between two looks, more or less, so that the workers of an application do not look together."""

FIRST: Final = 120.0
"""Seconds after the start of a worker within which it looks first."""

STEP: Final = 100
"""How many notifications are removed at a time."""


class Purger:
    """Removes old notifications.

    Args:
        records: where they are.
        keep: seconds for which they are kept; None: for good.
        chance: returns a number in [0, 1).
        leave: called with a time and the present one; ends some deliveries that no worker has sent since then, and
            returns whether there may be more.
    """

    def __init__(
        self,
        records: DispatchRecords,
        keep: float | None,
        chance: Callable[[], float],
        leave: Callable[[datetime, datetime], Awaitable[bool]] | None = None,
    ) -> None:
        self._records = records
        self._leave = leave
        self._keep = None if keep is None else timedelta(seconds=keep)
        self._chance = chance
        self._next: float | None = None
        self._is_stopped = False
        self._log = OutageLog(logger, "old notifications cannot be removed", "old notifications are removed again")

    def is_due(self) -> bool:
        """Whether it is time to look: soon after the first call, then once in `EVERY` seconds."""
        if self._keep is None:
            return False
        now = anyio.current_time()
        if self._next is None:
            self._next = now + FIRST * self._chance()
        if now < self._next:
            return False
        self._next = now + EVERY * (0.5 + self._chance())
        return True

    async def purge(self, now: datetime) -> None:
        """Remove what is old, some of it at a time."""
        assert self._keep is not None
        self._is_stopped, before = False, now - self._keep
        try:
            while not self._is_stopped and self._leave is not None and await self._leave(before, now):
                await anyio.lowlevel.checkpoint()
            while not self._is_stopped and await self._records.purge(before, limit=STEP) == STEP:
                await anyio.lowlevel.checkpoint()
        except (BackendError, ClosedError) as error:
            self._log.failed(error)
        else:
            self._log.recovered()

    def stop(self) -> None:
        """Let `purge` end after its present step."""
        self._is_stopped = True
