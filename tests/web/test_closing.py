"""The end of the process, as the open connections learn of it: signals, `begin`, and the server's cancellation."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify.web import _closing
from notify.web._closing import FAREWELL, LINGER, Closing
from tests.parts import until

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ServerHandlers:
    """Handlers as a server installs them, which note what they got."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.before = [signal.signal(number, self) for number in SIGNALS]

    def __call__(self, number: int, frame: object) -> None:
        self.got.append(number)

    def restore(self) -> None:
        for number, handler in zip(SIGNALS, self.before, strict=True):
            signal.signal(number, handler)


@pytest.fixture
def server() -> Iterator[ServerHandlers]:
    handlers = ServerHandlers()
    yield handlers
    handlers.restore()


def installed() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


async def one_stream(closing: Closing, ended: list[Closing]) -> None:
    with anyio.CancelScope() as scope, closing.stream(scope.cancel):
        await anyio.sleep_forever()
    ended.append(closing)


@pytest.mark.anyio
@pytest.mark.parametrize("number", SIGNALS)
async def test_a_signal_ends_every_stream_and_reaches_the_server(number: int, server: ServerHandlers) -> None:
    """Two applications in one process: both are told once, the server's handler is called once, and comes back."""
    first, second = Closing(), Closing()
    ended: list[Closing] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for closing in (first, second, first):
                tasks.start_soon(one_stream, closing, ended)
            await until(lambda: len(first) == 2 and len(second) == 1)
            os.kill(os.getpid(), number)
    assert sorted(map(id, ended)) == sorted(map(id, [first, first, second]))
    assert server.got == [number]
    assert first.begun == second.begun == signal.Signals(number).name
    assert installed() == [server, server]


@pytest.mark.anyio
async def test_a_second_signal_is_passed_on_alone(server: ServerHandlers) -> None:
    """A user who presses Ctrl-C again wants the server to hurry: it learns of each, the streams of the first."""
    closing, stopped = Closing(), list[bool]()
    with closing.stream(lambda: stopped.append(True)):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: stopped and len(server.got) == 2)
    assert (closing.begun, stopped) == ("SIGTERM", [True])


@pytest.mark.anyio
async def test_handlers_stand_only_while_streams_are_open(server: ServerHandlers) -> None:
    """The first stream of the process installs them, the last one of all applications restores the server's."""
    first, second = Closing(), Closing()
    assert installed() == [server, server]
    a, b, c = (closing.stream(lambda: None) for closing in (first, second, first))
    for stream in (a, b, c):
        stream.__enter__()
        assert server not in installed()
    for stream in (a, b):
        stream.__exit__(None, None, None)
        assert server not in installed()
    c.__exit__(None, None, None)
    assert installed() == [server, server]
    assert len(first) == len(second) == 0


@pytest.mark.anyio
async def test_applications_that_take_turns_leave_no_chain(server: ServerHandlers) -> None:
    """However often streams of two applications overlap, a signal passes one handler on its way to the server's."""
    first, second = Closing(), Closing()
    old = first.stream(lambda: None)
    old.__enter__()
    top = installed()
    for turn in range(2 * sys.getrecursionlimit()):
        new = (second, first)[turn % 2].stream(lambda: None)
        new.__enter__()
        old.__exit__(None, None, None)
        old = new
        assert installed() == top
    os.kill(os.getpid(), signal.SIGTERM)
    old.__exit__(None, None, None)
    assert server.got == [signal.SIGTERM]
    assert installed() == [server, server]


