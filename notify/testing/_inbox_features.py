"""Suites for what an inbox store may have beyond the interface: durability, sharing, transactions, erasing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify import Event, ids

from ._inbox_base import InboxTests, item, payloads
from ._store_forget import forgetting
from ._store_saving import inside
from ._types import InboxStoreT
from ._waits import assert_chain, together


class DurableInboxSuite(InboxTests[InboxStoreT]):
    """For an inbox store whose events survive the end of the process."""

    @abstractmethod
    async def reopen(self, store: InboxStoreT) -> InboxStoreT:
        """Return a new store on the data of this one, which was closed."""

    async def test_inboxes_survive(self, store: InboxStoreT) -> None:
        """States, counts, follows and positions are as they were, and everything goes on from there."""
        await self.follow(store, "alice", "news")
        sent = [await self.send(store, "alice", number, group=f"g{number}") for number in range(4)]
        for effect, event in zip(("seen", "read", "dismissed"), sent, strict=False):
            await self.mark(store, "alice", effect, ids=[event.id])
        topical = await self.send(store, "news", "news")
        page = await self.page(store, "alice", state="all")
        states = await self.states(store, "alice")
        await self.send(store, "session", "s")
        await self.merge(store, "session", "alice")
        before = await self.page(store, "alice", state="all")
        await store.aclose()
        async with self.closing(await self.reopen(store)) as again:
            assert await self.page(again, "alice", state="all") == before
            assert (await self.merge(again, "session", "alice")).event is None
            later = await self.send(again, "news", "later")
            change = await self.mark(again, "alice", "dismissed", up_to=page.position)
            assert [*change.ids] == [id for id in states if states[id] != "dismissed"]
            left = await self.states(again, "alice")
            assert left[f"{later.id}@news"] == "unseen"
            assert left[f"{topical.id}@news"] == "dismissed"
            assert (await self.follow(again, "alice", "news")).event is None


class SharedInboxSuite(InboxTests[InboxStoreT]):
    """For an inbox store whose logs several processes see."""

    @abstractmethod
    async def another(self, store: InboxStoreT) -> InboxStoreT:
        """Return a second store on the same data, as another process would have it."""

    async def test_inboxes_are_shared(self, store: InboxStoreT) -> None:
        """What one changes, the other one sees at once; what both change at the same time has one order."""
        async with self.closing(await self.another(store)) as other:
            sent = [await self.send(one, "alice", number) for number, one in enumerate((store, other) * 2)]
            assert await self.states(store, "alice") == await self.states(other, "alice")
            assert [*(await self.mark(other, "alice", "read", ids=[sent[0].id])).ids] == [sent[0].id]
            assert (await self.mark(store, "alice", "read", ids=[sent[0].id])).event is None

            async def act(one: InboxStoreT, writer: int) -> None:
                for number in range(10):
                    event = await self.send(one, "alice", [writer, number], group=f"g{number % 2}")
                    await self.mark(one, "alice", "dismissed" if number % 3 else "read", ids=[event.id])
                    await self.mark(one, "alice", "unread", up_to=event.id)
                    await anyio.lowlevel.checkpoint()

            await together(*(partial(act, one, number) for number, one in enumerate((store, other, store, other))))
            assert_chain(await self.read_all(store, "alice", limit=200))
            await self.assert_folded(store, "alice")
            await self.assert_folded(other, "alice")

    async def test_pulls_of_several_processes_repeat_nothing(self, store: InboxStoreT) -> None:
        """While two processes pull for one follower, each item is taken over once, and its state stays."""
        async with self.closing(await self.another(store)) as other:
            await self.follow(store, "alice", "news")
            names: list[str] = []

            async def publish(one: InboxStoreT) -> None:
                for number in range(10):
                    name = f"{(await self.send(one, 'news', number)).id}@news"
                    names.append(name)
                    await anyio.lowlevel.checkpoint()
                    await self.mark(one, "alice", "dismissed", ids=[name])

            async def look(one: InboxStoreT) -> None:
                for _ in range(10):
                    await one.pull("alice")
                    await anyio.lowlevel.checkpoint()

            await together(*(partial(act, one) for act in (publish, look) for one in (store, other)))
            states = await self.states(other, "alice")
            assert {*states} == {*names}
            assert {*states.values()} == {"dismissed"}


class InboxTransactionSuite(InboxTests[InboxStoreT]):
    """For an inbox store with `save_in`."""

    @abstractmethod
    def connection(self, store: InboxStoreT) -> AbstractAsyncContextManager[Any]:
        """Return a context manager that connects to the store's database, as its users do: without a transaction."""

    @abstractmethod
    def transaction(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        """Return a context manager: a transaction on this connection, rolled back by an exception in its block."""

    async def test_a_transaction_takes_its_items_with_it(self, store: InboxStoreT) -> None:
        """An item that is saved in a transaction is listed and counted once that commits, and never if it does not."""
        before = await self.send(store, "alice", "before", group="g")
        async with self.connection(store) as connection:
            with pytest.raises(ZeroDivisionError):
                await self.send_and_fail(store, connection)
            assert await self.states(store, "alice") == {before.id: "unseen"}
            async with self.transaction(connection):
                first = await inside(store).save_in(item("alice", "first", group="g"), connection)
                second = await inside(store).save_in(item("alice", "second"), connection)
                assert await self.states(store, "alice") == {before.id: "unseen"}
            assert await self.states(store, "alice") == {second.id: "unseen", first.id: "unseen"}
        await self.assert_folded(store, "alice")

    async def test_an_earlier_writer_that_commits_last(self, store: InboxStoreT) -> None:
        """An item of a transaction that begins first and commits last is listed and counted; so is a later one."""
        shown = await self.send(store, "alice", "shown")
        async with self.connection(store) as connection, anyio.create_task_group() as tasks:
            async with self.transaction(connection):
                slow = await inside(store).save_in(item("alice", "slow"), connection)
                tasks.start_soon(partial(self.send, store, "alice", "quick"))
                for _ in range(10):  # so that it has begun, if the store lets it
                    await anyio.lowlevel.checkpoint()
                page = await self.page(store, "alice")
        log = await self.read_all(store, "alice")
        assert_chain(log)
        assert slow in log
        assert {event.payload for event in log} == {"shown", "slow", "quick"}
        assert await self.states(store, "alice") == {event.id: "unseen" for event in reversed(log)}
        change = await self.mark(store, "alice", "read", up_to=page.position)
        assert ([*change.ids], change.counts.unread) == ([shown.id], 2)
        await self.assert_folded(store, "alice")

    async def send_and_fail(self, store: InboxStoreT, connection: Any) -> None:
        """Save an item in a transaction, and raise in it."""
        async with self.transaction(connection):
            await inside(store).save_in(item("alice", "never", group="g"), connection)
            _ = 1 / 0


class ForgetInboxSuite(InboxTests[InboxStoreT]):
    """For an inbox store with `forget`: it erases the inbox too."""

    @abstractmethod
    async def traces(self, store: InboxStoreT, user: str) -> Collection[str]:
        """Return what the backend still holds that names this user, found with its driver or tools, not the store."""

    async def test_an_inbox_is_forgotten(self, store: InboxStoreT) -> None:
        """Items, counts and follows are gone, in both directions, and so is every trace of the user."""
        await self.follow(store, "carol", "news")
        await self.follow(store, "bob", "carol")
        await self.follow(store, "bob", "news")
        sent = [await self.send(store, user, number) for number, user in enumerate(("carol", "news", "bob"))]
        await self.mark(store, "carol", "read", ids=[sent[0].id])
        await self.send(store, "carol", "due", expires=1)
        assert len((await self.page(store, "bob")).items) == 3
        assert await self.traces(store, "carol")
        await forgetting(store).forget("carol")
        assert [*await self.traces(store, "carol")] == []
        assert await self.states(store, "carol") == {}
        assert [*await store.edges(user="carol"), *await store.edges(topic="carol")] == []
        assert [each.user for each in await store.edges(topic="news")] == ["bob"]
        assert [each.topic for each in await store.edges(user="bob")] == ["news"]
        assert {*payloads(await self.list_all(store, "bob"))} == {2, 1}
        new = await self.send(store, "carol", "new")
        assert ids.compare(sent[0].id, new.id) < 0
        assert await self.states(store, "carol") == {new.id: "unseen"}
        assert (await self.page(store, "bob")).counts.total == 2


class LosingInboxSuite(InboxTests[InboxStoreT]):
    """For a store whose log can lose its end while the inbox keeps its own, such as by a failover."""

    @abstractmethod
    async def lose_log(self, store: InboxStoreT, user: str) -> None:
        """Make the store lose the log of a user, its head too, but not the inbox."""

    async def test_ids_go_on_above_the_inbox(self, store: InboxStoreT) -> None:
        """What is saved afterwards has a greater id than all items, is listed first, and can be changed."""
        old = [await self.send(store, "alice", number) for number in range(3)]
        page = await self.page(store, "alice")
        await self.lose_log(store, "alice")
        assert await self.states(store, "alice") == dict.fromkeys((event.id for event in reversed(old)), "unseen")
        new = await self.send(store, "alice", 3)
        plain = await store.save(Event("alice", "t"))
        assert ids.compare(old[-1].id, new.id) < 0
        assert ids.compare(new.id, plain.id) < 0
        change = await self.mark(store, "alice", "read", up_to=page.position)
        assert [*change.ids] == [event.id for event in reversed(old)]
        states = await self.states(store, "alice")
        assert next(iter(states.items())) == (new.id, "unseen")
