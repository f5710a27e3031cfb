"""The items of an inbox as its readers get them: keys, pages, counts, positions.

The functions are synchronous and run in a connection's thread. A page and its counts are read in one transaction. An
item is named by its packed id and its log, which is empty for the user's own; ids of items sort by the former first.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Self, TypeAlias

from notify import Event, InvalidEventIdError, ids
from notify.adapters import build_event, join_positions
from notify.inbox.abc import ITEM, Counts, Follow, InboxRetention, Item, ItemPage, ItemQuery

from ._record import SEQUENCE_MASK, Row, packed
from ._worker import roll_back

Key: TypeAlias = tuple[int, str]
"""The packed id of an item, and its log."""

LAST: Final[Key] = ((1 << 63) - 1, "")
"""After every item."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PLAIN: Final = 64
"""Characters of a `meta` that is worth keeping decoded: such as have no trace context."""

_LAST_MS: Final = 253_402_300_799_999
"""The end of the year 9999, which a datetime can hold."""


@dataclass(frozen=True, slots=True)
class InboxLimits:
    """What the retention of inboxes allows at one moment.

    Attributes:
        now: milliseconds since 1970.
        horizon: packed id below which an item is too old; 0: none is.
        keep_unread: whether unread items stay, however old.
        max_items: items of one inbox.
    """

    now: int
    horizon: int
    keep_unread: bool
    max_items: int

    @classmethod
    def at(cls, now: int, retention: InboxRetention) -> Self:
        """Return the limits at this time, in milliseconds since 1970."""
        age = retention.max_age
        horizon = 0 if age is None else packed(now - int(age * 1000))
        return cls(now, horizon, retention.keep_unread, retention.max_items)

    def is_due(self, id: int, read_at: int | None, expires_at: int | None) -> bool:
        """Return whether an item no longer exists."""
        if expires_at is not None and expires_at <= self.now:
            return True
        return id < self.horizon and not (self.keep_unread and read_at is None)


PLACES: Final[Mapping[str, tuple[int, ...]]] = {
    "active": (0, 1),
    "unread": (0,),
    "read": (1,),
    "dismissed": (2,),
    "all": (0, 1, 2),
}
"""The places of items in each state; see `create_items` in `_sql/inbox.sql`."""


def place_of(times: Sequence[int | None]) -> int:
    """Return the place of an item that was seen, read and dismissed at these times."""
    return 2 if times[2] is not None else 0 if times[1] is None else 1


# -- one item ----------------------------------------------------------------------------------------------------


def key_of(text: object) -> Key | None:
    """Return the key of an item's id, or the nearest that a column can hold; None if the text is not such an id."""
    if not isinstance(text, str):
        return None
    number, at, log = text.partition("@")
    is_key = ids.is_id(number) and bool(at) == bool(log) and is_text(log)
    return (ids.pack(number), log) if is_key else None


def exact_key_of(text: object) -> Key | None:
    """Return the key of an item's id; None if no item can have it."""
    key = key_of(text)
    return key if key is not None and ids.unpack(key[0]) == ids.canonical(str(text).partition("@")[0]) else None


def is_text(text: str) -> bool:
    """Return whether a column can hold this text: not if it has a lone surrogate."""
    return text.isascii() or text.encode(errors="replace").decode() == text


