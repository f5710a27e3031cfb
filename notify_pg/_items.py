"""Converts rows of the inbox tables to items, counts and pages, and queries to the arguments of the statement."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from notify import InvalidEventIdError, ids
from notify.adapters import build_event, join_positions
from notify.inbox.abc import Change, Counts, Follow, InboxRetention, Item, ItemPage, ItemQuery

from ._effects import exact_key_of, key_of
from ._record import Row, meta_of

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_END: Final = (1 << 63) - 1
_UNLIMITED: Final = (1 << 63) - 1


def id_of(number: int, log: str) -> str:
    """Return the id of an item."""
    return f"{ids.unpack(number)}@{log}" if log else ids.unpack(number)


def retention_arguments(retention: InboxRetention) -> tuple[int, int | None, bool]:
    """Return `max_items`, `max_age` in milliseconds, and `keep_unread`."""
    max_age = None if retention.max_age is None else int(retention.max_age * 1000)
    return min(retention.max_items, _UNLIMITED // 10), max_age, retention.keep_unread


def named_arguments(names: Sequence[str]) -> tuple[Any, ...]:
    """Return the fourth and the fifth argument of inbox_named.sql: the keys of these ids, each once."""
    keys = {key for key in map(exact_key_of, names) if key is not None}
    return [id for id, _ in keys], [log for _, log in keys]


def query_arguments(query: ItemQuery) -> tuple[Any, ...]:
    """Return the arguments of inbox_page.sql from the fourth to the ninth.

    Raises:
        InvalidEventIdError: `query.before` is not an item's id.
    """
    last, limit = (_END, ""), query.limit + 1 if query.limit else 0
    if query.before is not None:
        before = key_of(query.before)
        if before is None:
            raise InvalidEventIdError(f"before= must be the id of an item, not {query.before!r:.80}")
        last = before
    types = None if query.types is None else [*query.types]
    return (*last, query.state, types, query.group, limit)


def page_of_items(user: str, query: ItemQuery, rows: Sequence[Row]) -> ItemPage:
    """Return the page of the rows that inbox_page.sql or inbox_named.sql has returned."""
    first = next(row for row in rows if row["id"] is None)
    found = sorted((row for row in rows if row["id"] is not None), key=_order, reverse=True)
    items = [item_of(user, row) for row in (found if query.ids is not None else found[: query.limit])]
    counts = counts_of(user, first)
    return ItemPage(items, items[-1].id if len(found) > len(items) else None, counts, counts.position)


def item_of(user: str, row: Row) -> Item:
    """Return the item of a row."""
    event = build_event(
        ids.unpack(row["id"]),
        "",
        row["log"] or user,
        row["type"],
        row["data"],
        row["micros"],
        row["group_name"],
        None,
        meta_of(row["meta"]),
    )
    times = (row["seen_at"], row["read_at"], row["dismissed_at"], row["expires_at"])
    return Item(event, id_of(row["id"], row["log"]), *map(_moment, times))


def counts_of(user: str, row: Row) -> Counts:
    """Return the counts that a row has, and the position for which they are exact."""
    positions = {user: ids.unpack(row["last"])}
    positions |= zip(row["topics"] or (), map(ids.unpack, row["positions"] or ()), strict=True)
    return Counts(row["total"], row["unseen"], row["unread"], join_positions(positions))


def change_of_row(draft: Any, row: Row) -> Change:
    """Return what a change did, given the row that inbox_change.sql has returned."""
    names = [id_of(number, log) for number, log in zip(row["ids"] or (), row["logs"] or (), strict=True)]
    event = None
    if row["id"] is not None:
        event = build_event(
            ids.unpack(row["id"]),
            ids.unpack(row["prev"]),
            draft.user,
            draft.type,
            row["data"],
            draft.micros,
            draft.group,
            draft.key,
            draft.meta,
        )
    return Change(tuple(names), counts_of(draft.user, row), event)


def follow_of(row: Row) -> Follow:
    """Return the follow of a row."""
    return Follow(row["user_id"], row["topic"], ids.unpack(row["since"]))


def _moment(ms: int | None) -> datetime | None:
    return None if ms is None else _EPOCH + timedelta(milliseconds=ms)


def _order(row: Row) -> tuple[int, str]:
    return (row["id"], row["log"])