@pytest.mark.anyio
async def test_a_handler_that_was_put_on_top_stays(server: ServerHandlers) -> None:
    """A handler that another library chained on top while streams were open is neither removed nor cut off."""
    closing = Closing()
    others: list[int] = []
    with closing.stream(lambda: None):
        below: Any = signal.getsignal(signal.SIGTERM)

        def on_top(number: int, frame: Any) -> None:
            others.append(number)
            below(number, frame)

        signal.signal(signal.SIGTERM, on_top)
    assert installed() == [on_top, server]
    os.kill(os.getpid(), signal.SIGTERM)
    assert (others, server.got, closing.begun) == ([signal.SIGTERM], [signal.SIGTERM], "")
    stopped: list[bool] = []
    with closing.stream(lambda: stopped.append(True)):
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: stopped)
    assert (len(others), len(server.got), closing.begun) == (2, 2, "SIGTERM")
    assert installed() == [on_top, server]


@pytest.mark.anyio
@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
async def test_default_and_ignored_signals_are_left_alone(handler: Any, server: ServerHandlers) -> None:
    """A process that did not ask to end gracefully ends, or goes on, as it would without an open stream."""
    signal.signal(signal.SIGTERM, handler)
    with Closing().stream(lambda: None):
        assert signal.getsignal(signal.SIGTERM) == handler
        assert signal.getsignal(signal.SIGINT) is not server
    assert installed() == [handler, server]


@pytest.mark.anyio
async def test_without_signals_no_handler_is_touched(server: ServerHandlers) -> None:
    """`signals=False` leaves them to the owner, who calls `begin`."""
    closing = Closing(signals=False)
    with anyio.fail_after(5), anyio.CancelScope() as scope, closing.stream(scope.cancel):
        assert installed() == [server, server]
        closing.begin()
        await anyio.sleep_forever()
    assert closing.begun == "asked"


@pytest.mark.anyio
async def test_begin_calls_each_stop_once() -> None:
    """However often the end begins; a stream that opens afterwards is stopped at once."""
    closing, stopped = Closing(), list[str]()
    with closing.stream(lambda: stopped.append("a")), closing.stream(lambda: stopped.append("b")):
        closing.begin("first")
        closing.begin("second")
        with closing.stream(lambda: stopped.append("late")):
            assert stopped == ["late"]
            await until(lambda: len(stopped) == 3)
            await anyio.lowlevel.checkpoint()
            assert sorted(stopped) == ["a", "b", "late"]
    assert closing.begun == "first"


@pytest.mark.anyio
async def test_begin_before_any_stream() -> None:
    """Nothing is open, so nothing is told; what opens next is stopped at once."""
    closing, stopped = Closing(), list[bool]()
    closing.begin()
    with closing.stream(lambda: stopped.append(True)):
        assert stopped == [True]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_outside_the_main_thread(backend: str, server: ServerHandlers) -> None:
    """There no handler can be installed; `begin` works from any other thread."""
    closing, ended = Closing(), list[Closing]()

    async def main() -> None:
        with anyio.fail_after(5):
            await one_stream(closing, ended)

    thread = threading.Thread(target=anyio.run, args=(main,), kwargs={"backend": backend})
    thread.start()
    deadline = time.monotonic() + 5
    while not len(closing) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert installed() == [server, server]
    closing.begin()
    thread.join(5)
    assert not thread.is_alive()
    assert ended == [closing]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_begin_after_the_loop_has_ended(backend: str) -> None:
    """A stream that was left open on an event loop that is gone is told nothing, and nothing raises."""
    closing, left = Closing(), list[Any]()

    async def main() -> None:
        left.append(closing.stream(lambda: None))
        left[0].__enter__()

    anyio.run(main, backend=backend)
    closing.begin()
    assert closing.begun == "asked"
    left[0].__exit__(None, None, None)


@pytest.mark.anyio
async def test_reopening(server: ServerHandlers) -> None:
    """An application that is started again serves again."""
    closing, stopped = Closing(), list[bool]()
    closing.begin("lifespan")
    closing.reopen()
    assert closing.begun == ""
    with closing.stream(lambda: stopped.append(True)):
        assert not stopped
        closing.begin()
        await until(lambda: stopped)


