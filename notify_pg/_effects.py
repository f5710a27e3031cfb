"""What the events of a batch do to inboxes, as the functions of the database are told it.

A payload that the library does not write has no effect; so has a name that no row can have.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from notify import Event, InvalidEventIdError, ids
from notify.adapters import split_positions
from notify.inbox.abc import CHANGES, ITEM

Change: TypeAlias = dict[str, Any]
"""What `inbox_apply` in schema_1_inbox_logs.sql is given, as a JSON object."""

NOTHING: Final[Change] = {"kind": "seen", "ids": [], "logs": []}
"""A change that names no item."""

MARKS: Final = CHANGES - {"notify.followed", "notify.unfollowed", "notify.merged"}

NEVER: Final = -1
"""Stands for the expiry of an item that does not expire."""

LAST_MS: Final = 253_402_300_799_999
"""The end of the year 9999."""


class Effects(NamedTuple):
    """What the events of a batch do.

    Attributes:
        expiries: of each item, in milliseconds; None for what is not an item.
        changes: the event, where it changes an inbox.
    """

    expiries: list[int | None]
    changes: list[Event | None]

    @property
    def users_with_positions(self) -> list[str]:
        """The users whose followed logs have to be known, because a change names a position in several logs."""
        events = [event for event in self.changes if event is not None and has_positions(event)]
        return [*{event.user for event in events}]

    def columns(self, logs: Mapping[str, Collection[str]]) -> tuple[list[int | None], list[str | None] | None]:
        """Return the columns expiries and changes of a batch, given the logs that users follow."""
        if not any(self.changes):
            return self.expiries, None
        known = {user: {*names} for user, names in logs.items()}
        texts: list[str | None] = []
        for event in self.changes:
            if event is None:
                texts.append(None)
                continue
            change = change_of(event, known.get(event.user, ()))
            known.setdefault(event.user, set()).update(change[name] for name in ("topic", "session") if name in change)
            texts.append(json.dumps(change))
        return self.expiries, texts


def effects_of(events: Sequence[Event]) -> Effects | None:
    """Return what these events do to inboxes; None, quickly, if that is nothing."""
    if not any(event.type in CHANGES or (event.meta and ITEM in event.meta) for event in events):
        return None
    expiries = [_expiry(event.meta[ITEM]) if ITEM in event.meta else None for event in events]
    return Effects(expiries, [event if event.type in CHANGES and ITEM not in event.meta else None for event in events])


def _expiry(text: str) -> int:
    ms = int(text[:20]) if text.isascii() and text.isdigit() else NEVER
    return ms if ms <= LAST_MS else NEVER


def key_of(text: object) -> tuple[int, str] | None:
    """Return the packed id and the log, empty for the user's own, of an item's id; None if the text is not one."""
    if not isinstance(text, str):
        return None
    number, at, log = text.partition("@")
    return (ids.pack(number), log) if ids.is_id(number) and bool(at) == bool(log) and _is_name(log) else None


def exact_key_of(text: object) -> tuple[int, str] | None:
    """As `key_of`, but None for an id that does not fit into the integer that stands for it."""
    key = key_of(text)
    return key if key and ids.unpack(key[0]) == ids.canonical(str(text).partition("@")[0]) else None


def has_positions(event: Event) -> bool:
    """Return whether a change names positions in several logs."""
    up_to = event.payload.get("up_to") if event.type in MARKS and isinstance(event.payload, dict) else None
    return isinstance(up_to, str) and key_of(up_to) is None


def change_of(event: Event, logs: Collection[str]) -> Change:
    """Return what an event of a type in `CHANGES` does, given the logs that its user follows."""
    kind = event.type.removeprefix("notify.")
    payload: Any = event.payload
    if event.type in MARKS:
        return {"kind": kind, **_named(event.user, payload, logs)}
    match payload:
        case {"topic": str(topic), "since": str(since)} if kind == "followed" and _is_name(topic) and ids.is_id(since):
            return {"kind": kind, "topic": topic, "since": ids.pack(since)}
        case {"topic": str(topic)} if kind == "unfollowed" and _is_name(topic):
            return {"kind": kind, "topic": topic}
        case {"session": str(name), "until": str(until)} if kind == "merged" and _is_name(name) and ids.is_id(until):
            return {"kind": kind, "session": name, "until": ids.pack(until)}
    return NOTHING


def completed_change_of(draft: Event, logs: Collection[str]) -> Change:
    """As `change_of`; where the draft leaves a position open, the change says how to write it into the payload."""
    payload: Any = draft.payload
    name = {"notify.followed": "since", "notify.merged": "until"}.get(draft.type, "")
    if not name or not isinstance(payload, dict) or payload.get(name) is not None:
        return change_of(draft, logs)
    change = change_of(Event(draft.user, draft.type, payload | {name: ids.ZERO}), logs)
    mark = "\x00"  # written as \u0000, which occurs in no name
    text = json.dumps(payload | {name: mark}, ensure_ascii=False, separators=(",", ":"))
    before, _, after = text.partition("\\u0000")
    return change | {"before": before, "after": after} if change is not NOTHING else NOTHING


def _named(user: str, payload: Any, logs: Collection[str]) -> Change:
    """Return which items a payload names."""
    match payload:
        case {"ids": [*texts]}:
            keys = [key for key in map(exact_key_of, texts) if key is not None]
            return {"ids": [id_ for id_, _ in keys], "logs": [log for _, log in keys]}
        case {"up_to": str(up_to)}:
            return {"up_to": _bounds(user, up_to, logs)}
        case {"group": str(group)} if _is_name(group):
            return {"group": group}
    return {"ids": [], "logs": []}


def _bounds(user: str, up_to: str, logs: Collection[str]) -> dict[str, int]:
    """Return the position in each log that the text names."""
    key = key_of(up_to)
    if key is not None:
        return {key[1]: key[0]}
    try:
        found = split_positions(up_to, [user, *logs])
    except InvalidEventIdError:
        return {}
    return {"" if log == user else log: ids.pack(position) for log, position in found.items()}


def _is_name(text: str) -> bool:
    """Return whether the database can hold this text."""
    return not any(character == "\x00" or "\ud800" <= character <= "\udfff" for character in text)
