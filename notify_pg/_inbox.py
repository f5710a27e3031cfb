"""Inboxes in tables beside the logs: how a batch is applied to them, and their changes and pages.

Whatever appends an item or a change applies it in the same transaction: batches, the caller's own transaction, the
relay of the outbox. A batch without items and changes is appended by a statement that touches none of these tables.

Every transaction that writes to an inbox first locks its user's row of `heads`; a batch locks those of its users in the
order of their names, as batches without items do. So no two transactions can deadlock, and the rows, their counts and
the end of the log agree in every snapshot. The topics and sessions from which rows are copied are read, never locked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import anyio

from notify import Event
from notify.errors import BackendUnavailableError, UsageError
from notify.inbox.abc import MAX_TOPICS, Change, Follow, InboxRetention, ItemPage, ItemQuery

from ._connection import PostgresDatabase
from ._effects import completed_change_of, effects_of, has_positions
from ._errors import PostgresDisposition, disposition_of, is_locked, rejected, state_of, uncertain
from ._items import (
    change_of_row,
    counts_of,
    follow_of,
    named_arguments,
    page_of_items,
    query_arguments,
    retention_arguments,
)
from ._record import columns
from ._retry import AttemptsFailedError, LogLockedError, PostgresRetries

Fetch = Callable[..., Awaitable[Sequence[Any]]]
"""Runs a query and returns its rows."""

LOCK_WAIT: Final = 0.1
"""Seconds that any change waits for a log that another transaction has locked."""

MAX_LOCK_WAITERS: Final = 2
"""How many changes wait longer at the same time; each of them occupies a connection."""

PULL_WAIT: Final = 100
"""Milliseconds that a read waits for a log that another transaction has locked, before it returns what it has."""

SWEPT: Final = 100
"""How many inboxes one statement of a sweep looks at."""

TOO_MANY_TOPICS: Final = "NT002"
"""The SQLSTATE with which `change_inbox` refuses a topic beyond `MAX_TOPICS`."""


class PostgresInbox:
    """The inboxes of a store.

    Args:
        db: the database.
        limits: the maximum length of a log in events, and the key window in milliseconds.
        on_stored: called with the event that a change has appended.

    Attributes:
        retention: how many items each inbox keeps, and for how long.
    """

    def __init__(self, db: PostgresDatabase, limits: tuple[int, int], on_stored: Callable[[list[Event]], None]) -> None:
        self._db = db
        self._limits = limits
        self._on_stored = on_stored
        self._sql = db.names.sql
        self._lock_waiters = anyio.Semaphore(MAX_LOCK_WAITERS)
        self.retention = InboxRetention()

    async def save_arguments(self, events: Sequence[Event], fetch: Fetch) -> tuple[str, tuple[Any, ...]] | None:
        """Return the statement that appends and applies a batch, and its arguments from the fifth on.

        Args:
            events: the batch.
            fetch: runs a query. One is needed only if the batch has a change with a position in several logs, as when
                a log is copied from another store.

        Returns:
            None: no event of the batch has an effect on an inbox.
        """
        effects = effects_of(events)
        if effects is None:
            return None
        logs: dict[str, list[str]] = {}
        users = effects.users_with_positions
        for row in await fetch(self._sql("inbox_logs"), users) if users else ():
            logs.setdefault(row["user_id"], []).append(row["topic"])
        arguments = (*self._limits, *columns(events), *effects.columns(logs), *retention_arguments(self.retention))
        return self._sql("inbox_save"), arguments

    async def change(self, draft: Event) -> Change:
        """See `notify.inbox.abc.InboxStore.change`.

        A change is a statement of its own, not part of a batch: it returns more, and the order of concurrent calls is
        not promised. If the reply to the first attempt is lost, the repeated one returns the same; but no ids, if the
        server crashed in between.
        """
        until = time.monotonic() + self._db.timeout
        logs: list[str] = []
        if has_positions(draft):
            try:
                logs = [row["topic"] for row in await self._read(self._sql("inbox_logs"), [draft.user])]
            except BackendUnavailableError as error:
                raise rejected(error.__cause__ or error, self._db.backend) from error.__cause__
        change = completed_change_of(draft, logs)
        column = [None if values is None else values[0] for values in columns([draft])]
        arguments = (*self._limits, *column, json.dumps(change), MAX_TOPICS, *retention_arguments(self.retention))
        try:
            row = await self._attempts(self._sql("inbox_change"), arguments, until)
        except AttemptsFailedError as failed:
            if failed.is_unknown:
                raise uncertain(failed.error, self._db.backend) from failed.error
            if state_of(failed.error) == TOO_MANY_TOPICS:
                raise UsageError(
                    f"a user can follow {MAX_TOPICS} topics, merged sessions included: unfollow some first"
                ) from None
            raise rejected(failed.error, self._db.backend) from failed.error
        made = change_of_row(draft, row)
        if made.event is not None:
            self._on_stored([made.event])
        return made

    async def _attempts(self, sql: str, arguments: tuple[object, ...], until: float) -> Any:
        """Return the row with which the statement of a change answers; raises as `PostgresRetries.run(None)`."""
        try:
            return await PostgresRetries(self._db, sql, arguments, until).run(LOCK_WAIT)
        except LogLockedError:
            async with self._lock_waiters:
                return await PostgresRetries(self._db, sql, arguments, until).run(None)

    async def pull(self, user: str, wait: int | None = None) -> int:
        """See `notify.inbox.abc.InboxStore.pull`; `wait`: milliseconds to wait for the lock of the user's log."""
        wait = int(self._db.timeout * 800) if wait is None else wait
        max_items, *rest = retention_arguments(self.retention)
        rows = await self._read(self._sql("inbox_pull"), user, wait, max_items, *rest)
        return int(rows[0]["pulled"]) if rows else 0

    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        """See `notify.inbox.abc.InboxStore.items`."""
        asked = query_arguments(query) if query.ids is None else named_arguments(query.ids)
        sql = self._sql("inbox_page" if query.ids is None else "inbox_named")
        _, max_age, keep_unread = retention_arguments(self.retention)
        rows: Sequence[Any] = ()
        for ignores_news in (False, True):
            rows = await self._read(sql, user, max_age, keep_unread, *asked, ignores_news)
            if not any(row["has_news"] for row in rows):
                break
            if not ignores_news:
                await self._pull_if_free(user)
        if not rows:
            return await self._without_inbox(user)
        return page_of_items(user, query, rows)

    async def edges(self, user: str, topic: str, after: str, limit: int) -> Sequence[Follow]:
        """See `notify.inbox.abc.InboxStore.edges`."""
        if bool(user) == bool(topic):
            raise UsageError("edges() takes either user= or topic=, and exactly one of them")
        sql = self._sql("inbox_topics" if user else "inbox_followers")
        return [follow_of(row) for row in await self._read(sql, user or topic, after, limit)]

    async def sweep(self, limit: int) -> int:
        """See `notify.inbox.abc.InboxStore.sweep`. Skips inboxes that another transaction has locked."""
        _, max_age, keep_unread = retention_arguments(self.retention)
        removed = 0
        for is_expiring in (True, False):
            after, user = -1, ""
            while True:
                left = limit - removed
                rows = await self._read(self._sql("inbox_sweep"), is_expiring, after, user, left, max_age, keep_unread)
                removed += rows[0]["removed"] if rows else 0
                if removed >= limit:
                    return removed
                if not rows or rows[0]["looked"] < SWEPT:
                    break
                after, user = rows[0]["bound"], rows[0]["last_user"]
        return removed

    async def forget_topic(self, topic: str) -> None:
        """Remove a topic from the inboxes of its followers, `SWEPT` of them in each transaction."""
        while any(row["count"] == SWEPT for row in await self._read(self._sql("inbox_leave"), topic, SWEPT)):
            pass

    async def _pull_if_free(self, user: str) -> None:
        """Pull, unless another transaction has locked the user's log: a read does not wait until that ends."""
        try:
            await self.pull(user, PULL_WAIT)
        except BackendUnavailableError as error:
            if error.__cause__ is None or not is_locked(error.__cause__):
                raise

    async def _read(self, query: str, *args: object) -> list[Any]:
        """Run a query; return no rows if its tables do not exist yet."""
        try:
            return await self._db.read(query, *args)
        except BackendUnavailableError as error:
            if error.__cause__ is None or disposition_of(error.__cause__) is not PostgresDisposition.UNPREPARED:
                raise
            return []

    async def _without_inbox(self, user: str) -> ItemPage:
        """Return the empty page of a user, where the tables of inboxes do not exist yet."""
        rows = await self._db.read(self._sql("head"), user)
        row = {"total": 0, "unseen": 0, "unread": 0, "last": rows[0]["last_id"] if rows else 0}
        counts = counts_of(user, row | {"topics": None, "positions": None})
        return ItemPage([], None, counts, counts.position)
