"""Pushes a feed, one event to a line: those of one user in their order, those of different users together."""

from __future__ import annotations

import os
import random
import stat
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple

import anyio

from .._notifier import Notifier
from .._runtime._backoff import backoff
from ..errors import BackendError, UsageError
from ..event import Event
from ._console import MAX_LINE, Line, complain, payload_of, say

WINDOW: Final = 500
"""Lines read ahead; no more pushes than that are under way."""

NAMED: Final = 50
"""Lines that are named when they fail; the rest is only counted."""

_WIDTH: Final = 30


class Draft(NamedTuple):
    """What one line says."""

    number: int
    user: str
    type: str
    payload: Any


def parse(line: Line) -> Draft | None:
    """Return what a line, `USER TYPE [JSON]`, says; None for a blank one or a comment.

    Raises:
        UsageError: it says nothing that could be pushed.
    """
    if line.text is None:
        raise UsageError(f"it is longer than {MAX_LINE} bytes")
    text = line.text.removeprefix(b"\xef\xbb\xbf") if line.number == 1 else line.text
    words = text.split(None, 2)
    if not words or words[0].startswith(b"#"):
        return None
    if len(words) == 1:
        raise UsageError("a line is USER TYPE [JSON]")
    try:
        user, type_ = words[0].decode(), words[1].decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"it is not UTF-8: {error}") from None
    return Draft(line.number, user, type_, payload_of(words[2]) if len(words) > 2 else None)


class Progress:
    """Says on standard error how far a feed has got: on a terminal in one line, else in a line now and then.

    Args:
        fd: what is read; of a file it is known how much there is.
        counts: returns the pushes done and failed.
    """

    def __init__(self, fd: int, counts: Callable[[], tuple[int, int]]) -> None:
        mode = os.fstat(fd)
        self._fd = fd
        self._size = mode.st_size if stat.S_ISREG(mode.st_mode) else 0
        self._counts = counts
        self._shown = (0, 0)
        self._bar = sys.stderr.isatty()

    async def run(self) -> None:
        """Go on until cancelled, and leave an empty line."""
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
        """Make room for another line."""
        if self._bar:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _draw(self, pushed: int, failed: int) -> None:
        share = os.lseek(self._fd, 0, os.SEEK_CUR) / self._size if self._size else None
        percent = "" if share is None else f", {share:.0%} read"
        text = f"pushed {pushed}, failed {failed}{percent}"
        if not self._bar:
            complain(text)
            return
        done = round((share or 0) * _WIDTH)
        bar = "" if share is None else f"[{'#' * done}{'.' * (_WIDTH - done)}] "
        sys.stderr.write(f"\r\x1b[K{bar}{text}")
        sys.stderr.flush()


class Feed:
    """Pushes lines. An event whose push fails is pushed again with the same key, so that it is stored once.

    Where nothing at all can be pushed for `patience` seconds, it gives up and reads no further.

    Args:
        key: the key of each line is this and its number.
        patience: seconds to try one line for.
        show_ids: whether to say each line's number and id.

    Attributes:
        pushed: how many lines are stored.
        failed: how many are not, or perhaps not.
        reason: why it gave up; empty: it did not.
    """

    def __init__(self, *, key: str, patience: float, show_ids: bool) -> None:
        self.pushed = self.failed = 0
        self.reason = ""
        self._key = key
        self._patience = patience
        self._show_ids = show_ids
        self._queues: dict[str, deque[Draft]] = {}
        self._slots = anyio.Semaphore(WINDOW)
        self._reading = anyio.CancelScope()
        self._away = False
        self._last_success = 0.0
        self.before_line: Callable[[], None] = lambda: None

    async def run(self, notifier: Notifier, lines: AsyncIterator[Line]) -> None:
        """Push every line, until the end or until it gives up."""
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
        del self._queues[user]  # nobody ran since the queue was found empty

    async def _push(self, notifier: Notifier, draft: Draft) -> None:
        began = anyio.current_time()
        key = f"{self._key}:{draft.number}"
        delays = backoff(random.random, limit=1.0)
        while True:
            if self.reason:
                self.failed += 1
                return
            try:
                event = await notifier.push(draft.user, draft.type, draft.payload, key=key)
            except UsageError as error:
                self._fail(draft.number, error)
                return
            except BackendError as error:
                if anyio.current_time() - began >= self._patience:
                    self._end(draft.number, error, self._last_success >= began)
                    return
                self._note_away(error, began)
                await anyio.sleep(next(delays))
            else:
                self._succeed(draft.number, event)
                return

    def _succeed(self, number: int, event: Event | None) -> None:
        assert event is not None  # only `offline="drop"` returns None
        self.pushed += 1
        self._last_success = anyio.current_time()
        if self._away:
            self._away = False
            self._tell("the store is back")
        if self._show_ids:
            say(f"{number} {event.id}")

    def _note_away(self, error: BackendError, began: float) -> None:
        if not self._away and self._last_success < began:
            self._away = True
            self._tell(f"the store is away, so pushes are tried again for {self._patience:g} s: {error}")

    def _end(self, number: int, error: BackendError, others_succeed: bool) -> None:
        """Give a line up; and all of them, unless others were pushed meanwhile."""
        if others_succeed:
            self._fail(number, error)
            return
        self.failed += 1
        if not self.reason:
            self.reason = f"nothing could be pushed for {self._patience:g} s: {error}"
            self._reading.cancel()

    def _fail(self, number: int, error: Exception) -> None:
        self.failed += 1
        if self.failed <= NAMED:
            self._tell(f"line {number}: {error}")
        elif self.failed == NAMED + 1:
            self._tell("more lines fail, and are only counted from here on")

    def _tell(self, text: str) -> None:
        self.before_line()
        complain(text)
