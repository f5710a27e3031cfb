"""Suites for the abilities that a store may have: many events, many users, or an answer at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import anyio.lowlevel
import pytest

from notify import ClosedError, Event, Page, Store
from notify.abc import Immediate, ReadMany, SaveMany

from ._samples import HOSTILE_NAMES
from ._store_base import StoreTests
from ._types import StoreT
from ._waits import assert_chain, now, together


def many(store: Store) -> SaveMany:
    """Return the store as one that saves many."""
    assert isinstance(store, SaveMany)
    return store


class SaveManySuite(StoreTests[StoreT]):
    """For a store with `save_many`: it does what `save` does for each event, in the order given."""

    async def save_many(self, store: Store, events: Sequence[Event]) -> Sequence[Event]:
        """Save many and assert that all were stored."""
        stored = await many(store).save_many(events)
        assert all(isinstance(event, Event) for event in stored)
        return cast("Sequence[Event]", stored)

    async def test_saving_many_is_saving_each(self, store: Store) -> None:
        """Each event comes back stored, in the order given, linked into its user's log like any other."""
        before = await store.save(Event("alice", "t", "before"))
        drafts = [Event(f"{'bob' if n % 3 else 'alice'}", "t", n, group=f"g{n}", meta={"n": str(n)}) for n in range(12)]
        stored = await self.save_many(store, drafts)
        after = await store.save(Event("alice", "t", "after"))
        assert [*stored] == [draft.stored(event.id, event.prev) for draft, event in zip(drafts, stored, strict=True)]
        alice = [before, *(event for event in stored if event.user == "alice"), after]
        bob = [event for event in stored if event.user == "bob"]
        assert await self.read_all(store, "alice") == alice
        assert await self.read_all(store, "bob") == bob
        assert_chain(alice)
        assert_chain(bob)

    async def test_saving_nothing_is_nothing(self, store: Store) -> None:
        """An empty batch succeeds and stores nothing."""
        assert [*await many(store).save_many([])] == []

    async def test_many_events_of_one_user(self, store: Store) -> None:
        """A batch of 500 events of one user keeps their order."""
        stored = await self.save_many(store, [Event("alice", "t", number) for number in range(500)])
        assert [event.payload for event in stored] == [*range(500)]
        assert_chain(stored)
        assert await self.read_all(store, "alice", limit=500) == [*stored]

    async def test_many_users(self, store: Store) -> None:
        """A batch for users with hostile names reaches each of them, and no other user."""
        stored = await self.save_many(store, [Event(name, "t", name) for name in HOSTILE_NAMES])
        for name, event in zip(HOSTILE_NAMES, stored, strict=True):
            assert event.payload == name
            assert await self.read_all(store, name) == [event]

    async def test_keys_count_in_a_batch(self, store: Store) -> None:
        """A key that was used, before the batch or in it, returns the first event; the rest of the batch is stored."""
        first = await store.save(Event("alice", "t", "first", key="k"))
        stored = await self.save_many(
            store,
            [
                Event("alice", "t", "again", key="k"),
                Event("alice", "t", "new", key="n"),
                Event("bob", "t", "bob", key="k"),
                Event("alice", "t", "new again", key="n"),
                Event("alice", "t", "plain"),
            ],
        )
        assert [event.payload for event in stored] == ["first", "new", "bob", "new", "plain"]
        assert [stored[0], stored[3]] == [first, stored[1]]
        assert await self.read_all(store, "alice") == [first, stored[1], stored[4]]
        assert await store.save(Event("alice", "t", key="n")) == stored[1]

    async def test_batches_that_cross(self, store: Store) -> None:
        """Batches that touch the same users in opposite orders all succeed, each log a chain."""
        users = [f"user{number}" for number in range(20)]

        async def write(order: Sequence[str]) -> None:
            for number in range(5):
                await self.save_many(store, [Event(user, "t", number) for user in order])
                await anyio.lowlevel.checkpoint()

        await together(*(partial(write, order) for order in (users, users[::-1], users[10:] + users[:10])))
        for user in users:
            log = await self.read_all(store, user)
            assert len(log) == 15
            assert_chain(log)

    async def test_a_closed_store_saves_nothing(self, store: Store) -> None:
        """After `aclose`, saving many raises ClosedError."""
        await store.aclose()
        with pytest.raises(ClosedError):
            await many(store).save_many([Event("alice", "t")])


