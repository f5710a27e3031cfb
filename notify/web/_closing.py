"""How open connections learn that the process ends, on every server and without patching it.

A server that is asked to stop first waits for the open responses, without notifying them: `lifespan.shutdown` follows
after the last one. A stream never completes by itself, so three layers notify it:

1. Signals. While streams are open, and only then, a handler of SIGTERM and SIGINT stands on top of the server's own.
   It tells the streams, then calls the server's. `loop.add_signal_handler` keeps working below it, because the
   interpreter writes the byte that wakes the loop before any Python handler runs. Default and ignored signals are left
   alone: a process that has no handler did not ask to end gracefully. The signal is also kept for the applications of
   the process that had no stream open: a request that the server had accepted may still open one.
2. `begin`, for everything else: the lifespan, a server in a thread, `NotifyApp.begin_shutdown()`.
3. `farewell`. A server that has no handler, or no patience, cancels the connection's task. The sign-off is then sent
   in a shielded scope of half a second, plus a millisecond for each connection that ends at the same time.

An open stream costs one entry in a set: no task waits for the end.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from types import FrameType
from typing import Any, NamedTuple, Self, TypeAlias

import anyio

from ._watch import running_loop

SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGQUIT", "SIGBREAK") if name in signal.Signals.__members__
)

FAREWELL = 0.5
"""Seconds that a sign-off may always take; once the server has cancelled the connection, little more."""

FAREWELL_RATE = 1000.0
"""Sign-offs that any process can write in a second: the more connections end at once, the longer one may take."""

LINGER = 0.05
"""Seconds before the application returns after a sign-off: daphne stops its reactor at that moment, unsent or not."""

FORGOTTEN = 60.0
"""Seconds after which a signal that has not ended the process is forgotten: its handler let the process continue."""

RETURN_RATE = 500.0
"""Clients that reconnect per second after all were disconnected at once; with more of them the window gets wider."""

LONGEST_RETURN = 60.0
"""The widest window, in seconds, over which reconnecting clients are spread."""

Stop: TypeAlias = Callable[[], object]
Send: TypeAlias = Callable[[Any], Awaitable[object]]


class Closing:
    """Knows that the end has begun, and tells the open streams of one application.

    I1: a stream in `_open` has been stopped, or will be by a call that is scheduled, if the end has begun.
    I2: handlers are installed only while some application has a stream open.

    Args:
        drain: seconds that streams have to sign off once the end has begun.
        signals: False leaves signal handlers alone; then the owner calls `begin`.

    Attributes:
        loop: the asyncio loop of the open streams; None without streams, and on trio.
    """

    def __init__(self, *, drain: float = 2.0, signals: bool = True) -> None:
        self.begun = ""
        self._drain, self._signals = drain, signals
        self._open: set[OpenStream] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._call_soon: Callable[[Callable[[], None]], object] | None = None
        self._drained_at = 0.0
        self._forgotten_at = float("inf")
        self._leaving = 0

    def __len__(self) -> int:
        return len(self._open)

    def stream(self, stop: Stop) -> OpenStream:
        """Return a context manager to enter around a connection, before it awaits anything else.

        Args:
            stop: called once, on the event loop, when the end begins; at once if it has begun. It must end a `send`
                that is blocked, too: the `cancel` of a scope is right. It must not raise.
        """
        return CallbackStream(self, stop)

    def begin(self, why: str = "asked") -> None:
        """Begin the shutdown. May be called from any thread, from a signal handler, and more than once.

        Args:
            why: a word for logs and tests, kept in `begun`.
        """
        if self.begun:
            return
        self._leaving = len(self._open)
        self._drained_at = monotonic() + self._drain
        self._forgotten_at = float("inf")
        self.begun = why
        if self._call_soon is not None:
            try:
                self._call_soon(self._stop_all)
            except RuntimeError:  # the loop has ended, and its streams with it
                pass

    def reopen(self) -> None:
        """Serve again: the application is started once more, or the process outlived a signal."""
        self.begun = ""
        _HANDLERS.forget()

    def returning(self, retry: tuple[float, float]) -> tuple[float, float]:
        """Return the range of seconds from which each client's own delay is drawn: wider if many leave at once."""
        low, high = retry
        return low, max(high, low + min(self._count_leaving() / RETURN_RATE, LONGEST_RETURN))

    async def farewell(self, send: Send, *messages: Mapping[str, Any], cancelled: bool = False) -> None:
        """Send the last messages of a connection that the shutdown ends, shielded and for a bounded time.

        Args:
            send: the connection's own.
            messages: sent in order, each at most once.
            cancelled: whether the server has cancelled the connection: then little more than `FAREWELL` is left, and
                the caller raises the cancellation again.

        Raises:
            Exception: what `send` raises.

        Order: as given; after the time limit the rest is dropped.
        Cancellation: by a scope, no effect. asyncio's own, which knows no shields: the rest is sent within `FAREWELL`,
            or a little more, then it is raised.
        Concurrency: no other task may send.
        Cost: one send for each message, and `LINGER`.
        """
        left = self._grace() if cancelled else max(self._drained_at - monotonic(), FAREWELL)
        interruption: BaseException | None = None
        with anyio.move_on_after(left, shield=True) as scope:
            for message in (*messages, None):
                try:
                    await (anyio.sleep(LINGER) if message is None else send(message))
                except anyio.get_cancelled_exc_class() as error:
                    if scope.cancel_called:
                        raise  # out of time
                    interruption = error
                    scope.deadline = min(scope.deadline, anyio.current_time() + self._grace())
            if interruption is not None:
                await anyio.sleep(LINGER)  # the interruption may have cut the first one short
        if interruption is not None:
            raise interruption

    def _count_leaving(self) -> int:
        """Return how many connections are ending: all open ones, if the server cancels them before an end has begun."""
        return self._leaving if self.begun else len(self._open)

    def _grace(self) -> float:
        """Return the seconds that a sign-off may take once the server has cancelled the connection."""
        return min(FAREWELL + self._count_leaving() / FAREWELL_RATE, max(FAREWELL, self._drain))

    def _stop_all(self) -> None:
        for stream in tuple(self._open):
            stream.stop()

    def opened(self, stream: OpenStream) -> None:
        """Count a stream that has begun. To be called before the connection awaits anything."""
        if self.begun and monotonic() > self._forgotten_at:
            self.reopen()
        self._open.add(stream)
        if len(self._open) == 1:
            self.loop = running_loop()
            self._call_soon = _call_soon(self.loop)
            if self._signals:
                self._signalled(_HANDLERS.add(self))
        if self.begun:  # read after `_call_soon` was set, as `begin` in another thread sets and reads them: keeps I1
            stream.stop()

    def closed(self, stream: OpenStream) -> None:
        """Stop counting a stream. Idempotent."""
        self._open.discard(stream)
        if not self._open:
            self._call_soon = self.loop = None
            _HANDLERS.discard(self)  # keeps I2

    def _signalled(self, received: Received | None) -> None:
        if received is not None and not self.begun and received.call_soon == self._call_soon:
            self.begin(signal.Signals(received.number).name)
            self._forgotten_at = received.forgotten_at


