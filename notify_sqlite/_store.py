"""A store in one SQLite file, for several processes of one host."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import ClassVar, Literal, Self

import anyio.lowlevel

from notify import BackendError, Event, Guarantees, NotifyError, Page, UsageError, ids
from notify.event import check_user

from . import _record as record
from ._connection import Job, Path, SQLiteDatabase
from ._errors import unavailable
from ._save import SQLiteSaver
from ._sweep import SQLiteSweeper


class SQLiteStore:
    """Keeps events in one file on a local disk. Several processes may share it. asyncio only.

    The file and its tables are made at first use. Nothing but this library should write to the file.

    Args:
        path: the file; its directory exists. It may be shared with `SQLitePresence`.
        table_prefix: begins the name of each table: `[a-z][a-z0-9_]{0,30}`.
        max_len: events kept for each user; the oldest go first, a sixteenth at once.
        max_age: seconds that events are kept; None: until `max_len` or `trim` removes them.
        key_window: seconds within which a repeated idempotency key returns the first event.
        synchronous: `"FULL"`: accepted events survive a power loss. `"NORMAL"`: they survive the end of the process.
        timeout: seconds to wait for another process that writes before a push is rejected.
        network: accept a file on a network file system, which only one host may ever open.
        clock: returns seconds since 1970.

    Raises:
        UsageError: an argument is unacceptable.
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
        for name, value in {"max_len": max_len, "max_age": max_age, "key_window": key_window}.items():
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be greater than 0, not {value!r}")
        self._max_len = max_len
        self._max_age = max_age
        self._key_window = key_window
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
        self._saver = SQLiteSaver(self._database, self._appending, self._on_stored)
        self._sweeper = SQLiteSweeper(self._database, self._limits, max_age)

    # -- Store ---------------------------------------------------------------------------------------------------

    async def save(self, event: Event) -> Event:
        """See `notify.abc.Store.save`; concurrent saves share transactions."""
        (outcome,) = await self.save_many([event])
        if isinstance(outcome, NotifyError):
            raise outcome
        return outcome

    async def read(self, user: str, after: str, limit: int) -> Page:
        """See `notify.abc.Store.read`."""
        check_user(user)
        ids.parse(after)
        job = partial(record.page, sql=self._sql, user=user, after=after, limit=limit, horizon=self._horizon())
        return await self._database.read(job)

    async def head(self, user: str) -> str:
        """See `notify.abc.Store.head`."""
        check_user(user)
        return await self._database.read(partial(record.head, sql=self._sql, user=user))

    async def trim(self, before: datetime | str) -> int:
        """See `notify.abc.Store.trim`; at most 500 events in one transaction, others write in between."""
        self._database.check()
        bound = ids.pack(before) if isinstance(before, str) else ids.pack(ids.before(before)) + 1
        return await self._database.jobs.run(self._trim, bound)

    async def aclose(self) -> None:
        """See `notify.abc.Store.aclose`; saves under way get a few seconds."""
        await self._database.aclose()

    async def __aenter__(self) -> Self:
        """Open the file, which the first use would do too."""
        await self._database.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    @property
    def wal_size(self) -> int:
        """Bytes of the write-ahead log beside the file, for a gauge: far over 16 MiB, somebody holds a transaction."""
        return self._database.checkpointer.wal_size

    # -- SaveMany, ReadMany --------------------------------------------------------------------------------------

    async def save_many(self, events: Sequence[Event]) -> Sequence[Event | NotifyError]:
        """See `notify.abc.SaveMany.save_many`; one transaction for each 500 events."""
        self._database.check()
        self._sweeper.start()
        outcomes: list[Event | NotifyError] = []
        for start in range(0, len(events), record.CHUNK):
            entry = await self._saver.save(events[start : start + record.CHUNK])
            outcomes += [entry.error] * len(entry.drafts) if entry.error else entry.stored
        return outcomes

    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        """See `notify.abc.ReadMany.read_many`."""
        job = partial(record.pages, sql=self._sql, after=dict(after), limit=limit, horizon=self._horizon())
        return await self._database.read(job)

    # -- inside --------------------------------------------------------------------------------------------------

    def _on_stored(self, events: Sequence[Event]) -> None:
        """Note what was stored; overridden by whoever streams."""

    def _appending(self, drafts: Sequence[Event]) -> Job[list[Event]]:
        return partial(record.append, sql=self._sql, drafts=drafts, limits=self._limits())

    async def _trim(self, bound: int) -> int:
        removed = 0
        while True:
            try:
                count = await self._database.write(partial(record.remove_older, sql=self._sql, before=bound))
            except BackendError as error:
                raise unavailable(error, self._database.owner, self._database.path) from error
            removed += count
            if count < record.CHUNK:
                return removed
            await anyio.lowlevel.checkpoint()

    def _limits(self) -> record.Limits:
        now = int(self._clock() * 1000)
        return record.Limits(self._max_len, self._horizon(), _packed(now - int(self._key_window * 1000)), _packed(now))

    def _horizon(self) -> int:
        """Return the packed id before which an event is too old."""
        return 0 if self._max_age is None else _packed(int((self._clock() - self._max_age) * 1000))


def _packed(ms: int) -> int:
    """Return the first packed id of this millisecond."""
    return max(ms, 0) << ids.SEQUENCE_BITS
