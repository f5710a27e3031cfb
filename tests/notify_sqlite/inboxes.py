"""What the tests of inboxes share: drafts, and a check of every row, counter and bound in a file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from notify import Event, ids
from notify.inbox import InboxFolds, InboxRetention
from notify.inbox.abc import CHANGES, ITEM, Change, ItemQuery
from notify_sqlite import SQLiteStore
from tests.servers.sqlite import opened

COUNTED = """
SELECT i.user, i.kept, i.total, i.unseen, i.unread,
    (SELECT count(*) FROM notify_items WHERE user = i.user),
    (SELECT count(*) FROM notify_items WHERE user = i.user AND dismissed_at IS NULL),
    (SELECT count(*) FROM notify_items WHERE user = i.user AND seen_at IS NULL),
    (SELECT count(*) FROM notify_items WHERE user = i.user AND read_at IS NULL),
    i.oldest, (SELECT min(id) FROM notify_items WHERE user = i.user),
    i.expires, (SELECT min(expires_at) FROM notify_items WHERE user = i.user)
FROM notify_inbox AS i
"""


def item(
    user: str, payload: Any = None, *, group: str | None = None, expires: str = "", key: str | None = None
) -> Event:
    """Return the draft of an item."""
    return Event(user, "t", payload, group=group, key=key, meta={ITEM: expires})


async def mark(store: SQLiteStore, user: str, effect: str, **named: Any) -> Change:
    """Change items that are named by `ids`, `up_to` or `group`."""
    return await store.change(Event(user, f"notify.{effect}", named))


async def follow(store: SQLiteStore, user: str, topic: str, since: str | None = None) -> Change:
    """Follow a topic."""
    return await store.change(Event(user, "notify.followed", {"topic": topic, "since": since}))


async def payloads(store: SQLiteStore, user: str, **query: Any) -> list[Any]:
    """Return the payloads of a page."""
    return [each.event.payload for each in (await store.items(user, ItemQuery(**query))).items]


def assert_counted(path: Path) -> int:
    """Assert that each counter is what it counts, and no bound is too high; return how many inboxes there are."""
    with opened(path) as file:
        boxes = file.execute(COUNTED).fetchall()
        (users,) = file.execute("SELECT count(DISTINCT user) FROM notify_items").fetchone()
        (wrong,) = file.execute(
            "SELECT count(*) FROM notify_items WHERE dismissed_at IS NOT NULL AND read_at IS NULL"
            " OR read_at IS NOT NULL AND seen_at IS NULL"
        ).fetchone()
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert wrong == 0
    for user, *counts, oldest, first, expires, next_ in boxes:
        assert counts[:4] == counts[4:], user
        assert first is None or oldest <= first
        assert next_ is None or expires <= next_
    assert users <= len(boxes)
    return len(boxes)


async def assert_folded(store: SQLiteStore, users: Sequence[str], retention: InboxRetention) -> int:
    """Assert that inboxes are the pure fold of the logs that the store holds; return how many events they have."""
    logs = {user: (await store.read(user, "0", 10_000)).events for user in users}
    heads: dict[str, str] = {}
    model = InboxFolds(lambda user: heads.get(user, "0"))
    model.retention = retention
    for event in sorted((event for log in logs.values() for event in log), key=lambda event: ids.parse(event.id)):
        if event.type in CHANGES:
            model.pull(event.user, ids.parse(event.id)[0])
        heads[event.user] = event.id
        if ITEM in event.meta or event.type in CHANGES:
            model.apply(event, ids.parse(event.id)[0])
    for user in users:
        model.pull(user, int(time.time() * 1000))
        query = ItemQuery(limit=10_000, state="all")
        page, expected = await store.items(user, query), model.page(user, query, int(time.time() * 1000))
        assert [_state(each) for each in page.items] == [_state(each) for each in expected.items]
        assert page.counts == expected.counts
    return sum(map(len, logs.values()))


def _state(each: Any) -> tuple[object, ...]:
    return each.id, each.event, each.seen_at is None, each.read_at is None, each.dismissed_at is None
