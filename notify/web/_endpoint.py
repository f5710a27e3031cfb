"""A stream for an endpoint of the application: what `event_stream` of each framework returns is built on this.

Some frameworks let a response send by itself: `EventStream` is an ASGI application for one request, and does what
`GET /stream` does. Others ask for the next bytes and send them: `EventStream.chunks` returns an asynchronous iterator.
It has no task, no timer and no cancel scope of its own, because it is suspended whenever the framework sends.

The endpoints of one notifier that have the same options share their limits, and end together when the server shuts
down. What they share is kept in the notifier. Options that vary with the request share nothing, so they limit
nothing; what is kept for them is dropped in time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from notify import BackendError, ClosedError, Notifier, NotifyError, UsageError
from notify._asgi import (
    NO_STORE,
    Identity,
    Receive,
    Reply,
    Request,
    Scope,
    Send,
    WebError,
    WrongIdentityError,
    checked,
    reply_to,
)
from notify.adapters import check_user

from . import _position
from ._admission import Admission, logs_of
from ._login import login_of
from ._options import WebOptions
from ._session import Ended, Session, ended, translation_of
from ._site import Site, check_notifier
from ._sse import HEADERS, Entrance, FrameFeed, end_frames, serve

MAX_SITES: Final = 100
"""Sets of options of one notifier for which something is kept although no stream is open."""


def missing(framework: str, package: str) -> ModuleNotFoundError:
    """Return the error for a framework that is not installed."""
    return ModuleNotFoundError(
        f"notify.web.{package} needs {framework}, which is not installed: python -m pip install {package}", name=package
    )


class EventStream:
    """One stream, for a user whom the endpoint knows: an ASGI application for one request.

    It can be created in any thread; the stream is opened when the response begins.

    Args:
        notifier: streams come from it.
        user: whose events are streamed: a user id, or an `Identity`, which contains the next three arguments.
        scope: of the request: where to continue, `?events=typed` and `?address=` are read from it.
        addresses: further logs that the client may name in `?address=`.
        session: identifies the session; it is also the name of a log, whose events are streamed too.
        expires_at: when the credentials expire; the stream ends then.
        disconnected_since: a `Notifier.moment` from before the client was authenticated; disconnections count from it.
        options: those of `NotifyApp`.

    Attributes:
        reply: what is answered in place of a stream, if that is so: 403 to another site or for an address that the
            client may not read, 204 to a client that was disconnected in this session and has come back by itself.

    Raises:
        UsageError: an argument is unacceptable.
    """

    def __init__(
        self,
        notifier: Notifier[Any],
        user: str | Identity,
        scope: Scope,
        *,
        addresses: Iterable[str] = (),
        session: str = "",
        expires_at: datetime | None = None,
        disconnected_since: int | None = None,
        **options: Any,
    ) -> None:
        self._site = _shared_site(notifier, WebOptions(**options))
        # that of `Notifier.moment`, which waits: the response may begin seconds later
        now = self._site.notifier._parts.streams.generation
        self._moment = now if disconnected_since is None else disconnected_since
        if not isinstance(user, Identity):
            names: Any = addresses if isinstance(addresses, str) else tuple(addresses)
            user = Identity(user, names, expires_at, session)
        elif addresses or session or expires_at:
            raise UsageError("event_stream() takes an Identity, or a user with addresses=, session=, expires_at=")
        self._identity = _checked(user)
        self._request = Request(scope)
        self._logs: tuple[str, ...] = ()
        self._asked = _position.asked(self._request.headers, self._request.query)
        self.reply = self._reply()

    def _reply(self) -> Reply | None:
        try:
            self._check_site()
            self._logs = logs_of(self._identity, self._request.query_all("address"))
        except WebError as error:
            return reply_to(error)
        if self._asked.is_refused(login_of(self._identity, self._request)):
            return Reply(204, headers=NO_STORE)
        if self._request.method == "HEAD":
            return Reply(200, headers=HEADERS)
        return None

    def _check_site(self) -> None:
        request, rules = self._request, self._site.rules
        request.response_headers += rules.cors(request.headers)
        scheme = str(request.scope.get("scheme", "http"))
        refusal = rules.refusal(request.method, scheme, request.headers)
        if refusal is not None:
            raise WebError(*refusal)

    @property
    def status(self) -> int:
        """The status of the response."""
        return 200 if self.reply is None else self.reply.status

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of the response."""
        headers = HEADERS if self.reply is None else self.reply.headers
        return [(name.decode(), value.decode()) for name, value in [*headers, *self._request.response_headers]]

    def add_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Add headers of the framework to the response."""
        self._request.response_headers.extend(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request.

        Cancellation: a stream that has begun first sends its last frame, within half a second, or within `drain` if
            many end at once.
        """
        more = self._request.response_headers
        if self.reply is not None:
            await self.reply.send(send, more)
            return
        try:
            await serve(self._site, self._admission, self._request, receive, send)
        except (WebError, NotifyError) as error:
            await reply_to(error).send(send, more)

    def chunks(self) -> Chunks:
        """Return the body of the response, for a framework on asyncio that sends it."""
        return Chunks(self)

    async def _admission(self, site: Site, request: Request) -> Admission:
        await site.notifier.moment()  # so that this instance is informed of disconnections
        return Admission(self._identity, self._logs, self._moment, login_of(self._identity, request))


