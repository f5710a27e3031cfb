"""`EmailChannel`: e-mail through an SMTP server."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import ClassVar, Self

from notify import UsageError

from .._channel import Job
from .._checks import check_count, check_seconds
from .._outcomes import Misconfigured, Outcome, Rejected
from .._retry import PATIENT
from ._email_message import POLICY, AddressMalformedError, build, mailbox, message_id, sender_of
from ._requests import missing
from ._smtp import Encryption, Envelope, Server
from ._smtp_pool import SmtpPool


class EmailChannel:
    """Sends e-mail, each message to one recipient, over connections that are used again while they are open.

    `Message-ID` is the id of the delivery at the sender's domain, the same in each attempt, so most mailboxes recognise
    a repetition. `Job.headers`, such as `List-Unsubscribe` and `List-Unsubscribe-Post`, are sent as they are.

    Args:
        host: the SMTP server; None: not configured, so every message ends as `Misconfigured`.
        port: its port; None: 587 with STARTTLS, 465 with implicit TLS, 25 without encryption.
        sender: the address of the sender, with or without a name: `"Example <no-reply@example.com>"`.
        username: the login; None: no login.
        password: the password of the login.
        encryption: `"starttls"`, `"implicit"` (TLS from the first byte) or `"none"`.
        return_path: the address for bounces; None: that of the sender. `{id}` in it is replaced by the id of the
            delivery, as in `"bounces+{id}@example.com"`, by which `mail_reports` recognises what a bounce is about.
        timeout: seconds for one message, from the wait for a connection to the server's answer.
        max_connections: the most messages that are sent at the same time.
        idle: seconds for which an unused connection is kept; 0: each message has a connection of its own. If the
            server has closed a kept one, that shows before the message is sent, which then goes over a new one.
        ssl_context: how the server's certificate is verified; None: as Python does by default.
        hostname: the name by which this host introduces itself; None: its own.

    Raises:
        UsageError: an argument is not valid, or the extra `email` is not installed.
    """

    has_endpoints: ClassVar = True
    deduplicates: ClassVar = True
    retries: ClassVar = PATIENT

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
        idle: float = 30.0,
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
        check_seconds("timeout", timeout)
        check_count("max_connections", max_connections)
        check_seconds("idle", idle, zero=True)
        self._sender = sender_of(sender)
        self._return_path = self._sender.addr_spec if return_path is None else sender_of(return_path).addr_spec
        self._pool: SmtpPool | None = None
        if host:
            port = ports[encryption] if port is None else port
            context = ssl_context or ssl.create_default_context()
            server = Server(host, port, encryption, username, password, context, hostname, timeout)
            self._pool = SmtpPool(server, max_connections, idle)

    async def send(self, job: Job) -> Outcome:
        """See `Channel.send`. The provider's id is the Message-ID."""
        assert job.endpoint is not None, "an e-mail is sent to an endpoint"
        if self._pool is None:
            return Misconfigured("e-mail is not configured: pass host= to EmailChannel")
        try:
            recipient = mailbox(job.endpoint.address)
            message = build(job, self._sender, recipient, job.now)
        except AddressMalformedError:
            return Rejected("malformed", suppress=True, error="the endpoint's address is not an e-mail address")
        except UsageError as error:
            return Misconfigured(str(error))
        return_path = self._return_path.replace("{id}", job.id)
        is_international = not (recipient.addr_spec + return_path).isascii()
        content = message.as_bytes(policy=POLICY.clone(utf8=is_international))
        envelope = Envelope(return_path, recipient.addr_spec, content, is_international)
        return await self._pool.deliver(envelope, message_id(job, self._sender.domain))

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        if self._pool is not None:
            await self._pool.aclose()

    async def __aenter__(self) -> Self:
        """Return the channel."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    def __repr__(self) -> str:
        return f"<EmailChannel over {self._pool.server.host if self._pool else None}>"
