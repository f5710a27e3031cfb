"""Who opens a stream: whom the application's `authenticate` names, or who was given the ticket."""

from __future__ import annotations

from notify._asgi import (
    WITHIN,
    Authenticate,
    Identification,
    Identity,
    Request,
    WebError,
    is_own_origin,
    parsed,
    still_valid,
)

from ._login import login_of
from ._tickets import Tickets


class Authentication(Identification):
    """Asks the application, and redeems tickets.

    Args:
        authenticate: the application's function, plain or async. A plain one runs on the event loop and must not block.
        tickets: those of the application.
        timeout: seconds that `authenticate` may take, if it is async.

    Raises:
        UsageError: `authenticate` is not a function.
    """

    def __init__(self, authenticate: Authenticate, tickets: Tickets, *, timeout: float = WITHIN) -> None:
        super().__init__(authenticate, timeout=timeout)
        self._tickets = tickets

    async def identify_stream(self, request: Request) -> tuple[Identity, str]:
        """Return who opens a stream, and its login: by the ticket in the URL or the subprotocols, else as `identify`.

        Raises:
            WebError: as `identify`; 401 also for a ticket that is not valid.
            BackendError: the ticket could not be looked up.

        Cancellation: a ticket may be used up.
        Concurrency: any number of tasks.
        """
        ticket = ticket_of(request)
        if ticket is None:
            identity = await self.identify(request)
            return identity, login_of(identity, request)
        client = await self._tickets.redeem(ticket, lambda bound: may_use(request, bound))
        if client is None:
            raise WebError(401, "invalid_ticket", "the ticket is not valid, has expired or was used: take a new one")
        still_valid(client.identity)
        return client


def ticket_of(request: Request) -> str | None:
    """Return the ticket that a request carries, or None."""
    for name in request.scope.get("subprotocols") or ():
        if name.startswith("ticket."):
            return str(name.removeprefix("ticket."))
    return request.query.get("ticket")


def may_use(request: Request, bound: str) -> bool:
    """Return whether the page that sent a request may use a ticket that is bound to this origin.

    A browser sends no origin with a plain GET to the page's own host. A ticket that was asked for by a program has no
    origin to be bound to.
    """
    headers = request.headers
    origin = headers.get("origin")
    if not bound:
        return True
    if origin is not None:
        return parsed(origin) == parsed(bound)
    scheme = str(request.scope.get("scheme", "http"))
    return headers.get("sec-fetch-site") == "same-origin" or is_own_origin(bound, scheme, headers.get("host", ""))
