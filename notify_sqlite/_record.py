"""Rows and events: reading pages of a log, and what the retention options mean in ids.

The functions are synchronous and run in a connection's thread. The id of an event is packed into one integer, as
`notify.ids.pack` does it. Ids grow over the whole file, not only within one log: one row counts them and writers are
serial, so the order of ids is the order of commits, and "what is new after this id" is one query for all users.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, Self, TypeAlias

from notify import Event, Page, ids
from notify.adapters import Retention, build_event, continuity
from notify.event import NO_META
from notify.inbox.abc import InboxRetention

_LOOKUPS: Final = 50
"""Users that one statement looks up."""

_ROWS: Final = 50
"""Rows that one statement inserts: with thirteen values each, within the limit of parameters that every SQLite has."""

SEQUENCE_MASK: Final = (1 << ids.SEQUENCE_BITS) - 1

Row: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the retention options allow at one moment.

    Attributes:
        max_len: events kept for each user.
        horizon: packed id below which an event is too old; 0: no event is.
        key_horizon: packed id below which an idempotency key has lapsed.
        now: the first packed id of this millisecond.
        inbox: the retention of inboxes.
    """

    max_len: int
    horizon: int
    key_horizon: int
    now: int
    inbox: InboxRetention

    @classmethod
    def at(cls, seconds: float, retention: Retention, inbox: InboxRetention) -> Self:
        """Return the limits at this time, in seconds since 1970."""
        now = int(seconds * 1000)
        key_horizon = packed(now - int(retention.key_window * 1000))
        return cls(retention.max_len, horizon_at(seconds, retention), key_horizon, packed(now), inbox)


def horizon_at(seconds: float, retention: Retention) -> int:
    """Return the packed id below which an event is too old at this time; 0 where no event is."""
    return 0 if retention.max_age is None else packed(int((seconds - retention.max_age) * 1000))


def packed(ms: int) -> int:
    """Return the first packed id of this millisecond."""
    return max(ms, 0) << ids.SEQUENCE_BITS


def rows_of_users(execute: Any, one: str, many: str, users: list[str]) -> Iterator[Row]:
    """Yield the rows of these users. Looking up many at once takes half the time.

    Args:
        execute: of a cursor.
        one: a statement that finds the row of one user, which begins with the user.
        many: the same for `_LOOKUPS` users.
        users: whose rows.
    """
    for start in range(0, len(users), _LOOKUPS):
        some = users[start : start + _LOOKUPS]
        if len(some) < _LOOKUPS // 4:
            for user in some:
                yield from execute(one, (user,))
        else:
            yield from execute(many, [*some, *some[-1:] * (_LOOKUPS - len(some))]).fetchall()


def insert_many(db: sqlite3.Connection, statement: str, rows: Sequence[Row]) -> None:
    """Insert rows, `_ROWS` to a statement as far as possible, which takes a quarter less time."""
    if len(rows) == 1:
        db.execute(statement, rows[0])
        return
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


def page(db: sqlite3.Connection, sql: Mapping[str, str], user: str, after: str, limit: int, horizon: int) -> Page:
    """Return one page.

    Each statement reads one state of the file, which may change in between. That is enough: events prove by their
    `prev` that nothing is missing before them, and an empty page is returned only with a head read at the same time.
    """
    start = max(ids.pack(after), horizon - 1)
    while not (rows := db.execute(sql["events_after"], (user, start, limit)).fetchall()):
        last, more = db.execute(sql["end_of_log"], (user, user, start)).fetchone()
        if not more:  # otherwise events were added between the two statements
            return Page.of((), after, ids.unpack(last or 0), expired=last is not None and last < horizon)
    events: list[Event] = []
    add, bits, mask, none = events.append, ids.SEQUENCE_BITS, SEQUENCE_MASK, NO_META
    packed, text, ms, begin = -1, "", -1, ""
    for id_, prev, type_, data, micros, group, key, meta in rows:
        before = text if prev == packed else ids.unpack(prev)
        packed = id_
        if id_ >> bits != ms:  # a log that is long enough to matter has many events to a millisecond
            ms = id_ >> bits
            begin = f"{ms}-"
        text = f"{begin}{id_ & mask}"
        add(build_event(text, before, user, type_, data, micros, group, key, _meta(meta) if meta else none))
    return Page(events, continuity(after, events[0].prev, text), text)


def no_page(after: str) -> Page:
    """Return the page of a log of which nothing is known: it is empty."""
    return Page.of((), after, ids.ZERO)


def no_pages(after: Mapping[str, str]) -> dict[str, Page]:
    """Return the pages of such logs that have a gap."""
    found = {user: no_page(position) for user, position in after.items()}
    return {user: page for user, page in found.items() if page.gap is not None}


def pages(
    db: sqlite3.Connection, sql: Mapping[str, str], after: Mapping[str, str], limit: int, horizon: int
) -> dict[str, Page]:
    """Return a page for every user with new events or a gap after that user's position."""
    found = {}
    for user, position in after.items():
        row = db.execute(sql["head_of"], (user,)).fetchone()
        if (row[1] if row else 0) != ids.pack(position):
            found[user] = page(db, sql, user, position, limit, horizon)
    return found


def head(db: sqlite3.Connection, sql: Mapping[str, str], user: str) -> str:
    """Return the id of the last event ever appended to this log."""
    row = db.execute(sql["head_of"], (user,)).fetchone()
    return ids.unpack(row[1]) if row else ids.ZERO


def first_of_key(row: Row | None, draft: Event) -> Event | None:
    """Return the first event with this key; if retention has removed it, the repeated one under its id."""
    if row is None:
        return None
    id_, prev, type_, data, micros, group, key, meta = row
    if type_ is None:
        return draft.stored(ids.unpack(id_), ids.unpack(prev))
    return build_event(
        ids.unpack(id_), ids.unpack(prev), draft.user, type_, data, micros, group, key, _meta(meta) if meta else NO_META
    )


def _meta(text: str) -> Mapping[str, str]:
    return MappingProxyType(json.loads(text))
