"""What the applications of `tests.web.applications` share.

Each framework has its own module, so that a server process imports only the one that it serves: importing all of them
takes a second.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from notify import Notifier
from notify.web import NotifyApp

App = Callable[..., Awaitable[None]]
Make = Callable[..., App]
SSE = "text/event-stream"


async def frames(notifier: Notifier, user: str) -> AsyncIterator[str]:
    """The loop that applications write."""
    async for event in notifier.subscribe(user, "0"):
        yield f"data: {json.dumps(event.payload)}\n\n"


def web(notifier: Notifier, **options: Any) -> NotifyApp:
    return NotifyApp(notifier, lambda request: request.query.get("user"), **options)
