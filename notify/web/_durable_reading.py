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
    Receive,
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
from ._sse import HEADERS, until_gone_watch
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
        self._is_live = False
        self._cursor = next_cursor(request.query.get("cursor", ""), time.time(), random.randint(1, _CURSOR_JITTER))
        if self.live and site.closing.begun:
            raise WebError(503, "shutting_down", "the server is shutting down: try again")
        if self.live and site.limits.is_full:
            raise WebError(503, "overloaded", "too many live reads are open: try again later")

    # -- the kinds of requests -----------------------------------------------------------------------------------

    async def head(self, send: Send) -> None:
        """Answer with the end of the log."""
        self._position = None
        async with self._session() as session:
            headers = [(b"content-type", self._form.content_type.encode()), *_offset(session), *NO_STORE]
        await self._send(send, Reply(200, headers=headers))

    async def catch_up(self, send: Send) -> None:
        """Answer with what there is."""
        async with self._session() as session:
            events, up_to_date = await self._replay(session)
            headers = _offset(session)
        if self._offset == NOW:
            await self._send(send, self._reply(200, events, up_to_date, [*headers, *NO_STORE]))
            return
        tag = entity_tag(self._admission.logs[0], events, headers[0][1].decode())
        # Revalidated each time: a log grows, and what one user has read must not be shown to the next one.
        headers += [(b"cache-control", b"private, no-cache"), (b"etag", tag.encode())]
        known = matches(self._request.headers.get("if-none-match", ""), tag)
        await self._send(send, self._reply(304 if known else 200, events, up_to_date, headers))

    async def poll(self, receive: Receive, send: Send) -> None:
        """Answer with what there is, or wait for it."""
        line, site = until_gone_watch(receive), self._site
        try:
            async with line:
                reply = await self._polled(line)
        except anyio.get_cancelled_exc_class():
            if not line.aborted:
                messages = refusal(unavailable(ended(site, "shutdown")), self._request)
                with while_open():
                    await site.closing.farewell(send, *messages, cancelled=True)
            raise
        if line.aborted:
            return
        messages = reply.messages(self._request.response_headers)
        with while_open():
            if site.closing.begun:
                await site.closing.farewell(send, *messages)
                return
            with anyio.move_on_after(site.options.send_timeout):
                for message in messages:
                    await send(message)

    async def _polled(self, line: Watch) -> Reply:
        """Return what a long poll has found.

        Raises:
            Ended: the log was not read to its end, the client may no longer read it, or it is not to come back soon.
            WebError: as by `_replay` and `_live`.
        """
        session = self._session(line)
        with self._site.closing.stream(session.shut_down):
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

    async def follow(self, receive: Receive, send: Send) -> None:
        """Answer with server-sent events: what there is, then live."""
        line, started = until_gone_watch(receive), False
        async with line:
            try:
                session = self._session(line)
                with self._site.closing.stream(session.shut_down):
                    async with session:
                        chunk = self._frames(session, *await self._replay(session))
                        session.sending = session.written = time.monotonic()
                        await self._start(send)
                        started = True
                        while True:
                            await send_part(send, {"type": "http.response.body", "body": chunk, "more_body": True})
                            session.sending = 0.0
                            chunk = await self._more(session)
                            session.sending = session.written = time.monotonic()
            except (Ended, WebError):
                if not started:
                    raise
                with while_open(), anyio.move_on_after(self._site.options.send_timeout):
                    await send(_LAST)
            except OSError:  # the client is gone
                return
            except anyio.get_cancelled_exc_class():
                if started and not line.aborted:
                    with while_open():
                        await self._site.closing.farewell(send, _LAST, cancelled=True)
                raise

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

    async def _send(self, send: Send, reply: Reply) -> None:
        await reply.send(send, self._request.response_headers)

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
