"""GET /ws: the same stream as a WebSocket, with commands."""

from __future__ import annotations

from ._reply import WebError
from ._request import Receive, Request, Send
from ._site import Site


async def serve(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve GET /ws."""
    raise WebError(501, "not_implemented", "not implemented")
