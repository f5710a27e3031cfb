"""`SyncNotifier`: one event loop in the background of each process, shared by its threads."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio.to_thread
import pytest
import trio

from notify import ClosedError, DisconnectedError, InvalidEventError, InvalidEventIdError, Notifier, UsageError
from notify.sync import SyncNotifier, _loop
from notify.sync._loop import NotifierLoop
from notify_memory import MemoryPresence, MemoryStore, MemoryStreamStore

SECONDS = 20.0


@pytest.fixture
def notifier() -> Iterator[SyncNotifier]:
    with SyncNotifier.from_url("memory://") as notifier:
        yield notifier


def in_threads(*functions: Callable[[], Any]) -> list[Any]:
    """Run functions at the same time; return their results, or their exceptions."""
    results: list[Any] = [None] * len(functions)

    def run(number: int) -> None:
        try:
            results[number] = functions[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    return results


def loops() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "notify-sync"]


# -- pushing ------------------------------------------------------------------------------------------------------


def test_push_and_read(notifier: SyncNotifier) -> None:
    """The methods are those of a notifier: the same arguments and results, without a word of await."""
    event = notifier.push("alice", "a", {"n": 1}, key="k", group="g", meta={"m": "x"})
    assert event is not None
    assert (event.payload, event.key, event.group, event.meta["m"]) == ({"n": 1}, "k", "g", "x")
    again = notifier.push("alice", "a", key="k")
    assert again is not None
    assert again.id == event.id
    report = notifier.push_many((user for user in ("alice", "bob")), "b", 2)
    assert set(report.events) == {"alice", "bob"}
    with notifier.subscribe("alice", "0") as stream:
        assert [stream.next(SECONDS).type for _ in range(2)] == ["a", "b"]
        ephemeral = notifier.push("alice", "typing", ephemeral=True)
        assert ephemeral is not None
        assert ephemeral.id == ""
        notifier.broadcast("maintenance", {"in": 5}, meta={"m": "y"})
        assert [stream.next(SECONDS).type for _ in range(2)] == ["typing", "maintenance"]
        assert notifier.statistics().open_streams == 1
    assert notifier.check().ok
    assert notifier.forget("alice") == 2
    assert notifier.call(lambda it: it.push("carol", "c")).user == "carol"


def test_errors_keep_their_types_and_say_where(notifier: SyncNotifier) -> None:
    """An error is the one that the notifier raised; its traceback leads through the caller's line and the core's."""
    with pytest.raises(InvalidEventError) as raised:
        notifier.push("", "a")
    text = "".join(traceback.format_exception(raised.value))
    assert "notifier.push(" in text
    assert "in check_user" in text
    with pytest.raises(InvalidEventIdError):
        notifier.subscribe("alice", "yesterday")
    with pytest.raises(InvalidEventError, match="got a single str"):
        notifier.push_many("alice", "a")
    with pytest.raises(ZeroDivisionError):
        notifier.call(lambda _: 1 / 0)


def test_nothing_starts_before_the_first_call() -> None:
    """Making a notifier starts no thread; all threads share the one that the first call starts."""
    before = {*loops()}
    with SyncNotifier.from_url("memory://") as notifier:
        assert {*loops()} <= before
        results = in_threads(*[lambda: notifier.push("alice", "a") for _ in range(16)])
        assert len({event.id for event in results}) == 16
        assert len({*loops()} - before) == 1
    assert {*loops()} <= before


def test_threads_keep_the_order_of_their_calls(notifier: SyncNotifier) -> None:
    """Each thread's pushes are in the log in the order of its calls."""

    def push_all(name: str) -> None:
        for number in range(60):
            notifier.push("alice", name, number)

    assert in_threads(*[lambda name=name: push_all(name) for name in "abcdefgh"]) == [None] * 8
    seen: dict[str, list[int]] = {}
    with notifier.subscribe("alice", "0") as stream:
        for _ in range(480):
            event = stream.next(SECONDS)
            seen.setdefault(event.type, []).append(event.payload)
    assert seen == {name: list(range(60)) for name in "abcdefgh"}


# -- factories ----------------------------------------------------------------------------------------------------


def test_factories() -> None:
    """A function, a coroutine function and an async context manager make the notifier, each on its loop."""
    calls = []

    def plain() -> Notifier:
        calls.append(threading.current_thread().name)
        return Notifier(MemoryStreamStore(), presence=MemoryPresence())

    async def coroutine() -> Notifier:
        calls.append(threading.current_thread().name)
        return Notifier()

    @asynccontextmanager
    async def context() -> AsyncIterator[Notifier]:
        async with Notifier(MemoryStore()) as notifier:
            yield notifier
        calls.append("closed")

    for factory in (plain, coroutine, context):
        with SyncNotifier(factory) as notifier:
            assert notifier.push("alice", "a") is not None
    assert calls == ["notify-sync", "notify-sync", "closed"]


