"""Waiting for the next commit to a file, in a connection's thread: by inotify, or by polling.

Linux reports changed files (inotify). Writes to the WAL come too early: they are made before the commit is flushed and
visible. So after a commit that concerns other processes, this library's writers set the times of the WAL file, and
that is what is watched: one wake-up for each such commit, at the right moment.

Where inotify reports nothing (another system, no `inotify_simple`, the limit of watches is reached, a file system that
does not support it), the waiter only sleeps for the poll interval. Which one is used is detected, not configured.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from typing import Any, Final, Protocol

try:
    from inotify_simple import INotify, flags  # type: ignore[import-untyped]
except ImportError:  # not installed: it exists for Linux only
    INotify = flags = None


class ChangeWaiter(Protocol):
    """Waits in one thread; `stop` may be called in any."""

    @property
    def told(self) -> bool:
        """Whether the latest `wait` ended because of a change; a waiter that is never told cannot know."""

    def wait(self, seconds: float) -> bool:
        """Wait for a change, or for some seconds at most; return whether to go on."""

    def stop(self) -> None:
        """Make `wait` return False, now and later."""

    def close(self) -> None:
        """Release what it holds."""


class PollingWaiter:
    """Waits for the poll interval.

    Args:
        interval: seconds.
    """

    told: Final = False

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._stopped = threading.Event()

    def wait(self, seconds: float) -> bool:
        """See `ChangeWaiter.wait`."""
        return not self._stopped.wait(min(seconds, self._interval))

    def stop(self) -> None:
        """See `ChangeWaiter.stop`."""
        self._stopped.set()

    def close(self) -> None:
        """Do nothing: it holds nothing."""


class SystemWaiter:
    """Waits until inotify reports that the times of a file were set.

    Args:
        path: the file.

    Raises:
        OSError: the file does not exist, or the system cannot watch it.
    """

    def __init__(self, path: str) -> None:
        self.told = False
        self._path = path
        self._inotify: Any = INotify(nonblocking=True)
        self._stopping, self._stopper = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._lock = threading.Lock()
        self._closed = False
        self._poll = select.poll()
        self._poll.register(self._inotify, select.POLLIN)
        self._poll.register(self._stopping, select.POLLIN)
        try:
            self._watch()
        except OSError:
            self.close()
            raise

    def wait(self, seconds: float) -> bool:
        """See `ChangeWaiter.wait`. Looks for a WAL file that was created again whenever nothing was reported."""
        ready = [handle for handle, _ in self._poll.poll(max(seconds, 0) * 1000)]
        self.told = self._inotify.fileno() in ready
        if self.told:
            with suppress(BlockingIOError):
                os.read(self._inotify.fileno(), 4096)  # only that something happened is of interest
        else:
            with suppress(OSError):  # gone: the next look at the database finds out
                self._watch()
        return self._stopping not in ready

    def stop(self) -> None:
        """See `ChangeWaiter.stop`."""
        with self._lock:
            if not self._closed:
                os.write(self._stopper, b".")

    def close(self) -> None:
        """See `ChangeWaiter.close`."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._inotify.close()
                os.close(self._stopping)
                os.close(self._stopper)

    def _watch(self) -> None:
        self._inotify.add_watch(self._path, flags.ATTRIB | flags.DELETE_SELF | flags.MOVE_SELF)


def make_waiter(path: str, interval: float) -> ChangeWaiter:
    """Return a waiter for the changes of a file: by inotify if possible."""
    if INotify is not None:
        with suppress(OSError, AttributeError):  # AttributeError: the C library has no inotify
            return SystemWaiter(path)
    return PollingWaiter(interval)
