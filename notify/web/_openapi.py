"""GET /openapi.json."""

from __future__ import annotations

from ._reply import WebError
from ._request import Receive, Request, Send
from ._site import Site


async def document(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve GET /openapi.json."""
    raise WebError(501, "not_implemented", "not implemented")
