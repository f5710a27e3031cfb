"""E-mail over a real SMTP server in this process, with scripted answers, and one that hangs or breaks off."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
import subprocess
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from notify import UsageError
from notify.dispatch._channel import Content
from notify.dispatch._outcomes import Accepted, Ambiguous, Misconfigured, Outcome, Rejected, Transient
from notify.dispatch.channels import EmailChannel, _smtp_pool
from notify.dispatch.channels._smtp import Dialogue, Phase, failed, refused
from notify.dispatch.channels._smtp_asyncio import _noting_data
from tests.dispatch.jobs import endpoint, job, when_sent

pytestmark = pytest.mark.anyio

SENDER = "Example <no-reply@example.com>"
BOB = endpoint("bob@example.com")


class Mailbox:
    """Handles what aiosmtpd receives: answers as it was told to, and keeps the messages."""

    def __init__(self) -> None:
        self.answers: dict[str, str | list[str]] = {}
        self.commands: list[str] = []
        self.held = threading.Event()
        self.server: Any = None
        self.messages: list[EmailMessage] = []
        self.raw: list[bytes] = []
        self.envelopes: list[Any] = []

    def told(self, phase: str) -> str:
        """Return what to answer: always, or once for each of a list."""
        self.commands.append(phase)
        told = self.answers.get(phase, "")
        return told if isinstance(told, str) else told.pop(0) if told else ""

    async def act(self, server: SMTP, phase: str) -> str:
        """Answer, hang, close or reset, as scripted for this phase."""
        answer = self.told(phase)
        self.server = server
        if answer == "hold":
            await asyncio.to_thread(self.held.wait, 60)
            return ""
        if answer == "hang":
            await asyncio.sleep(60)
        if answer == "close":
            assert server.transport is not None
            server.transport.close()
            await asyncio.sleep(60)
        if answer == "reset":
            assert server.transport is not None
            server.transport.abort()
            await asyncio.sleep(60)
        return answer

    async def handle_EHLO(self, server: SMTP, session: Any, _envelope: Any, hostname: str, responses: Any) -> Any:
        session.host_name = hostname
        return [answer] if (answer := await self.act(server, "ehlo")) else responses

    async def handle_MAIL(self, server: SMTP, _session: Any, envelope: Any, address: str, options: Any) -> str:
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return await self.act(server, "mail") or "250 OK"

    async def handle_RCPT(self, server: SMTP, _session: Any, envelope: Any, address: str, _options: Any) -> str:
        envelope.rcpt_tos.append(address)
        return await self.act(server, "rcpt") or "250 OK"

    async def handle_RSET(self, server: SMTP, _session: Any, _envelope: Any) -> str:
        return await self.act(server, "rset") or "250 OK"

    async def handle_QUIT(self, server: SMTP, _session: Any, _envelope: Any) -> str:
        return await self.act(server, "quit") or "221 Bye"

    async def handle_DATA(self, server: SMTP, _session: Any, envelope: Any) -> str:
        answer = await self.act(server, "data")
        if not answer:
            self.envelopes.append(envelope)
            self.raw.append(envelope.content)
            self.messages.append(message_from_bytes(envelope.content, policy=policy.default))  # type: ignore[arg-type]
        return answer or "250 2.0.0 OK"


class Service(Controller):
    """A controller that takes a free port, whose server may speak UTF-8, and that leaves no connection open."""

    port = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.made: list[SMTP] = []

    def factory(self) -> SMTP:
        self.made.append(SMTP(self.handler, **self.SMTP_kwargs))
        return self.made[-1]

    def abort(self) -> None:
        """Close every connection: the controller only ends the tasks that read from them."""
        for each in self.made:
            if each.transport is not None:
                each.transport.abort()

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@contextmanager
def serving(mailbox: Mailbox, **options: Any) -> Iterator[int]:
    logging.getLogger("mail.log").setLevel(logging.ERROR)  # the server's own log, which shows addresses
    service = Service(mailbox, hostname="127.0.0.1", port=0, ready_timeout=60, **options)
    service.start()
    try:
        yield service.port
    finally:
        service.loop.call_soon_threadsafe(service.abort)
        service.stop()


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Mailbox, int]]:
    mailbox = Mailbox()
    with serving(mailbox, enable_SMTPUTF8=True) as port:
        yield mailbox, port


@pytest.fixture
def mailbox(shared: tuple[Mailbox, int]) -> Mailbox:
    found = shared[0]
    found.__init__()  # type: ignore[misc]
    return found


def plain(port: int, **options: Any) -> EmailChannel:
    return EmailChannel("127.0.0.1", port, sender=SENDER, encryption="none", **options)


@pytest.fixture
async def channel(mailbox: Mailbox, shared: tuple[Mailbox, int]) -> AsyncIterator[EmailChannel]:
    async with plain(shared[1]) as made:
        yield made


# -- what is sent ----------------------------------------------------------------------------------------------------


async def test_a_message(channel: EmailChannel, mailbox: Mailbox) -> None:
    """Text and HTML, the headers of automatic mail, and ids and dates that stay the same at each attempt."""
    created = datetime(2027, 1, 5, 11, 0, tzinfo=UTC)
    content = Content("Grüße", "Bob wrote: hällo", html="<p>Bob wrote: hällo</p>", url="https://example.com/7")
    given = job(BOB, content=content, locale="de-AT", created_at=created)
    assert await channel.send(given) == Accepted("0123456789abcdef0123456789abcdef@example.com")
    (message,) = mailbox.messages
    assert {name: str(message[name]) for name in ("From", "To", "Subject", "Auto-Submitted", "Date", "Message-ID")} == {
        "From": SENDER,
        "To": "bob@example.com",
        "Subject": "Grüße",
        "Auto-Submitted": "auto-generated",
        "Date": "Tue, 05 Jan 2027 11:00:00 +0000",
        "Message-ID": "<0123456789abcdef0123456789abcdef@example.com>",
    }
    assert message["Content-Language"] == "de-AT"
    text, html = message.iter_parts()
    assert isinstance(text, EmailMessage)
    assert isinstance(html, EmailMessage)
    assert text.get_content().splitlines() == ["Bob wrote: hällo", "", "https://example.com/7"]
    assert "<p>Bob wrote: hällo</p>" in html.get_content()
    (envelope,) = mailbox.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("no-reply@example.com", ["bob@example.com"])
    assert mailbox.raw[0].isascii()


async def test_one_click_unsubscribe(channel: EmailChannel, mailbox: Mailbox) -> None:
    """RFC 8058: both headers arrive, and a long URL is not folded or encoded, so that programs can read it."""
    link = f"<https://example.com/unsubscribe?token={'x' * 200}>, <mailto:unsubscribe@example.com>"
    headers = {"List-Unsubscribe": link, "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    await channel.send(job(BOB, headers=headers))
    assert f"\r\nList-Unsubscribe: {link}\r\n".encode() in mailbox.raw[0]
    assert b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in mailbox.raw[0]


async def test_lines_and_dots_survive(channel: EmailChannel, mailbox: Mailbox) -> None:
    """Lines with a dot alone, long lines and trailing blanks arrive as they were; a title is one line."""
    body = "one\n.\n..two  \n" + "x" * 2000 + "\nlast"
    await channel.send(job(BOB, content=Content("two\r\nlines\tBcc: eve@example.com", body)))
    (message,) = mailbox.messages
    assert message.get_content().splitlines() == body.splitlines()
    assert message["Subject"] == "two lines Bcc: eve@example.com"
    assert message["Bcc"] is None


WORD = "=?utf-8?q?=0d=0aBcc:_eve=40example.com?="
"""A line break that the email package decodes, and then writes as it is."""


@pytest.mark.parametrize(
    "text", [f"{WORD} hi", f"=\n{WORD[1:]}", "a\x85b", "a\u2028Bcc: b", "a\x1cb", "half \ud800", WORD * 20]
)
async def test_no_text_becomes_a_header(channel: EmailChannel, mailbox: Mailbox, text: str) -> None:
    """Titles, names, locales and addresses come from people: what looks like an encoded word is text, on one line."""
    name = f'"{text}" <bob@example.com>' if text.startswith("=?") else "bob@example.com"
    found = await channel.send(job(endpoint(name), content=Content(text, text, html=text), locale=text))
    assert isinstance(found, Accepted)
    assert isinstance(await channel.send(job(endpoint(f"{text}@example.com"))), Accepted | Rejected)
    for message in mailbox.messages:
        assert message["Bcc"] is None
        assert len(message.get_all("Subject", [])) == 1
    assert mailbox.envelopes[0].rcpt_tos == ["bob@example.com"]


@pytest.mark.parametrize(
    "headers",
    [
        *({"Bcc": "eve@example.com"}, {"X-A": "a\r\nBcc: eve@example.com"}, {"X A": "b"}, {"List-Unsubscribe": WORD}),
        *({"X-A": "a\x85b"}, {"X-A": "half \ud800"}),
    ],
)
async def test_headers_that_are_not_allowed(channel: EmailChannel, mailbox: Mailbox, headers: dict[str, str]) -> None:
    """A header cannot smuggle another recipient in; that is a fault of the application, not of the endpoint."""
    assert isinstance(await channel.send(job(BOB, headers=headers)), Misconfigured)
    assert mailbox.messages == []


async def test_addresses_in_other_scripts(channel: EmailChannel, mailbox: Mailbox) -> None:
    """A domain is sent in its ASCII form; a local part needs SMTPUTF8."""
    assert isinstance(await channel.send(job(endpoint("bob@exämple.com"))), Accepted)
    assert mailbox.envelopes[0].rcpt_tos == ["bob@xn--exmple-cua.com"]
    assert isinstance(await channel.send(job(endpoint("jürgen@example.com"))), Accepted)
    assert mailbox.envelopes[1].rcpt_tos == ["jürgen@example.com"]
    assert "SMTPUTF8" in mailbox.envelopes[1].mail_options


async def test_a_server_without_smtputf8() -> None:
    """The message is refused before it is sent."""
    mailbox = Mailbox()
    with serving(mailbox, enable_SMTPUTF8=False) as port:
        async with plain(port) as channel:
            found = await channel.send(job(endpoint("jürgen@example.com")))
    assert isinstance(found, Rejected)
    assert (found.code, found.suppress, mailbox.messages) == ("smtputf8", False, [])


@pytest.mark.parametrize(
    "address", ["", "bob", "@example.com", "bob@", "a b@c.d", "a@b\r\nDATA", "<a@b>, <c@d>", "a@ä..b"]
)
async def test_an_address_that_is_not_one(channel: EmailChannel, mailbox: Mailbox, address: str) -> None:
    """It is suppressed, nothing is sent, and the outcome does not show it."""
    found = await channel.send(job(endpoint(address)))
    assert found == Rejected("malformed", suppress=True, error="the endpoint's address is not an e-mail address")
    assert mailbox.messages == []


def test_a_fault_of_a_driver() -> None:
    """What concerns neither the network nor the server is no outcome: the dispatcher logs where it was raised."""
    with pytest.raises(ZeroDivisionError):
        failed(Dialogue(), ZeroDivisionError())


async def test_bounces_go_elsewhere(shared: tuple[Mailbox, int], mailbox: Mailbox) -> None:
    """With `return_path`, which may have the id of the delivery in it."""
    for path in ("bounces@mail.example.com", "b+{id}@mail.example.com"):
        async with plain(shared[1], return_path=path) as channel:
            assert isinstance(await channel.send(job(BOB)), Accepted)
        assert mailbox.envelopes[-1].mail_from == path.replace("{id}", "0123456789abcdef0123456789abcdef")


# -- connections -----------------------------------------------------------------------------------------------------


async def test_many_at_once(shared: tuple[Mailbox, int], mailbox: Mailbox) -> None:
    """At most as many connections as allowed, each used again and again; all messages arrive."""
    found: list[Outcome] = []
    async with plain(shared[1], max_connections=3, timeout=100.0) as channel:

        async def send(number: int) -> None:
            found.append(await channel.send(job(BOB, id=f"{number:032}")))

        async with anyio.create_task_group() as tasks:
            for number in range(25):
                tasks.start_soon(send, number)
    assert [type(each) for each in found] == [Accepted] * 25, found
    assert len({message["Message-ID"] for message in mailbox.messages}) == 25
    assert mailbox.commands.count("ehlo") <= 3


async def test_a_connection_is_used_again(shared: tuple[Mailbox, int], mailbox: Mailbox) -> None:
    """Until it is closed, which says goodbye. What a refused message left behind is reset before the next one."""
    async with plain(shared[1]) as channel:
        await channel.send(job(BOB))
        mailbox.answers["rcpt"] = ["550 5.1.1 no such user"]
        assert isinstance(await channel.send(job(BOB)), Rejected)
        mailbox.answers["data"] = ["554 5.7.1 spam"]
        assert isinstance(await channel.send(job(BOB)), Rejected)
        assert isinstance(await channel.send(job(endpoint("jürgen@example.com"))), Accepted)
        assert isinstance(await channel.send(job(BOB)), Accepted)
    once = ["mail", "rcpt", "data"]
    assert mailbox.commands == [
        *("ehlo", *once, "mail", "rcpt", "rset", *once, "rset", *once, *once),
        "quit",
    ]


@pytest.mark.parametrize("how", ["421 4.4.2 idle for too long", "452 4.5.3 too many messages", "close", "reset"])
@pytest.mark.parametrize("phase", ["mail", "rset"])
async def test_a_kept_connection_that_the_server_gives_up(
    shared: tuple[Mailbox, int], mailbox: Mailbox, phase: str, how: str
) -> None:
    """It shows before the message is sent, which goes over a new one: the message is neither lost nor ambiguous."""
    async with plain(shared[1]) as channel:
        if phase == "rset":
            mailbox.answers["rcpt"] = ["451 later"]
        await channel.send(job(BOB))
        mailbox.answers[phase] = [how]
        assert isinstance(await channel.send(job(BOB, id="1" * 32)), Accepted)
    assert mailbox.commands.count("ehlo") == 2
    assert [message["Message-ID"] for message in mailbox.messages][-1] == f"<{'1' * 32}@example.com>"


async def test_a_server_that_closed_while_nothing_was_sent(shared: tuple[Mailbox, int], mailbox: Mailbox) -> None:
    """As by its own time limit: the next message does not notice."""
    async with plain(shared[1]) as channel:
        await channel.send(job(BOB))
        mailbox.server.loop.call_soon_threadsafe(mailbox.server.transport.close)
        assert isinstance(await channel.send(job(BOB)), Accepted)
    assert mailbox.commands.count("ehlo") == 2
    assert len(mailbox.messages) == 2


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_kept_connection_that_dies_after_the_message(
    shared: tuple[Mailbox, int], mailbox: Mailbox, how: str
) -> None:
    """It may have been taken, so it is not sent once more over another connection."""
    async with plain(shared[1]) as channel:
        await channel.send(job(BOB))
        mailbox.answers["data"] = [how]
        assert isinstance(await channel.send(job(BOB)), Ambiguous)
        assert mailbox.commands.count("data") == 2
        assert isinstance(await channel.send(job(BOB)), Accepted)
    assert mailbox.commands.count("ehlo") == 2


async def test_connections_that_are_not_kept(
    shared: tuple[Mailbox, int], mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `idle=0` none is; one that was not used for longer than that is closed, and one that was used often."""
    async with plain(shared[1], idle=0) as channel:
        for _ in range(2):
            await channel.send(job(BOB))
    assert mailbox.commands == ["ehlo", "mail", "rcpt", "data", "quit"] * 2
    mailbox.commands.clear()
    async with plain(shared[1], idle=30.0) as channel:
        await channel.send(job(BOB))
        assert channel._pool is not None
        channel._pool._kept[0].since -= 31.0
        await channel.send(job(BOB))
    assert mailbox.commands.count("ehlo") == 2
    mailbox.commands.clear()
    monkeypatch.setattr(_smtp_pool, "MAX_MESSAGES", 2)
    async with plain(shared[1]) as channel:
        for _ in range(4):
            await channel.send(job(BOB))
    assert mailbox.commands.count("ehlo") == mailbox.commands.count("quit") == 2


