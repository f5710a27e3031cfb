"""Converts events to columns of a batch, and rows to events and pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import repeat
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from notify import Event, Page, ids
from notify.adapters import build_event
from notify.event import NO_META

Row: TypeAlias = Any
"""A record of the driver: accessible by name and by number, and unpackable."""

FIELDS: Final = ("id", "prev", "micros", "type", "data", "topic", "key", "meta")
BITS: Final = ids.SEQUENCE_BITS
MASK: Final = (1 << BITS) - 1


def columns(events: Sequence[Event]) -> tuple[list[Any] | None, ...]:
    """Return the columns users, micros, types, data, topics, keys and metas of a batch.

    The batch travels as seven arrays, so that one prepared statement fits every size. An empty column is None, and
    micros, types and data that are the same for all events (`push_many`) are sent once.
    """
    return (
        [event.user for event in events],
        _once([event.micros for event in events]),
        _once([event.type for event in events]),
        _once([event.data for event in events]),
        _filled([event.group for event in events]),
        _filled([event.key for event in events]),
        _filled([json.dumps(dict(event.meta)) if event.meta else None for event in events]),
    )


def _once(column: list[Any]) -> list[Any]:
    return column[:1] if column and column.count(column[0]) == len(column) else column


def _filled(column: list[str | None]) -> list[str | None] | None:
    """Return the column, or None if it is empty: the driver looks at each element three times."""
    return None if column.count(None) == len(column) else column


def event_of(user: str, row: Row) -> Event:
    """Return the event of a row."""
    number, prev, micros, type_, data, topic, key, meta = (row[name] for name in FIELDS)
    return build_event(
        ids.unpack(number),
        ids.unpack(prev),
        user,
        type_,
        data,
        micros,
        topic,
        key,
        meta_of(meta),
    )


def page_of(user: str, after: str, rows: Sequence[Row]) -> Page:
    """Return the page of one user's rows: one row for the head, which has no type, and one for each event."""
    rows = rows if not rows or rows[0][3] is None else sorted(rows, key=_order)  # SQL does not promise an order
    if not rows or rows[0][0] is None:
        return Page.of((), after, ids.ZERO)
    head, expired = ids.unpack(rows[0][0]), bool(rows[0][2])
    if len(rows) == 1:
        return Page.of((), after, head, expired=expired)
    numbers, before, micros, types, data, topics, keys, metas = zip(*rows[1:], strict=True)
    if [*numbers] != sorted(numbers):
        return page_of(user, after, sorted(rows, key=_order))
    names = [f"{number >> BITS}-{number & MASK}" for number in numbers]
    if before[1:] == numbers[:-1]:  # an unbroken chain: the text of each `prev` is there already
        previous = [ids.unpack(before[0]), *names[:-1]]
    else:
        previous = [ids.unpack(number) for number in before]
    frozen = map(meta_of, metas) if any(metas) else repeat(NO_META)
    events = [*map(build_event, names, previous, repeat(user), types, data, micros, topics, keys, frozen)]
    return Page.of(events, after, head)


def _order(row: Row) -> tuple[bool, int]:
    return (row[3] is not None, row[0])


def meta_of(text: str | None) -> Mapping[str, str]:
    """Return the `meta` of an event, given its column."""
    return MappingProxyType(json.loads(text)) if text else NO_META
