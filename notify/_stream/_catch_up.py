"""Finding events that no offer announced: on request, and by the one auditor that each log has.

Every live path may lose an offer: a connection breaks, a message is dropped, a process saves without telling others.
This module compares the logs with the newest position that each user's ring knows, for hundreds of users per query.
While the live path is known not to receive, the auditor looks every second instead of every `audit_interval`.
"""

from __future__ import annotations

import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import anyio
import anyio.lowlevel

from .._runtime._background import Background
from .._runtime._outage_log import OutageLog
from .._runtime._receive_loop import Receive, ReceiveLoop
from .._runtime._stats import Counters
from .._runtime._waking import Waiter, wake
from ..abc import Page, ReadMany, Store, ability
from ..errors import ClosedError
from ._hub import StreamHub
from ._reads import checked_page
from ._stream_set import StreamSet

logger = logging.getLogger("notify")

AUDIT_INTERVAL: Final = 30.0
"""Seconds between two audits, unless a notifier asks for a shorter interval."""

NOT_RECEIVING_INTERVAL: Final = 1.0
"""Seconds between two audits while new events are not received."""

OPENING_DELAY: Final = 0.05
"""Seconds after which users whose streams were still opening are checked again: their first read may be too early."""

CHUNK: Final = 500
"""Users per query."""

TURN: Final = 10
"""Users checked in one go if the store answers at once: each takes 1.5 to 5 µs, and events wait until all are checked.

With 50 of them, the 99th percentile of the latency for 5,000 users was a seventh longer.
"""


