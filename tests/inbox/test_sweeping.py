"""Removing due items in the background: in one process at a time, and with nothing left running."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from notify import Event, Notifier
from notify.inbox import Inbox, InboxRetention
from notify.inbox._retention import BATCH, Sweeper
from notify_memory import MemoryStore, MemoryStreamStore
from tests.inbox.parts import PlainInboxStore
from tests.parts import until

pytestmark = pytest.mark.anyio

SHORT = InboxRetention(max_age=0.001)


class Owning(PlainInboxStore):
    """A store as another process has it, with a retention of its own."""

    own = InboxRetention()

    @property
    def inbox_retention(self) -> InboxRetention:
        return self.own


class Counting(PlainInboxStore):
    """A store that counts the items that were removed."""

    removed = 0

    async def sweep(self, limit: int = 500) -> int:
        removed = await super().sweep(limit)
        self.removed += removed
        return removed


async def expire(store: Any, count: int) -> None:
    """Store items of different users that become due by their age: one that has expired on arrival is gone at once."""
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier, retention=SHORT)
        await inbox.send_many([f"user{number}" for number in range(count)], "t")
    await anyio.sleep(0.01)


async def test_an_inbox_in_use_removes_what_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `async with`, without anything being called; when it ends, no task is left."""
    monkeypatch.setattr("notify.inbox._retention._FIRST", 0.01)
    store = Counting()
    await expire(store, 3)
    async with Notifier(store) as notifier, Inbox(notifier, retention=SHORT) as inbox:
        await until(lambda: store.removed == 3)
        assert await inbox.sweep() == 0
        assert inbox._background.running == 1
    assert inbox._background.running == 0


async def test_one_process_gets_a_slot() -> None:
    """Of several, in each slot one removes, in batches until nothing is left; the others ask once and do nothing."""
    store = MemoryStore()
    await expire(store, BATCH + 20)
    sweepers = [Sweeper(store) for _ in range(4)]
    for slot in (7, 8):
        removed = [await sweeper.round(slot) for sweeper in sweepers]
        assert sorted(removed) == [0, 0, 0, BATCH + 20 if slot == 7 else 0]
    plain = [PlainInboxStore(store) for _ in range(3)]
    async with anyio.create_task_group() as group:
        for each in plain:
            group.start_soon(Sweeper(each).round, 9)
    assert sorted(each.calls.count("sweep") for each in plain) == [0, 0, 1]


async def test_processes_with_different_retentions(caplog: pytest.LogCaptureFixture) -> None:
    """The one that does not get a slot warns once of each, and names both; not of an equal one or an older release."""
    store = MemoryStore()
    one, two = PlainInboxStore(store), Owning(store)
    two.own = InboxRetention(max_items=7)
    assert not any([await Sweeper(one).round(1), await Sweeper(one).round(1)])
    assert caplog.records == []
    sweeper = Sweeper(two)
    for slot, winner in ((2, one), (3, one), (4, two), (5, one)):
        await Sweeper(winner).round(slot)
        await sweeper.round(slot)
    (record,) = caplog.records
    assert f"another process has {InboxRetention()} for the inboxes" in record.getMessage()
    assert f"this one {InboxRetention(max_items=7)}: pass the same" in record.getMessage()
    await store.save(Event("notify.inbox", "notify.sweep", {"by": "x"}, key="60.6"))
    await store.save(Event("notify.inbox", "notify.sweep", {"by": "x", "retention": {"new": 1}}, key="60.7"))
    for slot in (6, 7):
        await sweeper.round(slot)
    assert "another process has {'new': 1} for" in caplog.records[-1].getMessage()
    assert len(caplog.records) == 2


async def test_slots_follow_each_other() -> None:
    """A sweeper goes on from slot to slot, and what becomes due later is removed later."""
    store = PlainInboxStore()
    sweeper = Sweeper(store, interval=0.05)
    async with anyio.create_task_group() as group:
        group.start_soon(sweeper.run)
        await until(lambda: store.calls.count("sweep") >= 2)
        await expire(store, 2)

        async def is_gone() -> bool:
            return await store.inner.sweep() == 0 and store.calls.count("sweep") >= 4

        await until(is_gone)
        group.cancel_scope.cancel()
    assert store.calls.count("sweep") >= 4


async def test_a_failure_is_logged_and_the_next_round_runs(caplog: pytest.LogCaptureFixture) -> None:
    """Once for an outage, whatever fails."""
    store = PlainInboxStore()
    store.failure = OSError("away")
    async with anyio.create_task_group() as group:
        group.start_soon(Sweeper(store, interval=0.02).run)
        await until(lambda: len(store.calls) >= 3)
        store.failure = None
        await until(lambda: "sweep" in store.calls)
        await until(lambda: any("again" in record.message for record in caplog.records))
        group.cancel_scope.cancel()
    lines = [record.message for record in caplog.records if "due items" in record.message]
    assert len(lines) == 2
    assert caplog.records[0].levelno == logging.WARNING


async def test_a_round_ends_with_its_slot() -> None:
    """A store that hangs holds up neither the next slot nor the end."""

    class Hanging(PlainInboxStore):
        async def sweep(self, limit: int = 500) -> int:
            self.calls.append("sweep")
            await anyio.sleep_forever()
            return 0

    store = Hanging()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(Sweeper(store, interval=0.03).run)
            await until(lambda: store.calls.count("sweep") >= 2)
            group.cancel_scope.cancel()


async def test_the_log_of_slots_is_its_own() -> None:
    """Slots are taken in a log that is reserved, so no user sees them; the log is one short event for each slot."""
    store = MemoryStreamStore()
    await Sweeper(store).round(1)
    page = await store.read("notify.inbox", "0", 10)
    assert [event.type for event in page.events] == ["notify.sweep"]
    assert (await store.read("alice", "0", 10)).events == ()
