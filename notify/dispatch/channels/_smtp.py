"""One message over SMTP: with aiosmtplib on asyncio, with smtplib in a thread on trio; and what each answer means."""

from __future__ import annotations

import asyncio
import re
import smtplib
import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import anyio
import anyio.to_thread

from .._outcomes import Accepted, Ambiguous, Misconfigured, Outcome, Rejected, Transient

Phase = Literal["connect", "login", "sender", "recipient", "content", "done"]

Encryption = Literal["starttls", "implicit", "none"]

QUIT_SECONDS: Final = 2.0
"""How long the server may take to say goodbye, after it has accepted the message."""

_ADDRESS: Final = re.compile(rb"5\.(?:1\.\d+|2\.1)\b")
"""Enhanced status codes of an address that does not exist, or a mailbox that is disabled."""


@dataclass(frozen=True, slots=True)
class Server:
    """How to reach the server, and how to log in."""

    host: str
    port: int
    encryption: Encryption
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)
    context: ssl.SSLContext
    hostname: str | None
    timeout: float


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is sent, from whom and to whom. The repr shows nothing of it."""

    sender: str = field(repr=False)
    recipient: str = field(repr=False)
    content: bytes = field(repr=False)
    is_international: bool = False


@dataclass(slots=True)
class Dialogue:
    """How far a message has come: what counts when it goes no further."""

    phase: Phase = "connect"


class SmtpRefusedError(Exception):
    """The server refused. The text is not shown: it often repeats the address.

    Attributes:
        code: of the reply.
        text: of the reply.
    """

    def __init__(self, code: int, text: bytes) -> None:
        super().__init__(f"SMTP {code}")
        self.code = code
        self.text = text


class InternationalError(Exception):
    """The address has characters outside ASCII, and the server has no SMTPUTF8."""


async def deliver(
    server: Server, envelope: Envelope, provider_id: str, slots: AbstractAsyncContextManager[Any]
) -> Outcome:
    """Send one message over a connection of its own, and return what became of it.

    Waiting for one of the `slots` counts as connecting.
    """
    dialogue = Dialogue()
    try:
        with anyio.move_on_after(server.timeout):
            async with slots:
                if _is_asyncio():
                    await _with_aiosmtplib(server, envelope, dialogue)
                else:
                    await anyio.to_thread.run_sync(_with_smtplib, server, envelope, dialogue, abandon_on_cancel=True)
    except SmtpRefusedError as error:
        return refused(dialogue.phase, error.code, error.text)
    except InternationalError:
        return Rejected("smtputf8", error="the server does not take addresses with characters outside ASCII")
    except ssl.SSLCertVerificationError:
        return Misconfigured("the certificate of the SMTP server was not accepted")
    except Exception as error:
        if _is_lacking(error):
            return Misconfigured("the SMTP server has no STARTTLS, or none of our kinds of login: compare encryption=")
        if not _is_network(error):
            raise
        return _broken(dialogue.phase, "connect", provider_id)
    return _broken(dialogue.phase, "timeout", provider_id)


def refused(phase: Phase, code: int, text: bytes = b"") -> Outcome:
    """Return what a reply code means in a phase. The class of a driver's exception says less: 451 and 550 share one."""
    name = str(code)
    if 400 <= code < 500:
        return Transient(name)
    if phase in {"connect", "login"} or code in {530, 534, 535, 538}:
        return Misconfigured(f"the SMTP server answered {code} to {phase}: compare host=, username= and password=")
    if phase == "sender":
        return Rejected(name) if code == 552 else Misconfigured(f"the SMTP server refused sender= with {code}")
    if phase == "recipient":
        enhanced = re.match(rb"\s*5\.\d+\.\d+", text)
        is_address = bool(_ADDRESS.search(text)) if enhanced else code in {550, 551, 553}
        return Rejected(name, suppress=is_address, is_unclear=not is_address)
    return Rejected(name)


