"""Suites for two abilities of stores: erasing a user, and creating what the store needs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from functools import partial

import anyio.lowlevel
import pytest

from notify import ClosedError, Event, InvalidEventError, Notifier, Store, ids
from notify.abc import Forget, Prepare

from ._samples import HOSTILE_NAMES
from ._store_base import StoreTests
from ._types import StoreT
from ._waits import assert_chain, numbers, take, through, together


def forgetting(store: Store) -> Forget:
    """Return the store as one that can erase a user."""
    assert isinstance(store, Forget)
    return store


class ForgetSuite(StoreTests[StoreT]):
    """For a store with `forget`: nothing of the user is left, and nothing else is touched."""

    @abstractmethod
    async def traces(self, store: StoreT, user: str) -> Collection[str]:
        """Return what the backend still holds that names this user, found with its driver or tools, not the store."""

    async def test_nothing_is_left(self, store: StoreT) -> None:
        """Events, keys and head are gone, and so is every other trace of the user; other users keep theirs."""
        await self.fill(store, "carol", 5)
        await store.save(Event("carol", "t", key="k", group="g", meta={"m": "carol"}))
        others = [event for user in ("bob", "carol2") for event in await self.fill(store, user, 3)]
        assert await self.traces(store, "carol")
        assert await forgetting(store).forget("carol") == 6
        assert [*await self.traces(store, "carol")] == []
        assert await store.head("carol") == "0"
        assert await self.read_all(store, "carol") == []
        assert await self.read_all(store, "bob") + await self.read_all(store, "carol2") == others

    async def test_the_log_begins_again(self, store: StoreT) -> None:
        """The next save begins a new log, with a greater id than the old one had, and a key of the old one is free."""
        old = await store.save(Event("alice", "t", "old", key="k"))
        await forgetting(store).forget("alice")
        new = await store.save(Event("alice", "t", "new", key="k"))
        assert (new.payload, new.prev) == ("new", "0")
        assert ids.parse(new.id) > ids.parse(old.id)
        assert await self.read_all(store, "alice") == [new]

    async def test_a_position_in_the_old_log_has_a_gap(self, store: StoreT) -> None:
        """Whether the new log has events yet or not, the page after an old position has the gap `expired`."""
        events = await self.fill(store, "alice", 3)
        await forgetting(store).forget("alice")
        assert (await store.read("alice", events[1].id, 10)).gap == "expired"
        new = await self.fill(store, "alice", 1)
        page = await store.read("alice", events[2].id, 10)
        assert (page.gap, [*page.events]) == ("expired", new)

    async def test_forgetting_twice_and_the_unknown(self, store: StoreT) -> None:
        """An unknown user, and a second call, are not errors: nothing was there to erase."""
        await self.fill(store, "alice", 2)
        assert [await forgetting(store).forget(user) for user in ("unknown", "alice", "alice")] == [0, 2, 0]

    async def test_hostile_names(self, store: StoreT) -> None:
        """Whatever characters a user id has, exactly this user's log is erased; the others stay as they were."""
        logs = {name: await self.fill(store, name, 2) for name in HOSTILE_NAMES}
        for name in HOSTILE_NAMES[::2]:
            assert await forgetting(store).forget(name) == 2
            logs[name] = []
        assert {name: await self.read_all(store, name) for name in HOSTILE_NAMES} == logs

    async def test_saves_at_the_same_time(self, store: StoreT) -> None:
        """Each save is erased or belongs to the new log, which is whole."""

        async def write(writer: int) -> None:
            for number in range(20):
                await store.save(Event("alice", "t", [writer, number]))
                await anyio.lowlevel.checkpoint()

        async def erase() -> None:
            for _ in range(5):
                await forgetting(store).forget("alice")
                await anyio.lowlevel.checkpoint()

        await together(*(partial(write, writer) for writer in range(4)), erase)
        log = await self.read_all(store, "alice")
        assert_chain(log)
        for writer in range(4):
            kept = [event.payload[1] for event in log if event.payload[0] == writer]
            assert kept == [*range(20)][20 - len(kept) :]
        assert await forgetting(store).forget("alice") == len(log)
        assert [*await self.traces(store, "alice")] == []

    async def test_an_open_stream_gets_a_gap(self, store: StoreT) -> None:
        """`Notifier.forget` gives open streams the gap `expired`, and what is pushed afterwards follows."""
        async with Notifier(store) as notifier, notifier.subscribe("alice", signals=True) as stream:
            assert [event.type for event in await take(stream, 1, self.patience)] == ["notify.sync"]
            for number in range(3):
                await notifier.push("alice", "t", number)
            assert numbers(await take(stream, 3, self.patience)) == [0, 1, 2]
            position = stream.last_id
            assert await notifier.forget("alice") == 3
            gap = await stream.next(self.patience)
            assert (gap.type, gap.payload["reason"], gap.payload["from"]) == ("notify.gap", "expired", position)
            await notifier.push("alice", "t", 3)
            *signals, event = await through(stream, "t", self.patience)
            assert {each.type for each in signals} <= {"notify.sync"}
            assert event.payload == 3
            with pytest.raises(InvalidEventError):
                await notifier.forget("")

    async def test_a_closed_store_forgets_nothing(self, store: StoreT) -> None:
        """After `aclose`, forgetting raises ClosedError."""
        await store.aclose()
        with pytest.raises(ClosedError):
            await forgetting(store).forget("alice")


def preparing(store: Store) -> Prepare:
    """Return the store as one that can create what it needs."""
    assert isinstance(store, Prepare)
    return store


class PrepareSuite(StoreTests[StoreT]):
    """For a store with `prepare`: it creates what the store needs, and reading creates nothing."""

    @abstractmethod
    async def created(self, store: StoreT) -> Collection[str]:
        """Return the names of what exists in the backend for this store, such as tables, found without the store."""

    async def test_reading_creates_nothing(self, store: StoreT) -> None:
        """What was never prepared reads as empty logs, and nothing exists afterwards."""
        assert await store.head("alice") == "0"
        page = await store.read("alice", "0", 10)
        assert ([*page.events], page.gap, page.position) == ([], None, "0")
        assert (await store.read("alice", "5-0", 10)).gap == "expired"
        assert [*await self.created(store)] == []

    async def test_preparing_twice(self, store: StoreT) -> None:
        """`prepare` creates what `save` would, and the second call changes nothing."""
        await preparing(store).prepare()
        created = [*await self.created(store)]
        await preparing(store).prepare()
        event = await store.save(Event("alice", "t"))
        assert [*await self.created(store)] == created
        assert await self.read_all(store, "alice") == [event]

    async def test_the_first_save_prepares(self, store: StoreT) -> None:
        """Whatever was read before, the first save creates what is missing, and reads see it from then on."""
        assert await self.read_all(store, "alice") == []
        event = await store.save(Event("alice", "t"))
        assert await self.read_all(store, "alice") == [event]

    async def test_a_closed_store_prepares_nothing(self, store: StoreT) -> None:
        """After `aclose`, preparing raises ClosedError."""
        assert isinstance(preparing(store).script(), str)
        await store.aclose()
        with pytest.raises(ClosedError):
            await preparing(store).prepare()
