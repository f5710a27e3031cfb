"""Saves events: those that arrive while two batches are in flight form the next batch.

One statement appends a whole batch, so that one commit, which waits for the disk, is shared by many pushes. Each user's
row in the table of heads is locked until the commit: the order of commits is the order of ids. (A sequence hands out
ids before the commit, so a reader could move past an id that becomes visible later.) Every batch locks its users in the
same order, so batches never deadlock with each other.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, Final, TypeAlias

from notify import Background, Event, NotifyError, ids
from notify.errors import ClosedError, PushUncertainError, UsageError

from ._connection import PostgresDatabase
from ._errors import is_about_data, rejected, uncertain
from ._record import BITS, MASK, columns, event_of
from ._retry import AttemptsFailedError, LogLockedError, PostgresRetries

Outcome: TypeAlias = Event | NotifyError
Done: TypeAlias = Callable[[Outcome], None]

BATCH: Final = 200
"""Events per statement. Larger batches are slower: with 500, each event took twice as long as with 100."""

BATCH_BYTES: Final = 1 << 20
"""Bytes of payload per statement; the last event may exceed it."""

IN_FLIGHT: Final = 2
"""Batches in flight: the server computes one while the other waits for the disk."""

SPLIT_ABOVE: Final = 100
"""A `save_many` of more events becomes two statements, unless a user would be in both."""

LOCK_WAIT: Final = 0.1
"""Seconds that a batch waits for a log which another transaction holds; then the events of that log wait separately."""

MAX_LOCK_WAITERS: Final = 2
"""Locked logs that are waited for at the same time; each wait occupies a connection."""

CLOSED: Final = "the store was closed during the save; the event may be stored"


class PendingSave:
    """One event that is being saved."""

    __slots__ = ("done", "event", "is_queued", "is_resolved", "until")

    def __init__(self, event: Event, until: float, done: Done, *, is_queued: bool) -> None:
        self.event = event
        self.until = until
        self.done = done
        self.is_queued = is_queued
        self.is_resolved = False


class PostgresSaver:
    """Saves events in batches.

    Invariants:
        I1. `done` of each save is called once: within the timeout, or when the store closes.
        I2. No two batches from the queue that are in flight have a user in common: the saves of one user keep their
            order, and our batches do not wait for each other's locks.

    Args:
        db: the database.
        background: its tasks save.
        max_len: events kept for each user.
        key_window: seconds within which a repeated key returns the first event.
        on_stored: called with the new events of a batch, before any caller gets its outcome.
    """

    def __init__(
        self,
        db: PostgresDatabase,
        background: Background,
        *,
        max_len: int,
        key_window: float,
        on_stored: Callable[[list[Event]], None],
    ) -> None:
        self._db = db
        self._background = background
        self.limits = (max_len, int(key_window * 1000))
        self._on_stored = on_stored
        self._save = db.names.sql("save")
        self._known = db.names.sql("events_by_id")
        self._unlocked = db.names.sql("unlocked_heads")
        self._queue: deque[PendingSave] = deque()
        self._busy: set[str] = set()
        self._draining = 0
        self._lock_waiters = asyncio.Semaphore(MAX_LOCK_WAITERS)

    def save_soon(self, event: Event, done: Done) -> None:
        """Queue an event; `done` is called with its outcome. Never waits."""
        self._queue.append(PendingSave(event, time.monotonic() + self._db.timeout, done, is_queued=True))
        if event.user not in self._busy:
            self._start()

    def close(self) -> None:
        """Resolve what is still queued; called after all tasks of the store have ended. Keeps I1."""
        while self._queue:
            self._queue.popleft().done(ClosedError("the store was closed; nothing was sent"))

    def _start(self) -> None:
        if self._draining < IN_FLIGHT and not self._background.closed:
            self._draining += 1
            self._background.start(self._drain)

    async def save_many(self, events: Sequence[Event], done: Callable[[Sequence[Outcome]], None]) -> None:
        """Save these events, and call `done` once with an outcome for each; runs in a background task."""
        outcomes: Sequence[Outcome] = ()
        until = time.monotonic() + self._db.timeout
        half = len(events) // 2 if len(events) > SPLIT_ABOVE else 0
        parts = [events[:half], events[half:]]
        if not {event.user for event in parts[0]}.isdisjoint(event.user for event in parts[1]):
            parts = [events]  # two statements could store the events of one user in the wrong order
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._save_part(part, until)) for part in parts if part]
            outcomes = [outcome for task in tasks for outcome in task.result()]
        finally:
            done(outcomes or [self._uncertain(CLOSED)] * len(events))

    async def _save_part(self, events: Sequence[Event], until: float) -> Sequence[Outcome]:
        """Save a batch in one statement, or in several if other transactions hold some of the logs."""
        try:
            return await self._outcomes(events, until, LOCK_WAIT)
        except LogLockedError:
            pass
        outcomes: dict[int, Outcome] = {}
        finished = asyncio.Event()

        def note(number: int, outcome: Outcome) -> None:
            outcomes[number] = outcome
            if len(outcomes) == len(events):
                finished.set()

        saves = [
            PendingSave(event, until, partial(note, number), is_queued=False) for number, event in enumerate(events)
        ]
        for group in await self._split_by_lock(saves):
            self._background.start(self._wait_for_lock, group)
        await finished.wait()
        return [outcomes[number] for number in range(len(events))]

    async def save_in(self, event: Event, connection: Any) -> Event:
        """Save an event in the caller's transaction, in the caller's task and with the connection's own timeout."""
        row = await connection.fetchrow(self._save, None, None, False, 0, *self.limits, *columns([event]))
        if row["ns"]:
            return event.stored(ids.unpack(row["ids"][0]), ids.unpack(row["prevs"][0]))
        known = await connection.fetch(self._known, [event.user], row["known_ids"])
        return self._first_events([event], row, known)[0]

    # -- batches -------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        try:
            while saves := self._take_batch():
                await self._process(saves)
        finally:
            self._draining -= 1

    def _take_batch(self) -> list[PendingSave]:
        """Take the next batch out of the queue; keeps I2."""
        saves: list[PendingSave] = []
        left: list[PendingSave] = []
        size = 0
        while self._queue and len(saves) < BATCH and size < BATCH_BYTES:
            save = self._queue.popleft()
            if save.event.user in self._busy:
                left.append(save)
            else:
                saves.append(save)
                size += len(save.event.data)
        self._queue.extendleft(reversed(left))
        self._busy.update(save.event.user for save in saves)
        return saves

    async def _process(self, saves: list[PendingSave]) -> None:
        """Save a batch. If other transactions hold some of its logs, a separate task waits for each of those."""
        unresolved = saves
        try:
            if not await self._finish(saves, LOCK_WAIT):  # pragma: no branch - CPython 3.11 does not trace the way on
                groups = await self._split_by_lock(saves)
                for group in groups:
                    self._background.start(self._wait_for_lock, group)
                unresolved = []
        finally:
            self._resolve(unresolved, [])

    async def _wait_for_lock(self, saves: list[PendingSave]) -> None:
        try:
            async with self._lock_waiters:
                await self._finish(saves, None)
        finally:
            self._resolve(saves, [])

    async def _split_by_lock(self, saves: list[PendingSave]) -> list[list[PendingSave]]:
        """Return the saves whose logs are free as one group, and those of each other log as a separate group."""
        try:
            rows = await self._db.fetch(self._unlocked, list({save.event.user for save in saves}))
        except NotifyError:
            rows = []
        free = {row["user_id"] for row in rows}
        groups: dict[str | None, list[PendingSave]] = {}
        for save in saves:
            groups.setdefault(None if save.event.user in free else save.event.user, []).append(save)
        return [*groups.values()]

    async def _finish(self, saves: list[PendingSave], lock_wait: float | None) -> bool:
        """Save a batch and resolve it; return False if another transaction holds one of its logs."""
        try:
            until = min(save.until for save in saves)
            outcomes = await self._outcomes([save.event for save in saves], until, lock_wait)
        except LogLockedError:
            return False
        self._resolve(saves, outcomes)
        return True

    def _resolve(self, saves: Sequence[PendingSave], outcomes: Sequence[Outcome]) -> None:
        """Resolve the saves that are not resolved yet; one without an outcome was cut off by closing. Keeps I1."""
        for save, outcome in zip_longest(saves, outcomes):
            if save.is_resolved:
                continue
            save.is_resolved = True
            if save.is_queued:
                self._busy.discard(save.event.user)
            save.done(outcome or self._uncertain(CLOSED))
        if self._queue:
            self._start()

    async def _outcomes(self, events: Sequence[Event], until: float, lock_wait: float | None) -> Sequence[Outcome]:
        try:
            row = await PostgresRetries(self._db, self._save, self.limits, events, until).run(lock_wait)
        except UsageError as error:
            return [error] * len(events)
        except AttemptsFailedError as failed:
            if failed.is_unknown:
                return [uncertain(failed.error, self._db.backend)] * len(events)
            if is_about_data(failed.error) and len(events) > 1:  # find the event that the server rejects
                half = len(events) // 2
                return [
                    *await self._outcomes(events[:half], until, None),
                    *await self._outcomes(events[half:], until, None),
                ]
            return [rejected(failed.error, self._db.backend)] * len(events)
        stored = {
            # `ids.unpack` in place: a call for each of thousands of events a second is worth avoiding
            number: events[number - 1].stored(f"{id_ >> BITS}-{id_ & MASK}", ids.unpack(prev))
            for number, id_, prev in zip(row["ns"] or (), row["ids"] or (), row["prevs"] or (), strict=True)
        }
        self._on_stored([*stored.values()])
        if len(stored) == len(events):
            return [stored[number] for number in range(1, len(events) + 1)]
        return await self._with_known(events, row, stored)

    async def _with_known(self, events: Sequence[Event], row: Any, stored: dict[int, Event]) -> list[Outcome]:
        """Add the first events of repeated keys."""
        numbers = row["known_ns"] or ()
        try:
            known = await self._db.fetch(self._known, [events[n - 1].user for n in numbers], row["known_ids"] or ())
        except NotifyError as error:
            return [stored.get(number) or error for number in range(1, len(events) + 1)]
        first = dict(zip(numbers, self._first_events(events, row, known), strict=True))
        trimmed = self._uncertain("an earlier attempt stored the event, and it has been trimmed since")
        return [stored.get(number) or first.get(number) or trimmed for number in range(1, len(events) + 1)]

    def _first_events(self, events: Sequence[Event], row: Any, known: Sequence[Any]) -> list[Event]:
        """Return the first event of each repeated key; where that was trimmed, the repeated one with its id."""
        found = {(record["user_id"], record["id"]): record for record in known}
        first = []
        for number, id_, prev in zip(
            row["known_ns"] or (), row["known_ids"] or (), row["known_prevs"] or (), strict=True
        ):
            event = events[number - 1]
            record = found.get((event.user, id_))
            first.append(
                event.stored(ids.unpack(id_), ids.unpack(prev)) if record is None else event_of(event.user, record)
            )
        return first

    def _uncertain(self, message: str) -> PushUncertainError:
        return PushUncertainError(message, backend=self._db.backend)
