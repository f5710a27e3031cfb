"""`MailServer`: an SMTP server in this process with scripted answers, for tests of e-mail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from notify import UsageError

from ._mail_script import MailMessage as MailMessage
from ._mail_script import MailScript


class MailServer(MailScript):
    """Keeps the messages that it accepts, and gives scripted answers. Needs aiosmtpd: `pip install aiosmtpd`.

    ```python
    with MailServer().running() as server:
        channel = EmailChannel("127.0.0.1", server.port, sender="no-reply@example.com", encryption="none")
        server.refuse("alice@example.org", "550 5.1.1 no such mailbox")
        server.answer("DATA", "451 4.3.0 try later", "close")
        ...
        assert server.messages[0].recipient == "bob@example.org"
    ```

    Attributes:
        port: the port on 127.0.0.1; 0: it is not running.
        messages: what was accepted, in order.
        commands: the names of the commands that were received, in order; `DATA` stands for a whole message.
    """

    port = 0

    @contextmanager
    def running(self) -> Iterator[MailServer]:
        """Serve on a free port of this host, in a thread.

        Raises:
            UsageError: aiosmtpd is not installed.
        """
        try:
            from ._mail_thread import serving
        except ImportError as error:
            raise UsageError("MailServer needs aiosmtpd: pip install aiosmtpd") from error
        with serving(self) as self.port:
            try:
                yield self
            finally:
                self.port = 0