class Chunks:
    """The body of a stream: an asynchronous iterator of bytes that are to be sent at once.

    A framework asks for the next chunk when the last one was sent, so that is how long a send takes. If one takes too
    long, the task that iterates is cancelled: it is waiting for a client that does not read. When the client is gone,
    the framework cancels the task or closes the iterator; `aclose` and `close` are for both kinds of frameworks.

    Invariants:
        I1. `_session` is set exactly while the stream is open; whatever ends the iteration closes it.
    """

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self._site = stream._site
        self._entrance = Entrance(self._site.closing)
        self._session: Session | None = None
        self._feed: FrameFeed | None = None
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_over = False

    def __aiter__(self) -> Chunks:
        """Return the iterator."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk.

        Raises:
            StopAsyncIteration: the stream has ended, or was closed.
            WebError: the stream cannot be opened as the client asks.
        Cancellation: closes the stream.
        """
        if self._is_over:
            raise StopAsyncIteration
        if self._stream.reply is not None:
            return self._only(self._stream.reply.body)
        try:
            if self._feed is None:
                chunk = await self._open()
            else:
                assert self._session is not None
                self._session.sending = 0.0
                chunk = await self._feed.read()
        except Ended as end:
            self._release()
            return end_frames(end)
        except BaseException:
            self._release()
            raise
        if self._session is None:  # closed by another task in between
            raise StopAsyncIteration
        self._task = asyncio.current_task()
        self._session.sending = self._session.written = time.monotonic()
        return chunk

    async def aclose(self) -> None:
        """Close the stream. Idempotent, never waits."""
        self._release()

    def close(self) -> None:
        """Close the stream soon; may be called in any thread. Idempotent."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and the stream with it
                self._loop.call_soon_threadsafe(self._release)

    def _only(self, body: bytes) -> bytes:
        self._is_over = True
        if not body:
            raise StopAsyncIteration
        return body

    async def _open(self) -> bytes:
        site = self._site
        self._loop = asyncio.get_running_loop()
        if site.limits.is_full:
            raise ended(site, "overload")
        if site.closing.begun:
            raise ended(site, "shutdown")
        try:
            admission = await self._stream._admission(site, self._stream._request)
        except (ClosedError, BackendError) as error:
            raise ended(site, "shutdown" if isinstance(error, ClosedError) else "overload") from None
        stream = self._stream
        translation = translation_of(site, stream._request, stream._asked, admission)
        position = stream._asked.position if translation is None else translation.position
        session = Session(site, admission, position, self, tells_sync=True)
        await session.open()
        self._session = self._entrance.session = session  # keeps I1
        site.closing.opened(self._entrance)
        if self._is_over:  # closed by another task before there was a session
            raise StopAsyncIteration
        self._feed = FrameFeed(site, session, translation, typed=stream._request.query.get("events") == "typed")
        return await self._feed.first()

    def abort(self) -> None:
        """Cancel the task that sends the chunk which was handed out last."""
        assert self._task is not None  # a chunk was handed out: its task sends it
        self._task.cancel()
        self._release()

    def _release(self) -> None:
        self._is_over = True
        session, self._session = self._session, None  # keeps I1
        if session is not None:
            self._site.closing.closed(self._entrance)
            with suppress(StopIteration):  # closing a stream never waits
                session.aclose().send(None)


def _checked(identity: Identity) -> Identity:
    """Return an identity that the endpoint has made; what is wrong with it is not the client's fault."""
    check_user(identity.user)
    try:
        return checked(identity)
    except (WrongIdentityError, WebError) as error:
        raise UsageError(f"event_stream(): {error}") from error


def _shared_site(notifier: Notifier[Any], options: WebOptions) -> Site:
    sites: dict[WebOptions, Site] = vars(notifier).setdefault("_web_sites", {})
    site = sites.get(options)
    if site is None:
        if len(sites) >= MAX_SITES:
            for each, idle in [*sites.items()]:
                if not idle.closing:
                    sites.pop(each, None)  # another thread may have removed it
        site = sites.setdefault(options, Site(check_notifier(notifier), None, options))
    return site
