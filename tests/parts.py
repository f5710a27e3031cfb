"""Parts that tests compose: stores without abilities, stores that fail or hang, routers that note what they get."""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import anyio
import anyio.lowlevel

from notify import Event, Page, RoutingInfo
from notify.abc import Registration
from notify_memory import MemoryPresence, MemoryStore, MemoryStreamStore

MEASURES = "COVERAGE_PROCESS_CONFIG"
"""The environment variable that has a child process measure its coverage."""


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until the condition (a function, perhaps asynchronous) holds; TimeoutError if it does not in time.

    It is checked at once and then at growing intervals, of about a tenth of the time that has passed, 0.1 s at most:
    what takes seconds is done by other processes, which need the processor.
    """
    pause = 0.001
    with anyio.fail_after(seconds):
        while True:
            result = condition()
            if await result if inspect.isawaitable(result) else result:
                return
            await anyio.sleep(pause)
            pause = min(1.1 * pause, 0.1)


@contextmanager
def untraced() -> Iterator[None]:
    """Run a block, and the threads and processes that it starts, at full speed: nothing in it is measured.

    For what is repeated thousands of times, is broken on purpose, or runs no line that others do not run.
    """
    trace, in_threads = sys.gettrace(), threading.gettrace()
    in_processes = os.environ.pop(MEASURES, None)
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        threading.settrace(in_threads)  # type: ignore[arg-type]
        sys.settrace(trace)
        if in_processes is not None:
            os.environ[MEASURES] = in_processes


def untraced_environment() -> dict[str, str]:
    """The environment of a child process that runs at full speed too."""
    return {name: value for name, value in os.environ.items() if name != MEASURES}


class PlainStore:
    """The five methods of the protocol over a memory store, and nothing else; each call really waits once."""

    def __init__(self, inner: MemoryStore | None = None) -> None:
        self.inner = inner or MemoryStore()
        self.calls: list[str] = []

    async def _enter(self, name: str) -> None:
        self.calls.append(name)
        await anyio.lowlevel.checkpoint()

    async def save(self, event: Event) -> Event:
        await self._enter("save")
        return self.inner.save_nowait(event)

    async def read(self, user: str, after: str, limit: int) -> Page:
        await self._enter("read")
        return self.inner.read_nowait(user, after, limit)

    async def head(self, user: str) -> str:
        await self._enter("head")
        return self.inner.head_nowait(user)

    async def trim(self, before: datetime | str) -> int:
        return await self.inner.trim(before)

    async def aclose(self) -> None:
        await self.inner.aclose()


class BatchStore(PlainStore):
    """As `PlainStore`, with the two abilities that a database has."""

    async def save_many(self, events: Sequence[Event]) -> Sequence[object]:
        await self._enter(f"save_many {len(events)}")
        return await self.inner.save_many(events)

    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        await self._enter("read_many")
        return await self.inner.read_many(after, limit)


STORES: dict[str, Callable[[], Any]] = {
    "memory": MemoryStore,
    "memory stream": MemoryStreamStore,
    "no abilities": PlainStore,
    "batches": BatchStore,
}
"""One store of each kind that the core treats in its own way."""


class NotingRouter:
    """Notes what it is told to route, and does nothing."""

    def __init__(self) -> None:
        self.routed: list[tuple[Event, RoutingInfo | None]] = []

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        self.routed.append((event, to))


class SlowPresence:
    """A memory tracker whose calls really wait, and fail while `broken`."""

    def __init__(self) -> None:
        self.inner = MemoryPresence()
        self.broken = False
        self.calls: list[str] = []

    async def register(self, user: str, routing: RoutingInfo | None = None) -> Registration:
        await self._enter("register")
        return await self.inner.register(user, routing)

    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        await self._enter("locate")
        return await self.inner.locate(users)

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def _enter(self, name: str) -> None:
        self.calls.append(name)
        await anyio.lowlevel.checkpoint()
        if self.broken:
            raise OSError("the tracker is down")
