"""GET /stream: server-sent events.

The order on the wire: head and `retry:`, the replay with ids, `notify.sync`, live events. The end is a frame too, and
never an error status: a browser gives up for good on anything but a 200 of the right type, and reconnects after every
end of that.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any, Final

import anyio
import anyio.lowlevel

from notify import Event, Notifier

from . import _position
from ._dialects import Frame
from ._frames import HEARTBEAT, one_line, retry_line, sse_frame
from ._options import WebOptions
from ._position import Asked
from ._reply import Reply
from ._request import Headers, Identity, Message, Receive, Request, Scope, Send
from ._session import Admission, Ended, Session, admit, ended, logs_of, retry_of, translation_of
from ._site import Site, check_notifier
from ._translation import Translation
from ._watch import Watch, watch

CHUNK: Final = 65_536
"""Bytes of frames that are written at once, roughly."""

HEADERS: Final[Headers] = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
"""No proxy may keep back, compress or store a stream."""


class Entrance:
    """What the end of the server is told to, before there is a session: then the session is ended."""

    __slots__ = ("session",)

    def __init__(self) -> None:
        self.session: Session | None = None

    def shut_down(self) -> None:
        """End the session, if there is one."""
        if self.session is not None:
            self.session.shut_down()


async def stream(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve GET /stream."""
    await serve(site, partial(admit, site, request), request, receive, send)


async def serve(
    site: Site, admitted: Callable[[], Awaitable[Admission]], request: Request, receive: Receive, send: Send
) -> None:
    """Serve one stream, until its end.

    Args:
        site: the application.
        admitted: returns who the client is and what it reads, or raises WebError.
        request: where to continue is read from it.
        receive: of the request.
        send: of the request.

    Raises:
        WebError: it cannot be opened; nothing was sent.
    """
    if site.limits.is_full:
        await _send_end(send, request, ended(site, "overload"))
        return
    entrance = Entrance()
    with site.closing.stream(entrance.shut_down):
        if site.closing.begun:
            await site.closing.farewell(send, *_last_messages(request, ended(site, "shutdown")))
            return
        admission = await admitted()
        asked = _position.asked(request.headers, request.query)
        if asked.is_refused(admission.identity.session):
            await Reply(204, headers=[(b"cache-control", b"no-store")]).send(send, request.response_headers)
            return

        async def until_disconnected() -> None:
            while await is_connected(receive):
                pass
            line.abort()

        line = watch(until_disconnected)
        async with line:
            await _run(site, admission, asked, entrance, line, request, send)


async def _run(
    site: Site, admission: Admission, asked: Asked, entrance: Entrance, line: Watch, request: Request, send: Send
) -> None:
    started = False
    try:
        translation = translation_of(site, request, asked, admission)
        position = asked.position if translation is None else translation.position
        session = entrance.session = Session(site, admission, position, line.abort)
        if site.closing.begun:  # while the client was authenticated
            session.shut_down()
        async with session:
            feed = FrameFeed(site, session, translation, typed=request.query.get("events") == "typed")
            chunk = feed.beginning if site.turns.is_busy else feed.beginning + await feed.read()
            session.sending = session.written = time.monotonic()
            await send(_head(request))
            started = True
            while True:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                session.sending = 0.0
                chunk = await feed.read()
                session.sending = session.written = time.monotonic()
    except Ended as end:
        messages = _last_messages(request, end, started=started)
        if end.reason == "shutdown":
            await site.closing.farewell(send, *messages)
        else:
            with anyio.move_on_after(site.options.send_timeout):
                for message in messages:
                    await send(message)
    except anyio.get_cancelled_exc_class():
        if started and not line.aborted:
            messages = _last_messages(request, ended(site, "shutdown"), started=True)
            await site.closing.farewell(send, *messages, cancelled=True)
        raise


async def is_connected(receive: Receive) -> bool:
    """Wait for what the client sends, which is nothing of interest; return whether it is still there."""
    try:
        message = await receive()
    except Exception:
        return False
    if message["type"] == "http.disconnect":
        return False
    if not message.get("more_body", False):
        await anyio.lowlevel.checkpoint()
    return True


def _head(request: Request) -> Message:
    headers = HEADERS + request.response_headers if request.response_headers else HEADERS
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _last_messages(request: Request, end: Ended, *, started: bool = False) -> list[Message]:
    last: Message = {"type": "http.response.body", "body": end_frames(end)}
    return [last] if started else [_head(request), last]


async def _send_end(send: Send, request: Request, end: Ended) -> None:
    for message in _last_messages(request, end):
        await send(message)


def end_frames(end: Ended) -> bytes:
    """Return the last bytes of a stream."""
    last = end.dialect.farewell(end.reason) if end.dialect is not None else None
    named = sse_frame(last.data, event=last.name) if last is not None else b""
    return retry_line(end.retry) + named + sse_frame(one_line(end.value), event="notify.end", id=end.mark)


