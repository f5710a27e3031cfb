"""What administrators and providers may do over HTTP, and what any request gets wrong."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from notify import BackendUnavailableError, UsageError
from notify.dispatch import DispatchApp, Dispatcher, NotificationType, Report, State, _app_site
from notify.dispatch._app_openapi import OPERATIONS, described
from notify.dispatch._app_routes import match
from notify.dispatch._links import sign_link
from notify.dispatch.abc import Endpoint, delivery_id
from notify.dispatch.app import ROUTES
from notify.web import Identity, Request, WebError
from tests.dispatch.app import Site, refused, serving, user_of
from tests.dispatch.world import START

pytestmark = pytest.mark.anyio

NOTE = {"type": "note", "data": {"title": "hello"}}
TOKEN = {"channel": "fcm", "address": "secret-token"}


async def everyone(after: str) -> AsyncIterator[str]:
    """Yield three users after an id."""
    for user in ("alice", "bob", "carol"):
        if user > after:
            yield user


# -- sends ---------------------------------------------------------------------------------------------------------


async def test_an_administrator_sends_to_one_user() -> None:
    """The answer is the ticket; the same key is a replay."""
    async with serving() as site, site.client("root") as root:
        order = NOTE | {"user": "alice", "idempotency_key": "k1"}
        answer = await root.post("send", json=order)
        assert answer.status_code == 202
        assert answer.json() == {"id": answer.json()["id"], "replayed": False, "count": 1}
        assert (await root.post("send", json=order)).json() == answer.json() | {"replayed": True}
        await site.settle()
        assert [each.event.payload["title"] for each in (await site.inbox.list("alice")).items] == ["hello"]


async def test_an_administrator_sends_to_devices_and_topics_without_an_account() -> None:
    """One, or up to 500 with an idempotency key."""
    async with serving() as site, site.client("root") as root:
        await root.post("send", json=NOTE | {"endpoint": TOKEN | {"kind": "topic"}})
        many = [TOKEN | {"address": f"t{number}"} for number in range(3)]
        assert (await root.post("send", json=NOTE | {"endpoints": many, "idempotency_key": "k"})).json()["count"] == 3
        await site.settle()
        sent = [each.endpoint for each in site.fcm.jobs if each.endpoint is not None]
        assert sorted((each.kind, each.address) for each in sent) == [
            ("", "t0"), ("", "t1"), ("", "t2"), ("topic", "secret-token"),
        ]  # fmt: skip


async def test_the_most_devices_at_once() -> None:
    """500 tokens of the length that providers give out fit into one request, and 501 are refused."""
    async with serving() as site, site.client("root") as root:
        many = [TOKEN | {"address": f"{number:03}" + "x" * 400} for number in range(501)]
        order = NOTE | {"endpoints": many[:-1], "idempotency_key": "k"}
        assert (await root.post("send", json=order)).json()["count"] == 500
        refused(await root.post("send", json=order | {"endpoints": many}), 422, "invalid_send")
        refused(await root.post("send", json=NOTE | {"user": "x" * 1_100_000}), 413, "payload_too_large")


async def test_an_administrator_sends_to_an_audience() -> None:
    """By its name, resumably."""
    async with serving(audiences={"everyone": everyone}) as site, site.client("root") as root:
        order = NOTE | {"audience": "everyone", "idempotency_key": "news"}
        assert (await root.post("send", json=order)).json()["count"] == 3
        answer = (await root.post("send", json=order)).json()
        assert (answer["replayed"], answer["count"]) == (True, 0)
        await site.settle()
        assert (await site.inbox.counts("carol")).total == 1


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"type": "note"},
        NOTE | {"user": "a", "users": ["b"]},
        NOTE | {"user": ""},
        NOTE | {"user": 5},
        NOTE | {"users": []},
        NOTE | {"users": ["a"]},
        NOTE | {"users": ["a"] * 501, "idempotency_key": "k"},
        NOTE | {"users": "alice", "idempotency_key": "k"},
        NOTE | {"endpoint": "x"},
        NOTE | {"endpoint": {"channel": "email"}},
        NOTE | {"endpoint": {"channel": "in_app", "address": "x"}},
        NOTE | {"endpoint": TOKEN | {"meta": {"a": 1}}},
        NOTE | {"audience": "everyone", "idempotency_key": "k"},
        NOTE | {"audience": ["x"], "idempotency_key": "k"},
        NOTE | {"user": "a", "typo": 1},
        {"type": "unknown", "user": "a"},
        {"type": 7, "user": "a"},
        {"type": "note", "user": "a", "data": [1]},
        {"type": "note", "user": "a", "idempotency_key": "x" * 256},
    ],
)
async def test_what_cannot_be_sent_is_refused(order: Any) -> None:
    """It is 422, and nothing is stored."""
    async with serving() as site, site.client("root") as root:
        refused(await root.post("send", json=order), 422, "invalid_send")
        await site.settle()
        assert not site.fcm.jobs
        assert (await site.inbox.counts("a")).total == 0


async def test_who_is_not_an_administrator_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """403 for users, 401 without a user, 404 without admin=, 503 where it fails, and then the log names no user."""

    async def fail(identity: Identity) -> bool:
        raise LookupError(identity.user)

    paths: list[tuple[str, str, Any]] = [
        ("POST", "send", NOTE | {"user": "alice"}), ("GET", "users/alice/notifications", None),
        ("GET", "explain?ticket=x&user=alice", None),
    ]  # fmt: skip
    for options, user, status, code in (
        ({}, "alice", 403, "forbidden"),
        ({}, "", 401, "unauthenticated"),
        ({"admin": None}, "root", 404, "not_found"),
        ({"admin": lambda identity: 1}, "root", 403, "forbidden"),
        ({"admin": fail}, "secret-name", 503, "admin_failed"),
    ):
        async with serving(**options) as site, site.client(user) as client:
            for method, path, body in paths:
                refused(await client.request(method, path, json=body), status, code)
            assert (await site.inbox.counts("alice")).total == 0
    assert "LookupError" in caplog.text
    assert "secret-name" not in caplog.text


# -- reading for others --------------------------------------------------------------------------------------------


async def test_an_administrator_reads_a_users_notifications() -> None:
    """In pages, newest first, with the total; a user id may have a slash."""
    async with serving() as site, site.client("root") as root:
        for number in range(3):
            await site.dispatcher.submit("note", "a/b", {"title": f"n{number}"})
        await site.settle()
        first = (await root.get("users/a%2Fb/notifications?limit=2")).json()
        assert len(first["items"]) == 2
        assert (first["total"], first["unread"]) == (3, 3)
        rest = (await root.get(f"users/a%2Fb/notifications?before={first['next']}")).json()
        assert rest["next"] is None
        titles = [each["payload"]["title"] for each in first["items"] + rest["items"]]
        assert sorted(titles) == ["n0", "n1", "n2"]
        for query, code in (("limit=0", "bad_request"), ("limit=101", "bad_request"), ("limit=x", "bad_request"),
                            ("before=x", "invalid_position")):  # fmt: skip
            refused(await root.get(f"users/alice/notifications?{query}"), 400, code)


async def test_notifications_that_there_cannot_be() -> None:
    """A dispatcher without an inbox has none, and neither has a user whose id no log takes."""
    async with serving() as site, site.client("root") as client:
        refused(await client.get(f"users/{'x' * 1000}/notifications"), 404, "not_found")
        types = [NotificationType("offer", channels=["email"])]
        plain = Dispatcher(None, site.store, types, {"email": site.email}, recipients=site.recipients)
        site.app = DispatchApp(plain, user_of, admin=lambda identity: True)
        assert "no inbox" in refused(await client.get("users/alice/notifications"), 404, "not_found")


async def test_an_administrator_asks_why() -> None:
    """Decisions, deliveries and attempts, without an address."""
    async with serving() as site, site.client("root") as root:
        ticket = (await root.post("send", json=NOTE | {"endpoint": TOKEN})).json()["id"]
        await site.settle()
        user = site.fcm.jobs[0].user
        answer = await root.get("explain", params={"ticket": ticket, "user": user})
        found = answer.json()
        assert {each["channel"]: each["do"] for each in found["planned"]}["fcm"] == "send"
        assert "accepted" in {each["state"] for each in found["deliveries"]}
        assert TOKEN["address"] not in answer.text
        refused(await root.get("explain", params={"ticket": ticket, "user": "alice"}), 404, "not_found")
        refused(await root.get("explain"), 400, "bad_request")


# -- callbacks -----------------------------------------------------------------------------------------------------

SECRET = b"the provider's secret"
STATES = {"delivered": State.DELIVERED, "bounce": State.BOUNCED}


def reports(request: Request, body: bytes) -> list[Report] | None:
    """Verify and read what a provider of these tests posts."""
    given = request.headers.get("x-signature", "")
    if not hmac.compare_digest(given, hmac.digest(SECRET, body, hashlib.sha256).hex()):
        return None
    return [
        Report(each["id"], STATES[each["event"]], retire=each.get("retire", "")) for each in json.loads(body)["events"]
    ]


async def report(site: Site, content: bytes, signature: str | None = None) -> Any:
    """Post a callback as the provider does."""
    signed = hmac.digest(SECRET, content, hashlib.sha256).hex() if signature is None else signature
    async with site.client(**{"x-signature": signed, "content-type": "application/json"}) as provider:
        return await provider.post("callbacks/mailer", content=content)


async def test_a_provider_reports() -> None:
    """What bounced is no longer accepted, and its endpoint is retired; the answer does not tell which ids are known."""
    async with serving(callbacks={"mailer": reports}) as site:
        device = await site.store.register(Endpoint("alice", "fcm", "token"), START)
        await site.dispatcher.submit("note", "alice", {"title": "hello"})
        await site.settle()
        id = site.fcm.jobs[0].id
        events = [{"id": id, "event": "bounce", "retire": "suppressed"}, {"id": "0" * 32, "event": "delivered"}]
        answer = await report(site, json.dumps({"events": events}).encode())
        assert answer.json() == {"reports": 2}
        found = await site.store.delivery(id)
        assert found is not None
        assert found.delivery.state is State.BOUNCED
        retired = await site.store.endpoint(device.id)
        assert retired is not None
        assert retired.reason == "suppressed"


async def test_callbacks_that_are_wrong(caplog: pytest.LogCaptureFixture) -> None:
    """Not signed is 403, not understood 400, no such provider 404; a fault of the application is 500, not shown; a
    database of its own that is away is 503, so that the provider reports again."""

    async def broken(request: Request, body: bytes) -> list[Report]:
        raise RuntimeError("secret text")

    def wrong(request: Request, body: bytes) -> list[Report]:
        return [Report("0" * 32, State.SKIPPED)]

    callbacks: dict[str, Any] = {
        "mailer": reports,
        "broken": broken,
        "strange": lambda request, body: ["x"],
        "wrong": wrong,
    }

    async def away(request: Request, body: bytes) -> list[Report]:
        raise BackendUnavailableError("db.internal refused the connection")

    callbacks["away"] = away
    async with serving(callbacks=callbacks) as site, site.client() as client:
        refused(await client.post("callbacks/away"), 503, "unavailable")
        refused(await report(site, b"{}", "0" * 64), 403, "forbidden")
        for body in (b"{", b"{}", b'{"events": [{"id": "1", "event": "unheard-of"}]}', b"\xff"):
            refused(await report(site, body), 400, "bad_request")
        refused(await client.post("callbacks/other"), 404, "not_found")
        for name in ("broken", "strange", "wrong"):
            refused(await client.post(f"callbacks/{name}"), 500, "callback_failed")
    assert "RuntimeError" in caplog.text
    assert "secret text" not in caplog.text


# -- every request -------------------------------------------------------------------------------------------------


async def hang(*_: object) -> Any:
    await anyio.sleep_forever()


async def be_cancelled(*_: object) -> Any:
    """Raise what a driver raises if a task of its own was cancelled."""
    raise asyncio.CancelledError


def read_cancelled(*_: object) -> Any:
    """Raise what reading the result of a cancelled future raises, in a plain function."""
    raise asyncio.CancelledError


@pytest.mark.parametrize("function", [hang, be_cancelled, read_cancelled])
async def test_functions_of_the_application_that_hang_or_are_cancelled(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is answered with an error, at the latest after the time that `authenticate` may take."""
    monkeypatch.setattr(_app_site, "WITHIN", 0.01)
    options: dict[str, Any] = {"admin": function, "session_of": function, "callbacks": {"mailer": function}}
    async with serving(**options) as site, site.client("root") as root, site.client() as visitor:
        refused(await root.post("send", json=NOTE | {"user": "alice"}), 503, "admin_failed")
        refused(await visitor.post("devices", json=TOKEN), 503, "session_of_failed")
        refused(await visitor.post("callbacks/mailer"), 500, "callback_failed")
    failure = "TimeoutError" if function is hang else "RuntimeError"
    assert caplog.text.count(f"of the DispatchApp failed: {failure}") == 3


