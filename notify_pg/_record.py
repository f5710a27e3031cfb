"""Events as rows: columns of a batch, and events of records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import repeat
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from notify import Event, Page, continuity, ids
from notify.event import NO_META, build_event

Row: TypeAlias = Any
"""A record of the driver's: by name, by number, or unpacked."""

FIELDS: Final = ("id", "prev", "micros", "type", "data", "topic", "key", "meta")
BITS: Final = ids.SEQUENCE_BITS
MASK: Final = (1 << BITS) - 1


def columns(events: Sequence[Event]) -> tuple[list[Any] | None, ...]:
    """Return users, micros, types, data, topics, keys and metas.

    A column that no event has is None; micros, types and data that are the same for all stand there once.
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
    """Return the column, or None where nothing is in it: the driver looks at each element three times."""
    return column if any(value is not None for value in column) else None


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
        _meta(meta),
    )


def page_of(user: str, after: str, rows: Sequence[Row]) -> Page:
    """Return the page that the rows of one user make: the head's, which has no type, and those of events."""
    rows = rows if not rows or rows[0][3] is None else sorted(rows, key=_place)  # no standard says that they come so
    if not rows or rows[0][0] is None:
        return Page((), continuity(after, None, ids.ZERO), ids.ZERO)
    head, expired = ids.unpack(rows[0][0]), bool(rows[0][2])
    if len(rows) == 1:
        return Page((), continuity(after, None, head, expired=expired), head)
    numbers, before, micros, types, data, topics, keys, metas = zip(*rows[1:], strict=True)
    if [*numbers] != sorted(numbers):
        return page_of(user, after, sorted(rows, key=_place))
    names = [f"{number >> BITS}-{number & MASK}" for number in numbers]
    if before[1:] == numbers[:-1]:
        previous = [ids.unpack(before[0]), *names[:-1]]
    else:
        previous = [ids.unpack(number) for number in before]
    frozen = map(_meta, metas) if any(metas) else repeat(NO_META)
    events = [*map(build_event, names, previous, repeat(user), types, data, micros, topics, keys, frozen)]
    return Page(events, continuity(after, events[0].prev, head), names[-1])


def _place(row: Row) -> tuple[bool, int]:
    return (row[3] is not None, row[0])


def _meta(text: str | None) -> Mapping[str, str]:
    return MappingProxyType(json.loads(text)) if text else NO_META
