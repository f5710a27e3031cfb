"""Tests of what happens at the same time, of interruptions, and of the end."""

from __future__ import annotations

from functools import partial
from random import Random

import anyio.lowlevel
import pytest

from notify import ClosedError, Event, NotifyError, StreamStore
from notify.inbox import InboxStore
from notify.inbox.abc import ItemQuery

from ._inbox_base import InboxTests, item, payloads
from ._types import InboxStoreT
from ._waits import assert_chain, eventually, interrupted, take, together

_EFFECTS = ("seen", "read", "unread", "dismissed", "restored")


class InboxRaceTests(InboxTests[InboxStoreT]):
    """Several tasks on one inbox."""

    async def test_a_hundred_sends_in_one_group(self, store: InboxStore) -> None:
        """Of items of one group that are sent at the same time, the last one in the log is left, and can be changed."""
        await together(*(partial(self.send, store, "alice", number, group="g") for number in range(100)))
        log = await self.read_all(store, "alice", limit=200)
        assert len(log) == 100
        assert_chain(log)
        assert await self.states(store, "alice") == {log[-1].id: "unseen"}
        change = await self.mark(store, "alice", "dismissed", group="g")
        assert ([*change.ids], change.counts.total) == ([log[-1].id], 0)

    async def test_everything_at_once(self, store: InboxStore) -> None:
        """Sends, replacements and changes of several tasks have one order, in which rows and counts agree."""

        async def act(writer: int) -> None:
            random = Random(writer)
            sent = []
            for number in range(12):
                group = random.choice((None, "g", "h"))
                sent.append(await self.send(store, "alice", [writer, number], group=group))
                event = random.choice(sent)
                named = random.choice(({"ids": [event.id]}, {"up_to": event.id}, {"group": "g"}))
                await self.mark(store, "alice", random.choice(_EFFECTS), **named)
                await anyio.lowlevel.checkpoint()

        await together(*(partial(act, writer) for writer in range(5)))
        assert_chain(await self.read_all(store, "alice", limit=500))
        await self.assert_folded(store, "alice")

    async def test_one_change_by_many(self, store: InboxStore) -> None:
        """Of equal changes at the same time one is stored, and the others change nothing."""
        sent = [await self.send(store, "alice", number) for number in range(3)]
        changes = []

        async def read() -> None:
            changes.append(await self.mark(store, "alice", "read", up_to=sent[2].id))

        async def follow() -> None:
            changes.append(await self.follow(store, "alice", "news"))

        await together(*[read] * 8, *[follow] * 8)
        log = await self.read_all(store, "alice")
        assert sorted(event.type for event in log[3:]) == ["notify.followed", "notify.read"]
        assert sorted(len(change.ids) for change in changes) == [0] * 15 + [3]
        assert {change.event for change in changes} == {*log[3:], None}

    async def test_interrupted_calls_leave_an_inbox_whole(self, store: InboxStore) -> None:
        """Sends, changes and reads that are cancelled at any time happen or do not: rows and log always agree."""
        sent = [await self.send(store, "alice", number, group="g") for number in range(2)]
        for attempt in range(20):
            await interrupted(partial(self.send, store, "alice", attempt, group="g" if attempt % 2 else None), attempt)
            effect = _EFFECTS[attempt % 5]
            await interrupted(partial(self.mark, store, "alice", effect, group="g"), attempt)
            await interrupted(partial(self.mark, store, "alice", effect, up_to=sent[0].id), attempt)
            await interrupted(partial(store.items, "alice", ItemQuery()), attempt)
        event = await self.send(store, "alice", "last", group="g")
        assert payloads((await self.page(store, "alice", state="all", group="g")).items) == ["last"]
        assert event in await self.read_all(store, "alice")
        # A cancelled call may still reach the store later, even while rows and log are compared.
        await eventually(partial(self.assert_folded, store, "alice"), self.patience)

    async def test_interrupted_pulls_lose_nothing(self, store: InboxStore) -> None:
        """Pulls that are cancelled at any time lose and repeat nothing."""
        await self.follow(store, "alice", "news")
        for attempt in range(20):
            await self.send(store, "news", attempt)
            await interrupted(partial(store.pull, "alice"), attempt)
            await interrupted(partial(store.items, "alice", ItemQuery()), attempt)
        assert payloads(await self.list_all(store, "alice")) == [*range(19, -1, -1)]
        assert len(await self.states(store, "alice")) == 20

    async def test_a_change_wakes_streams(self, store: InboxStore) -> None:
        """Items and changes reach the open streams of a store that has streams, in the order of the log."""
        if not isinstance(store, StreamStore):
            assert await store.head("alice") == "0"
            return
        async with store.subscribe("alice", "0") as stream:
            sent = await self.send(store, "alice")
            events = await take(stream, 1, self.patience)
            change = await self.mark(store, "alice", "read", ids=[sent.id])
            start = anyio.current_time()
            events += await take(stream, 1, self.patience)
            assert anyio.current_time() - start < self.prompt
            await self.follow(store, "alice", "news")
            events += await take(stream, 1, self.patience)
            assert events[:2] == [sent, change.event]
            assert events == await self.read_all(store, "alice")

    async def test_a_closed_store_has_no_inboxes(self, store: InboxStore) -> None:
        """After `aclose`, every method raises ClosedError."""
        await self.send(store, "alice")
        await store.aclose()
        for call in (
            partial(store.change, Event("alice", "notify.read", {"up_to": "1-1"})),
            partial(store.save, item("alice")),
            partial(store.pull, "alice"),
            partial(store.items, "alice", ItemQuery()),
            partial(store.edges, user="alice"),
            store.sweep,
        ):
            with pytest.raises(ClosedError):
                await call()

    async def test_changes_end_when_the_store_closes(self, store: InboxStore) -> None:
        """Changes and reads under way while the store closes return, or raise one of the library's errors."""
        sent = await self.send(store, "alice")
        outcomes: list[object] = []

        async def change(number: int) -> None:
            try:
                effect = _EFFECTS[number % 5]
                outcomes.append(await self.mark(store, "alice", effect, ids=[sent.id]))
                outcomes.append(await self.page(store, "alice"))
            except NotifyError as error:
                outcomes.extend([error] * 2)

        with anyio.fail_after(self.patience):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(change, number)
                tasks.start_soon(store.aclose)
        assert len(outcomes) >= 40
