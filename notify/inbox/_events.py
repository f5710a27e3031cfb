"""Pure: checks the arguments of an inbox and builds the payloads of changes, so that nothing unchecked reaches a store.

A text that is not the id of an item is ignored, as an unknown id is, so that the answer does not reveal which items
exist. Everything else that is malformed is an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, get_args

from notify import InvalidEventError, InvalidEventIdError, PayloadTooLargeError, UsageError, ids
from notify.adapters import check_user, split_positions
from notify.event import Event, check_name, check_type, freeze_meta, plain

from .abc import ITEM, MAX_IDS, InboxRetention, ItemQuery, State

MAX_CHANGE: Final = 65_536
"""Bytes of JSON that a change may have: as many as every router carries."""

MARKS: Final = ("seen", "read", "unread", "dismissed", "restored")
"""The states that `Inbox.mark` accepts; each is a change of the type `notify.<state>`."""

_LAST_MS: Final = 253_402_300_799_999  # the end of the year 9999
_MOST: Final = 1_000_000_000  # items of an inbox, and seconds that it keeps them: every backend can calculate with that
_STATES: Final = get_args(State)
PLAIN_ITEM: Final[Mapping[str, str]] = freeze_meta({ITEM: ""})
"""The meta of an item that does not vanish by itself: one object for all of them."""


def item_meta(ttl: float | None, now: float) -> Mapping[str, str]:
    """Return the entry of `meta` that makes an event an item.

    Args:
        ttl: seconds until the item expires; None: never.
        now: seconds since 1970.

    Raises:
        UsageError: `ttl` is not a number greater than 0, or ends after the year 9999.
    """
    if ttl is None:
        return PLAIN_ITEM
    seconds: object = ttl  # untyped code may pass anything
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise UsageError(f"ttl must be a number of seconds greater than 0, not {ttl!r:.80}")
    expires = math.ceil((now + min(ttl, _LAST_MS)) * 1000)
    if expires > _LAST_MS:
        raise UsageError(f"ttl must end before the year 10000: leave it out for an item that stays, not {ttl!r:.80}")
    return {ITEM: str(expires)}


def change_event(user: str, state: str, payload: dict[str, Any]) -> Event:
    """Return the draft of a change.

    Raises:
        InvalidEventError: `user` is not a user id.
        PayloadTooLargeError: the payload has more than `MAX_CHANGE` bytes, because the ids are too long together.
    """
    event = Event(user, f"notify.{state}", payload)
    if len(event.data) > MAX_CHANGE:
        raise PayloadTooLargeError(len(event.data), MAX_CHANGE)
    return event


def item_id(text: str, user: str) -> str | None:
    """Return an item's id in its canonical spelling for this user's inbox; None if the text is not an item's id."""
    number, at, log = text.partition("@")
    if not ids.is_id(number):
        return None
    number = ids.canonical(number)
    if number == ids.ZERO or (at and not _is_name(log)):
        return None
    return f"{number}@{plain(log)}" if log and log != user else number


def item_ids(named: str | Iterable[str], user: str) -> list[str]:
    """Return the ids of items, each once, without the texts that are not an item's id.

    Raises:
        UsageError: more than `MAX_IDS` are given, or one of them is not text.
    """
    given: Any = (named,) if isinstance(named, str) else named
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise UsageError(f"ids must be the id of an item, such as item.id, or an iterable of ids, not {named!r:.80}")
    texts: dict[str, None] = {}
    for text in given:
        if not isinstance(text, str):
            raise UsageError(f"ids must be texts, such as item.id, not {text!r:.80}")
        texts[text] = None
        if len(texts) > MAX_IDS:
            raise UsageError(f"one call names at most {MAX_IDS} items by their ids: use several calls, or up_to")
    found = (item_id(text, user) for text in texts)
    return list(dict.fromkeys(id for id in found if id is not None))


