"""A store in the memory of one process: the reference implementation, written to be read.

This is what a store has to do, without a database in the way. A log is a list of events with growing ids. Each event
knows the id of the one before it (`prev`), which lets a reader prove that it has missed nothing. Three options bound
what is kept: a number of events, an age, and a time during which a repeated idempotency key stores nothing.

No method waits for anything, so none can be interrupted halfway and nothing needs a lock. Only `trim` and `sweep`,
which look at every user, let others run between two steps. The plain methods of `Store` call those of `Immediate`,
which do the work.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import ClassVar, Final, Self

import anyio.lowlevel

from notify import Event, Guarantees, Page, ids
from notify.adapters import LoopGuard, Retention
from notify.errors import ClosedError, NotifyError
from notify.event import NO_META
from notify.inbox.abc import CHANGES, ITEM

from ._inbox import MemoryInboxes

_REMOVED: Final = Event("-", "removed")

SWEPT: Final = 100
"""How many logs one step of a pass over all of them looks at: a step must not delay what else the loop has to do."""

_NO_KEYS: Final[dict[str, Event]] = {}
"""Shared by the logs without idempotency keys; never changed."""


class MemoryLog(list[Event]):
    """The log of one user: the retained events begin at index `start`; the slots before it await removal.

    It is a list itself instead of having one, because the garbage collector visits each such object of every user.

    Attributes:
        start: index of the first retained event.
        last_id: id of the last event ever appended, retained or not.
        keys: the first event of each idempotency key, oldest first.
    """

    __slots__ = ("keys", "last_id", "start")

    def __init__(self) -> None:
        self.start = 0
        self.last_id = ids.ZERO
        self.keys = _NO_KEYS

    def remove_before(self, index: int) -> int:
        """Remove every retained event before this index and return how many.

        Deleting from the front moves the rest of the list, which would make each push to a full log slow. So the events
        are released at once, but their slots only once they make up half of the list.
        """
        count = index - self.start
        self[self.start : index] = [_REMOVED] * count
        self.start = index
        if index * 2 > len(self):
            del self[:index]
            self.start = 0
        return count


class MemoryStore(MemoryInboxes):
    """Keeps events in this process; they are gone when it ends. One event loop, asyncio or trio.

    It needs none, but refuses a second one as every backend does, so that a mistake shows in tests. The methods of
    `Immediate` also work where no event loop runs.

    Invariants:
        I1. The ids that the store assigns grow, over all users: if a log is forgotten and begins again, its new ids are
            greater than all that it had before.
        I2. Each event's `prev` is the id of the event appended before it, retained or not.

    Args:
        max_len: events kept for each user; the oldest are removed first.
        max_age: seconds that events are kept; None: until `max_len` or `trim` removes them. A log whose last event is
            twice as old is forgotten.
        key_window: seconds within which a repeated idempotency key returns the first event, for the last `max_len`
            events with a key of each user.
        clock: returns seconds since 1970.

    Raises:
        UsageError: an argument is not greater than 0.
    """

    guarantees: ClassVar = Guarantees()

    def __init__(
        self,
        *,
        max_len: int = 1000,
        max_age: float | None = 7 * 86_400.0,
        key_window: float = 86_400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        Retention(max_len, max_age, key_window)  # checks the values
        self._max_len = max_len
        self._max_age_ms = None if max_age is None else int(max_age * 1000)
        self._key_window_ms = int(key_window * 1000)
        self._clock = clock
        self._logs: dict[str, MemoryLog] = {}
        self._last_ms = self._sequence = 0
        self._next_sweep = 0
        self._unswept: list[str] = []
        self._closed = False
        self._guard = LoopGuard(type(self).__name__)

    # -- Store ---------------------------------------------------------------------------------------------------

    async def save(self, event: Event) -> Event:
        """See `notify.abc.Store.save`."""
        self._guard.check()
        return self.save_nowait(event)

    async def read(self, user: str, after: str, limit: int) -> Page:
        """See `notify.abc.Store.read`."""
        return self.read_nowait(user, after, limit)

    async def head(self, user: str) -> str:
        """See `notify.abc.Store.head`."""
        return self.head_nowait(user)

    async def trim(self, before: datetime | str) -> int:
        """See `notify.abc.Store.trim`."""
        self._check_open()
        if isinstance(before, datetime):  # the position before that time: an event with this very id is older
            find, bound = bisect_right, ids.parse(ids.before(before))
        else:
            find, bound = bisect_left, ids.parse(before)
        removed = 0
        for number, log in enumerate([*self._logs.values()], 1):
            removed += log.remove_before(find(log, bound, log.start, key=_number))
            if number % SWEPT == 0:
                await anyio.lowlevel.checkpoint()
        return removed

    async def aclose(self) -> None:
        """See `notify.abc.Store.aclose`."""
        self._guard.check_closing()
        self._closed = True
        self._next_sweep = 0  # makes the next save notice that the store is closed
        self._logs.clear()
        self._unswept.clear()
        self._inboxes.clear()

    async def __aenter__(self) -> Self:
        """Return the store; there is nothing to prepare."""
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    # -- SaveMany, ReadMany --------------------------------------------------------------------------------------

    async def save_many(self, events: Sequence[Event]) -> Sequence[Event | NotifyError]:
        """See `notify.abc.SaveMany.save_many`."""
        self._check_open()
        return [self.save_nowait(event) for event in events]

    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        """See `notify.abc.ReadMany.read_many`."""
        self._check_open()
        pages = {user: self.read_nowait(user, position, limit) for user, position in after.items()}
        return {user: page for user, page in pages.items() if page.events or page.gap}

    # -- Immediate -----------------------------------------------------------------------------------------------

    def save_nowait(self, event: Event) -> Event:
        """See `notify.abc.Store.save`."""
        now = int(self._clock() * 1000)
        if now >= self._next_sweep:
            self._sweep(now)
        log = self._logs.get(event.user)
        if log is None:
            log = self._logs[event.user] = MemoryLog()
        key = event.key
        if key is not None:
            first = self._first_with_key(log, key, now)
            if first is not None:
                return first
        if now > self._last_ms:
            # Once a millisecond: each time would cost a third of the save, and a notifier has asked its own guard.
            self._guard.check_if_running()
            self._last_ms, self._sequence = now, 0
        else:
            self._sequence += 1  # keeps I1, even while the clock is behind
        id_ = f"{self._last_ms}-{self._sequence}"
        stored = event.stored(id_, log.last_id)  # keeps I2
        log.last_id = id_
        log.append(stored)
        if len(log) > self._max_len and len(log) - log.start > self._max_len:  # the first suffices for most logs
            log.remove_before(log.start + 1)
        if key is not None:
            if log.keys is _NO_KEYS:
                log.keys = {}
            log.keys[key] = stored
        if stored.type in CHANGES or (stored.meta is not NO_META and ITEM in stored.meta):
            self._inboxes.apply(stored, now)
        return stored

    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        """See `notify.abc.Store.read`."""
        self._check_open()
        log = self._logs.get(user)
        if log is None:
            return Page.of((), after, ids.ZERO)
        self._remove_expired(log, int(self._clock() * 1000))
        first = bisect_right(log, ids.parse(after), log.start, key=_number)
        events = log[first : first + limit]
        return Page.of(events, after, log.last_id, expired=not events and self._is_expired(log.last_id))

    def head_nowait(self, user: str) -> str:
        """See `notify.abc.Store.head`."""
        self._check_open()
        log = self._logs.get(user)
        return ids.ZERO if log is None else log.last_id

    # -- Forget, Prepare -----------------------------------------------------------------------------------------

    async def forget(self, user: str) -> int:
        """See `notify.abc.Forget.forget`."""
        self._check_open()
        log = self._logs.pop(user, None)
        self._inboxes.forget(user)
        return 0 if log is None else len(log) - log.start

    async def prepare(self) -> None:
        """See `notify.abc.Prepare.prepare`: there is nothing to create."""
        self._check_open()

    def script(self) -> str:
        """See `notify.abc.Prepare.script`: it is empty."""
        return ""

    # -- retention -----------------------------------------------------------------------------------------------

    def _first_with_key(self, log: MemoryLog, key: str, now: int) -> Event | None:
        """Return the first event with this key, after removing the keys that have lapsed."""
        keys = log.keys
        while keys:
            oldest = next(iter(keys))
            if len(keys) <= self._max_len and ids.parse(keys[oldest].id)[0] > now - self._key_window_ms:
                break
            del keys[oldest]
        return keys.get(key)

    def _remove_expired(self, log: MemoryLog, now: int) -> None:
        if self._max_age_ms is None:
            return
        horizon = (now - self._max_age_ms, 0)
        if log.start < len(log) and _number(log[log.start]) < horizon:
            log.remove_before(bisect_left(log, horizon, log.start, key=_number))

    def _is_expired(self, last_id: str) -> bool:
        now = int(self._clock() * 1000)
        return self._max_age_ms is not None and ids.parse(last_id)[0] < now - self._max_age_ms

    def _sweep(self, now: int) -> None:
        """Remove events past `max_age` from the next `SWEPT` logs, and forget those that have long been empty.

        A pass over a million users at once would take a second, so each save takes a step until the pass is complete.
        One begins sixteen times within `max_age`, at most. In between, reads hide such events.
        """
        self._check_open()
        if self._max_age_ms is None:
            self._next_sweep = now + 86_400_000
            return
        if not self._unswept:
            self._unswept = [*self._logs]
        for user in self._unswept[-SWEPT:]:
            log = self._logs.get(user)
            if log is None:  # forgotten since the pass began
                continue
            self._remove_expired(log, now)
            if not log and ids.parse(log.last_id)[0] < now - 2 * self._max_age_ms:
                del self._logs[user]
        del self._unswept[-SWEPT:]
        self._next_sweep = 0 if self._unswept else now + max(1000, self._max_age_ms // 16)

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _end(self, user: str) -> str:
        log = self._logs.get(user)
        return ids.ZERO if log is None else log.last_id

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the {type(self).__name__} is closed")
        self._guard.check_if_running()


def _number(event: Event) -> tuple[int, int]:
    """Return the id as numbers, by which logs are sorted. This store made it, so it is not checked."""
    ms, sequence = event.id.split("-")
    return int(ms), int(sequence)