class ReadManySuite(StoreTests[StoreT]):
    """For a store with `read_many`: `read` for every user who has news or a gap."""

    async def test_reading_many_is_reading_each(self, store: Store) -> None:
        """Users with news have the page that `read` returns; users without have none."""
        logs = {user: await self.fill(store, user, 5) for user in ("alice", "bob", "carol", "dave", *HOSTILE_NAMES)}
        await store.trim(logs["bob"][1].id)
        after = {
            "alice": logs["alice"][1].id,
            "bob": "0",
            "carol": logs["carol"][4].id,
            "dave": "1-1",
            "unknown": "0",
            **{name: logs[name][index % 5].id for index, name in enumerate(HOSTILE_NAMES)},
        }
        pages = await self.read_many(store, after, 3)
        assert pages == {
            user: page
            for user, position in after.items()
            if (page := plain(await store.read(user, position, 3))).events or page.gap
        }
        assert set(after) - set(pages) == {"carol", "unknown", *HOSTILE_NAMES[4::5]}

    async def test_gaps_are_found_without_events(self, store: Store) -> None:
        """Users whose position the log no longer reaches, or never did, have a page though there is nothing to read."""
        for user in ("alice", "bob"):
            await self.fill(store, user, 3)
        first = (await store.read("alice", "0", 1)).position
        await store.trim(now().replace(year=2200))
        head = await store.head("bob")
        ahead = f"{int(head.split('-')[0]) + 1}-0"
        pages = await self.read_many(store, {"alice": first, "bob": ahead, "unknown": "1-1"}, 10)
        gaps = {user: page.gap for user, page in pages.items()}
        assert gaps == {"alice": "trimmed", "bob": "rewound", "unknown": "expired"}
        assert pages["bob"].position == head

    async def test_reading_no_users_is_nothing(self, store: Store) -> None:
        """Asking for no users returns nothing."""
        assert await self.read_many(store, {}, 10) == {}

    async def test_a_closed_store_reads_nothing(self, store: Store) -> None:
        """After `aclose`, reading many raises ClosedError."""
        await store.aclose()
        with pytest.raises(ClosedError):
            await self.read_many(store, {"alice": "0"}, 10)

    async def read_many(self, store: Store, after: dict[str, str], limit: int) -> dict[str, Page]:
        """Read many, and make the pages comparable."""
        assert isinstance(store, ReadMany)
        return {user: plain(page) for user, page in (await store.read_many(after, limit)).items()}


class ImmediateStoreSuite(StoreTests[StoreT]):
    """For a store that answers at once: `x_nowait` does what `x` does."""

    async def test_an_answer_at_once_is_the_same_answer(self, store: Store) -> None:
        """What is saved, read and asked without waiting equals what is saved, read and asked with it."""
        assert isinstance(store, Immediate)
        events = [await store.save(Event("alice", "t", 1)), store.save_nowait(Event("alice", "t", 2, key="k"))]
        assert_chain(events)
        assert store.save_nowait(Event("alice", "t", 3, key="k")) == events[1]
        assert await store.save(Event("alice", "t", 4, key="k")) == events[1]
        assert await self.read_all(store, "alice") == events
        for user, after in (("alice", "0"), ("alice", "1-1"), ("alice", events[1].id), ("bob", "0"), ("bob", "1-1")):
            assert plain(store.read_nowait(user, after, 1)) == plain(await store.read(user, after, 1))
            assert store.head_nowait(user) == await store.head(user)

    async def test_a_closed_store_answers_at_once(self, store: Store) -> None:
        """After `aclose`, each method raises ClosedError."""
        assert isinstance(store, Immediate)
        await store.aclose()
        with pytest.raises(ClosedError):
            store.save_nowait(Event("alice", "t"))
        with pytest.raises(ClosedError):
            store.read_nowait("alice", "0", 1)
        with pytest.raises(ClosedError):
            store.head_nowait("alice")


def plain(page: Page) -> Page:
    """Return an equal page whatever kind of sequence holds the events."""
    return Page([*page.events], page.gap, page.position)
