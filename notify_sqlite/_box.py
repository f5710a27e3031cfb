"""One transaction's changes to inboxes: each change to a row moves the counters of its inbox.

The counters of an inbox are read once and written once for each transaction, whatever happens in between. Rows are
deleted after they were read, not by `RETURNING`: SQLite 3.40 answers `RETURNING x IS NULL` with 0 where x is NULL,
which corrupts counters and raises no error.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ._items import PLACES, InboxLimits, due_items, may_be_due, place_of
from ._record import Row, insert_many, rows_of_users

DUE_AT_ONCE: Final = 500
"""Due items that one transaction removes from an inbox at most."""

_OVERFULL: Final = 10
"""How many times `max_items` unread items may be kept by `keep_unread`."""


class SQLiteBox:
    """What one inbox contains, counted; see `create_inbox` in `_sql/inbox.sql`.

    Args:
        row: the user and the columns; the user alone for an inbox that has never had an item.

    Attributes:
        written: the bounds as the table has them; empty if it has none.
    """

    __slots__ = ("changed", "expires", "kept", "oldest", "total", "unread", "unseen", "user", "written")

    def __init__(self, row: Row) -> None:
        self.changed = False
        self.user: str
        self.kept: int
        self.total: int
        self.unseen: int
        self.unread: int
        self.oldest: int | None
        self.expires: int | None
        self.user, self.kept, self.total, self.unseen, self.unread, self.oldest, self.expires = (
            row if len(row) > 1 else (*row, 0, 0, 0, 0, None, None)
        )
        self.written = row[5:]

    @property
    def has_written_bounds(self) -> bool:
        """Whether the table has a row with these bounds."""
        return self.written == (self.oldest, self.expires)

    def write(self) -> Row:
        """Return the row to be written, and note that it is."""
        self.changed = False
        self.written = (self.oldest, self.expires)
        return (self.user, self.kept, self.total, self.unseen, self.unread, self.oldest, self.expires)

    def count(self, times: Sequence[int | None], sign: int) -> None:
        """Count a row that comes (1) or goes (-1), by the times it was seen, read and dismissed."""
        seen_at, read_at, dismissed_at = times
        self.total += sign * (dismissed_at is None)
        self.unseen += sign * (seen_at is None)
        self.unread += sign * (read_at is None)
        self.changed = True

    def came(self, id: int, times: Sequence[int | None], expires_at: int | None) -> None:
        """Count a row that was inserted, and lower the bounds to it."""
        self.kept += 1
        self.count(times, 1)
        if self.oldest is None or id < self.oldest:
            self.oldest = id
        if expires_at is not None and (self.expires is None or expires_at < self.expires):
            self.expires = expires_at


class InboxWriter:
    """Changes rows and counters inside one transaction.

    Invariants:
        I1. After `flush`, each counter is the number of rows that it counts.
        I2. No item is older than `oldest` of its inbox, or expires before its `expires`.
        I3. Items are read only after those in `_new` and `_new_plain` were inserted, which happens for many at once.

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
        self._new: list[Row] = []
        self._new_plain: list[Row] = []
        self._new_groups: set[tuple[str, str]] = set()

    def read(self, name: str, *parameters: object) -> list[Row]:
        """Return the rows that a statement finds; keeps I3."""
        self._insert()
        return self.db.execute(self.sql[name], parameters).fetchall()

    def load_all(self, users: list[str]) -> None:
        """Read the counters of these inboxes."""
        for row in rows_of_users(self.db.execute, self.sql["box"], self.sql["boxes"], users):
            self._boxes[row[0]] = SQLiteBox(row)

    def load(self, user: str) -> SQLiteBox:
        """Return the counters of an inbox, which may have due items."""
        box = self._boxes.get(user)
        if box is None:
            row = self.db.execute(self.sql["box"], (user,)).fetchone()
            box = self._boxes[user] = SQLiteBox(row or (user,))
        return box

    def box(self, user: str) -> SQLiteBox:
        """Return the counters of an inbox, the due items of which have been removed, up to `DUE_AT_ONCE`."""
        box = self._boxes.get(user) or self.load(user)
        if may_be_due(self.limits, box.oldest, box.expires):
            self.remove_due(box, DUE_AT_ONCE)
        return box

    def send_plain(self, box: SQLiteBox, id: int, content: Row) -> None:
        """As `send`, in a third of the time, for an item without group and expiry, as most are."""
        self._new_plain.append((box.user, id, *content))
        box.kept += 1
        box.total += 1
        box.unseen += 1
        box.unread += 1
        box.changed = True
        if box.oldest is None or id < box.oldest:
            box.oldest = id
        if box.kept > self.limits.max_items:
            self.trim(box)

    def send(self, box: SQLiteBox, row: Row) -> None:
        """Add an item that was just appended, in the place of that of its group; keeps I1 and I2."""
        group = row[2]
        if group is not None:
            if (box.user, group) in self._new_groups:
                self._insert()
            found = self.db.execute(self.sql["current_item"], (box.user, group, "")).fetchall()
            self.remove(box, found)
            self._new_groups.add((box.user, group))
        self._new.append((box.user, 0, *row))
        box.came(row[0], (None, None, None), row[6])
        if self.limits.is_due(row[0], None, row[6]):
            self.remove_due(box, DUE_AT_ONCE)  # before others have to go for it
        self.trim(box)

    def copy(self, box: SQLiteBox, row: Row) -> None:
        """Add an item of another inbox in the place of that of its log and group; keeps I1 and I2."""
        id_, log, group, seen_at, read_at, dismissed_at, expires_at = row[:7]
        if self.read("named_item", box.user, id_, log):
            return  # it is there already, as after a position was restored from a backup
        if group is not None:
            self.remove(box, self.read("current_item", box.user, group, log))
        times = (seen_at, read_at, dismissed_at)
        self.db.execute(self.sql["insert_item"], (box.user, place_of(times), *row))
        box.came(id_, times, expires_at)

    def remove(self, box: SQLiteBox, rows: Iterable[Row]) -> None:
        """Remove these items; keeps I1."""
        for row in rows:
            self.db.execute(self.sql["delete_item"], (box.user, place_of(row[2:5]), *row[:2]))
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
                self.remove(box, self.oldest(box, excess, (1, 2)))
            excess = box.kept - _OVERFULL * limit
        if excess > 0:
            self.remove(box, self.oldest(box, excess, PLACES["all"]))

    def oldest(self, box: SQLiteBox, count: int, places: Iterable[int]) -> list[Row]:
        """Return the oldest items of these places."""
        sizes = (box.unread, box.total - box.unread, box.kept - box.total)
        rows = [row for place in places if sizes[place] for row in self.read("oldest_items", box.user, place, count)]
        return sorted(rows, key=lambda row: (row[0], row[1]))[:count]

    def set_times(self, box: SQLiteBox, rows: Iterable[tuple[Row, Sequence[int | None]]]) -> None:
        """Give items other times at which they were seen, read and dismissed; keeps I1."""
        self.count_times(box, rows)
        changes = [(*times, place_of(times), box.user, place_of(row[2:5]), *row[:2]) for row, times in rows]
        self.db.executemany(self.sql["set_item"], changes)

    def set_up_to(
        self,
        box: SQLiteBox,
        rows: Iterable[tuple[Row, Sequence[int | None]]],
        effect: str,
        bounds: Mapping[str, int],
    ) -> None:
        """As `set_times`, where these are all items up to a bound in each log that an effect changes: many at once."""
        self.count_times(box, rows)
        statement, limits = self.sql[f"set_{effect}"], self.limits
        times = [limits.now] * (statement.partition("WHERE")[0].count("?"))
        for log in {row[1] for row, _ in rows}:
            range_ = (box.user, log, bounds[log], limits.now, limits.horizon, limits.keep_unread)
            self.db.execute(statement, (*times, *range_))

    def count_times(self, box: SQLiteBox, rows: Iterable[tuple[Row, Sequence[int | None]]]) -> None:
        """Count items of which the times change."""
        for row, times in rows:
            box.count(row[2:5], -1)
            box.count(times, 1)

    def remove_due(self, box: SQLiteBox, limit: int) -> int:
        """Remove due items, up to a limit, and return how many."""
        self._insert()  # keeps I3
        rows = [*due_items(self.db, self.sql, box.user, self.limits, limit).values()][:limit]
        self.remove(box, rows)
        if len(rows) < limit:  # the bounds are not raised by what is removed, so they may have been too low
            bounds = self.db.execute(self.sql["bounds"], (box.user,) * 4).fetchone()
            box.changed = box.changed or bounds != (box.oldest, box.expires)
            box.oldest, box.expires = bounds
        return len(rows)

    def flush(self) -> None:
        """Write what has changed."""
        self._insert()
        changed = [box for box in self._boxes.values() if box.changed]
        statements = [self.sql["set_counts"] if box.has_written_bounds else self.sql["set_box"] for box in changed]
        for statement in dict.fromkeys(statements):
            some = [box.write() for box, its in zip(changed, statements, strict=True) if its is statement]
            insert_many(self.db, statement, some)

    def _insert(self) -> None:
        if self._new_plain:
            insert_many(self.db, self.sql["insert_plain_item"], self._new_plain)
            self._new_plain.clear()
        if self._new:
            insert_many(self.db, self.sql["insert_item"], self._new)
            self._new.clear()
            self._new_groups.clear()


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
    box = SQLiteBox(db.execute(sql["box"], (user,)).fetchone())
    bounds: Row = db.execute(sql["bounds"], (user,) * 4).fetchone()
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
