"""A connection to an SMTP server with aiosmtplib, on asyncio."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import aiosmtplib

from ._smtp import Dialogue, Envelope, Server, SmtpRefusedError, options


class AsyncioSmtp:
    """See `SmtpConnection`."""

    def __init__(self, server: Server, local_name: str) -> None:
        self._server = server
        self._is_dirty = False
        self._client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            use_tls=server.encryption == "implicit",
            start_tls=False,
            timeout=server.timeout,
            tls_context=server.context,
            local_hostname=local_name,
        )

    @property
    def is_open(self) -> bool:
        """See `SmtpConnection.is_open`: the loop notices the server's end."""
        return self._client.is_connected

    async def open(self, dialogue: Dialogue) -> None:
        """See `SmtpConnection.open`."""
        server = self._server
        with _translated():
            await self._client.connect()
            if server.encryption == "starttls":
                await self._client.starttls()
            if server.username is not None:
                dialogue.phase = "login"
                await self._client.login(server.username, server.password or "")

    async def send(self, envelope: Envelope, dialogue: Dialogue) -> None:
        """See `SmtpConnection.send`."""
        client = self._client
        with _translated():
            dialogue.phase = "sender"
            if self._is_dirty:
                await client.rset()
            self._is_dirty = True
            if envelope.is_international and client.is_ehlo_or_helo_needed:
                await client.ehlo()
            arguments = options(envelope, client.supports_extension)
            await client.mail(envelope.sender, options=arguments, encoding="utf-8")
            dialogue.phase = "recipient"
            await client.rcpt(envelope.recipient, encoding="utf-8")
            dialogue.phase = "data" if client.protocol is None else "content"
            with _noting_data(client.protocol, dialogue):
                await client.data(envelope.content)
            dialogue.phase = "done"
            self._is_dirty = False

    async def quit(self) -> None:
        """See `SmtpConnection.quit`."""
        try:
            with suppress(aiosmtplib.SMTPException, OSError):
                await self._client.quit()
        finally:
            self._client.close()

    def close(self) -> None:
        """See `SmtpConnection.close`. What has not been sent by now is not sent."""
        transport: Any = self._client.transport
        with suppress(RuntimeError):  # the loop is closed
            if transport is not None:
                transport.abort()
            self._client.close()


@contextmanager
def _noting_data(protocol: Any, dialogue: Dialogue) -> Iterator[None]:
    """Keep the phase `data` until the message is sent: the driver sends it in the same call, after the server's 354."""
    if protocol is None:  # the connection is lost, which the driver is about to report
        yield
        return
    write = protocol.write

    def noting(sent: bytes) -> None:
        dialogue.phase = "data" if sent == b"DATA\r\n" else "content"
        write(sent)

    protocol.write = noting
    try:
        yield
    finally:
        del protocol.write


@contextmanager
def _translated() -> Iterator[None]:
    """Translate the driver's exceptions."""
    try:
        yield
    except aiosmtplib.SMTPResponseException as error:
        raise SmtpRefusedError(error.code, error.message.encode("utf-8", "replace")) from None
    except aiosmtplib.SMTPException as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            raise error.__cause__ from None
        raise
