"""Suites for what a store may promise beyond the interface: bounds, age, durability, sharing."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import anyio
import pytest

from notify import ClosedError, Event, Store, ids

from ._store_base import StoreTests
from ._types import StoreT
from ._waits import assert_chain, eventually, now, numbers, together


class BoundedStoreSuite(StoreTests[StoreT]):
    """For a store with a bound on the events that it keeps for each user.

    Attributes:
        slack: events that it may keep beyond its bound.
    """

    slack: ClassVar[int] = 0

    @abstractmethod
    async def make_bounded(self, max_len: int) -> StoreT:
        """Return a new store that keeps `max_len` events for each user."""

    async def test_the_oldest_go_first(self) -> None:
        """Of more events than the store keeps, the last ones stay; a reader from before them finds a gap."""
        count = 12 + 2 * self.slack
        async with self.closing(await self.make_bounded(5)) as store:
            other = await self.fill(store, "bob", 5)
            events = await self.fill(store, "alice", count)
            page = await store.read("alice", events[0].id, count)
            assert page.gap == "trimmed"
            assert 5 <= len(page.events) <= 5 + self.slack
            assert [*page.events] == events[-len(page.events) :]
            assert await self.read_all(store, "alice", page.events[0].prev) == [*page.events]
            assert await store.head("alice") == events[-1].id
            assert await self.read_all(store, "bob") == other

    async def test_a_single_event_is_kept(self) -> None:
        """A bound of one event is legal, and keeps at least the last."""
        async with self.closing(await self.make_bounded(1)) as store:
            events = await self.fill(store, "alice", 3)
            assert [*(await store.read("alice", events[1].id, 10)).events] == events[2:]
            assert_chain(events)


class AgingStoreSuite(StoreTests[StoreT]):
    """For a store that forgets events by age.

    Attributes:
        max_age: seconds after which the tests let events grow too old.
    """

    max_age: ClassVar[float] = 1.0

    @abstractmethod
    async def make_aging(self, max_age: float) -> StoreT:
        """Return a new store that keeps events for `max_age` seconds."""

    async def let_pass(self, seconds: float) -> None:
        """Let time pass for the store made last: really, unless the store has a clock that can be moved."""
        await anyio.sleep(seconds)

    async def test_the_old_expire(self) -> None:
        """Events over the age are gone, also those of idle users; a reader from before finds the gap `expired`."""
        async with self.closing(await self.make_aging(self.max_age)) as store:
            events = await self.fill(store, "alice", 3)
            assert await self.read_all(store, "alice") == events
            await self.let_pass(self.max_age)

            async def all_expired() -> None:
                page = await store.read("alice", events[0].id, 10)
                assert ([*page.events], page.gap) == ([], "expired")

            await eventually(all_expired, self.patience)

    async def test_an_id_that_expired_is_never_given_again(self) -> None:
        """What is saved after everything expired has a greater id, and a reader from before finds the gap."""
        async with self.closing(await self.make_aging(self.max_age)) as store:
            events = await self.fill(store, "alice", 3)
            await self.let_pass(self.max_age)
            event = await store.save(Event("alice", "t"))
            assert ids.compare(events[-1].id, event.id) < 0

            async def the_old_expired() -> None:
                page = await store.read("alice", events[0].id, 10)
                assert [*page.events] == [event]
                assert page.gap in ("trimmed", "expired")

            await eventually(the_old_expired, self.patience)


class ClockedStoreSuite(StoreTests[StoreT]):
    """For a store that goes by a clock which can be replaced."""

    @abstractmethod
    async def make_clocked(self, clock: Callable[[], float]) -> StoreT:
        """Return a new store with this clock, seconds since 1970."""

    async def test_ids_grow_though_the_clock_does_not(self) -> None:
        """While the clock stands still, or steps back by hours, ids still grow strictly and link to each other."""
        times = [time.time()]
        async with self.closing(await self.make_clocked(lambda: times[-1])) as store:
            events = await self.fill(store, "alice", 5)
            for seconds in (-7200.0, 0.001, -0.001, 86_400.0, -86_400.0):
                times.append(times[-1] + seconds)
                events += await self.fill(store, "alice", 5)
            assert_chain(events)
            assert await self.read_all(store, "alice") == events

    async def test_ids_grow_though_clock_and_log_are_lost(self) -> None:
        """With the clock behind and everything trimmed, an id is still not given twice."""
        times = [time.time()]
        async with self.closing(await self.make_clocked(lambda: times[-1])) as store:
            last = (await self.fill(store, "alice", 5))[-1]
            await store.trim(now().replace(year=2200))
            times.append(times[-1] - 7200)
            assert_chain([await store.save(Event("alice", "t"))], start=last.id)


class DurableStoreSuite(StoreTests[StoreT]):
    """For a store whose events survive the end of the process."""

    @abstractmethod
    async def reopen(self, store: StoreT) -> StoreT:
        """Return a new store on the data of this one, which was closed."""

    async def test_events_survive(self, store: StoreT) -> None:
        """What was saved is read by the next process, with every field, and so are heads of what was trimmed."""
        events = await self.fill(store, "alice", 4)
        await store.trim(now().replace(year=2200))
        event = await store.save(Event("bob", "t", {"a": 1.5}, key="k", group="g", meta={"m": "1"}))
        await store.aclose()
        async with self.closing(await self.reopen(store)) as again:
            assert await self.read_all(again, "bob") == [event]
            assert await again.head("alice") == events[-1].id
            assert (await again.read("alice", events[0].id, 10)).gap == "trimmed"

    async def test_logs_go_on(self, store: StoreT) -> None:
        """The next process gives out greater ids, links to what is there, and remembers keys."""
        events = await self.fill(store, "alice", 3)
        keyed = await store.save(Event("alice", "t", key="k"))
        await store.aclose()
        async with self.closing(await self.reopen(store)) as again:
            assert await again.save(Event("alice", "t", key="k")) == keyed
            following = await again.save(Event("alice", "t"))
            assert await self.read_all(again, "alice") == [*events, keyed, following]
            assert_chain([*events, keyed, following])

    async def test_the_closed_one_stays_closed(self, store: StoreT) -> None:
        """Reopening gives another store; the old one still raises ClosedError."""
        await store.aclose()
        async with self.closing(await self.reopen(store)) as again:
            await again.save(Event("alice", "t"))
            with pytest.raises(ClosedError):
                await store.save(Event("alice", "t"))


class SharedStoreSuite(StoreTests[StoreT]):
    """For a store whose logs several processes see."""

    @abstractmethod
    async def another(self, store: StoreT) -> StoreT:
        """Return a second store on the same data, as another process would have it."""

    async def test_both_see_the_same(self, store: StoreT) -> None:
        """What one saves or trims, the other one sees at once."""
        async with self.closing(await self.another(store)) as other:
            events = await self.fill(store, "alice", 3)
            assert await self.read_all(other, "alice") == events
            event = await other.save(Event("alice", "t"))
            assert event.prev == events[-1].id
            assert await store.head("alice") == event.id
            assert await other.trim(event.id) == 3
            assert (await store.read("alice", events[0].id, 10)).gap == "trimmed"

    async def test_two_writers_make_one_chain(self, store: StoreT) -> None:
        """Processes that write to one log at once make one chain, each in its own order."""
        async with self.closing(await self.another(store)) as other:
            await together(*(partial(self.fill, one, "alice", 40) for one in (store, other, store, other)))
            log = await self.read_all(other, "alice")
            assert_chain(log)
            assert sorted(numbers(log)) == sorted([*range(40)] * 4)

    async def test_a_key_counts_everywhere(self, store: StoreT) -> None:
        """Of saves with one key in several processes at once, one stores, and all return its event."""
        returned: list[Event] = []

        async def save(one: Store) -> None:
            returned.append(await one.save(Event("alice", "t", key="k")))

        async with self.closing(await self.another(store)) as other:
            await together(*(partial(save, one) for one in (store, other) * 8))
            log = await self.read_all(store, "alice")
            assert len(log) == 1
            assert returned == log * 16

    async def test_each_closes_for_itself(self, store: StoreT) -> None:
        """Closing one leaves the other as it was."""
        async with self.closing(await self.another(store)) as other:
            event = await other.save(Event("alice", "t"))
            await other.aclose()
            with pytest.raises(ClosedError):
                await other.head("alice")
            assert await self.read_all(store, "alice") == [event]
            assert (await store.save(Event("alice", "t"))).prev == event.id
