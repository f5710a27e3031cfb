"""A `NotifyApp` with everything, and `DurableStreams`; what no request may cause is recorded.

`/inside` returns it: errors that leave the applications, statuses of 500 and above, what is open, tasks, descriptors.
The user is the one that `?user=` or `X-User` names, else alice.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from notify import Notifier
from notify.inbox import Inbox
from notify.web import Identity, NotifyApp, Request
from notify.web.durable import DurableStreams
from notify_memory import MemoryStore

SECRET = "a secret"

notifier = Notifier(MemoryStore(), linger=0.0)
faults: list[str] = []


def authenticate(request: Request) -> Identity | None:
    """Believe the client."""
    user = request.query.get("user", request.headers.get("x-user", "alice"))
    return Identity(user, ("news",)) if user else None


web = NotifyApp(
    notifier,
    authenticate,
    inbox=Inbox(notifier),
    origins=["https://app.example"],
    publish_secrets=[SECRET],
    lifetime=1.0,
    long_poll=0.1,
    send_timeout=2.0,
    max_streams_per_user=1000,
    authorize_follow=lambda identity, topic: True,
)
logs = DurableStreams(notifier, authenticate, lifetime=0.5, long_poll=0.1, send_timeout=2.0)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve a request, and note what goes wrong."""
    if scope.get("path") == "/inside":
        await inside(send)
        return
    case = f"{scope['type']} {scope.get('method', '')} {scope.get('path', '')!r:.100}"

    async def noting(message: Any) -> None:
        if message.get("status", 0) >= 500:
            faults.append(f"{case}: status {message['status']}")
        await send(message)

    is_log = scope["type"] == "http" and scope["path"].startswith("/logs")
    try:
        await (logs if is_log else web)(scope, receive, noting)
    except Exception as error:
        faults.append(f"{case}: {error!r:.300}")
        raise


async def inside(send: Any) -> None:
    """Return what was recorded, and what is open."""
    found = {
        "faults": faults,
        "open": notifier.statistics().open_streams + len(web._site.closing) + len(logs._site.closing),
        "tasks": _tasks(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }
    body = json.dumps(found).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        tasks: int = sys.modules["trio"].lowlevel.current_statistics().tasks_living
        return tasks
