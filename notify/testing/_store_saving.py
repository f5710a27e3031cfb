"""Suites for the further ways in which a store may save: in batches of its own, or in the caller's transaction."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest

from notify import ClosedError, Event, NotifyError, Store, StreamStore, UsageError
from notify.abc import SaveInTransaction, SaveSoon

from ._store_base import StoreTests
from ._types import StoreT
from ._waits import assert_chain, eventually, numbers, one


class SaveSoonSuite(StoreTests[StoreT]):
    """For a store with `save_soon`: it does what `save` does for each event, and calls back with the outcome."""

    async def test_saving_soon_is_saving(self, store: Store) -> None:
        """Each event is stored as `save` would store it, in the order of the calls, and called back for once."""
        before = await store.save(Event("alice", "t", "before"))
        drafts = [Event("alice", "t", number, group=f"g{number}", meta={"n": str(number)}) for number in range(50)]
        other = Event("bob", "t", "other")
        outcomes = await self.save_soon(store, [*drafts, other])
        after = await store.save(Event("alice", "t", "after"))
        log = await self.read_all(store, "alice")
        assert_chain(log)
        assert [log[0], log[-1]] == [before, after]
        assert log[1:-1] == [draft.stored(event.id, event.prev) for draft, event in zip(drafts, log[1:-1], strict=True)]
        assert outcomes[:-1] == log[1:-1]
        assert await self.read_all(store, "bob") == outcomes[-1:]

    async def test_a_key_counts_for_what_is_saved_soon(self, store: Store) -> None:
        """A repeated key stores nothing and calls back with the first event, though both are on their way at once."""
        first = await store.save(Event("alice", "t", "first", key="k"))
        pairs = (("again", "k"), ("new", "n"), ("new again", "n"))
        drafts = [Event("alice", "t", text, key=key) for text, key in pairs]
        outcomes = await self.save_soon(store, drafts)
        assert outcomes == [first, outcomes[1], outcomes[1]]
        assert await self.read_all(store, "alice") == [first, outcomes[1]]
        assert await store.save(Event("alice", "t", key="n")) == outcomes[1]

    async def test_what_is_saved_soon_keeps_the_order_of_calls(self, store: Store) -> None:
        """Of 2,000 events for 20 users, of any size and handed over without a pause, each log has the order given."""
        users = [f"user{number}" for number in range(20)]
        drafts = [
            Event(users[number * 7 % 20 if number % 3 else number % 4], "t", [number, "x" * (number % 50) ** 2])
            for number in range(2000)
        ]
        outcomes = await self.save_soon(store, drafts)
        assert all(isinstance(outcome, Event) for outcome in outcomes)
        for user in users:
            log = await self.read_all(store, user)
            assert_chain(log)
            assert numbers(log) == [draft.payload for draft in drafts if draft.user == user]

    async def test_every_outcome_is_known_when_the_store_closes(self, store: Store) -> None:
        """Each event taken is called back for once, though the store is closed right after it was taken."""
        outcomes: list[list[object]] = [[] for _ in range(30)]
        for number, each in enumerate(outcomes):
            soon(store).save_soon(Event(f"user{number % 3}", "t", number), each.append)
        await store.aclose()

        async def all_are_known() -> None:
            assert [len(each) for each in outcomes] == [1] * 30

        await eventually(all_are_known, self.patience)
        assert all(isinstance(outcome, Event | NotifyError) for (outcome,) in outcomes)

    async def test_a_closed_store_takes_nothing(self, store: Store) -> None:
        """After `aclose`, `save_soon` raises ClosedError and does not call back."""
        await store.aclose()
        outcomes: list[object] = []
        with pytest.raises(ClosedError):
            soon(store).save_soon(Event("alice", "t"), outcomes.append)
        assert outcomes == []

    async def save_soon(self, store: Store, drafts: Sequence[Event]) -> list[Event | NotifyError]:
        """Hand over all drafts at once, and return their outcomes in the order of the drafts."""
        outcomes: list[list[Event | NotifyError]] = [[] for _ in drafts]
        for draft, each in zip(drafts, outcomes, strict=True):
            soon(store).save_soon(draft, each.append)

        async def all_are_known() -> None:
            unknown = sum(not each for each in outcomes)
            assert unknown == 0

        await eventually(all_are_known, self.patience)
        repeated = sum(len(each) > 1 for each in outcomes)
        assert repeated == 0
        return [outcome for (outcome,) in outcomes]


class SaveInTransactionSuite(StoreTests[StoreT]):
    """For a store with `save_in`: an event that is saved in the caller's transaction exists if that commits."""

    @abstractmethod
    def connection(self, store: StoreT) -> AbstractAsyncContextManager[Any]:
        """Return a context manager that connects to the store's database, as its users do: without a transaction."""

    @abstractmethod
    def transaction(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        """Return a context manager: a transaction on this connection, rolled back by an exception in its block."""

    async def test_a_commit_makes_the_event(self, store: StoreT) -> None:
        """What is saved in a transaction has its place in the log, is not there before the commit, and is after it."""
        before = await store.save(Event("alice", "t", 0))
        async with self.connection(store) as connection:
            async with self.transaction(connection):
                drafts = [Event("alice", "t", number, group="g", meta={"a": "b"}) for number in (1, 2)]
                events = [await inside(store).save_in(draft, connection) for draft in drafts]
                assert await self.read_all(store, "alice") == [before]
                assert await store.head("alice") == before.id
            assert events == [draft.stored(event.id, event.prev) for draft, event in zip(drafts, events, strict=True)]
            after = await store.save(Event("alice", "t", 3))
            log = await self.read_all(store, "alice")
            assert log == [before, *events, after]
            assert_chain(log)

    async def test_a_rollback_leaves_nothing(self, store: StoreT) -> None:
        """After a rollback neither the event nor its key is there, and the log goes on as if nothing had happened."""
        before = await store.save(Event("alice", "t", 0))
        async with self.connection(store) as connection:
            with pytest.raises(ZeroDivisionError):
                await self.save_and_fail(store, connection)
            again = await store.save(Event("alice", "t", 2, key="k"))
            assert (again.payload, again.prev) == (2, before.id)
            assert await self.read_all(store, "alice") == [before, again]

    async def test_a_key_counts_in_a_transaction(self, store: StoreT) -> None:
        """A key that was used, before or in the transaction, returns the first event and stores nothing."""
        first = await store.save(Event("alice", "t", "first", key="k"))
        async with self.connection(store) as connection:
            async with self.transaction(connection):
                assert await inside(store).save_in(Event("alice", "t", "again", key="k"), connection) == first
                new = await inside(store).save_in(Event("alice", "t", "new", key="n"), connection)
                assert await inside(store).save_in(Event("alice", "t", "new again", key="n"), connection) == new
            assert await store.save(Event("alice", "t", key="n")) == new
            assert await self.read_all(store, "alice") == [first, new]

    async def test_without_a_transaction_nothing_is_saved(self, store: StoreT) -> None:
        """A connection without a transaction, and an object that is not a connection, raise UsageError."""
        async with self.connection(store) as connection:
            for wrong in (connection, object()):
                with pytest.raises(UsageError):
                    await inside(store).save_in(Event("alice", "t"), wrong)
            assert await store.head("alice") == "0"

    async def test_a_closed_store_joins_no_transaction(self, store: StoreT) -> None:
        """After `aclose`, `save_in` raises ClosedError."""
        async with self.connection(store) as connection, self.transaction(connection):
            await store.aclose()
            with pytest.raises(ClosedError):
                await inside(store).save_in(Event("alice", "t"), connection)

    async def test_streams_wake_up_after_the_commit(self, store: StoreT) -> None:
        """Where the store streams, an event in a transaction reaches open streams promptly once that commits."""
        if not isinstance(store, StreamStore):
            return
        async with self.connection(store) as connection, store.subscribe("alice") as stream:
            await store.save(Event("alice", "t", 0))
            assert numbers([await one(stream, self.patience)]) == [0]
            async with self.transaction(connection):
                event = await inside(store).save_in(Event("alice", "t", 1), connection)
                with pytest.raises(TimeoutError):
                    await stream.next(0.05)
            start = anyio.current_time()
            assert await one(stream, self.patience) == event
            assert anyio.current_time() - start < self.prompt

    async def save_and_fail(self, store: StoreT, connection: Any) -> None:
        """Save in a transaction, and raise in it."""
        async with self.transaction(connection):
            await inside(store).save_in(Event("alice", "t", 1, key="k"), connection)
            _ = 1 / 0


def soon(store: Store) -> SaveSoon:
    """Return the store as one that saves soon."""
    assert isinstance(store, SaveSoon)
    return store


def inside(store: Store) -> SaveInTransaction:
    """Return the store as one that saves in transactions."""
    assert isinstance(store, SaveInTransaction)
    return store
