"""Follows one user's log, over any number of restarts of the server that holds it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final

import anyio

from .. import ids
from .._notifier import Notifier
from ..abc import StreamStore
from ..errors import BackendError
from ..event import Event
from ._console import as_json, complain, is_abandoned, plain, say

PROBE: Final = 1.0
"""Seconds between two looks at whether the store is still there, and whoever reads what is written."""

Opener = Callable[[], AbstractAsyncContextManager[StreamStore]]


class Tail:
    """Writes what a stream yields. Where the store goes away, it is opened anew, and read from the last id on.

    Args:
        open_store: returns the store, to be entered.
        user: whose log.
        position: where to begin; None: now.
        json: write one JSON object to a line.
        follow: go on after what is in the log.
    """

    def __init__(
        self, open_store: Opener, user: str, position: str | datetime | None, *, json: bool, follow: bool
    ) -> None:
        self._open_store = open_store
        self._user = user
        self._position = position
        self._json = json
        self._follow = follow
        self._is_open = self._away = False

    async def run(self) -> None:
        """Go on until cancelled, or until the end of the log where it is not to be followed.

        Raises:
            NotifyError: the first attempt to open the log failed.
            BrokenPipeError: nobody reads what is written.
        """
        while True:
            try:
                if await self._read():
                    return
            except BackendError as error:
                if not self._is_open:
                    raise
                self._note_away(error)  # pragma: no cover - CPython 3.11 does not trace what follows a throw
            await anyio.sleep(PROBE)

    async def _read(self) -> bool:
        """Read until the store goes away; return whether all was read that is wanted."""
        is_done = False
        async with self._open_store() as store, Notifier(store) as notifier:
            async with notifier.subscribe(self._user, self._position, signals=True) as stream:
                self._position = stream.last_id
                self._note_back()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch, store, tasks.cancel_scope)
                    async for event in stream:  # pragma: no branch - nobody else ends it
                        is_end = event.type == "notify.sync"
                        if not is_end:
                            self._show(event)
                        self._position = stream.last_id
                        if is_end and not self._follow:
                            is_done = True
                            break
                    tasks.cancel_scope.cancel()
        return is_done

    async def _watch(self, store: StreamStore, reading: anyio.CancelScope) -> None:
        """End the reading when the store does not answer, and everything when nobody reads what is written."""
        while True:
            await anyio.sleep(PROBE)
            if is_abandoned(sys.stdout):
                raise BrokenPipeError  # pragma: no cover - the process that gets here ends by it
            try:
                await store.head(self._user)
            except BackendError as error:
                self._note_away(error)
                reading.cancel()
                return

    def _show(self, event: Event) -> None:
        if self._json:
            say(as_json(event))
        elif event.type == "notify.gap":
            complain(_describe(event.payload))
        else:
            say(plain(event))

    def _note_away(self, error: Exception) -> None:
        if not self._away:  # pragma: no branch - else it was said, by the reader or by the watch
            self._away = True
            complain(f"the store is away, waiting for it: {error}")

    def _note_back(self) -> None:
        self._is_open = True
        if self._away:
            self._away = False
            complain("the store is back")


def _describe(gap: dict[str, str]) -> str:
    reason, start, end = gap["reason"], gap["from"], gap["to"]
    if ids.compare(start, end) < 0:
        return f"gap ({reason}): events after {start} and up to {end} are gone"
    return f"gap ({reason}): the log does not know {start}, and goes on after {end}"
