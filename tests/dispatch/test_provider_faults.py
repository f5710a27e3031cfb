"""HTTP providers that misbehave: every answer becomes a typed outcome, in bounded time and memory.

A provider that refuses our credentials retires no endpoint, whatever else it answers.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from random import Random
from typing import Any

import anyio
import anyio.abc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from notify.dispatch import (
    Accepted,
    Ambiguous,
    Channel,
    Endpoint,
    EndpointGone,
    Misconfigured,
    Outcome,
    Rejected,
    Throttled,
    Transient,
)
from notify.dispatch.channels import (
    FcmChannel,
    HttpSmsGateway,
    SmsChannel,
    TwilioSmsGateway,
    WebhookChannel,
    WebPushChannel,
    generate_vapid_key,
)
from notify.http import HttpPool
from notify.http._client import LONGEST_WAIT
from tests.dispatch.jobs import endpoint, job
from tests.dispatch.test_channel_fcm import ERROR, VIOLATION

pytestmark = pytest.mark.anyio

KINDS = ("web_push", "fcm", "webhook", "sms", "twilio")

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VAPID = generate_vapid_key()
BROWSER = {
    "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
    "auth": "BTBZMqHH6r4Tts7J_aSIgg",
}

WHOLE = {
    "web_push": b"HTTP/1.1 201 Created\r\nLocation: /m/1\r\nContent-Length: 0\r\n\r\n",
    "fcm": b'HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n{"name": "projects/a/m/1"}',
    "webhook": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "sms": b'HTTP/1.1 202 Accepted\r\nContent-Length: 12\r\n\r\n{"id": "m1"}',
    "twilio": b'HTTP/1.1 201 Created\r\nContent-Length: 14\r\n\r\n{"sid": "SM12"}',
}
"""An answer that each of them understands."""

Act = Callable[[anyio.abc.ByteStream], Awaitable[None]]


class FaultyProvider:
    """A server that reads each request and then acts as it is told, and which counts what it gets and sends."""

    def __init__(self) -> None:
        self.requests = 0
        self.sent = 0
        self.port = 0
        self.act: Act = self.close

    async def close(self, stream: anyio.abc.ByteStream) -> None:
        """Answer nothing."""

    def say(self, *parts: bytes) -> None:
        """Answer so, part by part, and close."""

        async def act(stream: anyio.abc.ByteStream) -> None:
            for part in parts:
                await stream.send(part)

        self.act = act

    def pour(self, start: bytes, rest: bytes, size: int, pause: float | None = None) -> None:
        """Answer with `start`, then with `rest` repeatedly, `size` bytes in all, and after each a pause in seconds."""

        async def act(stream: anyio.abc.ByteStream) -> None:
            await stream.send(start)
            left = size
            while left > 0:
                await stream.send(rest)
                left -= len(rest)
                self.sent += len(rest)
                if pause is not None:
                    await anyio.sleep(pause)

        self.act = act

    async def handle(self, stream: anyio.abc.ByteStream) -> None:
        """Serve one connection: one request."""
        async with stream:
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
                received = b""
                while b"\r\n\r\n" not in received:
                    received += await stream.receive()
                head, _, body = received.partition(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-len")
                )
                while len(body) < length:
                    body += await stream.receive()
                self.requests += 1
                await self.act(stream)


@pytest.fixture
async def provider() -> Any:
    """A provider that misbehaves."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        found = FaultyProvider()
        found.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, found.handle)
            yield found
            tasks.cancel_scope.cancel()


class Login:
    """Credentials of FCM that are there already."""

    expiry = None
    token = "access"

    def refresh(self, request: object) -> None:
        """Have a token."""


@contextmanager
def made(kind: str, provider: FaultyProvider, timeout: float = 60.0) -> Iterator[tuple[Channel, Endpoint]]:
    """Yield a channel that sends to this provider, and an endpoint."""
    url = f"http://127.0.0.1:{provider.port}"
    pool = HttpPool(allow_private=True, idle=0)
    options: dict[str, Any] = {"client": pool, "timeout": timeout}
    with ExitStack():
        match kind:
            case "web_push":
                options["allow_private"] = True
                yield WebPushChannel(VAPID, subject="mailto:a@example.com", **options), endpoint(f"{url}/p", **BROWSER)
            case "fcm":
                yield FcmChannel("demo", Login(), base=url, **options), endpoint("token-hush", "token")
            case "webhook":
                yield WebhookChannel(SECRET, **options), endpoint(f"{url}/hook")
            case "sms":
                yield SmsChannel(HttpSmsGateway(f"{url}/sms"), **options), endpoint("+431234567")
            case "twilio":
                gateway = TwilioSmsGateway("AC1", "token", sender="+4312345", base=url)
                yield SmsChannel(gateway, **options), endpoint("+431234567")


