"""What a request to an inbox asks for, whether it is in the query, in a body or in a command.

Rules:
    1. A wrong form is an error, and names the member. Members that are not known are errors too, so that a misspelt one
       is noticed.
    2. An id or a group that cannot exist is not an error: it is left out, so the answer is that for one that does not
       exist. An answer never tells whether another user has an item.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, get_args

from notify._asgi import WebError
from notify.adapters import check_user, split_positions
from notify.errors import InvalidEventError, InvalidEventIdError
from notify.ids import is_id
from notify.inbox.abc import MAX_IDS, State

LIMIT: Final = 20
"""Items of a page, where the client does not say."""

MAX_LIMIT: Final = 100

MAX_TYPES: Final = 100
"""Types that a list may be limited to."""

STATES: Final = ("seen", "read", "unread", "dismissed", "restored")
"""What a mark makes of an item."""

TARGETS: Final = ("ids", "up_to", "group")
"""How a mark names items; `id` stands for one of `ids`."""

_TYPE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)


class Listing(NamedTuple):
    """Which items to list; see `notify.inbox.Inbox.list`."""

    before: str | None
    limit: int
    state: State
    types: tuple[str, ...] | None
    group: str | None


class Mark(NamedTuple):
    """A change of states.

    Attributes:
        state: what the items become.
        ids, up_to, group: which items; one of them is set. None of `ids` and no `group` that cannot exist is left.
    """

    state: str
    ids: list[str] | None = None
    up_to: str | None = None
    group: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it names nothing that could exist."""
        return not self.ids and self.up_to is None and self.group is None


class Topic(NamedTuple):
    """A topic, and whether what it holds already is to be listed too."""

    topic: str
    history: bool = False


def listing_of(members: Mapping[str, Any]) -> Listing:
    """Return which items to list.

    Raises:
        WebError: 400.
    """
    _check_known(members, ("before", "limit", "state", "types", "group"))
    before = _text("before", members.get("before"))
    if before is not None and not is_item_id(before):
        raise WebError(400, "invalid_position", "before must be the id of an item: pass next of the previous page")
    limit = members.get("limit", LIMIT)
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_LIMIT:
        raise _wrong(f"limit must be a whole number of 1 to {MAX_LIMIT}")
    state = members.get("state", "active")
    if state not in get_args(State):
        raise _wrong(f"state must be one of {', '.join(get_args(State))}")
    group = _text("group", members.get("group"))
    if group is not None and not is_name(group):
        raise _wrong("group must have 1 to 255 bytes without control characters")
    return Listing(before, limit, state, _types(members.get("types")), group)


def mark_of(members: Mapping[str, Any]) -> Mark:
    """Return which items become what.

    Raises:
        WebError: 400.
    """
    _check_known(members, ("state", *TARGETS))
    state = members.get("state")
    if state not in STATES:
        raise _wrong(f"state must be one of {', '.join(STATES)}")
    return _mark(str(state), members)


def dismissal_of(members: Mapping[str, Any]) -> Mark:
    """Return which items are dismissed.

    Raises:
        WebError: 400.
    """
    _check_known(members, ("id", *TARGETS))
    return _mark("dismissed", members)


def topic_of(members: Mapping[str, Any], *, history: bool) -> Topic:
    """Return a topic.

    Args:
        members: of the request.
        history: whether it may ask for what the topic holds already.

    Raises:
        WebError: 400.
    """
    _check_known(members, ("topic", "history") if history else ("topic",))
    topic = members.get("topic")
    if not isinstance(topic, str) or not is_name(topic):
        raise _wrong("topic must be a string of 1 to 255 bytes without control characters")
    wanted = members.get("history", False)
    if not isinstance(wanted, bool):
        raise _wrong("history must be true or false")
    return Topic(topic, wanted)


def nothing_of(members: Mapping[str, Any]) -> None:
    """Check that there are no members.

    Raises:
        WebError: 400.
    """
    _check_known(members, ())


def is_item_id(text: str) -> bool:
    """Whether a text could be the id of an item: `<id>` or `<id>@<log>`."""
    id_, at, log = text.partition("@")
    return "-" in id_ and is_id(id_) and (not at or is_name(log))


def _is_position(text: str) -> bool:
    try:
        split_positions(text, ("-",))
    except InvalidEventIdError:
        return False
    return True


def is_name(text: str) -> bool:
    """Whether a text could be the name of a log or a group."""
    try:
        check_user(text)
    except InvalidEventError:
        return False
    return True


def _mark(state: str, members: Mapping[str, Any]) -> Mark:
    named = [name for name in ("id", *TARGETS) if name in members]
    if len(named) != 1:
        raise _wrong(f"name the items by exactly one of {', '.join(TARGETS)}")
    value = members[named[0]]
    if named[0] == "ids":
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise _wrong("ids must be a list of the ids of items")
        if len(value) > MAX_IDS:
            raise _wrong(f"ids may name at most {MAX_IDS} items, not {len(value)}: use up_to, or several requests")
        return Mark(state, ids=_possible(value))
    if not isinstance(value, str):
        raise _wrong(f"{named[0]} must be text")
    if named[0] == "id":
        return Mark(state, ids=_possible([value]))
    if named[0] == "group":
        return Mark(state, group=value if is_name(value) else None)
    if not is_item_id(value) and not _is_position(value):
        raise WebError(400, "invalid_position", "up_to must be a position of a page, or the id of an item")
    return Mark(state, up_to=value)


def _possible(ids: Iterable[str]) -> list[str]:
    return [each for each in dict.fromkeys(ids) if is_item_id(each)]


def _types(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) and _TYPE.fullmatch(each) for each in value):
        raise _wrong("types must be types of events: [A-Za-z0-9_.:-]{1,128}")
    if not 0 < len(value) <= MAX_TYPES:
        raise _wrong(f"types must name 1 to {MAX_TYPES} types")
    return tuple(dict.fromkeys(value))


def _text(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _wrong(f"{name} must be text")
    return value


def _check_known(members: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = sorted(members.keys() - {*known})
    if unknown:
        raise _wrong(f"unknown member {unknown[0]!r:.80}; known are {', '.join(known) or 'none'}")


def _wrong(message: str) -> WebError:
    return WebError(400, "bad_request", message)
