"""GET /stream: server-sent events.

The order on the wire: head and `retry:`, the replay with ids, `notify.sync`, live events. The end is a frame too, and
never an error status: a browser gives up for good on anything but a 200 of the right type, and reconnects after every
end of that.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel

from notify import BackendError, ClosedError, Event
from notify._asgi import (
    NO_STORE,
    Headers,
    Message,
    Receive,
    Reply,
    Request,
    Send,
    WebError,
    is_closed,
    log_gone,
    send_part,
    while_open,
)

from . import _position
from ._admission import Admission, admit, check
from ._closing import Closing, OpenStream
from ._dialects import Frame
from ._frames import HEARTBEAT, one_line, retry_line, sse_frame, sync_members
from ._session import Ended, Reason, Session, ended, retry_of, translation_of
from ._site import Site
from ._translation import Translation
from ._watch import Watch, watch

_SIGNALS: Final = frozenset({"notify.sync", "notify.gap", "notify.counts"})
"""The types of the events that the library itself hands out: they are frames of their own, not `message`."""

CHUNK: Final = 65_536
"""Bytes of frames that are written at once, roughly."""

HEADERS: Final[Headers] = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
"""No proxy may keep back, compress or store a stream."""


class _AbortedError(Exception):
    """The client has left, or the server shuts down: there is nothing to open."""


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


def stream(site: Site, request: Request, receive: Receive, send: Send) -> Awaitable[None]:
    """Serve GET /stream."""
    return serve(site, admit, request, receive, send)


async def head(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve HEAD /stream: the head of what GET would send, for monitoring and proxies. Nothing is opened.

    Raises:
        WebError: the client is refused.
    """
    await check(site, request)
    await Reply(200, headers=HEADERS).send(send, request.response_headers)