class OpenStream(ABC):
    """One open connection, while entered. A subclass says how it is ended."""

    __slots__ = ("_closing", "_stopped")

    def __init__(self, closing: Closing) -> None:
        self._closing, self._stopped = closing, False

    def __enter__(self) -> Self:
        self._closing.opened(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.closed(self)

    def stop(self) -> None:
        """Notify the connection; only the first call has an effect."""
        if not self._stopped:
            self._stopped = True
            self.end()

    @abstractmethod
    def end(self) -> None:
        """End the connection; see `Closing.stream`."""


class CallbackStream(OpenStream):
    """One that a function ends."""

    __slots__ = ("_stop",)

    def __init__(self, closing: Closing, stop: Stop) -> None:
        super().__init__(closing)
        self._stop = stop

    def end(self) -> None:
        """Call the function."""
        self._stop()


class Received(NamedTuple):
    """A signal that this process was sent.

    Attributes:
        number: which one.
        forgotten_at: the time, by the monotonic clock, after which the process has outlived it.
        call_soon: that of the event loop which ran: another one belongs to a server that was started afterwards.
    """

    number: int
    forgotten_at: float
    call_soon: Callable[[Callable[[], None]], object] | None


class SignalLink:
    """A handler on top of another: it tells the applications with open streams, then calls the one below."""

    __slots__ = ("_tell", "below")

    def __init__(self, tell: Callable[[int], None], below: Callable[[int, FrameType | None], Any]) -> None:
        self._tell, self.below = tell, below

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._tell(number)
        self.below(number, frame)


class SignalHandlers:
    """The handlers of this process: one link for each signal, whatever the number of applications.

    One for each application would make a chain that grows as their streams come and go in turns, because only the
    topmost link can be removed. A link that another library has covered stays, and passes signals on.
    """

    def __init__(self) -> None:
        self._applications: dict[Closing, None] = {}
        self._received: Received | None = None

    def add(self, application: Closing) -> Received | None:
        """Install the handlers; outside the main thread, where Python does not allow it, do nothing.

        Returns:
            The signal by which the process is ending, if one was received.
        """
        if threading.current_thread() is not threading.main_thread():
            return None
        self._applications[application] = None
        for number in SIGNALS:
            current = signal.getsignal(number)
            if callable(current) and not isinstance(current, SignalLink):
                signal.signal(number, SignalLink(self._tell, current))
        if self._received is not None and monotonic() > self._received.forgotten_at:
            self._received = None
        return self._received

    def forget(self) -> None:
        """Forget the signal that was received: the process serves again."""
        self._received = None

    def _tell(self, number: int) -> None:
        for application in tuple(self._applications):
            self._received = Received(number, monotonic() + FORGOTTEN, application._call_soon)
            application._signalled(self._received)

    def discard(self, application: Closing) -> None:
        """Restore the handlers if this was the last application with open streams."""
        if application not in self._applications:
            return
        del self._applications[application]
        if not self._applications and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                current = signal.getsignal(number)
                if isinstance(current, SignalLink):
                    signal.signal(number, current.below)


_HANDLERS = SignalHandlers()


def _call_soon(loop: asyncio.AbstractEventLoop | None) -> Callable[[Callable[[], None]], object]:
    """Return what makes the running event loop call something soon, from a signal handler or another thread."""
    if loop is not None:
        return loop.call_soon_threadsafe
    soon: Callable[[Callable[[], None]], object] = sys.modules["trio"].lowlevel.current_trio_token().run_sync_soon
    return soon