@pytest.mark.anyio
async def test_a_signal_that_did_not_end_the_process_is_forgotten(
    server: ServerHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that catches the signal and goes on keeps its streams: those that open a minute later live."""
    clock = [1000.0]
    monkeypatch.setattr(_closing, "monotonic", lambda: clock[0])
    closing, stopped = Closing(), list[str]()
    with closing.stream(lambda: stopped.append("open")):
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: stopped)
    clock[0] += _closing.FORGOTTEN - 1
    with closing.stream(lambda: stopped.append("soon")):
        pass
    assert stopped == ["open", "soon"]
    clock[0] += 2
    with closing.stream(lambda: stopped.append("later")):
        assert (closing.begun, stopped) == ("", ["open", "soon"])
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: len(stopped) == 3)
    closing.reopen()
    closing.begin()
    clock[0] += 2 * _closing.FORGOTTEN
    assert closing.begun == "asked"  # this one was the application's own decision


@pytest.mark.anyio
async def test_an_application_without_streams_learns_of_a_signal_later(
    server: ServerHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another application of the process was told ends the first stream of this one, until it is forgotten."""
    clock = [1000.0]
    monkeypatch.setattr(_closing, "monotonic", lambda: clock[0])
    told, late, served, unhooked = Closing(), Closing(), Closing(), Closing(signals=False)
    with told.stream(lambda: None):
        os.kill(os.getpid(), signal.SIGTERM)
    assert (told.begun, late.begun) == ("SIGTERM", "")
    stopped: list[str] = []
    with late.stream(lambda: stopped.append("late")), unhooked.stream(lambda: stopped.append("unhooked")):
        assert (late.begun, unhooked.begun, stopped) == ("SIGTERM", "", ["late"])
    clock[0] += _closing.FORGOTTEN + 1
    with served.stream(lambda: None), late.stream(lambda: None):
        assert served.begun == late.begun == ""


@pytest.mark.anyio
async def test_an_application_that_starts_again_forgets_the_signal(server: ServerHandlers) -> None:
    """The process was not ended by it, so what opens in any other application lives, too."""
    first, second = Closing(), Closing()
    with first.stream(lambda: None):
        os.kill(os.getpid(), signal.SIGTERM)
    first.reopen()
    with second.stream(lambda: None):
        assert second.begun == ""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_signal_counts_for_the_event_loop_that_ran(backend: str, server: ServerHandlers) -> None:
    """The server that is started in the same process afterwards serves."""
    begun: list[str] = []

    async def main(*, ends: bool) -> None:
        with Closing().stream(lambda: None):
            if ends:
                os.kill(os.getpid(), signal.SIGTERM)
        late = Closing()
        with late.stream(lambda: None):
            begun.append(late.begun)

    anyio.run(partial(main, ends=True), backend=backend)
    anyio.run(partial(main, ends=False), backend=backend)
    assert begun == ["SIGTERM", ""]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("streams", "expected"), [(0, (1.0, 5.0)), (1000, (1.0, 5.0)), (10_000, (1.0, 21.0)), (40_000, (1.0, 61.0))]
)
async def test_clients_return_spread_over_time(streams: int, expected: tuple[float, float]) -> None:
    """The more clients are sent away at once, the wider is the time over which they come back, up to a minute."""
    closing, stopped = Closing(), list[None]()
    with ExitStack() as stack:
        for _ in range(streams):
            stack.enter_context(closing.stream(lambda: stopped.append(None)))
        assert closing.returning((1.0, 5.0)) == expected  # a server cancels them, and begins nothing
        closing.begin()
        await until(lambda: len(stopped) == streams)
    assert closing.returning((1.0, 5.0)) == expected
    assert closing.returning((0.0, 900.0)) == (0.0, 900.0)


class Wire:
    """A `send` that notes the messages, and may take its time over each."""

    def __init__(self, pause: Callable[[], Any] | None = None) -> None:
        self.sent: list[str] = []
        self.pause = pause

    async def __call__(self, message: Any) -> None:
        self.sent.append(message["type"])
        if self.pause is not None:
            await self.pause()


MESSAGES = ({"type": "one"}, {"type": "two"})


