"""A connection to an SMTP server with the standard library, in threads, on trio."""

from __future__ import annotations

import re
import smtplib
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import anyio.to_thread

from ._smtp import Dialogue, Envelope, Server, SmtpRefusedError, options

_PERIODS: Final = re.compile(rb"(?m)^\.")


class ThreadSmtp:
    """See `SmtpConnection`. A call that is cancelled goes on in its thread, until that notices.

    Invariants:
        I1: the client is closed by the thread that uses it, else by `close`: a descriptor must not be closed, and given
            to another file, while a thread reads from it.
    """

    def __init__(self, server: Server, local_name: str) -> None:
        self._server = server
        self._local_name = local_name
        self._client: smtplib.SMTP | None = None
        self._is_used = False
        self._is_closed = False
        self._is_dirty = False

    @property
    def is_open(self) -> bool:
        """See `SmtpConnection.is_open`. Whether the server has closed it shows at the next command."""
        return self._client is not None and not self._is_closed

    async def open(self, dialogue: Dialogue) -> None:
        """See `SmtpConnection.open`."""
        await self._in_thread(self._open, dialogue)

    async def send(self, envelope: Envelope, dialogue: Dialogue) -> None:
        """See `SmtpConnection.send`."""
        await self._in_thread(self._send, envelope, dialogue)

    async def quit(self) -> None:
        """See `SmtpConnection.quit`."""
        try:
            with suppress(smtplib.SMTPException, OSError, SmtpRefusedError):
                await self._in_thread(self._quit)
        finally:
            self.close()

    def close(self) -> None:
        """See `SmtpConnection.close`."""
        self._is_closed = True
        client = self._client
        if client is None:
            return
        if not self._is_used:  # keeps I1
            client.close()
        elif (used := client.sock) is not None:  # pragma: no branch - else the thread has closed it just now
            with suppress(OSError, ValueError):
                socket.socket.shutdown(used, socket.SHUT_RDWR)  # the thread's read ends, also of an SSLSocket

    async def _in_thread(self, function: Callable[..., None], *arguments: Any) -> None:
        def call() -> None:
            try:
                function(*arguments)
            except smtplib.SMTPResponseException as error:
                text = error.smtp_error
                raise SmtpRefusedError(error.smtp_code, text if isinstance(text, bytes) else text.encode()) from None
            finally:
                self._is_used = False
                if self._is_closed and self._client is not None:  # keeps I1
                    self._client.close()

        self._is_used = True
        await anyio.to_thread.run_sync(call, abandon_on_cancel=True)

    # -- in a thread ---------------------------------------------------------------------------------------------

    def _open(self, dialogue: Dialogue) -> None:
        server = self._server
        kind: Any = smtplib.SMTP
        settings: dict[str, Any] = {"timeout": server.timeout, "local_hostname": self._local_name}
        if server.encryption == "implicit":
            kind, settings = smtplib.SMTP_SSL, {**settings, "context": server.context}
        client = self._client = kind(server.host, server.port, **settings)
        client.ehlo_or_helo_if_needed()
        if server.encryption == "starttls":
            client.starttls(context=server.context)
            client.ehlo_or_helo_if_needed()
        if server.username is not None:
            dialogue.phase = "login"
            client.login(server.username, server.password or "")

    def _send(self, envelope: Envelope, dialogue: Dialogue) -> None:
        client = self._client
        assert client is not None, "a message is sent after open()"
        dialogue.phase = "sender"
        if self._is_dirty:
            _check(client.rset())
        self._is_dirty = True
        client.command_encoding = "utf-8" if envelope.is_international else "ascii"
        _check(client.mail(envelope.sender, options(envelope, client.has_extn)))
        dialogue.phase = "recipient"
        _check(client.rcpt(envelope.recipient))
        dialogue.phase = "data"
        code, text = client.docmd("DATA")
        if code != 354:
            raise SmtpRefusedError(code, text)
        dialogue.phase = "content"  # before anything is sent: `close` may end this connection at any moment
        content = envelope.content if envelope.content.endswith(b"\r\n") else envelope.content + b"\r\n"
        client.send(_PERIODS.sub(b"..", content) + b".\r\n")
        _check(client.getreply())
        dialogue.phase = "done"
        self._is_dirty = False

    def _quit(self) -> None:
        assert self._client is not None, "only a connection that was opened is ended"
        self._client.quit()


def _check(reply: tuple[int, bytes]) -> None:
    if reply[0] >= 400:
        raise SmtpRefusedError(*reply)