def payload_of(event: Event) -> Any:
    """Return the payload of a change; None if it is not JSON that a column can hold."""
    try:
        payload = event.payload
        json.dumps(payload, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return payload


def id_of(id: int, log: str) -> str:
    """Return the id of the item with this key."""
    return f"{ids.unpack(id)}@{log}" if log else ids.unpack(id)


def expiry_of(meta: Mapping[str, str]) -> int | None:
    """Return when an item expires, in milliseconds since 1970."""
    text = meta[ITEM]
    expires = int(text[:20]) if text.isascii() and text.isdigit() else _LAST_MS + 1
    return expires if expires <= _LAST_MS else None


def item_of(user: str, row: Row) -> Item:
    """Return the item of a row of `user`."""
    id_, log, group, seen_at, read_at, dismissed_at, expires_at, type_, data, micros, meta = row
    text = f"{id_ >> ids.SEQUENCE_BITS}-{id_ & SEQUENCE_MASK}"
    event = build_event(text, "", log or user, type_, data, micros, group, None, _meta(meta))
    return Item(
        event,
        f"{text}@{log}" if log else text,
        None if seen_at is None else _EPOCH + timedelta(milliseconds=seen_at),
        None if read_at is None else _EPOCH + timedelta(milliseconds=read_at),
        None if dismissed_at is None else _EPOCH + timedelta(milliseconds=dismissed_at),
        None if expires_at is None else _EPOCH + timedelta(milliseconds=expires_at),
    )


def _meta(text: str) -> Mapping[str, str]:
    """Return the `meta` of an item, which is read-only; most items have the same."""
    return _plain_meta(text) if len(text) < _PLAIN else MappingProxyType(json.loads(text))


@lru_cache(maxsize=256)
def _plain_meta(text: str) -> Mapping[str, str]:
    return MappingProxyType(json.loads(text))


# -- an inbox ----------------------------------------------------------------------------------------------------


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Let all statements read one state of the file."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        roll_back(db)


def due_items(
    db: sqlite3.Connection, sql: Mapping[str, str], user: str, limits: InboxLimits, limit: int = -1
) -> dict[Key, Row]:
    """Return the due items of an inbox by their keys: id, log, the times it was seen, read, dismissed, and expires."""
    rows = db.execute(sql["expired_items"], (user, limits.now, limit)).fetchall()
    if limits.horizon:
        rows += db.execute(sql["aged_items"], (user, int(limits.keep_unread), limits.horizon, limit)).fetchall()
    return {(row[0], row[1]): row for row in rows}


def may_be_due(limits: InboxLimits, oldest: int | None, expires: int | None) -> bool:
    """Return whether an inbox with these lower bounds can have due items."""
    return (oldest is not None and oldest < limits.horizon) or (expires is not None and expires <= limits.now)


def counts(
    db: sqlite3.Connection, sql: Mapping[str, str], user: str, limits: InboxLimits, pulled: bool = False
) -> tuple[Counts, list[str]]:
    """Return the counts of an inbox, and which topics have items that are not in it.

    Args:
        db: in a transaction.
        sql: the statements.
        user: whose inbox.
        limits: what the retention allows now.
        pulled: whether this transaction has pulled, so that the positions of topics are up to date.
    """
    row = db.execute(sql["counts"], (user, user, user)).fetchone()
    head, follows, kept, total, unseen, unread, oldest, expires = row
    own = ids.unpack(head or 0)
    if kept is None:
        return Counts(position=own), []
    if may_be_due(limits, oldest, expires):
        due = due_items(db, sql, user, limits).values()
        total -= sum(dismissed_at is None for _, _, _, _, dismissed_at, _ in due)
        unseen -= sum(seen_at is None for _, _, seen_at, _, _, _ in due)
        unread -= sum(read_at is None for _, _, _, read_at, _, _ in due)
    if not follows:
        return Counts(total, unseen, unread, own), []
    position, news = _positions(db, sql, user, own, pulled)
    return Counts(total, unseen, unread, position), news


def _positions(
    db: sqlite3.Connection, sql: Mapping[str, str], user: str, own: str, pulled: bool
) -> tuple[str, list[str]]:
    """Return up to where the rows of an inbox are exact in each log; a topic without new items is so up to its end."""
    topics: dict[str, str] = {user: own}
    sessions: dict[str, str] = {}
    news = []
    for topic, _, position, merged, head in db.execute(sql["logs"], (user,)).fetchall():
        if merged:
            sessions[topic] = ids.unpack(position)
            continue
        if not pulled and head is not None and head > position:
            if db.execute(sql["has_item_after"], (topic, position)).fetchone() == (1,):
                news.append(topic)
            else:
                position = head
        topics[topic] = ids.unpack(position)
    return join_positions(topics | sessions), news


def page(
    db: sqlite3.Connection, sql: Mapping[str, str], user: str, query: ItemQuery, limits: InboxLimits, pulled: bool
) -> ItemPage | None:
    """Return a page and the counts; None if topics have items to be pulled first, unless that has just been done.

    Raises:
        InvalidEventIdError: `before` is not the id of an item.
    """
    before = LAST if query.before is None or query.ids is not None else key_of(query.before)
    if before is None:
        raise InvalidEventIdError(f"before= must be the id of an item, not {query.before!r:.80}")
    with snapshot(db):
        found, news = counts(db, sql, user, limits)
        if news and not pulled:
            return None
        if query.ids is not None:
            named = [item_of(user, row) for row in _named(db, sql, user, query.ids, limits)]
            return ItemPage(named, None, found, found.position)
        rows = _rows(db, sql, user, query, before, limits) if query.limit > 0 else []
    items = [item_of(user, row) for row in rows[: query.limit]]
    return ItemPage(items, items[-1].id if len(rows) > len(items) else None, found, found.position)


def _named(
    db: sqlite3.Connection, sql: Mapping[str, str], user: str, names: Sequence[str], limits: InboxLimits
) -> list[Row]:
    """Return the rows of the items with these ids, newest first."""
    keys = {key for key in map(exact_key_of, names) if key is not None}
    found = (db.execute(sql["item_of_id"], (user, *key)).fetchone() for key in sorted(keys, reverse=True))
    return [row for row in found if row is not None and not limits.is_due(row[0], row[4], row[6])]


def _rows(
    db: sqlite3.Connection, sql: Mapping[str, str], user: str, query: ItemQuery, before: Key, limits: InboxLimits
) -> list[Row]:
    """Return the rows of a page and one more, newest first."""
    types = None if query.types is None else json.dumps(query.types)
    filters = (*before, limits.now, limits.horizon, limits.keep_unread, types, types)
    if query.group is not None and not is_text(query.group):
        return []
    if query.group is None:
        found: list[Row] = []
        for place in PLACES[query.state]:
            found += db.execute(sql["items_of_place"], (user, place, *filters, query.limit + 1)).fetchall()
    else:
        rows = db.execute(sql["items_of_group"], (user, query.group, *filters)).fetchall()
        found = [row for row in rows if place_of(row[3:6]) in PLACES[query.state]]
    return sorted(found, key=lambda row: (row[0], row[1]), reverse=True)[: query.limit + 1]


def empty_page(position: str) -> ItemPage:
    """Return the page of an inbox that has never had an item."""
    return ItemPage((), None, Counts(position=position), position)


def edges(
    db: sqlite3.Connection, sql: Mapping[str, str], user: str, topic: str, after: str, limit: int
) -> Sequence[Follow]:
    """Return the topics of a user, or the followers of a topic, by name, after this name."""
    if topic:
        rows = db.execute(sql["followers_after"], (topic, after, limit)).fetchall()
        return [Follow(name, topic, ids.unpack(since)) for name, since in rows]
    rows = db.execute(sql["topics_after"], (user, after, limit)).fetchall()
    return [Follow(user, name, ids.unpack(since)) for name, since in rows]