@pytest.mark.anyio
async def test_the_farewell_is_sent_in_a_cancelled_scope() -> None:
    """Every message goes out although the stream was cancelled, and the server has a moment to write them."""
    closing, wire = Closing(), Wire(lambda: anyio.sleep(0.001))
    with anyio.CancelScope() as scope:
        scope.cancel()
        began = anyio.current_time()
        await closing.farewell(wire, *MESSAGES)
    assert wire.sent == ["one", "two"]
    assert LINGER <= anyio.current_time() - began < FAREWELL


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("drain", "cancelled", "others", "bound"),
    [(0.0, False, 0, 0.5), (0.8, False, 0, 0.8), (20.0, True, 0, 0.5), (20.0, True, 900, 1.4), (0.7, True, 900, 0.7)],
)
async def test_a_farewell_to_a_reader_that_stopped(drain: float, cancelled: bool, others: int, bound: float) -> None:
    """It takes what is left of the drain window, half a second at least; once the server cancels, no more than that,
    unless others leave with it, which take their time."""
    closing, wire = Closing(drain=drain), Wire(anyio.sleep_forever)
    with ExitStack() as stack:
        for _ in range(1 + others):
            stack.enter_context(closing.stream(lambda: None))
        began = anyio.current_time()
        if not cancelled:
            closing.begin()
        with anyio.CancelScope() as scope:
            if cancelled:
                scope.cancel()
            await closing.farewell(wire, *MESSAGES, cancelled=cancelled)
        took = anyio.current_time() - began
    assert wire.sent == ["one"]
    assert bound - 0.01 <= took < bound + 10


@pytest.mark.anyio
async def test_late_farewells_have_half_a_second() -> None:
    """What signs off after the drain window gets no more than the shortest time."""
    closing, wire = Closing(drain=0.0), Wire(anyio.sleep_forever)
    closing.begin()
    await anyio.sleep(0.01)
    began = anyio.current_time()
    await closing.farewell(wire, *MESSAGES)
    assert FAREWELL - 0.01 <= anyio.current_time() - began < FAREWELL + 10


@pytest.mark.anyio
async def test_a_farewell_that_fails_raises() -> None:
    """The error of `send` is the caller's to judge."""

    async def send(message: Any) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await Closing().farewell(send, *MESSAGES)


@pytest.mark.parametrize("after", ["one", "two", "linger"])
def test_a_task_that_is_cancelled_during_its_farewell(after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's cancellation does not know shields: the rest is sent, then the task ends as cancelled."""
    linger = 0.3  # so that the task is still in it when it is cancelled
    monkeypatch.setattr(_closing, "LINGER", linger)
    monkeypatch.setattr(_closing, "FAREWELL", 20.0)  # or a slow machine would spend it before the task is cancelled

    async def main() -> tuple[list[str], float]:
        closing, wire = Closing(), Wire(lambda: asyncio.sleep(0.01))
        task = asyncio.create_task(closing.farewell(wire, *MESSAGES))
        await until(lambda: (wire.sent or [""])[-1] == ("one" if after == "one" else "two"))
        if after == "linger":
            await asyncio.sleep(0.05)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return wire.sent, time.monotonic() - began

    sent, took = asyncio.run(main())
    assert sent == ["one", "two"]
    assert linger - 0.005 <= took < FAREWELL + 10


def test_a_second_interrupt_ends_a_python_program() -> None:
    """With Python's own handler of SIGINT below, the streams end, and KeyboardInterrupt is raised as usual."""
    program = (
        "import anyio, os, signal\n"
        "from notify.web._closing import Closing\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "closing = Closing()\n"
        "async def main():\n"
        "    with anyio.CancelScope() as scope, closing.stream(scope.cancel):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        await anyio.sleep(10)\n"
        "try:\n"
        "    anyio.run(main)\n"
        "except KeyboardInterrupt:\n"
        "    print(closing.begun)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.split() == ["SIGINT"]
