"""Keeps a part on the event loop, and in the process, where it was first used."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio import _get_running_loop
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any, Final, NoReturn

import anyio

from ..errors import ClosedError, UsageError
from ._waking import EventWaiter, LoopWaiter, Waiter, WakeBatch

_UNBOUND: Final = object()
_CLOSED: Final = object()

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


def _nothing() -> None:
    """Do nothing."""


def _trio_run() -> object:
    """Return what identifies the running trio loop; None if trio is not running."""
    trio = sys.modules.get("trio")
    try:
        return trio.lowlevel.current_trio_token() if trio is not None else None
    except RuntimeError:
        return None


class LoopGuard:
    """Refuses calls from another event loop, from a forked process and after closing.

    The guard binds to the event loop of the first `check`. A check costs about 0.2 microseconds, so every public
    method of a part can begin with one.

    Args:
        owner: the part's name, for messages.
        asyncio_only: whether the part's driver needs asyncio.

    Attributes:
        new_waiter: makes a waiter (see `_waking`) for the event loop.
    """

    __slots__ = ("_allowed", "_asyncio_only", "_forks", "_is_running", "_loop", "_trio_run", "new_waiter", "owner")

    def __init__(self, owner: str, *, asyncio_only: bool = False) -> None:
        self.owner = owner
        self.new_waiter: Callable[[], Waiter] = partial(EventWaiter, self.check)
        self._asyncio_only = asyncio_only
        self._loop: object = _UNBOUND
        # The thread of the asyncio loop while open. If the loop runs, and this is its thread, it is the one that runs
        # here: asking asyncio for the running loop takes a system call, `getpid`.
        self._allowed: object = _UNBOUND
        self._is_running: Callable[[], bool]  # set before `_allowed` is a thread
        self._forks = _forks
        self._trio_run: object = None

    def check(self) -> None:
        """Bind to the running event loop at the first call, and insist on it from then on.

        Raises:
            ClosedError: `close` was called.
            UsageError: called from another event loop, in a process forked since the first call, or not from asyncio
                where the driver needs it.
        """
        if get_ident() != self._allowed or _forks != self._forks or not self._is_running():
            self._look()

    def _look(self) -> None:
        if self._allowed is _CLOSED:
            raise ClosedError(f"the {self.owner} is closed")
        if self.forked:
            raise UsageError(f"this {self.owner} was first used before a fork: make a new one in each process")
        loop = _get_running_loop()
        if loop is None and self._asyncio_only:
            raise UsageError(f"{self.owner} runs on asyncio only, as its driver does")
        if self._loop is _UNBOUND:
            self._bind(loop)
        elif loop is not self._loop or (loop is None and _trio_run() is not self._trio_run):
            self._refuse_loop()
        elif loop is not None:
            self._allowed = get_ident()  # the loop runs in another thread than before

    def _bind(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop
        self._forks = _forks
        if loop is None:
            self._trio_run = _trio_run()
        else:
            self._allowed = get_ident()
            self._is_running = loop.is_running
            self.new_waiter = partial(LoopWaiter, WakeBatch(loop))

    def check_if_running(self) -> None:
        """As `check`, but passes if no event loop runs: for methods that need none.

        Raises:
            ClosedError, UsageError: as `check`.
        """
        if get_ident() == self._allowed and _forks == self._forks and self._is_running():
            return  # as `check`, but sooner: asking whether any event loop runs takes a system call
        if _get_running_loop() is not None or _trio_run() is not None:
            self.check()

    def check_closing(self) -> bool:
        """Return whether the part can be closed as usual; False if its event loop, or its process, is gone.

        What runs nowhere any more cannot be awaited: then only what needs no event loop is to be released.

        Raises:
            UsageError: the part belongs to another event loop, which may still run.
        """
        if self._loop is _UNBOUND:
            return True
        if self.forked:
            return False
        loop = _get_running_loop()
        if loop is self._loop and (loop is not None or _trio_run() is self._trio_run):
            return True
        if not self._has_ended():
            self._refuse_loop()
        return False

    def _has_ended(self) -> bool:
        if isinstance(self._loop, asyncio.AbstractEventLoop):
            return self._loop.is_closed()
        run: Any = self._trio_run
        if run is None:  # there was no event loop at all
            return True
        try:
            run.run_sync_soon(_nothing)
        except RuntimeError:  # trio's RunFinishedError is one
            return True
        return False

    def _refuse_loop(self) -> NoReturn:
        raise UsageError(
            f"this {self.owner} belongs to another event loop: make one for each event loop, or from another "
            "thread hand the call to its loop, for example with asyncio.run_coroutine_threadsafe; code without an "
            "event loop of its own, or with a new one for each call, uses notify.sync.SyncNotifier"
        )

    @property
    def forked(self) -> bool:
        """Whether this process was forked after the first `check`: tasks and threads of the part are not here."""
        return self._loop is not _UNBOUND and _forks != self._forks

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._allowed is _CLOSED

    def close(self) -> None:
        """Make every later `check` raise ClosedError. Idempotent."""
        self._allowed = _CLOSED

    def time(self) -> float | None:
        """Return the loop's time in seconds, in its callbacks too, where anyio has no task; None once it has ended."""
        if isinstance(self._loop, asyncio.AbstractEventLoop):
            return self._loop.time() if self._loop.is_running() else None
        try:
            return anyio.current_time()
        except RuntimeError:
            return None

    def call(self, function: Callable[[], None]) -> None:
        """Call the function: now, or soon in the loop's own thread if this is another one."""
        loop = self._loop
        if isinstance(loop, asyncio.AbstractEventLoop) and loop is not _get_running_loop() and loop.is_running():
            loop.call_soon_threadsafe(function)
        else:
            function()
