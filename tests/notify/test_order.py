"""The order of calls: what is pushed to one user through one notifier is stored in the order of the calls."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notify import Event, Notifier, NotifyError, PushRejectedError, RoutingInfo
from notify.adapters import Background
from notify_memory import MemoryPresence, MemoryStore
from tests.parts import BatchStore, PlainStore, SlowPresence, until

pytestmark = pytest.mark.anyio

USERS = [f"user{number}" for number in range(8)]


class UnevenStore(PlainStore):
    """Each save takes another number of steps."""

    async def _enter(self, name: str) -> None:
        await super()._enter(name)
        for _ in range(len(self.calls) * 7 % 4):
            await anyio.lowlevel.checkpoint()


class UnevenBatches(UnevenStore, BatchStore):
    """The same in batches."""


class SoonStore(BatchStore):
    """Batches by itself: what it was handed takes effect a few steps later, in that order."""

    def __init__(self, inner: MemoryStore | None = None) -> None:
        super().__init__(inner)
        self.background = Background("soon store")
        self.pending: list[tuple[Event, Callable[[Any], None]]] = []

    def save_soon(self, event: Event, done: Callable[[Any], None]) -> None:
        self.pending.append((event, done))
        if len(self.pending) == 1:
            self.background.start(self.save_pending)

    async def save_pending(self) -> None:
        await anyio.lowlevel.checkpoint()
        pending, self.pending = self.pending, []
        for event, done in pending:
            done(self.inner.save_nowait(event))

    async def save_many(self, events: Sequence[Event]) -> Sequence[object]:
        while self.pending:
            await anyio.lowlevel.checkpoint()
        return await super().save_many(events)


class UnevenPresence(SlowPresence):
    """Each answer takes another number of steps."""

    async def _enter(self, name: str) -> None:
        await super()._enter(name)
        for _ in range(len(self.calls) * 5 % 7):
            await anyio.lowlevel.checkpoint()


STORES: Mapping[str, Callable[[MemoryStore], Any]] = {
    "memory": lambda inner: inner,
    "plain": PlainStore,
    "uneven": UnevenStore,
    "batches": BatchStore,
    "uneven batches": UnevenBatches,
    "soon": SoonStore,
}
TRACKERS: Mapping[str, Callable[[], Any]] = {
    "no presence": lambda: None,
    "presence at once": MemoryPresence,
    "presence": UnevenPresence,
}


@pytest.mark.parametrize(
    ("tracker", "offline"),  # without a tracker, no user is known to be absent
    [("no presence", "store"), *itertools.product(("presence at once", "presence"), ("store", "drop"))],
)
@pytest.mark.parametrize("store", STORES)
async def test_many_tasks_push_in_the_order_of_calls(store: str, tracker: str, offline: Any) -> None:
    """40 tasks push to eight users, one by one and to many: each log is in the order of calls, users absent or not."""
    kept, presence = STORES[store](MemoryStore()), TRACKERS[tracker]()
    called: defaultdict[str, list[int]] = defaultdict(list)
    order = count()
    async with Notifier(kept, presence=presence, offline=offline, timeout=20.0) as notifier:
        if presence is not None:
            for user in USERS[:-1]:
                await presence.register(user, RoutingInfo("elsewhere"))

        async def push(seed: int) -> None:
            chosen = random.Random(seed)
            for _ in range(10):
                number = next(order)
                if chosen.random() < 0.1:
                    users = chosen.sample(USERS, 5)
                    for user in users:
                        called[user].append(number)
                    await notifier.push_many(users, "n", number)
                else:
                    user = chosen.choice(USERS)
                    called[user].append(number)
                    await notifier.push(user, "n", number)

        async with notifier.subscribe(USERS[0]), anyio.create_task_group() as tasks:
            for seed in range(40):
                tasks.start_soon(push, seed)
        assert notifier.statistics().pending_pushes == 0
    if presence is not None and offline == "drop":
        called[USERS[-1]].clear()
    for user in USERS:
        log = (await kept.read(user, "0", 1000)).events
        assert [event.payload for event in log] == called[user]


@pytest.mark.parametrize("eager", [False, True] if sys.version_info >= (3, 12) else [False])
@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("store", STORES)
def test_a_burst_is_stored_in_the_order_of_calls(store: str, tracker: str, eager: bool) -> None:
    """`asyncio.gather` of 500 pushes to one user leaves 500 events in this order, with eager tasks too."""
    kept, presence = STORES[store](MemoryStore()), TRACKERS[tracker]()

    async def main() -> list[Any]:
        if eager:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        async with Notifier(kept, presence=presence) as notifier:
            events = await asyncio.gather(*(notifier.push("alice", "n", number) for number in range(500)))
        log = (await kept.read("alice", "0", 1000)).events
        assert list(log) == events
        return [event.payload for event in log]

    assert asyncio.run(main()) == [*range(500)]


class Refusing(PlainStore):
    """Refuses some events, some steps late."""

    async def save(self, event: Event) -> Event:
        if event.payload % 5 == 0:
            await anyio.lowlevel.checkpoint()
            raise PushRejectedError("no")
        return await super().save(event)


class RefusingBatches(Refusing, BatchStore):
    async def save_many(self, events: Sequence[Event]) -> Sequence[object]:
        stored = await super().save_many([event for event in events if event.payload % 5])
        rest = iter(stored)
        return [next(rest) if event.payload % 5 else PushRejectedError("no") for event in events]


@pytest.mark.parametrize("kind", [Refusing, RefusingBatches])
async def test_a_push_that_fails_leaves_the_others_in_order(kind: type[Refusing]) -> None:
    """Of 200 pushes at once every fifth is refused; the others are stored in the order of calls."""
    store, called = kind(), list[int]()

    async def push(notifier: Notifier, number: int) -> None:
        called.append(number)
        try:
            await notifier.push("alice", "n", number)
        except NotifyError:
            assert number % 5 == 0

    async with Notifier(store) as notifier, anyio.create_task_group() as tasks:
        for number in range(200):
            tasks.start_soon(push, notifier, number)
    log = (await store.read("alice", "0", 1000)).events
    assert [event.payload for event in log] == [number for number in called if number % 5]


async def test_users_do_not_wait_for_each_other() -> None:
    """On a plain store a save of one user that takes long delays the next one of that user only."""
    gate = anyio.Event()

    class Gated(PlainStore):
        async def save(self, event: Event) -> Event:
            if event.user == "alice":
                await gate.wait()
            return await super().save(event)

    store = Gated()
    async with Notifier(store) as notifier, anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(notifier.push, "alice", "n", number)
        await until(lambda: notifier.statistics().pending_pushes == 3)
        with anyio.fail_after(2):
            await notifier.push("bob", "n")
        assert notifier._parts.jobs.running == 1  # one task for each user who has something to save
        gate.set()
    assert len((await store.read("alice", "0", 10)).events) == 3


async def test_a_later_push_takes_the_waiting_event_of_a_push_many_with_it() -> None:
    """A push to a user whose `push_many` waits for its batch is stored after that event, and need not wait for it."""
    gate = anyio.Event()

    class Gated(BatchStore):
        async def save_many(self, events: Sequence[Event]) -> Sequence[object]:
            outcomes = await super().save_many(events)
            if len(events) > 2:
                await gate.wait()
            return outcomes

    store = Gated()
    reports: list[Any] = []
    users = [f"u{number}" for number in range(1200)]

    async with Notifier(store) as notifier:

        async def push_many() -> None:
            reports.append(await notifier.push_many(users, "n", 1))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(push_many)
            await until(lambda: store.calls == ["save_many 166"] * 3)
            with anyio.fail_after(2):
                second = await notifier.push("u1100", "n", 2)
            log = (await store.read("u1100", "0", 10)).events
            assert [event.payload for event in log] == [1, 2]
            held = anyio.Event()

            async def push_to_one_in_the_batch() -> None:
                await notifier.push("u3", "n", 2)
                held.set()

            tasks.start_soon(push_to_one_in_the_batch)
            await anyio.wait_all_tasks_blocked()
            assert not held.is_set()
            gate.set()
    assert second is not None
    assert [event.payload for event in (await store.read("u3", "0", 10)).events] == [1, 2]
    assert set(reports[0].events) == set(users)
    assert not notifier._pipeline.unsent


async def test_closing_answers_what_waits_behind_a_batch() -> None:
    """A push that waits behind a `push_many` to its user, in a store that hangs, is rejected on closing."""

    class Hanging(BatchStore):
        async def save_many(self, events: Sequence[Event]) -> Sequence[object]:
            self.calls.append("save_many")
            await anyio.sleep_forever()
            raise AssertionError

    store = Hanging()
    errors: list[BaseException] = []
    notifier = Notifier(store, timeout=60)

    async def run(call: Callable[[], Any]) -> None:
        try:
            await call()
        except NotifyError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, partial(notifier.push_many, ["alice", "bob"], "n"))
        await until(lambda: store.calls)
        tasks.start_soon(run, partial(notifier.push, "alice", "n"))
        await until(lambda: notifier.statistics().pending_pushes == 1)
        await notifier._parts.jobs.aclose(1)
    assert sorted(type(error).__name__ for error in errors) == ["PushRejectedError", "PushUncertainError"]
    assert notifier.statistics().pending_pushes == 0
    await notifier.aclose()


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "many", "ephemeral", "cancelled"]),
        st.integers(0, 2),  # the user
        st.integers(0, 3),  # steps before the call
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    calls=CALLS,
    store=st.sampled_from(sorted(STORES)),
    delays=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    offline=st.sampled_from(["store", "drop"]),
    broken=st.booleans(),
)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_any_calls_are_stored_in_their_order(
    backend: str, calls: Any, store: str, delays: list[int], offline: Any, broken: bool
) -> None:
    """Whatever is called when, and however long presence takes, each log is in the order of calls and complete."""

    class Delayed(SlowPresence):
        async def _enter(self, name: str) -> None:
            self.calls.append(name)
            for _ in range(delays[len(self.calls) % len(delays)]):
                await anyio.lowlevel.checkpoint()
            if self.broken:
                raise OSError("the tracker is down")

    async def main() -> None:
        kept, presence = STORES[store](MemoryStore()), Delayed()
        for user in USERS[:3]:
            await presence.inner.register(user, RoutingInfo("elsewhere"))
        presence.broken = broken
        called: defaultdict[str, list[tuple[int, bool]]] = defaultdict(list)
        numbers = count()

        async def call(notifier: Notifier, kind: str, user: str, steps: int) -> None:
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            number = next(numbers)
            if kind == "many":
                for each in USERS[:3]:
                    called[each].append((number, True))
                await notifier.push_many(USERS[:3], "n", number)
            elif kind == "ephemeral":
                await notifier.push(user, "n", number, ephemeral=True)
            else:
                called[user].append((number, kind == "push"))
                with anyio.CancelScope() as scope:
                    if kind == "cancelled":
                        scope.cancel()
                    await notifier.push(user, "n", number)

        async with Notifier(kept, presence=presence, offline=offline) as notifier:
            async with anyio.create_task_group() as tasks:
                for kind, user, steps in calls:
                    tasks.start_soon(call, notifier, kind, USERS[user], steps)
        for user in USERS[:3]:
            log = [event.payload for event in (await kept.read(user, "0", 1000)).events]
            assert log == [number for number, _ in called[user] if number in set(log)]
            assert {number for number, surely in called[user] if surely} <= set(log)

    anyio.run(main, backend=backend)
