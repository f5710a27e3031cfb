"""Saving: group commit. Pushes that arrive while a transaction is in progress form the next one.

A commit with `synchronous=FULL` waits for the disk, which allows some 560 transactions a second. A hundred events to
a transaction are 13,000 events a second with the same durability.

SQLite has one write lock for the whole file, which another process may hold. Each push waits for it for `timeout`
seconds, counted from its own call: a push that was queued behind others is rejected in time, and certainly not stored.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import anyio

from notify import ClosedError, Event, NotifyError, OverloadedError, PushRejectedError, PushUncertainError
from notify.inbox.abc import Change

from ._append import append
from ._batch import ChangeDraft, Outcome, append_all
from ._connection import MAX_ROWS, SQLiteDatabase
from ._ephemeral import Sent, SQLiteEphemerals
from ._errors import bug
from ._record import Limits
from ._worker import Job

logger = logging.getLogger("notify.sqlite")

Done: TypeAlias = Callable[[Any], None]
"""Takes an event, the `Change` of a change, or an error."""

Pending: TypeAlias = tuple[Event | ChangeDraft, Done, float]
"""What to store, the function that takes its outcome, and until when it waits for the lock (`time.monotonic`)."""

_CHANGES: Final = 10
"""Changes of inboxes in one transaction: each of them may affect thousands of items."""


class SQLiteSaver:
    """Stores the events of any number of callers in shared transactions, in the order of their calls.

    Invariants:
        I1. One transaction at a time: the event that is stored first has the smaller id.
        I2. A pending event is in the queue or in the current transaction, until its `done` is called once.
        I3. While `is_busy`, a transaction is under way or about to begin: nothing else begins one.

    Args:
        database: written to.
        limits: returns what the retention options allow now.
        on_stored: called with the events of a transaction, in order, before any caller has an outcome.
        ephemerals: events that are not stored, written by the same transactions.
    """

    def __init__(
        self,
        database: SQLiteDatabase,
        limits: Callable[[], Limits],
        on_stored: Callable[[Sequence[Event]], object],
        ephemerals: SQLiteEphemerals,
    ) -> None:
        self._database = database
        self._limits = limits
        self._on_stored = on_stored
        self._ephemerals = ephemerals
        self._queue: deque[Pending] = deque()
        self._current: tuple[Sequence[Pending], Sequence[Sent]] = ((), ())
        self.is_busy = False
        database.is_busy = lambda: self.is_busy
        database.abandon = self._abandon

    def save_soon(self, event: Event, done: Done) -> None:
        """Queue one event; `done` is called with its outcome. Never waits."""
        self._database.check()
        self._queue.append((event, done, time.monotonic() + self._database.timeout))
        if not self.is_busy:
            self._begin()

    async def save(self, events: Sequence[Event | ChangeDraft]) -> list[Any]:
        """Store these events and return their outcomes, in the same order: for a change, a `Change`.

        Cancelling the caller takes them out of the queue, except for those in the current transaction.
        """
        self._database.check()
        outcomes: list[Any] = []
        if not events:
            return outcomes
        finished = anyio.Event()
        add = outcomes.append

        def last(outcome: Any) -> None:
            add(outcome)
            finished.set()

        until = time.monotonic() + self._database.timeout
        saves: list[Pending] = [(event, add, until) for event in events[:-1]]
        saves.append((events[-1], last, until))
        self._queue += saves
        if not self.is_busy:
            self._begin()
        try:
            await finished.wait()
        except BaseException:
            cancelled = set(map(id, saves))
            self._queue = deque(save for save in self._queue if id(save) not in cancelled)  # keeps I2: none is wanted
            raise
        return outcomes

    def send(self, event: Event) -> None:
        """Queue an ephemeral event for other processes. Never waits."""
        self._database.check()
        self._ephemerals.add(event)
        if not self.is_busy:
            self._begin()

    def _begin(self) -> None:
        self.is_busy = True  # keeps I3
        self._database.when_open(self._next)

    def _next(self, refusal: NotifyError | None) -> None:
        """Begin a transaction with what is queued, or none if nothing is; called in a callback of the event loop."""
        if self._rests():  # what was queued was cancelled
            return
        batch = self._take()
        sent = self._ephemerals.take()
        self._current = batch, sent  # keeps I2
        if refusal is not None:
            self._ended(None, refusal)
            return
        try:
            job = self._job([draft for draft, _, _ in batch], sent)
        except NotifyError as error:
            self._ended(None, error)
        except Exception as error:  # or nothing would ever begin the next one
            self._ended(None, PushRejectedError(f"nothing was stored: {bug(error)}", backend=self._database.owner))
        else:
            until = batch[0][2] if batch else sent[0][2]
            self._database.write_soon(job, until, durable=bool(batch), done=self._ended)

    def _take(self) -> list[Pending]:
        """Return what the next transaction stores."""
        take = self._queue.popleft
        batch = [take() for _ in range(min(len(self._queue), MAX_ROWS))]
        changes = [place for place, pending in enumerate(batch) if pending[0].__class__ is ChangeDraft]
        if len(changes) > _CHANGES:
            self._queue.extendleft(reversed(batch[changes[_CHANGES] :]))
            del batch[changes[_CHANGES] :]
        return batch

    def _ended(self, stored: Sequence[Outcome] | None, error: BaseException | None) -> None:
        """Report the outcomes of the current transaction, and go on; called in a callback of the event loop."""
        batch, sent = self._current
        self._current = (), ()
        if stored is not None:
            self._succeeded(batch, sent, stored)
        else:
            owner = self._database.owner
            unknown = PushUncertainError(f"the transaction was interrupted: {error!r}", backend=owner)
            self._failed(batch, sent, error if isinstance(error, NotifyError) else unknown)
        if not self._rests() and self.is_busy:
            try:
                self._database.when_open(self._next)
            except ClosedError:
                self._abandon()

    def _rests(self) -> bool:
        """Return whether nothing is left to do; if so, note that it is no longer busy."""
        if self._queue or self._ephemerals:
            return False
        self.is_busy = False
        self._database.settled()
        return True

    def _succeeded(self, batch: Sequence[Pending], sent: Sequence[Sent], stored: Sequence[Outcome]) -> None:
        if sent:
            self._ephemerals.written()
        if batch:
            try:
                self._on_stored(_events(stored))
            except Exception as error:
                bug(error)
            _report(batch, stored)

    def _failed(self, batch: Sequence[Pending], sent: Sequence[Sent], error: NotifyError) -> None:
        """Reject what has waited long enough for the lock, and queue the rest again, in front; keeps I2."""
        now = time.monotonic()
        is_locked = isinstance(error, OverloadedError) and not self._database.closed
        waiting = [save for save in batch if is_locked and save[2] > now]
        self._queue.extendleft(reversed(waiting))
        if sent:
            self._ephemerals.failed(sent, error, retry=is_locked)
        rejected = batch[: len(batch) - len(waiting)]  # the oldest come first
        _report(rejected, [error] * len(rejected))

    def _abandon(self) -> None:
        """Report to all that wait: the store has closed, and the transaction under way takes too long; keeps I2."""
        (batch, _), self._current = self._current, ((), ())
        owner = self._database.owner
        _report(batch, [PushUncertainError("the store was closed during the commit", backend=owner) for _ in batch])
        while self._queue:
            _report([self._queue.popleft()], [ClosedError(f"the {owner} is closed")])
        self.is_busy = False

    def _job(self, drafts: Sequence[Event | ChangeDraft], sent: Sequence[Sent]) -> Job[Sequence[Outcome]]:
        limits = self._limits()
        has_changes = any(draft.__class__ is ChangeDraft for draft in drafts)
        add: Callable[..., Sequence[Outcome]] = append_all if has_changes else append
        job: Job[Sequence[Outcome]] = partial(add, sql=self._database.sql, drafts=drafts, limits=limits)
        if not sent:
            return job
        insert = self._ephemerals.job(sent, limits.now)

        def both(db: sqlite3.Connection) -> Sequence[Outcome]:
            stored = job(db) if drafts else []
            insert(db)
            return stored

        return both


def _events(outcomes: Sequence[Outcome]) -> list[Event]:
    """Return the events that were stored."""
    return [
        event
        for outcome in outcomes
        if (event := outcome.event if outcome.__class__ is Change else outcome).__class__ is Event
    ]


def _report(pending: Sequence[Pending], outcomes: Sequence[Outcome]) -> None:
    """Give each caller its outcome; if a callback raises, which it must not, the others still get theirs."""
    for (_, done, _), outcome in zip(pending, outcomes, strict=True):
        try:
            done(outcome)
        except Exception:
            logger.exception("a callback of save_soon raised, which it must not")
