"""A store in one SQLite file, for several processes of one host."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import ClassVar, Literal, Self

import anyio.lowlevel

from notify import Event, Guarantees, NotifyError, Page, UsageError, ids
from notify.adapters import Retention, check_user
from notify.inbox.abc import Change, Follow, InboxRetention, ItemPage, ItemQuery

from . import _record as record
from ._batch import ChangeDraft
from ._connection import MAX_ROWS, SQLiteDatabase
from ._ephemeral import SQLiteEphemerals
from ._errors import DRIVER
from ._inbox import SQLiteInbox
from ._opening import Path
from ._save import SQLiteSaver
from ._schema import script
from ._sweep import SQLiteSweeper, erase, remove_older


class SQLiteStore:
    """Keeps events in one file on a local disk. Several processes may share it. asyncio only.

    The file and its tables are created at first use. Nothing but this library should write to its tables.

    Args:
        path: the file; its directory must exist. It may be shared with `SQLitePresence`.
        table_prefix: begins the name of each table: `[a-z][a-z0-9_]{0,30}`.
        max_len: events kept for each user. The oldest are removed first, a sixteenth of this number at once.
        max_age: seconds that events are kept; None: until `max_len` or `trim` removes them.
        key_window: seconds within which a repeated idempotency key returns the first event.
        synchronous: `"FULL"`: accepted events survive a power loss. `"NORMAL"`: they survive a crash of the process.
        timeout: seconds that a push waits while another connection holds the write lock, before it is rejected.
        network: accept a file on a network file system, which only one host may ever open.
        clock: returns seconds since 1970.

    Attributes:
        inbox_retention: see `notify.inbox.abc.InboxStore`.

    Raises:
        UsageError: an argument is not acceptable.
    """

    guarantees: ClassVar = Guarantees(durable=True, shared=True)

    def __init__(
        self,
        path: Path,
        *,
        table_prefix: str = "notify_",
        max_len: int = 1000,
        max_age: float | None = 7 * 86_400.0,
        key_window: float = 86_400.0,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        timeout: float = 4.0,
        network: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._retention = Retention(max_len, max_age, key_window)
        self.inbox_retention = InboxRetention()
        self._clock = clock
        self._database = SQLiteDatabase(
            path,
            owner=type(self).__name__,
            part="store",
            table_prefix=table_prefix,
            synchronous=synchronous,
            timeout=timeout,
            network=network,
        )
        self._sql = self._database.sql
        self._ephemerals = SQLiteEphemerals(self._database, self._limits)
        self._saver = SQLiteSaver(self._database, self._limits, self._on_stored, self._ephemerals)
        self._inbox = SQLiteInbox(self._database, self._limits)
        self._sweeper = SQLiteSweeper(self._database, self._limits, max_age)

    # -- Store ---------------------------------------------------------------------------------------------------

    async def save(self, event: Event) -> Event:
        """See `notify.abc.Store.save`; concurrent saves share transactions."""
        (outcome,) = await self._saver.save([event])
        if isinstance(outcome, NotifyError):
            raise outcome
        stored: Event = outcome
        return stored

    async def read(self, user: str, after: str, limit: int) -> Page:
        """See `notify.abc.Store.read`."""
        check_user(user)
        ids.parse(after)
        job = partial(record.page, sql=self._sql, user=user, after=after, limit=limit, horizon=self._horizon())
        return await self._database.read(job, record.no_page(after))

    async def head(self, user: str) -> str:
        """See `notify.abc.Store.head`."""
        check_user(user)
        return await self._database.read(partial(record.head, sql=self._sql, user=user), ids.ZERO)

    async def trim(self, before: datetime | str) -> int:
        """See `notify.abc.Store.trim`; at most 500 events in one transaction, so that others can write in between."""
        self._database.check()
        bound = ids.pack(before) if isinstance(before, str) else ids.pack(ids.before(before)) + 1
        return await self._database.jobs.run(self._trim, bound)

    async def aclose(self) -> None:
        """See `notify.abc.Store.aclose`; saves in progress get a few seconds."""
        await self._database.aclose()

    async def __aenter__(self) -> Self:
        """Create the file and its tables, if need be; the first save would do so too."""
        await self._database.prepare()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    @property
    def wal_size(self) -> int:
        """Bytes of the write-ahead log, for a gauge; if it stays over 16 MiB, it is not emptied: see the log lines."""
        return self._database.checkpointer.wal_size

    # -- SaveSoon, SaveMany, ReadMany ----------------------------------------------------------------------------

    def save_soon(self, event: Event, done: Callable[[Event | NotifyError], None]) -> None:
        """See `notify.abc.SaveSoon.save_soon`."""
        self._saver.save_soon(event, done)

    async def save_many(self, events: Sequence[Event]) -> Sequence[Event | NotifyError]:
        """See `notify.abc.SaveMany.save_many`; at most 500 events to one transaction."""
        return await self._saver.save(events)

    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        """See `notify.abc.ReadMany.read_many`."""
        job = partial(record.pages, sql=self._sql, after=dict(after), limit=limit, horizon=self._horizon())
        return await self._database.read(job, record.no_pages(after))

    # -- InboxStore ----------------------------------------------------------------------------------------------

    async def change(self, draft: Event) -> Change:
        """See `notify.inbox.abc.InboxStore.change`; changes and saves share transactions, in the order of the calls."""
        (outcome,) = await self._saver.save([ChangeDraft(draft)])
        if isinstance(outcome, NotifyError):
            raise outcome
        change: Change = outcome
        return change

    async def pull(self, user: str) -> int:
        """See `notify.inbox.abc.InboxStore.pull`; at most 500 items in one transaction."""
        return await self._inbox.pull(user)

    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        """See `notify.inbox.abc.InboxStore.items`; the write lock is taken only if there is something to pull."""
        return await self._inbox.items(user, query)

    async def edges(self, *, user: str = "", topic: str = "", after: str = "", limit: int = 100) -> Sequence[Follow]:
        """See `notify.inbox.abc.InboxStore.edges`."""
        return await self._inbox.edges(user, topic, after, limit)

    async def sweep(self, limit: int = 500) -> int:
        """See `notify.inbox.abc.InboxStore.sweep`; at most 500 items in one transaction."""
        return await self._inbox.sweep(limit)

    # -- Forget, Prepare -----------------------------------------------------------------------------------------

    async def forget(self, user: str) -> int:
        """See `notify.abc.Forget.forget`. What is removed is overwritten in the file.

        Its traces in the write-ahead log last until that is emptied: at once if this process checkpoints and no
        other reads, else with one of the next checkpoints.
        """
        check_user(user)
        self._database.check()
        return await self._database.jobs.run(self._forget, user)

    async def prepare(self) -> None:
        """See `notify.abc.Prepare.prepare`. The directory has to exist."""
        await self._database.prepare()

    def script(self) -> str:
        """See `notify.abc.Prepare.script`. The first statement is not part of the transaction."""
        return f"PRAGMA journal_mode = WAL;\n{script(self._sql)}"

    # -- inside --------------------------------------------------------------------------------------------------

    def _on_stored(self, events: Sequence[Event]) -> None:
        """Called with the events of each transaction; a stream store overrides it."""
        self._sweeper.start()

    async def _trim(self, bound: int) -> int:
        removed = 0
        if await self._is_empty():
            return removed
        while True:
            count = await self._database.change(partial(remove_older, sql=self._sql, before=bound), "cannot be trimmed")
            removed += count
            if count < MAX_ROWS:
                return removed
            await anyio.lowlevel.checkpoint()

    async def _forget(self, user: str) -> int:
        removed = 0
        if await self._is_empty():
            return removed
        job = partial(erase, sql=self._sql, user=user, limits=self._limits())
        while True:
            count, done = await self._database.change(job, "cannot be erased")
            removed += count
            if done:
                break
            await anyio.lowlevel.checkpoint()
        with suppress(*DRIVER):  # the checkpointer does it later
            await self._database.checkpointer.empty()
        return removed

    async def _is_empty(self) -> bool:
        """Whether none of our tables exists: then there is nothing to remove, and nothing is created for it."""
        return await self._database.read(lambda _: False, True)

    def _now(self) -> float:
        try:
            now = self._clock()
            int(now * 1000)
        except Exception as error:
            raise UsageError(f"clock= must be a function that returns seconds since 1970: {error!r}") from error
        return now

    def _limits(self) -> record.Limits:
        return record.Limits.at(self._now(), self._retention, self.inbox_retention)

    def _horizon(self) -> int:
        return record.horizon_at(self._now(), self._retention)
