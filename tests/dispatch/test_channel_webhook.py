"""Webhooks: signatures that two other implementations verify, and what each answer means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import standardwebhooks

from notify import UsageError
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
from notify.dispatch.abc import Endpoint
from notify.dispatch.channels import WebhookChannel
from notify.dispatch.channels._webhook import webhook_payload
from notify.webhook import sign
from tests.dispatch.fake_http import FakeServer, Reply
from tests.dispatch.jobs import endpoint, job, when_sent
from tests.web.node import install

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_c2Vjb25kIGtleSBvZiAyNCBieXRlcyE="


@pytest.fixture(scope="module")
def running() -> Iterator[FakeServer]:
    with FakeServer().running() as server:
        yield server


@pytest.fixture
def server(running: FakeServer) -> FakeServer:
    running.reset()
    return running


def hook(server: FakeServer, **meta: str) -> Endpoint:
    return endpoint(f"{server.url}/hooks/hush", **meta)


@pytest.mark.parametrize(
    ("secret", "id", "timestamp", "body", "signature"),
    [
        (
            SECRET,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            b'{"test": 2432232314}',
            "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1649367553,
            b'{"email":"test@example.com","username":"test_user"}',
            "tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
    ],
)
def test_the_vectors_of_standard_webhooks(secret: str, id: str, timestamp: int, body: bytes, signature: str) -> None:
    """Those of the Go, JavaScript and Rust suites, byte for byte."""
    assert sign(secret, id, timestamp, body) == f"v1,{signature}"


async def test_a_message(server: FakeServer) -> None:
    """JSON with type, time, data and text; the id of the delivery; a signature that the Python library verifies."""
    async with WebhookChannel(SECRET, allow_private=True, headers={"X-Tenant": "7"}) as channel:
        assert await channel.send(job(hook(server))) == Accepted()
    (request,) = server.requests
    assert standardwebhooks.Webhook(SECRET).verify(request.body, dict(request.headers)) == {
        "type": "comment.created",
        "timestamp": "2027-01-05T12:00:00+00:00",
        "data": {"post": 7},
        "title": "A comment",
        "body": "Bob wrote: hello",
        "url": "https://example.com/posts/7",
    }
    assert request.headers["webhook-id"] == "0123456789abcdef0123456789abcdef"
    assert request.headers["x-tenant"] == "7"


def test_a_message_of_unknown_age() -> None:
    """Without a time, it has no timestamp: not that of the attempt."""
    assert "timestamp" in webhook_payload(job())
    assert "timestamp" not in webhook_payload(job(created_at=None))


async def test_each_attempt_is_signed_again(server: FakeServer) -> None:
    """Id and body stay the same, so that the receiver recognises a repetition; the time is that of the attempt."""
    clock = iter([1_800_000_000.0] * 2 + [1_800_000_090.0] * 2)
    async with WebhookChannel(SECRET, allow_private=True, wall_clock=lambda: next(clock)) as channel:
        for attempt in (1, 2):
            await channel.send(job(hook(server), attempt=attempt))
    first, second = server.requests
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert [each.headers["webhook-timestamp"] for each in (first, second)] == ["1800000000", "1800000090"]
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


async def test_secrets(server: FakeServer) -> None:
    """An endpoint's own secret counts; while one is being replaced, either verifies; without any nothing is sent."""
    async with WebhookChannel([SECRET, OTHER], allow_private=True) as channel:
        await channel.send(job(hook(server)))
        await channel.send(job(hook(server, secret=OTHER)))
    for secret in (SECRET, OTHER):
        assert standardwebhooks.Webhook(secret).verify(server.requests[0].body, dict(server.requests[0].headers))
    assert standardwebhooks.Webhook(OTHER).verify(server.requests[1].body, dict(server.requests[1].headers))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(server.requests[1].body, dict(server.requests[1].headers))
    async with WebhookChannel(allow_private=True) as channel:
        assert isinstance(await channel.send(job(hook(server))), Misconfigured)
        bad = await channel.send(job(hook(server, secret="???")))
        assert isinstance(bad, Rejected)
        assert bad.is_unclear
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(204), Accepted()),
        (Reply(200, how="half"), Accepted()),
        (Reply(410), EndpointGone("410")),
        (Reply(404), Rejected("404", is_unclear=True)),
        (Reply(401), Rejected("401")),
        (Reply(403), Rejected("403")),
        (Reply(413), Rejected("413")),
        (Reply(302, headers={"Location": "http://127.0.0.1/"}), Rejected("302", is_unclear=True)),
        (Reply(429, headers={"Retry-After": "9"}), Throttled(9.0, "ORIGIN")),
        (Reply(503, headers={"Retry-After": "9"}), Transient("503", 9.0)),
        (Reply(500), Transient("500")),
        (Reply(how="reset"), Ambiguous("the connection broke before the answer")),
        (Reply(how="hang"), Ambiguous("there was no answer in time")),
    ],
)
async def test_each_answer_has_its_outcome(server: FakeServer, reply: Reply, expected: Outcome) -> None:
    """Only 410 retires the endpoint; another's refusal is never taken for a fault of our settings."""
    server.answer(reply)

    async def attempt(timeout: float) -> Outcome:
        async with WebhookChannel(SECRET, allow_private=True, timeout=timeout) as channel:
            return await channel.send(job(hook(server)))

    found = await (when_sent(attempt) if reply.how == "hang" else attempt(60.0))
    assert repr(found).replace(server.url, "ORIGIN") == repr(expected)


@pytest.mark.parametrize("address", ["https://127.0.0.1:9/hush", "hush", "https://user:hush@example.com/", ""])
async def test_an_address_that_is_refused(address: str) -> None:
    """One of our own network, or none at all: nothing is sent, and the outcome does not show it."""
    async with WebhookChannel(SECRET) as channel:
        found = await channel.send(job(endpoint(address)))
    assert isinstance(found, Rejected)
    assert found.is_unclear
    assert "hush" not in repr(found)


def test_settings_are_checked() -> None:
    """A secret that is not base64, and a header that the signature needs."""
    with pytest.raises(UsageError, match="secret"):
        WebhookChannel("???")
    with pytest.raises(UsageError, match="webhook-id"):
        WebhookChannel(SECRET, headers={"webhook-id": "1"})
    with pytest.raises(UsageError, match="timeout"):
        WebhookChannel(SECRET, timeout=0)


VERIFY = """
import { Webhook } from "standardwebhooks";
const [, secret, body, headers] = process.argv;
console.log(JSON.stringify(new Webhook(secret).verify(body, JSON.parse(headers))));
"""


@pytest.mark.slow
async def test_another_language_verifies_it(server: FakeServer) -> None:
    """The JavaScript library of the standard accepts the signature."""
    folder = install(Path(__file__).parent / "npm")
    async with WebhookChannel(SECRET, allow_private=True) as channel:
        await channel.send(job(hook(server)))
    (request,) = server.requests
    values = [SECRET, request.body.decode(), json.dumps(request.headers)]
    done = await anyio.run_process(["node", "--input-type=module", "-e", VERIFY, *values], cwd=folder)
    assert json.loads(done.stdout)["data"] == {"post": 7}