def test_parts_are_closed_with_the_notifier() -> None:
    """What the factory made is closed: the store too, which a notifier leaves open."""
    store = MemoryStreamStore()
    with SyncNotifier(lambda: Notifier(store)) as notifier:
        notifier.push("alice", "a")
    with pytest.raises(ClosedError):
        asyncio.run(store.head("alice"))


def test_factory_that_fails_is_tried_again() -> None:
    """Its error reaches every caller, and the next call tries again."""
    outcomes: list[Any] = [OSError("not yet"), OSError("not yet"), Notifier]
    before = {*loops()}

    def factory() -> Notifier:
        outcome = outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return Notifier(MemoryStore())

    with SyncNotifier(factory) as notifier:
        for _ in range(2):
            with pytest.raises(OSError, match="not yet"):
                notifier.push("alice", "a")
            wait_for(lambda: {*loops()} <= before)
        assert notifier.push("alice", "a") is not None


def test_closing_where_the_factory_has_failed() -> None:
    """There is nothing to close: it returns at once, also the second time."""

    def factory() -> Notifier:
        raise OSError("not yet")

    loop = NotifierLoop(factory)
    with pytest.raises(OSError, match="not yet"):
        loop.call(print)
    for _ in range(2):
        loop.close(SECONDS)
    wait_for(lambda: not loop.is_alive)


def test_an_interpreter_that_starts_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it ends, Python 3.12 and later refuse: the error says what to do, and nothing is left to be closed."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    before = set(_loop._loops)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(UsageError, match="push or read once before the main thread ends"):
        SyncNotifier(Notifier).push("alice", "a")
    assert set(_loop._loops) == before


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@asynccontextmanager
async def of_nothing() -> AsyncIterator[None]:
    yield None


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (lambda: None, "must return a Notifier, or an async context manager that yields one, not None"),
        (lambda: MemoryStore(), "must yield a Notifier, not <notify_memory"),
        (of_nothing, "must yield a Notifier, not None"),
    ],
)
def test_factory_of_something_else(factory: Any, words: str) -> None:
    """What a factory returned is named."""
    with SyncNotifier(factory) as notifier, pytest.raises(UsageError) as raised:
        notifier.push("alice", "a")
    assert words in str(raised.value)


def test_a_notifier_is_not_a_factory() -> None:
    """The mistake that is easy to make: the notifier itself is passed."""
    with pytest.raises(UsageError, match="SyncNotifier expects a function that returns a Notifier, got <Notifier"):
        SyncNotifier(Notifier(MemoryStore()))  # type: ignore[arg-type]


# -- event loops --------------------------------------------------------------------------------------------------


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "push": ("a", "b"),
    "push_many": (["a"], "b"),
    "broadcast": ("b",),
    "forget": ("a",),
    "disconnect": ("a",),
    "subscribe": ("a",),
    "statistics": (),
    "check": (),
    "call": (lambda it: it.check(),),
    "close": (),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_event_loop_is_never_blocked(notifier: SyncNotifier, name: str) -> None:
    """On an event loop, asyncio or trio, and on the notifier's own, each method refuses and names what to await."""

    async def use(_: Any = None) -> None:
        with pytest.raises(UsageError) as raised:
            getattr(notifier, name)(*ARGUMENTS[name])
        assert f"SyncNotifier.{name}() would block the event loop" in str(raised.value)
        assert f"`await notifier.{name}(...)`" in str(raised.value)

    asyncio.run(use())
    trio.run(use)
    notifier.call(use)


def test_a_stream_is_not_read_on_an_event_loop(notifier: SyncNotifier) -> None:
    """Reading, opening and closing a stream are refused there too."""
    stream = notifier.subscribe("alice")

    async def use() -> None:
        with pytest.raises(UsageError, match="would block"):
            stream.next()
        with pytest.raises(UsageError, match="would block"):
            next(stream)
        with pytest.raises(UsageError, match="would block"), stream:
            pass
        with pytest.raises(UsageError, match="would block"):
            stream.close()

    asyncio.run(use())


# -- streams ------------------------------------------------------------------------------------------------------


