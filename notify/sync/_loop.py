"""One event loop in a thread, with one notifier: what all threads of a process share.

The loop runs in a daemon thread and is closed by `atexit`, which runs after the non-daemon threads have ended: their
pushes still work while the main thread is waiting for them. A forked child inherits the objects of the loop but not its
thread. It keeps them untouched, because their finalizers would act on connections that belong to the parent.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from inspect import isawaitable
from threading import Condition, Thread
from typing import Any, Final, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from .._notifier import Notifier
from ..errors import ClosedError, UsageError

logger = logging.getLogger("notify")

CLOSING: Final = 15.0
"""Seconds that closing may take: more than `Notifier.aclose` with its default timeout."""

Factory = Callable[[], Any]

T = TypeVar("T")

_loops: set[NotifierLoop] = set()
"""The loops of this process that are not closed yet."""

_inherited: list[object] = []
"""The loops of the processes from which this one was forked."""

_PATCHES: Final = (
    ("gevent.monkey", "is_module_patched", ("threading", "socket", "select", "queue")),
    ("eventlet.patcher", "is_monkey_patched", ("thread", "socket", "select")),
)
"""The modules that an event loop and drivers in its thread need unpatched, and each library's test for patching."""


class NotifierLoop:
    """A notifier on an event loop of its own, in a daemon thread.

    Args:
        factory: called on the loop; see `SyncNotifier`.

    Raises:
        UsageError: gevent or eventlet has patched the standard library; or the interpreter is shutting down.
    """

    notifier: Notifier

    def __init__(self, factory: Factory) -> None:
        refuse_patched_threads()
        self._factory = factory
        self._pid = os.getpid()
        self._started: Future[BlockingPortal] = Future()
        self._ended: Future[None] = Future()
        self._submitting = 0
        self._closing = False
        self._submitted = Condition()
        self._thread = Thread(target=anyio.run, args=(self._main,), name="notify-sync", daemon=True)
        _loops.add(self)
        try:
            self._thread.start()
        except RuntimeError as error:  # Python 3.12 and later start no thread once the main thread has ended
            _loops.discard(self)
            raise UsageError(
                "the first use of a SyncNotifier came while the interpreter was shutting down, which starts no threads "
                "any more: push or read once before the main thread ends"
            ) from error

    @property
    def is_forked(self) -> bool:
        """Whether this process was forked after the loop was made: its thread is not here."""
        return self._pid != os.getpid()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs, in this process."""
        return not self.is_forked and self._thread.is_alive()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function on the loop, await it if it is a coroutine function, and return its result.

        Raises:
            ClosedError: the loop is closing.
            Exception: whatever the factory or the function raised.
        """
        portal = self._started.result()
        with self._submitted:  # keeps the loop running until the call is submitted: later it would wait without end
            if self._closing:
                raise ClosedError("the notifier is closed")
            self._submitting += 1
        try:
            future: Future[Any] = portal.start_task_soon(function, *arguments)
        finally:
            with self._submitted:
                self._submitting -= 1
                self._submitted.notify_all()
        try:
            return future.result()
        except CancelledError:
            raise ClosedError("the notifier was closed during the call") from None

    def begin_close(self, timeout: float) -> None:
        """Begin to close: later calls are refused. Idempotent.

        Raises:
            TimeoutError: the factory has not returned within the timeout.
        """
        if self._started.exception(timeout) is not None:
            self._ended.cancel()
            return
        portal = self._started.result()
        with self._submitted:
            is_first, self._closing = not self._closing, True
            self._submitted.wait_for(lambda: not self._submitting, timeout)
        if is_first:
            portal.start_task_soon(portal.stop)

    def close(self, timeout: float) -> None:
        """Close the notifier and end the thread. Idempotent.

        Raises:
            TimeoutError: it is still running; the process can end nevertheless.
            Exception: whatever closing raised.
        """
        deadline = time.monotonic() + timeout
        try:
            self.begin_close(timeout)
            self._ended.result(max(0.0, deadline - time.monotonic()))
            self._thread.join(max(0.0, deadline - time.monotonic()))
        except CancelledError:
            return  # the factory failed, so there is nothing to close
        except TimeoutError as error:
            if self._ended.done():
                raise  # the factory's context manager raised it
            raise TimeoutError(f"the notifier did not close within {timeout:g} s") from error
        finally:
            _loops.discard(self)

    async def _main(self) -> None:
        """Make the notifier, keep it until the portal is stopped, and close it with its parts."""
        async with BlockingPortal() as portal:
            try:
                made = self._factory()
                async with _context(await made if isawaitable(made) else made) as notifier:
                    self.notifier = _checked(notifier)
                    self._started.set_result(portal)
                    await portal.sleep_until_stopped()
                await _close_parts(notifier)
            except BaseException as error:  # the portal's task group would wrap it in an exception group
                if self._started.done():
                    self._ended.set_exception(error)
                else:
                    _loops.discard(self)
                    self._started.set_exception(error)
            else:
                self._ended.set_result(None)
            await portal.stop(cancel_remaining=True)


def _context(made: Any) -> Any:
    if not hasattr(made, "__aenter__"):
        raise UsageError(
            f"the factory must return a Notifier, or an async context manager that yields one, not {made!r:.80}"
        )
    return made


def _checked(notifier: Any) -> Notifier:
    if not isinstance(notifier, Notifier):
        raise UsageError(f"the factory's async context manager must yield a Notifier, not {notifier!r:.80}")
    return notifier


async def _close_parts(notifier: Notifier) -> None:
    """Close the parts that the notifier does not close: they could not be used on another loop anyway."""
    for part in (notifier._presence, notifier._store):
        if part is not None:
            await part.aclose()


def refuse_event_loop(name: str) -> None:
    """Raise UsageError on an event loop: waiting there would block it, on the notifier's own loop without end."""
    trio = sys.modules.get("trio")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if trio is None or not trio.lowlevel.in_trio_run():
            return
    raise UsageError(
        f"SyncNotifier.{name}() would block the event loop that runs here: "
        f"in async code make a Notifier and use `await notifier.{name}(...)`"
    )


def refuse_patched_threads() -> None:
    """Raise UsageError where threads or sockets are replaced by greenlets' own: an event loop would block all of them.

    This applies even if threads are not patched: a driver's thread would then wait in a queue of another thread's hub.
    """
    for module, function, names in _PATCHES:
        if module in sys.modules and any(getattr(sys.modules[module], function)(name) for name in names):
            library = module.partition(".")[0]
            raise UsageError(
                f"SyncNotifier runs an event loop in a thread, which cannot work where {library} has patched the "
                "standard library: use workers of another kind, such as threads or processes"
            )


def _close_at_exit() -> None:
    """Close every loop, all at the same time, so that the process ends within `CLOSING` seconds."""
    deadline = time.monotonic() + CLOSING
    for closing in (NotifierLoop.begin_close, NotifierLoop.close):
        for loop in list(_loops):
            try:
                closing(loop, max(0.0, deadline - time.monotonic()))
            except Exception as error:
                _loops.discard(loop)
                logger.warning("a notifier could not be closed at exit: %r", error)


def _after_fork() -> None:
    _inherited.extend(_loops)
    _loops.clear()


atexit.register(_close_at_exit)
os.register_at_fork(after_in_child=_after_fork)
