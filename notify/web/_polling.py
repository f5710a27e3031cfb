"""GET /events: polling, and long polling, which waits for the first event.

```text
GET /events?after=<position>&limit=<events>&wait=<seconds>
{"events": [...], "position": "...", "sync": true, "counts": {...}, "gap": {...}, "end": {"reason", "retry"}}
```

A page is a stream that is read for a moment: from the position asked for to the end of the log, to `limit` events or
to `MAX_BYTES`. `position` is where the next request continues; `sync` says that the end of the log was reached, so a
client that finds it false asks again at once. A page has one gap at most: where several logs have one, it ends before
the second. `end` is there if the server ended the wait. With an inbox, a page that reached the end of the log has its
counts.

A page without a position starts from now: it has no events, and fixes the position. Ephemeral events are seen by a
request that is waiting, and by no other.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import Any, Final

import anyio

from notify import ClosedError, Event, NotifyError, Position
from notify._asgi import JSON_HEADERS, NO_STORE, Message, Receive, Reply, Request, Send, WebError, while_open
from notify.inbox.abc import CHANGES, ITEM

from . import _position
from ._admission import Admission, admit, check
from ._dialects import dump
from ._frames import one_line
from ._inbox_values import counts_value
from ._session import Ended, Session, ended, translation_of
from ._site import Site
from ._sse import Entrance, until_gone_watch
from ._translation import Translation
from ._watch import Watch

LIMIT: Final = 100
"""Events of a page, where the client does not say."""

MAX_LIMIT: Final = 1000

READ_TIMEOUT: Final = 10.0
"""Seconds after which a page ends with what was read; without anything, the client is told to come back later."""

MAX_BYTES: Final = 1 << 20
"""Bytes of events after which a page ends; the event that exceeds it is the page's last."""

FIELDS: Final = ("after", *_position.FIELDS)

_NUMBER: Final = re.compile("[0-9]{1,9}", re.ASCII)
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?", re.ASCII)


