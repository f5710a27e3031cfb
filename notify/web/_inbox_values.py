"""Pure: what of an inbox goes over the wire, as JSON in one line: counts, an item, a page, a change.

An item is the object that the stream sends for its event, and three times beside it. So a client that keeps a list has
one shape for both. Its `id` is that of the item, `<id>@<log>` where it is from another log than the user's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from notify.inbox.abc import Change, Counts, Item, ItemPage

from ._frames import one_line, wire_object


def counts_value(counts: Counts) -> dict[str, Any]:
    """Return counts, with the position for which they are exact."""
    return {
        "total": counts.total,
        "unseen": counts.unseen,
        "unread": counts.unread,
        "position": counts.position,
    }


def item_object(item: Item) -> bytes:
    """Return an item."""
    states = {
        "seen_at": _text_of(item.seen_at),
        "read_at": _text_of(item.read_at),
        "dismissed_at": _text_of(item.dismissed_at),
    }
    return b"%b,%b" % (wire_object(item.event, item.id)[:-1], one_line(states)[1:])


def page_object(user: str, page: ItemPage) -> bytes:
    """Return a page of the items of a user, whose name a client cannot know otherwise."""
    rest = {"user": user, "next": page.next, "counts": counts_value(page.counts), "position": page.position}
    return b'{"items":[%b],%b' % (b",".join(map(item_object, page.items)), one_line(rest)[1:])


def change_object(change: Change) -> bytes:
    """Return what a change did: the items changed, the counts after it, and the event that was stored."""
    return one_line(
        {
            "ids": [*change.ids],
            "counts": counts_value(change.counts),
            "position": change.counts.position,
            "event": None if change.event is None else change.event.id,
        }
    )


def topics_object(topics: Sequence[str]) -> bytes:
    """Return the topics that are followed."""
    return one_line({"topics": [*topics]})


def _text_of(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
