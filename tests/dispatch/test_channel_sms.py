"""SMS through the two gateways: what is posted, what answers mean, and what is never sent twice."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest

from notify.dispatch._channel import Content
from notify.dispatch._outcomes import (
    Accepted,
    Ambiguous,
    EndpointGone,
    Misconfigured,
    Outcome,
    Rejected,
    Throttled,
    Transient,
)
from notify.dispatch.channels import HttpSmsGateway, SmsChannel, TwilioSmsGateway
from notify.dispatch.channels._sms_text import sms_size
from tests.dispatch.fake_http import FakeServer, Reply
from tests.dispatch.jobs import endpoint, job, when_sent

pytestmark = pytest.mark.anyio

BOB = endpoint("+43 660 123-45-67")


@pytest.fixture(scope="module")
def running() -> Iterator[FakeServer]:
    with FakeServer().running() as server:
        yield server


@pytest.fixture
def server(running: FakeServer) -> FakeServer:
    running.reset()
    return running


def generic(server: FakeServer, **options: Any) -> SmsChannel:
    gateway = HttpSmsGateway(f"{server.url}/sms", "hush", sender="Example")
    return SmsChannel(gateway, allow_private=True, **options)


def twilio(server: FakeServer, sender: str = "+15005550006", **options: Any) -> SmsChannel:
    gateway = TwilioSmsGateway("AC123", "hush", sender=sender, base=server.url, **options)
    return SmsChannel(gateway, allow_private=True)


async def test_the_generic_gateway(server: FakeServer) -> None:
    """JSON with a bearer key: the number without punctuation, the text, the sender, the type as metadata, the id."""
    server.answer(Reply(200, {"id": "m1"}))
    async with generic(server) as channel:
        assert await channel.send(job(BOB)) == Accepted("m1")
        assert channel.deduplicates is False
    (request,) = server.requests
    assert (request.path, request.headers["authorization"]) == ("/sms", "Bearer hush")
    assert request.headers["idempotency-key"] == "0123456789abcdef0123456789abcdef"
    assert request.json == {
        "to": "+436601234567",
        "message": "Bob wrote: hello",
        "sender": "Example",
        "id": "0123456789abcdef0123456789abcdef",
        "metadata": {"type": "comment.created"},
    }
    assert "hush" not in f"{channel!r} {channel._gateway!r}"


@pytest.mark.parametrize("key", ["hush\n", "hush\u20ac"])
async def test_a_key_that_no_header_can_carry(server: FakeServer, key: str) -> None:
    """Such as one that was read from a file with its newline: nothing was sent, and the settings are to blame."""
    gateway = HttpSmsGateway(f"{server.url}/sms", key, sender="Example")
    async with SmsChannel(gateway, allow_private=True) as channel:
        found = await channel.send(job(BOB))
    assert isinstance(found, Misconfigured)
    assert "a header is malformed" in found.error
    assert "hush" not in found.error
    assert not server.requests


async def test_twilio(server: FakeServer) -> None:
    """A form with basic authentication; how long it may wait; a messaging service in place of a number."""
    server.answer(Reply(201, {"sid": "SM1", "status": "queued"}))
    given = job(BOB, content=Content("A", "long", short="short"), expires_at=job().now + timedelta(minutes=5))
    async with twilio(server, status_callback="https://example.com/status") as channel:
        assert await channel.send(given) == Accepted("SM1")
    async with twilio(server, "MG1", key="SK1") as channel:
        await channel.send(job(BOB))
    first, second = server.requests
    assert first.path == "/2010-04-01/Accounts/AC123/Messages.json"
    assert parse_qs(first.body.decode()) == {
        "To": ["+436601234567"],
        "From": ["+15005550006"],
        "Body": ["short"],
        "StatusCallback": ["https://example.com/status?delivery=0123456789abcdef0123456789abcdef"],
        "ValidityPeriod": ["300"],
    }
    assert b64decode(first.headers["authorization"].removeprefix("Basic ")) == b"AC123:hush"
    assert parse_qs(second.body.decode())["MessagingServiceSid"] == ["MG1"]
    assert b64decode(second.headers["authorization"].removeprefix("Basic ")) == b"SK1:hush"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(202), Accepted()),
        (Reply(200, {"message_id": 7}), Accepted("7")),
        (Reply(200, b"[]"), Accepted()),
        (Reply(200, {"id": "cut"}, how="half"), Accepted("cut")),
        (Reply(410), EndpointGone("410")),
        (Reply(401), Misconfigured("the SMS gateway answered 401: compare url= and key=")),
        (Reply(404, {"error": "not found"}), Misconfigured("the SMS gateway answered 404: compare url= and key=")),
        (Reply(422), Rejected("422")),
        (Reply(429, headers={"Retry-After": "5"}), Throttled(5.0)),
        (Reply(500), Transient("500")),
        (Reply(how="reset"), Ambiguous("the connection broke before the answer")),
        (Reply(how="hang"), Ambiguous("there was no answer in time")),
    ],
)
async def test_answers_of_the_generic_gateway(server: FakeServer, reply: Reply, expected: Outcome) -> None:
    """A wrong URL or key retires no number; no answer means that it may have been sent."""
    server.answer(reply)

    async def attempt(timeout: float) -> Outcome:
        async with generic(server, timeout=timeout) as channel:
            return await channel.send(job(BOB))

    assert await (when_sent(attempt) if reply.how == "hang" else attempt(60.0)) == expected


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, 21211, EndpointGone("21211")),
        (400, 21614, EndpointGone("21614")),
        (400, 21610, Rejected("21610", stop=True, error="the recipient has stopped messages")),
        (400, 21617, Rejected("21617")),
        (400, 21408, Rejected("21408")),
        (401, 20003, Misconfigured("Twilio answered 401 (20003): compare account=, token= and sender=")),
        (404, 20404, Misconfigured("Twilio answered 404 (20404): compare account=, token= and sender=")),
        (400, 21606, Misconfigured("Twilio answered 400 (21606): compare account=, token= and sender=")),
        (429, 20429, Throttled(3.0)),
        (429, None, Throttled(3.0)),
        (500, 20500, Transient("500", 3.0)),
        (503, None, Transient("503", 3.0)),
    ],
)
async def test_answers_of_twilio(server: FakeServer, status: int, code: int | None, expected: Outcome) -> None:
    """Its own code decides: a number that does not exist, a recipient who answered STOP, a wrong account."""
    body = {"code": code, "message": "to +436601234567", "status": status} if code else b"<html>"
    server.answer(Reply(status, body, {"Retry-After": "3"}))
    async with twilio(server) as channel:
        found = await channel.send(job(BOB))
    assert found == expected
    assert "4366" not in repr(found)


def test_a_gateway_shows_no_token() -> None:
    """Nor its account or sender, in log lines and tracebacks."""
    assert repr(TwilioSmsGateway("AC123", "hush", sender="+1")) == "<TwilioSmsGateway>"


@pytest.mark.parametrize("number", ["", "12345", "0660 1234567", "+0123456789", "+43abc", "+4312345678901234567"])
async def test_a_number_that_is_not_one(server: FakeServer, number: str) -> None:
    """It can never be reached; nothing is sent, and the outcome does not show it."""
    async with generic(server) as channel:
        assert await channel.send(job(endpoint(number))) == EndpointGone("malformed")
    assert server.requests == []


async def test_a_text_that_cannot_be_sent(server: FakeServer) -> None:
    """None at all, or one that would cost too many segments: then the short one is sent, if there is one."""
    long = "x" * 306
    async with generic(server, max_segments=2) as channel:
        for content, code in ((Content(), "empty"), (Content(body=f"{long}x"), "too_long")):
            found = await channel.send(job(BOB, content=content))
            assert isinstance(found, Rejected)
            assert (found.code, server.requests) == (code, [])
        assert isinstance(await channel.send(job(BOB, content=Content(body=long))), Accepted)
        assert isinstance(await channel.send(job(BOB, content=Content(body=f"{long}x", short="short"))), Accepted)
    assert [request.json["message"] for request in server.requests] == [long, "short"]


@pytest.mark.parametrize(
    ("text", "segments", "is_gsm"),
    [
        ("", 1, True),
        ("x" * 160, 1, True),
        ("x" * 161, 2, True),
        ("x" * 306, 2, True),
        ("x" * 307, 3, True),
        ("äöüßñ@ÆΩ\n" * 17, 1, True),
        ("€" * 80, 1, True),
        ("€" * 81, 2, True),
        ("€" * 152, 2, True),
        ("€" * 153, 3, True),  # 76 in a part: none is divided
        ("ç", 1, False),
        ("я" * 70, 1, False),
        ("я" * 71, 2, False),
        ("я" * 134, 2, False),
        ("я" * 135, 3, False),
        ("\U0001f514" * 35, 1, False),
        ("\U0001f514" * 36, 2, False),
        ("\U0001f514" * 66, 2, False),
        ("\U0001f514" * 67, 3, False),  # 33 in a part
        ("x" * 150 + "\u2026", 3, False),
    ],
)
def test_segments_of_a_text(text: str, segments: int, is_gsm: bool) -> None:
    """In the GSM alphabet, some characters of which take two places, and in UCS-2 as soon as one is not in it."""
    assert sms_size(text) == (segments, is_gsm)


async def test_nothing_listens() -> None:
    """Certainly nothing was sent."""
    with FakeServer().running() as server:
        pass
    async with generic(server) as channel:
        assert await channel.send(job(BOB)) == Transient("connect", error="the connection failed")


async def test_our_own_network_has_to_be_allowed(server: FakeServer) -> None:
    """The gateway's address is a setting, so that is what is wrong."""
    async with SmsChannel(HttpSmsGateway(server.url)) as channel:
        assert isinstance(await channel.send(job(BOB)), Misconfigured)


@pytest.mark.parametrize("gateway", [HttpSmsGateway(None), TwilioSmsGateway(None, None, sender="+1")])
async def test_without_settings_it_is_misconfigured(gateway: Any) -> None:
    """A channel without settings says so, and the others go on."""
    async with SmsChannel(gateway) as channel:
        found = await channel.send(job(BOB))
    assert isinstance(found, Misconfigured)
    assert "not configured" in found.error