class CatchUp:
    """Catches up and audits, from the first open stream until the background of the log is closed.

    Args:
        hub: the streams to offer events to.
        store: read from; None for a notifier without one, which has nothing to look for.
        background: runs the tasks of this object.
        counters: where failed reads are counted.
        read_timeout: seconds that one query may take.
        listen: a function that receives from other processes, if any.
        is_receiving: returns whether other processes' events are being received, if the store knows without `listen`.

    Attributes:
        is_busy: whether users are still to be looked at.
    """

    def __init__(
        self,
        hub: StreamHub,
        store: Store | None,
        *,
        background: Background,
        counters: Counters,
        read_timeout: float,
        listen: Receive | None,
        is_receiving: Callable[[], bool] | None,
    ) -> None:
        self._hub = hub
        self._store = store
        self._background = background
        self._counters = counters
        self._timeout = read_timeout
        self._read_many: ReadMany | None = store if ability(store, ReadMany, read_many="read") else None
        self._loop: ReceiveLoop | None = None
        if listen is not None:
            silent = OutageLog(
                logger,
                f"{hub.name} does not receive new events, so it polls for them every second",
                f"{hub.name} receives new events again",
            )
            self._loop = ReceiveLoop(listen, silent, self._reception_changed, patience=read_timeout)
            loop = self._loop
            is_receiving = lambda: loop.is_receiving  # noqa: E731 - as if it had been passed in
        self._is_receiving = is_receiving
        self._failing = OutageLog(
            logger,
            f"{hub.name} cannot be searched for missed events",
            f"{hub.name} can be searched for missed events again",
        )
        self._wanted = OrderedDict[str, None]()
        self._opening: dict[str, None] = {}
        self._waiter: Waiter | None = None  # of the task that catches up
        self._alarm: Waiter | None = None  # of the auditor
        self._delay = OPENING_DELAY  # grows while the same users stay unknown: their readers may be away
        self._started = self._revisiting = self._ended = False
        self.is_busy = False

    @property
    def _chunk(self) -> int:
        return CHUNK if self._hub.immediate is None else TURN

    @property
    def is_receiving(self) -> bool:
        """Whether other processes' events are known to be received; True if there is nothing to receive."""
        return self._is_receiving is None or self._is_receiving()

    def join(self, stream_set: StreamSet) -> None:
        """Add a set of streams, with the audit interval that it asks for."""
        self._hub.sets.append(stream_set)
        wake(self._alarm)

    def start(self) -> None:
        """Start listening and auditing, at the first open stream."""
        if not self._started and self._store is not None:
            self._started = True
            self._waiter, self._alarm = self._hub.guard.new_waiter(), self._hub.guard.new_waiter()
            self._background.start(self._catch_up_forever)
            self._background.start(self._audit_forever)
            if self._loop is not None:
                self._background.start(self._loop.run)

    def request(self, users: Iterable[str] | None = None) -> None:
        """Soon look for new events of these users, or of all, as far as they have open streams. Never waits."""
        known = self._hub.users
        self._wanted.update(dict.fromkeys(known if users is None else [user for user in users if user in known]))
        if self._wanted:
            self.is_busy = True
            wake(self._waiter)

    def _reception_changed(self) -> None:
        if self.is_receiving:
            self.request()
        else:
            wake(self._alarm)

    async def _catch_up_forever(self) -> None:
        """Check the requested users; one task serves all requests, since wake messages may come in large numbers."""
        assert self._waiter is not None
        try:
            while not self._ended:
                while self._wanted:
                    await self._catch_up_some()
                self.is_busy = False
                await self._waiter
        except ClosedError:
            self._end()

    async def _catch_up_some(self) -> None:
        users = [self._wanted.popitem(last=False)[0] for _ in range(min(self._chunk, len(self._wanted)))]
        known = self._known(users)
        if len(known) < len(users):
            opening = [user for user in users if user in self._hub.users and user not in known]
            if opening:
                self._revisit(opening)
        try:
            await self._look(known)
        except ClosedError:
            raise
        except Exception as error:
            self._note_failure(error)
            for user in known:
                self._hub.resync(user)

    def _revisit(self, users: Iterable[str]) -> None:
        """Check these users again in a moment: their streams are still opening."""
        self._opening.update(dict.fromkeys(users))
        if not self._revisiting:
            self._revisiting = True
            self._background.start(self._request_again)

    async def _request_again(self) -> None:
        await anyio.sleep(self._delay)
        self._revisiting = False
        users, self._opening = self._opening, {}
        self._delay = OPENING_DELAY if self._known(users) else min(2 * self._delay, NOT_RECEIVING_INTERVAL)
        self.request(users)

    # -- auditing ------------------------------------------------------------------------------------------------

    async def _audit_forever(self) -> None:
        """Audit again and again; the sleep ends early when the interval may have become shorter."""
        assert self._alarm is not None
        last, part = anyio.current_time(), _random_part()
        while not self._ended:
            try:
                with anyio.move_on_after(self._pause(last + part * self._interval())):
                    await self._alarm
                if anyio.current_time() < last + part * self._interval() and self.is_receiving:
                    continue
                last, part = anyio.current_time(), _random_part()
                await self.audit()
            except ClosedError:
                self._end()
            except Exception as error:
                last = anyio.current_time()
                self._note_failure(error)

    def _pause(self, due: float) -> float:
        """Return the seconds until an audit is due, or until the live path, which may fail, is checked again."""
        pause = max(0.0, due - anyio.current_time())
        return pause if self._is_receiving is None else min(pause, NOT_RECEIVING_INTERVAL)

    def _interval(self) -> float:
        """Return the smallest interval that the open sets of streams ask for."""
        asked = [each.audit_interval for each in self._hub.sets if each.audit_interval is not None and not each.closed]
        return min(asked, default=AUDIT_INTERVAL)

    def _end(self) -> None:
        """Stop looking: the store is closed. Each stream reads, gets the same error and ends."""
        self._ended = True
        self._hub.resync()
        wake(self._waiter)

    async def audit(self) -> None:
        """Look once at every user with open streams."""
        users, chunk = list(self._hub.users), self._chunk
        for start in range(0, len(users), chunk):
            await self._look(self._known(users[start : start + chunk]))

    def _note_failure(self, error: Exception) -> None:
        self._counters.read_failures += 1
        self._failing.failed(repr(error))

    # -- looking -------------------------------------------------------------------------------------------------

    def _known(self, users: Iterable[str]) -> dict[str, str]:
        """Return the newest known position of each of these users that has one."""
        rings = {user: self._hub.users.get(user) for user in users}
        return {user: ring.last_id for user, ring in rings.items() if ring is not None and ring.last_id is not None}

    async def _look(self, known: Mapping[str, str]) -> None:
        """Compare these positions with the log; offer what is new, or make the streams read."""
        immediate = self._hub.immediate
        if immediate is not None:
            for user, position in known.items():
                self._compare(user, position, immediate.head_nowait(user))
            await anyio.lowlevel.checkpoint()
        elif self._read_many is not None:
            if known:
                pages: Mapping[str, Page] | None = None
                with anyio.move_on_after(self._timeout):  # `fail_after` takes half as long again
                    pages = await self._read_many.read_many(known, self._hub.buffer_size)
                if pages is None:
                    raise TimeoutError
                self._take({user: _checked(user, pages[user]) for user in known if user in pages})
        else:
            for user, position in known.items():
                with anyio.fail_after(self._timeout):
                    page = await self._hub.fetch(user, None)
                self._compare(user, position, page.position)
        if known:
            self._failing.recovered()

    def _take(self, pages: Mapping[str, Page]) -> None:
        for user, page in pages.items():
            streams = self._hub.users.get(user)
            if streams is None:
                continue
            if page.gap is not None or len(page.events) >= self._hub.buffer_size:  # there may be more to read
                streams.resync()
                continue
            for event in page.events:
                streams.offer(event)

    def _compare(self, user: str, position: str, head: str) -> None:
        streams = self._hub.users.get(user)
        if streams is not None and head != position and streams.last_id == position:
            streams.resync()


def _checked(user: str, page: Page) -> Page:
    """Refuse what is not a page of this user's log."""
    checked_page(page)
    if any(event.user != user for event in page.events):
        raise TypeError(f"read_many() returned events of another user for {user!r}")
    return page


def _random_part() -> float:
    """Return which part of the interval passes until the next audit, so that processes do not audit in step."""
    return random.uniform(0.6, 0.95)