def position(up_to: str, user: str) -> str:
    """Return a position, or the id of an item, in its canonical spelling.

    Raises:
        InvalidEventIdError: it is neither.
    """
    text: object = up_to  # untyped code may pass anything
    found = None
    if isinstance(text, str):
        found = item_id(text, user) if "@" in text else _plain_position(text, user)
    if found is None:
        raise InvalidEventIdError(
            f"up_to must be a position, such as page.position, or the id of an item, not {up_to!r:.80}"
        )
    return found


def _plain_position(text: str, user: str) -> str | None:
    try:
        split_positions(text, [user])
    except InvalidEventIdError:
        return None
    return ids.canonical(text) if ids.is_id(text) else plain(text)


def mark_payload(
    user: str, state: str, named: str | Iterable[str] | None, up_to: str | None, group: str | None
) -> dict[str, Any]:
    """Return the payload of a mark; its `ids` may be empty, and then there is nothing to store.

    Raises:
        UsageError: `state` is not in `MARKS`, or not exactly one of ids, `up_to` and `group` is given.
        InvalidEventIdError: `up_to` is neither a position nor the id of an item.
        InvalidEventError: `group` is not the name of a group.
    """
    if state not in MARKS:
        raise UsageError(f"items are marked as {', '.join(MARKS)}, not {state!r:.80}")
    if sum(each is not None for each in (named, up_to, group)) != 1:
        raise UsageError("mark() takes exactly one of ids=, up_to= and group=")
    if named is not None:
        return {"ids": item_ids(named, user)}
    if up_to is not None:
        return {"up_to": position(up_to, user)}
    check_name("group", group)
    return {"group": plain(group)}


def item_query(
    before: str | None, limit: int, state: State, types: Iterable[str] | None, group: str | None, user: str
) -> ItemQuery:
    """Return the query of a page.

    Raises:
        UsageError: `limit`, `state` or `types` is not valid.
        InvalidEventIdError: `before` is not the id of an item.
        InvalidEventError: `group` is not the name of a group, or one of `types` is not an event type.
    """
    limit = check_limit(limit)
    if state not in _STATES:
        raise UsageError(f"state must be one of {', '.join(_STATES)}, not {state!r:.80}")
    if types is not None and (isinstance(types, str) or not isinstance(types, Iterable)):
        raise UsageError(f"types must be an iterable of event types, not {types!r:.80}")
    after = None
    if before is not None:
        text: object = before
        after = item_id(text, user) if isinstance(text, str) else None
        if after is None:
            raise InvalidEventIdError(f"before must be the id of an item, not {before!r:.80}")
    if group is not None:
        check_name("group", group)
    named = None if types is None else tuple(types)
    for type in named or ():
        check_type(type)
    if named == ():
        limit = 0  # no item can match an empty list of types, but the counts are still wanted
    return ItemQuery(before=after, limit=limit, state=state, types=named or None, group=plain(group))


def check_limit(limit: int) -> int:
    """Return how many items are asked for: not more than any inbox has.

    Raises:
        UsageError: not a whole number greater than 0.
    """
    size: object = limit  # untyped code may pass anything
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"limit must be a whole number greater than 0, not {limit!r:.80}")
    return min(limit, _MOST)


def check_retention(retention: InboxRetention) -> None:
    """Raise UsageError unless each value is valid."""
    items, age, keep = (getattr(retention, name, None) for name in ("max_items", "max_age", "keep_unread"))
    if not isinstance(retention, InboxRetention):
        raise UsageError(f"retention must be an InboxRetention, not {retention!r:.80}")
    if isinstance(items, bool) or not isinstance(items, int) or not 1 <= items <= _MOST:
        raise UsageError(f"max_items must be a whole number of 1 to {_MOST}, not {items!r:.80}")
    if age is not None and (isinstance(age, bool) or not isinstance(age, int | float) or not 0 < age <= _MOST):
        raise UsageError(f"max_age must be more than 0 and at most {_MOST} seconds, or None, not {age!r:.80}")
    if not isinstance(keep, bool):
        raise UsageError(f"keep_unread must be True or False, not {keep!r:.80}")


def _is_name(log: str) -> bool:
    try:
        check_user(log)
    except InvalidEventError:
        return False
    return True
