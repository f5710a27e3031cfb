"""Follows one user's log, and reconnects whenever the server becomes unavailable."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final

import anyio

from .. import Notifier, ids
from ..abc import StreamStore
from ..errors import BackendError
from ..event import Event
from ._console import as_json, is_abandoned, plain, report, say
from ._inspect import is_prepared
from ._urls import MissingError

PROBE: Final = 1.0
"""Seconds between two checks that the store answers and that the output is still being read."""

Opener = Callable[[], AbstractAsyncContextManager[StreamStore]]


class Tail:
    """Prints the events of a stream. If the store becomes unavailable, reopens it and resumes after the last id.

    Args:
        open_store: returns a context manager that opens the store.
        user: the user whose log is followed.
        position: where to start; None starts now.
        json: print one JSON object per line.
        follow: keep following at the end of the log; otherwise stop there.

    Attributes:
        nothing: what to report of a store in which nothing was created yet.
    """

    nothing = "there is nothing yet"

    def __init__(
        self, open_store: Opener, user: str, position: str | datetime | None, *, json: bool, follow: bool
    ) -> None:
        self._open_store = open_store
        self._user = user
        self._position = position
        self._json = json
        self._follow = follow
        self._is_open = self._is_unavailable = False

    async def run(self) -> None:
        """Run until cancelled, or until the end of the log if `follow` is false.

        Raises:
            NotifyError: the first attempt to open the stream failed.
            BrokenPipeError: the reader of the output has closed the pipe.
        """
        while True:
            try:
                if await self._read():
                    return
            except (BackendError, MissingError) as error:
                if not self._is_open:
                    raise
                self._note_unavailable(error)  # pragma: no cover - CPython 3.11 does not trace what follows a throw
            await anyio.sleep(PROBE)

    async def _read(self) -> bool:
        """Read until the store becomes unavailable; return whether the end was reached and wanted."""
        is_done = False
        async with self._open_store() as store, Notifier(store) as notifier:
            async with notifier.subscribe(self._user, self._position, signals=True) as stream:
                self._position = stream.last_id
                self._note_available()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch, store, tasks.cancel_scope)
                    async for event in stream:  # pragma: no branch - the stream does not end by itself
                        is_end = event.type == "notify.sync"
                        if not is_end:
                            self._show(event)
                        self._position = stream.last_id
                        if is_end and not is_prepared(store):
                            self._note_missing()
                        if is_end and not self._follow:
                            is_done = True
                            break
                    tasks.cancel_scope.cancel()
        return is_done

    async def _watch(self, store: StreamStore, reading: anyio.CancelScope) -> None:
        """Cancel the reading when the store does not answer; end the command when the output is no longer read."""
        while True:
            await anyio.sleep(PROBE)
            if is_abandoned(sys.stdout):
                raise BrokenPipeError  # pragma: no cover - it ends the process
            try:
                await store.head(self._user)
            except BackendError as error:
                self._note_unavailable(error)
                reading.cancel()
                return

    def _note_missing(self) -> None:
        if not self._follow:
            raise MissingError(self.nothing)
        report(self.nothing)

    def _show(self, event: Event) -> None:
        if self._json:
            say(as_json(event))
        elif event.type == "notify.gap":
            report(_describe(event.payload))
        else:
            say(plain(event))

    def _note_unavailable(self, error: Exception) -> None:
        if not self._is_unavailable:  # pragma: no branch - the reader and the watcher may both notice
            self._is_unavailable = True
            report(f"the store is unavailable, retrying: {error}")

    def _note_available(self) -> None:
        self._is_open = True
        if self._is_unavailable:
            self._is_unavailable = False
            report("the store is available again")


def _describe(gap: dict[str, str]) -> str:
    reason, start, end = gap["reason"], gap["from"], gap["to"]
    if ids.compare(start, end) < 0:
        return f"gap ({reason}): events after {start} up to {end} are missing"
    return f"gap ({reason}): position {start} is not in the log; continuing after {end}"
