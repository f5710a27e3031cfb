"""Tests of the order of calls: pushes through one notifier are stored as they were called, however many run at once."""

from __future__ import annotations

import random
from collections import defaultdict
from functools import partial
from itertools import count

import anyio

from notify import Event, Notifier, Store

from ._store_base import StoreTests
from ._types import StoreT
from ._waits import assert_chain, numbers, together

TASKS = 40
PUSHES = 15
USERS = [f"user{number}" for number in range(20)]


class OrderTests(StoreTests[StoreT]):
    """What a notifier stores in this store, and in which order."""

    async def test_pushes_are_stored_in_the_order_of_calls(self, store: Store) -> None:
        """Many tasks push to a few users, one by one and to many at once: each log has the order of the calls."""
        called: defaultdict[str, list[int]] = defaultdict(list)
        order = count()

        async def push(notifier: Notifier, seed: int) -> None:
            chosen = random.Random(seed)
            for _ in range(PUSHES):
                user, number = chosen.choice(USERS), next(order)
                called[user].append(number)
                assert await notifier.push(user, "n", number) is not None

        async def push_many(notifier: Notifier) -> None:
            for _ in range(PUSHES // 5):
                number = next(order)
                for user in USERS:
                    called[user].append(number)
                assert len((await notifier.push_many(USERS, "n", number)).events) == len(USERS)

        async with Notifier(store, timeout=30.0) as notifier:
            pushers = [partial(push, notifier, seed) for seed in range(TASKS)]
            await together(*pushers, partial(push_many, notifier), partial(push_many, notifier))
        for user in USERS:
            log = await self.read_all(store, user)
            assert_chain(log)
            assert numbers(log) == called[user]

    async def test_a_push_that_is_abandoned_leaves_the_others_in_order(self, store: Store) -> None:
        """Events whose callers are cancelled are stored or not, and whatever is stored has the order of calls."""
        called: list[int] = []

        async def push(notifier: Notifier, number: int) -> None:
            called.append(number)
            with anyio.CancelScope() as scope:
                if number % 3 == 0:
                    scope.cancel()
                await notifier.push("alice", "n", number)

        async with Notifier(store, timeout=30.0) as notifier:
            await together(*(partial(push, notifier, number) for number in range(150)))
        log = await self.read_all(store, "alice")
        assert_chain(log)
        stored = numbers(log)
        assert {number for number in called if number % 3} <= set(stored)
        assert stored == [number for number in called if number in set(stored)]

    async def test_the_pushes_of_one_burst_are_in_order(self, store: Store) -> None:
        """200 pushes to one user that are called at once are stored in the order in which they were called."""
        called: list[int] = []
        events: list[Event] = []

        async def push(notifier: Notifier, number: int) -> None:
            called.append(number)
            event = await notifier.push("alice", "n", number)
            assert event is not None
            events.append(event)

        async with Notifier(store, timeout=30.0) as notifier:
            await together(*(partial(push, notifier, number) for number in range(200)))
        log = await self.read_all(store, "alice")
        assert_chain(log)
        assert numbers(log) == called
        assert {event.id: event for event in log} == {event.id: event for event in events}
