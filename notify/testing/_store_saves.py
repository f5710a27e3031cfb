"""Tests of what may happen to a save: repeated by key, concurrent, cancelled, after the end."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel
import pytest

from notify import ClosedError, Event, NotifyError, Store

from ._samples import HOSTILE_NAMES
from ._store_base import StoreTests
from ._types import StoreT
from ._waits import assert_chain, interrupted, now, together


class SaveTests(StoreTests[StoreT]):
    """Idempotency keys, cancellation and closing."""

    async def test_a_repeated_key_returns_the_first_event(self, store: Store) -> None:
        """Saving with a key that the user has used stores nothing and returns the first event, whatever else it has."""
        first = await store.save(Event("alice", "t", 1, key="k"))
        again = await store.save(Event("alice", "other", 2, key="k", group="g", meta={"a": "b"}))
        assert again == first
        assert await self.read_all(store, "alice") == [first]

    async def test_a_key_is_remembered(self, store: Store) -> None:
        """A key still counts after other events, with other keys and without, were saved."""
        first = await store.save(Event("alice", "t", key="k"))
        await self.fill(store, "alice", 30)
        for number in range(30):
            await store.save(Event("alice", "t", key=f"k{number}"))
        assert await store.save(Event("alice", "t", key="k")) == first
        assert await store.head("alice") != first.id

    async def test_concurrent_saves_with_one_key_store_once(self, store: Store) -> None:
        """Of many saves with one key that run at once, one stores, and all return its event."""
        returned: list[Event] = []

        async def save(number: int) -> None:
            await anyio.lowlevel.checkpoint()
            returned.append(await store.save(Event("alice", "t", number, key="k")))

        await together(*(partial(save, number) for number in range(20)))
        log = await self.read_all(store, "alice")
        assert len(log) == 1
        assert returned == log * 20

    async def test_a_key_counts_for_its_user_only(self, store: Store) -> None:
        """Two users may use the same key, and no pair of user and key is taken for another one."""
        pairs = [("a", "b:c"), ("a:b", "c"), ("a", "b"), ("b", "b"), ("a:b:c", "a"), *((name, "k") for name in "xyz")]
        stored = [await store.save(Event(user, "t", [user, key], key=key)) for user, key in pairs]
        assert [event.payload for event in stored] == [[user, key] for user, key in pairs]

    async def test_a_key_is_compared_byte_by_byte(self, store: Store) -> None:
        """No two different keys are taken for one, and each returns its own event when repeated."""
        stored = {name: await store.save(Event("alice", "t", key=name)) for name in HOSTILE_NAMES}
        assert len({event.id for event in stored.values()}) == len(HOSTILE_NAMES)
        for name, event in stored.items():
            assert await store.save(Event("alice", "t", key=name)) == event

    async def test_events_without_a_key_are_never_the_same(self, store: Store) -> None:
        """Without a key, an event that equals another one in everything is stored again."""
        draft = Event("alice", "t", 1)
        assert_chain([await store.save(draft) for _ in range(3)])
        assert len(await self.read_all(store, "alice")) == 3

    async def test_a_cancelled_save_leaves_the_log_whole(self, store: Store) -> None:
        """A save that is cancelled at any time stores its event or not; the log stays a chain and can be written."""
        for number in range(30):
            await interrupted(partial(store.save, Event("alice", "t", number)), number)
        with anyio.fail_after(self.patience):
            last = await store.save(Event("alice", "last"))
        log = await self.read_all(store, "alice")
        assert_chain(log)
        assert last in log
        payloads = [event.payload for event in log]
        assert len(set(payloads)) == len(payloads)  # in any order: none had returned when the next one was called

    async def test_a_cancelled_read_does_no_harm(self, store: Store) -> None:
        """Reads that are cancelled at any time leave the store as it was."""
        events = await self.fill(store, "alice", 3)
        for attempt in range(20):
            await interrupted(partial(store.read, "alice", "0", 10), attempt)
            await interrupted(partial(store.head, "alice"), attempt)
        assert await self.read_all(store, "alice") == events

    async def test_a_closed_store_raises(self, store: Store) -> None:
        """After `aclose`, every method raises ClosedError; closing again does nothing."""
        await self.fill(store, "alice", 1)
        await store.aclose()
        await store.aclose()
        with pytest.raises(ClosedError):
            await store.save(Event("alice", "t"))
        with pytest.raises(ClosedError):
            await store.read("alice", "0", 10)
        with pytest.raises(ClosedError):
            await store.read("unknown", "0", 10)
        with pytest.raises(ClosedError):
            await store.head("alice")
        with pytest.raises(ClosedError):
            await store.trim(now())
        with pytest.raises(ClosedError):
            await store.trim("0")

    async def test_a_store_that_was_never_used_closes(self) -> None:
        """Closing a store before its first use leaves nothing behind, and it stays closed."""
        async with self.fresh() as store:
            await store.aclose()
            with pytest.raises(ClosedError):
                await store.save(Event("alice", "t"))

    async def test_saves_end_when_the_store_closes(self, store: Store) -> None:
        """Saves under way while the store closes return an event or one of the library's errors; none hangs."""
        outcomes: list[object] = []

        async def save(number: int) -> None:
            try:
                outcomes.append(await store.save(Event("alice", "t", number)))
            except NotifyError as error:
                outcomes.append(error)

        with anyio.fail_after(self.patience):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(save, number)
                tasks.start_soon(store.aclose)
        assert len(outcomes) == 20
