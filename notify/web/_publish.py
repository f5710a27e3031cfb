"""POST /push."""

from __future__ import annotations

from ._reply import WebError
from ._request import Receive, Request, Send
from ._site import Site


async def push(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve POST /push."""
    raise WebError(501, "not_implemented", "not implemented")
