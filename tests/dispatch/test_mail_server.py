"""`MailServer` gives scripted answers over SMTP. The client is the standard library's."""

from __future__ import annotations

import builtins
import smtplib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from notify import UsageError
from notify.testing.dispatch import MailServer

TEXT = b"Subject: Hello\r\n\r\nText\r\n"


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer().running() as server:
        yield server


def client(server: MailServer, timeout: float = 60) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", server.port, timeout=timeout)


def test_a_message_is_kept(server: MailServer) -> None:
    """Each recipient has a message of its own, with sender, headers and text; the repr shows no address."""
    with client(server) as smtp:
        assert smtp.sendmail("me@example.com", ["a@example.org", "b@example.org"], TEXT) == {}
    assert [(each.sender, each.recipient) for each in server.messages] == [
        ("me@example.com", "a@example.org"),
        ("me@example.com", "b@example.org"),
    ]
    assert server.messages[0].message["Subject"] == "Hello"
    assert server.messages[0].message.get_content() == "Text\r\n"
    assert server.commands == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]
    assert "@" not in repr(server.messages)


@pytest.mark.parametrize(
    ("command", "error"),
    [("MAIL", smtplib.SMTPSenderRefused), ("RCPT", smtplib.SMTPRecipientsRefused), ("DATA", smtplib.SMTPDataError)],
)
def test_the_next_answers(server: MailServer, command: str, error: type[smtplib.SMTPException]) -> None:
    """Each answer is given once, then the server works as usual; what was refused is not kept."""
    server.answer(command, "451 4.3.0 later", "550 5.7.1 no")
    with client(server) as smtp:
        for code in (b"451 4.3.0", b"550 5.7.1"):
            with pytest.raises(error, match=code.decode()[:3]):
                smtp.sendmail("me@example.com", "a@example.org", TEXT)
        assert server.messages == []
        smtp.sendmail("me@example.com", "a@example.org", TEXT)
    assert len(server.messages) == 1


def test_other_commands(server: MailServer) -> None:
    """EHLO, RSET and QUIT answer as told, too; an answer that accepts is one."""
    server.answer("EHLO", "502 5.5.1 no")
    server.answer("RCPT", "251 2.1.5 will be forwarded")
    server.answer("RSET", "421 4.3.2 going")
    server.answer("QUIT", "221 2.0.0 farewell")
    with client(server) as smtp:
        assert smtp.ehlo()[0] == 502
        smtp.sendmail("me@example.com", "a@example.org", TEXT)
        assert smtp.rset()[0] == 421
        assert smtp.quit() == (221, b"2.0.0 farewell")
    assert [each.recipient for each in server.messages] == ["a@example.org"]


def test_an_address_that_is_refused(server: MailServer) -> None:
    """It is refused each time, and no other one, until that is taken back."""
    server.refuse("a@example.org", "550 5.1.1 no such mailbox")
    with client(server) as smtp:
        for _ in range(2):
            refused = smtp.sendmail("me@example.com", ["a@example.org", "b@example.org"], TEXT)
            assert refused == {"a@example.org": (550, b"5.1.1 no such mailbox")}
        server.refuse("a@example.org", None)
        server.refuse("c@example.org", None)
        assert smtp.sendmail("me@example.com", "a@example.org", TEXT) == {}
    assert [each.recipient for each in server.messages] == ["b@example.org", "b@example.org", "a@example.org"]


def test_a_connection_that_breaks(server: MailServer) -> None:
    """`close` ends it without an answer; the next connection works."""
    server.answer("DATA", "close")
    with pytest.raises(smtplib.SMTPServerDisconnected), client(server) as smtp:
        smtp.sendmail("me@example.com", "a@example.org", TEXT)
    with client(server) as smtp:
        smtp.sendmail("me@example.com", "a@example.org", TEXT)
    assert len(server.messages) == 1


def test_a_server_that_hangs_is_stopped() -> None:
    """`hang` gives no answer; leaving the block ends the connection and the thread."""
    before = threading.active_count()
    failed: list[BaseException] = []

    def send(port: int) -> None:
        try:
            with smtplib.SMTP("127.0.0.1", port, timeout=600) as smtp:
                smtp.sendmail("me@example.com", "a@example.org", TEXT)
        except smtplib.SMTPServerDisconnected as error:
            failed.append(error)

    server = MailServer()
    server.answer("MAIL", "hang")
    reached = threading.Event()
    server.next_answer = _noting(server.next_answer, reached)  # type: ignore[method-assign]
    with server.running():
        thread = threading.Thread(target=send, args=(server.port,))
        thread.start()
        assert reached.wait(60)
    thread.join(60)
    assert len(failed) == 1
    assert server.port == 0
    assert threading.active_count() == before


def _noting(function: Any, reached: threading.Event) -> Any:
    def next_answer(command: str, recipient: str = "") -> str:
        if command == "MAIL":
            reached.set()
        return str(function(command, recipient))

    return next_answer


@pytest.mark.parametrize("answer", ["later", "4511 x", "451", "451 a\r\n250 b", "100 x", ""])
def test_what_is_no_answer(answer: str) -> None:
    """An answer has a code and a text in one line."""
    with pytest.raises(UsageError, match="an answer must be like"):
        MailServer().answer("RCPT", answer)
    with pytest.raises(UsageError, match="an answer must be like"):
        MailServer().refuse("a@example.org", answer)


def test_what_is_no_command() -> None:
    """The error lists the commands."""
    with pytest.raises(UsageError, match="command must be one of EHLO, MAIL, RCPT, DATA, RSET, QUIT, not 'rcpt'"):
        MailServer().answer("rcpt", "250 OK")


def test_without_aiosmtpd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "_mail_thread" or name.startswith("aiosmtpd"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match="pip install aiosmtpd"), MailServer().running():
        pass
