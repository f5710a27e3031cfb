"""Channels under a dispatcher: what becomes of endpoints and deliveries after each kind of answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from notify import Notifier
from notify.dispatch import Channel, Dispatcher, Endpoint, NotificationType, Recipient, State
from notify.dispatch.channels import (
    EmailChannel,
    FcmChannel,
    HttpSmsGateway,
    SmsChannel,
    TwilioSmsGateway,
    WebhookChannel,
    WebPushChannel,
    generate_vapid_key,
)
from notify.inbox import Inbox
from notify.testing.dispatch import PushReply, PushService
from notify_memory import MemoryDispatchStore, MemoryStreamStore
from tests.dispatch.fake_http import FakeServer, Reply
from tests.dispatch.test_channel_email import Mailbox, serving
from tests.dispatch.test_channel_fcm import Login, fcm_error, refused

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def push_service() -> Iterator[PushService]:
    with PushService().running() as service:
        yield service


@pytest.fixture(scope="module")
def running() -> Iterator[FakeServer]:
    with FakeServer().running() as found:
        yield found


@pytest.fixture
def server(running: FakeServer) -> FakeServer:
    running.reset()
    return running


async def recipients(ids: Sequence[str]) -> list[Recipient]:
    return [Recipient(user) for user in ids]


class Sent:
    """What became of one notification to one endpoint."""

    def __init__(self, channel: Channel, endpoint: Endpoint) -> None:
        self.channel = channel
        self.endpoint = endpoint
        self.store = MemoryDispatchStore()

    async def run(self) -> tuple[State, bool]:
        """The state of its delivery, and whether its endpoint is still in use."""
        made = await self.store.register(self.endpoint, datetime.now(UTC))
        async with Notifier(MemoryStreamStore()) as notifier:
            types = [NotificationType("news", channels=["test"])]
            channels = {"test": self.channel}
            dispatcher = Dispatcher(Inbox(notifier), self.store, types, channels, recipients=recipients)
            ticket = await dispatcher.submit("news", "alice", {"title": "Hi"})
            for _ in range(2):
                await dispatcher.tick()
            explanation = await dispatcher.explain(ticket.id, "alice")
        assert explanation is not None
        (delivery,) = [each for each in explanation.deliveries if each.endpoint]
        now = await self.store.endpoint(made.id)
        assert now is not None
        return delivery.state, now.retired_at is None


@pytest.mark.parametrize(
    ("reply", "state", "in_use"),
    [
        (None, State.ACCEPTED, True),
        (PushReply(410), State.GONE, False),
        (PushReply(404), State.GONE, False),
        (PushReply(401), State.PARKED, True),
        (PushReply(403), State.PARKED, True),
        (PushReply(400, body=b'{"reason":"VapidPkHashMismatch"}'), State.FAILED, True),
        (PushReply(413), State.FAILED, True),
        (PushReply(429, {"Retry-After": "60"}), State.WAITING, True),
        (PushReply(503), State.WAITING, True),
    ],
)
async def test_web_push(push_service: PushService, reply: PushReply | None, state: State, in_use: bool) -> None:
    """Only an expired subscription is retired; a wrong key parks the delivery."""
    browser = push_service.subscribe()
    push_service.answer(*[reply] if reply else [])
    async with WebPushChannel(generate_vapid_key(), subject="mailto:ops@example.com", allow_private=True) as channel:
        assert await Sent(channel, browser.endpoint("alice", "test")).run() == (state, in_use)


@pytest.mark.parametrize(
    ("reply", "state", "in_use"),
    [
        (Reply(200, {"name": "projects/demo/messages/1"}), State.ACCEPTED, True),
        (refused(404, "NOT_FOUND", fcm_error("UNREGISTERED")), State.GONE, False),
        (refused(404, "NOT_FOUND"), State.PARKED, True),
        (refused(401, "UNAUTHENTICATED"), State.PARKED, True),
        (refused(403, "PERMISSION_DENIED"), State.PARKED, True),
        (refused(403, "PERMISSION_DENIED", fcm_error("SENDER_ID_MISMATCH")), State.FAILED, True),
        (refused(401, "UNAUTHENTICATED", fcm_error("THIRD_PARTY_AUTH_ERROR")), State.PARKED, True),
        (refused(429, "RESOURCE_EXHAUSTED", fcm_error("QUOTA_EXCEEDED")), State.WAITING, True),
    ],
)
async def test_fcm(server: FakeServer, reply: Reply, state: State, in_use: bool) -> None:
    """A wrong project or key never retires a device."""
    server.answer(reply)
    async with FcmChannel("demo", Login(), base=server.url, allow_private=True) as channel:
        assert await Sent(channel, Endpoint("alice", "test", "token", "token")).run() == (state, in_use)


@pytest.mark.parametrize(
    ("reply", "state", "in_use"),
    [
        (Reply(200), State.ACCEPTED, True),
        (Reply(410), State.GONE, False),
        (Reply(401), State.PARKED, True),
        (Reply(404), State.PARKED, True),
        (Reply(how="reset"), State.UNKNOWN, True),
    ],
)
async def test_sms(server: FakeServer, reply: Reply, state: State, in_use: bool) -> None:
    """A wrong key never retires a number; what may have been sent is not sent again."""
    server.answer(reply)
    async with SmsChannel(HttpSmsGateway(server.url, "key"), allow_private=True) as channel:
        assert await Sent(channel, Endpoint("alice", "test", "+436601234567")).run() == (state, in_use)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "code", "state", "in_use"),
    [
        (401, 20003, State.PARKED, True),
        (403, 20005, State.PARKED, True),
        (404, 20404, State.PARKED, True),
        (400, 21606, State.PARKED, True),
        (400, 21211, State.GONE, False),
        (400, 21610, State.FAILED, False),
        (400, 30007, State.FAILED, True),
    ],
)
async def test_twilio(server: FakeServer, status: int, code: int, state: State, in_use: bool) -> None:
    """A wrong account, key or sender never retires a number; one that does not exist, or was stopped, is retired."""
    server.answer(Reply(status, {"code": code}))
    gateway = TwilioSmsGateway("AC1", "token", sender="+15005550006", base=server.url)
    async with SmsChannel(gateway, allow_private=True) as channel:
        assert await Sent(channel, Endpoint("alice", "test", "+436601234567")).run() == (state, in_use)


@pytest.mark.parametrize("status", [401, 403, 404, 413])
async def test_a_webhook_that_is_refused(server: FakeServer, status: int) -> None:
    """A wrong secret never retires an endpoint."""
    server.answer(Reply(status))
    async with WebhookChannel("c2VjcmV0", allow_private=True) as channel:
        sent = Sent(channel, Endpoint("alice", "test", f"{server.url}/hook"))
        assert await sent.run() == (State.FAILED, True)
        (found,) = (await sent.store.endpoints(["alice"]))["alice"]
    assert found.failures == (status == 404)


async def test_a_webhook_is_sent_again_after_no_answer(server: FakeServer) -> None:
    """The receiver recognises the repetition by its id."""
    server.answer(Reply(how="reset"), Reply(204))
    async with WebhookChannel("c2VjcmV0", allow_private=True) as channel:
        state, in_use = await Sent(channel, Endpoint("alice", "test", f"{server.url}/hook")).run()
    assert (state, in_use) == (State.WAITING, True)


@pytest.mark.parametrize(
    ("phase", "answer", "state"),
    [
        ("", "", State.ACCEPTED),
        ("mail", "535 5.7.8 wrong password", State.PARKED),
        ("rcpt", "530 5.7.0 log in first", State.PARKED),
        ("data", "535 5.7.8 wrong password", State.PARKED),
        ("mail", "550 5.7.1 who are you", State.PARKED),
        ("rcpt", "550 5.1.1 no such user", State.FAILED),
        ("rcpt", "451 greylisted", State.WAITING),
        ("data", "554 spam", State.FAILED),
    ],
)
async def test_email(phase: str, answer: str, state: State) -> None:
    """A sender or login that is refused parks the delivery; only an address that does not exist is retired."""
    mailbox = Mailbox()
    mailbox.answers[phase] = answer
    with serving(mailbox) as port:
        async with EmailChannel("127.0.0.1", port, sender="no-reply@example.com", encryption="none") as channel:
            found = await Sent(channel, Endpoint("alice", "test", "bob@example.org")).run()
    assert found == (state, "5.1.1" not in answer)


@pytest.mark.parametrize("make", [lambda: FcmChannel(None, None), lambda: SmsChannel(HttpSmsGateway(None))])
async def test_a_channel_without_settings(make: Any) -> None:
    """Its deliveries are parked, and nothing is retired."""
    async with make() as channel:
        assert await Sent(channel, Endpoint("alice", "test", "+436601234567")).run() == (State.PARKED, True)