def _broken(phase: Phase, code: str, provider_id: str) -> Outcome:
    if phase == "done":
        return Accepted(provider_id)
    if phase == "content":
        return Ambiguous("the SMTP server did not say whether it took the message")
    return Transient(code, error=f"the SMTP server was lost in the phase {phase}")


def _is_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _is_network(error: Exception) -> bool:
    """Return whether an exception tells of the network or the server, not of a mistake in this module."""
    import aiosmtplib

    return isinstance(error, OSError | EOFError | aiosmtplib.SMTPException)


def _is_lacking(error: Exception) -> bool:
    """Return whether the server lacks an extension. Both drivers raise their plain class for a kind of login."""
    import aiosmtplib

    lacking = aiosmtplib.SMTPNotSupported | smtplib.SMTPNotSupportedError
    return isinstance(error, lacking) or type(error) in {aiosmtplib.SMTPException, smtplib.SMTPException}


async def _with_aiosmtplib(server: Server, envelope: Envelope, dialogue: Dialogue) -> None:
    import aiosmtplib

    client = aiosmtplib.SMTP(
        hostname=server.host,
        port=server.port,
        use_tls=server.encryption == "implicit",
        start_tls=False,
        timeout=server.timeout,
        tls_context=server.context,
        local_hostname=server.hostname,
    )
    try:
        await client.connect()
        if server.encryption == "starttls":
            await client.starttls()
        if server.username is not None:
            dialogue.phase = "login"
            await client.login(server.username, server.password or "")
        dialogue.phase = "sender"
        if envelope.is_international:
            await client.ehlo()
        await client.mail(envelope.sender, options=_options(envelope, client.supports_extension), encoding="utf-8")
        dialogue.phase = "recipient"
        await client.rcpt(envelope.recipient, encoding="utf-8")
        dialogue.phase = "content"
        await client.data(envelope.content)
        dialogue.phase = "done"
        with suppress(aiosmtplib.SMTPException, OSError), anyio.move_on_after(QUIT_SECONDS):
            await client.quit()
    except aiosmtplib.SMTPResponseException as error:
        raise SmtpRefusedError(error.code, error.message.encode("utf-8", "replace")) from None
    except aiosmtplib.SMTPException as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            raise error.__cause__ from None
        raise
    finally:
        client.close()


def _with_smtplib(server: Server, envelope: Envelope, dialogue: Dialogue) -> None:
    kind: Any = smtplib.SMTP
    options: dict[str, Any] = {"timeout": server.timeout, "local_hostname": server.hostname}
    if server.encryption == "implicit":
        kind, options = smtplib.SMTP_SSL, {**options, "context": server.context}
    client: smtplib.SMTP | None = None
    try:
        client = kind(server.host, server.port, **options)
        client.ehlo_or_helo_if_needed()
        if server.encryption == "starttls":
            client.starttls(context=server.context)
            client.ehlo_or_helo_if_needed()
        if server.username is not None:
            dialogue.phase = "login"
            client.login(server.username, server.password or "")
        dialogue.phase = "sender"
        client.command_encoding = "utf-8" if envelope.is_international else "ascii"
        _check(client.mail(envelope.sender, _options(envelope, client.has_extn)))
        dialogue.phase = "recipient"
        _check(client.rcpt(envelope.recipient))
        dialogue.phase = "content"
        _check(client.data(envelope.content))
        dialogue.phase = "done"
        with suppress(smtplib.SMTPException, OSError):
            if client.sock is not None:
                client.sock.settimeout(QUIT_SECONDS)
            client.quit()
    except smtplib.SMTPResponseException as error:
        text = error.smtp_error
        raise SmtpRefusedError(error.smtp_code, text if isinstance(text, bytes) else text.encode()) from None
    finally:
        if client is not None:
            client.close()


def _options(envelope: Envelope, supports: Callable[[str], bool]) -> Sequence[str]:
    if not envelope.is_international:
        return ()
    if not supports("smtputf8"):
        raise InternationalError
    return ("SMTPUTF8", "BODY=8BITMIME")


def _check(reply: tuple[int, bytes]) -> None:
    if reply[0] >= 400:
        raise SmtpRefusedError(*reply)
