"""Events as rows: columns of a batch, and events of records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from notify import Event, Page, continuity, ids
from notify.event import NO_META, build

Row: TypeAlias = Any
"""A record of the driver's: by name, by number, or unpacked."""

FIELDS: Final = ("id", "prev", "micros", "type", "data", "topic", "key", "meta")
BITS: Final = ids.SEQUENCE_BITS
MASK: Final = (1 << BITS) - 1


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
    number, prev, micros, type_, data, topic, key, meta = (row[name] for name in FIELDS)
    return build(
        ids.unpack(number),
        ids.unpack(prev),
        user,
        type_,
        data,
        micros,
        topic,
        key,
        MappingProxyType(json.loads(meta)) if meta else NO_META,
    )


def page_of(user: str, after: str, rows: Sequence[Row]) -> Page:
    """Return the page that the rows of one user make; they begin with head, expired and the fields of an event."""
    if not rows or rows[0][0] is None:
        return Page((), continuity(after, None, ids.ZERO), ids.ZERO)
    head, expired = ids.unpack(rows[0][0]), rows[0][1]
    if rows[0][2] is None:
        return Page((), continuity(after, None, head, expired=expired), head)
    events: list[Event] = []
    last, last_id = 0, ids.ZERO
    for row in rows:
        _, _, number, prev, micros, type_, data, topic, key, meta = row
        if number <= last:  # no standard says that they come in order
            return page_of(user, after, sorted(rows, key=lambda row: row[2]))
        prev_id = last_id if prev == last else ids.unpack(prev)
        last, last_id = number, f"{number >> BITS}-{number & MASK}"
        frozen = MappingProxyType(json.loads(meta)) if meta else NO_META
        events.append(build(last_id, prev_id, user, type_, data, micros, topic, key, frozen))
    return Page(events, continuity(after, events[0].prev, head), last_id)
