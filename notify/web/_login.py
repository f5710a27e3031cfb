"""What tells one login of a user from the next, for the mark of a client that was disconnected.

A client that comes back of itself sends what it sent before, and finds 204; after a new login something has changed,
and it is let in. That is `Identity.session`, if the application has sessions. Otherwise it is what the client was
authenticated with: the `Authorization` header and the cookies that `authenticate` has read.

Cookies that it has not read do not count: those of a load balancer, of statistics or against forged requests change by
themselves, and a client whose login seems new is let in again. Where the cookies were read by the framework, which of
them count is not known, so all of them do. That errs on the side of letting in: `authenticate` still decides, whereas a
client that is stopped by mistake stays so for as long as it keeps its position.

A ticket carries the login of the request that asked for it, because the request that uses it has no credentials.
"""

from __future__ import annotations

from typing import NamedTuple

from notify._asgi import Identity, Request

from ._position import digest


class Client(NamedTuple):
    """Who opens a stream.

    Attributes:
        identity: who it is.
        login: see `login_of`.
    """

    identity: Identity
    login: str


def login_of(identity: Identity, request: Request) -> str:
    """Return what tells one login from the next: the session, or a digest of the credentials; empty without any."""
    if identity.session:
        return identity.session
    headers = request.headers
    if "authorization" not in headers and "cookie" not in headers:
        return ""
    credentials = [headers.get("authorization", ""), *request.cookies_read()]
    if not any(credentials):
        credentials.append(headers.get("cookie", ""))
    return digest("\n".join(credentials)) if any(credentials) else ""
