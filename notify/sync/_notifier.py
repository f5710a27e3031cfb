"""`SyncNotifier`: a notifier that waits instead of being awaited."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from threading import Lock
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload
from weakref import WeakSet

from .._notifier import Notifier
from .._pushing import Pushed
from .._runtime._results import Health, PushReport
from .._runtime._stats import Statistics
from ..abc import Position
from ..errors import ClosedError, UsageError
from ..event import Event
from ._loop import CLOSING, NotifierLoop, refuse_event_loop
from ._stream import SyncStream

T = TypeVar("T")

_notifiers: WeakSet[SyncNotifier[Any]] = WeakSet()


class SyncNotifier(Generic[Pushed]):
    """A notifier for code without an event loop. Any number of threads may share it.

    The first call in a process starts one thread with an event loop and makes the notifier there. After a fork, the
    first call in the child makes a new one. At the end of the process, after its threads, the notifier is closed.

    ```python
    notifier = SyncNotifier.from_url("sqlite:///notify.db")
    notifier.push("alice", "comment.created", {"post": 7})
    ```

    Args:
        factory: creates the notifier, on its event loop. It returns a `Notifier`, or an async context manager that
            yields one; it may be a coroutine function. The notifier's store and presence tracker are closed with it.

    Raises:
        UsageError: `factory` cannot be called. At the first use: it does not return a notifier, or gevent or eventlet
            has patched the standard library.

    Order: the calls of one thread take effect in the order in which they are made.
    Ctrl-C: abandons the wait; the work continues.
    """

    def __init__(
        self,
        factory: Callable[[], Notifier[Pushed] | AbstractAsyncContextManager[Notifier[Pushed]] | Awaitable[Any]],
    ) -> None:
        if not callable(factory):
            raise UsageError(
                f"SyncNotifier expects a function that returns a Notifier, got {factory!r:.80}: "
                "for example SyncNotifier(lambda: Notifier(store))"
            )
        self._factory = factory
        self._lock = Lock()
        self._running: NotifierLoop | None = None
        self._closed = False
        _notifiers.add(self)

    @overload
    @classmethod
    def from_url(cls, url: str, *, offline: Literal["drop"], **options: Any) -> SyncNotifier[Event | None]: ...

    @overload
    @classmethod
    def from_url(cls, url: str, **options: Any) -> SyncNotifier[Event]: ...

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Any:
        """Return a notifier with the store at a URL.

        Args:
            url: as for `open_store`.
            options: as for `Notifier.from_url`.
        """
        return cls(lambda: Notifier[Any].from_url(url, **options))

    # -- pushing -------------------------------------------------------------------------------------------------

    def push(
        self,
        user: str,
        type: str,
        payload: Any = None,
        *,
        key: str | None = None,
        group: str | None = None,
        meta: Mapping[str, str] | None = None,
        ephemeral: bool = False,
        data: bytes | None = None,
    ) -> Pushed:
        """Notify one user; see `Notifier.push`, also for the arguments and errors."""
        options = {"key": key, "group": group, "meta": meta, "ephemeral": ephemeral, "data": data}
        result: Pushed = self._call("push", user, type, payload, **options)
        return result

    def push_many(
        self,
        users: Iterable[str],
        type: str,
        payload: Any = None,
        *,
        key: str | None = None,
        group: str | None = None,
        meta: Mapping[str, str] | None = None,
        ephemeral: bool = False,
        data: bytes | None = None,
    ) -> PushReport:
        """Notify many users of the same thing; see `Notifier.push_many`."""
        given = users if isinstance(users, str | bytes) else list(users)  # a generator runs in the caller's thread
        options = {"key": key, "group": group, "meta": meta, "ephemeral": ephemeral, "data": data}
        result: PushReport = self._call("push_many", given, type, payload, **options)
        return result

    def broadcast(
        self,
        type: str,
        payload: Any = None,
        *,
        group: str | None = None,
        meta: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> Event:
        """Show an ephemeral event to every open stream; see `Notifier.broadcast`."""
        result: Event = self._call("broadcast", type, payload, group=group, meta=meta, data=data)
        return result

    def forget(self, user: str) -> int:
        """Erase everything that is stored about a user; see `Notifier.forget`."""
        result: int = self._call("forget", user)
        return result

    def disconnect(self, user: str, reason: str = "") -> None:
        """End every stream of this user, on every instance; see `Notifier.disconnect`."""
        self._call("disconnect", user, reason)

    # -- subscribing ---------------------------------------------------------------------------------------------

    def subscribe(
        self,
        user: str,
        last_id: Position = None,
        *,
        signals: bool = False,
        track: bool = True,
        max_lag: int | None = None,
        expires_at: datetime | None = None,
    ) -> SyncStream:
        """Return a stream of one user's events, which threads can read; see `Notifier.subscribe`."""
        refuse_event_loop("subscribe")
        loop = self._loop()
        options: dict[str, Any] = {"signals": signals, "track": track, "max_lag": max_lag, "expires_at": expires_at}
        return SyncStream(loop, loop.call(lambda: loop.notifier.subscribe(user, last_id, **options)))

    # -- state ---------------------------------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """Return a snapshot of what this process has counted; see `Notifier.statistics`."""
        result: Statistics = self._call("statistics")
        return result

    def check(self, timeout: float | None = None) -> Health:
        """Try every part once and return a verdict; see `Notifier.check`."""
        result: Health = self._call("check", timeout)
        return result

    def call(self, function: Callable[[Notifier[Any]], Awaitable[T]]) -> T:
        """Await `function(notifier)` on the notifier's event loop, for anything that has no method here.

        Raises:
            Exception: whatever the function raised.
        """
        refuse_event_loop("call")
        loop = self._loop()
        result: T = loop.call(lambda: function(loop.notifier))
        return result

    # -- lifecycle -----------------------------------------------------------------------------------------------

    def close(self, timeout: float = CLOSING) -> None:
        """End every stream, let pushes finish, close the notifier and end its thread; later calls raise ClosedError.

        Happens by itself at the end of the process. Idempotent.

        Args:
            timeout: seconds to wait at most.

        Raises:
            TimeoutError: closing has not ended within the timeout; it continues.
        """
        refuse_event_loop("close")
        with self._lock:
            self._closed = True
            running = self._running
        if running is not None and running.is_alive:
            running.close(timeout)

    def __enter__(self) -> Self:
        """Return the notifier; its first call starts it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        refuse_event_loop(name)
        loop = self._loop()
        return loop.call(lambda: getattr(loop.notifier, name)(*arguments, **options))

    def _loop(self) -> NotifierLoop:
        """Return the loop of this process; make one if there is none, or if its factory failed."""
        running = self._running
        if running is None or self._closed or not running.is_alive:
            with self._lock:
                if self._closed:
                    raise ClosedError("the notifier is closed")
                running = self._running
                if running is None or not running.is_alive:
                    self._running = running = NotifierLoop(self._factory)
        return running

    def _reset(self) -> None:
        """Start again in a forked child, where another thread may have held the lock."""
        self._lock = Lock()
        self._running = None


def _after_fork() -> None:
    for notifier in list(_notifiers):
        notifier._reset()


os.register_at_fork(after_in_child=_after_fork)