def test_stream_state(notifier: SyncNotifier) -> None:
    """`last_id` is the token of what was returned; the other attributes are the stream's."""
    first = notifier.push("alice", "a")
    second = notifier.push("alice", "b")
    assert first is not None
    assert second is not None
    stream = notifier.subscribe("alice", "0")
    assert (stream.user, stream.last_id, stream.dropped, stream.gaps) == ("alice", "0", 0, ())
    with stream:
        assert stream.next().id == stream.last_id == first.id
        assert next(stream).id == stream.last_id == second.id
        with pytest.raises(TimeoutError):
            stream.next(timeout=0.01)
        assert stream.last_id == second.id
    with pytest.raises(ClosedError):
        stream.next()
    assert list(stream) == []
    stream.close()
    with notifier.subscribe("alice", first.id) as resumed:
        assert resumed.next(SECONDS).id == second.id


def test_entering_fixes_the_position(notifier: SyncNotifier) -> None:
    """Without a position a stream begins when it is entered, not at the first `next`."""
    with notifier.subscribe("alice") as stream:
        notifier.push("alice", "a")
        assert stream.next(timeout=SECONDS).type == "a"
        notifier.push("alice", "b")
        assert stream.next(timeout=0).type == "b"
        with pytest.raises(TimeoutError):
            stream.next(timeout=0)


def test_leaving_a_bare_loop_releases_the_stream(notifier: SyncNotifier) -> None:
    """`break` out of a loop without `with`: nothing is left open."""
    notifier.push("alice", "a")
    for event in notifier.subscribe("alice", "0"):
        assert event.type == "a"
        break
    gc.collect()
    wait_for(lambda: notifier.statistics().open_streams == 0)


def test_threads_share_a_stream(notifier: SyncNotifier) -> None:
    """Two threads that read one stream get each event once between them."""
    with notifier.subscribe("alice", "0") as stream:

        def read() -> list[int]:
            return [stream.next(SECONDS).payload for _ in range(40)]

        def push() -> None:
            for number in range(80):
                notifier.push("alice", "n", number)

        one, other, _ = in_threads(read, read, push)
        assert sorted(one + other) == list(range(80))


def test_event_that_another_thread_took(notifier: SyncNotifier) -> None:
    """A thread that finds its event taken by another one waits for the next event."""

    class Raced(deque[Any]):
        races = 1

        def popleft(self) -> Any:
            taken = super().popleft()
            if self.races:
                self.races -= 1
                raise IndexError
            return taken

    notifier.push("alice", "a")
    notifier.push("alice", "b")
    with notifier.subscribe("alice", "0") as stream:
        stream._taken = Raced()
        assert stream.next(SECONDS).type == "b"


def test_threads_open_a_stream_at_the_same_time(notifier: SyncNotifier) -> None:
    """It is opened once, and both read it."""
    stream = notifier.subscribe("alice", "0")
    release = threading.Event()

    async def hold(_: Any) -> None:
        async with stream._turn:
            await anyio.to_thread.run_sync(release.wait)

    def open_soon() -> None:
        wait_for(stream._turn.locked)
        stream.__enter__()

    def release_soon() -> None:
        wait_for(lambda: stream._turn.statistics().tasks_waiting == 2)
        release.set()

    assert in_threads(lambda: notifier.call(hold), open_soon, open_soon, release_soon) == [None] * 4
    assert notifier.statistics().open_streams == 1
    stream.close()


def test_timeout_while_another_thread_waits(notifier: SyncNotifier) -> None:
    """A timeout ends the wait also while another thread is waiting for the event; that one gets it."""
    with notifier.subscribe("alice") as stream:

        def wait_a_moment() -> None:
            wait_for(stream._turn.locked)
            with pytest.raises(TimeoutError):
                stream.next(timeout=0.05)
            with pytest.raises(TimeoutError):
                stream.next(timeout=0)
            notifier.push("alice", "a")

        event, nothing = in_threads(lambda: stream.next(SECONDS), wait_a_moment)
        assert (event.type, nothing) == ("a", None)


def test_disconnect_and_expiry(notifier: SyncNotifier) -> None:
    """A stream that is disconnected, or expires, ends its loop; `next` says why."""
    stream, other = notifier.subscribe("alice"), notifier.subscribe("alice")

    def disconnect() -> None:
        wait_for(lambda: stream._turn.locked() and other._turn.locked())
        notifier.disconnect("alice", "logout")

    raised, ended, nothing = in_threads(stream.next, lambda: list(other), disconnect)
    assert isinstance(raised, DisconnectedError)
    assert (raised.reason, ended, nothing) == ("logout", [], None)
    with notifier.subscribe("alice", expires_at=datetime.now(UTC) - timedelta(1)) as expired:
        with pytest.raises(DisconnectedError, match="expired"):
            expired.next(SECONDS)


