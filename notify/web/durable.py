"""The read half of Durable Streams: a log over plain HTTP, for the clients of that protocol.

```python
app.mount("/streams", DurableStreams(notifier, authenticate))
```

`GET /streams/alice?offset=-1` answers with what the log of alice retains, and with the offset to continue from;
`&live=long-poll` and `&live=sse` wait for more. The protocol has no notion of a gap: a client whose offset the log no
longer reaches back to is answered with 410 and begins again at `-1`, so nothing is skipped silently. There is no write
half: what is in a log was pushed by the application. Ephemeral events are not in a log, so they are not here either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import anyio

from notify import Notifier, NotifyError, UsageError
from notify._asgi import Authenticate, Receive, Reply, Request, Scope, Send, WebError, send_whole, while_open

from ._admission import Admission, admit, check
from ._durable import Form as Form
from ._durable import payload as payload
from ._durable_reading import Reading, refusal, unavailable
from ._frames import wire_object
from ._options import WebOptions
from ._session import Ended, ended
from ._site import Site, check_notifier
from ._sse import Entrance, until_gone_watch

EVENTS: Final = Form(wire_object)
"""Each item is the JSON object of an event, as on every other transport."""

METHODS: Final = ("GET", "HEAD", "OPTIONS")

_EXPOSED: Final = b"ETag, Stream-Next-Offset, Stream-Cursor, Stream-Up-To-Date, Stream-SSE-Data-Encoding"


class DurableStreams:
    """An ASGI application that serves logs by the read half of the Durable Streams protocol.

    The path below the mount names the log; without one it is the log of the user. A client may read the logs of its
    `Identity`: that of the user, that of the session, and the `addresses`.

    Args:
        notifier: streams come from it; closing it is up to the caller.
        authenticate: as for `NotifyApp`.
        form: what a stream consists of. A function from the name of a log to a `Form` decides for each log; None is a
            404.
        chunk: the approximate size of one answer, in bytes: a client asks again for the rest.
        heartbeat: seconds of silence after which a stream of server-sent events writes a comment.
        lifetime: seconds after which a stream of server-sent events ends and its client reconnects; varied by a fifth.
        send_timeout: seconds that one write to a client may take.
        long_poll: seconds that a long poll waits.
        max_streams: the most live reads that may be open in this process; None for no limit.
        max_streams_per_user: the most live reads that one user may have open here; one more ends the oldest.
        drain: seconds that live reads have to end when the server shuts down.
        origins: other sites whose pages may read.

    Raises:
        UsageError: an argument is unacceptable.
    """

    def __init__(
        self,
        notifier: Notifier[Any],
        authenticate: Authenticate,
        *,
        form: Form | Callable[[str], Form | None] = EVENTS,
        chunk: int = 262_144,
        heartbeat: float = 15.0,
        lifetime: float = 60.0,
        send_timeout: float = 20.0,
        long_poll: float = 25.0,
        max_streams: int | None = None,
        max_streams_per_user: int = 20,
        drain: float = 2.0,
        origins: Sequence[str] = (),
    ) -> None:
        if not callable(authenticate):
            raise UsageError(f"authenticate must be a function of a request, not {authenticate!r:.80}")
        if not isinstance(form, Form) and not callable(form):
            raise UsageError(f"form must be a Form, or a function from a log's name to one, not {form!r:.80}")
        options = WebOptions(
            heartbeat=heartbeat,
            lifetime=lifetime,
            send_timeout=send_timeout,
            long_poll=long_poll,
            max_streams=max_streams,
            max_streams_per_user=max_streams_per_user,
            max_body=chunk,
            drain=drain,
            origins=origins,
        )
        self._site = Site(check_notifier(notifier), authenticate, options)
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            UsageError: the scope is not that of an HTTP request; the application has no lifespan.
        Cancellation: an event stream that has begun is completed first, within half a second, or within `drain` if many
            end at once.
        Concurrency: any number of tasks of one event loop.
        """
        if scope["type"] != "http":
            raise UsageError(f"DurableStreams serves HTTP, not {scope['type']!r}: route only HTTP requests to it")
        request = Request(scope)
        policy = b"cross-origin" if self._site.rules else b"same-origin"
        request.response_headers += [
            (b"x-content-type-options", b"nosniff"),
            (b"cross-origin-resource-policy", policy),
        ]
        try:
            await self._serve(request, receive, send)
        except Ended as end:
            await send_whole(send, refusal(unavailable(end), request))
        except (WebError, NotifyError) as error:
            await send_whole(send, refusal(error, request))

    def begin_shutdown(self) -> None:
        """End the live reads, whose clients read on elsewhere. For applications that run a server themselves."""
        self._site.closing.begin("asked")

    async def aclose(self) -> None:
        """End the live reads; the notifier stays open. Idempotent."""
        await self._site.aclose()

    async def _serve(self, request: Request, receive: Receive, send: Send) -> None:
        self._check_site(request)
        if request.method == "OPTIONS":
            granted = self._site.rules.preflight(request.headers, METHODS)
            await Reply(204, headers=[(b"allow", ", ".join(METHODS).encode()), *granted]).send(send)
            return
        if request.method not in METHODS:
            allowed = ", ".join(METHODS)
            raise WebError(405, "method_not_allowed", f"use {allowed}", [(b"allow", allowed.encode())])
        await self._answer(request, receive, send)

    async def _answer(self, request: Request, receive: Receive, send: Send) -> None:
        """Authenticate the client, read, and answer, until the client leaves or the server shuts down."""
        site = self._site
        entrance, line = Entrance(site.closing), until_gone_watch(receive)
        reading: Reading | None = None
        reply: Reply | None = None
        with entrance:
            try:
                async with line:
                    if site.closing.begun and request.query.get("live"):  # the entrance is ended no more
                        raise WebError(503, "shutting_down", "the server is shutting down: try again")
                    entrance.line = line
                    admission, form = await self._admit(request)
                    entrance.line = None
                    if not line.aborted:  # `authenticate` may have returned although it was cancelled
                        reading = Reading(site, admission, form, request)
                        reply = await reading.answer(entrance, line, send)
            except anyio.get_cancelled_exc_class():
                if reading is not None and reading.live and not line.aborted:
                    with while_open():
                        await site.closing.farewell(send, *reading.last_messages(), cancelled=True)
                raise
            if entrance.has_aborted:
                messages = refusal(unavailable(ended(site, "shutdown")), request)
            elif reply is not None:
                messages = reply.messages(request.response_headers)
            elif reading is None or not reading.has_started:  # some middleware logs an error if there is no response
                messages = refusal(WebError(400, "incomplete", "the client left before it was answered"), request)
            else:
                return
            with while_open():
                if site.closing.begun:
                    await site.closing.farewell(send, *messages)
                    return
                with anyio.move_on_after(site.options.send_timeout):
                    for message in messages:
                        await send(message)

    def _check_site(self, request: Request) -> None:
        refusal = self._site.rules.refusal(request.method, request.scope.get("scheme", "http"), request.headers)
        if refusal is not None and request.method != "OPTIONS":
            raise WebError(*refusal)
        granted = self._site.rules.cors(request.headers)
        request.response_headers += granted
        if any(name == b"access-control-allow-origin" for name, _ in granted):
            request.response_headers.append((b"access-control-expose-headers", _EXPOSED))

    async def _admit(self, request: Request) -> tuple[Admission, Form]:
        """Return the client's admission to the log that the path names, and the form in which the log is served."""
        if request.method == "HEAD":
            moment = await self._site.notifier.moment()
            admission = replace(await check(self._site, request), moment=moment)
        else:
            admission = await admit(self._site, request)
        identity = admission.identity
        path = below_mount(request.scope)
        allowed = {identity.user, *filter(None, [identity.session]), *identity.addresses}
        log = (
            identity.user
            if not path
            else next((name for name in (path, path.rpartition("/")[2]) if name in allowed), "")
        )
        if not log:
            raise WebError(403, "forbidden", "this user may not read this stream")
        form = self._form if isinstance(self._form, Form) else self._form(log)
        if form is None:
            raise WebError(404, "not_found", "there is no such stream")
        return replace(admission, logs=(log,)), form


def below_mount(scope: Scope) -> str:
    """Return the path below the mount, without slashes around it.

    Frameworks differ in what of `root_path` the path still contains, so the longest end of it that the path begins
    with is left out.
    """
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    for start, character in enumerate(root):
        if character == "/" and f"{path}/".startswith(f"{root[start:]}/"):
            return path[len(root) - start :].strip("/")
    return path.strip("/")
