"""Pages of an inbox: the arguments of the script that reads one, and what its reply means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from notify import Event, InvalidEventIdError
from notify.adapters import build_event
from notify.inbox.abc import ITEM, Counts, Item, ItemPage, ItemQuery

from ._inbox_keys import (
    LAST_MS,
    RedisInboxLog,
    item_id,
    member_of,
    position_of,
    read_logs,
    split_item_id,
    split_member,
    strings,
)
from ._record import decode

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class RedisInboxReply(NamedTuple):
    """What every script returns about an inbox.

    Attributes:
        counts: how many active items there are.
        logs: the followed and merged logs, by name.
    """

    counts: Counts
    logs: Mapping[str, RedisInboxLog]

    @classmethod
    def of(cls, user: str, counts: Sequence[int], own: bytes, logs: Sequence[bytes]) -> RedisInboxReply:
        """Parse the parts of a reply."""
        found = read_logs(logs)
        return cls(Counts(counts[0], counts[1], counts[2], position_of(user, own.decode(), found)), found)


def query_arguments(query: ItemQuery) -> list[bytes]:
    """Return what `_lua/page.lua` needs of a query: state, limit, bound, types, the members or the group.

    Raises:
        InvalidEventIdError: `before` is not the id of an item.
    """
    limit = max(query.limit, 0)
    if query.ids is not None:
        named = {member_of(*asked) for asked in map(split_item_id, query.ids) if asked is not None}
        return [b"ids", b"%d" % len(named), b"", b"", strings(sorted(named))]
    bound = b""
    if query.before is not None:
        before = split_item_id(query.before)
        if before is None:
            raise InvalidEventIdError(f"before= must be the id of an item, not {query.before!r:.80}")
        bound = member_of(*before)
    if query.group is not None:
        return [b"group", b"%d" % limit, b"", b"", query.group.encode(errors="replace")]
    if query.types == ():
        limit = 0
    types = strings(name.encode(errors="replace") for name in query.types or ())
    return [query.state.encode(), b"%d" % (limit and limit + 1), bound, types, b""]


def page_of(user: str, query: ItemQuery, reply: Sequence[Any]) -> ItemPage:
    """Return the page that a reply of `_lua/page.lua` contains.

    Raises:
        CodecError: a record is damaged.
    """
    counts = RedisInboxReply.of(user, *reply[1:4]).counts
    rows: Sequence[bytes] = reply[4]
    found = [(rows[i], *_item(*rows[i : i + 3])) for i in range(0, len(rows), 3)]
    found.sort(key=lambda row: row[0], reverse=True)
    items = [item for member, item, state in found if _is_asked(query, member, item, state)]
    if query.ids is not None:
        return ItemPage(items, None, counts, counts.position)
    more = len(items) > query.limit
    items = items[: query.limit]
    return ItemPage(items, items[-1].id if more and items else None, counts, counts.position)


def _is_asked(query: ItemQuery, member: bytes, item: Item, state: str) -> bool:
    """Whether an item matches the query. Only pages of a group need this: the script filters all others itself."""
    if query.ids is not None or query.group is None:
        return True
    if query.before is not None:
        before = split_item_id(query.before)
        if before is not None and member >= member_of(*before):
            return False
    states = {"active": ("unread", "read"), "all": ("unread", "read", "dismissed")}.get(query.state, (query.state,))
    return state in states and (query.types is None or item.event.type in query.types)


def _item(member: bytes, record: bytes, times: bytes) -> tuple[Item, str]:
    """Return an item and its state."""
    id_, _ = split_member(member)
    event = decode(record, id_, "")
    if event.key is not None:
        event = _without_key(event)
    seen, read, dismissed = times.split(b",") if times else (b"", b"", b"")
    expiry = event.meta.get(ITEM, "")
    expires = int(expiry[:20]) if expiry.isascii() and expiry.isdigit() else LAST_MS + 1
    item = Item(
        event,
        item_id(member),
        _moment(seen),
        _moment(read),
        _moment(dismissed),
        _EPOCH + timedelta(milliseconds=expires) if expires <= LAST_MS else None,
    )
    return item, "dismissed" if dismissed else "read" if read else "unread"


def _without_key(event: Event) -> Event:
    return build_event(event.id, "", event.user, event.type, event.data, event.micros, event.group, None, event.meta)


def _moment(ms: bytes) -> datetime | None:
    return _EPOCH + timedelta(milliseconds=int(ms)) if ms else None