def test_closing_wakes_readers() -> None:
    """Closing a stream, or the notifier, wakes the threads that read: `next` raises, a loop ends."""
    notifier = SyncNotifier.from_url("memory://")
    one, other, third = (notifier.subscribe(user) for user in ("a", "b", "c"))

    def close() -> None:
        wait_for(lambda: all(stream._turn.locked() for stream in (one, other, third)))
        one.close()
        notifier.close()

    raised, ended, raised_too, nothing = in_threads(one.next, lambda: list(other), third.next, close)
    assert isinstance(raised, ClosedError)
    assert isinstance(raised_too, ClosedError)
    assert (ended, nothing) == ([], None)


# -- closing ------------------------------------------------------------------------------------------------------


def test_after_closing() -> None:
    """Closing is idempotent, from several threads too; what comes later is refused. Never used is closed as well."""
    notifier = SyncNotifier.from_url("memory://")
    stream = notifier.subscribe("alice")
    assert in_threads(*[notifier.close] * 4) == [None] * 4
    notifier.close()
    for call in (lambda: notifier.push("alice", "a"), lambda: notifier.subscribe("alice"), notifier.statistics):
        with pytest.raises(ClosedError, match="the notifier is closed"):
            call()
    with pytest.raises(ClosedError):
        stream.next()
    unused = SyncNotifier.from_url("memory://")
    unused.close()
    with pytest.raises(ClosedError):
        unused.push("alice", "a")


def test_closing_lets_pushes_finish() -> None:
    """Pushes that are being stored when the notifier is closed are stored; those after it are refused."""
    stored = []

    class SlowStore(MemoryStore):
        async def save(self, event: Any) -> Any:
            await asyncio.sleep(0.3)
            stored.append(event.payload)
            return await super().save(event)

    notifier = SyncNotifier(lambda: Notifier(SlowStore()))
    notifier.statistics()
    pushes = [lambda number=number: notifier.push("alice", "a", number) for number in range(5)]

    def close() -> None:
        wait_for(lambda: bool(stored) or notifier.statistics().pending_pushes == 5)
        notifier.close()

    *events, nothing = in_threads(*pushes, close)
    assert nothing is None
    assert sorted(event.payload for event in events) == sorted(stored) == list(range(5))


def test_closing_takes_a_bounded_time() -> None:
    """A notifier that does not close within the timeout: TimeoutError, and the caller goes on."""
    release = threading.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[Notifier]:
        async with Notifier(MemoryStore()) as notifier:
            yield notifier
        await anyio.to_thread.run_sync(release.wait)

    notifier = SyncNotifier(slow)
    stream = notifier.subscribe("alice")
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"did not close within 0\.2 s"):
        notifier.close(timeout=0.2)
    assert time.monotonic() - began < SECONDS
    stream.close()  # the notifier has closed it
    with pytest.raises(ClosedError):
        notifier.push("alice", "a")
    release.set()
    notifier.close()


def test_error_of_closing_is_raised() -> None:
    """What closing raises reaches the caller of `close`."""

    @asynccontextmanager
    async def bad() -> AsyncIterator[Notifier]:
        async with Notifier(MemoryStore()) as notifier:
            yield notifier
        raise OSError("disk full")

    notifier = SyncNotifier(bad)
    notifier.push("alice", "a")
    with pytest.raises(OSError, match="disk full"):
        notifier.close()


def test_timeout_of_the_factory_is_not_that_of_closing() -> None:
    """A TimeoutError that the factory's context manager raises is not taken for that of `close`."""

    @asynccontextmanager
    async def bad() -> AsyncIterator[Notifier]:
        async with Notifier(MemoryStore()) as notifier:
            yield notifier
        raise TimeoutError("mine")

    notifier = SyncNotifier(bad)
    notifier.push("alice", "a")
    with pytest.raises(TimeoutError, match="mine"):
        notifier.close()


def test_call_that_outlives_the_notifier() -> None:
    """A call that ignores that the notifier is closed is ended: its caller is not left waiting."""
    notifier = SyncNotifier.from_url("memory://")
    begun = threading.Event()

    async def endless(_: Notifier) -> None:
        begun.set()
        await asyncio.sleep(1000)

    def close() -> None:
        assert begun.wait(SECONDS)
        notifier.close()

    raised, nothing = in_threads(lambda: notifier.call(endless), close)
    assert isinstance(raised, ClosedError)
    assert nothing is None


def test_threads_and_closing_race() -> None:
    """Threads that push while the notifier closes get an event or ClosedError, and none is left waiting."""
    for _ in range(20):
        notifier = SyncNotifier.from_url("memory://")

        def push(notifier: SyncNotifier = notifier) -> str:
            try:
                while True:
                    notifier.push("alice", "a")
            except ClosedError:
                return "closed"

        def close(notifier: SyncNotifier = notifier) -> None:
            wait_for(lambda: notifier.statistics().pushes["stored"] > 3)
            notifier.close()

        assert in_threads(push, push, close) == ["closed", "closed", None]
