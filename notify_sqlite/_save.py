"""Saving: group commit. Pushes that arrive while a transaction is in progress form the next one.

A commit with `synchronous=FULL` waits for the disk, which allows some 560 transactions a second. A hundred events to
a transaction are 13,000 events a second with the same durability.

SQLite has one write lock for the whole file, which another process may hold. Each push waits for it for `timeout`
seconds, counted from its own call: a push that was queued behind others is rejected in time, and certainly not stored.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from typing import Any, Final, TypeAlias

import anyio

from notify import ClosedError, Event, NotifyError, OverloadedError, PushRejectedError, PushUncertainError, ids
from notify.adapters import build_event

from ._connection import MAX_ROWS, SQLiteDatabase
from ._ephemeral import Sent, SQLiteEphemerals
from ._errors import bug
from ._record import SEQUENCE_MASK, Limits, Row, first_of_key
from ._worker import Job

logger = logging.getLogger("notify.sqlite")

Outcome: TypeAlias = Event | NotifyError
Done: TypeAlias = Callable[[Outcome], None]

Pending: TypeAlias = tuple[Event, Done, float]
"""An event to store, the function that takes its outcome, and until when it waits for the lock (`time.monotonic`)."""

_LOOKUPS: Final = 50
"""Users whose heads one statement looks up."""

_ROWS: Final = 50
"""Rows that one statement inserts: with nine values each, within the limit of parameters that every SQLite has."""


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

    async def save(self, events: Sequence[Event]) -> list[Outcome]:
        """Store these events and return their outcomes, in the same order.

        Cancelling the caller takes them out of the queue, except for those in the current transaction.
        """
        self._database.check()
        outcomes: list[Outcome] = []
        if not events:
            return outcomes
        finished = anyio.Event()

        def last(outcome: Outcome) -> None:
            outcomes.append(outcome)
            finished.set()

        until = time.monotonic() + self._database.timeout
        saves: list[Pending] = [(event, outcomes.append, until) for event in events[:-1]]
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
        batch = [self._queue.popleft() for _ in range(min(MAX_ROWS, len(self._queue)))]
        sent = self._ephemerals.take()
        self._current = batch, sent  # keeps I2
        if refusal is not None:
            self._ended(None, refusal)
            return
        try:
            job = self._job([event for event, _, _ in batch], sent)
        except NotifyError as error:
            self._ended(None, error)
        except Exception as error:  # or nothing would ever begin the next one
            self._ended(None, PushRejectedError(f"nothing was stored: {bug(error)}", backend=self._database.owner))
        else:
            until = batch[0][2] if batch else sent[0][2]
            self._database.write_soon(job, until, durable=bool(batch), done=self._ended)

    def _ended(self, stored: list[Event] | None, error: BaseException | None) -> None:
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

    def _succeeded(self, batch: Sequence[Pending], sent: Sequence[Sent], stored: Sequence[Event]) -> None:
        if sent:
            self._ephemerals.written()
        if batch:
            try:
                self._on_stored(stored)
            except Exception as error:
                bug(error)
            for (_, done, _), event in zip(batch, stored, strict=True):
                _report(done, event)

    def _failed(self, batch: Sequence[Pending], sent: Sequence[Sent], error: NotifyError) -> None:
        """Reject what has waited long enough for the lock, and queue the rest again, in front; keeps I2."""
        now = time.monotonic()
        is_locked = isinstance(error, OverloadedError) and not self._database.closed
        waiting = [save for save in batch if is_locked and save[2] > now]
        self._queue.extendleft(reversed(waiting))
        if sent:
            self._ephemerals.failed(sent, error, retry=is_locked)
        for _, done, _ in batch[: len(batch) - len(waiting)]:  # the oldest come first
            _report(done, error)

    def _abandon(self) -> None:
        """Report to all that wait: the store has closed, and the transaction under way takes too long; keeps I2."""
        (batch, _), self._current = self._current, ((), ())
        owner = self._database.owner
        for _, done, _ in batch:
            _report(done, PushUncertainError("the store was closed during the commit", backend=owner))
        while self._queue:
            _report(self._queue.popleft()[1], ClosedError(f"the {owner} is closed"))
        self.is_busy = False

    def _job(self, drafts: Sequence[Event], sent: Sequence[Sent]) -> Job[list[Event]]:
        limits = self._limits()
        job: Job[list[Event]] = partial(append, sql=self._database.sql, drafts=drafts, limits=limits)
        if not sent:
            return job
        insert = self._ephemerals.job(sent, limits.now)

        def both(db: sqlite3.Connection) -> list[Event]:
            stored = job(db) if drafts else []
            insert(db)
            return stored

        return both


def _report(done: Done, outcome: Outcome) -> None:
    """Call back; if a callback raises, which it must not, other callers still get their outcomes."""
    try:
        done(outcome)
    except Exception:
        logger.exception("a callback of save_soon raised, which it must not")


class _Head:
    """Where the log of one user ends, while a transaction appends to it."""

    __slots__ = ("id", "kept", "last_id")

    def __init__(self, last_id: int = 0, kept: int = 0) -> None:
        self.last_id, self.kept = last_id, kept
        self.id = ids.unpack(last_id) if last_id else ids.ZERO


def append(db: sqlite3.Connection, sql: Mapping[str, str], drafts: Sequence[Event], limits: Limits) -> list[Event]:
    """Append at most `MAX_ROWS` events to their users' logs, inside a transaction, and return them as stored."""
    execute = db.cursor().execute
    heads = _heads(execute, sql, drafts)
    grown: dict[str, _Head] = {}
    keyed: dict[tuple[str, str], Event] = {}
    rows: list[Row] = []
    stored: list[Event] = []
    (last,) = execute(sql["last_id"]).fetchone()
    now = limits.now
    for draft in drafts:
        user, key, meta = draft.user, draft.key, draft.meta
        if key is not None:
            first = keyed.get((user, key)) or first_of_key(
                execute(sql["event_of_key"], (user, key, limits.key_horizon)).fetchone(), draft
            )
            if first is not None:
                stored.append(first)
                continue
        head = grown[user] = heads[user]
        last = last + 1 if last >= now else now
        id_ = f"{last >> ids.SEQUENCE_BITS}-{last & SEQUENCE_MASK}"  # unpacked in place: a third of the time
        type_, data, micros, group = draft.type, draft.data, draft.micros, draft.group
        event = build_event(id_, head.id, user, type_, data, micros, group, key, meta)
        rows.append((user, last, head.last_id, type_, data, micros, group, key, json.dumps({**meta}) if meta else None))
        if key is not None:
            execute(sql["set_key"], (user, key, last, head.last_id))
            keyed[user, key] = event
        head.last_id, head.id = last, id_
        head.kept += 1
        stored.append(event)
    if rows:
        _insert(db, sql["insert_event"], rows)
        _bound(execute, sql, grown, limits.max_len)
        _insert(db, sql["set_head"], [(user, head.last_id, head.kept) for user, head in grown.items()])
        execute(sql["set_last_id"], (last,))
    return stored


