"""One transaction's changes to inboxes: each change to a row moves the counters of its inbox.

The counters of an inbox are read once and written once for each transaction, whatever happens in between. Rows are
deleted after they were read, not by `RETURNING`: SQLite 3.40 answers `RETURNING x IS NULL` with 0 where x is NULL,
which corrupts counters and raises no error.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ._items import InboxLimits, due_items, may_be_due
from ._record import Row

DUE_AT_ONCE: Final = 500
"""Due items that one transaction removes from an inbox at most."""

_OVERFULL: Final = 10
"""How many times `max_items` unread items may be kept by `keep_unread`."""


class SQLiteBox:
    """What one inbox contains, counted; see `create_inbox` in `_sql/inbox.sql`."""

    __slots__ = ("changed", "expires", "kept", "oldest", "total", "unread", "unseen", "user")

    def __init__(self, user: str, row: Row | None) -> None:
        self.user = user
        self.changed = False
        self.kept: int
        self.total: int
        self.unseen: int
        self.unread: int
        self.oldest: int | None
        self.expires: int | None
        self.kept, self.total, self.unseen, self.unread, self.oldest, self.expires = row or (0, 0, 0, 0, None, None)

    def count(self, times: Sequence[int | None], sign: int) -> None:
        """Count a row that comes (1) or goes (-1), by the times it was seen, read and dismissed."""
        seen_at, read_at, dismissed_at = times
        self.total += sign * (dismissed_at is None)
        self.unseen += sign * (seen_at is None)
        self.unread += sign * (read_at is None)
        self.changed = True


class InboxWriter:
    """Changes rows and counters inside one transaction.

    Invariants:
        I1. After `flush`, each counter is the number of rows that it counts.
        I2. No item is older than `oldest` of its inbox, or expires before its `expires`.

    Args:
        db: in a transaction.
        sql: the statements.
        limits: what the retention allows now.
    """

    def __init__(self, db: sqlite3.Connection, sql: Mapping[str, str], limits: InboxLimits) -> None:
        self.db = db
        self.sql = sql
        self.limits = limits
        self._boxes: dict[str, SQLiteBox] = {}

    def load(self, user: str) -> SQLiteBox:
        """Return the counters of an inbox, which may have due items."""
        box = self._boxes.get(user)
        if box is None:
            row = self.db.execute(self.sql["box"], (user,)).fetchone()
            box = self._boxes[user] = SQLiteBox(user, row)
        return box

    def box(self, user: str) -> SQLiteBox:
        """Return the counters of an inbox, the due items of which have been removed, up to `DUE_AT_ONCE`."""
        box = self.load(user)
        if may_be_due(self.limits, box.oldest, box.expires):
            self.remove_due(box, DUE_AT_ONCE)
        return box

    def add(self, box: SQLiteBox, row: Row) -> None:
        """Insert an item in the place of that of the same log and group; keeps I1 and I2."""
        id_, log, group, seen_at, read_at, dismissed_at, expires_at = row[:7]
        if group is not None:
            self.remove(box, self.db.execute(self.sql["current_item"], (box.user, group, log)).fetchall())
        if self.db.execute(self.sql["insert_item"], (box.user, *row)).rowcount == 0:
            return  # it is there already
        box.kept += 1
        box.count((seen_at, read_at, dismissed_at), 1)
        if box.oldest is None or id_ < box.oldest:
            box.oldest = id_
        if expires_at is not None and (box.expires is None or expires_at < box.expires):
            box.expires = expires_at

    def remove(self, box: SQLiteBox, rows: Iterable[Row]) -> None:
        """Remove these items; keeps I1."""
        for row in rows:
            self.db.execute(self.sql["delete_item"], (box.user, *row[:2]))
            box.kept -= 1
            box.count(row[2:5], -1)

    def trim(self, box: SQLiteBox) -> None:
        """Remove the oldest items beyond what the retention keeps."""
        limit = self.limits.max_items
        excess = box.kept - limit
        if excess <= 0:
            return
        if self.limits.keep_unread:
            if box.kept > box.unread:
                rows = self.db.execute(self.sql["oldest_read_items"], (box.user, excess)).fetchall()
                self.remove(box, rows)
            excess = box.kept - _OVERFULL * limit
        if excess > 0:
            self.remove(box, self.db.execute(self.sql["oldest_items"], (box.user, excess)).fetchall())

    def set_times(self, box: SQLiteBox, rows: Iterable[tuple[Row, Sequence[int | None]]]) -> None:
        """Give items other times at which they were seen, read and dismissed; keeps I1."""
        update = self.sql["set_item"]
        for row, times in rows:
            self.db.execute(update, (*times, box.user, *row[:2]))
            box.count(row[2:5], -1)
            box.count(times, 1)

    def remove_due(self, box: SQLiteBox, limit: int) -> int:
        """Remove due items, up to a limit, and return how many."""
        rows = [*due_items(self.db, self.sql, box.user, self.limits, limit).values()][:limit]
        self.remove(box, rows)
        if len(rows) < limit:
            self.set_bounds(box)
        return len(rows)

    def set_bounds(self, box: SQLiteBox) -> None:
        """Read the lower bounds again: as they are not raised by what is removed, they may be too low; keeps I2."""
        bounds = self.db.execute(self.sql["bounds"], (box.user, box.user)).fetchone()
        box.changed = box.changed or bounds != (box.oldest, box.expires)
        box.oldest, box.expires = bounds

    def flush(self) -> None:
        """Write the counters that have changed."""
        for box in self._boxes.values():
            if box.changed:
                counters = (box.user, box.kept, box.total, box.unseen, box.unread, box.oldest, box.expires)
                self.db.execute(self.sql["set_box"], counters)
                box.changed = False


def find_due(db: sqlite3.Connection, sql: Mapping[str, str], limits: InboxLimits, limit: int) -> list[str]:
    """Return users whose inboxes have due items, or lower bounds that are too low; a read, which takes no lock."""
    users: list[str] = []
    for name, bound in (("due_boxes_by_expiry", limits.now), ("due_boxes_by_age", limits.horizon)):
        after: tuple[int, str] = (-1, "")
        while len(users) < limit and (rows := db.execute(sql[name], (bound, *after, limit)).fetchall()):
            users += [user for _, user in rows if _is_worth(db, sql, user, limits)]
            after = rows[-1]
    return users[:limit]


def _is_worth(db: sqlite3.Connection, sql: Mapping[str, str], user: str, limits: InboxLimits) -> bool:
    if due_items(db, sql, user, limits, 1):
        return True
    box = SQLiteBox(user, db.execute(sql["box"], (user,)).fetchone())
    bounds: Row = db.execute(sql["bounds"], (user, user)).fetchone()
    return bounds != (box.oldest, box.expires)


def sweep(db: sqlite3.Connection, sql: Mapping[str, str], users: Iterable[str], limits: InboxLimits, limit: int) -> int:
    """Remove due items of these inboxes, up to a limit, and return how many; called inside a transaction."""
    writer = InboxWriter(db, sql, limits)
    removed = 0
    for user in users:
        if removed < limit:
            removed += writer.remove_due(writer.load(user), limit - removed)
    writer.flush()
    return removed
