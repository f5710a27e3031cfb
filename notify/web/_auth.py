"""The checks before each handler: whether the page may send this request, and who the client is."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from notify._asgi import FILES, SAFE, Receive, Reply, Request, Send, WebError

from ._login import Client, login_of
from ._site import Site

logger = logging.getLogger("notify.web")

PUBLIC = frozenset({*FILES, "health", "openapi.json"})
"""Served to any page: they show nothing of any user, and cost nothing."""


def check_site(site: Site, request: Request, endpoint: str) -> None:
    """Refuse a request of another site's page, and note what the response to an allowed one needs.

    Args:
        site: the application.
        request: the client's.
        endpoint: the endpoint of its path; see `_routing`.

    Raises:
        WebError: 403; 415 for what a plain form could have sent.
    """
    if site.options.origins:
        request.response_headers += site.rules.cors(request.headers)
    if endpoint in PUBLIC and request.method in SAFE:  # DELETE has names that clients choose
        return
    scheme = str(request.scope.get("scheme", "http"))
    if request.scope["type"] == "websocket":
        refusal = site.rules.websocket_refusal(scheme, request.headers)
    else:
        refusal = site.rules.refusal(request.method, scheme, request.headers)
    if refusal is not None:
        logger.info("refused: %s", refusal.message)  # a browser does not show why a WebSocket was refused
        raise WebError(*refusal)


async def send_options(site: Site, request: Request, methods: Iterable[str], send: Send) -> None:
    """Serve OPTIONS: what the address supports; to the page of an allowed origin, what it may send."""
    supported = sorted({*methods, "OPTIONS"})
    allow = (b"allow", ", ".join(supported).encode())
    await Reply(204, headers=[allow, *site.rules.preflight(request.headers, supported)]).send(send)


async def ticket(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve POST /ticket."""
    assert site.authentication is not None
    identity = await site.authentication.identify(request)
    client = Client(identity, login_of(identity, request))
    issued = await site.tickets.issue(client, request.headers.get("origin", ""))
    answer = {"ticket": issued.ticket, "expires_at": issued.expires_at.isoformat()}
    await Reply.json(answer).send(send, request.response_headers)
