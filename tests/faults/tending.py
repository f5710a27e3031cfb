"""What workers of the role `tend` do, and what has to be left of it: inboxes in use while things go wrong.

They send items to users, and to a topic that the users follow, and change items. A change is recorded as a push is; the
value by which readers know it is in its `meta`. Groups are named after their log, and positions are ids of the own log,
so a mark names no copy of a topic's item: these are as new, whenever they were copied.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from notify import Event, Notifier, StreamStore, ids
from notify.inbox import Inbox, InboxFold, InboxRetention, InboxStore, Item
from notify.inbox.abc import CHANGES, ITEM, ItemQuery

TOPIC: Final = "news"
"""Every other user follows it, from its beginning."""

PEOPLE: Final = ("alice", "bob", TOPIC)
RETENTION: Final = InboxRetention(max_items=100_000, max_age=None)

_EFFECTS: Final = ("seen", "read", "unread", "dismissed", "restored")
_EVERYTHING: Final = ItemQuery(limit=100_000, state="all")


class Tending:
    """Items and changes of one worker.

    Args:
        notifier: of the worker.
        store: of the notifier.
        random: decides what comes next.
    """

    def __init__(self, notifier: Notifier, store: StreamStore, random: Random) -> None:
        assert isinstance(store, InboxStore)
        self._store = store
        self._inbox = Inbox(notifier, retention=RETENTION)
        self._random = random
        self._sent: dict[str, str] = {}

    async def save(self, user: str, value: str, payload: Any, key: str | None) -> Event | None:
        """Send an item, or make a change; None: it would have changed nothing, so nothing is stored."""
        random = self._random
        group = f"{user}:{random.choice('gh')}"
        if key is not None or random.random() < 0.3:
            event = await self._inbox.send(user, "n", payload, key=key, group=random.choice((None, group)))
            assert event is not None
            self._sent[user] = event.id
            return event
        last = self._sent.get(user, "1-1")
        kind = f"notify.{random.choice(_EFFECTS)}"
        named: dict[str, Any] = random.choice(({"ids": [last]}, {"up_to": last}, {"group": group}))
        if user != TOPIC and random.random() < 0.2:
            kind, named = "notify.followed", {"topic": TOPIC, "since": ids.ZERO}
        return (await self._store.change(Event(user, kind, named, meta={"by": value}))).event


async def assert_folded(store: StreamStore, users: tuple[str, ...] = PEOPLE, *, durable: bool = True) -> int:
    """Assert that each inbox is what its log says, applied from the beginning; return how many events there are.

    Args:
        store: with all of the logs: nothing was trimmed.
        users: whose inboxes.
        durable: False where the topic may have lost what its followers have copied already.
    """
    assert isinstance(store, InboxStore)
    folds = {user: InboxFold(user) for user in users}
    follows: set[str] = set()
    events = 0
    for user, fold in folds.items():
        position, page = ids.ZERO, None
        while page is None or page.events:
            page = await store.read(user, position, 1000)
            position = page.position
            events += len(page.events)
            for event in page.events:
                if event.type == "notify.followed":
                    follows.add(user)
                if ITEM in event.meta or event.type in CHANGES:
                    fold.apply(event, ids.parse(event.id)[0], RETENTION)
    topic = _states(folds[TOPIC])
    for user, fold in folds.items():
        shown = await store.items(user, _EVERYTHING)
        assert [each.id for each in shown.items] == sorted((each.id for each in shown.items), key=_order, reverse=True)
        own = {each.id: _state(each) for each in shown.items if "@" not in each.id}
        copies = {each.id: _state(each) for each in shown.items if "@" in each.id}
        assert own == _states(fold), user
        wanted = {f"{id}@{TOPIC}": (event, *[True] * 3) for id, (event, *_) in topic.items()} if user in follows else {}
        assert copies == wanted if durable else wanted.items() <= copies.items(), user
        active = [each for each in shown.items if each.dismissed_at is None]
        counts = (len(active), sum(each.seen_at is None for each in active), sum(each.is_unread for each in active))
        assert (shown.counts.total, shown.counts.unseen, shown.counts.unread) == counts, user
    return events


def _order(id: str) -> tuple[tuple[int, int], str]:
    number, _, log = id.partition("@")
    return ids.parse(number), log


def _states(fold: InboxFold) -> dict[str, tuple[object, ...]]:
    return {each.id: _state(each) for each in fold.page(_EVERYTHING, fold.position, 0, RETENTION).items}


def _state(each: Item) -> tuple[object, ...]:
    return each.event, each.seen_at is None, each.read_at is None, each.dismissed_at is None
