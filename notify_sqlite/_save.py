"""Group commit: what waits while one transaction is under way makes up the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import anyio

from notify import ClosedError, Event, NotifyError, PushUncertainError

from ._connection import Job, SQLiteDatabase
from ._record import CHUNK


class Entry:
    """Events that are stored together, and who waits for them."""

    __slots__ = ("done", "drafts", "error", "stored")

    def __init__(self, drafts: Sequence[Event]) -> None:
        self.drafts = drafts
        self.done = anyio.Event()
        self.stored: Sequence[Event] = ()
        self.error: NotifyError | None = None


class SQLiteSaver:
    """Saves events of any number of callers in shared transactions, in the order in which they came.

    Invariants:
        I1. One transaction at a time: what is stored first has the smaller id.
        I2. An entry is in the queue or in the transaction under way, or is done.

    Args:
        database: written to.
        append: returns the job that stores these events.
        on_stored: called with the events that were stored, in order, before their callers know.
    """

    def __init__(
        self,
        database: SQLiteDatabase,
        append: Callable[[Sequence[Event]], Job[list[Event]]],
        on_stored: Callable[[Sequence[Event]], object],
    ) -> None:
        self._database = database
        self._append = append
        self._on_stored = on_stored
        self._queue: deque[Entry] = deque()
        self._draining = False

    async def save(self, drafts: Sequence[Event]) -> Entry:
        """Have at most `CHUNK` events stored, together; return them or the error that all of them met.

        Cancelling the caller takes them out of the queue, unless their transaction has begun.
        """
        entry = Entry(drafts)
        self._queue.append(entry)
        if not self._draining:
            self._database.jobs.start(self._drain)
            self._draining = True
        try:
            await entry.done.wait()
        finally:
            if not entry.done.is_set() and entry in self._queue:
                self._queue.remove(entry)  # keeps I2: nobody waits for it
        return entry

    async def _drain(self) -> None:
        batch: list[Entry] = []
        try:
            while self._queue:
                batch = self._next_batch()
                await self._store(batch)
                batch = []
        finally:
            self._draining = False
            for entry in batch:  # only where this task was cancelled: the store closes
                self._fail(entry, PushUncertainError("the store was closed meanwhile", backend=self._database.owner))
            while self._queue and self._database.closed:
                self._fail(self._queue.popleft(), ClosedError(f"{self._database.owner} is closed"))

    def _next_batch(self) -> list[Entry]:
        batch = [self._queue.popleft()]
        size = len(batch[0].drafts)
        while self._queue and size + len(self._queue[0].drafts) <= CHUNK:
            entry = self._queue.popleft()
            size += len(entry.drafts)
            batch.append(entry)
        return batch

    async def _store(self, batch: Sequence[Entry]) -> None:
        drafts = [draft for entry in batch for draft in entry.drafts]
        try:
            stored = await self._database.write(self._append(drafts))
        except NotifyError as error:
            for entry in batch:
                self._fail(entry, error)
            return
        self._on_stored(stored)
        start = 0
        for entry in batch:
            entry.stored = stored[start : start + len(entry.drafts)]
            start += len(entry.drafts)
            entry.done.set()

    def _fail(self, entry: Entry, error: NotifyError) -> None:
        entry.error = error
        entry.done.set()
