"""`interrupt` and `next_nowait` of streams, and disconnections since a `moment`: what servers of connections need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from notify import (
    BackendUnavailableError,
    ClosedError,
    DisconnectedError,
    Event,
    Notifier,
    Page,
    Stream,
    UsageError,
)
from notify.abc import Interruptible
from notify_memory import MemoryRouter, MemoryStore, MemoryStreamStore
from tests.notify.test_foreign import OwnStreamStore
from tests.parts import STORES, PlainStore, SlowPresence, until

pytestmark = pytest.mark.anyio

KINDS: dict[str, Callable[[], Any]] = {**STORES, "no store": lambda: None}
WITH_A_LOG = list(STORES)
LOGS: dict[str, Any] = {"one log": "alice", "several logs": ["alice", "bob"]}


class Steered(Stream, Interruptible):
    """What a notifier returns."""


@pytest.fixture(params=KINDS)
async def notifier(request: pytest.FixtureRequest) -> AsyncIterator[Notifier]:
    async with Notifier(KINDS[request.param](), poll_interval=0.05) as notifier:
        yield notifier
        await until(lambda: notifier.statistics().open_streams == 0)


@pytest.fixture(params=LOGS)
def logs(request: pytest.FixtureRequest) -> Any:
    return LOGS[request.param]


def subscribe(notifier: Notifier, logs: Any, last_id: Any = None, **options: Any) -> Steered:
    stream: Any = notifier.subscribe(logs, last_id, **options)
    assert isinstance(stream, Interruptible)
    return stream  # type: ignore[return-value]


async def take(stream: Steered, count: int) -> list[Event]:
    """What is in hand without waiting, and otherwise by `next`."""
    taken: list[Event] = []
    while len(taken) < count:
        event = stream.next_nowait()
        taken.append(event if event is not None else await stream.next(10))
    return taken


async def interrupted(stream: Any, times: int = 1) -> None:
    """Interrupt a stream whose reader waits, and see the reader return."""

    async def read() -> None:
        with anyio.fail_after(5), pytest.raises(TimeoutError, match="interrupted"):
            await stream.next()

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        for _ in range(times):
            stream.interrupt()


# -- interrupt ------------------------------------------------------------------------------------------------------


async def test_a_waiting_reader_is_interrupted(notifier: Notifier, logs: Any) -> None:
    """`next` raises TimeoutError at once; the stream goes on as if nothing had been."""
    async with subscribe(notifier, logs) as stream:
        for number in range(3):
            await interrupted(stream, times=2)
            event = await notifier.push("alice", "t", number)
            assert await stream.next(10) == event


async def test_an_interruption_waits_for_the_reader(notifier: Notifier, logs: Any) -> None:
    """One that comes while the reader is busy ends its next wait, and only that one, before anything is yielded."""
    async with subscribe(notifier, logs) as stream:
        stream.interrupt()
        event = await notifier.push("alice", "t")
        assert stream.next_nowait() is None
        with pytest.raises(TimeoutError):
            await stream.next()
        assert await stream.next() == event
        stream.interrupt()
        with pytest.raises(TimeoutError):
            await stream.next(0)


async def test_a_stream_that_has_ended_says_why_not_that_it_was_interrupted(notifier: Notifier, logs: Any) -> None:
    """A disconnection wins, whichever came first; a closed stream stays closed."""
    for first in (True, False):
        async with subscribe(notifier, logs) as stream:
            if first:
                stream.interrupt()
            await notifier.disconnect("alice", "out")
            stream.interrupt()
            assert stream.next_nowait() is None
            with pytest.raises(DisconnectedError, match="out"):
                await stream.next()
            stream.interrupt()
            with pytest.raises(DisconnectedError, match="out"):
                await stream.next()
    stream = subscribe(notifier, logs)
    await stream.aclose()
    stream.interrupt()
    with pytest.raises(ClosedError):
        await stream.next()


async def test_an_earlier_disconnection_stays_forgotten(notifier: Notifier, logs: Any) -> None:
    """A stream that was opened after it is interrupted, and not ended."""
    await notifier.disconnect("alice", "before")
    async with subscribe(notifier, logs) as stream:
        stream.interrupt()
        with pytest.raises(TimeoutError):
            await stream.next()
        event = await notifier.push("alice", "t")
        assert await stream.next(10) == event


@pytest.mark.parametrize("position", [None, "0"])
async def test_a_stream_that_reads_is_interrupted(logs: Any, position: str | None) -> None:
    """Entering it too: then it is closed. Otherwise the page that arrives later is yielded."""
    gates = [anyio.Event()]

    class Gated(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            await gates[-1].wait()
            return await super().read(user, after, limit)

        async def head(self, user: str) -> str:
            await gates[-1].wait()
            return await super().head(user)

    async with Notifier(Gated(), poll_interval=60) as notifier:
        stored = await notifier.push("alice", "t")
        bare = subscribe(notifier, logs, position)
        async with anyio.create_task_group() as group:

            async def enter() -> None:
                with pytest.raises(TimeoutError):
                    await subscribe(notifier, logs, position).__aenter__()

            async def read() -> None:
                with pytest.raises(TimeoutError):
                    await bare.next()

            async def interrupted(function: Callable[[], Any]) -> None:
                group.start_soon(function)
                await anyio.wait_all_tasks_blocked()
                for each in [*notifier._live._hub._reads.streams(), *notifier._live._hub.opening]:
                    owner: Any = each.shared.owner() if hasattr(each, "shared") else each
                    owner.interrupt()

            with anyio.fail_after(20):
                await interrupted(enter)
                await until(lambda: notifier.statistics().open_streams == 0)
                await interrupted(read)
        gates[-1].set()
        await anyio.wait_all_tasks_blocked()
        later = await notifier.push("alice", "t")
        with anyio.fail_after(2):
            assert await bare.next() == (stored if position else later)
        await bare.aclose()


async def test_a_stream_that_waits_for_presence_is_interrupted(logs: Any) -> None:
    """It does not begin to read before its user is registered, however often it is interrupted."""

    class Gated(SlowPresence):
        async def _enter(self, name: str) -> None:
            if name == "register":
                await gate.wait()

    gate = anyio.Event()
    store = PlainStore()
    async with Notifier(store, presence=Gated(), timeout=5.0) as notifier:
        stored = await notifier.push("alice", "t")
        stream = subscribe(notifier, logs, "0")
        for _ in range(3):
            await interrupted(stream)
        assert "read" not in store.calls
        stream.interrupt()
        with pytest.raises(TimeoutError):
            await stream.next(0)
        gate.set()
        assert await stream.next(10) == stored
        await stream.aclose()


# -- next_nowait ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("notifier", WITH_A_LOG, indirect=True)
async def test_what_is_in_hand_needs_no_waiting(notifier: Notifier, logs: Any) -> None:
    """The rest of a page and live events, in order, and nothing twice; None says that `next` has to be asked."""
    stored = [await notifier.push("alice", "t", number) for number in range(5)]
    async with subscribe(notifier, logs, "0") as stream:
        assert await take(stream, 5) == stored
        assert stream.next_nowait() is None
        live = [await notifier.push("alice", "t", number) for number in range(3)]
        assert [stream.next_nowait() for _ in range(4)] == [*live, None]
        with pytest.raises(TimeoutError):
            await stream.next(0)
        more = [await notifier.push("alice", "t", number) for number in range(3)]
        assert await take(stream, 3) == more
        assert notifier.statistics().yielded == 11


async def test_the_rest_of_a_page_is_in_hand(logs: Any) -> None:
    """Though nothing was offered since the stream was opened."""
    async with Notifier(MemoryStore()) as notifier:
        stored = [await notifier.push("alice", "t", number) for number in range(3)]
        async with subscribe(notifier, logs, "0") as stream:
            assert await stream.next(10) == stored[0]
            assert [stream.next_nowait() for _ in range(3)] == [*stored[1:], None]


async def test_a_rewound_log_is_in_hand() -> None:
    """A position that is ahead of the log: entering goes on until a page is read from the beginning."""
    async with Notifier(MemoryStore()) as notifier:
        stored = await notifier.push("alice", "t", 1)
        async with notifier.subscribe("alice", "9999999999999-0") as stream:
            assert stream.next_nowait() == stored  # type: ignore[attr-defined]


async def test_live_events_without_a_store(logs: Any) -> None:
    """They are in hand as soon as they are pushed."""
    async with Notifier() as notifier, subscribe(notifier, logs) as stream:
        assert stream.next_nowait() is None
        event = await notifier.push("alice", "t")
        assert stream.next_nowait() == event


async def test_observed_events_are_observed_here_too(logs: Any) -> None:
    """What a live stream hands out is measured, whichever method hands it out."""
    observed: list[Event] = []
    async with Notifier(MemoryStore()) as notifier:
        notifier._live._hub.observe = observed.append
        async with subscribe(notifier, logs) as stream:
            event = await notifier.push("alice", "t")
            assert stream.next_nowait() == event
    assert observed == [event]


async def test_next_nowait_in_every_other_state(logs: Any) -> None:
    """Before the stream is opened, and with `max_lag`, `next` has to be asked; a second reader is refused."""
    async with Notifier(MemoryStore()) as notifier:
        event = await notifier.push("alice", "t")
        assert subscribe(notifier, logs, "0").next_nowait() is None
        async with subscribe(notifier, logs, "0", max_lag=5) as lagging:
            assert lagging.next_nowait() is None
            assert await lagging.next(10) == event
        async with subscribe(notifier, logs) as stream, anyio.create_task_group() as group:
            group.start_soon(stream.next)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(UsageError, match="another task"):
                stream.next_nowait()
            group.cancel_scope.cancel()


async def test_what_fell_out_of_the_ring_is_read(logs: Any) -> None:
    """`next_nowait` skips nothing: the stream has to read the log first."""
    async with Notifier(MemoryStore(), buffer_size=4) as notifier, subscribe(notifier, logs) as stream:
        events = [await notifier.push("alice", "t", number) for number in range(9)]
        assert stream.next_nowait() is None
        assert await take(stream, 9) == events


# -- moment ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[*KINDS, "streams of its own"])
async def any_notifier(request: pytest.FixtureRequest) -> AsyncIterator[Notifier]:
    make = (KINDS | {"streams of its own": OwnStreamStore})[request.param]
    async with Notifier(make(), poll_interval=0.05) as notifier:
        yield notifier
        await until(lambda: notifier.statistics().open_streams == 0)


async def test_a_disconnection_since_a_moment_ends_a_later_stream(any_notifier: Notifier) -> None:
    """As if the stream had existed; one before the moment does not, nor does one of another user."""
    await any_notifier.disconnect("alice", "before")
    moment = await any_notifier.moment()
    await any_notifier.disconnect("bob", "another")
    async with any_notifier.subscribe("alice", disconnected_since=moment) as stream:
        event = await any_notifier.push("alice", "t")
        assert await stream.next(10) == event
    await any_notifier.disconnect("alice", "since")
    stream = any_notifier.subscribe("alice", disconnected_since=moment)
    with pytest.raises(DisconnectedError) as caught:
        await stream.next()
    assert caught.value.reason == "since"
    assert any_notifier.statistics().open_streams == 0


@pytest.mark.parametrize("shared", [True, False])
async def test_the_disconnection_may_come_from_another_instance(shared: bool, logs: Any) -> None:
    """Although no stream was ever open here."""
    store: Any = MemoryStreamStore() if shared else MemoryStore()
    router = None if shared else MemoryRouter()
    async with Notifier(store, router=router) as there:
        here = Notifier(store, router=router)
        moment = await here.moment()
        assert here.statistics().open_streams == 0
        await there.disconnect("alice", "elsewhere")
        stream = here.subscribe(logs, disconnected_since=moment)
        with pytest.raises(DisconnectedError, match="elsewhere"):
            await stream.next(2)
        await here.aclose()
        with pytest.raises(ClosedError):
            await here.moment()


async def test_an_outage_does_not_keep_a_moment_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is bounded, and only the first call waits at all."""
    monkeypatch.setattr("notify._pushing._PATIENCE", 0.05)

    class Down(PlainStore):
        async def head(self, user: str) -> str:
            await super().head(user)
            raise BackendUnavailableError("down")

    class Hanging(PlainStore):
        async def head(self, user: str) -> str:
            await super().head(user)
            await anyio.sleep_forever()
            return "0"

    for store in (Down(), Hanging()):
        async with Notifier(store) as notifier:
            with anyio.fail_after(2):
                assert await notifier.moment() == await notifier.moment()
            assert store.calls == ["head"]


async def test_a_moment_waits_until_events_of_others_are_received() -> None:
    """The live log says when."""
    async with Notifier(MemoryStreamStore()) as notifier:
        asked = 0

        def is_receiving() -> bool:
            nonlocal asked
            asked += 1
            return asked > 2

        notifier._live._catch_up._is_receiving = is_receiving
        await notifier.moment()
        assert asked > 2
