"""Saving: what comes while two batches are under way makes up the next one."""

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
"""Events to a statement."""

BATCH_BYTES: Final = 1 << 20
"""Bytes of payload to a statement; one event more."""

IN_FLIGHT: Final = 2
"""Batches under way: one is computed while the other waits for the disk."""

HALVED: Final = 100
"""A `save_many` of more events is two statements, if no user is in both."""

LOCK_WAIT: Final = 0.1
"""Seconds that a batch waits for a log which somebody else's transaction holds; then that log's events wait alone."""

MAX_LOCK_WAITERS: Final = 2
"""Logs that are waited for alone at one time."""

CLOSED: Final = "the store was closed meanwhile; the event may be stored"


class PendingSave:
    """One event on its way."""

    __slots__ = ("done", "event", "is_queued", "is_resolved", "until")

    def __init__(self, event: Event, until: float, done: Done, *, is_queued: bool) -> None:
        self.event = event
        self.until = until
        self.done = done
        self.is_queued = is_queued
        self.is_resolved = False


class PostgresSaver:
    """Saves events.

    Invariants:
        I1. `done` of each save is called once: within the timeout, or when the store closes.
        I2. No two batches that come from the queue and are under way have a user in common: so the saves of one user
            keep their order, and our own batches do not wait for each other's locks.

    Args:
        db: where.
        background: whose tasks save.
        max_len: events kept for each user.
        key_window: seconds within which a key counts.
        on_stored: called with the events of a batch that are new, before any caller knows.
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
        self._free = db.names.sql("free_heads")
        self._queue: deque[PendingSave] = deque()
        self._busy: set[str] = set()
        self._draining = 0
        self._patient = asyncio.Semaphore(MAX_LOCK_WAITERS)

    def save_soon(self, event: Event, done: Done) -> None:
        """Queue an event; `done` is called with its outcome. Never waits."""
        self._queue.append(PendingSave(event, time.monotonic() + self._db.timeout, done, is_queued=True))
        if event.user not in self._busy:
            self._start()

    def close(self) -> None:
        """Tell whoever still waits that nothing was sent; called when no task of ours runs any more. Keeps I1."""
        while self._queue:
            self._queue.popleft().done(ClosedError("the store was closed; nothing was sent"))

    def _start(self) -> None:
        if self._draining < IN_FLIGHT and not self._background.closed:
            self._draining += 1
            self._background.start(self._drain)

    async def save_many(self, events: Sequence[Event], done: Callable[[Sequence[Outcome]], None]) -> None:
        """Save these events, and call `done` once with an outcome for each; runs in a task of ours."""
        outcomes: Sequence[Outcome] = ()
        until = time.monotonic() + self._db.timeout
        half = len(events) // 2 if len(events) > HALVED else 0
        parts = [events[:half], events[half:]]
        if not {event.user for event in parts[0]}.isdisjoint(event.user for event in parts[1]):
            parts = [events]  # the order of one user's events is theirs
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._at_once(part, until)) for part in parts if part]
            outcomes = [outcome for task in tasks for outcome in task.result()]
        finally:
            done(outcomes or [self._uncertain(CLOSED)] * len(events))

    async def _at_once(self, events: Sequence[Event], until: float) -> Sequence[Outcome]:
        """Save a batch in one statement, or where others hold a log, in several."""
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
        for group in await self._divide(saves):
            self._background.start(self._wait_for, group)
        await finished.wait()
        return [outcomes[number] for number in range(len(events))]

    async def save_in(self, event: Event, connection: Any) -> Event:
        """Save an event in the caller's transaction, with his patience and his cancellation."""
        row = await connection.fetchrow(self._save, None, None, False, 0, *self.limits, *columns([event]))
        if row["ns"]:
            return event.stored(ids.unpack(row["ids"][0]), ids.unpack(row["prevs"][0]))
        known = await connection.fetch(self._known, [event.user], row["known_ids"])
        return self._first([event], row, known)[0]

    # -- batches -------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        try:
            while saves := self._take():
                await self._process(saves)
        finally:
            self._draining -= 1

    def _take(self) -> list[PendingSave]:
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
        """Save a batch. Where others hold a log, its events are left to a task of their own, the rest to another."""
        ours = saves
        try:
            if not await self._finish(saves, LOCK_WAIT):  # pragma: no branch - CPython 3.11 does not trace the way on
                groups = await self._divide(saves)
                for group in groups:
                    self._background.start(self._wait_for, group)
                ours = []
        finally:
            self._tell(ours, [])

    async def _wait_for(self, saves: list[PendingSave]) -> None:
        try:
            async with self._patient:
                await self._finish(saves, None)
        finally:
            self._tell(saves, [])

    async def _divide(self, saves: list[PendingSave]) -> list[list[PendingSave]]:
        """Return the saves whose logs can be had at once, and those of each other log."""
        try:
            rows = await self._db.fetch(self._free, list({save.event.user for save in saves}))
        except NotifyError:
            rows = []
        free = {row["user_id"] for row in rows}
        groups: dict[str | None, list[PendingSave]] = {}
        for save in saves:
            groups.setdefault(None if save.event.user in free else save.event.user, []).append(save)
        return [*groups.values()]

    async def _finish(self, saves: list[PendingSave], wait: float | None) -> bool:
        """Save a batch and tell everybody; return whether it could be locked."""
        try:
            until = min(save.until for save in saves)
            outcomes = await self._outcomes([save.event for save in saves], until, wait)
        except LogLockedError:
            return False
        self._tell(saves, outcomes)
        return True

    def _tell(self, saves: Sequence[PendingSave], outcomes: Sequence[Outcome]) -> None:
        """Tell outcomes to whoever was not told yet: where there are none, that the store was closed; keeps I1."""
        for save, outcome in zip_longest(saves, outcomes):
            if save.is_resolved:
                continue
            save.is_resolved = True
            if save.is_queued:
                self._busy.discard(save.event.user)
            save.done(outcome or self._uncertain(CLOSED))
        if self._queue:
            self._start()

    async def _outcomes(self, events: Sequence[Event], until: float, wait: float | None) -> Sequence[Outcome]:
        try:
            row = await PostgresRetries(self._db, self._save, self.limits, events, until).run(wait)
        except UsageError as error:
            return [error] * len(events)
        except AttemptsFailedError as failed:
            if failed.is_unknown:
                return [uncertain(failed.error, self._db.backend)] * len(events)
            if is_about_data(failed.error) and len(events) > 1:
                half = len(events) // 2
                return [
                    *await self._outcomes(events[:half], until, None),
                    *await self._outcomes(events[half:], until, None),
                ]
            return [rejected(failed.error, self._db.backend)] * len(events)
        stored = {
            number: events[number - 1].stored(f"{id_ >> BITS}-{id_ & MASK}", ids.unpack(prev))  # in place: many of them
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
        first = dict(zip(numbers, self._first(events, row, known), strict=True))
        gone = self._uncertain("an earlier attempt has stored it, and it has been trimmed since")
        return [stored.get(number) or first.get(number) or gone for number in range(1, len(events) + 1)]

    def _first(self, events: Sequence[Event], row: Any, known: Sequence[Any]) -> list[Event]:
        """Return the first event of each repeated key; where it was trimmed, the repeated one under its id."""
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