async def attempt(kind: str, provider: FaultyProvider, timeout: float = 60.0) -> Outcome:
    """Send one message, with one request."""
    before = provider.requests
    with made(kind, provider, timeout) as (channel, to), anyio.fail_after(120):
        found = await channel.send(job(to))
    assert provider.requests == before + 1
    return found


every = pytest.mark.parametrize("kind", KINDS)


# -- connections -----------------------------------------------------------------------------------------------------


@every
async def test_it_closes_at_each_byte(kind: str, provider: FaultyProvider) -> None:
    """Without a whole status and headers the outcome is not known; with them, it is."""
    whole = WHOLE[kind]
    head = whole.index(b"\r\n\r\n") + 4
    for length in range(len(whole) + 1):
        provider.say(whole[:length])
        found = await attempt(kind, provider)
        assert isinstance(found, Accepted if length >= head else Ambiguous), (length, found)


@every
async def test_it_answers_byte_by_byte(kind: str, provider: FaultyProvider) -> None:
    """That is an answer like any other."""
    provider.say(*(bytes([each]) for each in WHOLE[kind]))
    assert isinstance(await attempt(kind, provider), Accepted)


@every
async def test_it_answers_slowly_without_end(kind: str, provider: FaultyProvider) -> None:
    """An answer whose headers do not end in time is none, however often a byte of it arrives."""

    async def drip(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await stream.send(b"X-A: b\r\n")
            await anyio.sleep(0.02)

    provider.act = drip
    assert isinstance(await attempt(kind, provider, timeout=2.0), Ambiguous)


# -- what is not HTTP, and what is strange in it -----------------------------------------------------------------------


@every
async def test_it_answers_garbage(kind: str, provider: FaultyProvider) -> None:
    """Random bytes are no answer."""
    random = Random(7)
    for _ in range(40):
        provider.say(random.randbytes(random.randrange(1, 400)))
        assert isinstance(await attempt(kind, provider), Ambiguous)


@every
@pytest.mark.parametrize("count", [1, 3, 500])
async def test_it_answers_100_continue(kind: str, count: int, provider: FaultyProvider) -> None:
    """Answers before the answer are left out."""
    provider.say(
        b"HTTP/1.1 100 Continue\r\n\r\n" * count, b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n", WHOLE[kind]
    )
    assert isinstance(await attempt(kind, provider), Accepted)


@every
async def test_it_answers_100_continue_without_end(kind: str, provider: FaultyProvider) -> None:
    """That is not an answer, not even if there is always more of it to read: one channel reads it without pauses.

    All channels use the same client, and without pauses each would keep a processor busy.
    """
    provider.pour(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 10**12, None if kind == "webhook" else 0.02)
    assert isinstance(await attempt(kind, provider, timeout=2.0), Ambiguous)


@every
async def test_its_status_is_none(kind: str, provider: FaultyProvider) -> None:
    """A status that does not exist accepts nothing."""
    for status in (b"000", b"99", b"600", b"999", b"20", b"-200", b"2000", b"abc", b"200.5", b""):
        provider.say(b"HTTP/1.1 " + status + b" x\r\nContent-Length: 0\r\n\r\n")
        assert isinstance(await attempt(kind, provider), Ambiguous | Rejected | Transient), status


@every
async def test_it_redirects(kind: str, provider: FaultyProvider) -> None:
    """A redirect is not followed, so that nothing reaches where it was not sent; the endpoint stays."""
    place = f"http://127.0.0.1:{provider.port}/elsewhere".encode()
    for status in (300, 301, 302, 303, 304, 307, 308):
        provider.say(b"HTTP/1.1 %d x\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, place))
        assert isinstance(await attempt(kind, provider), Rejected), status


GIGABYTE = 10**9


@every
@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (b"Content-Length: 1000000000\r\n\r\n", b"x" * 50_000),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"c350\r\n" + b"x" * 50_000 + b"\r\n"),
        (b"\r\n", b"[" * 50_000),
    ],
    ids=["length", "chunks", "to the end"],
)
@pytest.mark.parametrize(("status", "kinds"), [(201, Accepted), (400, Rejected), (503, Transient)])
async def test_its_answer_has_a_gigabyte(
    kind: str, head: bytes, rest: bytes, status: int, kinds: type[Outcome], provider: FaultyProvider
) -> None:
    """Some kilobytes of it are read; the status counts."""
    provider.pour(b"HTTP/1.1 %d x\r\n" % status + head, rest, GIGABYTE)
    assert isinstance(await attempt(kind, provider), kinds)
    assert provider.sent < GIGABYTE / 20  # what fits into the buffers of the sockets


