"""Whether the parts of a notifier work, found out at most once a second, however many ask."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import anyio

from notify import Notifier

KEPT: Final = 1.0
"""Seconds for which a verdict is good: anyone may ask, and a check writes to every part of the notifier."""


class HealthCheck:
    """Checks a notifier, one check at a time.

    Args:
        notifier: to check.

    Invariants:
        I1. No check begins within `KEPT` seconds after the end of another.
    """

    def __init__(self, notifier: Notifier[Any]) -> None:
        self._notifier = notifier
        self._parts: Mapping[str, str] = {}
        self._until = float("-inf")
        self._lock = anyio.Lock()

    async def parts(self) -> Mapping[str, str]:
        """Return the outcome for each part: `"ok"`, or what is wrong.

        Raises:
            ClosedError: the notifier is closed.
        Cancellation: the next caller checks again.
        Concurrency: callers wait for the check that is running and share its verdict.
        Cost: one `Notifier.check` a second.
        """
        if time.monotonic() >= self._until:
            async with self._lock:
                await self._check()
        return self._parts

    async def _check(self) -> None:
        if time.monotonic() >= self._until:  # keeps I1: another caller may have checked
            self._parts = (await self._notifier.check()).parts
            self._until = time.monotonic() + KEPT
