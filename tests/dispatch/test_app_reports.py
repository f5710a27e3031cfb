"""Reports of providers and acts of readers, over HTTP and by e-mail, on each store: what they change, and what not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import permutations
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from notify import Notifier, UsageError
from notify.dispatch import (
    Delivered,
    DispatchApp,
    Dispatcher,
    Endpoint,
    Fallback,
    Links,
    NotificationType,
    Recipient,
    Rejected,
    Report,
    State,
)
from notify.dispatch.abc import Delivery, endpoint_id
from notify.dispatch.channels import SmsChannel, TwilioSmsGateway
from notify.dispatch.reports import JsonReports, TwilioReports, mail_reports
from notify.dispatch.reports._twilio import signature
from notify.testing.dispatch import VirtualClock
from notify.webhook import sign
from notify_memory import MemoryStreamStore
from tests.dispatch.fake_http import FakeServer, Reply
from tests.dispatch.stores import NAMES, opened
from tests.dispatch.test_reports import bounce
from tests.dispatch.world import START, Recorder
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

pytestmark = pytest.mark.anyio

BASE = "https://example.com/notify"
CALLBACK = f"{BASE}/callbacks/twilio"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SCHEMA = fresh_schema()
OFFER = "https://shop.example/offers"

TYPES = (
    NotificationType("note", channels=["email"]),
    NotificationType("code", channels=["email"], mandatory=True),
    NotificationType("text", channels=["sms"]),
    NotificationType("both", channels=["email", "sms"], fallback={"sms": Fallback("failed", of="email", after=900)}),
)


class Site:
    """An application on a store, with a mailer that is a recorder, and an SMS gateway like Twilio's."""

    def __init__(self, store: Any, clock: VirtualClock, server: FakeServer) -> None:
        self.store = store
        self.clock = clock
        self.server = server
        self.email = Recorder(has_endpoints=True)
        gateway = TwilioSmsGateway("AC1", "token", sender="MG1", status_callback=CALLBACK, base=server.url)
        self.sms = SmsChannel(gateway, allow_private=True)
        self.links = Links(BASE, ["a secret of at least 16 bytes"], tracked=["email"])
        self.reported: list[tuple[State, str]] = []
        self.addresses: dict[str, tuple[Endpoint, ...]] = {}
        self.dispatcher = Dispatcher(
            None,
            store,
            TYPES,
            {"email": self.email, "sms": self.sms},
            recipients=self.recipients,
            clock=clock.now,
            links=self.links,
            on_report=self.on_report,
        )
        callbacks = {
            "twilio": TwilioReports("token", CALLBACK),
            "mailer": JsonReports(SECRET, wall_clock=lambda: clock.now().timestamp()),
        }
        self.app = DispatchApp(self.dispatcher, lambda request: request.headers.get("x-user"), callbacks=callbacks)

    async def recipients(self, ids: Sequence[str]) -> list[Recipient]:
        return [Recipient(user, endpoints=self.addresses.get(user, ())) for user in ids]

    async def on_report(self, delivery: Delivery, report: Report) -> None:
        self.reported.append((delivery.state, report.retire))

    async def register(self, channel: str, address: str) -> Endpoint:
        made: Endpoint = await self.store.register(Endpoint("alice", channel, address), self.clock.now())
        return made

    async def sent(self, key: str) -> Delivery:
        """Submit a notification and send it; return its first delivery to an endpoint."""
        ticket = await self.dispatcher.submit(key, "alice", {"title": "Hi", "body": f"See {OFFER}", "url": OFFER})
        assert ticket is not None
        self.ticket = ticket.id
        await self.settle()
        return next(each for each in await self.deliveries() if each.endpoint)

    async def settle(self) -> None:
        while (await self.dispatcher.tick()).claimed:
            pass

    async def deliveries(self) -> Sequence[Delivery]:
        found = await self.dispatcher.explain(self.ticket, "alice")
        assert found is not None
        return found.deliveries

    async def explained(self) -> str:
        return str(await self.dispatcher.explain(self.ticket, "alice"))

    async def state(self, delivery: Delivery) -> State:
        found = await self.store.delivery(delivery.id)
        assert found is not None
        state: State = found.delivery.state
        return state

    async def endpoint(self, endpoint: Endpoint) -> Endpoint:
        found: Endpoint | None = await self.store.endpoint(endpoint.id)
        assert found is not None
        return found

    def client(self, **headers: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url=BASE, headers=headers)

    async def twilio(self, delivery: str, status: str, code: str = "", *, token: str = "token") -> httpx.Response:
        """Post a status callback as Twilio does."""
        fields = {"MessageSid": "SM1", "MessageStatus": status, "To": "+436601234567", "AccountSid": "AC1"}
        fields |= {"ErrorCode": code} if code else {}
        url = f"{CALLBACK}?delivery={delivery}"
        given = signature(token.encode(), url, fields.items()).decode()
        form = {"content-type": "application/x-www-form-urlencoded", "x-twilio-signature": given}
        async with self.client() as client:
            return await client.post(url, content=urlencode(fields), headers=form)

    async def mailer(self, *events: dict[str, str]) -> httpx.Response:
        """Post signed JSON as a mailer does."""
        body, now = json.dumps(events).encode(), int(self.clock.now().timestamp())
        signed = {"webhook-id": "m1", "webhook-timestamp": str(now), "webhook-signature": sign(SECRET, "m1", now, body)}
        async with self.client() as client:
            return await client.post("callbacks/mailer", content=body, headers=signed)


