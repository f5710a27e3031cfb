"""A store in PostgreSQL."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import asyncpg  # type: ignore[import-untyped]

from notify import Background, Event, Guarantees, NotifyError, Page, ids
from notify.abc import Backlog
from notify.adapters import Retention
from notify.errors import UsageError
from notify.inbox.abc import Change, Follow, InboxRetention, ItemPage, ItemQuery

from ._connection import PostgresDatabase
from ._errors import rejected
from ._names import PostgresNames, short_key
from ._outbox import PostgresOutbox, TransactionWatcher, check_transaction
from ._queue import Outcome
from ._record import page_of
from ._retention import PostgresMaintenance
from ._save import PostgresSaver
from ._wake import PostgresWakePublisher

_UNLIMITED_MS: Final = 1 << 42
"""Milliseconds that stand for `max_age=None`: 139 years."""

_GRACE: Final = 1.0

FEW_USERS: Final = 100
"""A read for more users than this counts as large. For 500, the planner expects so many rows that a server with `jit`
compiles the query, which takes seconds."""

RELAY_INTERVAL: Final = 1.0
"""Seconds between polls of the outbox, where this process enqueues events itself."""


class PostgresStore:
    """Keeps events in PostgreSQL 14 or later. asyncio only.

    The first use creates the tables, or migrates those of an earlier version.

    Args:
        dsn: a DSN, or an asyncpg pool, which is never closed here.
        schema: holds the tables; created if it does not exist.
        table_prefix: begins the name of each table.
        max_len: events kept for each user; the oldest go first, up to a tenth of this number late.
        max_age: seconds that events are kept; None: until `max_len` or `trim` removes them.
        key_window: seconds within which a repeated idempotency key returns the first event.
        timeout: seconds for one call. A save has its outcome by then; keep it below the notifier's.
        pool_size: connections at most, where a DSN was given.
        max_payload: bytes of JSON that an event in the outbox may have; as that of the notifier.
        relay: seconds between polls of the outbox for events that other processes have left there. None: this process
            moves the events that it enqueues itself, and no others.

    Raises:
        UsageError: an argument is unacceptable.
    """

    guarantees: ClassVar = Guarantees(durable=True, shared=True)

    def __init__(
        self,
        dsn: str | asyncpg.Pool,
        *,
        schema: str = "public",
        table_prefix: str = "notify_",
        max_len: int = 1000,
        max_age: float | None = 7 * 86_400.0,
        key_window: float = 86_400.0,
        timeout: float = 4.0,
        pool_size: int = 8,
        max_payload: int = 65_536,
        relay: float | None = None,
    ) -> None:
        Retention(max_len, max_age, key_window)
        if relay is not None and not relay > 0:
            raise UsageError(f"relay must be greater than 0, not {relay!r}")
        self._name = type(self).__name__
        self._names = PostgresNames(schema, table_prefix)
        self._db = PostgresDatabase(dsn, self._names, backend=self._name, timeout=timeout, pool_size=pool_size)
        self._background = Background(self._name)  # tasks of single calls: closing lets them finish
        self._services = Background(self._name)  # tasks that run until the store is closed
        self._origin = secrets.token_hex(4)
        self._publisher = PostgresWakePublisher(self._db, self._names.wake_channel, self._background, self._origin)
        self._saver = PostgresSaver(
            self._db, self._background, max_len=max_len, key_window=key_window, on_stored=self._on_stored
        )
        self._inbox = self._saver.inbox
        self._max_age_ms = _UNLIMITED_MS if max_age is None else int(max_age * 1000)
        self._retention = PostgresMaintenance(self._db, self._max_age_ms, int(key_window * 1000))
        self._transactions = TransactionWatcher(self._background)
        self._relays = relay is not None
        self._outbox = PostgresOutbox(
            self._db,
            statement=self._saver.statement,
            max_payload=max_payload,
            interval=relay or RELAY_INTERVAL,
            on_moved=lambda users: self.wake(*users),
        )
        self._started = self._relaying = False

    # -- Store ---------------------------------------------------------------------------------------------------

    async def save(self, event: Event) -> Event:
        """See `notify.abc.Store.save`; concurrent saves share statements."""
        self._start()
        saved, done = _new_future()
        self._saver.save_soon(event, done)
        outcome: Outcome = await saved
        if isinstance(outcome, NotifyError):
            raise outcome
        return outcome

    async def read(self, user: str, after: str, limit: int) -> Page:
        """See `notify.abc.Store.read`."""
        self._start()
        return await self._background.run(self._read, user, after, limit)

    async def head(self, user: str) -> str:
        """See `notify.abc.Store.head`."""
        self._start()
        return await self._background.run(self._head, user)

    async def trim(self, before: datetime | str) -> int:
        """See `notify.abc.Store.trim`; not bounded by `timeout`."""
        self._start()
        first = ids.pack(ids.before(before)) + 1 if isinstance(before, datetime) else ids.pack(before)
        return await self._background.run(self._retention.trim, first)

    async def aclose(self) -> None:
        """See `notify.abc.Store.aclose`; saves in progress have a second to finish."""
        if not self._db.closed:
            self._db.close()
            await self._close()

    async def __aenter__(self) -> Self:
        """Create the tables if they do not exist, so that a wrong setting is reported at once."""
        self._start()
        await self._prepared()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    # -- Forget, Prepare -----------------------------------------------------------------------------------------

    async def forget(self, user: str) -> int:
        """See `notify.abc.Forget.forget`; erases the user's presence and what waits in the outbox, too."""
        self._start()
        return await self._background.run(self._forget, user)

    @property
    def is_prepared(self) -> bool:
        """Whether the tables are known to exist: the first call finds out."""
        return self._db.is_prepared

    async def prepare(self) -> None:
        """See `notify.abc.Prepare.prepare`; also creates missing partitions, and moves what is in the default one."""
        self._start()
        await self._background.run(self._prepare)

    def script(self) -> str:
        """See `notify.abc.Prepare.script`; a file for `psql`, which may be run again."""
        return self._db.schema.script()

    # -- SaveMany, ReadMany --------------------------------------------------------------------------------------

    async def save_many(self, events: Sequence[Event]) -> Sequence[Outcome]:
        """See `notify.abc.SaveMany.save_many`: concurrent saves share statements."""
        self._start()
        if not events:
            return ()
        saved, done = _new_future()
        self._saver.save_many(events, done)
        outcomes: Sequence[Outcome] = await saved
        return outcomes

    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        """See `notify.abc.ReadMany.read_many`."""
        self._start()
        return await self._background.run(self._read_many, after, limit) if after else {}

    # -- SaveSoon, SaveInTransaction -----------------------------------------------------------------------------

    def save_soon(self, event: Event, done: Callable[[Outcome], None]) -> None:
        """See `notify.abc.SaveSoon.save_soon`."""
        self._start()
        self._saver.save_soon(event, done)

    async def save_in(self, event: Event, connection: Any) -> Event:
        """See `notify.abc.SaveInTransaction.save_in`.

        The user's log stays locked until the transaction ends, so save last, several users in the same order
        everywhere, and commit soon.
        """
        self._start()
        check_transaction(connection)
        await self._prepared()
        try:
            stored = await self._saver.save_in(event, connection)
        except Exception as error:
            raise rejected(error, self._name) from error
        self._transactions.call_after(connection, partial(self.wake, event.user))
        return stored

    async def enqueue(self, *events: Event, connection: Any) -> None:
        """Store events by way of the outbox: in the caller's transaction, without locking a log until it ends.

        They get their ids when a relay moves them to the logs, within milliseconds of the commit, in the order in which
        they were enqueued.

        Args:
            events: drafts.
            connection: an asyncpg connection with an open transaction.

        Raises:
            UsageError: not such a connection.
            PayloadTooLargeError: a payload is over `max_payload`; the transaction is untouched.
            PushRejectedError: not stored, and the transaction can no longer be committed.

        Order: as enqueued, where one transaction began after the other had committed.
        Cancellation: the transaction can no longer be committed.
        Concurrency: one call at a time on one connection.
        Cost: one round trip; and one statement for up to 500 events when they are moved.
        """
        self._start()
        check_transaction(connection)
        await self._prepared()
        await self._outbox.enqueue(events, connection)
        self._start_relay()
        self._transactions.call_after(connection, self._outbox.relay_soon)

    def wake(self, *users: str) -> None:
        """Announce to every process that these users may have new events, after a commit the library cannot see.

        Never waits. Best effort: without it the streams find the events within the audit interval, 30 seconds.
        """
        self._publisher.publish({short_key(user) for user in users})

    @property
    def last_backlog(self) -> Backlog:
        """See `notify.abc.HasOutbox.last_backlog`."""
        return self._outbox.last_backlog

    async def backlog(self) -> Backlog:
        """See `notify.abc.HasOutbox.backlog`."""
        self._start()
        return await self._background.run(self._outbox.backlog)

    # -- InboxStore ----------------------------------------------------------------------------------------------

    @property
    def inbox_retention(self) -> InboxRetention:
        """See `notify.inbox.abc.InboxStore`."""
        return self._inbox.retention

    @inbox_retention.setter
    def inbox_retention(self, retention: InboxRetention) -> None:
        self._inbox.retention = retention

    async def change(self, draft: Event) -> Change:
        """See `notify.inbox.abc.InboxStore.change`."""
        self._start()
        return await self._background.run(self._inbox.change, draft)

    async def pull(self, user: str) -> int:
        """See `notify.inbox.abc.InboxStore.pull`."""
        self._start()
        return await self._background.run(self._inbox.pull, user)

    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        """See `notify.inbox.abc.InboxStore.items`; does not wait for a transaction that holds the user's log."""
        self._start()
        return await self._background.run(self._inbox.items, user, query)

    async def edges(self, *, user: str = "", topic: str = "", after: str = "", limit: int = 100) -> Sequence[Follow]:
        """See `notify.inbox.abc.InboxStore.edges`."""
        self._start()
        return await self._background.run(self._inbox.edges, user, topic, after, limit)

    async def sweep(self, limit: int = 500) -> int:
        """See `notify.inbox.abc.InboxStore.sweep`; leaves inboxes that are being written to for later."""
        self._start()
        return await self._background.run(self._inbox.sweep, limit)

    # -- inside --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._db.check()
        if not self._started:
            self._started = True
            self._services.start(self._retention.run)
            self._services.start(self._outbox.watch)
            if self._relays:
                self._start_relay()

    async def _forget(self, user: str) -> int:
        count = await self._retention.forget(user)
        await self._inbox.forget_topic(user)
        return count

    async def _prepared(self) -> None:
        if not self._db.is_complete:
            await self._background.run(self._db.prepare)

    async def _prepare(self) -> None:
        await self._db.prepare()
        await self._retention.empty_default()
        await self._db.keep()

    def _start_relay(self) -> None:
        if not self._relaying:
            self._relaying = True
            self._services.start(self._outbox.run)

    async def _close(self) -> None:
        await self._services.aclose(_GRACE)
        await self._background.settle(_GRACE)
        await self._background.aclose(_GRACE)
        self._saver.close()
        await self._db.aclose()

    async def _read(self, user: str, after: str, limit: int) -> Page:
        sql = self._names.sql("read")
        return page_of(user, after, await self._db.read(sql, user, ids.pack(after), limit, self._max_age_ms))

    async def _head(self, user: str) -> str:
        rows = await self._db.read(self._names.sql("head"), user)
        return ids.unpack(rows[0]["last_id"]) if rows else ids.ZERO

    async def _read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        sql = self._names.sql("read_many")
        positions = [ids.pack(position) for position in after.values()]
        rows: dict[str, list[Any]] = {}
        is_large = len(after) > FEW_USERS
        for row in await self._db.read(sql, [*after], positions, limit, self._max_age_ms, is_large=is_large):
            rows.setdefault(row["user_id"], []).append(row[:-1])
        pages = {user: page_of(user, after[user], found) for user, found in rows.items()}
        return {user: page for user, page in pages.items() if page.events or page.gap}

    def _on_stored(self, events: list[Event]) -> None:
        """Announce the new events of a batch."""
        self._publisher.publish({short_key(event.user) for event in events})


def _new_future() -> tuple[asyncio.Future[Any], Callable[[Any], None]]:
    """Return a future, and a function that resolves it unless its caller has been cancelled."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(outcome: Any) -> None:
        if not future.done():
            future.set_result(outcome)

    return future, done
