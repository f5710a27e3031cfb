"""One of the applications of `tests.web.applications`, as a server loads it: the environment says which.

`/health` answers, and `/push?user=...` pushes in the server.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from notify import Notifier
from notify.web import Request
from notify_memory import MemoryStreamStore

notifier = Notifier(MemoryStreamStore())
framework = importlib.import_module(f"tests.web.frameworks.{os.environ['TEST_FRAMEWORK']}")
inner = framework.app(notifier, heartbeat=0.5)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        async with notifier:  # trio needs a task group for what runs in the background
            await inner(scope, receive, send)
    elif scope["type"] == "http" and scope["path"] in ("/health", "/push"):
        if scope["path"] == "/push":
            await notifier.push(Request(scope).query["user"], "t", "pushed")
        headers = [(b"content-type", b"application/json"), (b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"null"})
    else:
        await inner(scope, receive, send)
