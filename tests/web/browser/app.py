"""The application of the other tests of this layer, and a page that loads the client from it."""

from __future__ import annotations

from typing import Any

from tests.web.apps import plain
from tests.web.browser.scripted import PAGE


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve `/page`, and pass everything else on."""
    if scope.get("path") != "/page":
        await plain.app(scope, receive, send)
        return
    headers = [(b"content-type", b"text/html"), (b"content-length", str(len(PAGE)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE.encode()})
