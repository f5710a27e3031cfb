"""The ASGI application: which handler serves which request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from notify import Notifier, NotifyError, UsageError
from notify._asgi import FILES, Authenticate, Identity, Receive, Request, Scope, Send, WebError, reply_to, without_body
from notify.inbox import Inbox

from . import _auth, _files, _inbox_http, _openapi, _polling, _publish, _routing, _sse, _websocket
from ._options import WebOptions
from ._site import Handler, Site, check_notifier


def _with_head(methods: Mapping[str, Handler]) -> Mapping[str, Handler]:
    """Return the handlers, with one for HEAD where there is GET: it answers as GET does, without the body."""
    get = methods.get("GET")
    return methods if get is None else {"HEAD": partial(_without_body, get), **methods}


async def _without_body(get: Handler, site: Site, request: Request, receive: Receive, send: Send) -> None:
    await get(site, request, receive, without_body(send))


_HANDLERS: Final[Mapping[str, Mapping[str, Handler]]] = {
    "stream": {"GET": _sse.stream, "HEAD": _sse.head},
    "events": {"GET": _polling.events, "HEAD": _polling.head},
    "ticket": {"POST": _auth.ticket},
    "push": {"POST": _publish.push},
    "inbox": {"GET": _inbox_http.page},
    "inbox/counts": {"GET": _inbox_http.counts},
    "inbox/mark": {"POST": _inbox_http.mark},
    _routing.ITEM: {"DELETE": _inbox_http.dismiss},
    _routing.GROUP: {"DELETE": _inbox_http.dismiss_group},
    "follow": {"POST": _inbox_http.follow},
    _routing.TOPIC: {"DELETE": _inbox_http.unfollow},
    "following": {"GET": _inbox_http.following},
    "health": {"GET": _files.health},
    "openapi.json": {"GET": _openapi.document},
    **{name: {"GET": _files.file} for name in FILES},
}

ROUTES: Final = {endpoint: _with_head(methods) for endpoint, methods in _HANDLERS.items()}
"""The handlers, by the end of the path and the method."""


class NotifyApp:
    """Notifications for browsers: server-sent events, WebSocket, polling, tickets and limits in one application.

    Pure ASGI: run it by itself, or mount it anywhere in another application. It starts when it is first used, so it
    needs no lifespan events; if it gets them, the streams end with the server.

    Args:
        notifier: streams come from it; it is not closed.
        authenticate: called with each `Request`, plain or async; returns the user, an `Identity`, or None for 401.
        inbox: an `Inbox` of the same notifier, whose items clients may list and mark; None for no inbox.
        heartbeat: seconds of silence after which a stream writes a comment.
        retry: minimum and maximum of the seconds after which a client reconnects; drawn for each connection.
        lifetime: seconds after which a stream ends, and its client reconnects; varied by a fifth.
        send_timeout: seconds that one write to a client may take before its stream is ended.
        long_poll: the longest that a poll may wait for an event, in seconds.
        max_streams: the most streams that may be open in this process; None for no limit.
        max_streams_per_user: the most that one user may have open here; one more ends the oldest.
        max_body: the largest request body, in bytes.
        ticket_lifetime: seconds for which a ticket is valid.
        drain: seconds that streams have to send their last frame when the server shuts down.
        origins: other sites whose pages may use this application, for example `https://app.example.com`.
        publish_secrets: secrets for `POST /push`, which does not exist without them.
        on_push: called with each event after `POST /push` has pushed it; plain or async.
        dialect: serves the clients of another system; docs/howto/dialects.md has the names.
        authorize_follow: called with an `Identity` and the name of a topic that a client wants to follow; plain or
            async; it may if that returns True. By default the topic has to be among `Identity.addresses`.

    Raises:
        UsageError: an argument is unacceptable, or the notifier's store does not support signals.
    """

    def __init__(
        self,
        notifier: Notifier[Any],
        authenticate: Authenticate,
        *,
        inbox: Inbox | None = None,
        heartbeat: float = 15.0,
        retry: tuple[float, float] = (1.0, 5.0),
        lifetime: float = 900.0,
        send_timeout: float = 20.0,
        long_poll: float = 25.0,
        max_streams: int | None = None,
        max_streams_per_user: int = 20,
        max_body: int = 65_536,
        ticket_lifetime: float = 30.0,
        drain: float = 2.0,
        origins: Sequence[str] = (),
        publish_secrets: Sequence[str | bytes] = (),
        on_push: Callable[..., Any] | None = None,
        dialect: str | None = None,
        authorize_follow: Callable[[Identity, str], Any] | None = None,
    ) -> None:
        options = WebOptions(
            heartbeat=heartbeat,
            retry=retry,
            lifetime=lifetime,
            send_timeout=send_timeout,
            long_poll=long_poll,
            max_streams=max_streams,
            max_streams_per_user=max_streams_per_user,
            max_body=max_body,
            ticket_lifetime=ticket_lifetime,
            drain=drain,
            origins=origins,
            publish_secrets=publish_secrets,
            on_push=on_push,
            dialect=dialect,
            authorize_follow=authorize_follow,
            inbox=inbox,
        )
        self._site = Site(check_notifier(notifier), authenticate, options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a WebSocket, or the lifespan of the server.

        Raises:
            UsageError: the scope is of another type.
        Cancellation: a stream that has begun first sends its last frame, within half a second, or within `drain` if
            many end at once.
        Concurrency: any number of tasks of one event loop.
        """
        kind = scope["type"]
        if kind == "http":  # here, and not in a method: a frame costs every event of every stream
            request = Request(scope)
            method, extra_headers = request.method, request.response_headers
            try:
                handling = self._handler(request)(self._site, request, receive, send)
                del request  # lets a stream, which may last for hours, release it
                await handling
            except (WebError, NotifyError) as error:
                await reply_to(error).send(without_body(send) if method == "HEAD" else send, extra_headers)
        elif kind == "websocket":
            await _websocket.serve(self._site, Request(scope), receive, send)
        elif kind == "lifespan":
            await self._live(receive, send)
        else:
            raise UsageError(f"NotifyApp serves http, websocket and lifespan, not {kind!r}")

    def begin_shutdown(self) -> None:
        """End the streams; new ones are told to come back later. For code that runs a server itself. Idempotent."""
        self._site.closing.begin("asked")

    async def aclose(self) -> None:
        """End the streams and the tasks of the application; the notifier stays open. Idempotent.

        Cancellation: the streams are told to end in any case.
        """
        await self._site.aclose()

    def _handler(self, request: Request) -> Handler:
        """Return what serves a request.

        Raises:
            WebError: nothing does, or the request is one of another site.
        """
        site = self._site
        endpoint = _routing.endpoint_of(request.scope, site.aliases)
        _auth.check_site(site, request, endpoint)
        methods = ROUTES.get(endpoint) or _named_methods(site, request)
        handler = methods.get(request.method)
        if handler is not None:
            return handler
        if request.method == "OPTIONS":
            return partial(_options, methods)
        allowed = ", ".join(sorted({*methods, "OPTIONS"}))
        raise WebError(405, "method_not_allowed", f"use {allowed}", [(b"allow", allowed.encode())])

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._site.closing.reopen()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _options(methods: Mapping[str, Handler], site: Site, request: Request, _: Receive, send: Send) -> None:
    await _auth.send_options(site, request, methods, send)


def _named_methods(site: Site, request: Request) -> Mapping[str, Handler]:
    """Return the handlers of a path that ends with a name."""
    named = _routing.named_of(request.scope, site.aliases)
    if named is None:
        raise WebError(404, "not_found", "there is nothing at this path: try /health, /stream or /client.js")
    return ROUTES[named.endpoint]