async def events(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve GET /events."""
    limit, wait = _limit(request), min(_seconds(request), site.options.long_poll)
    further = (site.dialect.cursor,) if site.dialect is not None else ()
    asked = _position.asked(request.headers, request.query, (*further, *FIELDS))
    page = PollPage(site, limit, asked.position)
    with Entrance(site.closing) as entrance:
        if site.closing.begun:
            page.end = ended(site, "shutdown")
        elif wait and site.limits.is_full:
            page.end = ended(site, "overload")
        else:
            line = until_gone_watch(receive)
            try:
                async with line:
                    entrance.line = line
                    admission = await _admitted(page, request)
                    entrance.line = None
                    if line.aborted:
                        admission = None  # `authenticate` has returned although it was cancelled
                    if admission is not None and asked.is_refused(admission.login):
                        await Reply(204, headers=NO_STORE).send(send, request.response_headers)
                        return
                    if admission is not None:
                        page.translate(translation_of(site, request, asked, admission))
                        await page.read(admission, wait, entrance, line)
            except anyio.get_cancelled_exc_class():
                if entrance.session is not None:  # else the client may not be one who is known
                    page.end = ended(site, "shutdown")
                    with while_open():
                        await site.closing.farewell(send, *page.messages(request), cancelled=True)
                raise
            if entrance.has_aborted:
                page.end = ended(site, "shutdown")
            elif line.aborted:  # the client has left, but some middleware logs an error if there is no response
                wait = 0.0
        messages = page.messages(request)
        if page.end is not None and page.end.reason == "shutdown":
            with while_open():
                await site.closing.farewell(send, *messages)
            return
        if wait:
            site.linger.extend(site.background)
    with while_open(), anyio.move_on_after(site.options.send_timeout):
        for message in messages:
            await send(message)


async def head(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve HEAD /events: the head of a page, without its length. Nothing is read, and `wait` is not waited for.

    Raises:
        WebError: the client is refused.
    """
    _limit(request)
    _seconds(request)
    await check(site, request)
    await Reply(200, headers=JSON_HEADERS).send(send, request.response_headers)


async def _admitted(page: PollPage, request: Request) -> Admission | None:
    """Return what the client may read; None if the notifier is closed, as it is while the server shuts down."""
    try:
        return await admit(page.site, request)
    except ClosedError:
        page.end = ended(page.site, "shutdown")
        return None


class PollPage:
    """What one request returns.

    Args:
        site: the application.
        limit: events that it has at most.
        position: what was asked for.

    Attributes:
        end: why the server ended the wait, if it did.
    """

    def __init__(self, site: Site, limit: int, position: str) -> None:
        self.site = site
        self.end: Ended | None = None
        self._limit, self._position = limit, position
        self._start: Position = position
        self._translation: Translation | None = None
        self._objects: list[dict[str, Any]] = []
        self._events: list[bytes] = []
        self._bytes = 0
        self._gap: dict[str, Any] | None = None
        self._is_synced = False
        self._counts: dict[str, Any] | None = None
        self._are_new = False  # whether the stream has told of counts since the replay
        self._is_stale = False  # whether the counts have changed since they were read

    def translate(self, translation: Translation | None) -> None:
        """Write the page in a dialect, from where its client starts."""
        if translation is not None:
            self._translation, self._start = translation, translation.position

    async def read(self, admission: Admission, wait: float, entrance: Entrance, line: Watch) -> None:
        """Read to the end of the log; if there is nothing, wait for an event.

        Raises:
            WebError: what the client asks for is unacceptable. How the server ended the read is in `end`.
        Cancellation: the page keeps what was read.
        """
        site = self.site
        try:
            session = entrance.session = Session(site, admission, self._start, line, counted=wait > 0)
            if site.closing.begun:  # while the client was authenticated
                session.shut_down()
            with anyio.move_on_after(READ_TIMEOUT) as patience:
                async with session:
                    self._position = session.last_id
                    if session.is_invalid:
                        self._gap = {"reason": "invalid", "from": "", "to": session.last_id, "user": session.user}
                    await self._replay(session)
                    patience.deadline = math.inf
                    if wait and self._is_synced and self._is_empty:
                        await self._wait(session, wait)
            if patience.cancelled_caught and self._is_empty:
                self.end = ended(site, "overload")
            elif self._is_synced and self._is_stale and site.inbox is not None:
                with suppress(NotifyError):  # the events are here; the next page has the counts
                    self._counts = counts_value(await site.inbox.counts(admission.identity.user))
        except Ended as end:
            self.end = end
            self._is_synced = False

    @property
    def _is_empty(self) -> bool:
        return not self._events and self._gap is None

    @property
    def _is_full(self) -> bool:
        return len(self._events) >= self._limit or self._bytes >= MAX_BYTES

    async def _replay(self, session: Session) -> None:
        self._is_synced = not session.has_log
        while not session.is_from_now and not await session.turn():
            pass  # a heartbeat would be due, were this a stream
        try:
            while not self._is_synced:  # a full page looks at one event more: it may be `notify.sync`
                if not self._takes(await session.next(), session):
                    return
        finally:
            self.site.turns.release(session)

    async def _wait(self, session: Session, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            while self._is_empty and not self._are_new:
                self._takes(await session.next(), session)
        while (event := session.stream.next_nowait()) is not None and self._takes(event, session):
            pass

    def _takes(self, event: Event | None, session: Session) -> bool:
        """Put an event into the page; return False if there is no room for it, so the page ends before it."""
        if event is None:  # a heartbeat would be due, were this a stream
            return True
        if event.type == "notify.sync":
            self._is_synced = True
            self._note_counts(event)
        elif event.type == "notify.counts":
            self._note_counts(event)
            self._are_new = True
        elif self._is_full or (event.type == "notify.gap" and self._gap is not None):
            self._is_synced = False
            return False
        elif event.type == "notify.gap":
            self._gap = {**event.payload, "user": event.user}
        elif self._translation is None:
            self._add(self.site.frames.encoded(event).data)
        elif not self._translation.is_known(event):
            self._objects.append(self._translation.dialect.wrap(event))
            self._add(event.data)
        if event.type in CHANGES or ITEM in event.meta:
            self._is_stale = True
        self._position = session.last_id
        return True

    def _note_counts(self, event: Event) -> None:
        if event.payload:
            self._counts, self._is_stale = event.payload, False

    def _add(self, data: bytes) -> None:
        self._events.append(data)
        self._bytes += len(data)

    def messages(self, request: Request) -> list[Message]:
        """Return the response."""
        rest: dict[str, Any] = {"position": self._position, "sync": self._is_synced}
        if self._counts is not None and self._is_synced:
            rest["counts"] = self._counts
        if self._gap is not None:
            rest["gap"] = self._gap
        if self.end is not None:
            rest |= {"position": self.end.mark or self._position, "end": self.end.value}
        if self.site.dialect is not None:
            body = dump(self.site.dialect.page(self._objects, rest["position"]))
        else:
            body = b'{"events":[%b],%b' % (b",".join(self._events), one_line(rest)[1:])
        headers = [*JSON_HEADERS, (b"content-length", b"%d" % len(body)), *request.response_headers]
        return [
            {"type": "http.response.start", "status": 200, "headers": headers},
            {"type": "http.response.body", "body": body},
        ]


def _limit(request: Request) -> int:
    text = request.query.get("limit", str(LIMIT))
    if not _NUMBER.fullmatch(text) or not int(text):
        raise WebError(400, "bad_request", "limit must be a whole number of at least 1")
    return min(int(text), MAX_LIMIT)


def _seconds(request: Request) -> float:
    text = request.query.get("wait", "0")
    if not _DECIMAL.fullmatch(text):
        raise WebError(400, "bad_request", "wait must be a number of seconds of at least 0")
    return float(text)
