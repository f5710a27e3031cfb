"""What a store does to its tables: synchronous, run in a connection's thread, inside its transaction.

Ids are packed as `notify.ids.pack` does, and grow over the whole file: one row counts them, and writers are serial.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from notify import Event, Page, continuity, ids
from notify.event import NO_META, build_event

CHUNK: Final = 500
"""Rows that one transaction adds, and rows that it removes, at most: others get their turn soon."""

_LOOKUPS: Final = 50
"""Users whose heads one statement looks up."""

_ROWS: Final = 50
"""Rows that one statement inserts: with nine values each within the limit that every SQLite has."""

_SEQUENCE: Final = (1 << ids.SEQUENCE_BITS) - 1

Row: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is kept.

    Attributes:
        max_len: events of each user.
        horizon: packed id before which an event is too old; 0: none is.
        key_horizon: packed id before which an idempotency key counts no more.
        now: packed id that the clock allows now.
    """

    max_len: int
    horizon: int
    key_horizon: int
    now: int


class Head:
    """Where the log of one user stands, while a batch appends to it."""

    __slots__ = ("id", "kept", "last_id")

    def __init__(self, last_id: int = 0, kept: int = 0) -> None:
        self.last_id, self.kept = last_id, kept
        self.id = ids.unpack(last_id) if last_id else ids.ZERO


def append(db: sqlite3.Connection, sql: Mapping[str, str], drafts: Sequence[Event], limits: Limits) -> list[Event]:
    """Append the events to their users' logs, at most `CHUNK`, and return them as stored."""
    execute = db.cursor().execute
    heads = _heads(execute, sql, drafts)
    grown: dict[str, Head] = {}
    keyed: dict[tuple[str, str], Event] = {}
    rows: list[Row] = []
    stored: list[Event] = []
    (last,) = execute(sql["last_id"]).fetchone()
    now = limits.now
    for draft in drafts:
        user, key, meta = draft.user, draft.key, draft.meta
        if key is not None:
            first = keyed.get((user, key)) or _first_of_key(
                execute(sql["event_of_key"], (user, key, limits.key_horizon)).fetchone(), draft
            )
            if first is not None:
                stored.append(first)
                continue
        head = grown[user] = heads[user]
        last = last + 1 if last >= now else now
        id_ = f"{last >> ids.SEQUENCE_BITS}-{last & _SEQUENCE}"  # unpacked in place: a third of the time
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


def _heads(execute: Any, sql: Mapping[str, str], drafts: Sequence[Event]) -> dict[str, Head]:
    """Return where the log of each of these users stands; many of them are looked up at once, in half the time."""
    heads = {draft.user: Head() for draft in drafts}
    users = list(heads)
    for start in range(0, len(users), _LOOKUPS):
        some = users[start : start + _LOOKUPS]
        if len(some) < _LOOKUPS // 4:
            found = [row for user in some for row in execute(sql["head_of"], (user,))]
        else:
            found = execute(sql["heads_of"], [*some, *some[-1:] * (_LOOKUPS - len(some))]).fetchall()
        for user, last_id, kept in found:
            heads[user] = Head(last_id, kept)
    return heads


def _insert(db: sqlite3.Connection, statement: str, rows: Sequence[Row]) -> None:
    """Insert rows, most of them many to a statement, which takes a quarter less time."""
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


def _first_of_key(row: Row | None, draft: Event) -> Event | None:
    """Return the event that had this key first; where retention took it, with the content of the repetition."""
    if row is None:
        return None
    id_, prev, type_, data, micros, group, key, meta = row
    if type_ is None:
        return draft.stored(ids.unpack(id_), ids.unpack(prev))
    return build_event(
        ids.unpack(id_), ids.unpack(prev), draft.user, type_, data, micros, group, key, _meta(meta) if meta else NO_META
    )


def _bound(execute: Any, sql: Mapping[str, str], heads: Mapping[str, Head], max_len: int) -> None:
    """Remove the oldest events of who has too many: a sixteenth at once, which is cheaper than one by one."""
    slack = max_len // 16
    budget = CHUNK
    for user, head in heads.items():
        excess = head.kept - max_len
        if excess > slack and budget > 0:
            removed = execute(sql["delete_oldest"], (user, user, min(excess, budget))).rowcount
            head.kept -= removed
            budget -= removed


def page(db: sqlite3.Connection, sql: Mapping[str, str], user: str, after: str, limit: int, horizon: int) -> Page:
    """Return one page. Each statement is one view: events prove their own continuity, the head that there are none."""
    start = max(ids.pack(after), horizon - 1)
    while not (rows := db.execute(sql["events_after"], (user, start, limit)).fetchall()):
        last, more = db.execute(sql["end_of_log"], (user, user, start)).fetchone()
        if not more:  # else they came in between
            head = ids.unpack(last or 0)
            expired = last is not None and last < horizon
            return Page((), continuity(after, None, head, expired=expired), head)
    events: list[Event] = []
    add, bits, mask, none = events.append, ids.SEQUENCE_BITS, _SEQUENCE, NO_META
    packed, text, ms, begin = -1, "", -1, ""
    for id_, prev, type_, data, micros, group, key, meta in rows:
        before = text if prev == packed else ids.unpack(prev)
        packed = id_
        if id_ >> bits != ms:  # many events to a millisecond: nobody else needs a replay to be fast
            ms = id_ >> bits
            begin = f"{ms}-"
        text = f"{begin}{id_ & mask}"
        add(build_event(text, before, user, type_, data, micros, group, key, _meta(meta) if meta else none))
    return Page(events, continuity(after, events[0].prev, text), text)


def pages(
    db: sqlite3.Connection, sql: Mapping[str, str], after: Mapping[str, str], limit: int, horizon: int
) -> dict[str, Page]:
    """Return a page for every user who has news or a gap."""
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


def news(db: sqlite3.Connection, sql: Mapping[str, str], after: int) -> list[tuple[str, int]]:
    """Return the users whose logs went on after this packed id, with where they stand, in order; at most `CHUNK`."""
    return db.execute(sql["news"], (after, CHUNK)).fetchall()


def has_older(db: sqlite3.Connection, sql: Mapping[str, str], before: int, keys_before: int) -> bool:
    """Return whether `remove_older` or `remove_keys` would find something."""
    return any(
        db.execute(sql[name], (bound, 1)).fetchone() is not None
        for name, bound in (("older", before), ("older_keys", keys_before))
    )


def remove_older(db: sqlite3.Connection, sql: Mapping[str, str], before: int) -> int:
    """Remove the oldest events before this packed id, at most `CHUNK`, and return how many."""
    rows = db.execute(sql["older"], (before, CHUNK)).fetchall()
    db.executemany(sql["delete_event"], rows)
    counts = Counter(user for user, _ in rows)
    db.executemany(sql["lower_kept"], [(count, user) for user, count in counts.items()])
    return len(rows)


def remove_keys(db: sqlite3.Connection, sql: Mapping[str, str], before: int) -> int:
    """Forget the oldest idempotency keys before this packed id, at most `CHUNK`, and return how many."""
    rows = db.execute(sql["older_keys"], (before, CHUNK)).fetchall()
    db.executemany(sql["delete_key"], rows)
    return len(rows)


def _meta(text: str) -> Mapping[str, str]:
    return MappingProxyType(json.loads(text))
