"""GET /ws: the same stream over a WebSocket, with commands the other way.

```text
server:  {"event": "message" | "notify.sync" | "notify.counts" | "notify.gap" | "notify.end" | ..., "id"?, "data": {}}
client:  {"ref": 1, "do": "ping"}                             server:  {"ref": 1, "ok": true}
client:  {"ref": 2, "do": "subscribe", "position": "..."}     server:  {"ref": 2, "error": {"code", "message"}}
client:  {"ref": 3, "do": "mark", "state": "read", "ids": []} server:  {"ref": 3, "ok": true, "ids": [], ...}
```

The stream begins with the connection, at the position in the URL, else from now. `subscribe` begins it again elsewhere:
all frames after its answer belong to the new one. `notify.ping` comes where nothing else was sent for `heartbeat`
seconds, because a page sees no control frames: a client that receives nothing for longer has lost its connection.

| close code | why | the client |
|---|---|---|
| 4000 | binary, oversized or too many frames | has a bug |
| 4001 | not authenticated, or no longer | authenticates |
| 4003 | an address that it may not read | does not come back |
| 4008 | it did not read for `send_timeout` seconds | comes back |
| 4010 | the user has opened more streams | comes back in minutes |
| 4012 | the server shuts down or is busy, or the lifetime is over | comes back |
| 4013 | `Notifier.disconnect` | does not come back |

A page cannot see why a handshake failed, so only pages of other sites are refused there. Every other connection is
accepted first and then closed.

Two tasks: the connection's own sends everything, and the one beside it only receives. So frames never mix, and a client
that floods while it does not read finds its commands counted, not answered.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import anyio

from notify import ClosedError, NotifyError
from notify._asgi import Receive, Request, Send, WebError, send_part, web_error, while_open

from . import _auth, _position
from ._admission import Admission, admit
from ._commands import Command, CommandError, CommandQueue, answer, position_of, refusal
from ._frames import one_line, ws_text
from ._inbox import CHANGING
from ._inbox_commands import answered, is_for_inbox
from ._position import Asked
from ._routing import last_segment
from ._session import Ended, Reason, Session, ended, translation_of
from ._site import Site
from ._sse import Entrance
from ._text_feed import PING, TextFeed, texts_of
from ._watch import Watch, watch

PROTOCOL: Final = "notify.v1"

CONNECT_PAUSE: Final = 0.05
"""Seconds before receiving again: granian before 2.3.2 repeats `websocket.connect` until the socket is accepted."""

BAD_REQUEST, UNAUTHENTICATED, FORBIDDEN, TOO_SLOW, REPLACED, COME_BACK, DISCONNECTED = (
    4000, 4001, 4003, 4008, 4010, 4012, 4013,
)  # fmt: skip

_CODES: Final[Mapping[str, int]] = {
    "expired": UNAUTHENTICATED,
    "disconnected": DISCONNECTED,
    "shutdown": COME_BACK,
    "lifetime": COME_BACK,
    "overload": COME_BACK,
    "replaced": REPLACED,
}


async def serve(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve GET /ws."""
    await receive()  # websocket.connect
    if last_segment(request.path) == "ws" and _is_of_own_site(site, request):
        with suppress(OSError):  # the client is gone
            await SocketConnection(site, request, receive, send).serve()
    else:
        await send({"type": "websocket.close", "code": FORBIDDEN})  # before it is accepted: the handshake fails


def _is_of_own_site(site: Site, request: Request) -> bool:
    try:
        _auth.check_site(site, request, "ws")
    except WebError:
        return False
    return True


