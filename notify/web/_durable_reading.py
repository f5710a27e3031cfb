"""One request of a Durable Streams client: a plain read, a long poll, server-sent events."""

from __future__ import annotations

import math
import random
import time
from typing import Final

import anyio

from notify import Event, InvalidEventIdError, NotifyError
from notify._asgi import (
    NO_STORE,
    Headers,
    Message,
    Reply,
    Request,
    Send,
    WebError,
    reply_to,
    send_part,
    while_open,
)

from ._admission import Admission
from ._durable import BEGINNING, NOW, Form, entity_tag, matches, next_cursor, offset_of, position_of, sse_frames
from ._frames import HEARTBEAT
from ._session import Ended, Session, ended
from ._site import Site
from ._sse import HEADERS, Entrance
from ._watch import Watch

READ_TIMEOUT: Final = 10.0
"""Seconds after which a log that cannot be read is a 503."""

_CURSOR_JITTER: Final = 180  # an hour of intervals
_BINARY: Final = (b"stream-sse-data-encoding", b"base64")
_LAST: Final[Message] = {"type": "http.response.body", "body": b""}


class Reading:
    """One request for a part of one log.

    Args:
        site: the application.
        admission: of this log alone.
        form: what the stream consists of.
        request: its query string says where to begin, and how.

    Attributes:
        live: `sse`, `long-poll`, or empty for a plain read.
        has_started: whether the response has begun while reading.

    Raises:
        WebError: 400: what is asked for is not a part of a stream; 503: no live read can begin now.
    """

    def __init__(self, site: Site, admission: Admission, form: Form, request: Request) -> None:
        self._site, self._admission, self._form, self._request = site, admission, form, request
        self.live = request.query.get("live", "")
        offsets = request.query_all("offset")
        if self.live not in ("", "sse", "long-poll"):
            raise WebError(400, "bad_request", "live must be sse or long-poll")
        if len(offsets) > 1 or (self.live and not offsets):
            raise WebError(400, "bad_request", "a live read needs one offset; -1 is the beginning")
        self._offset = offsets[0] if offsets else BEGINNING
        try:
            self._position = position_of(self._offset)
        except InvalidEventIdError as error:
            raise WebError(400, "invalid_position", str(error)) from error
        self._is_live = self.has_started = False
        self._cursor = next_cursor(request.query.get("cursor", ""), time.time(), random.randint(1, _CURSOR_JITTER))
        if self.live and site.limits.is_full:
            raise WebError(503, "overloaded", "too many live reads are open: try again later")

    async def answer(self, entrance: Entrance, line: Watch, send: Send) -> Reply | None:
        """Read, and return the response; None if it was sent while reading, or need not be sent.

        Args:
            entrance: gets the session of a live read, and ends it when the server shuts down.
            line: the connection; a live read whose client takes no data is ended through it.
            send: of the request.

        Raises:
            Ended: the log was not read to its end, the client may no longer read it, or must not retry at once.
            WebError: 404: there is no log; 410: events that were not read are gone; 503: it cannot be read now.
        """
        if self._request.method == "HEAD":
            return await self._head()
        if not self.live:
            return await self._catch_up()
        session = entrance.session = self._session(line)
        if self.live == "long-poll":
            return await self._poll(session)
        await self._follow(session, send)
        return None

    def last_messages(self) -> list[Message]:
        """Return what is still to be sent when the server cancels the request."""
        if self.has_started:
            return [_LAST]
        return refusal(unavailable(ended(self._site, "shutdown")), self._request)

    # -- the kinds of requests -----------------------------------------------------------------------------------

    async def _head(self) -> Reply:
        """Return the end of the log."""
        self._position = None
        async with self._session() as session:
            headers = [(b"content-type", self._form.content_type.encode()), *_offset(session), *NO_STORE]
        return Reply(200, headers=headers)

    async def _catch_up(self) -> Reply:
        """Return what there is."""
        async with self._session() as session:
            events, up_to_date = await self._replay(session)
            headers = _offset(session)
        if self._offset == NOW:
            return self._reply(200, events, up_to_date, [*headers, *NO_STORE])
        tag = entity_tag(self._admission.logs[0], events, headers[0][1].decode())
        # Revalidated each time: a log grows, and what one user has read must not be shown to the next one.
        headers += [(b"cache-control", b"private, no-cache"), (b"etag", tag.encode())]
        known = matches(self._request.headers.get("if-none-match", ""), tag)
        return self._reply(304 if known else 200, events, up_to_date, headers)

    async def _poll(self, session: Session) -> Reply:
        """Return what there is, or wait for it."""
        async with session:
            events, up_to_date = await self._replay(session)
            if not events and up_to_date:
                try:
                    with anyio.move_on_after(self._site.options.long_poll):
                        while not events:
                            events, up_to_date = await self._live(session)
                except Ended as end:
                    if end.reason not in ("shutdown", "lifetime"):
                        raise
                    # The log was read to its end, and without events in hand that is still so.
                    events, up_to_date = self._in_hand(session)
            headers = [*_offset(session), *NO_STORE, (b"stream-cursor", self._cursor.encode())]
        if not self._site.closing.begun:
            self._site.linger.extend(self._site.background)  # a signal before the next poll would go unnoticed
        return self._reply(200 if events else 204, events, up_to_date, headers)

    async def _follow(self, session: Session, send: Send) -> None:
        """Send server-sent events: what there is, then live."""
        try:
            async with session:
                chunk = self._frames(session, *await self._replay(session))
                session.sending = session.written = time.monotonic()
                await self._start(send)
                while True:
                    await send_part(send, {"type": "http.response.body", "body": chunk, "more_body": True})
                    session.sending = 0.0
                    chunk = await self._more(session)
                    session.sending = session.written = time.monotonic()
        except (Ended, WebError):
            if not self.has_started:
                raise
            with while_open(), anyio.move_on_after(self._site.options.send_timeout):
                await send(_LAST)
        except OSError:  # the client is gone
            return

    # -- reading -------------------------------------------------------------------------------------------------

    def _session(self, line: Watch | None = None) -> Session:
        """Return the session of this request; a plain read does not count against the limits."""
        return Session(self._site, self._admission, self._position or "", line, counted=line is not None)

    async def _replay(self, session: Session, *, heartbeats: bool = False) -> tuple[list[Event], bool]:
        """Return the next part of the log, and whether it ends there.

        Args:
            session: entered.
            heartbeats: whether to return what there is, if anything, when a heartbeat is due.

        Raises:
            WebError: 410: something before it is gone; 503: the log cannot be read now.
        """
        _offset(session)
        events: list[Event] = []
        size = 0
        try:
            with anyio.fail_after(READ_TIMEOUT):
                while not await session.turn():
                    if heartbeats:
                        return [], False
                while size < self._site.options.max_body:
                    event = await session.next()
                    if event is None and heartbeats:
                        break
                    if event is None:
                        continue
                    if event.type == "notify.gap":
                        raise WebError(410, "gone", "the log no longer reaches back to this offset: begin again at -1")
                    if event.type == "notify.sync":
                        self._is_live = True
                        break
                    events.append(event)
                    size += len(event.data)
        except TimeoutError as error:  # pragma: no cover - CPython 3.11 does not trace what follows a throw
            raise WebError(503, "unavailable", "the storage is not available: try again later") from error
        finally:
            self._site.turns.release(session)
        return events, self._is_live

    async def _live(self, session: Session) -> tuple[list[Event], bool]:
        """Wait for events, and return those that are at hand, and whether those are all; none: a heartbeat is due.

        Raises:
            WebError: 410: an event is gone that was not read.
        """
        return self._in_hand(session, await session.next())

    def _in_hand(self, session: Session, event: Event | None = None) -> tuple[list[Event], bool]:
        events: list[Event] = []
        size = 0
        event = event or session.stream.next_nowait()
        while event is not None:
            if event.type == "notify.gap":
                raise WebError(410, "gone", "the log no longer reaches back to this offset: begin again at -1")
            if event.id:
                events.append(event)
                size += len(event.data)
            if size >= self._site.options.max_body:
                return events, False
            event = session.stream.next_nowait()
        return events, True

    async def _more(self, session: Session) -> bytes:
        was_live = self._is_live
        events, up_to_date = await (self._live(session) if was_live else self._replay(session, heartbeats=True))
        if events or was_live != self._is_live:
            return self._frames(session, events, up_to_date)
        return HEARTBEAT

    def _frames(self, session: Session, events: list[Event], up_to_date: bool) -> bytes:
        offset = offset_of(session.last_id)
        return sse_frames(self._form, events, offset, self._cursor, up_to_date=up_to_date)

    # -- answering -----------------------------------------------------------------------------------------------

    def _reply(self, status: int, events: list[Event], up_to_date: bool, headers: Headers) -> Reply:
        body = self._form.body(events) if status == 200 else b""
        if status == 200:
            headers = [(b"content-type", self._form.content_type.encode()), *headers]
        if up_to_date:
            headers = [*headers, (b"stream-up-to-date", b"true")]
        return Reply(status, body, headers)

    async def _start(self, send: Send) -> None:
        headers = [*HEADERS, *self._request.response_headers]
        if not self._form.is_text:
            headers.append(_BINARY)
        self.has_started = True  # before the wait, in which the request may be cancelled
        await send_part(send, {"type": "http.response.start", "status": 200, "headers": headers})


def unavailable(end: Ended) -> WebError:
    """Return the answer to a request whose reading ended before there was anything to say."""
    if end.reason in ("expired", "disconnected"):
        return WebError(401, "unauthenticated", "the credentials have expired, or the user was disconnected")
    retry_after = [(b"retry-after", b"%d" % math.ceil(end.retry / 1000))]
    if end.reason == "shutdown":
        return WebError(503, "shutting_down", "the server is shutting down: try again", retry_after)
    if end.reason == "replaced":  # at once would end the next one, and so on in a circle
        return WebError(503, "unavailable", "the user has opened more live reads than allowed", retry_after)
    return WebError(503, "unavailable", "the log cannot be read now: try again later", retry_after)


def refusal(error: WebError | NotifyError, request: Request) -> list[Message]:
    """Return the response to a request that is refused."""
    reply = reply_to(error)
    own = {name for name, _ in reply.headers}
    return reply.messages([header for header in request.response_headers if header[0] not in own])


def _offset(session: Session) -> Headers:
    if not session.has_log:
        raise WebError(404, "not_found", "there is no log: the notifier has no store")
    return [(b"stream-next-offset", offset_of(session.last_id).encode())]
