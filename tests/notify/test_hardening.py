"""Stores that break the contract, events that claim nonsense, and ends that race each other."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from notify import (
    BackendUnavailableError,
    ClosedError,
    CodecError,
    Event,
    InvalidEventIdError,
    Notifier,
    Page,
    PushUncertainError,
)
from notify_memory import MemoryPresence, MemoryStore, MemoryStreamStore
from tests.parts import PlainStore, SlowPresence, until

pytestmark = pytest.mark.anyio


async def test_a_drain_beside_a_close_revives_nothing() -> None:
    """A drain that is still going on when the notifier is closed leaves every stream ended."""
    notifier = Notifier(MemoryStore())
    streams = [notifier.subscribe(f"u{n}") for n in range(70)]
    for stream in streams:
        await stream.__aenter__()
    async with anyio.create_task_group() as group:
        group.start_soon(notifier.drain, 0.2)
        await anyio.sleep(0.02)
        await notifier.aclose()
        for stream in streams:
            await stream.aclose()
    for stream in streams:
        with pytest.raises(ClosedError):
            await stream.next()


@pytest.mark.parametrize(("id_", "prev"), [("abc", "0"), ("", "x"), ("1-0", "x")])
async def test_an_event_with_a_senseless_place_cannot_be_made(id_: str, prev: str) -> None:
    """`id` and `prev` are ids or empty; neither the constructor nor the wire form lets anything else in."""
    with pytest.raises(InvalidEventIdError):
        Event("alice", "t", id=id_, prev=prev)
    with pytest.raises(CodecError):
        Event.from_bytes(Event("alice", "t").stored(id_, prev).to_bytes())


async def test_an_offer_without_an_id_does_not_pass_for_the_next_event() -> None:
    """An event without an id moves no position, whatever it claims to follow."""
    async with Notifier(MemoryStore()) as notifier, notifier.subscribe("alice") as stream:
        first = await notifier.push("alice", "t", 1)
        assert first is not None
        await stream.next(1)
        notifier.deliver(Event("alice", "t", 2).stored("", first.id))
        await notifier.push("alice", "t", 3)
        assert [(await stream.next(1)).payload for _ in range(2)] == [2, 3]
        assert await notifier.push("alice", "t", 4) is not None


@pytest.mark.parametrize("answer", [None, "page", Page([], None, "garbage"), Page(None, None, "1-0")])  # type: ignore[arg-type]
async def test_a_store_that_returns_no_page(answer: Any) -> None:
    """What is no page counts as a failed read: opening raises, and nobody hangs or spins."""

    class Lying(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Any:
            await super()._enter("read")
            return answer

    store = Lying()
    async with Notifier(store) as notifier:
        for _ in range(2):
            with pytest.raises(BackendUnavailableError), anyio.fail_after(2):
                async with notifier.subscribe("alice", "0"):
                    pytest.fail("it cannot open")
    assert store.calls.count("read") == 2


async def test_a_store_that_returns_an_event_without_a_place() -> None:
    """A saved event without an id makes the push uncertain, and is shown to nobody."""

    class Lying(PlainStore):
        async def save(self, event: Event) -> Event:
            return event

    async with Notifier(Lying()) as notifier, notifier.subscribe("alice") as stream:
        with pytest.raises(PushUncertainError):
            await notifier.push("alice", "t")
        with pytest.raises(TimeoutError):
            await stream.next(0.03)


async def test_closing_right_after_an_opening_read_failed() -> None:
    """A stream closed between the failure of its first read and its reader's next step just ends."""
    gate = anyio.Event()

    class Failing(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            await gate.wait()
            raise OSError("no")

    async with Notifier(Failing()) as notifier, anyio.create_task_group() as group:
        stream = notifier.subscribe("alice", "0")

        async def read() -> None:
            with pytest.raises((ClosedError, BackendUnavailableError)):
                await stream.next()

        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        fail = stream.fail  # type: ignore[attr-defined]
        fail(OSError("no"))
        await stream.aclose()
        gate.set()


@pytest.mark.parametrize("kind", [lambda inner: inner, PlainStore])
async def test_a_waiting_stream_ends_with_its_plain_store(kind: Any) -> None:
    """When a plain store is closed, a stream that waits for news ends within a poll interval."""
    store = kind(MemoryStore())
    async with Notifier(store, poll_interval=0.05) as notifier, notifier.subscribe("alice") as stream:
        await store.aclose()
        with pytest.raises(ClosedError):
            await stream.next(2)


async def test_a_registration_that_cannot_be_released() -> None:
    """A tracker whose registrations fail to end harms neither the stream, nor other users, nor closing."""

    class Stuck:
        def release(self) -> None:
            raise OSError("no")

        async def aclose(self) -> None:
            """Nothing."""

    class Tracker(SlowPresence):
        async def register(self, user: str, routing: Any = None) -> Any:
            return Stuck() if user == "alice" else await super().register(user, routing)

    for linger in (0, 0.02):
        tracker = Tracker()
        async with Notifier(MemoryStore(), presence=tracker, linger=linger) as notifier:
            async with notifier.subscribe("alice"), notifier.subscribe("bob"):
                pass
            await until(lambda tracker=tracker: not tracker.inner.locate_nowait(["bob"]))
            await until(lambda notifier=notifier: notifier.statistics().presence_failures == 1)


async def test_an_immediate_store_that_fails_is_told_as_unavailable() -> None:
    """A store that answers at once and raises something of its own makes opening raise BackendUnavailableError."""

    class Failing(MemoryStore):
        def read_nowait(self, user: str, after: str, limit: int) -> Page:
            raise OSError("no")

    async with Notifier(Failing()) as notifier:
        with pytest.raises(BackendUnavailableError) as caught:
            async with notifier.subscribe("alice", "0"):
                pytest.fail("it cannot open")
        assert isinstance(caught.value.__cause__, OSError)


async def test_presence_follows_a_stream_store_that_was_closed() -> None:
    """After its stream store was closed and the stream too, the user leaves."""
    presence, store = MemoryPresence(), MemoryStreamStore()
    async with Notifier(store, presence=presence, linger=0) as notifier:
        stream = notifier.subscribe("alice")
        await stream.__aenter__()
        await store.aclose()
        await stream.aclose()
        assert await presence.locate(["alice"]) == {}
        assert notifier.statistics().users == 0


async def test_readers_that_gave_up_leave_nothing_with_a_tracker_that_hangs() -> None:
    """Abandoned openings leave no waiter behind."""

    class Hanging(SlowPresence):
        async def register(self, user: str, routing: Any = None) -> Any:
            await anyio.sleep_forever()

    async with Notifier(MemoryStore(), presence=Hanging(), timeout=0.3) as notifier:
        stream = notifier.subscribe("alice")
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await stream.next(0.01)
        attendance: Any = notifier._attendance
        assert attendance._seats["alice"].waiters == []
        await stream.aclose()
