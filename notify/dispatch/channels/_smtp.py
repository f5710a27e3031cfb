"""What is sent over SMTP, how far a message has come, and what each answer means."""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from .._outcomes import Ambiguous, Misconfigured, Outcome, Rejected, Transient

Phase = Literal["connect", "login", "sender", "recipient", "data", "content", "done"]
"""In `"data"`, the command DATA may have been sent, but no part of the message: the server has not yet agreed to it."""

Encryption = Literal["starttls", "implicit", "none"]

_ADDRESS: Final = re.compile(rb"5\.(?:1\.(?:1|2|3|6|10)|2\.1)\b")
"""Enhanced status codes of an address that does not exist, or a mailbox that is disabled. 5.1.7 and 5.1.8 are about the
sender's."""


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


class SmtpConnection(Protocol):
    """One connection to the server."""

    @property
    def is_open(self) -> bool:
        """Whether it is not known to be closed."""

    async def open(self, dialogue: Dialogue) -> None:
        """Connect, encrypt and log in."""

    async def send(self, envelope: Envelope, dialogue: Dialogue) -> None:
        """Send a message; one that was refused before is forgotten first."""

    async def quit(self) -> None:
        """Say goodbye, and close."""

    def close(self) -> None:
        """Close at once, whatever is going on."""


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


def failed(dialogue: Dialogue, error: Exception) -> Outcome:
    """Return what an exception of a driver means.

    Raises:
        Exception: it is neither about the network nor about the server.
    """
    if isinstance(error, SmtpRefusedError):
        return refused(dialogue.phase, error.code, error.text)
    if isinstance(error, InternationalError):
        return Rejected("smtputf8", error="the server does not take addresses with characters outside ASCII")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Misconfigured("the certificate of the SMTP server was not accepted")
    if _is_lacking(error):
        return Misconfigured("the SMTP server has no STARTTLS, or none of our kinds of login: compare encryption=")
    if not is_network(error):
        raise error
    return lost(dialogue.phase, "connect")


def lost(phase: Phase, code: str) -> Outcome:
    """Return what it means that the connection was lost, or the time is over, in a phase."""
    if phase == "content":
        return Ambiguous("the SMTP server did not say whether it took the message")
    return Transient(code, error=f"the SMTP server was lost in the phase {phase}")


def is_network(error: Exception) -> bool:
    """Return whether an exception tells of the network or the server, not of a mistake in this module."""
    import aiosmtplib

    return isinstance(error, OSError | EOFError | aiosmtplib.SMTPException)


def _is_lacking(error: Exception) -> bool:
    """Return whether the server lacks an extension. Both drivers raise their plain class for a kind of login."""
    import aiosmtplib

    lacking = aiosmtplib.SMTPNotSupported | smtplib.SMTPNotSupportedError
    return isinstance(error, lacking) or type(error) in {aiosmtplib.SMTPException, smtplib.SMTPException}


def options(envelope: Envelope, supports: Callable[[str], bool]) -> Sequence[str]:
    """Return the options of MAIL FROM.

    Raises:
        InternationalError: the server lacks one of them.
    """
    if not envelope.is_international:
        return ()
    if not supports("smtputf8"):
        raise InternationalError
    return ("SMTPUTF8", "BODY=8BITMIME")
