"""Presence checks of pushes: concurrent pushes share one query, in a task that the notifier owns."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import anyio

from .._runtime._background import Background
from .._runtime._loop_guard import LoopGuard
from .._runtime._stats import Counters
from .._runtime._waking import Waiter, wake
from ..abc import ImmediatePresence, PresenceTracker, RoutingInfo, ability

logger = logging.getLogger("notify")

LOCATED_AT_ONCE = 1000


class Check:
    """One pending presence check; `locations` stays None if it fails, which counts as online everywhere."""

    __slots__ = ("locations", "user", "waiter")

    def __init__(self, user: str, waiter: Waiter) -> None:
        self.user = user
        self.waiter = waiter
        self.locations: Sequence[RoutingInfo] | None = None


class Locator:
    """Asks the presence tracker where users are. A tracker that fails or hangs delays a push by `timeout` at most."""

    def __init__(
        self,
        tracker: PresenceTracker,
        *,
        timeout: float,
        background: Background,
        guard: LoopGuard,
        counters: Counters,
    ) -> None:
        self._tracker = tracker
        self._immediate = (
            tracker if ability(tracker, ImmediatePresence, register_nowait="register", locate_nowait="locate") else None
        )
        self._timeout = timeout
        self._background = background
        self._guard = guard
        self._counters = counters
        self._queue: list[Check] = []
        self._draining = False

    async def locate(self, user: str) -> Sequence[RoutingInfo] | None:
        """Return where the user is connected (empty: offline); None if that is unknown."""
        if self._immediate is not None:
            return self._locate_nowait(self._immediate, user)
        check = Check(user, self._guard.new_waiter())
        self._queue.append(check)
        if not self._draining:
            self._draining = True
            self._background.start(self._drain)
        await check.waiter
        return check.locations

    async def locate_many(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]] | None:
        """Return where these users are connected, without the offline ones; None if that is unknown."""
        located: dict[str, Sequence[RoutingInfo]] = {}
        try:
            for start in range(0, len(users), LOCATED_AT_ONCE):
                with anyio.fail_after(self._timeout):
                    located.update(await self._tracker.locate(users[start : start + LOCATED_AT_ONCE]))
        except Exception as error:
            self._failed(error)
            return None
        return located

    async def _drain(self) -> None:
        checks: list[Check] = []
        try:
            while self._queue:
                checks, self._queue = self._queue, []
                located = await self.locate_many(list({check.user: None for check in checks}))
                for check in checks:
                    check.locations = None if located is None else located.get(check.user, ())
                    wake(check.waiter)
        finally:
            self._draining = False
            for check in [*checks, *self._queue]:  # some are left only if the notifier is closed
                wake(check.waiter)

    def _locate_nowait(self, presence: ImmediatePresence, user: str) -> Sequence[RoutingInfo] | None:
        try:
            return presence.locate_nowait((user,)).get(user, ())
        except Exception as error:
            self._failed(error)
            return None

    def _failed(self, error: Exception) -> None:
        self._counters.presence_failures += 1
        logger.warning("the presence check failed, so users count as online: %r", error)
