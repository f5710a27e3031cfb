"""Order: the logs hold what was saved in the order of the calls, whatever is retried, refused, batched or cancelled."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from functools import partial
from pathlib import Path

import anyio
import pytest

from notify import Event, NotifyError, OverloadedError, UsageError
from notify_sqlite import SQLiteStore
from tests.parts import until
from tests.servers.sqlite import locked

pytestmark = pytest.mark.anyio


async def logs(store: SQLiteStore, users: set[str]) -> dict[str, list[object]]:
    """What each of these logs holds."""
    return {user: [event.payload for event in (await store.read(user, "0", 100_000)).events] for user in users}


async def test_every_way_of_saving_keeps_the_order(path: Path) -> None:
    """256 tasks save 20,000 events of 200 users one by one and in small and big batches: each log is in order."""
    chance = random.Random(7)
    calls: dict[str, list[object]] = defaultdict(list)
    numbers = iter(range(10**6))
    outcomes: list[Event | NotifyError] = []

    def draft() -> Event:
        user = f"user{chance.randrange(200)}"
        calls[user].append(next(numbers))
        return Event(user, "t", calls[user][-1])

    async def save(count: int) -> None:
        while count > 0:
            size = chance.choice([1, 1, 1, 2, 30, 700])
            if chance.random() < 0.3:
                store.save_soon(draft(), outcomes.append)
                await asyncio.sleep(0)
            elif size == 1:
                await store.save(draft())
            else:
                await store.save_many([draft() for _ in range(size)])
            count -= size

    async with SQLiteStore(path, max_len=100_000, timeout=30) as store, asyncio.TaskGroup() as tasks:
        for _ in range(256):
            tasks.create_task(save(78))
    async with SQLiteStore(path) as store:
        assert await logs(store, set(calls)) == calls
    assert all(isinstance(outcome, Event) for outcome in outcomes)


async def test_waiting_for_the_lock_keeps_the_order(path: Path) -> None:
    """While another connection takes and frees the lock, some saves are refused; the others stay in order."""
    chance = random.Random(3)
    called: list[int] = []
    outcomes: dict[int, Event | NotifyError] = {}
    async with SQLiteStore(path, max_len=100_000, timeout=0.25) as store:

        async def push() -> None:
            for number in range(1500):
                called.append(number)
                store.save_soon(Event("alice", "t", number), partial(outcomes.__setitem__, number))
                await anyio.sleep(0.001)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(push)
            while len(called) < 1500:
                with locked(path):
                    await anyio.sleep(chance.choice([0.02, 0.1, 0.4]))
                await anyio.sleep(0.02)
        await until(lambda: len(outcomes) == 1500)
        accepted = [number for number in called if isinstance(outcomes[number], Event)]
        assert (await logs(store, {"alice"}))["alice"] == accepted
        assert 0 < len(accepted) < 1500
        assert {type(outcome) for outcome in outcomes.values()} == {Event, OverloadedError}


async def test_a_batch_that_cannot_be_stored_leaves_the_others_in_order(path: Path) -> None:
    """A transaction that fails is refused as a whole; what was called before and after it is stored in order."""
    clock = [1_700_000_000.0]
    async with SQLiteStore(path, clock=lambda: clock[0]) as store:
        outcomes: list[Event | NotifyError] = []
        for number in range(5):
            clock[0] = float("nan") if number == 2 else 1_700_000_000.0 + number
            store.save_soon(Event("alice", "t", number), outcomes.append)
            await until(lambda number=number: len(outcomes) == number + 1)  # type: ignore[misc]
        assert [isinstance(outcome, Event) for outcome in outcomes] == [True, True, False, True, True]
        assert isinstance(outcomes[2], UsageError)
        assert "clock=" in str(outcomes[2])
        assert (await logs(store, {"alice"}))["alice"] == [0, 1, 3, 4]


async def test_cancelled_callers_leave_the_others_in_order(path: Path) -> None:
    """Of savers that are cancelled at random, what is stored is in the order of the calls."""
    chance = random.Random(5)
    called: list[int] = []
    async with SQLiteStore(path, max_len=100_000) as store:

        async def save(number: int) -> None:
            called.append(number)
            with anyio.move_on_after(chance.choice([0.0005, 0.003, 5])):
                await store.save(Event("alice", "t", number))

        for start in range(0, 1000, 50):
            async with anyio.create_task_group() as tasks:
                for number in range(start, start + 50):
                    tasks.start_soon(save, number)
        stored = (await logs(store, {"alice"}))["alice"]
    kept = set(stored)
    assert stored == [number for number in called if number in kept]
    assert stored


def test_eager_tasks_leave_nothing_behind(path: Path) -> None:
    """With tasks that start at once, a save that ends before it ever waited leaves the next ones their turn."""
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("Python 3.12 has eager tasks")

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        times = iter([float("nan")] + [1_700_000_000.0] * 1000)
        async with SQLiteStore(path, clock=lambda: next(times)) as store:
            with pytest.raises(UsageError):
                await store.save(Event("alice", "t", 0))
            events = await asyncio.wait_for(
                asyncio.gather(*(store.save(Event("alice", "t", number)) for number in range(20))), 10
            )
            assert (await logs(store, {"alice"}))["alice"] == [event.payload for event in events]

    asyncio.run(main())
