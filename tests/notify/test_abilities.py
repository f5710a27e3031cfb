"""Abilities that the memory store does not have: batches of the store's own, and the caller's transactions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify import (
    ClosedError,
    Event,
    Notifier,
    NotifyError,
    OverloadedError,
    PushRejectedError,
    PushUncertainError,
    UsageError,
)
from notify_memory import MemoryPresence, MemoryStore, MemoryStreamStore
from tests.parts import BatchStore, NotingRouter

pytestmark = pytest.mark.anyio


class SoonStore(BatchStore):
    """Takes events at once, and tells an outcome when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, tuple[Event, Callable[[Event | NotifyError], None]]] = {}

    def save_soon(self, event: Event, done: Callable[[Event | NotifyError], None]) -> None:
        if event.type == "closed":
            raise ClosedError("the store is closed")
        if event.type == "broken":
            raise OSError("no")
        self.taken[event.type] = (event, done)

    def tell(self, type_: str, outcome: NotifyError | None = None) -> None:
        event, done = self.taken[type_]
        done(outcome or self.inner.save_nowait(event))


class TransactionalStore(BatchStore):
    """Saves in a "transaction" that is a list."""

    async def save_in(self, event: Event, connection: Any) -> Event:
        if not isinstance(connection, list):
            raise OSError("not a connection")
        connection.append(event)
        return event.stored("1-1", "0")


class HearingStore(MemoryStreamStore):
    """Hears of other processes from the moment that a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.is_receiving = False


async def push(notifier: Notifier, outcomes: dict[str, object], type_: str) -> None:
    try:
        outcomes[type_] = await notifier.push("alice", type_)
    except NotifyError as error:
        outcomes[type_] = error


async def test_a_store_that_batches_by_itself_tells_each_outcome_by_itself() -> None:
    """Single pushes are handed over one by one, and one that takes its time holds up no other one."""
    store, outcomes = SoonStore(), dict[str, object]()
    async with Notifier(store) as notifier, notifier.subscribe("alice") as stream, anyio.create_task_group() as tasks:
        for type_ in ("a", "b", "c"):
            tasks.start_soon(push, notifier, outcomes, type_)
        await anyio.wait_all_tasks_blocked()
        assert set(store.taken) == {"a", "b", "c"}
        assert notifier.statistics().pending_pushes == 3
        store.tell("b")
        assert await stream.next(10) == store.inner.read_nowait("alice", "0", 1).events[0]
        store.tell("c", PushRejectedError("no"))
        await anyio.wait_all_tasks_blocked()
        assert isinstance(outcomes["b"], Event)
        assert isinstance(outcomes["c"], PushRejectedError)
        assert "a" not in outcomes
        store.tell("a")
    assert isinstance(outcomes["a"], Event)
    assert notifier.statistics().pending_pushes == 0
    assert not [call for call in store.calls if call.startswith("save")]


async def test_what_such_a_store_raises_is_the_outcome() -> None:
    """An event that the store refuses to take fails with the library's error, or as uncertain."""
    async with Notifier(SoonStore()) as notifier:
        with pytest.raises(ClosedError):
            await notifier.push("alice", "closed")
        with pytest.raises(PushUncertainError) as caught:
            await notifier.push("alice", "broken")
        assert isinstance(caught.value.__cause__, OSError)
        assert notifier.statistics().pending_pushes == 0


async def test_an_outcome_may_come_after_its_caller_has_gone() -> None:
    """A push that was cancelled, or that got no answer in time, is shown when it turns out to be stored."""
    store, outcomes = SoonStore(), dict[str, object]()
    async with Notifier(store, timeout=0.05, max_pending=2) as notifier, notifier.subscribe("alice") as stream:
        with anyio.move_on_after(0.01):
            await notifier.push("alice", "cancelled")
        await push(notifier, outcomes, "late")
        assert isinstance(outcomes["late"], PushUncertainError)
        with pytest.raises(OverloadedError):
            await notifier.push("alice", "third")
        store.tell("cancelled")
        store.tell("late")
        assert [(await stream.next(10)).type for _ in range(2)] == ["cancelled", "late"]
        assert notifier.statistics().pending_pushes == 0


async def test_closing_waits_for_the_outcomes_and_then_no_longer() -> None:
    """A notifier that closes waits for a store that batches by itself, for a bounded time; what comes later is lost."""
    store, outcomes = SoonStore(), dict[str, object]()
    async with anyio.create_task_group() as tasks:
        notifier = Notifier(store, timeout=1.0)
        for type_ in ("told", "never"):
            tasks.start_soon(push, notifier, outcomes, type_)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(notifier.aclose)
        await anyio.wait_all_tasks_blocked()
        store.tell("told")
    assert isinstance(outcomes["told"], Event)
    assert isinstance(outcomes["never"], PushUncertainError)
    store.tell("never")
    assert notifier.statistics().pending_pushes == 0


async def test_a_push_in_a_transaction_is_saved_and_shown_to_nobody() -> None:
    """With a connection, the event goes to `save_in` alone: nothing is offered or routed before the commit."""
    store, router, transaction = TransactionalStore(), NotingRouter(), list[Event]()
    async with Notifier(store, router=router) as notifier, notifier.subscribe("alice") as stream:
        event = await notifier.push("alice", "t", 1, connection=transaction)
        assert event == transaction[0].stored("1-1", "0")
        with pytest.raises(TimeoutError):
            await stream.next(0.01)
        assert not router.routed
        with pytest.raises(PushUncertainError) as caught:
            await notifier.push("alice", "t", connection="nothing")
        assert isinstance(caught.value.__cause__, OSError)


async def test_a_push_in_a_transaction_needs_a_store_that_can() -> None:
    """A store without transactions, no store, or an ephemeral event: a usage error, and nothing is stored."""
    for store in (MemoryStore(), None):
        async with Notifier(store) as notifier:
            with pytest.raises(UsageError):
                await notifier.push("alice", "t", connection=[])
    async with Notifier(TransactionalStore()) as notifier:
        with pytest.raises(UsageError):
            await notifier.push("alice", "t", connection=[], ephemeral=True)


async def test_a_push_in_a_transaction_obeys_the_policy_for_absent_users() -> None:
    """With `offline="drop"`, an absent user's event is not even saved in the transaction."""
    transaction = list[Event]()
    async with Notifier(TransactionalStore(), presence=MemoryPresence(), offline="drop") as notifier:
        assert await notifier.push("alice", "t", connection=transaction) is None
    assert not transaction


async def test_a_store_that_does_not_hear_of_events_is_not_well() -> None:
    """`check` waits for a stream store to prove that it hears, and says what is wrong where it does not."""
    store = HearingStore()
    async with Notifier(store=store, timeout=0.1) as notifier:
        health = await notifier.check()
    assert not health.ok
    assert (health.parts["store"], "not received" in health.parts["live"]) == ("ok", True)


async def test_a_store_that_comes_to_hear_of_events_is_well() -> None:
    """`check` is content as soon as the store hears, and leaves no stream open."""
    store = HearingStore()
    async with Notifier(store=store) as notifier, anyio.create_task_group() as group:

        async def hear_once_somebody_listens() -> None:
            while not store.live.positions():
                await anyio.lowlevel.checkpoint()
            store.is_receiving = True

        group.start_soon(hear_once_somebody_listens)
        health = await notifier.check()
        assert (health.ok, dict(health.parts)) == (True, {"store": "ok", "live": "ok"})
        assert not store.live.positions()
