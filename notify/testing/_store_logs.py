"""Tests of a store as a set of logs: what is saved is read, in order, whole, and for its user only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import anyio.lowlevel

from notify import Event, Store, ids

from ._samples import HOSTILE_DATA, HOSTILE_META, HOSTILE_NAMES
from ._store_base import StoreTests
from ._types import StoreT
from ._waits import assert_chain, now, numbers, together


class LogTests(StoreTests[StoreT]):
    """Saving and reading."""

    async def test_save_returns_the_event_with_id_and_prev(self, store: Store) -> None:
        """A saved event comes back as it was given, with an id, and with the id before it as `prev`: `"0"` at first."""
        draft = Event("alice", "t", {"n": 1})
        first = await store.save(draft)
        second = await store.save(draft)
        assert first == draft.stored(first.id, ids.ZERO)
        assert second == draft.stored(second.id, first.id)
        assert_chain([first, second])

    async def test_every_field_is_read_back(self, store: Store) -> None:
        """An event is read with all the fields that it was saved with, its timestamp to the microsecond."""
        stored = [
            await store.save(
                Event(
                    "alice",
                    "Aa0_.:-" * 18,
                    {"text": "é", "list": [1, None, 2.5]},
                    timestamp=datetime(2001, 2, 3, 4, 5, 6, micros, tzinfo=UTC),
                    group="post:7",
                    key=f"key:{micros}",
                    meta={"traceparent": "00-a-b-01"},
                )
            )
            for micros in (0, 1, 999_999, 123_457)
        ]
        assert [*(await store.read("alice", "0", 10)).events] == stored
        assert [event.timestamp.microsecond for event in stored] == [0, 1, 999_999, 123_457]

    async def test_what_was_left_out_stays_left_out(self, store: Store) -> None:
        """An event without key, group and meta is read without them."""
        await store.save(Event("alice", "t"))
        events = await self.read_all(store, "alice")
        assert [(event.key, event.group, dict(event.meta), event.data) for event in events] == [
            (None, None, {}, b"null")
        ]

    async def test_data_is_unchanged(self, store: Store) -> None:
        """The payload's bytes come back as they are: spacing, order, escapes and numbers included, up to 64 KiB."""
        for data in HOSTILE_DATA:
            await store.save(Event("alice", "t", data=data))
        assert [event.data for event in await self.read_all(store, "alice")] == [*HOSTILE_DATA]

    async def test_hostile_fields_are_unchanged(self, store: Store) -> None:
        """Keys, groups and meta with any legal content come back unchanged, and no two keys are taken for one."""
        stored = [
            await store.save(Event("alice", "t", key=name, group=name, meta=HOSTILE_META)) for name in HOSTILE_NAMES
        ]
        assert await self.read_all(store, "alice") == stored
        assert [event.key for event in stored] == [event.group for event in stored] == [*HOSTILE_NAMES]
        assert dict(stored[-1].meta) == HOSTILE_META

    async def test_users_with_similar_names_share_nothing(self, store: Store) -> None:
        """However odd or alike two user ids are, each log holds its own events and links to its own past only."""
        for round_ in range(2):
            for name in HOSTILE_NAMES:
                await store.save(Event(name, "t", [round_, name]))
        for name in HOSTILE_NAMES:
            events = await self.read_all(store, name)
            assert [(event.user, event.payload) for event in events] == [(name, [0, name]), (name, [1, name])]
            assert_chain(events)
            assert await store.head(name) == events[-1].id

    async def test_the_id_is_the_time_of_saving(self, store: Store) -> None:
        """An id holds the store's own time, whatever the event's timestamp says."""
        past = await store.save(Event("alice", "t", timestamp=datetime(1999, 12, 31, tzinfo=UTC)))
        future = await store.save(Event("alice", "t", timestamp=datetime(2099, 12, 31, tzinfo=UTC)))
        present = await store.save(Event("alice", "t"))
        for event in (past, future, present):
            assert abs(ids.time_of(event.id) - now()) < timedelta(hours=1)
        assert_chain([past, future, present])

    async def test_reading_goes_on_after_a_position(self, store: Store) -> None:
        """Reading after the third of five events gives exactly the fourth and the fifth."""
        events = await self.fill(store, "alice", 5)
        page = await store.read("alice", events[2].id, 10)
        assert ([*page.events], page.gap, page.position) == (events[3:], None, events[4].id)

    async def test_a_page_holds_no_more_than_the_limit(self, store: Store) -> None:
        """A limit of three gives the first three of ten; the page's position leads to the rest."""
        events = await self.fill(store, "alice", 10)
        page = await store.read("alice", "0", 3)
        assert ([*page.events], page.gap, page.position) == (events[:3], None, events[2].id)
        rest = await store.read("alice", page.position, 7)
        assert ([*rest.events], rest.gap, rest.position) == (events[3:], None, events[9].id)

    async def test_the_end_of_the_log_is_an_empty_page(self, store: Store) -> None:
        """Reading after the last event gives nothing, no gap, and the same position."""
        events = await self.fill(store, "alice", 2)
        page = await store.read("alice", events[1].id, 10)
        assert ([*page.events], page.gap, page.position) == ([], None, events[1].id)

    async def test_an_unknown_user_has_an_empty_log(self, store: Store) -> None:
        """The log of an unknown user is empty: no events, no gap, position and head `"0"`, and no error."""
        await self.fill(store, "alice", 1)
        page = await store.read("bob", "0", 10)
        assert ([*page.events], page.gap, page.position) == ([], None, "0")
        assert await store.head("bob") == "0"

    async def test_the_head_is_the_last_id(self, store: Store) -> None:
        """The head is the id of the event that was saved last, at any time."""
        events = await self.fill(store, "alice", 3)
        assert await store.head("alice") == events[-1].id
        again = await store.save(Event("alice", "t"))
        assert await store.head("alice") == again.id

    async def test_every_id_is_a_position(self, store: Store) -> None:
        """Reading after any event gives exactly those after it: ids are compared by number, not as strings."""
        events = await self.fill(store, "alice", 120)
        for index in range(0, 120, 7):
            page = await store.read("alice", events[index].id, 200)
            assert numbers(page.events) == [*range(index + 1, 120)]
            assert page.gap is None

    async def test_a_long_log_is_read_page_by_page(self, store: Store) -> None:
        """A backlog of 250 events arrives whole and in order in pages of 100, and one by one."""
        events = await self.fill(store, "alice", 250)
        assert await self.read_all(store, "alice", limit=100) == events
        assert await self.read_all(store, "alice", events[199].id, limit=1) == events[200:]
        assert_chain(events)

    async def test_users_do_not_wait_for_each_other(self, store: Store) -> None:
        """Logs of many users that are written at once each stay whole and in their own order."""
        users = [f"user{number}" for number in range(20)]
        await together(*(partial(self.fill, store, user, 10) for user in users))
        for user in users:
            events = await self.read_all(store, user)
            assert numbers(events) == [*range(10)]
            assert_chain(events)

    async def test_ids_grow_under_concurrent_writers(self, store: Store) -> None:
        """With eight writers on one log, ids grow in log order, `prev` links all, and each writer's order holds."""
        saved: dict[int, list[Event]] = {writer: [] for writer in range(8)}

        async def write(writer: int) -> None:
            for number in range(25):
                saved[writer].append(await store.save(Event("alice", "t", [writer, number])))
                await anyio.lowlevel.checkpoint()

        await together(*(partial(write, writer) for writer in saved))
        log = await self.read_all(store, "alice")
        assert_chain(log)
        assert len(log) == 200
        for writer, events in saved.items():
            assert [event for event in log if event.payload[0] == writer] == events
            assert [event.payload[1] for event in events] == [*range(25)]

    async def test_reading_while_others_write_shows_no_gap(self, store: Store) -> None:
        """A page is one consistent read: a reader that follows concurrent writers finds a chain without a gap."""
        done = False
        seen: list[Event] = []

        async def write() -> None:
            await together(*(partial(self.fill, store, "alice", 50) for _ in range(4)))
            nonlocal done
            done = True

        async def follow() -> None:
            finished = False
            while not finished:
                finished = done
                seen.extend(await self.read_all(store, "alice", seen[-1].id if seen else "0", limit=7))
                await anyio.lowlevel.checkpoint()

        await together(write, follow)
        assert_chain(seen)
        assert len(seen) == 200