async def serve(
    site: Site,
    admitted: Callable[[Site, Request], Awaitable[Admission]],
    request: Request,
    receive: Receive,
    send: Send,
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
    # One coroutine, since a frame more takes time at every event. `try` where `with` would keep a bound method, and
    # what only opening needs is deleted, since the garbage collector visits each object of thousands of open streams.
    extra_headers = request.response_headers
    entrance = Entrance(site.closing)
    site.closing.opened(entrance)
    try:
        started = is_unanswered = False
        async with watch(partial(until_gone, receive), site.closing.loop) as line:
            try:
                refused: Reason | None
                refused = "shutdown" if site.closing.begun else "overload" if site.limits.is_full else None
                if refused is not None:
                    raise ended(site, refused)
                entrance.line = line
                try:
                    admission = await admitted(site, request)
                finally:
                    entrance.line = None
                if line.aborted:
                    raise _AbortedError  # noqa: TRY301 - `authenticate` has returned although it was cancelled
                query = request.query
                asked = _position.asked(request.headers, query)
                if asked.disconnected and asked.is_refused(admission.login):
                    await Reply(204, headers=NO_STORE).send(send, extra_headers)
                    return
                translation = None if site.dialect is None else translation_of(site, request, asked, admission)
                position = asked.position if translation is None else translation.position
                typed = query.get("events") == "typed"
                session = entrance.session = Session(site, admission, position, line, tells_sync=True)
                del admission, asked, position, query, request
                if site.closing.begun:  # while the client was authenticated
                    session.shut_down()
                try:
                    if not session.enlist():  # its turn may come later than a proxy waits for the head
                        with anyio.fail_after(site.options.send_timeout):
                            await send_part(send, _response_start(extra_headers))
                        started = True
                        await session.line_up(partial(_keep_alive, session, send))
                    await session.open()
                    feed = FrameFeed(site, session, translation, typed=typed)
                    chunk = await feed.first()
                    session.sending = session.written = time.monotonic()
                    if not started:
                        await send_part(send, _response_start(extra_headers))
                        started = True
                    while True:
                        try:
                            await send({"type": "http.response.body", "body": chunk, "more_body": True})
                        except Exception as error:  # `send_part` would be one more call for each event
                            if not is_closed(error):
                                raise
                            log_gone(error)
                            return
                        session.sending = 0.0
                        if feed.is_synced:
                            try:
                                chunk = feed.encoded(await session.stream.next())
                            except (TimeoutError, ClosedError, BackendError) as error:
                                chunk = HEARTBEAT if session.is_due(error) else await feed.read()
                        else:
                            chunk = await feed.read()
                        session.sending = session.written = time.monotonic()
                finally:
                    await session.aclose()
            except Ended as end:
                await _end(site, extra_headers, send, end, started=started)
            except (ClosedError, BackendError, WebError) as error:  # while admitting; a Session too raises WebError 400
                is_unanswered = line.aborted
                if not is_unanswered:
                    await _end(site, extra_headers, send, _end_of(site, error), started=started)
            except _AbortedError:
                is_unanswered = True
            except OSError:  # the client is gone
                return
            except anyio.get_cancelled_exc_class():
                if started and not line.aborted:
                    messages = _last_messages(extra_headers, ended(site, "shutdown"), started=True)
                    with while_open():
                        await site.closing.farewell(send, *messages, cancelled=True)
                is_unanswered = line.aborted and not started
                raise
        if entrance.has_aborted:
            await _end(site, extra_headers, send, ended(site, "shutdown"))
        elif is_unanswered:  # the client has left, but some middleware logs an error if there is no response
            with while_open(), anyio.move_on_after(site.options.send_timeout):
                await send(_response_start(extra_headers))
                await send({"type": "http.response.body", "body": b""})
    finally:
        site.closing.closed(entrance)


def _end_of(site: Site, error: Exception) -> Ended:
    """Return the end of a stream that cannot open for now: the notifier is closed, or a backend does not answer.

    A browser reconnects after a stream that ends, but not after an error status.

    Raises:
        WebError: the client, or what it asks for, is refused.
    """
    if isinstance(error, WebError) and error.status != 503:
        raise error
    return ended(site, "shutdown" if isinstance(error, ClosedError) else "overload")


async def _keep_alive(session: Session, send: Send) -> None:
    session.sending = session.written = time.monotonic()
    await send_part(send, {"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
    session.sending = 0.0


async def _end(site: Site, extra_headers: Headers, send: Send, end: Ended, *, started: bool = False) -> None:
    messages = _last_messages(extra_headers, end, started=started)
    with while_open():
        if end.reason == "shutdown":
            await site.closing.farewell(send, *messages)
            return
        with anyio.move_on_after(site.options.send_timeout):
            for message in messages:
                await send(message)


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


def _response_start(extra_headers: Headers) -> Message:
    headers = [*HEADERS, *extra_headers]  # a new list, because middleware may change it
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _last_messages(extra_headers: Headers, end: Ended, *, started: bool = False) -> list[Message]:
    last: Message = {"type": "http.response.body", "body": end_frames(end)}
    return [last] if started else [_response_start(extra_headers), last]


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
        is_synced: whether the replay is over.
    """

    __slots__ = ("_beginning", "_is_one_log", "_is_plain", "_session", "_site", "_translation", "_typed", "is_synced")

    def __init__(
        self, site: Site, session: Session, translation: Translation | None = None, *, typed: bool = False
    ) -> None:
        self._site = site
        self._session = session
        self._typed = typed
        self._translation = translation
        self.is_synced = False
        self._is_one_log = session.is_one_log
        self._is_plain = session.is_one_log and translation is None and not typed
        self._beginning = retry_line(retry_of(site))
        if translation is not None:
            self._beginning += _named(translation.beginning())
        if session.is_invalid:
            gap = {"reason": "invalid", "from": "", "to": session.last_id, "user": session.user}
            self._beginning += sse_frame(one_line(gap), event="notify.gap")
        if not session.has_log:
            self._beginning += self._sync()

    async def first(self) -> bytes:
        """Return the first chunk, with the replay unless that has to wait.

        Raises:
            Ended: the stream is to end.
        """
        if self.is_synced:
            return self._beginning
        session = self._session
        if session.is_from_now:
            # Nothing to replay, and no event says so: see `tells_sync` of the session. An event that came while the
            # stream was being opened may be in hand: it is live.
            if session.is_one_log and session.stream.is_open:
                return self._beginning + self._sync()
        elif self._site.turns.is_busy:
            return self._beginning
        event = session.stream.next_nowait()  # of the page that was read when the session was entered
        if event is None:
            return self._beginning + await self.read()
        return self._beginning + self.encoded(event)

    async def read(self) -> bytes:
        """Return the next chunk: frames, or a heartbeat.

        Raises:
            Ended: the stream is to end.
        """
        if self.is_synced:
            event = await self._session.next()
            return HEARTBEAT if event is None else self.encoded(event)
        event = await self._session.next_in_turn()
        return HEARTBEAT if event is None else self.encoded(event)

    def encoded(self, event: Event) -> bytes:
        """Return the frames of an event and of those that are in hand after it."""
        cache = self._site.frames
        if cache.latest[0] is event and self._is_plain:
            frame = cache.latest[1]  # of a broadcast, or of another stream of the same user
        elif self._is_plain and event.type not in _SIGNALS:
            frame = cache.message(event)
        else:
            frame = self._frame(event)
        stream = self._session.stream
        following = stream.next_nowait()
        if following is None:
            return frame or HEARTBEAT  # in a dialect an event may be no frame; no bytes are the end to some servers
        frames, size = [frame], len(frame)
        while following is not None:
            frame = self._frame(following)
            frames.append(frame)
            size += len(frame)
            following = stream.next_nowait() if size < CHUNK else None
        return b"".join(frames) or HEARTBEAT

    def _frame(self, event: Event) -> bytes:
        if event.type == "notify.sync":
            return self._sync(event)
        if self._translation is not None:
            id_ = self._translation.id_of(event, self._session.last_id)
            return _named(self._translation.frames(event), id_)
        if event.type == "notify.gap":
            return sse_frame(one_line({**event.payload, "user": event.user}), event="notify.gap")
        if event.type == "notify.counts":
            return sse_frame(event.data, event="notify.counts")
        last_id = event.id if self._is_one_log else self._session.last_id
        return self._site.frames.sse(event, last_id, typed=self._typed)

    def _sync(self, event: Event | None = None) -> bytes:
        self.is_synced = True
        if self._translation is not None:
            return _named(self._translation.sync(event))
        # The same bytes as from `one_line` and `sse_frame`, in a third of the time: each connection gets one, and a
        # position needs no escaping.
        position = self._session.last_id.encode()
        id_ = b"id: %b\n" % position if position else b""
        counts = b"" if event is None else sync_members(event)
        data = (position, self._site.heartbeat, counts)
        return b'event: notify.sync\n%bdata: {"position":"%b","heartbeat":%b%b}\n\n' % (id_, *data)


def _named(frames: Iterable[Frame], id_: str = "") -> bytes:
    return b"".join(sse_frame(frame.data, event=frame.name, id=id_) for frame in frames)