class FrameFeed:
    """What goes over the wire of one stream, in chunks.

    Args:
        site: the application.
        session: entered.
        translation: the frames of the dialect, if there is one.
        typed: whether the frames of application events are called by their types.

    Attributes:
        beginning: the first frames.
    """

    __slots__ = ("_is_synced", "_session", "_site", "_translation", "_typed", "beginning")

    def __init__(
        self, site: Site, session: Session, translation: Translation | None = None, *, typed: bool = False
    ) -> None:
        self._site = site
        self._session = session
        self._typed = typed
        self._translation = translation
        self._is_synced = False
        self.beginning = retry_line(retry_of(site))
        if translation is not None:
            self.beginning += _named(translation.beginning())
        if session.is_invalid:
            gap = {"reason": "invalid", "from": "", "to": session.last_id, "user": session.user}
            self.beginning += sse_frame(one_line(gap), event="notify.gap")
        if not session.has_log:
            self.beginning += self._sync()

    async def read(self) -> bytes:
        """Return the next chunk: frames, or a heartbeat.

        Raises:
            Ended: the stream is to end.
        """
        if self._is_synced:
            event = await self._session.next()
            return HEARTBEAT if event is None else self._encoded(event)
        turns = self._site.turns
        await turns.acquire()
        try:
            event = await self._session.next()
            return HEARTBEAT if event is None else self._encoded(event)
        finally:
            turns.release()

    def _encoded(self, event: Event) -> bytes:
        frame = self._frame(event)
        following = self._session.next_nowait()
        if following is None:
            return frame or HEARTBEAT  # in a dialect an event may be no frame; no bytes are the end to some servers
        frames, size = [frame], len(frame)
        while following is not None:
            frame = self._frame(following)
            frames.append(frame)
            size += len(frame)
            following = self._session.next_nowait() if size < CHUNK else None
        return b"".join(frames) or HEARTBEAT

    def _frame(self, event: Event) -> bytes:
        if event.type == "notify.sync":
            return self._sync()
        if self._translation is not None:
            id_ = self._translation.id_of(event, self._session.last_id)
            return _named(self._translation.frames(event), id_)
        if event.type == "notify.gap":
            return sse_frame(one_line({**event.payload, "user": event.user}), event="notify.gap")
        return self._site.frames.sse(event, self._session.last_id, typed=self._typed)

    def _sync(self) -> bytes:
        self._is_synced = True
        if self._translation is not None:
            return _named(self._translation.sync())
        position = self._session.last_id
        data = {"position": position, "heartbeat": self._site.options.heartbeat}
        return sse_frame(one_line(data), event="notify.sync", id=position)


def _named(frames: Iterable[Frame], id_: str = "") -> bytes:
    return b"".join(sse_frame(frame.data, event=frame.name, id=id_) for frame in frames)


class EventStream:
    """A stream for an endpoint of one's own, whose user is already known: an ASGI application for one request.

    What frameworks that return something else need is here too: `status`, `headers` and `chunks`.

    Args:
        notifier: streams come from it.
        user: whose events are streamed.
        scope: of the request: where to continue, `?events=typed` and `?address=` are read from it.
        addresses: further logs that the client may name in `?address=`.
        session: as for `Identity`.
        expires_at: as for `Identity`.
        options: those of `NotifyApp`. Calls with the same ones share their limits.

    Raises:
        UsageError: an argument is unacceptable.
        WebError: 403 if the client names an address that it may not read.
    """

    def __init__(
        self,
        notifier: Notifier[Any],
        user: str,
        scope: Scope,
        *,
        addresses: Iterable[str] = (),
        session: str = "",
        expires_at: datetime | None = None,
        **options: Any,
    ) -> None:
        self._site = shared_site(notifier, WebOptions(**options))
        self._identity = Identity(user, tuple(addresses), expires_at, session)
        self._request = Request(scope)
        self._logs = logs_of(self._identity, self._request.query_all("address"))
        self._asked = _position.asked(self._request.headers, self._request.query)

    @property
    def status(self) -> int:
        """The status: 204 for a client that was disconnected in this session, and has come back by itself."""
        return 204 if self._asked.is_refused(self._identity.session) else 200

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of the response."""
        return [(name.decode(), value.decode()) for name, value in HEADERS]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request."""
        await serve(self._site, self._admission, self._request, receive, send)

    async def _admission(self) -> Admission:
        return Admission(self._identity, self._logs, await self._site.notifier.moment())

    async def chunks(self, abort: Callable[[], None] = lambda: None) -> AsyncGenerator[bytes, None]:
        """Yield the body, for a framework that closes the generator when the client has gone.

        Args:
            abort: called if the client has not read for `send_timeout` seconds.
        """
        site = self._site
        try:
            admission = await self._admission()
            translation = translation_of(site, self._request, self._asked, admission)
            position = self._asked.position if translation is None else translation.position
            session = Session(site, admission, position, abort)
            with site.closing.stream(session.shut_down):
                async with session:
                    feed = FrameFeed(site, session, translation, typed=self._request.query.get("events") == "typed")
                    chunk = feed.beginning
                    while True:
                        session.sending = session.written = time.monotonic()
                        yield chunk
                        session.sending = 0.0
                        chunk = await feed.read()
        except Ended as end:
            yield end_frames(end)


def shared_site(notifier: Notifier[Any], options: WebOptions) -> Site:
    """Return the site for endpoints of one's own: one for each notifier and options, as long as the notifier lives."""
    sites: dict[WebOptions, Site] = vars(check_notifier(notifier)).setdefault("_web_sites", {})
    if options not in sites:
        sites[options] = Site(notifier, None, options)
    return sites[options]
