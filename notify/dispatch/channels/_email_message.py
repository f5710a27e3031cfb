"""Pure: from a job to the bytes of an e-mail."""

from __future__ import annotations

import re
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import format_datetime, getaddresses
from typing import Any, Final

from notify.errors import UsageError

from .._channel import Job

_UNFOLDED: Final = ("list-", "message-id")
"""How the names of headers begin whose values must stay in one piece: folding would encode a long URL."""

_NAME: Final = re.compile(r"[!-9;-~]+", re.ASCII)
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
"""Characters that no header has. Some of them end a line for Python only."""

_ENCODED: Final = "=?"
"""How an encoded word (RFC 2047) begins. The library decodes it in values of headers, line breaks in it too, and writes
those as they are: `=?utf-8?q?=0d=0aBcc:_x?=` would be a header of its own."""

_VALUE: Final = re.compile(r"[ -~]*", re.ASCII)
_LOCALE: Final = re.compile(r"[A-Za-z0-9_-]{1,35}", re.ASCII)
_RESERVED: Final = frozenset(
    {"from", "to", "cc", "bcc", "sender", "subject", "date", "message-id", "mime-version", "content-type"}
)


class MailPolicy(EmailPolicy):
    """Lines end as SMTP wants it, and long URLs of `List-Unsubscribe` stay readable for programs."""

    def fold(self, name: str, value: Any) -> str:
        """Write one header."""
        return f"{name}: {value}\r\n" if name.lower().startswith(_UNFOLDED) else super().fold(name, value)

    def fold_binary(self, name: str, value: Any) -> bytes:
        """Write one header as bytes."""
        if name.lower().startswith(_UNFOLDED):
            return self.fold(name, value).encode("ascii", "replace")
        return super().fold_binary(name, value)


POLICY: Final = MailPolicy(linesep="\r\n", cte_type="7bit")
"""The policy of every message: 7-bit, which every server takes."""


class AddressMalformedError(ValueError):
    """It is not an address. The message does not show it."""


def mailbox(text: str) -> Address:
    """Parse an address with or without a name, such as `Example <no-reply@example.com>`.

    A domain in another script is written in its ASCII form.

    Raises:
        AddressMalformedError: it is not one address.
    """
    (name, spec), *others = getaddresses([text]) or [("", "")]
    local, at, domain = spec.rpartition("@")
    if others or not at or not local or not domain or _CONTROLS.search(text) or re.search(r"\s|=\?", spec):
        raise AddressMalformedError("this is not an e-mail address") from None
    try:
        return Address(_harmless(name), local, domain if domain.isascii() else domain.encode("idna").decode())
    except (ValueError, IndexError, UnicodeError):
        raise AddressMalformedError("this is not an e-mail address") from None


def sender_of(text: str) -> Address:
    """Parse the sender.

    Raises:
        UsageError: it is not an address.
    """
    try:
        return mailbox(text)
    except AddressMalformedError:
        raise UsageError("sender must be an address, such as 'Example <no-reply@example.com>'") from None


def message_id(job: Job, domain: str) -> str:
    """Return the Message-ID without angle brackets: the same in each attempt."""
    return f"{job.id}@{domain}"


def build(job: Job, sender: Address, recipient: Address, now: datetime) -> EmailMessage:
    """Return the message: text, HTML if there is any, and the headers of the job.

    Raises:
        UsageError: `Job.headers` has a name or a value that is not allowed.
    """
    content = job.content
    message = EmailMessage(policy=POLICY)
    message["Message-ID"] = f"<{message_id(job, sender.domain)}>"
    message["Date"] = format_datetime(job.created_at or now)
    message["From"] = sender
    message["To"] = recipient
    message["Subject"] = _harmless(content.title)
    message["Auto-Submitted"] = "auto-generated"
    for name, value in job.headers.items():
        if not _NAME.fullmatch(name) or name.lower() in _RESERVED:
            raise UsageError(f"Job.headers must not set {name!r:.80}")
        if not _VALUE.fullmatch(value) or _ENCODED in value:
            raise UsageError(f"Job.headers: the value of {name!r:.80} must be printable ASCII, without encoded words")
        del message[name]
        message[name] = value
    text = content.body or content.short
    if content.url and content.url not in text:
        text = f"{text}\n\n{content.url}" if text else content.url
    message.set_content(_whole(text) + "\n", cte="quoted-printable")
    if content.html:
        message.add_alternative(_whole(content.html), subtype="html", cte="quoted-printable")
    if _LOCALE.fullmatch(job.locale):
        message["Content-Language"] = job.locale  # set last: the text clears such headers
    return message


def _harmless(text: str) -> str:
    """Return the text as the value of a header: one line, and what looks like an encoded word is text."""
    return _whole(_CONTROLS.sub(" ", text).strip()).replace(_ENCODED, "= ?")


def _whole(text: str) -> str:
    """Return the text with a question mark for half a surrogate pair, which UTF-8 does not have."""
    return text.encode("utf-8", "replace").decode()
