"""Reading inboxes, copying what topics have got, and removing due items. Saving and changing are in `_box`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import anyio.lowlevel

from notify import UsageError, ids
from notify.adapters import check_user
from notify.inbox.abc import Follow, ItemPage, ItemQuery

from . import _items as items
from . import _record as record
from ._box import InboxWriter, find_due, sweep
from ._connection import MAX_ROWS, SQLiteDatabase
from ._follow import pull
from ._items import InboxLimits
from ._worker import Job

T = TypeVar("T")

_INBOXES: Final = 50
"""From how many inboxes one transaction removes due items, so that it does not hold the lock of the file for long."""


class SQLiteInbox:
    """What a store does with inboxes, apart from saving.

    Args:
        database: has the tables of a store.
        limits: returns the present time and the limits of the retention.
    """

    def __init__(self, database: SQLiteDatabase, limits: Callable[[], record.Limits]) -> None:
        self._database = database
        self._limits = limits
        self._is_there = False

    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        """See `notify.inbox.abc.InboxStore.items`."""
        check_user(user)
        page = await self._page(user, query, pulled=False)
        if page is None:
            await self.pull(user)
            page = await self._page(user, query, pulled=True)
        assert page is not None
        return page

    async def pull(self, user: str) -> int:
        """See `notify.inbox.abc.InboxStore.pull`."""
        check_user(user)
        news: Job[bool] = partial(_has_news, sql=self._database.sql, user=user)
        if not await self._read(news, False):
            return 0
        return await self._database.jobs.run(self._pull, user)

    async def edges(self, user: str, topic: str, after: str, limit: int) -> Sequence[Follow]:
        """See `notify.inbox.abc.InboxStore.edges`."""
        if bool(user) == bool(topic):
            raise UsageError(f"exactly one of user= and topic= must be given, not {user!r:.80} and {topic!r:.80}")
        for name in (user or topic, after or topic or user):
            check_user(name)
        job = partial(items.edges, sql=self._database.sql, user=user, topic=topic, after=after, limit=limit)
        return await self._read(job, ())

    async def sweep(self, limit: int) -> int:
        """See `notify.inbox.abc.InboxStore.sweep`."""
        self._database.check()
        return await self._database.jobs.run(self._sweep, limit)

    # -- inside --------------------------------------------------------------------------------------------------

    async def _page(self, user: str, query: ItemQuery, pulled: bool) -> ItemPage | None:
        sql, limits = self._database.sql, self._now()

        def job(db: sqlite3.Connection) -> ItemPage | None:
            if self._has_inbox(db):
                return items.page(db, sql, user, query, limits, pulled)
            return items.empty_page(record.head(db, sql, user))

        return await self._database.read(job, items.empty_page(ids.ZERO))

    async def _pull(self, user: str) -> int:
        copied, done = 0, False
        while not done:
            job = partial(_pull, sql=self._database.sql, user=user, limits=self._now())
            count, done = await self._database.change(job, "the items of topics cannot be taken over")
            copied += count
            await anyio.lowlevel.checkpoint()
        return copied

    async def _sweep(self, limit: int) -> int:
        removed = 0
        no_users: Sequence[str] = ()
        while removed < limit:
            sql, limits = self._database.sql, self._now()
            look: Job[Sequence[str]] = partial(find_due, sql=sql, limits=limits, limit=_INBOXES)
            users = await self._read(look, no_users)
            if not users:
                break
            most = min(limit - removed, MAX_ROWS)
            job = partial(sweep, sql=sql, users=users, limits=limits, limit=most)
            removed += await self._database.change(job, "due items cannot be removed")
            await anyio.lowlevel.checkpoint()
        return removed

    async def _read(self, job: Job[T], empty: T) -> T:
        """Run a job on the reading connection; return `empty` if the file has no tables of inboxes yet."""
        return await self._database.read(lambda db: job(db) if self._has_inbox(db) else empty, empty)

    def _has_inbox(self, db: sqlite3.Connection) -> bool:
        """Return whether the file has the tables of inboxes; that of an earlier release gets them with a write."""
        if not self._is_there:
            self._is_there = db.execute(self._database.sql["has_inbox"]).fetchone() == (1,)
        return self._is_there

    def _now(self) -> InboxLimits:
        limits = self._limits()
        return InboxLimits.at(limits.now >> ids.SEQUENCE_BITS, limits.inbox)


def _has_news(db: sqlite3.Connection, sql: Mapping[str, str], user: str) -> bool:
    moved = db.execute(sql["moved_topics"], (user,)).fetchall()
    return any(db.execute(sql["has_item_after"], (topic, position)).fetchone() == (1,) for topic, position, _ in moved)


def _pull(db: sqlite3.Connection, sql: Mapping[str, str], user: str, limits: InboxLimits) -> tuple[int, bool]:
    writer = InboxWriter(db, sql, limits)
    outcome = pull(writer, user, MAX_ROWS)
    writer.flush()
    return outcome
