"""A `NotifyApp` that notes what browsers send it, and an empty page beside it.

`/page` is the page; `/noted` returns the headers by which sites are told apart, request by request, and forgets them.
`TEST_ORIGINS` names the sites that are let in.
"""

from __future__ import annotations

import json
import os
from typing import Any

from notify import Notifier
from notify.web import NotifyApp, Request, bearer_token
from notify_memory import MemoryStore

NAMES = ("origin", "sec-fetch-site", "cookie")

noted: list[dict[str, Any]] = []
asked: list[str] = []


def authenticate(request: Request) -> str | None:
    """By cookie, or by bearer token."""
    asked.append(request.path)
    return request.cookies.get("user") or bearer_token(request)


web = NotifyApp(Notifier(MemoryStore()), authenticate, origins=json.loads(os.environ.get("TEST_ORIGINS", "[]")))


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer what the tests ask for, and pass everything else on."""
    path = scope.get("path", "")
    if path == "/page":
        await answer(send, b"text/html", b"<!doctype html><title>page</title>", [(b"set-cookie", b"user=alice")])
    elif path == "/noted":
        body = json.dumps({"noted": noted, "asked": asked}).encode()
        noted.clear()
        asked.clear()
        await answer(send, b"application/json", body, [])
    else:
        if scope["type"] in {"http", "websocket"} and path != "/health":
            headers = Request(scope).headers
            found = {name: headers[name] for name in NAMES if name in headers}
            noted.append({"kind": scope["type"], "method": scope.get("method", "GET"), "path": path, **found})
        await web(scope, receive, send)


async def answer(send: Any, kind: bytes, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Send a whole response."""
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
