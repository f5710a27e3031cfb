"""What opening a stream costs beside the server: a bare application and ours, in processor time, and ours by its steps.

Without server and sockets, in one process, in loops. In a server, where other code runs in between, each step takes two
to three times as long, in both applications.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvloop

from notify import Notifier
from notify._asgi import Request
from notify.web import NotifyApp, _position
from notify.web._admission import admit
from notify.web._session import Session
from notify.web._sse import Entrance, FrameFeed, until_gone_watch
from notify_memory import MemoryStore

from .harness import Row
from .web_server import Bare

STREAMS = 2000
ROUNDS = 7

STEPS = {
    "route": "the request, cross-site rules, the route",
    "who": "a moment for `disconnect`, `authenticate`, the logs",
    "position": "the position that the client asks for",
    "subscribe": "the session, and the stream of the notifier",
    "limits": "limits, heartbeat and lifetime, a turn to replay, the end of the server",
    "attach": "the fan-out of the user, the head of the log",
    "frames": "`retry:`, `notify.sync`",
    "watch": "the task that waits for the end of the client; the bare application has one too",
}


def scope(number: int) -> dict[str, Any]:
    """Return the scope of one request."""
    query = b"user=user-%d" % number
    headers = [(b"host", b"localhost")]
    return {"type": "http", "method": "GET", "path": "/stream", "query_string": query, "headers": headers}


async def never() -> Any:
    """Wait for a message that does not come."""
    await asyncio.Event().wait()


async def nowhere(_: Any) -> None:
    """Send a message."""


async def started(app: Any, streams: int) -> list[asyncio.Task[None]]:
    """Open streams, and return their tasks once each waits for events."""
    tasks = []
    for number in range(streams):
        tasks.append(asyncio.create_task(app(scope(number), never, nowhere)))
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def opened(app: Any, streams: int) -> float:
    """Return the microseconds that opening one stream takes, and end them all."""
    gc.collect()
    began = time.process_time()
    tasks = await started(app, streams)
    spent = time.process_time() - began
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return spent / streams * 1e6


async def steps(app: NotifyApp) -> dict[str, float]:
    """Return the microseconds of each step."""
    site, spent = app._site, dict[str, float]()

    @contextmanager
    def step(name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        spent[name] = (time.process_time() - began) / STREAMS * 1e6

    scopes = [scope(number) for number in range(STREAMS)]
    with step("route"):
        requests = [Request(each) for each in scopes]
        for request in requests:
            app._handler(request)
    with step("who"):
        admissions = [await admit(site, request) for request in requests]
    with step("position"):
        positions = [_position.asked(request.headers, request.query).position for request in requests]
    with step("subscribe"):
        sessions = [Session(site, *each, None) for each in zip(admissions, positions, strict=True)]
    with Entrance(site.closing), step("limits"):  # the first one installs the handlers of signals
        for session in sessions:
            with Entrance(site.closing):
                session.enlist()
            site.turns.release(session)
    with step("attach"):
        for session in sessions:
            await session.stream.__aenter__()
    with step("frames"):
        for session in sessions:
            await FrameFeed(site, session).first()
    with step("watch"):
        lines = [await until_gone_watch(never).__aenter__() for _ in range(STREAMS)]
        await asyncio.sleep(0)
    for line, session in zip(lines, sessions, strict=True):
        await line.__aexit__(None, None, None)
        await session.__aexit__(None, None, None)
    return spent


async def rounds() -> tuple[list[float], list[float], dict[str, list[float]]]:
    """Return the figures of the bare application, of ours, and of each step."""
    bare, ours, parts = list[float](), list[float](), {name: list[float]() for name in STEPS}
    for _ in range(ROUNDS):
        bare.append(await opened(Bare(), STREAMS))
        async with Notifier(MemoryStore()) as notifier:
            app = NotifyApp(notifier, lambda request: request.query["user"])
            ours.append(await opened(app, STREAMS))
            gc.disable()  # it would run in whatever step its turn comes
            try:
                for name, spent in (await steps(app)).items():
                    parts[name].append(spent)
            finally:
                gc.enable()
    return bare, ours, parts


async def open_and_exit(kind: str, streams: int) -> None:
    """Open streams and exit: the difference between runs with two numbers of streams is the cost of a connect.

    For a tool that counts instructions, which needs no quiet machine.
    """
    gc.disable()
    app = Bare() if kind == "bare" else NotifyApp(Notifier(MemoryStore()), lambda request: request.query["user"])
    await started(app, streams)
    os._exit(0)


def measure() -> list[Row]:
    """Return the rows: the least of the rounds, since whatever disturbs one of them makes it longer."""
    bare, ours, parts = uvloop.run(rounds())
    note = f"{min(ours) / min(bare):.1f} times the limit, of which the garbage collector has a part"
    whole = Row("web, connect beside the server: CPU", "ns", 1000 * min(ours), limit=1000 * min(bare), note=note)
    return [whole, *(Row(f"- {name}", "ns", 1000 * min(parts[name]), note=STEPS[name]) for name in STEPS)]


if __name__ == "__main__":
    uvloop.run(open_and_exit(sys.argv[1], int(sys.argv[2])))