async def test_paths_and_methods_that_are_not_there() -> None:
    """404 and 405 have the one shape; OPTIONS says what there is."""
    async with serving() as site, site.client("alice") as client:
        refused(await client.get("nothing"), 404, "not_found")
        refused(await client.get(""), 404, "not_found")
        answer = await client.put("preferences", json={})
        refused(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "GET, OPTIONS, PATCH"
        assert (await client.options("devices")).headers["allow"] == "GET, OPTIONS, POST"


async def test_what_is_not_http() -> None:
    """A WebSocket is closed before it is open, which servers answer with 403; another protocol is a mistake."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async with serving() as site:
        await site.app({"type": "websocket", "path": "/notify/devices"}, receive, send)
        assert [each["type"] for each in sent] == ["websocket.close"]
        with pytest.raises(UsageError, match="serves http and lifespan, not 'mqtt'"):
            await site.app({"type": "mqtt"}, receive, send)


async def test_a_refusal_of_the_application_itself() -> None:
    """A hook may answer with an error of its own, such as 402 or 429."""

    def busy(identity: Identity) -> bool:
        raise WebError(429, "busy", "come back tomorrow")

    async with serving(admin=busy) as site, site.client("root") as client:
        assert refused(await client.post("send", json=NOTE | {"user": "alice"}), 429, "busy") == "come back tomorrow"


async def test_pages_of_other_sites_are_refused() -> None:
    """Cookies of a user are of no use to another site's page or form; an allowed origin gets its headers."""
    async with serving(origins=["https://app.example.com"]) as site:
        async with site.client("alice", **{"sec-fetch-site": "cross-site", "origin": "https://evil.example"}) as page:
            refused(await page.get("devices"), 403, "cross_site")
            refused(await page.post("push/subscribe", json={}), 403, "cross_site")
        async with site.client("alice", cookie="a=b") as form:
            refused(await form.post("devices", data={"a": "b"}), 415, "unsupported_media_type")
            refused(await form.post("deliveries/" + "0" * 32 + "/opened"), 403, "cross_site")
        async with site.client(
            "alice", **{"sec-fetch-site": "cross-site", "origin": "https://app.example.com"}
        ) as page:
            answer = await page.get("devices")
            assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
            asked = {"access-control-request-method": "PATCH", "access-control-request-headers": "content-type"}
            preflight = await page.options("preferences", headers=asked)
            assert "PATCH" in preflight.headers["access-control-allow-methods"]


async def test_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 503 with a time to come back, and says nothing of the store."""

    async def fail(*_: object, **__: object) -> None:
        raise BackendUnavailableError("db.internal refused the connection")

    async with serving() as site, site.client("alice") as client:
        monkeypatch.setattr(site.store, "endpoints", fail)
        answer = await client.get("devices")
        assert "db.internal" not in refused(answer, 503, "unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= 5


async def test_the_document_describes_every_operation() -> None:
    """Each method of each path that is served, HEAD aside, and nothing else; it is served to everybody."""
    served = {(template, method.lower()) for template, methods in ROUTES.items() for method in methods}
    assert {each for each in served if each[1] != "head"} == {
        (template, method) for template, methods in OPERATIONS.items() for method in methods
    }
    async with serving() as site, site.client(origin="https://other.example") as client:
        document = (await client.get("openapi.json")).json()
    names = [
        each["operationId"] for path in document["paths"].values() for each in path.values() if "operationId" in each
    ]
    assert len({*names}) == len(names) == sum(len(each) for each in OPERATIONS.values())


def test_the_document_says_what_ids_and_tokens_look_like(anyio_backend: str) -> None:
    """So that a client generated from it, or a test, makes some that are well-formed."""
    real = {"id": delivery_id("n", "alice", "email"), "token": sign_link([b"k" * 16], "opened", "d"), "name": "mail"}
    found: set[str] = set()
    for path in described()["paths"].values():
        for each in path["parameters"]:
            if each["name"] in real:
                found.add(each["name"])
                assert re.search(each["schema"]["pattern"], real[each["name"]])
                assert not re.search(each["schema"]["pattern"], f"{real[each['name']]}/x")
    assert found == real.keys()


@pytest.mark.parametrize(
    ("path", "template", "names"),
    [
        (b"/devices", "devices", {}),
        (b"/devices/unregister", "devices/unregister", {}),
        (b"/mounted/devices/" + b"a" * 32, "devices/{id}", {"id": "a" * 32}),
        (b"/devices/preferences", "preferences", {}),
        (b"/devices/push/subscribe", "push/subscribe", {}),
        (b"/users/devices/notifications", "users/{user}/notifications", {"user": "devices"}),
        (b"/users/a%2Fb%20c/notifications/", "users/{user}/notifications", {"user": "a/b c"}),
        (b"/callbacks/devices", "callbacks/{name}", {"name": "devices"}),
        (b"/callbacks/twilio?x=1", "callbacks/{name}", {"name": "twilio"}),
    ],
)
async def test_routes(path: bytes, template: str, names: dict[str, str]) -> None:
    """The end of the path decides, under any mount."""
    found = match({"raw_path": path, "path": "/"}, ROUTES)
    assert found is not None
    assert (found.template, found.names) == (template, names)
    assert match({"path": "/x/deliveries/short/opened"}, ROUTES) is None


async def test_what_happens_is_logged_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    """No address, token or key is in the log, also when requests are refused."""
    caplog.set_level(logging.DEBUG)
    async with serving() as site, site.client("alice") as client:
        await client.post("devices", json=TOKEN)
        await client.post("devices", json=TOKEN | {"kind": "wrong"})
        link = site.links.unsubscribe("alice", "marketing", "email")
        await client.get("unsubscribe/" + link.rpartition("/")[2][:-1])
    ours = "\n".join(each.getMessage() for each in caplog.records if each.name.startswith("notify"))
    assert "secret" not in ours
    assert "unsubscribe/" not in ours
