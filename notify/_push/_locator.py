"""Presence checks of pushes: concurrent pushes share one query, in a task that the notifier owns.

Answers are given in the order of the requests, and acted upon in the task that received them, not in the callers that
it wakes, because an event loop may wake those in any order. While the tracker is known to hang, nothing waits for it:
one check at a time finds out whether it answers again.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import anyio

from .._runtime._background import Background
from .._runtime._outage_log import OutageLog
from .._runtime._stats import Counters
from ..abc import ImmediatePresence, PresenceTracker, RoutingInfo, ability
from ._save import Locations

logger = logging.getLogger("notify")

LOCATED_AT_ONCE: Final = 1000
"""Users in one query."""

WAITING_AT_MOST: Final = 10_000
"""Requests that may wait for an answer; the answer to further ones is unknown, which means "online everywhere"."""


Request: TypeAlias = tuple[str, Callable[[Locations], None], bool]
"""The user, the callback for the answer, and whether the answer decides about a save."""


class Locator:
    """Asks the presence tracker where users are. A tracker that fails or hangs delays an answer by `timeout` at most.

    Invariant: a user is in `_pending` exactly while requests that decide about that user wait for an answer.
    """

    def __init__(self, tracker: PresenceTracker, *, timeout: float, background: Background, counters: Counters) -> None:
        self._tracker = tracker
        self._immediate = (
            tracker if ability(tracker, ImmediatePresence, register_nowait="register", locate_nowait="locate") else None
        )
        self._timeout = timeout
        self._background = background
        self._counters = counters
        name = type(tracker).__name__
        self._outage = OutageLog(
            logger,
            f"the presence check of {name} failed, so users count as online everywhere",
            f"the presence check of {name} works again",
        )
        self._queue: list[Request] = []
        self._pending: Counter[str] = Counter()
        self._draining = self._hangs = False

    @property
    def answers_at_once(self) -> bool:
        """Whether asking takes no time."""
        return self._immediate is not None

    def is_pending(self, user: str) -> bool:
        """Whether an earlier request that decides about this user waits for its answer."""
        return user in self._pending

    def request(self, user: str, then: Callable[[Locations], None], *, decides: bool = False) -> None:
        """Ask where the user is connected. Never waits.

        Args:
            user: the user.
            then: called with the answer (empty: offline), in the order of the requests; with None if it is unknown.
            decides: whether the answer decides if the event is stored; later requests of the user must not overtake it.
        """
        if self._immediate is not None:
            then(self._locate_nowait(self._immediate, user))
            return
        unknown = self._background.closed or len(self._queue) >= WAITING_AT_MOST
        if (unknown or self._hangs) and not (decides and user in self._pending):
            then(None)
            if unknown or self._draining:
                return
            then, decides = _ignore, False  # a check that finds out whether the tracker answers again
        if decides:
            self._pending[user] += 1
        self._queue.append((user, then, decides))
        if not self._draining:
            self._draining = True
            self._background.start(self._drain)

    async def locate_many(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]] | None:
        """Return where these users are connected, without the offline ones; None if that is unknown."""
        located: dict[str, Sequence[RoutingInfo]] = {}
        scope = anyio.CancelScope()
        try:
            for start in range(0, len(users), LOCATED_AT_ONCE):
                with anyio.fail_after(self._timeout) as scope:
                    located.update(await self._tracker.locate(users[start : start + LOCATED_AT_ONCE]))
        except Exception as error:
            self._hangs = scope.cancelled_caught
            self._failed(f"no answer within {self._timeout} s" if self._hangs else error)
            return None
        self._hangs = False
        self._outage.recovered()
        return located

    async def _drain(self) -> None:
        requests: deque[Request] = deque()
        try:
            while self._queue:
                requests, self._queue = deque(self._queue), []
                located = await self.locate_many(list(dict.fromkeys(user for user, _, _ in requests)))
                while requests:
                    self._answer(requests.popleft(), located)
        finally:
            self._draining = False
            requests.extend(self._queue)  # some are left only if the notifier is closed
            self._queue.clear()
            while requests:
                self._answer(requests.popleft(), None)

    def _answer(self, request: Request, located: Mapping[str, Sequence[RoutingInfo]] | None) -> None:
        user, then, decides = request
        if decides:
            self._pending[user] -= 1
            if not self._pending[user]:
                del self._pending[user]
        then(None if located is None else located.get(user, ()))

    def _locate_nowait(self, presence: ImmediatePresence, user: str) -> Locations:
        try:
            located = presence.locate_nowait((user,)).get(user, ())
        except Exception as error:
            self._failed(error)
            return None
        self._outage.recovered()
        return located

    def _failed(self, error: Exception | str) -> None:
        self._counters.presence_failures += 1
        if not self._outage.is_failing:
            self._outage.failed(error)


def _ignore(_locations: Locations) -> None:
    """Do nothing."""