def _heads(execute: Any, sql: Mapping[str, str], drafts: Sequence[Event]) -> dict[str, _Head]:
    """Return where the log of each of these users ends. Looking up many users at once takes half the time."""
    heads = {draft.user: _Head() for draft in drafts}
    users = list(heads)
    for start in range(0, len(users), _LOOKUPS):
        some = users[start : start + _LOOKUPS]
        if len(some) < _LOOKUPS // 4:
            found = [row for user in some for row in execute(sql["head_of"], (user,))]
        else:
            found = execute(sql["heads_of"], [*some, *some[-1:] * (_LOOKUPS - len(some))]).fetchall()
        for user, last_id, kept in found:
            heads[user] = _Head(last_id, kept)
    return heads


def _insert(db: sqlite3.Connection, statement: str, rows: Sequence[Row]) -> None:
    """Insert rows, `_ROWS` to a statement as far as possible, which takes a quarter less time."""
    whole = len(rows) - len(rows) % _ROWS
    for start in range(0, whole, _ROWS):
        db.execute(_repeated(statement), [*chain.from_iterable(rows[start : start + _ROWS])])
    db.executemany(statement, rows[whole:])


@cache
def _repeated(statement: str) -> str:
    """Return the statement for `_ROWS` rows at once."""
    begin = statement.index("VALUES (") + len("VALUES ")
    row = statement[begin : statement.index(")", begin) + 1]
    return statement.replace(row, ", ".join([row] * _ROWS), 1)


def _bound(execute: Any, sql: Mapping[str, str], heads: Mapping[str, _Head], max_len: int) -> None:
    """Remove the oldest events of the logs that are too long: a sixteenth at once, cheaper than one at each push."""
    slack = max_len // 16
    budget = MAX_ROWS
    for user, head in heads.items():
        excess = head.kept - max_len
        if excess > slack and budget > 0:
            removed = execute(sql["delete_oldest"], (user, user, min(excess, budget))).rowcount
            head.kept -= removed
            budget -= removed
