"""Pushes a feed, one event per line: in order for each user, concurrently across users."""

from __future__ import annotations

import os
import random
import stat
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple

import anyio

from .. import Notifier
from ..adapters import backoff
from ..errors import BackendError, UsageError
from ..event import Event
from ._console import MAX_LINE, Line, payload_of, report, say

WINDOW: Final = 500
"""Maximum number of lines read but not yet pushed, hence of concurrent pushes."""

MAX_REPORTED: Final = 50
"""Failed lines reported one by one; further failures are only counted."""

_WIDTH: Final = 30


class ParsedLine(NamedTuple):
    """The content of one line."""

    number: int
    user: str
    type: str
    payload: Any


def parse(line: Line) -> ParsedLine | None:
    """Parse a line of the form `USER TYPE [JSON]`; return None for a blank line or a comment.

    Raises:
        UsageError: the line is malformed.
    """
    if line.text is None:
        raise UsageError(f"longer than {MAX_LINE} bytes")
    text = line.text.removeprefix(b"\xef\xbb\xbf") if line.number == 1 else line.text
    words = text.split(None, 2)
    if not words or words[0].startswith(b"#"):
        return None
    if len(words) == 1:
        raise UsageError("expected USER TYPE [JSON]")
    try:
        user, type_ = words[0].decode(), words[1].decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"not UTF-8: {error}") from None
    return ParsedLine(line.number, user, type_, payload_of(words[2]) if len(words) > 2 else None)


class Progress:
    """Reports the progress of a feed on standard error: a bar on a terminal, otherwise a line every two seconds.

    Args:
        fd: the input; for a regular file the bar shows how much of it has been read.
        counts: returns the number of pushes done and failed.
    """

    def __init__(self, fd: int, counts: Callable[[], tuple[int, int]]) -> None:
        mode = os.fstat(fd)
        self._fd = fd
        self._size = mode.st_size if stat.S_ISREG(mode.st_mode) else 0
        self._counts = counts
        self._shown = (0, 0)
        self._bar = sys.stderr.isatty()

    async def run(self) -> None:
        """Report until cancelled, then clear the bar."""
        try:
            while True:
                await anyio.sleep(0.1 if self._bar else 2.0)
                counts = self._counts()
                if counts != self._shown:
                    self._shown = counts
                    self._draw(*counts)
        finally:
            self.clear()

    def clear(self) -> None:
        """Clear the bar, so that another line can be written."""
        if self._bar:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _draw(self, pushed: int, failed: int) -> None:
        share = os.lseek(self._fd, 0, os.SEEK_CUR) / self._size if self._size else None
        percent = "" if share is None else f", {share:.0%} read"
        text = f"pushed {pushed}, failed {failed}{percent}"
        if not self._bar:
            report(text)
            return
        done = round((share or 0) * _WIDTH)
        bar = "" if share is None else f"[{'#' * done}{'.' * (_WIDTH - done)}] "
        sys.stderr.write(f"\r\x1b[K{bar}{text}")
        sys.stderr.flush()


class Feed:
    """Pushes lines. A failed push is retried with the same key, so the event is stored at most once.

    If no push succeeds for `patience` seconds, the feed gives up and stops reading.

    Args:
        key: prefix of the idempotency keys; the line number is appended.
        patience: seconds for which one line is retried.
        show_ids: whether to print the number and id of each line.
        more: arguments of each push.

    Attributes:
        pushed: number of stored lines.
        failed: number of lines that were not stored, or whose outcome is unknown.
        reason: why the feed gave up; empty if it did not.
        before_line: called before a line is written to standard error.
    """

    def __init__(self, *, key: str, patience: float, show_ids: bool, **more: Any) -> None:
        self.pushed = self.failed = 0
        self.reason = ""
        self._key = key
        self._patience = patience
        self._show_ids = show_ids
        self._more = more
        self._queues: dict[str, deque[ParsedLine]] = {}
        self._slots = anyio.Semaphore(WINDOW)
        self._reading = anyio.CancelScope()
        self._is_unavailable = False
        self._last_success = 0.0
        self.before_line: Callable[[], None] = lambda: None

    async def run(self, notifier: Notifier, lines: AsyncIterator[Line]) -> None:
        """Push every line, until the end of the input or until the feed gives up."""
        async with anyio.create_task_group() as pushes:
            with self._reading:
                async for line in lines:
                    try:
                        draft = parse(line)
                    except UsageError as error:
                        self._fail(line.number, error)
                        continue
                    if draft is None:
                        continue
                    await self._slots.acquire()
                    if draft.user in self._queues:
                        self._queues[draft.user].append(draft)
                    else:
                        self._queues[draft.user] = deque([draft])
                        pushes.start_soon(self._push_all, notifier, draft.user)

    async def _push_all(self, notifier: Notifier, user: str) -> None:
        queue = self._queues[user]
        while queue:
            await self._push(notifier, queue[0])
            queue.popleft()
            self._slots.release()
        del self._queues[user]  # no await since the queue was found empty, so no line was added

    async def _push(self, notifier: Notifier, draft: ParsedLine) -> None:
        began = anyio.current_time()
        key = f"{self._key}:{draft.number}"
        delays = backoff(random.random, limit=1.0)
        while True:
            if self.reason:
                self.failed += 1
                return
            try:
                event = await notifier.push(draft.user, draft.type, draft.payload, key=key, **self._more)
            except UsageError as error:
                self._fail(draft.number, error)
                return
            except BackendError as error:
                if anyio.current_time() - began >= self._patience:
                    self._end(draft.number, error, self._last_success >= began)
                    return
                self._note_unavailable(error, began)
                await anyio.sleep(next(delays))
            else:
                self._succeed(draft.number, event)
                return

    def _succeed(self, number: int, event: Event | None) -> None:
        assert event is not None  # only `offline="drop"` returns None
        self.pushed += 1
        self._last_success = anyio.current_time()
        if self._is_unavailable:
            self._is_unavailable = False
            self._report("the store is available again")
        if self._show_ids:
            say(f"{number} {event.id}")

    def _note_unavailable(self, error: BackendError, began: float) -> None:
        if not self._is_unavailable and self._last_success < began:
            self._is_unavailable = True
            self._report(f"the store is unavailable, retrying for {self._patience:g} s: {error}")

    def _end(self, number: int, error: BackendError, others_succeed: bool) -> None:
        """Give up this line; give up the whole feed unless other pushes succeeded during the same time."""
        if others_succeed:
            self._fail(number, error)
            return
        self.failed += 1
        if not self.reason:
            self.reason = f"nothing could be pushed for {self._patience:g} s: {error}"
            self._reading.cancel()

    def _fail(self, number: int, error: Exception) -> None:
        self.failed += 1
        if self.failed <= MAX_REPORTED:
            self._report(f"line {number}: {error}")
        elif self.failed == MAX_REPORTED + 1:
            self._report("further failed lines are counted but not shown")

    def _report(self, text: str) -> None:
        self.before_line()
        report(text)
