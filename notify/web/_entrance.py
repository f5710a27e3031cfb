"""A request whose client is being authenticated: that wait ends when the client leaves or the server shuts down.

`Entrance` is how the shutdown reaches a connection, `until_gone` how a disconnect does. Transports use both by
themselves, since they go on watching. `attended` is for requests that are answered at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import anyio.lowlevel

from notify._asgi import Message, Receive, WebError

from ._closing import Closing, OpenStream
from ._session import Session
from ._site import Site
from ._watch import Watch, watch


class ClientGoneError(Exception):
    """The client has left, so nothing is answered."""


class Entrance(OpenStream):
    """Passes the shutdown of the server on to the session; before there is one, it cancels `authenticate`.

    Attributes:
        line: the watch of the connection, while the client is being authenticated; else None.
        session: the session, once there is one.
        has_aborted: whether the shutdown aborted the connection while the client was being authenticated.
    """

    __slots__ = ("has_aborted", "line", "session")

    def __init__(self, closing: Closing) -> None:
        OpenStream.__init__(self, closing)
        self.line: Watch | None = None
        self.session: Session | None = None
        self.has_aborted = False

    def end(self) -> None:
        """End the session, or the wait."""
        if self.session is not None:
            self.session.shut_down()
        elif self.line is not None and not self.line.aborted:
            self.has_aborted = True
            self.line.abort()


async def until_gone(receive: Receive, line: Watch) -> None:
    """Wait until the client has gone, then abort; what it sends is ignored."""
    has_body = True
    try:
        while (message := await receive())["type"] != "http.disconnect":
            if not has_body:  # a server that does not wait here must not be polled in a busy loop
                await anyio.lowlevel.checkpoint()
            has_body = message.get("more_body", False)
    except Exception:  # what servers raise after the end differs
        pass
    line.abort()


def until_gone_watch(receive: Receive) -> Watch:
    """Return a watch that aborts its block when the client has gone."""
    return watch(partial(until_gone, receive))


class BodyReceiver:
    """Receives a request's body while its client is being authenticated, and keeps it for later.

    It alone calls the server's `receive`: what a call that is cancelled has taken from the server could be lost.

    Args:
        receive: of the request.
        limit: bytes that are kept. With more of them, nothing further is received, not even that the client has left.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit = receive, limit
        self._body, self._has_more = bytearray(), True
        self._arrived = anyio.Event()

    @property
    def is_complete(self) -> bool:
        """Whether the end of the body has arrived."""
        return not self._has_more

    async def until_gone(self, line: Watch) -> None:
        """As the function of this name."""

        async def kept() -> Message:
            message = await self._receive()
            if self._has_more and message["type"] != "http.disconnect":
                self._body += message.get("body", b"")
                self._has_more = message.get("more_body", False)
                self._arrived.set()
                if len(self._body) > self._limit:
                    await anyio.sleep_forever()
            return message

        await until_gone(kept, line)

    async def receive(self) -> Message:
        """Wait for more of the body, and return all that has arrived."""
        await self._arrived.wait()
        self._arrived = anyio.Event()
        body, self._body = bytes(self._body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self._has_more}


@asynccontextmanager
async def attended(site: Site, receive: Receive) -> AsyncIterator[Receive]:
    """Run a block that authenticates a client, until the client leaves or the server shuts down: then cancel it.

    The block may read the body by the `receive` that it is given, and must not change anything.

    Raises:
        ClientGoneError: the client has left.
        WebError: 503, the server shuts down; a request that comes after that is served. 400, the client has left, or
            the server has given up reading, before the end of the body.
    """
    body = BodyReceiver(receive, site.options.max_body)
    line = watch(body.until_gone)

    async def receive_body() -> Message:
        if line.aborted:  # `authenticate` has returned although it was cancelled
            raise ClientGoneError
        return await body.receive()

    with Entrance(site.closing) as entrance, suppress(ClientGoneError):
        async with line:
            entrance.line = line
            yield receive_body
            entrance.line = None
    if entrance.has_aborted:
        raise WebError(503, "shutting_down", "the server is shutting down: try again")
    if line.aborted and not body.is_complete:  # some servers let a client that sent nonsense read the answer
        raise WebError(400, "incomplete", "the request ended before its body was complete")
    if line.aborted:
        raise ClientGoneError