@pytest.fixture
def anyio_backend() -> str:
    """Nothing here depends on the event loop."""
    return "asyncio"


@pytest.fixture(scope="module")
def gateway() -> Iterator[FakeServer]:
    with FakeServer().running() as server:
        yield server


@pytest.fixture(params=NAMES)
async def site(
    request: pytest.FixtureRequest, tmp_path: Path, postgres: Server, gateway: FakeServer
) -> AsyncIterator[Site]:
    gateway.reset()
    gateway.answer(Reply(201, {"sid": "SM1"}))
    clock = VirtualClock(START)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(opened(request.param, clock, tmp_path, postgres.dsn, SCHEMA))
        made = Site(store, clock, gateway)
        await stack.enter_async_context(made.sms)
        yield made


# -- Twilio ----------------------------------------------------------------------------------------------------------


async def test_the_callback_of_a_text(site: Site) -> None:
    """The gateway is asked to report about this delivery, and what it reports is explained."""
    number = await site.register("sms", "+436601234567")
    delivery = await site.sent("text")
    (posted,) = site.server.requests
    asked = urlsplit(parse_qs(posted.body.decode())["StatusCallback"][0])
    assert (f"{asked.scheme}://{asked.netloc}{asked.path}", asked.query) == (CALLBACK, f"delivery={delivery.id}")
    assert (await site.twilio(delivery.id, "undelivered", "30003")).json() == {"reports": 1}
    assert "bounced (30003)" in await site.explained()
    assert (await site.endpoint(number)).failures == 1
    assert site.reported == [(State.BOUNCED, "")]


async def test_reports_in_any_order(site: Site) -> None:
    """Late, repeated, out of order: the first final one counts, and none moves a delivery backwards."""
    await site.register("sms", "+436601234567")
    for order in permutations(["sent", "delivered", "undelivered"]):
        delivery = await site.sent("text")
        first = next(each for each in order if each != "sent")
        final = State.DELIVERED if first == "delivered" else State.BOUNCED
        seen: list[State] = []
        for status in (*order, *order):
            assert (await site.twilio(delivery.id, status)).status_code == 200
            seen.append(await site.state(delivery))
        reached = order.index(first)
        assert seen == [State.ACCEPTED] * reached + [final] * (6 - reached), order
    assert len(site.reported) == 6


async def test_a_report_settles_what_was_unknown(site: Site) -> None:
    """No answer came from the gateway, so the text is not sent again; its report says what became of it."""
    await site.register("sms", "+436601234567")
    for status, expected in (("sent", State.ACCEPTED), ("delivered", State.DELIVERED), ("failed", State.FAILED)):
        site.server.answer(Reply(how="reset"))
        delivery = await site.sent("text")
        assert await site.state(delivery) is State.UNKNOWN
        await site.twilio(delivery.id, status)
        assert await site.state(delivery) is expected
        site.clock.advance("1h")
        await site.settle()
        assert await site.state(delivery) is expected
    assert len(site.server.requests) == 3


