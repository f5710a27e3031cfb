"""`EmailChannel`: e-mail through an SMTP server."""

from __future__ import annotations

import ssl
from typing import ClassVar

import anyio

from notify import UsageError

from .._channel import Job
from .._outcomes import Misconfigured, Outcome, Rejected
from ._email_message import POLICY, AddressMalformedError, build, mailbox, message_id, sender_of
from ._requests import missing
from ._smtp import Encryption, Envelope, Server, deliver


class EmailChannel:
    """Sends e-mail through an SMTP server, each message to one recipient.

    `Message-ID` is the id of the delivery at the sender's domain, the same in each attempt, so most mailboxes recognise
    a repetition. `Job.headers`, such as `List-Unsubscribe` and `List-Unsubscribe-Post`, are sent as they are.

    Args:
        host: the SMTP server; None: not configured, so every message ends as `Misconfigured`.
        port: its port; None: 587 with STARTTLS, 465 with implicit TLS, 25 without encryption.
        sender: the address of the sender, with or without a name: `"Example <no-reply@example.com>"`.
        username: the login; None: no login.
        password: the password of the login.
        encryption: `"starttls"`, `"implicit"` (TLS from the first byte) or `"none"`.
        return_path: the address for bounces; None: that of the sender.
        timeout: seconds for one message, from the wait for a connection to the server's answer.
        max_connections: the most messages that are sent at the same time.
        ssl_context: how the server's certificate is verified; None: as Python does by default.
        hostname: the name by which this host introduces itself; None: its own.

    Raises:
        UsageError: an argument is not valid, or the extra `email` is not installed.
    """

    has_endpoints: ClassVar = True
    deduplicates: ClassVar = True

    def __init__(
        self,
        host: str | None,
        port: int | None = None,
        *,
        sender: str,
        username: str | None = None,
        password: str | None = None,
        encryption: Encryption = "starttls",
        return_path: str | None = None,
        timeout: float = 15.0,
        max_connections: int = 10,
        ssl_context: ssl.SSLContext | None = None,
        hostname: str | None = None,
    ) -> None:
        try:
            import aiosmtplib as aiosmtplib
        except ImportError as error:
            raise UsageError(missing("EmailChannel", "email")) from error
        ports = {"starttls": 587, "implicit": 465, "none": 25}
        if encryption not in ports:
            raise UsageError(f"encryption must be 'starttls', 'implicit' or 'none', not {encryption!r:.80}")
        self._sender = sender_of(sender)
        self._return_path = self._sender.addr_spec if return_path is None else sender_of(return_path).addr_spec
        self._slots = anyio.CapacityLimiter(max_connections)
        self._server = host and Server(
            host,
            ports[encryption] if port is None else port,
            encryption,
            username,
            password,
            ssl_context or ssl.create_default_context(),
            hostname,
            timeout,
        )

    async def send(self, job: Job) -> Outcome:
        """See `Channel.send`. The provider's id is the Message-ID."""
        assert job.endpoint is not None, "an e-mail is sent to an endpoint"
        if not self._server:
            return Misconfigured("e-mail is not configured: pass host= to EmailChannel")
        try:
            recipient = mailbox(job.endpoint.address)
            message = build(job, self._sender, recipient, job.now)
        except AddressMalformedError:
            return Rejected("malformed", suppress=True, error="the endpoint's address is not an e-mail address")
        except UsageError as error:
            return Misconfigured(str(error))
        is_international = not (recipient.addr_spec + self._return_path).isascii()
        content = message.as_bytes(policy=POLICY.clone(utf8=is_international))
        envelope = Envelope(self._return_path, recipient.addr_spec, content, is_international)
        return await deliver(self._server, envelope, message_id(job, self._sender.domain), self._slots)

    def __repr__(self) -> str:
        return f"<EmailChannel over {self._server.host if self._server else None}>"
