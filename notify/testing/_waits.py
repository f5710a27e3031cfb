"""How the suites wait: always for a condition, always with a bound, and with a message that says for what."""

from __future__ import annotations

import re
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import anyio
import anyio.lowlevel

from notify import Event, Stream, ids

_UNNAMED = re.compile(r"Task-\d+")
_LIBRARIES = re.compile(r"[/\\](site-packages|lib[/\\]python3\.\d+)[/\\]")


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Run a block that may take `seconds`; after that, fail with what was waited for, and where."""
    place = ""
    with anyio.move_on_after(seconds) as scope:
        try:
            yield
        except anyio.get_cancelled_exc_class() as cancelled:
            place = _place(cancelled.__traceback__)
            raise
    if scope.cancelled_caught:
        raise AssertionError(f"waited {seconds:g} s for {what}{place}")


def _place(trace: TracebackType | None) -> str:
    """Return the innermost line that was waiting, libraries left out."""
    frames = [frame for frame in traceback.extract_tb(trace) if not _LIBRARIES.search(frame.filename)]
    return f": it hangs in {frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno}" if len(frames) > 1 else ""


def describe(task: anyio.TaskInfo) -> str:
    """Return the qualified name of a task's coroutine, and the task's own name where it was given one."""
    coroutine = getattr(task.coro, "__qualname__", type(task.coro).__name__)
    is_named = task.name and not _UNNAMED.fullmatch(task.name) and coroutine not in task.name
    return f"{coroutine} ({task.name})" if is_named else coroutine


async def eventually(check: Callable[[], Awaitable[None]], within: float) -> None:
    """Repeat a check until it holds; when the time is over, let it fail."""
    with anyio.move_on_after(within):
        while True:
            try:
                return await check()
            except AssertionError:
                await anyio.sleep(0.005)
    return await check()


async def together(*functions: Callable[[], Awaitable[object]]) -> None:
    """Run the functions concurrently, until all have ended; their exceptions come as they are, the first one."""
    errors: list[Exception] = []

    async def run(function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except Exception as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for function in functions:
            tasks.start_soon(run, function)
    if errors:
        raise errors[0]


async def interrupted(function: Callable[[], Coroutine[Any, Any, object]], attempt: int) -> None:
    """Run a function and cancel it, each attempt later: by steps of the event loop at first, then by time."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(function)
        for _ in range(attempt):
            await anyio.lowlevel.checkpoint()
        if attempt > 9:
            await anyio.sleep((attempt - 9) * 0.0003)
        tasks.cancel_scope.cancel()


async def take(stream: Stream, count: int, within: float) -> list[Event]:
    """Return the next `count` events of a stream."""
    events: list[Event] = []
    with anyio.move_on_after(within):
        while len(events) < count:
            events.append(await stream.next())
    assert len(events) == count, f"waited {within:g} s for {count} events of {stream.user!r}: {len(events)} came"
    return events


async def through(stream: Stream, type: str, within: float) -> list[Event]:
    """Return the next events of a stream, up to the first one of this type."""
    events: list[Event] = []
    while not events or events[-1].type != type:
        events.append(await one(stream, within))
    return events


async def one(stream: Stream, within: float) -> Event:
    """Return the next event of a stream."""
    return (await take(stream, 1, within))[0]


def numbers(events: Iterable[Event]) -> list[Any]:
    """Return the payloads, which number the events in most tests."""
    return [event.payload for event in events]


def assert_chain(events: Sequence[Event], start: str = ids.ZERO) -> None:
    """Assert that ids grow strictly and that each event links to the one before it, the first one to `start`."""
    for event in events:
        assert event.id == ids.canonical(event.id)
        assert ids.compare(start, event.id) < 0
        assert event.prev == start
        start = event.id


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)