class SocketConnection:
    """One WebSocket, accepted in any case."""

    def __init__(self, site: Site, request: Request, receive: Receive, send: Send) -> None:
        self._site, self._request, self._receive, self._send = site, request, receive, send
        self._line = watch(self._listen)
        self._entrance = Entrance(site.closing)
        self._commands = CommandQueue()
        self._unanswered: Command | None = None  # the command for the inbox that is in progress
        self._admission: Admission | None = None  # reset once the client was told that the connection ends
        self._is_gone = False

    async def serve(self) -> None:
        """Let the client in, or tell it why not."""
        site = self._site
        if site.limits.is_full:
            await self._accept()
            await self._end("overload")
            return
        with self._entrance:
            if site.closing.begun:
                await self._accept()
                await self._end("shutdown")
                return
            try:
                await self._run()
            except OSError:
                self._is_gone = True
            if self._is_gone and self._admission is not None:
                await self._carry_out(self._admission)

    async def _run(self) -> None:
        """Authenticate the client, then send one stream after the other until the connection ends, and say why.

        The last frames are sent while `_listen` goes on: a server whose queue of received frames is full may not send.
        """
        is_accepted = False
        try:
            async with self._line:
                try:
                    admission = await self._admitted()
                except (WebError, NotifyError) as error:
                    if not self._line.aborted:
                        await self._accept()
                        is_accepted = True
                        await self._refuse(error)
                else:
                    if not self._line.aborted:  # `authenticate` may have gone on although it was cancelled
                        await self._accept()
                        is_accepted = True
                        await self._stream(admission)
        except anyio.get_cancelled_exc_class():
            if is_accepted:
                await self._end("shutdown", cancelled=True)
            raise
        if self._entrance.has_aborted:
            await self._accept()
            await self._end("shutdown")
        elif self._is_gone and not is_accepted:  # some servers complain if a handshake is not answered
            await self._farewell(_close(COME_BACK, ""))
        elif self._line.aborted and not self._is_gone:
            await self._farewell(_close(TOO_SLOW, "too_slow"))

    async def _admitted(self) -> Admission:
        self._entrance.line = self._line
        try:
            return await admit(self._site, self._request)
        finally:
            self._entrance.line = None

    async def _stream(self, admission: Admission) -> None:
        asked = _position.asked(self._request.headers, self._request.query)
        if asked.is_refused(admission.login):
            await self._end("disconnected")
            return
        position = asked.position
        self._admission = admission
        try:
            while True:
                position = await self._follow(admission, position)
        except (Ended, CommandError, WebError) as end:
            self._admission = None
            if isinstance(end, Ended):
                await self._sign_off(end)
            elif isinstance(end, CommandError):
                await self._farewell(_close(BAD_REQUEST, end.code))
            else:
                await self._refuse(end)

    async def _follow(self, admission: Admission, position: str) -> str:
        """Send the stream from this position on; return the position of a `subscribe` that the client sends."""
        site = self._site
        translation = translation_of(site, self._request, Asked(position), admission)
        start = position if translation is None else translation.position
        session = self._entrance.session = Session(site, admission, start, self._line)
        if site.closing.begun:  # before there was a session to end
            session.shut_down()
        if not session.enlist():
            await session.line_up(partial(self._say, PING))
        async with session:
            feed = TextFeed(site, session, translation)
            for text in feed.beginning():
                await self._say(text)
            while True:
                while (command := self._commands.take()) is not None:
                    if (elsewhere := await self._obey(admission, command)) is not None:
                        return elsewhere
                is_live = feed.is_synced or session.is_from_now
                event = await (session.next() if is_live else session.next_in_turn())
                for text in feed.encoded(event):
                    await self._say(text)

    async def _obey(self, admission: Admission, command: Command | CommandError) -> str | None:
        """Do what a command says, and answer it; return where a `subscribe` begins."""
        try:
            if isinstance(command, Command) and is_for_inbox(self._site, command):
                self._unanswered = command
                text, elsewhere = await answered(self._site, admission.identity, command), None
            else:
                elsewhere = _target(command)
                text = answer(command.ref)
        except CommandError as error:
            text, elsewhere = refusal(error), None
        self._unanswered = None
        await self._say(text)
        return elsewhere

    async def _carry_out(self, admission: Admission) -> None:
        """Make the changes that had arrived when the client left, as when a page marks an item and navigates to it.

        The one that was in progress is repeated, which changes nothing if it had already taken effect.
        """
        with anyio.move_on_after(self._site.options.send_timeout), suppress(CommandError):  # raised by `take`
            command = self._unanswered or self._commands.take()
            while command is not None:
                if isinstance(command, Command) and command.do in CHANGING and is_for_inbox(self._site, command):
                    with suppress(CommandError):
                        await answered(self._site, admission.identity, command)
                command = self._commands.take()

    async def _listen(self, line: Watch) -> None:
        """Receive commands until the client is gone."""
        while (message := await self._received()) is not None:
            self._commands.put(message, time.monotonic())
            if self._entrance.session is not None:  # else it could not be opened
                self._entrance.session.wake()
        self._is_gone = True
        line.abort()

    async def _received(self) -> Any:
        """Return the next message of the client; None if it is gone."""
        try:
            while (message := await self._receive())["type"] == "websocket.connect":  # noqa: ASYNC110 - the server's
                await anyio.sleep(CONNECT_PAUSE)
        except Exception:  # what servers raise after the end differs
            return None
        return message if message["type"] == "websocket.receive" else None

    # -- sending -------------------------------------------------------------------------------------------------

    async def _accept(self) -> None:
        offered = self._request.scope.get("subprotocols") or ()
        chosen = PROTOCOL if PROTOCOL in offered else None
        with anyio.move_on_after(self._site.options.send_timeout):
            await send_part(self._send, {"type": "websocket.accept", "subprotocol": chosen})

    async def _say(self, text: str) -> None:
        """Send one frame; the session's clock ends the connection if that takes too long.

        Raises:
            OSError: the client is gone.
        """
        session = self._entrance.session
        assert session is not None
        session.sending = session.written = time.monotonic()
        await send_part(self._send, {"type": "websocket.send", "text": text})
        session.sending = 0.0

    async def _end(self, reason: Reason, *, cancelled: bool = False) -> None:
        await self._sign_off(ended(self._site, reason), cancelled=cancelled)

    async def _sign_off(self, end: Ended, *, cancelled: bool = False) -> None:
        ours = ws_text(one_line(end.value), event="notify.end", id=end.mark)
        theirs = end.dialect.farewell(end.reason) if end.dialect is not None else None
        texts = [*texts_of([theirs] if theirs is not None else []), ours]
        last = [{"type": "websocket.send", "text": text} for text in texts]
        await self._farewell(*last, _close(_CODES[end.reason], end.reason), cancelled=cancelled)

    async def _refuse(self, error: WebError | NotifyError) -> None:
        refused = error if isinstance(error, WebError) else web_error(error)
        if refused.status >= 500:
            await self._end("shutdown" if isinstance(error, ClosedError) else "overload")
        else:
            code = {401: UNAUTHENTICATED, 403: FORBIDDEN}.get(refused.status, BAD_REQUEST)
            await self._farewell(_close(code, refused.code))

    async def _farewell(self, *messages: Mapping[str, Any], cancelled: bool = False) -> None:
        with while_open():
            await self._site.closing.farewell(self._send, *messages, cancelled=cancelled)


def _target(command: Command | CommandError) -> str | None:
    """Return where a `subscribe` begins; None for another command.

    Raises:
        CommandError: it cannot be done.
    """
    if isinstance(command, CommandError):
        raise command
    if command.do == "subscribe":
        return _position.parse(position_of(command)).position
    if command.do != "ping":
        raise CommandError("unknown_command", f"there is no command {command.do!r:.40}", command.ref)
    return None


def _close(code: int, reason: str) -> dict[str, Any]:
    return {"type": "websocket.close", "code": code, "reason": reason}
