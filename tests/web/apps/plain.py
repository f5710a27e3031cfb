"""A `NotifyApp` as a server loads it: the store and the options come from the environment.

`?user=` says who a client is. `TEST_WITHIN` is how many seconds `authenticate` may take. Beside the application's own
paths: `/inside` shows the signal handlers and what is open, `/inside/memory` how much memory is in use;
`/inside/push?user=...&count=...` pushes in the server; `?delay=` makes `authenticate` take its time. `/view` is an
endpoint that authenticates by itself, and returns a stream after `?delay=` seconds. `/logs/...` is read as Durable
Streams.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio

from notify import Notifier
from notify.web import EventStream, NotifyApp, Request
from notify.web.durable import DurableStreams
from notify_memory import MemoryPresence

STORE = os.environ.get("TEST_STORE", "memory://")
OPTIONS: dict[str, Any] = json.loads(os.environ.get("TEST_OPTIONS", "{}"))
WITHIN = os.environ.get("TEST_WITHIN")

presence = MemoryPresence()
notifier = Notifier.from_url(STORE, presence=presence, linger=0.0)


async def authenticate(request: Request) -> str | None:
    """The user is whom the query names; slowly if it asks for that."""
    global authenticating
    authenticating += 1
    try:
        await anyio.sleep(float(request.query.get("delay", "0")))
    finally:
        authenticating -= 1
    return request.query.get("user")


web = NotifyApp(notifier, authenticate, **OPTIONS)
logs = DurableStreams(notifier, authenticate)
for site in (web._site, logs._site):
    if WITHIN is not None and site.authentication is not None:
        site.authentication._timeout = float(WITHIN)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer what tests ask for, and pass everything else on."""
    if scope.get("path") == "/view":
        await view(Request(scope), receive, send)
        return
    if scope["type"] == "http" and scope["path"].startswith("/logs/"):
        await logs(scope, receive, send)
        return
    handler = INSIDE.get(scope.get("path", "")) if scope["type"] == "http" else None
    if handler is None:
        await web(scope, receive, send)
        return
    body = json.dumps(await handler(Request(scope))).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]}
    )
    await send({"type": "http.response.body", "body": body})


async def view(request: Request, receive: Any, send: Any) -> None:
    """Stream to the user whom the query names, as an endpoint of a framework does."""
    global in_views
    in_views += 1
    user = await authenticate(request)
    await EventStream(notifier, user or "", request.scope)(request.scope, receive, send)


authenticating = 0
"""Calls of `authenticate` that have not returned."""

in_views = 0
"""Requests for `/view` so far."""


async def state(_: Request) -> dict[str, Any]:
    """What is open in this process, this request included."""
    statistics = notifier.statistics()
    numbers = (signal.SIGTERM, signal.SIGINT)
    return {
        "pid": os.getpid(),
        "handlers": [type(signal.getsignal(number)).__name__ for number in numbers],
        "streams": statistics.open_streams,
        "closing": len(web._site.closing) + len(logs._site.closing),
        "views": in_views,
        "authenticating": authenticating,
        "tasks": _tasks(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "present": sorted(user for user, places in presence.locate_nowait(USERS).items() if places),
    }


USERS = ["alice", "bob", "quiet"]


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        trio = sys.modules["trio"]
        tasks: int = trio.lowlevel.current_statistics().tasks_living
        return tasks


async def push(request: Request) -> dict[str, Any]:
    """Push numbered events here."""
    user, size = request.query["user"], int(request.query.get("size", "0"))
    first, count = int(request.query.get("first", "0")), int(request.query.get("count", "1"))
    for number in range(first, first + count):
        await notifier.push(user, "number", {"n": number, "fill": "x" * size})
    return {"pushed": count}


async def memory(_: Request) -> dict[str, Any]:
    """The memory in use after a garbage collection: allocated blocks, and resident bytes of the process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240 - it is in memory
    return {"blocks": sys.getallocatedblocks(), "resident": pages * os.sysconf("SC_PAGE_SIZE")}


INSIDE = {"/inside": state, "/inside/push": push, "/inside/memory": memory}