@every
async def test_its_headers_have_a_gigabyte(kind: str, provider: FaultyProvider) -> None:
    """They are no answer."""
    provider.pour(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 5000, GIGABYTE)
    assert isinstance(await attempt(kind, provider), Ambiguous)
    assert provider.sent < GIGABYTE / 20


# -- what it says ----------------------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 21211, 21610, 1e308, "", "x", "UNREGISTERED", [], [7], {}, {"a": []}, [None]),
)

BODIES: tuple[bytes, ...] = (
    *(b"", b"null", b"[]", b"7", b'"x"', b"{", b"\xff\xfe", b"\x00" * 100, b"[" * 60_000, b'{"a":' * 10_000),
    *(b"1" * 5000, b"1e999", b"NaN", b'{"name": "\\ud800"}', b'{"id": "\\u0000"}'),
    *(
        json.dumps({name: value}).encode()
        for name in ("error", "code", "name", "id", "sid", "status", "reason", "message")
        for value in VALUES
    ),
    *(
        json.dumps({"error": {name: value}}).encode()
        for name in ("details", "status", "code", "message")
        for value in VALUES
    ),
    *(
        json.dumps({"error": {"details": [{"@type": kind, name: value}]}}).encode()
        for kind, name in ((ERROR, "errorCode"), (VIOLATION, "fieldViolations"), ("x", "x"))
        for value in VALUES
    ),
    *(
        json.dumps({"error": {"details": [{"@type": VIOLATION, "fieldViolations": [{"field": value}]}]}}).encode()
        for value in VALUES
    ),
)
"""JSON and what is almost JSON, with members that the providers use, of the wrong kinds."""

STATUSES = (200, 400, 403, 401, 404, 410, 429, 500)


@every
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_its_answer_makes_no_sense(kind: str, provider: FaultyProvider) -> None:
    """Whatever the body is, the status decides: what is accepted is not sent again, and credentials retire nothing."""
    with made(kind, provider) as (channel, to):
        for number, body in enumerate(BODIES[: 15 if kind in ("web_push", "webhook") else None]):  # two read no JSON
            for status in STATUSES if number < 15 else STATUSES[:3]:
                provider.say(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n" % (status, len(body)), body)
                found = await channel.send(job(to))
                where = (status, body[:80], found)
                assert isinstance(found, Accepted | Rejected | EndpointGone | Misconfigured | Throttled | Transient), (
                    where
                )
                assert isinstance(found, Accepted) == (status == 200), where
                assert not (isinstance(found, EndpointGone) and status in (401, 403, 429, 500)), where
                assert isinstance(found, Throttled | Transient) or status not in (429, 500), where


WAITS = (
    "-1",
    "1e999",
    "NaN",
    "9" * 30,
    "9" * 400,
    "٣",
    "soon",
    "",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "0",
    "-Inf",
    "1;2",
)


@every
@pytest.mark.parametrize("status", [429, 503])
async def test_it_asks_to_wait_absurdly(kind: str, status: int, provider: FaultyProvider) -> None:
    """What it asks for is bounded, or left out."""
    for wait in WAITS:
        provider.say(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\nRetry-After: %s\r\n\r\n" % (status, wait.encode()))
        found = await attempt(kind, provider)
        assert isinstance(found, Throttled if status == 429 else Transient), wait
        assert found.retry_after is None or 0 <= found.retry_after <= LONGEST_WAIT, wait


# -- where tokens of FCM come from -----------------------------------------------------------------------------------

PRIVATE = rsa.generate_private_key(65537, 2048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)

TOKENS = (
    *BODIES[:15],
    *(
        json.dumps({"access_token": "a", "expires_in": value}).encode()
        for value in (None, "x", 1e300, -(10**15), 10**15, [], {}, True, "3600")
    ),
    *(json.dumps({"access_token": value, "expires_in": 3600}).encode() for value in (*VALUES, "a\r\nb", "\u20ac")),
)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_its_token_makes_no_sense(provider: FaultyProvider) -> None:
    """Without a token nothing is sent, which is certain, so it is tried again, or waits for other settings."""
    account = {
        "type": "service_account",
        "private_key": PRIVATE.decode(),
        "client_email": "sender@demo.iam.gserviceaccount.com",
        "token_uri": f"http://127.0.0.1:{provider.port}/token",
    }
    replies: list[bytes] = []

    async def act(stream: anyio.abc.ByteStream) -> None:
        await stream.send(replies.pop(0) if replies else WHOLE["fcm"])

    provider.act = act
    for body in TOKENS:
        replies[:] = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body]
        pool = HttpPool(allow_private=True, idle=0)
        channel = FcmChannel("demo", account, base=f"http://127.0.0.1:{provider.port}", client=pool, timeout=60.0)
        found = await channel.send(job(endpoint("token-hush", "token")))
        assert isinstance(found, Accepted | Transient | Misconfigured), (body[:80], found)