async def test_closing_while_a_message_is_sent(shared: tuple[Mailbox, int], mailbox: Mailbox) -> None:
    """The message is sent to its end, and its connection is not kept. Closing twice does nothing."""
    found: list[Outcome] = []
    channel = plain(shared[1], timeout=60.0)

    async def send() -> None:
        found.append(await channel.send(job(BOB)))

    mailbox.answers["data"] = "hold"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        with anyio.fail_after(60):
            while "data" not in mailbox.commands:  # noqa: ASYNC110 - of another thread
                await anyio.sleep(0.02)
        await channel.aclose()
        mailbox.held.set()
    await channel.aclose()
    assert isinstance(found[0], Accepted)
    assert channel._pool is not None
    assert channel._pool._kept == []


@pytest.mark.parametrize(("backend", "connections"), [("asyncio", 2), ("trio", 1)])
def test_several_event_loops(shared: tuple[Mailbox, int], mailbox: Mailbox, backend: str, connections: int) -> None:
    """A connection that belongs to a loop that has ended is not used. With trio, none belongs to a loop."""
    channel = plain(shared[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # such a connection could only have been closed in its loop
        for _ in range(2):
            assert isinstance(anyio.run(channel.send, job(BOB), backend=backend), Accepted)
        anyio.run(channel.aclose, backend=backend)
        gc.collect()
    assert mailbox.commands.count("ehlo") == connections


# -- what answers mean -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "answer", "expected"),
    [
        ("rcpt", "550 5.1.1 no such user", Rejected("550", suppress=True)),
        ("rcpt", "550 no such user", Rejected("550", suppress=True)),
        ("rcpt", "553 5.1.3 bad address", Rejected("553", suppress=True)),
        ("rcpt", "550 5.2.1 mailbox disabled", Rejected("550", suppress=True)),
        ("rcpt", "550 5.1.8 bad sender", Rejected("550", is_unclear=True)),
        ("rcpt", "552 5.2.2 mailbox full", Rejected("552", is_unclear=True)),
        ("rcpt", "550 5.7.1 blocked", Rejected("550", is_unclear=True)),
        ("rcpt", "554 5.7.1 relay access denied", Rejected("554", is_unclear=True)),
        ("rcpt", "450 4.2.0 greylisted", Transient("450")),
        ("rcpt", "451 4.3.0 try again", Transient("451")),
        ("rcpt", "452 4.2.2 mailbox full", Transient("452")),
        ("rcpt", "421 4.3.2 shutting down", Transient("421")),
        ("data", "451 try again", Transient("451")),
        ("data", "554 5.7.1 this looks like spam", Rejected("554")),
        ("data", "552 5.3.4 too big", Rejected("552")),
        ("mail", "552 5.3.4 too big", Rejected("552")),
        ("mail", "550 5.7.1 who are you", Misconfigured("the SMTP server refused sender= with 550")),
        ("mail", "451 try again", Transient("451")),
    ],
)
async def test_each_answer_has_its_outcome(
    channel: EmailChannel, mailbox: Mailbox, phase: str, answer: str, expected: Outcome
) -> None:
    """By its code and by what it answers. Only an address that does not exist is suppressed."""
    mailbox.answers[phase] = answer
    assert await channel.send(job(BOB)) == expected
    mailbox.answers.clear()
    assert isinstance(await channel.send(job(BOB)), Accepted)


@pytest.mark.parametrize(
    ("phase", "code", "kind"),
    [
        ("login", 535, Misconfigured),
        ("login", 454, Transient),
        ("connect", 554, Misconfigured),
        ("connect", 421, Transient),
        ("sender", 530, Misconfigured),
    ],
)
def test_codes_of_other_phases(phase: Phase, code: int, kind: type[Outcome]) -> None:
    """A refused login is a setting; a server that is busy is not."""
    assert isinstance(refused(phase, code), kind)


@pytest.mark.parametrize("how", ["hang", "close", "reset"])
@pytest.mark.parametrize("phase", ["ehlo", "mail", "rcpt", "data"])
async def test_a_server_that_goes_away(shared: tuple[Mailbox, int], mailbox: Mailbox, phase: str, how: str) -> None:
    """Before the message was sent it certainly was not taken; afterwards that is unknown."""
    mailbox.answers[phase] = how

    async def attempt(timeout: float) -> Outcome:
        async with plain(shared[1], timeout=timeout) as channel:
            return await channel.send(job(BOB))

    if phase == "data":
        assert isinstance(await (when_sent(attempt) if how == "hang" else attempt(60.0)), Ambiguous)
    else:
        assert isinstance(await attempt(0.4 if how == "hang" else 60.0), Transient)


async def test_nothing_listens() -> None:
    """A refused connection is transient."""
    with serving(Mailbox()) as port:
        pass
    found = await plain(port).send(job(BOB))
    assert found == Transient("connect", error="the SMTP server was lost in the phase connect")


@asynccontextmanager
async def speaking(*lines: bytes) -> AsyncIterator[int]:
    """A server that says this, one line for each that it gets, then is silent."""

    async def handle(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):  # the client has gone
                for line in lines:
                    await stream.send(line)
                    await stream.receive()
                await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("lines", [[b"554 go away\r\n"], [b"220 hi\r\n", b"502 what?\r\n", b"502 what?\r\n"]])
async def test_a_server_that_does_not_want_us(lines: list[bytes]) -> None:
    """Its greeting, or its answer to EHLO and HELO, is a refusal of this host."""
    async with speaking(*lines) as port:
        found = await plain(port).send(job(BOB))
    assert isinstance(found, Misconfigured), found


@pytest.mark.parametrize(("answer", "expected"), [(b"451 later\r\n", Transient("451")), (b"554 no\r\n", Rejected)])
async def test_a_server_that_refuses_before_the_message(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, expected: Any
) -> None:
    """Its answer to DATA itself: nothing of the message was sent, so it is as any other refusal."""
    monkeypatch.setattr(_smtp_pool, "QUIT_SECONDS", 0.1)
    lines = [b"220 hi\r\n", b"250 me\r\n", b"250 OK\r\n", b"250 OK\r\n", answer]
    async with speaking(*lines) as port, plain(port) as channel:
        found = await channel.send(job(BOB))
    assert found == expected or (expected is Rejected and isinstance(found, Rejected)), found


def test_a_lost_connection_has_no_data_to_note() -> None:
    """The driver is about to report it; the phase stays."""
    dialogue = Dialogue()
    with _noting_data(None, dialogue):
        assert dialogue.phase == "connect"
    assert dialogue.phase == "connect"


async def test_a_slow_goodbye_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was accepted is accepted, though the server hangs at QUIT."""
    monkeypatch.setattr(_smtp_pool, "QUIT_SECONDS", 0.1)
    lines = [b"220 hi\r\n", b"250 me\r\n", b"250 OK\r\n", b"250 OK\r\n", b"354 go on\r\n", b"250 taken\r\n"]
    for idle in (0, 30):
        async with speaking(*lines) as port:
            with anyio.fail_after(60):
                async with plain(port, timeout=60.0, idle=idle) as channel:
                    assert isinstance(await channel.send(job(BOB)), Accepted)


async def test_waiting_for_a_connection_is_bounded(shared: tuple[Mailbox, int], mailbox: Mailbox) -> None:
    """A message that gets none in its time was certainly not sent."""
    async with plain(shared[1], max_connections=1, timeout=0.2) as channel:
        assert channel._pool is not None
        async with channel._pool._slots:  # as another message has it
            found = [await _elsewhere(channel) for _ in range(2)]
    assert found == [Transient("timeout", error="the SMTP server was lost in the phase connect")] * 2
    assert mailbox.commands == []


async def _elsewhere(channel: EmailChannel) -> Outcome:
    """Send from another task: a slot belongs to a task."""
    found: list[Outcome] = []

    async def send() -> None:
        found.append(await channel.send(job(BOB)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
    return found[0]


async def test_cancelling_leaves_no_connection(shared: tuple[Mailbox, int], mailbox: Mailbox) -> None:
    """A cancelled message frees its slot, and the next one is sent over another connection."""
    async with plain(shared[1], max_connections=1, timeout=60.0) as channel:
        for phase in ("mail", "data"):
            mailbox.answers[phase] = ["hang"]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(channel.send, job(BOB))
                with anyio.fail_after(60):
                    while mailbox.answers[phase]:  # noqa: ASYNC110 - of another thread
                        await anyio.sleep(0.02)
                tasks.cancel_scope.cancel()
            assert isinstance(await channel.send(job(BOB)), Accepted)
            assert channel._pool is not None
            assert len(channel._pool._kept) == 1


# -- encryption and login --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server with a certificate of its own, and of a client that trusts it."""
    folder: Path = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "30",
    ]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key)]
    subprocess.run([*command, "-out", str(cert)], check=True, capture_output=True)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=str(cert))


