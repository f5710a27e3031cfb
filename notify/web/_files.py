"""GET /client.js and the other files of the browser client, and GET /health."""

from __future__ import annotations

from typing import Final

from ._reply import WebError
from ._request import Receive, Request, Send
from ._site import Site

FILES: Final = ("client.js", "client.d.ts", "components.js", "react.js")


async def file(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve a file of the browser client."""
    raise WebError(501, "not_implemented", "not implemented")


async def health(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve GET /health."""
    raise WebError(501, "not_implemented", "not implemented")
