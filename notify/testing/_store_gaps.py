"""Tests of a store's positions and retention: what is gone is a gap, what is not gone is not lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

import anyio.lowlevel
import pytest

from notify import Event, InvalidEventIdError, Store, ids

from ._samples import BAD_IDS
from ._store_base import StoreTests
from ._types import StoreT
from ._waits import assert_chain, now, together


class GapTests(StoreTests[StoreT]):
    """Unknown positions, trimming and gaps."""

    async def test_a_position_that_no_event_has_gives_later_events_only(self, store: Store) -> None:
        """Reading after an id that the log never held gives the events after it, and reports that it never held it."""
        *_, first, second = await self.fill_over_time(store, "alice")
        ms, sequence = ids.parse(first.id)
        page = await store.read("alice", ids.format(ms, sequence + 1), 10)
        assert ([*page.events], page.gap, page.position) == ([second], "rewound", second.id)

    async def test_a_position_before_the_first_event_gives_everything(self, store: Store) -> None:
        """Reading after an id from before the log began gives all of it, and says that what was there has expired."""
        events = await self.fill(store, "alice", 2)
        page = await store.read("alice", "1-1", 10)
        assert ([*page.events], page.gap, page.position) == (events, "expired", events[1].id)

    async def test_a_position_ahead_of_the_log_was_rewound(self, store: Store) -> None:
        """Reading after an id that the log has not reached, up to the greatest, reports `rewound` and the log's end."""
        last = (await self.fill(store, "alice", 2))[1]
        ms, sequence = ids.parse(last.id)
        for ahead in ((ms, sequence + 1), (ms + 3_600_000, 0), ((1 << 64) - 1, (1 << 64) - 1)):
            page = await store.read("alice", ids.format(*ahead), 10)
            assert ([*page.events], page.gap, page.position) == ([], "rewound", last.id)
        following = await store.save(Event("alice", "t"))
        assert following.prev == last.id, "a position that is asked for moves nothing"

    async def test_a_position_in_an_unknown_log_has_expired(self, store: Store) -> None:
        """Reading after an id in a log that does not exist has the gap `expired` and position `"0"`."""
        page = await store.read("bob", f"{int(now().timestamp() * 1000)}-0", 10)
        assert ([*page.events], page.gap, page.position) == ([], "expired", "0")

    async def test_trim_keeps_the_event_exactly_there(self, store: Store) -> None:
        """Trimming before an id removes what lies before it, returns how many, and keeps the one exactly there."""
        events = await self.fill(store, "alice", 5)
        assert await store.trim(events[3].id) == 3
        assert await self.read_all(store, "alice", events[2].id) == events[3:]
        assert await store.trim(events[3].id) == 0

    async def test_trim_keeps_what_is_exactly_as_old(self, store: Store) -> None:
        """Trimming before a time keeps the events of that very millisecond and removes those before."""
        events = await self.fill_over_time(store, "alice")
        cutoff = ids.time_of(events[-1].id)
        kept = [event for event in events if ids.time_of(event.id) >= cutoff]
        assert await store.trim(cutoff) == len(events) - len(kept)
        assert await self.read_all(store, "alice", kept[0].prev) == kept

    async def test_trim_spares_the_young(self, store: Store) -> None:
        """Trimming before a time that all events are younger than removes nothing; so does trimming an empty store."""
        assert await store.trim(now()) == 0
        events = await self.fill(store, "alice", 3)
        assert await store.trim(now() - timedelta(days=1)) == 0
        assert await store.trim("0") == 0
        assert await self.read_all(store, "alice") == events

    async def test_trim_goes_by_id_and_not_by_timestamp(self, store: Store) -> None:
        """An event that came with an old timestamp is as young as its id."""
        event = await store.save(Event("alice", "t", timestamp=datetime.fromisoformat("1999-12-31T00:00:00+00:00")))
        assert await store.trim(now() - timedelta(days=1)) == 0
        assert await self.read_all(store, "alice") == [event]

    async def test_trim_reaches_every_user(self, store: Store) -> None:
        """Trimming everything empties the logs of all users, the inactive ones too; their heads stay."""
        logs = {f"user {{{number}}}": await self.fill(store, f"user {{{number}}}", 3) for number in range(12)}
        assert await store.trim(now() + timedelta(days=1)) == 36
        for user, events in logs.items():
            assert await store.head(user) == events[-1].id
            page = await store.read(user, events[-1].id, 10)
            assert ([*page.events], page.gap, page.position) == ([], None, events[-1].id)

    async def test_a_trimmed_position_has_a_gap(self, store: Store) -> None:
        """Reading after an event whose successor was trimmed reports `trimmed`, and gives what is left."""
        events = await self.fill(store, "alice", 6)
        await store.trim(events[4].id)
        for after in ("0", events[0].id, events[2].id):
            page = await store.read("alice", after, 10)
            assert ([*page.events], page.gap, page.position) == (events[4:], "trimmed", events[5].id)

    async def test_a_trimmed_position_whose_successor_is_left_has_none(self, store: Store) -> None:
        """Reading after the last trimmed event misses nothing, so no gap is reported."""
        events = await self.fill(store, "alice", 6)
        await store.trim(events[4].id)
        for after in events[3:]:
            assert (await store.read("alice", after.id, 10)).gap is None

    async def test_a_log_that_was_trimmed_empty_has_a_gap(self, store: Store) -> None:
        """Reading a log of which nothing is left reports `trimmed` and where it ended."""
        events = await self.fill(store, "alice", 3)
        await store.trim(now() + timedelta(days=1))
        for after in ("0", events[0].id, events[1].id):
            page = await store.read("alice", after, 10)
            assert ([*page.events], page.gap, page.position) == ([], "trimmed", events[2].id)

    async def test_a_gap_is_told_on_the_first_page_only(self, store: Store) -> None:
        """After a gap, reading on from a page's position is contiguous again."""
        events = await self.fill(store, "alice", 8)
        await store.trim(events[3].id)
        first = await store.read("alice", events[0].id, 2)
        assert ([*first.events], first.gap) == (events[3:5], "trimmed")
        assert await self.read_all(store, "alice", first.position, limit=2) == events[5:]

    async def test_a_trimmed_log_goes_on(self, store: Store) -> None:
        """The first event after trimming everything has a greater id and links to the last one trimmed."""
        last = (await self.fill(store, "alice", 3))[-1]
        await store.trim(now() + timedelta(days=1))
        event = await store.save(Event("alice", "t"))
        assert_chain([event], start=last.id)
        page = await store.read("alice", last.id, 10)
        assert ([*page.events], page.gap) == ([event], None)

    async def test_trim_refuses_what_is_no_position(self, store: Store) -> None:
        """Trimming before garbage or a time without zone raises InvalidEventIdError and removes nothing."""
        events = await self.fill(store, "alice", 2)
        for garbage in (*BAD_IDS, datetime(2100, 1, 1)):
            with pytest.raises(InvalidEventIdError):
                await store.trim(garbage)
        assert await self.read_all(store, "alice") == events

    async def test_a_save_during_trim_is_not_lost(self, store: Store) -> None:
        """While others trim what is old, every event that is saved stays, linked to the one before it."""
        users = [f"user{number}" for number in range(5)]
        old = [event for user in users for event in await self.fill(store, user, 5)]
        cutoff = ids.format(max(ids.parse(event.id)[0] for event in old), 0)
        saved: dict[str, list[Event]] = {}

        async def write(user: str) -> None:
            saved[user] = await self.fill(store, user, 20)

        async def trim() -> None:
            for _ in range(20):
                await store.trim(cutoff)
                await anyio.lowlevel.checkpoint()

        await together(*(partial(write, user) for user in users), trim, trim)
        for user, events in saved.items():
            assert await self.read_all(store, user, events[0].prev) == events