async def test_what_is_not_signed_changes_nothing(site: Site) -> None:
    """403; and what is signed, but about a delivery that is not there, is answered like any other."""
    await site.register("sms", "+436601234567")
    delivery = await site.sent("text")
    answer = await site.twilio(delivery.id, "delivered", token="wrong")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    async with site.client() as client:
        assert (await client.post("callbacks/mailer", content=b"[]")).status_code == 403
    assert await site.state(delivery) is State.ACCEPTED
    unknown, known = await site.twilio("0" * 32, "delivered"), await site.twilio(delivery.id, "delivered")
    assert (unknown.status_code, unknown.content, unknown.headers) == (known.status_code, known.content, known.headers)
    assert site.reported == [(State.DELIVERED, "")]


# -- addresses -------------------------------------------------------------------------------------------------------


async def test_a_mail_that_bounces(site: Site) -> None:
    """The address is suppressed, the fallback is due at once, and the explanation says why."""
    address = await site.register("email", "alice@example.org")
    await site.register("sms", "+436601234567")
    delivery = await site.sent("both")
    reports = mail_reports(bounce(message=delivery.id))
    assert await site.dispatcher.report(*reports) == 1
    await site.settle()
    states = {each.channel: each.state for each in await site.deliveries() if each.endpoint}
    assert states == {"email": State.BOUNCED, "sms": State.ACCEPTED}
    assert (await site.endpoint(address)).reason == "suppressed"
    text = await site.explained()
    assert "bounced (5.1.1)" in text
    assert "now it would be: email: skip" in text.replace("skipped", "skip")
    assert await site.dispatcher.report(*reports, Report("0" * 32, State.DELIVERED)) == 1
    assert site.reported == [(State.BOUNCED, "suppressed")]


async def test_an_address_of_the_application(site: Site) -> None:
    """One that is not stored, since it comes with the recipient, is stored once there is a reason not to use it:
    after a report, and after a refusal of the server."""
    for number, hard in enumerate((True, False)):
        address = f"alice{number}@example.org"
        site.addresses["alice"] = (Endpoint("alice", "email", address),)
        site.email.answers = [] if hard else [Rejected("550", suppress=True)]
        delivery = await site.sent("note")
        if hard:
            await site.dispatcher.report(*mail_reports(bounce(message=delivery.id)))
        stored = await site.store.endpoint(endpoint_id("email", "", address))
        assert (stored.user, stored.reason) == ("alice", "suppressed")
        before = len(site.email.jobs)
        again = await site.dispatcher.submit("note", "alice", {"title": "Hi"})
        assert again is not None
        await site.settle()
        assert len(site.email.jobs) == before
        assert "suppressed" in str(await site.dispatcher.explain(again.id, "alice"))
        await site.sent("code")
        assert len(site.email.jobs) == before + 1 + number  # mandatory ones are sent to every suppressed address


async def test_a_complaint_and_a_stop(site: Site) -> None:
    """After a complaint only mandatory messages are sent; after a STOP not even these, also if it follows."""
    address = await site.register("email", "alice@example.org")
    delivery = await site.sent("code")
    await site.mailer({"id": delivery.id, "event": "delivered"})
    for _ in range(2):
        assert (await site.mailer({"id": delivery.id, "event": "complaint"})).status_code == 200
    assert ((await site.endpoint(address)).reason, await site.state(delivery)) == ("suppressed", State.DELIVERED)
    delivery = await site.sent("code")
    await site.mailer({"id": delivery.id, "event": "stopped"})
    assert (await site.endpoint(address)).reason == "stopped"
    sent = len(site.email.jobs)
    await site.dispatcher.submit("code", "alice", {"title": "Hi"})
    await site.settle()
    assert len(site.email.jobs) == sent == 2
    assert site.reported == [
        (State.DELIVERED, ""),
        (State.DELIVERED, "suppressed"),
        (State.BOUNCED, "stopped"),
    ]


async def test_an_address_that_was_registered_again(site: Site) -> None:
    """It survives a bounce of a message that was sent before, and the repetition of one that had retired it."""
    address = await site.register("email", "alice@example.org")
    first = await site.sent("note")
    site.clock.advance("1m")
    await site.register("email", "alice@example.org")
    site.clock.advance("1m")
    await site.mailer({"id": first.id, "event": "hard_bounce"})
    assert await site.state(first) is State.BOUNCED
    assert (await site.endpoint(address)).retired_at is None
    second = await site.sent("note")
    await site.mailer({"id": second.id, "event": "hard_bounce"})
    assert (await site.endpoint(address)).reason == "suppressed"
    site.clock.advance("1m")
    await site.register("email", "alice@example.org")
    await site.mailer({"id": second.id, "event": "hard_bounce"})
    assert (await site.endpoint(address)).retired_at is None


