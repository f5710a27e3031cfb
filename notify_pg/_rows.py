"""Events as rows: columns of a batch, and events of records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from notify import Event, Page, continuity, ids
from notify.event import NO_META, build

Row = Mapping[str, Any]


def columns(events: Sequence[Event]) -> tuple[list[Any] | None, ...]:
    """Return users, micros, types, data, topics, keys (None where there is none) and metas."""
    keys = [event.key for event in events]
    return (
        [event.user for event in events],
        [event.micros for event in events],
        [event.type for event in events],
        [event.data for event in events],
        [event.group for event in events],
        keys if any(key is not None for key in keys) else None,
        [json.dumps(dict(event.meta)) if event.meta else None for event in events],
    )


def event_of(user: str, row: Row) -> Event:
    """Return the event of a row."""
    meta = row["meta"]
    return build(
        ids.unpack(row["id"]),
        ids.unpack(row["prev"]),
        user,
        row["type"],
        row["data"],
        row["micros"],
        row["topic"],
        row["key"],
        MappingProxyType(json.loads(meta)) if meta else NO_META,
    )


def page_of(user: str, after: str, rows: Sequence[Row]) -> Page:
    """Return the page that the rows of one user make, in whatever order they came."""
    if not rows or rows[0]["last_id"] is None:
        return Page((), continuity(after, None, ids.ZERO), ids.ZERO)
    head = ids.unpack(rows[0]["last_id"])
    if rows[0]["id"] is None:
        return Page((), continuity(after, None, head, expired=rows[0]["expired"]), head)
    events = [event_of(user, row) for row in in_order(rows)]
    return Page(events, continuity(after, events[0].prev, head), events[-1].id)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Return rows by id: free of cost where they are, as they always seem to be though no standard says so."""
    return sorted(rows, key=lambda row: row["id"])
