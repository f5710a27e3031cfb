"""Who a client is: calls `authenticate`, and redeems tickets."""

from __future__ import annotations

import inspect

from ._reply import WebError
from ._request import Identity, Receive, Request, Send
from ._site import Site


async def identify(site: Site, request: Request) -> Identity:
    """Return who a client is.

    Raises:
        WebError: 401, or 503 if `authenticate` fails.
    """
    assert site.authenticate is not None
    found = site.authenticate(request)
    if inspect.isawaitable(found):
        found = await found
    if found is None:
        raise WebError(401, "unauthenticated", "authentication is required")
    return Identity(found) if isinstance(found, str) else found


async def ticket(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve POST /ticket."""
    raise WebError(501, "not_implemented", "not implemented")
