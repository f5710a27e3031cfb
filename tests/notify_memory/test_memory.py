"""What is special about the memory backend: retention by a clock of the test's own, keys, bounded memory."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify import ClosedError, Event, RoutingInfo, UsageError, ids
from notify.inbox import InboxRetention
from notify.inbox._folds import SWEPT as STEP
from notify.inbox.abc import ITEM
from notify_memory import MemoryPresence, MemoryRouter, MemoryStore, MemoryStreamStore
from notify_memory._store import SWEPT

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_ids_grow_while_the_clock_steps_back() -> None:
    """After the clock stepped back two hours ids go on growing, and jump ahead with it again."""
    store = MemoryStore(clock=(clock := Clock()))
    first = await store.save(Event("alice", "t"))
    clock.now -= 7200
    second, third = await store.save(Event("alice", "t")), await store.save(Event("bob", "t"))
    assert ids.parse(first.id) < ids.parse(second.id) < ids.parse(third.id)
    clock.now += 7201
    assert ids.parse((await store.save(Event("alice", "t"))).id) == (1_700_000_001_000, 0)


async def test_the_cap_is_exact_and_the_oldest_go_first() -> None:
    """Of any number of events exactly the newest max_len are kept, whatever was cut off before."""
    store = MemoryStore(max_len=3)
    for n in range(500):
        await store.save(Event("alice", "t", n))
        page = await store.read("alice", "0", 10)
        assert [event.payload for event in page.events] == list(range(n + 1))[-3:]


async def test_a_trimmed_log_fills_up_to_the_cap_again() -> None:
    """Slots that await removal do not count."""
    store = MemoryStore(max_len=10)
    saved = [await store.save(Event("alice", "t", n)) for n in range(10)]
    await store.trim(saved[4].id)
    for n in range(10, 18):
        await store.save(Event("alice", "t", n))
        page = await store.read("alice", saved[3].id, 20)
        assert [event.payload for event in page.events] == list(range(4, n + 1))[-10:]


async def test_retention_by_age() -> None:
    """Events older than max_age are not read; the head stays; a later event links to the last one."""
    store = MemoryStore(max_age=60, clock=(clock := Clock()))
    old = await store.save(Event("alice", "t", 1))
    clock.now += 30
    young = await store.save(Event("alice", "t", 2))
    clock.now += 31
    assert (await store.read("alice", old.id, 10)).events == [young]
    assert (await store.read("alice", "0", 10)).gap == "trimmed"
    clock.now += 31
    page = await store.read("alice", old.id, 10)
    assert (list(page.events), page.gap, page.position) == ([], "expired", young.id)
    assert (await store.read("alice", young.id, 10)).gap is None
    assert (await store.save(Event("alice", "t", 3))).prev == young.id


async def test_the_long_absent_are_forgotten() -> None:
    """A user whose last event is twice max_age old takes no memory; ids go on growing for a new log."""
    store = MemoryStore(max_age=60, clock=(clock := Clock()))
    old = await store.save(Event("alice", "t"))
    clock.now += 121
    await store.save(Event("bob", "t"))
    assert await store.head("alice") == "0"
    clock.now -= 500
    new = await store.save(Event("alice", "t"))
    assert new.prev == "0"
    assert ids.compare(new.id, old.id) == 1
    assert (await store.read("alice", old.id, 10)).gap == "expired"


async def test_many_who_are_absent_are_forgotten_in_steps() -> None:
    """No save looks at more than a few logs, and after as many steps as that takes, all of the absent are forgotten."""
    store = MemoryStore(max_age=60, clock=(clock := Clock()))
    users = [f"user{n}" for n in range(5 * SWEPT)]
    for user in users:
        store.save_nowait(Event(user, "t"))
    clock.now += 121
    left = []
    for _ in range(5):
        store.save_nowait(Event("alice", "t"))
        left.append(sum(store.head_nowait(user) != "0" for user in users))
        await store.forget("user0")
    assert left == [4 * SWEPT, 3 * SWEPT - 1, 2 * SWEPT - 1, SWEPT - 1, 0]


async def test_a_pass_over_all_users_lets_others_run() -> None:
    """`trim` and `sweep` wait between two steps, and miss nothing of what was there when they began."""
    store = MemoryStore(clock=(clock := Clock()))
    store.inbox_retention = InboxRetention(max_age=60.0)
    users = [f"user{n}" for n in range(3 * STEP)]
    for user in users:
        store.save_nowait(Event(user, "t", meta={ITEM: ""}))
    clock.now += 61
    turns: list[None] = []

    async def count() -> None:
        while True:
            turns.append(None)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        assert await store.sweep(4 * STEP) == 3 * STEP
        assert len(turns) >= 3 - 1
        turns.clear()
        assert await store.trim(store.save_nowait(Event("alice", "t")).id) == len(users)
        assert len(turns) >= 3 * STEP // SWEPT - 1
        tasks.cancel_scope.cancel()


async def test_without_an_age_events_stay() -> None:
    """With max_age None nothing expires."""
    store = MemoryStore(max_age=None, clock=(clock := Clock()))
    event = await store.save(Event("alice", "t"))
    clock.now += 10**9
    await store.save(Event("bob", "t"))
    assert (await store.read("alice", "0", 10)).events == [event]


async def test_the_window_of_idempotency_keys() -> None:
    """A key returns the first event within key_window, trimmed or not; later, and beyond max_len keys, it is new."""
    store = MemoryStore(max_len=2, key_window=60, clock=(clock := Clock()))
    first = await store.save(Event("alice", "t", 1, key="k"))
    for n in range(5):
        await store.save(Event("alice", "t", n))
    clock.now += 59
    assert await store.save(Event("alice", "t", 2, key="k")) == first
    clock.now += 2
    second = await store.save(Event("alice", "t", 3, key="k"))
    assert second.payload == 3
    await store.save(Event("alice", "t", key="k2"))
    await store.save(Event("alice", "t", key="k3"))
    assert (await store.save(Event("alice", "t", 4, key="k"))).payload == 4


@pytest.mark.parametrize("options", [{"max_len": 0}, {"max_age": 0}, {"key_window": -1}])
async def test_senseless_options(options: dict[str, Any]) -> None:
    """A store with a senseless option raises UsageError."""
    with pytest.raises(UsageError):
        MemoryStore(**options)


async def test_trim_by_time_and_by_id() -> None:
    """Trimming removes what lies before, keeps what is exactly there, and says how many."""
    store = MemoryStore(clock=(clock := Clock()))
    events = []
    for n in range(6):
        events.append(await store.save(Event(f"u{n % 2}", "t", n)))
        clock.now += 1
    assert await store.trim(ids.time_of(events[2].id)) == 2
    assert await store.trim(events[3].id) == 1
    left = [e.payload for user in ("u0", "u1") for e in (await store.read(user, "0", 10)).events]
    assert sorted(left) == [3, 4, 5]
    assert await store.trim(datetime(2020, 1, 1, tzinfo=UTC)) == 0


@pytest.mark.parametrize("kind", [MemoryStore, MemoryStreamStore, MemoryPresence])
async def test_parts_as_context_managers(kind: Any) -> None:
    """`async with` closes; a closed part cannot be entered or used again."""
    async with kind() as part:
        pass
    await part.aclose()
    with pytest.raises(ClosedError):
        await part.__aenter__()


async def test_a_paused_stream_costs_no_memory() -> None:
    """With a stream that does not read, twenty thousand pushes take as much memory as without one."""

    async def grow(paused: bool) -> int:
        async with MemoryStreamStore(max_len=100) as store:
            stream = store.subscribe("alice", "0")
            if paused:
                await stream.__aenter__()
            tracemalloc.start()
            for n in range(20_000):
                store.save_nowait(Event("alice", "t", n))
            size = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            if paused:
                assert (await stream.next(10)).payload == 19_900
                assert [gap.reason for gap in stream.gaps] == ["trimmed"]
            return size

    assert await grow(True) < await grow(False) + 100_000


async def test_presence_in_one_process() -> None:
    """Two registrations of one instance are one location; releasing what is gone already does nothing."""
    presence = MemoryPresence()
    one = await presence.register("alice", RoutingInfo("web-1"))
    two = await presence.register("alice", RoutingInfo("web-1"))
    assert await presence.locate(["bob", "alice"]) == {"alice": [RoutingInfo("web-1")]}
    await one.aclose()
    one.release()
    assert list(await presence.locate(["alice"])) == ["alice"]
    await presence.aclose()
    two.release()
    with pytest.raises(ClosedError):
        await presence.locate(["alice"])


async def test_an_instance_that_ends_late_leaves_its_successor_listening() -> None:
    """Where a new listener has taken over a name, the end of the old one takes nothing from it."""
    router = MemoryRouter()
    heard: list[str] = []

    def old(event: Event) -> int:
        return heard.append("old") or 0

    def new(event: Event) -> int:
        return heard.append("new") or 0

    async with anyio.create_task_group() as successor:
        async with anyio.create_task_group() as predecessor:
            await predecessor.start(router.receive, "web-1", old)
            await successor.start(router.receive, "web-1", new)
            predecessor.cancel_scope.cancel()
        await router.route(Event("alice", "t"), RoutingInfo("web-1"))
        successor.cancel_scope.cancel()
    assert heard == ["new"]
