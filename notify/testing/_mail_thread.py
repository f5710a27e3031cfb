"""Serves a `MailScript` with aiosmtpd, in a thread. Imported only when a server is started, as it needs aiosmtpd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from typing import Any

import anyio
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

from ._mail_script import CLOSE, HANG, MailMessage, MailScript


class _Handler:
    """The methods that aiosmtpd calls for each command."""

    def __init__(self, server: MailScript) -> None:
        self._server = server

    async def _answer(self, connection: SMTP, command: str, recipient: str = "") -> str:
        answer = self._server.next_answer(command, recipient)
        if answer in (CLOSE, HANG):
            if answer == CLOSE and connection.transport is not None:
                connection.transport.close()
            await anyio.sleep_forever()  # until the connection is lost, which cancels this
        return answer

    async def handle_EHLO(self, connection: SMTP, session: Any, _envelope: Any, host: str, usual: Any) -> Any:
        session.host_name = host
        answer = await self._answer(connection, "EHLO")
        return [answer] if answer else usual

    async def handle_MAIL(self, connection: SMTP, _session: Any, envelope: Any, address: str, options: Any) -> str:
        answer = await self._answer(connection, "MAIL")
        if _takes(answer):
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return answer or "250 2.1.0 OK"

    async def handle_RCPT(self, connection: SMTP, _session: Any, envelope: Any, address: str, _options: Any) -> str:
        answer = await self._answer(connection, "RCPT", address)
        if _takes(answer):
            envelope.rcpt_tos.append(address)
        return answer or "250 2.1.5 OK"

    async def handle_DATA(self, connection: SMTP, _session: Any, envelope: Any) -> str:
        answer = await self._answer(connection, "DATA")
        if _takes(answer):
            message: Any = message_from_bytes(envelope.content, policy=policy.default)
            self._server.messages += [MailMessage(envelope.mail_from, each, message) for each in envelope.rcpt_tos]
        return answer or "250 2.0.0 OK"

    async def handle_RSET(self, connection: SMTP, _session: Any, _envelope: Any) -> str:
        return await self._answer(connection, "RSET") or "250 2.0.0 OK"

    async def handle_QUIT(self, connection: SMTP, _session: Any, _envelope: Any) -> str:
        return await self._answer(connection, "QUIT") or "221 2.0.0 Bye"


def _takes(answer: str) -> bool:
    """Return whether an answer, or the usual one in its place, accepts."""
    return not answer or answer.startswith("2")


class _Thread(Controller):
    """Takes a free port, and at the end closes connections that clients have left open."""

    server: Any

    def __init__(self, server: MailScript) -> None:
        super().__init__(_Handler(server), hostname="127.0.0.1", port=0, enable_SMTPUTF8=True, ready_timeout=60.0)
        self._connections: list[SMTP] = []

    def factory(self) -> SMTP:
        self._connections.append(SMTP(self.handler, **self.SMTP_kwargs))
        return self._connections[-1]

    def abort(self) -> None:
        for each in self._connections:
            transport: Any = each.transport
            if transport is not None:
                transport.abort()

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@contextmanager
def serving(server: MailScript) -> Iterator[int]:
    """Serve for as long as the block lasts; yield the port."""
    thread = _Thread(server)
    thread.start()
    try:
        yield thread.port
    finally:
        thread.loop.call_soon_threadsafe(thread.abort)
        thread.stop()