def login(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
    assert isinstance(data, LoginPassword)
    return AuthResult(success=data.password == b"sesame", handled=False)


@pytest.mark.parametrize("password", ["sesame", "hush"])
async def test_starttls_and_login(certificate: tuple[ssl.SSLContext, ssl.SSLContext], password: str) -> None:
    """The login is made over TLS; a wrong password is a matter of the settings, and is not shown."""
    server, client = certificate
    mailbox = Mailbox()
    options = {"tls_context": server, "require_starttls": True, "auth_required": True, "authenticator": login}
    with serving(mailbox, **options) as port:
        settings: Any = {"sender": SENDER, "username": "me", "password": password, "ssl_context": client}
        async with EmailChannel("localhost", port, **settings) as channel:
            found = await channel.send(job(BOB))
            assert type(await channel.send(job(BOB))) is type(found)
    assert len(mailbox.messages) == 2 * (password == "sesame")
    assert mailbox.commands.count("quit") == (password == "sesame")
    assert isinstance(found, Accepted if password == "sesame" else Misconfigured), found
    assert channel._pool is not None
    assert "hush" not in f"{found} {channel!r} {channel._pool.server!r}"


async def test_a_server_that_demands_encryption(certificate: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Without it, that is a matter of the settings."""
    with serving(Mailbox(), tls_context=certificate[0], require_starttls=True) as port:
        async with EmailChannel("localhost", port, sender=SENDER, encryption="none") as channel:
            assert isinstance(await channel.send(job(BOB)), Misconfigured)


@pytest.mark.parametrize(("encryption", "context"), [("starttls", "tls_context"), ("implicit", "ssl_context")])
async def test_a_certificate_that_is_not_trusted(
    certificate: tuple[ssl.SSLContext, ssl.SSLContext], encryption: Any, context: str
) -> None:
    """Nothing is sent, and the settings are to blame."""
    mailbox = Mailbox()
    with serving(mailbox, **{context: certificate[0]}) as port:
        found = await EmailChannel("localhost", port, sender=SENDER, encryption=encryption).send(job(BOB))
    assert (found, mailbox.messages) == (Misconfigured("the certificate of the SMTP server was not accepted"), [])


async def test_a_server_without_starttls(shared: tuple[Mailbox, int], mailbox: Mailbox) -> None:
    """The message is not sent in the clear."""
    found = await EmailChannel("127.0.0.1", shared[1], sender=SENDER).send(job(BOB))
    assert isinstance(found, Misconfigured), found
    assert mailbox.messages == []


async def test_implicit_tls(certificate: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """TLS from the first byte."""
    mailbox = Mailbox()
    with serving(mailbox, ssl_context=certificate[0]) as port:
        settings: Any = {"sender": SENDER, "encryption": "implicit", "ssl_context": certificate[1]}
        async with EmailChannel("localhost", port, **settings) as channel:
            for _ in range(2):
                assert isinstance(await channel.send(job(BOB)), Accepted)
    assert (len(mailbox.messages), mailbox.commands.count("quit")) == (2, 1)


# -- settings --------------------------------------------------------------------------------------------------------


async def test_without_a_host_it_is_misconfigured() -> None:
    """A channel without settings says so."""
    assert isinstance(await EmailChannel(None, sender=SENDER).send(job(BOB)), Misconfigured)


def test_settings_are_checked() -> None:
    """A sender that is not an address, and an encryption that does not exist."""
    with pytest.raises(UsageError, match="sender"):
        EmailChannel("localhost", sender="example")
    with pytest.raises(UsageError, match="encryption"):
        EmailChannel("localhost", sender=SENDER, encryption="tls")  # type: ignore[arg-type]
    for options in ({"idle": -1}, {"timeout": 0}, {"max_connections": 0}):
        with pytest.raises(UsageError, match=next(iter(options))):
            EmailChannel("localhost", sender=SENDER, **options)  # type: ignore[arg-type]
