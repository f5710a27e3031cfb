"""Saves events: those that arrive while two large batches are in flight form the next one.

One statement appends a whole batch, so that one commit, which waits for the disk, is shared by many pushes. Each user's
row in the table of heads is locked until the commit: the order of commits is the order of ids. (A sequence hands out
ids before the commit, so a reader could move past an id that becomes visible later.) Every batch locks its users in the
same order, so batches never deadlock with each other.

Every save goes through one queue (`_queue`), which keeps the order of the calls for each user.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from notify import Background, Event, NotifyError, ids
from notify.errors import BackendUnavailableError, ClosedError, PushUncertainError, UsageError

from ._connection import PostgresDatabase
from ._errors import UnreachableError, is_about_data, rejected, uncertain
from ._inbox import Fetch, PostgresInbox
from ._queue import Done, Outcome, PendingSave, SaveQueue
from ._record import BITS, MASK, columns, event_of
from ._retry import AttemptsFailedError, LogLockedError, PostgresRetries

MAX_IN_FLIGHT: Final = 4
"""Batches that may be in flight at the same time, large ones included."""

MAX_LARGE: Final = 2
"""Large batches in flight, of more than `FEW` saves: the server computes one while the other waits for the disk."""

FEW: Final = 4
"""Single saves, at most, in a batch that is sent beside two large ones. If more wait, they share a later statement,
which is cheaper for each."""

LOCK_WAIT: Final = 0.1
"""Seconds that a batch waits for a log which another transaction holds; then the events of that log wait separately."""

MAX_LOCK_WAITERS: Final = 2
"""Locked logs that are waited for at the same time; each wait occupies a connection."""

CLOSED: Final = "the store was closed during the save; the event may be stored"


class PostgresSaver:
    """Saves events in batches.

    Invariants:
        I1. `done` of each save is called once: within the timeout, or when the store closes.
        I2. The users of a batch are released once all its saves of them are resolved (`SaveQueue`).

    Args:
        db: the database.
        background: its tasks save.
        max_len: events kept for each user.
        key_window: seconds within which a repeated key returns the first event.
        on_stored: called with the new events of a batch, before any caller gets its outcome.

    Attributes:
        limits: maximum length, and key window in milliseconds.
        inbox: applies what has an effect on an inbox.
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
        self.inbox = PostgresInbox(db, self.limits, on_stored)
        self._save = db.names.sql("save")
        self._known = db.names.sql("events_by_id")
        self._unlocked = db.names.sql("unlocked_heads")
        self._queue = SaveQueue()
        self._taken: dict[int, list[PendingSave]] = {}  # batches that are not resolved, by identity
        self._draining = 0
        self._large = 0  # batches in flight of more than FEW saves
        self._lock_waiters = asyncio.Semaphore(MAX_LOCK_WAITERS)
        db.watch.listeners.append(self._reject_waiting)

    def save_soon(self, event: Event, done: Done) -> None:
        """Queue an event; `done` is called with its outcome. Never waits."""
        self._add(PendingSave(event, time.monotonic() + self._db.timeout, done))
        if self._draining < MAX_IN_FLIGHT:
            self._start()

    def save_many(self, events: Sequence[Event], done: Callable[[Sequence[Outcome]], None]) -> None:
        """Queue events; `done` is called once, with an outcome for each. Never waits."""
        outcomes: dict[int, Outcome] = {}

        def note(number: int, outcome: Outcome) -> None:
            outcomes[number] = outcome
            if len(outcomes) == len(events):
                done([outcomes[number] for number in range(len(events))])

        until = time.monotonic() + self._db.timeout
        for number, event in enumerate(events):
            self._add(PendingSave(event, until, partial(note, number)), is_single=False)
        self._start()

    async def save_in(self, event: Event, connection: Any) -> Event:
        """Save an event in the caller's transaction, in the caller's task and with the connection's own timeout."""
        statement, arguments = await self.statement([event], connection.fetch)
        row = await connection.fetchrow(statement, None, None, False, 0, *arguments)
        if row["ns"]:
            return event.stored(ids.unpack(row["ids"][0]), ids.unpack(row["prevs"][0]))
        known = await connection.fetch(self._known, [event.user], row["known_ids"])
        return self._first_events([event], row, known)[0]

    async def statement(self, events: Sequence[Event], fetch: Fetch) -> tuple[str, tuple[Any, ...]]:
        """Return the statement that saves a batch, and its arguments from the fifth on."""
        special = await self.inbox.save_arguments(events, fetch)
        return special or (self._save, (*self.limits, *columns(events)))

    def close(self) -> None:
        """Resolve what is left; called after all tasks of the store have ended. Keeps I1."""
        for batch in [*self._taken.values()]:
            self._resolve(batch, [self._uncertain(CLOSED)] * len(batch))
        for save in self._queue.clear():
            save.done(ClosedError("the store was closed; nothing was sent"))

    def _add(self, save: PendingSave, *, is_single: bool = True) -> None:
        """Queue a save, unless the server is known to be unreachable."""
        error = self._db.watch.error
        if error is None:
            self._queue.add(save, is_single=is_single)
        else:
            asyncio.get_running_loop().call_soon(save.done, rejected(error, self._db.backend))

    def _reject_waiting(self, error: UnreachableError) -> None:
        for save in self._queue.clear():
            save.done(rejected(error, self._db.backend))

    # -- batches -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start a task if there is a batch for it."""
        if self._queue and self._draining < MAX_IN_FLIGHT and not self._background.closed:
            self._draining += 1
            self._background.start(self._drain)

    async def _drain(self) -> None:
        try:
            while saves := self._queue.take() if self._large < MAX_LARGE else self._queue.take_few(FEW):
                self._taken[id(saves)] = saves
                is_large = len(saves) > FEW
                self._large += is_large
                try:
                    await self._process(saves, LOCK_WAIT)
                finally:
                    self._large -= is_large
        finally:
            self._draining -= 1

    async def _process(self, saves: list[PendingSave], lock_wait: float | None) -> None:
        """Save a batch and resolve it. If other transactions hold some of its logs, a task waits for each of those."""
        while saves:
            try:
                outcomes = await self._outcomes_or_none(saves, lock_wait)
                if outcomes is None:  # pragma: no branch - CPython 3.11 does not trace what follows a throw
                    saves = await self._set_locked_aside(saves)
                    continue
            except Exception as error:  # a mistake in this library
                outcomes = [uncertain(error, self._db.backend)] * len(saves)
            self._resolve(saves, outcomes)
            return

    async def _wait_for_lock(self, saves: list[PendingSave]) -> None:
        async with self._lock_waiters:
            await self._process(saves, None)

    async def _set_locked_aside(self, saves: list[PendingSave]) -> list[PendingSave]:
        """Let a task wait for each locked log, and return the saves of the others."""
        users = {save.event.user for save in saves}
        try:
            rows = await self._db.fetch(self._unlocked, [*users])
        except NotifyError:
            locked = users
        else:
            # If no log is seen to be locked, another transaction may have begun one that is not visible yet.
            locked = {row["user_id"] for row in rows if not row["free"]} or users - {row["user_id"] for row in rows}
        groups: dict[str, list[PendingSave]] = {"": []}
        for save in saves:
            groups.setdefault(save.event.user if save.event.user in locked else "", []).append(save)
        del self._taken[id(saves)]
        self._taken.update((id(group), group) for group in groups.values() if group)
        free = groups.pop("")
        for group in groups.values():
            if not self._background.closed:
                self._background.start(self._wait_for_lock, group)
        return free

    def _resolve(self, saves: list[PendingSave], outcomes: Sequence[Outcome]) -> None:
        """Resolve saves and release their users; keeps I1 and I2."""
        del self._taken[id(saves)]
        for save, outcome in zip(saves, outcomes, strict=True):
            save.done(outcome)
        self._queue.release({save.event.user for save in saves})
        self._start()

    async def _outcomes_or_none(self, saves: list[PendingSave], lock_wait: float | None) -> Sequence[Outcome] | None:
        """Return the outcomes; None if another transaction holds one of the logs."""
        try:
            until = min(save.until for save in saves)
            return await self._outcomes([save.event for save in saves], until, lock_wait)
        except LogLockedError:
            return None

    async def _outcomes(self, events: Sequence[Event], until: float, lock_wait: float | None) -> Sequence[Outcome]:
        try:
            statement, arguments = await self.statement(events, self._db.fetch)
            row = await PostgresRetries(self._db, statement, arguments, until).run(lock_wait)
        except UsageError as error:
            return [error] * len(events)
        except BackendUnavailableError as error:
            return [rejected(error.__cause__ or error, self._db.backend)] * len(events)
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
