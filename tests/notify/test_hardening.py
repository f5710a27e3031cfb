"""Stores that break the contract, events that claim nonsense, and ends that race each other."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from enum import Enum
from typing import Any

import anyio
import anyio.to_thread
import pytest

from notify import (
    BackendUnavailableError,
    Background,
    ClosedError,
    CodecError,
    Event,
    InvalidEventIdError,
    Notifier,
    Page,
    PushUncertainError,
)
from notify.event import draft as _draft
from notify_memory import MemoryPresence, MemoryStore, MemoryStreamStore
from tests.parts import BatchStore, PlainStore, SlowPresence, until

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
        await stream.next(10)
        notifier.deliver(Event("alice", "t", 2).stored("", first.id))
        await notifier.push("alice", "t", 3)
        assert [(await stream.next(10)).payload for _ in range(2)] == [2, 3]
        assert await notifier.push("alice", "t", 4) is not None


class Name(str, Enum):  # noqa: UP042 - the kind whose format is not its letters
    """Text whose format is not its letters, and whose hash is not theirs."""

    ALICE = "alice"
    CREATED = "comment.created"


async def test_text_of_a_subclass_counts_by_its_letters() -> None:
    """An enum's member as user, type, group or key is the text that it stands for, everywhere and from the start."""
    async with Notifier(MemoryStore()) as notifier, notifier.subscribe(Name.ALICE) as stream:
        pushed = await notifier.push(Name.ALICE, Name.CREATED, group=Name.ALICE, key=Name.CREATED)
        report = await notifier.push_many([Name.ALICE], Name.CREATED)
        assert pushed is not None
        assert [await stream.next(10), await stream.next(10)] == [pushed, report.events["alice"]]
        made = Event(Name.ALICE, Name.CREATED, group=Name.ALICE, key=Name.CREATED)
        for event in (pushed, report.events["alice"], made):
            texts = [text for text in (event.user, event.type, event.group, event.key) if text is not None]
            assert {text.__class__ for text in texts} == {str}
            assert f"{event.user} {event.type}" == "alice comment.created"


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "page",
        Page([], None, "garbage"),
        Page(None, None, "1-0"),  # type: ignore[arg-type]
        Page(["event"], None, "1-0"),  # type: ignore[list-item]
        Page([Event("alice", "t")], None, "1-0"),
        Page([], "lost", "1-0"),  # type: ignore[arg-type]
    ],
)
async def test_a_store_that_returns_no_page(answer: Any) -> None:
    """An answer that is not a page counts as a failed read: opening raises, and no reader hangs or spins."""

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
    """A saved event without an id makes the push uncertain, and is shown to no stream."""

    class Lying(PlainStore):
        async def save(self, event: Event) -> Event:
            return event

    async with Notifier(Lying()) as notifier, notifier.subscribe("alice") as stream:
        with pytest.raises(PushUncertainError):
            await notifier.push("alice", "t")
        with pytest.raises(TimeoutError):
            await stream.next(0.03)


async def test_an_immediate_store_that_breaks_the_contract() -> None:
    """What it returns for an event or a page is looked at too, and its own errors are not their own cause."""

    class Lying(MemoryStore):
        def save_nowait(self, event: Event) -> Event:
            return event

        def read_nowait(self, user: str, after: str, limit: int) -> Page:
            return Page(["event"], None, "1-0")  # type: ignore[list-item]

    for presence in (None, MemoryPresence()):
        store = Lying()
        async with Notifier(store, presence=presence) as notifier:
            with pytest.raises(PushUncertainError):
                await notifier.push("alice", "t")
            with pytest.raises(BackendUnavailableError):
                await notifier.subscribe("alice", "0").next(10)
        store = MemoryStore()
        await store.aclose()
        async with Notifier(store, presence=presence) as notifier:
            with pytest.raises(ClosedError) as caught:
                await notifier.push("alice", "t")
            assert caught.value.__cause__ is None


async def test_a_draft_stays_what_it_is_in_a_set() -> None:
    """A store may keep drafts in sets and dictionaries while it saves them."""
    draft = _draft("alice", "t", 1, None, None, None, user_checked=False)
    pending = {draft}
    stored = draft.stored("1-0", "0")
    pending.remove(draft)
    assert not pending
    assert stored.id == "1-0"


async def test_a_push_to_many_that_is_cut_off() -> None:
    """A notifier that is closed in the middle of a `push_many` tells its caller that some events may be stored."""

    class Stuck(BatchStore):
        async def save_many(self, events: Sequence[Event]) -> Sequence[object]:
            if len(self.calls) == 1:
                self.calls.append("stuck")
                await anyio.sleep_forever()
            return await super().save_many(events)

    store = Stuck()
    notifier = Notifier(store)
    async with anyio.create_task_group() as tasks:

        async def push() -> None:
            with pytest.raises(PushUncertainError):
                await notifier.push_many([f"user{number}" for number in range(1500)], "t")

        tasks.start_soon(push)
        await until(lambda: "stuck" in store.calls and bool(store.inner._logs))
        notifier._parts.jobs.closed = True  # as a close that waits no longer
        await notifier._parts.jobs.aclose(1)
    assert 0 < len(store.inner._logs) < 1500
    await notifier.aclose()


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


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("linger", [0, 0.2])
async def test_garbage_is_collected_in_another_thread(linger: float) -> None:
    """A stream that another thread finalises leaves as it would here: in its loop's thread, and after `linger`."""
    presence = SlowPresence()
    async with Notifier(MemoryStore(), presence=presence, linger=linger) as notifier:
        holder: dict[str, object] = {"stream": await notifier.subscribe("alice").__aenter__()}
        holder["itself"] = holder
        began = anyio.current_time()
        del holder
        gc.disable()
        try:
            await anyio.to_thread.run_sync(gc.collect)
        finally:
            gc.enable()
        await until(lambda: not presence.inner.locate_nowait(["alice"]))
        assert anyio.current_time() - began >= linger
        assert notifier.statistics().open_streams == 0


async def test_a_finaliser_after_the_loop_has_ended() -> None:
    """A stream that outlives its event loop is removed silently, and nothing waits for it to be swept."""

    async def open_one() -> tuple[Notifier, object]:
        notifier = Notifier(MemoryStore(), presence=MemoryPresence(), linger=5)
        return notifier, await notifier.subscribe("alice").__aenter__()

    def run(backend: str) -> int:
        notifier, stream = anyio.run(open_one, backend=backend)
        del stream
        gc.collect()
        local_presence: Any = notifier._parts.local_presence
        return len(local_presence._entries)

    for backend in ("asyncio", "trio"):
        assert await anyio.to_thread.run_sync(run, backend) == 0


async def test_work_that_cannot_begin_leaves_nothing() -> None:
    """Work started where no event loop runs raises, and is not waited for by `aclose`."""
    background = Background("test")

    def begin() -> None:
        with pytest.raises(RuntimeError):
            background.start(anyio.sleep, 0)

    await anyio.to_thread.run_sync(begin)
    assert background.running == 0


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
        local_presence: Any = notifier._parts.local_presence
        assert local_presence._entries["alice"].waiters == []
        await stream.aclose()
