"""What the suites of inbox stores share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any

import anyio.lowlevel
import pytest

from notify import Event, NotifyError, ids
from notify.abc import SaveMany, SaveSoon
from notify.inbox import Change, InboxFold, InboxRetention, InboxStore, Item, ItemPage
from notify.inbox.abc import CHANGES, ITEM, ItemQuery, State

from ._store_base import StoreTests
from ._types import InboxStoreT
from ._waits import eventually

FOREVER = InboxRetention(max_items=100_000, max_age=None)


def item(
    user: str,
    payload: Any = None,
    *,
    type: str = "t",
    group: str | None = None,
    key: str | None = None,
    expires: int | None = None,
) -> Event:
    """Return the draft of an item that expires at a time in milliseconds, if one is given."""
    meta = {ITEM: "" if expires is None else str(expires)}
    return Event(user, type, payload, group=group, key=key, meta=meta)


def listed(items: Iterable[Item]) -> list[str]:
    """Return the ids of items."""
    return [each.id for each in items]


def payloads(items: Iterable[Item]) -> list[Any]:
    """Return the payloads of items, by which most tests name them."""
    return [each.event.payload for each in items]


def state_of(each: Item) -> str:
    """Return `unseen`, `seen`, `read` or `dismissed`, and assert that what it implies holds too."""
    if each.dismissed_at is not None:
        assert each.read_at is not None
    if each.read_at is not None:
        assert each.seen_at is not None
        return "read" if each.dismissed_at is None else "dismissed"
    return "unseen" if each.seen_at is None else "seen"


class InboxTests(StoreTests[InboxStoreT]):
    """The store under test, and what the tests do with its inboxes."""

    @pytest.fixture
    async def store(self, anyio_backend: object) -> AsyncIterator[InboxStore]:
        """Make a store for one test, and close it."""
        async with self.fresh() as store:
            yield store

    async def send(self, store: InboxStore, user: str, payload: Any = None, **options: Any) -> Event:
        """Save an item and return its event."""
        return await store.save(item(user, payload, **options))

    async def send_all(self, store: InboxStore, drafts: Sequence[Event]) -> Sequence[Event]:
        """Save events, in one batch if the store can do that, and return them as stored."""
        if not isinstance(store, SaveMany):
            return [await store.save(draft) for draft in drafts]
        outcomes = await store.save_many(drafts)
        events = [event for event in outcomes if isinstance(event, Event)]
        assert len(events) == len(drafts)
        return events

    def ways(self, store: InboxStore) -> list[Callable[[Sequence[Event]], Coroutine[Any, Any, None]]]:
        """Return every way in which the store saves several events in the order given."""

        async def each(drafts: Sequence[Event]) -> None:
            for draft in drafts:
                await store.save(draft)

        async def many(drafts: Sequence[Event]) -> None:
            await self.send_all(store, drafts)

        async def soon(drafts: Sequence[Event]) -> None:
            assert isinstance(store, SaveSoon)
            outcomes: list[Event | NotifyError] = []
            for draft in drafts:
                store.save_soon(draft, outcomes.append)

            async def all_are_known() -> None:
                assert len(outcomes) == len(drafts)

            await eventually(all_are_known, self.patience)
            assert all(isinstance(outcome, Event) for outcome in outcomes)

        return [
            each,
            *([many] if isinstance(store, SaveMany) else []),
            *([soon] if isinstance(store, SaveSoon) else []),
        ]

    async def tick(self, store: InboxStore) -> None:
        """Wait until the ids that logs give are of a later millisecond, so that they are greater in every log."""
        await self.fill_over_time(store, "clock")

    async def mark(self, store: InboxStore, user: str, effect: str, **named: Any) -> Change:
        """Apply a change that names items by `ids`, `up_to` or `group`."""
        return await store.change(Event(user, f"notify.{effect}", named))

    async def follow(self, store: InboxStore, user: str, topic: str, since: str | None = None) -> Change:
        """Follow a topic, from the end of its log or from a position."""
        return await store.change(Event(user, "notify.followed", {"topic": topic, "since": since}))

    async def unfollow(self, store: InboxStore, user: str, topic: str) -> Change:
        """Stop following a topic."""
        return await store.change(Event(user, "notify.unfollowed", {"topic": topic}))

    async def merge(self, store: InboxStore, session: str, user: str, until: str | None = None) -> Change:
        """Merge a session into an inbox."""
        return await store.change(Event(user, "notify.merged", {"session": session, "until": until}))

    async def page(self, store: InboxStore, user: str, **query: Any) -> ItemPage:
        """Read one page."""
        return await store.items(user, ItemQuery(**query))

    async def list_all(self, store: InboxStore, user: str, state: State = "all", limit: int = 100) -> list[Item]:
        """Read an inbox to its end, page by page, and assert that its order is right."""
        items: list[Item] = []
        page: ItemPage | None = None
        while page is None or page.next is not None:
            page = await self.page(store, user, state=state, limit=limit, before=page.next if page else None)
            items += page.items
            await anyio.lowlevel.checkpoint()
        keys = [(ids.parse(each.event.id), each.id.partition("@")[2]) for each in items]
        assert keys == sorted(set(keys), reverse=True)
        return items

    async def states(self, store: InboxStore, user: str) -> dict[str, str]:
        """Return the state of every item by its id, and assert that the counts and all lists agree with it."""
        items = await self.list_all(store, user)
        states = {each.id: state_of(each) for each in items}
        page = await self.page(store, user, limit=0)
        active = [state for state in states.values() if state != "dismissed"]
        counts = (len(active), active.count("unseen"), active.count("unseen") + active.count("seen"))
        assert (page.counts.total, page.counts.unseen, page.counts.unread) == counts
        assert page.position == page.counts.position
        wanted: dict[State, tuple[str, ...]] = {
            "active": ("unseen", "seen", "read"),
            "unread": ("unseen", "seen"),
            "read": ("read",),
            "dismissed": ("dismissed",),
        }
        for state, those in wanted.items():
            found = await self.list_all(store, user, state)
            assert listed(found) == [id for id in states if states[id] in those]
        return states

    async def assert_folded(self, store: InboxStore, user: str) -> None:
        """Assert that the inbox of a user who follows nothing is what its log says, applied from the beginning."""
        fold = InboxFold(user)
        for event in await self.read_all(store, user):
            if ITEM in event.meta or event.type in CHANGES:
                fold.apply(event, ids.parse(event.id)[0], FOREVER)
        expected = fold.page(ItemQuery(limit=100_000, state="all"), await store.head(user), 0, FOREVER)
        assert await self.states(store, user) == {each.id: state_of(each) for each in expected.items}
        assert (await self.page(store, user, limit=0)).counts == expected.counts