async def test_soft_bounces_are_counted(site: Site) -> None:
    """Five within thirty days, over at least a day: acceptance by the next server in between proves nothing, delivery
    does. A report that is repeated counts once."""
    address = await site.register("email", "alice@example.org")

    async def fail(times: int, wait: str) -> Endpoint:
        for _ in range(times):
            delivery = await site.sent("note")
            for _ in range(2):
                await site.mailer({"id": delivery.id, "event": "soft_bounce", "code": "4.2.2"})
            site.clock.advance(wait)
        return await site.endpoint(address)

    assert (await fail(4, "6h")).failures == 4
    site.email.answers = [Delivered()]
    await site.sent("note")
    assert (await site.endpoint(address)).failures == 0
    assert (await fail(4, "6h")).failures == 4
    delivery = await site.sent("note")
    await site.mailer({"id": delivery.id, "event": "delivered"})
    assert (await site.endpoint(address)).failures == 0
    assert (await fail(4, "9d")).failures == 4
    assert (await fail(1, "0s")).failures == 1, "those of long ago are forgotten"
    found = await fail(3, "12h")
    assert (found.failures, found.retired_at) == (4, None)
    assert (await fail(1, "0s")).reason == "refused"


# -- the application is told -----------------------------------------------------------------------------------------


async def test_events_for_the_user(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """What changed can be pushed to the user's stream; if that fails, the report is stored all the same."""
    await site.register("email", "alice@example.org")
    async with Notifier(MemoryStreamStore()) as notifier:

        async def push(delivery: Delivery, report: Report) -> None:
            await notifier.push(delivery.user, "delivery", {"id": delivery.id, "state": delivery.state.name.lower()})

        site.dispatcher._on_report = push
        delivery = await site.sent("note")
        for event in ("accepted", "delivered", "delivered", "hard_bounce"):
            await site.mailer({"id": delivery.id, "event": event})
        async with notifier.subscribe("alice", "0") as stream:
            event = await stream.next()
        assert event.payload == {"id": delivery.id, "state": "delivered"}

    async def fail(delivery: Delivery, report: Report) -> None:
        raise UsageError("to alice@example.org")

    site.dispatcher._on_report = fail
    delivery = await site.sent("code")
    assert (await site.mailer({"id": delivery.id, "event": "delivered"})).status_code == 200
    assert await site.state(delivery) is State.DELIVERED
    assert "on_report= of the Dispatcher failed: UsageError" in caplog.text
    assert "alice@example.org" not in caplog.text


# -- what readers do -------------------------------------------------------------------------------------------------


async def test_opened_and_clicked(site: Site) -> None:
    """By the links of the message. What fetches links before they are followed counts nothing: HEAD, and GET by a
    browser that says so. Both are explained."""
    await site.register("email", "alice@example.org")
    delivery = await site.sent("note")
    link, picture = site.email.jobs[-1].content.url, site.links.opened(delivery.id)
    async with site.client() as reader:
        for ahead in ({"sec-purpose": "prefetch;prerender"}, {"purpose": "prefetch"}, {"x-moz": "prefetch"}):
            assert (await reader.get(link, headers=ahead)).headers["location"] == OFFER
            assert (await reader.get(picture, headers=ahead)).status_code == 200
        for url in (link, picture):
            await reader.head(url)
        found = await site.store.delivery(delivery.id)
        assert (found.delivery.opened_at, found.delivery.clicked_at) == (None, None)
        await reader.get(picture)
        site.clock.advance("1m")
        for _ in range(2):
            assert (await reader.get(link)).headers["location"] == OFFER
            site.clock.advance("1m")
    text = await site.explained()
    assert "opened 2027-01-05 12:00:00" in text
    assert "clicked 2027-01-05 12:01:00" in text
    await site.mailer({"id": delivery.id, "event": "delivered"})
    found = await site.store.delivery(delivery.id)
    assert (found.delivery.state, found.delivery.opened_at) == (State.DELIVERED, START)
