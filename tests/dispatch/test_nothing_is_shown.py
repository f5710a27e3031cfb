"""Secrets, addresses and texts: whatever fails, on every channel and store, none of them is in a log, a span, a repr or
an explanation."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from notify.dispatch import (
    Channel,
    DispatchApp,
    Dispatcher,
    Endpoint,
    Links,
    NotificationType,
    Recipient,
    Report,
    State,
)
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
from notify.dispatch.reports import JsonReports, TwilioReports
from notify.testing.dispatch import PushReply, PushService, VirtualClock
from tests.dispatch.fake_http import FakeServer, Reply
from tests.dispatch.stores import NAMES, opened
from tests.dispatch.test_channel_email import Mailbox, serving
from tests.dispatch.test_channel_fcm import fcm_error, refused
from tests.dispatch.world import START
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

pytestmark = pytest.mark.anyio

SCHEMA = fresh_schema()
KEY = generate_vapid_key()
HIDDEN = ("hush", "aHVzaA", "436601234567", "660 1234567", KEY)
"""What must not be shown: each secret and address here has one of these in it."""

TEXT = {"title": "a hush title", "body": "a hush body", "url": "https://shop.example/hush", "token": "hush"}


@dataclass
class Case:
    """A channel, where it sends to, and its failures: functions that prepare one."""

    channel: Channel
    endpoint: Endpoint
    failures: Sequence[Callable[[], Awaitable[None] | None]] = field(default_factory=list)


class Login:
    """Credentials whose token is a secret."""

    token, expiry = "token-hush", None

    def refresh(self, _request: Any) -> None:
        """Do nothing."""


REPLIES = [
    *(Reply(status, b"hush +436601234567") for status in (400, 401, 403, 404, 410, 413, 429, 500)),
    Reply(302, headers={"Location": "https://example.com/"}),
    *(Reply(how=how) for how in ("reset", "half")),
    refused(404, "NOT_FOUND", fcm_error("UNREGISTERED")),
    refused(403, "PERMISSION_DENIED", fcm_error("SENDER_ID_MISMATCH")),
    refused(401, "UNAUTHENTICATED", fcm_error("THIRD_PARTY_AUTH_ERROR")),
    *(Reply(400, {"code": code, "message": "to +436601234567"}) for code in (20003, 21211, 21610, 21606)),
]

ANSWERS = [
    *(("rcpt", f"{code} <alice-hush@example.org>: refused") for code in (421, 450, 550, 554)),
    *((phase, "550 hush") for phase in ("mail", "data")),
    *((phase, how) for phase in ("mail", "data") for how in ("close", "reset")),
]


@asynccontextmanager
async def cases(server: FakeServer, service: PushService, mail: tuple[Mailbox, int]) -> AsyncIterator[dict[str, Case]]:
    """Return each channel over HTTP and SMTP with its failures."""

    def told(reply: Reply) -> Callable[[], None]:
        return lambda: server.answer(reply)

    def pushed(reply: PushReply) -> Callable[[], None]:
        return lambda: service.answer(reply)

    def mailed(phase: str, answer: str) -> Callable[[], None]:
        return lambda: mail[0].answers.update({phase: [answer]})

    over_http = [told(reply) for reply in REPLIES]
    push = [pushed(PushReply(status, {}, b"hush")) for status in (301, 400, 401, 403, 404, 410, 413, 429, 500)]
    options: dict[str, Any] = {"allow_private": True}
    browser = service.subscribe()
    browser_endpoint = browser.endpoint("alice")
    email = EmailChannel("127.0.0.1", mail[1], sender="Hush <hush@example.com>", encryption="none", password="hush")
    twilio = TwilioSmsGateway("AC-hush", "hush", sender="+436601234567", base=server.url)
    found = {
        "email": Case(email, Endpoint("alice", "email", "alice-hush@example.org"), [mailed(*each) for each in ANSWERS]),
        "web_push": Case(WebPushChannel(KEY, subject="mailto:hush@example.com", **options), browser_endpoint, push),
        "fcm": Case(
            FcmChannel("demo", Login(), base=server.url, **options),
            Endpoint("alice", "fcm", "device-hush", "token"),
            over_http,
        ),
        "sms": Case(
            SmsChannel(HttpSmsGateway(f"{server.url}/hush", "hush", sender="Hush"), **options),
            Endpoint("alice", "sms", "+43 660 1234567"),
            over_http,
        ),
        "twilio": Case(SmsChannel(twilio, **options), Endpoint("alice", "twilio", "+436601234567"), over_http),
        "webhook": Case(
            WebhookChannel(b"hush", **options),
            Endpoint("alice", "webhook", f"{server.url}/hush", meta={"secret": "aHVzaA"}),
            over_http,
        ),
    }
    async with AsyncExitStack() as stack:
        for each in found.values():
            await stack.enter_async_context(each.channel)  # type: ignore[arg-type]
        yield found


@pytest.fixture
def anyio_backend() -> str:
    """The drivers that log are those of asyncio."""
    return "asyncio"


@pytest.fixture(scope="module")
def providers() -> Iterator[tuple[FakeServer, PushService, tuple[Mailbox, int]]]:
    mailbox = Mailbox()
    with FakeServer().running() as server, PushService().running() as service, serving(mailbox) as port:
        yield server, service, (mailbox, port)


@pytest.mark.parametrize("name", NAMES)
async def test_nothing_is_shown(
    name: str, providers: Any, tmp_path: Path, postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Every logger of this process at DEBUG, every span, and the repr of every part and value."""  # the driver of HTTP
    # logs the headers of answers at DEBUG, which are the provider's
    caplog.set_level(logging.DEBUG)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    clock, shown, states = VirtualClock(START), list[str](), set[State]()

    async def recipients(ids: Sequence[str]) -> list[Recipient]:
        return [Recipient(user) for user in ids]

    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(opened(name, clock, tmp_path, postgres.dsn, SCHEMA))
        found = await stack.enter_async_context(cases(*providers))
        links = Links("https://example.com", ["a key, hush, of 16 bytes"], tracked=["email"])
        types = [NotificationType(each, channels=[each]) for each in found]
        channels = {each: case.channel for each, case in found.items()}
        dispatcher = Dispatcher(None, store, types, channels, recipients=recipients, clock=clock.now, links=links)
        dispatcher._telemetry._tracer = provider.get_tracer("notify")
        callbacks = {"a": TwilioReports("hush", "https://example.com/"), "b": JsonReports(b"hush")}
        app = DispatchApp(dispatcher, lambda request: None, callbacks=callbacks)
        shown += [repr(each) for each in (dispatcher, app, links, store, *channels.values(), *callbacks.values())]
        for channel, case in found.items():
            for prepare in case.failures:
                made = await store.register(case.endpoint, clock.now())
                prepare()
                ticket = await dispatcher.submit(channel, "alice", TEXT)
                assert ticket is not None
                for _ in range(2):
                    await dispatcher.tick()
                explanation = await dispatcher.explain(ticket.id, "alice")
                await dispatcher.cancel(ticket.id)
                assert explanation is not None
                states.update(each.state for each in explanation.deliveries)
                id = explanation.deliveries[-1].id
                claim = await store.delivery(id)
                await dispatcher.report(Report(id, State.BOUNCED, "30003", is_unclear=True))
                shown += [str(explanation), repr(explanation.deliveries), repr(explanation.attempts), repr(claim)]
                shown += [repr(made), repr(await store.endpoint(made.id))]
                clock.advance("1d")
    hidden = [*HIDDEN, found["web_push"].endpoint.address, *found["web_push"].endpoint.meta.values()]
    assert {State.ACCEPTED, State.FAILED, State.GONE, State.PARKED, State.UNKNOWN, State.WAITING} <= states
    spans = [span.to_json() for span in exporter.get_finished_spans()]
    assert len(spans) > 100
    assert caplog.records
    for text in (*shown, *spans, *(_written(record) for record in caplog.records)):
        leaked = [each for each in hidden if each in text]
        assert not leaked, (leaked, text)


def _written(record: logging.LogRecord) -> str:
    """A record with its traceback, as a file has it."""
    return logging.Formatter("%(name)s %(message)s").format(record)
