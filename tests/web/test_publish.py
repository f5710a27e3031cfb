"""POST /push on real servers: other programs push, with a secret, and strangers do not."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx
import pytest
import standardwebhooks

from notify import Event, Notifier, UsageError, ids
from notify._asgi import WebError
from notify.inbox import Inbox
from notify.web import NotifyApp
from notify.web import _publish as publish_module
from notify.web import _secrets as secrets_module
from notify.web._publish import parsed_order
from notify.web._throttle import Throttle
from notify_memory import MemoryPresence, MemoryStore
from tests.parts import until
from tests.web.serving import serving

pytestmark = pytest.mark.anyio

PLAIN = "a plain secret, not base64!"
SIGNING = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RAW = b"another key of 24 bytes!"


@asynccontextmanager
async def publisher(
    notifier: Notifier[Any] | None = None, secrets: Any = (PLAIN, SIGNING, RAW), **options: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Notifier[Any]]]:
    notifier = notifier or Notifier(MemoryStore())
    app = NotifyApp(notifier, lambda request: "alice", publish_secrets=secrets, **options)
    async with notifier, serving(app) as place, httpx.AsyncClient(base_url=f"http://{place}") as client:
        yield client, notifier


JSON = {"content-type": "application/json"}


def bearer(secret: str | bytes = PLAIN) -> dict[str, str]:
    return {"authorization": f"Bearer {secret if isinstance(secret, str) else secret.decode()}"}


def signed(body: str, secret: str = SIGNING, *, id: str = "msg_1", at: datetime | None = None) -> dict[str, str]:
    moment = at or datetime.now(UTC)
    return {
        "content-type": "application/json",
        "webhook-id": id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": standardwebhooks.Webhook(secret).sign(id, moment, body),
    }


async def post(client: httpx.AsyncClient, secret: str | bytes = PLAIN, **body: Any) -> httpx.Response:
    return await client.post("/push", json=body, headers=bearer(secret))


def error_of(response: httpx.Response) -> str:
    found = response.json()
    assert found.keys() == {"error"}
    assert found["error"].keys() == {"code", "message"}
    return str(found["error"]["code"])


@pytest.mark.parametrize("secret", [PLAIN, SIGNING, RAW])
async def test_a_push_to_one_user(secret: str | bytes) -> None:
    """202 with the id under which the event is stored; every member arrives; every secret counts."""
    async with publisher() as (client, notifier), notifier.subscribe("bob") as stream:
        answer = await post(
            client, secret, user="bob", type="note", payload={"n": [1.5, None, "ü"]}, group="g", key="k"
        )
        event = await stream.next(5)
        assert (answer.status_code, answer.json()) == (202, {"id": event.id, "type": "note"})
        assert (event.type, event.payload, event.group, event.key) == ("note", {"n": [1.5, None, "ü"]}, "g", "k")
        again = await post(client, secret, user="bob", type="note", payload="other", key="k")
        assert again.json()["id"] == event.id


async def test_many_users_broadcasts_and_ephemeral_events() -> None:
    """What is stored has ids by user; what is not has none."""
    async with publisher() as (client, notifier), notifier.subscribe("bob") as stream:
        many = (await post(client, users=["bob", "carol", "\x00"], type="note")).json()
        assert (many["id"], many["type"], many["ids"].keys()) == (None, "note", {"bob", "carol"})
        assert many["failed"]["\x00"]["code"] == "invalid_event"
        assert (await stream.next(5)).id == many["ids"]["bob"]
        for body in (
            {"broadcast": True, "group": "g"},
            {"broadcast": True, "ephemeral": True},
            {"user": "bob", "ephemeral": True},
        ):
            answer = await post(client, type="live", payload=7, **body)
            assert (answer.status_code, answer.json()) == (202, {"id": None, "type": "live"})
            assert (await stream.next(5)).payload == 7
        assert (await post(client, users=["bob"], type="live", ephemeral=True)).json()["ids"] == {"bob": None}


async def test_an_absent_user_with_offline_drop() -> None:
    """Nothing is stored, which is what the notifier was told."""
    notifier: Notifier[Any] = Notifier(MemoryStore(), presence=MemoryPresence(), offline="drop")
    async with publisher(notifier, on_push=print) as (client, _):
        answer = await post(client, user="bob", type="note")
        assert (answer.status_code, answer.json()) == (202, {"id": None, "type": "note"})
        assert (await post(client, users=["bob"], type="note")).json()["offline"] == ["bob"]


ORDERS: list[tuple[Any, int, str]] = [
    ({"type": "note"}, 422, "invalid_push"),
    ({"user": "bob", "users": ["bob"], "type": "note"}, 422, "invalid_push"),
    ({"user": "bob", "broadcast": False, "type": "note"}, 422, "invalid_push"),
    ({"broadcast": False, "type": "note"}, 422, "invalid_push"),
    ({"broadcast": 1, "type": "note"}, 422, "invalid_push"),
    ({"broadcast": True, "type": "note", "key": "k"}, 422, "invalid_push"),
    ({"broadcast": True, "type": "note", "group": ""}, 422, "invalid_event"),
    ({"broadcast": True, "type": "note", "ephemeral": False}, 422, "invalid_push"),
    ({"user": "bob"}, 422, "invalid_push"),
    ({"user": "bob", "type": 5}, 422, "invalid_push"),
    ({"user": "bob", "type": ""}, 422, "invalid_event"),
    ({"user": "bob", "type": "a b"}, 422, "invalid_event"),
    ({"user": "bob", "type": "a\nid: 1-1"}, 422, "invalid_event"),
    ({"user": "bob", "type": "notify.end"}, 422, "invalid_event"),
    ({"broadcast": True, "type": "notify.end"}, 422, "invalid_event"),
    ({"user": "", "type": "note"}, 422, "invalid_event"),
    ({"user": 7, "type": "note"}, 422, "invalid_push"),
    ({"user": None, "type": "note"}, 422, "invalid_push"),
    ({"user": "x" * 256, "type": "note"}, 422, "invalid_event"),
    ({"user": "a\r\nb", "type": "note"}, 422, "invalid_event"),
    ({"user": "\ud800", "type": "note"}, 422, "invalid_event"),
    ({"users": [], "type": "note"}, 422, "invalid_push"),
    ({"users": "bob", "type": "note"}, 422, "invalid_push"),
    ({"users": ["bob", 5], "type": "note"}, 422, "invalid_push"),
    ({"users": ["x"] * 1001, "type": "note"}, 422, "invalid_push"),
    ({"users": ["", "\n"], "type": "note"}, 422, "invalid_event"),
    ({"user": "bob", "type": "note", "ephemeral": "yes"}, 422, "invalid_push"),
    ({"user": "bob", "type": "note", "key": 5}, 422, "invalid_event"),
    ({"user": "bob", "type": "note", "group": "\n"}, 422, "invalid_event"),
    ({"user": "bob", "type": "note", "payload": "\ud800"}, 422, "invalid_event"),
    ({"user": "bob", "type": "note", "\ud800": 1}, 422, "invalid_push"),
    ({"user": "bob", "type": "note", "usr": 1}, 422, "invalid_push"),
    ({"topic": "news", "type": "note"}, 422, "invalid_push"),
    ({"user": "bob", "type": "note", "list": True}, 422, "invalid_push"),
    ({"user": "bob", "type": "note", "payload": "x" * 70_000}, 413, "payload_too_large"),
    ([], 422, "invalid_push"),
    ("bob", 422, "invalid_push"),
    (None, 422, "invalid_push"),
]


async def test_unacceptable_orders() -> None:
    """Each is a 4xx of the one shape that says what is wrong, and nothing is stored."""
    async with publisher(max_body=200_000) as (client, notifier):
        for body, status, code in ORDERS:
            answer = await client.post("/push", content=json.dumps(body), headers=bearer() | JSON)
            assert (answer.status_code, error_of(answer)) == (status, code), body
        assert notifier.statistics().pushes["stored"] == 0


async def test_an_inbox_is_needed() -> None:
    """Without one, `topic` and `list` are refused as a target that is not known."""
    async with publisher() as (client, _):
        for body in (
            {"topic": "news", "type": "note"},
            {"user": "bob", "type": "note", "list": True},
            {"users": ["bob"], "type": "note", "list": True},
        ):
            answer = await post(client, **body)
            assert (answer.status_code, error_of(answer)) == (422, "invalid_push")
            assert "inbox" in answer.json()["error"]["message"]


async def test_listed() -> None:
    """An item of one user, of several, of a topic: 202 with its id, `on_push` is called, and it is in the inbox."""
    seen: list[Event] = []
    notifier = Notifier(MemoryStore())
    inbox = Inbox(notifier)
    async with publisher(notifier, inbox=inbox, on_push=seen.append) as (client, _):
        answer = await post(client, user="bob", type="note", payload=1, group="g", key="k", list=True, ttl=3600)
        again = await post(client, user="bob", type="note", payload=1, group="g", key="k", list=True)
        assert (answer.status_code, again.json()) == (202, answer.json())
        (item,) = (await inbox.list("bob")).items
        assert (item.id, item.event.group, item.event.payload) == (answer.json()["id"], "g", 1)
        assert item.expires_at is not None
        many = (await post(client, users=["ann", "bob"], type="note", list=True)).json()
        assert many["ids"].keys() == {"ann", "bob"}
        assert [each.id for each in (await inbox.list("ann")).items] == [many["ids"]["ann"]]
        topic = await post(client, topic="news", type="story", ttl=60)
        assert (topic.status_code, topic.json()["type"]) == (202, "story")
        assert [each.id for each in (await inbox.list("news")).items] == [topic.json()["id"]]
        plain = await post(client, user="eve", type="note", list=False)
        assert plain.status_code == 202
        assert not (await inbox.list("eve")).items
    assert [event.user for event in seen] == ["bob", "bob", "ann", "bob", "news", "eve"]


async def test_listed_and_signed() -> None:
    """A signed message that is repeated is listed once."""
    notifier = Notifier(MemoryStore())
    inbox = Inbox(notifier)
    async with publisher(notifier, inbox=inbox) as (client, _):
        body = '{"topic": "news", "type": "story"}'
        answers = [(await client.post("/push", content=body, headers=signed(body))).json() for _ in range(2)]
        assert answers[0] == answers[1]
        assert len((await inbox.list("news")).items) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"user": "bob", "list": 1},
        {"user": "bob", "list": None},
        {"user": "bob", "list": True, "ephemeral": True},
        {"user": "bob", "ttl": 60},
        {"user": "bob", "list": True, "ttl": 0},
        {"user": "bob", "list": True, "ttl": -1},
        {"user": "bob", "list": True, "ttl": "60"},
        {"user": "bob", "list": True, "ttl": True},
        {"user": "bob", "list": True, "ttl": 1e300},
        {"topic": "news", "list": False},
        {"topic": "news", "ephemeral": True},
        {"topic": "news", "user": "bob"},
        {"topic": ["news"]},
        {"topic": None},
        {"broadcast": True, "list": True},
        {"broadcast": True, "ttl": 60},
    ],
)
def test_what_cannot_be_listed(body: dict[str, Any]) -> None:
    """Members that contradict each other, or are of another form."""
    with pytest.raises(WebError) as refused:
        parsed_order(json.dumps({"type": "note", **body}).encode())
    assert (refused.value.status, refused.value.code) == (422, "invalid_push")


NOT_JSON = [
    b"",
    b"{",
    b'{"user": "bob", "type": "note"} x',
    b'{"user": "bob", "type": "note", "payload": NaN}',
    b'{"user": "bob", "type": "note", "payload": -Infinity}',
    b'{"user": "bob", "user": "eve", "type": "note"}',
    b'{"user": "bob", "type": "note", "payload": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    b'{"user": "bob", "type": "note", "payload": ' + b"1" * 10_000 + b"}",
    b"\xff\xfe{}",
    '{"user": "bob", "type": "note"}'.encode("utf-16"),
    b"\xef\xbb\xbf{}",
    b"\x00",
]


async def test_what_is_not_json() -> None:
    """400, whatever it is instead."""
    async with publisher() as (client, notifier):
        for body in NOT_JSON:
            answer = await client.post("/push", content=body, headers=bearer() | JSON)
            assert (answer.status_code, error_of(answer)) == (400, "invalid_json"), body[:60]
        assert notifier.statistics().pushes["stored"] == 0


async def test_a_number_that_overflows() -> None:
    """It reads as infinity, which is not JSON."""
    async with publisher() as (client, _):
        body = b'{"user": "bob", "type": "note", "payload": 1e999}'
        answer = await client.post("/push", content=body, headers=bearer() | JSON)
        assert (answer.status_code, error_of(answer)) == (422, "invalid_event")


async def test_content_types_and_sizes() -> None:
    """JSON alone, with or without a charset; a body over the limit is refused."""
    good = b'{"user": "bob", "type": "note"}'
    async with publisher(max_body=10_000) as (client, _):
        for kind, status in (
            ("application/json", 202),
            ("Application/JSON; charset=utf-8", 202),
            ("application/x-www-form-urlencoded", 415),
            ("text/plain", 415),
            ("application/xml", 415),
            ("", 415),
        ):
            answer = await client.post("/push", content=good, headers=bearer() | {"content-type": kind})
            assert answer.status_code == status, kind
        assert (await client.post("/push", content=good, headers=bearer())).status_code == 202
        assert (
            error_of(await client.post("/push", content=b" " * 10_001, headers=bearer() | JSON)) == "payload_too_large"
        )


@pytest.mark.parametrize(
    ("chunks", "status"),
    [
        ([b" " * 1000] * 20, 413),  # no length was announced
        ([b'{"user": '], 408),  # and then nothing
    ],
)
async def test_a_body_without_an_end(chunks: list[bytes], status: int) -> None:
    """It is refused once it is too large, or late."""
    async with publisher(max_body=10_000, send_timeout=0.2) as (client, _):
        with anyio.fail_after(20):
            async with await anyio.connect_tcp(client.base_url.host, client.base_url.port or 0) as socket:
                lines = [
                    "POST /push HTTP/1.1",
                    "host: x",
                    f"authorization: Bearer {PLAIN}",
                    "transfer-encoding: chunked",
                ]
                await socket.send("\r\n".join([*lines, "", ""]).encode())
                for chunk in chunks:
                    await socket.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                received = await socket.receive()
        assert received.startswith(b"HTTP/1.1 %d " % status)


# -- secrets -----------------------------------------------------------------------------------------------------


async def test_without_secrets_there_is_no_such_path() -> None:
    """404, whatever is sent."""
    async with publisher(secrets=()) as (client, _):
        assert error_of(await post(client, user="bob", type="note")) == "not_found"


async def test_wrong_secrets_slow_their_address_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few are 401, then 429 with a time to wait, for the right secret too; afterwards the right one works."""
    async with publisher() as (client, notifier):
        statuses = [(await post(client, "wrong", user="bob", type="note")).status_code for _ in range(7)]
        assert statuses == [401, 401, 401, 401, 401, 429, 429]
        refused = await post(client, PLAIN, user="bob", type="note")
        assert (refused.status_code, error_of(refused)) == (429, "too_many_attempts")
        assert int(refused.headers["retry-after"]) >= 1
        assert notifier.statistics().pushes["stored"] == 0
        later = secrets_module.monotonic() + 2
        monkeypatch.setattr(secrets_module, "monotonic", lambda: later)
        assert (await post(client, PLAIN, user="bob", type="note")).status_code == 202


async def test_no_secret_at_all() -> None:
    """401 says how to show one; it is no guess, so it slows nothing down."""
    async with publisher() as (client, _):
        for header in ("", "Bearer", "Basic YTpi", "Bearer\ta", "Digest x") * 3:
            answer = await client.post("/push", json={}, headers={"authorization": header} if header else {})
            assert (answer.status_code, error_of(answer)) == (401, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_nearly_right_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a secret is not one, and no message shows one."""
    monkeypatch.setattr(secrets_module, "Throttle", lambda: Throttle(0))
    async with publisher() as (client, _):
        for wrong in (PLAIN[:-1], PLAIN + "x", PLAIN.upper(), SIGNING[6:], "ü", PLAIN + "\u00a0"):
            headers = {b"authorization": b"Bearer " + wrong.encode()}
            answer = await client.post("/push", json={"user": "bob", "type": "note"}, headers=headers)
            assert answer.status_code == 401, wrong
            assert PLAIN not in answer.text


@pytest.mark.parametrize("secrets", [[""], [" "], [b""], [5], [None]])
def test_secrets_are_checked(secrets: Any) -> None:
    """An empty one would let every program in."""
    with pytest.raises(UsageError, match="publish secret 1"):
        NotifyApp(Notifier(MemoryStore()), lambda request: "alice", publish_secrets=secrets)


async def test_a_signature_of_the_specifications_library() -> None:
    """It is accepted with the key in each of its forms, and its id makes the push idempotent."""
    body = json.dumps({"user": "bob", "type": "note", "payload": 1})
    async with publisher() as (client, notifier):
        answers = [
            await client.post("/push", content=body, headers=signed(body, secret))
            for secret in (SIGNING, SIGNING, base64.b64encode(RAW).decode())
        ]
        assert [answer.status_code for answer in answers] == [202, 202, 202]
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert notifier.statistics().pushes["stored"] == 3  # the store has the first one
        other = await client.post("/push", content=body, headers=signed(body, id="msg_2"))
        assert other.json()["id"] != answers[0].json()["id"]


async def test_a_key_in_the_body_goes_before_the_id_of_the_message() -> None:
    """The program that pushes knows best what is the same."""
    body = json.dumps({"user": "bob", "type": "note", "key": "k"})
    async with publisher() as (client, _):
        first = await client.post("/push", content=body, headers=signed(body, id="msg_1"))
        second = await client.post("/push", content=body, headers=signed(body, id="msg_2"))
        assert first.json()["id"] == second.json()["id"]


async def test_a_repeated_broadcast_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is stored, so the process remembers the last messages; one that failed may be repeated."""
    monkeypatch.setattr(secrets_module, "MAX_SEEN", 2)
    body = json.dumps({"broadcast": True, "type": "note"})
    async with publisher() as (client, notifier), notifier.subscribe("bob") as stream:

        async def send(number: int, text: str = body) -> int:
            return (await client.post("/push", content=text, headers=signed(text, id=f"msg_{number}"))).status_code

        for number in (1, 1, 2, 2, 3, 1):
            assert await send(number) == 202
        bad = json.dumps({"broadcast": True, "type": "notify.end"})
        assert [await send(9, bad), await send(9, bad)] == [422, 422]
        await notifier.push("bob", "last")
        shown = [(await stream.next(5)).type for _ in range(5)]
        assert shown == ["note", "note", "note", "note", "last"]  # the fourth is the first one again, forgotten


async def test_a_signature_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """401: another body, id or key, too old, from the future, or not a signature."""
    monkeypatch.setattr(secrets_module, "Throttle", lambda: Throttle(0))
    body, now = json.dumps({"user": "bob", "type": "note"}), datetime.now(UTC)
    right = signed(body)
    without_id = {name: text for name, text in right.items() if name != "webhook-id"}
    sent = {
        "another body": (body.replace("bob", "eve"), right),
        "another id": (body, right | {"webhook-id": "msg_2"}),
        "no id": (body, without_id),
        "another key": (body, signed(body, "whsec_" + base64.b64encode(b"wrong key of 24 bytes!!!").decode())),
        "old": (body, signed(body, at=now - timedelta(minutes=10))),
        "from the future": (body, signed(body, at=now + timedelta(minutes=10))),
        "no time": (body, right | {"webhook-timestamp": "yesterday"}),
        "empty": (body, right | {"webhook-signature": ""}),
        "another version": (body, right | {"webhook-signature": right["webhook-signature"].replace("v1", "v2")}),
    }
    async with publisher() as (client, notifier):
        for what, (text, headers) in sent.items():
            answer = await client.post("/push", content=text, headers=headers)
            assert (answer.status_code, error_of(answer)) == (401, "unauthenticated"), what
        assert notifier.statistics().pushes["stored"] == 0
        assert (await client.post("/push", content=body, headers=right)).status_code == 202


async def test_a_signature_counts_alone_and_needs_a_key() -> None:
    """A wrong signature is not saved by a right secret; without a secret of that form none fits."""
    body = json.dumps({"user": "bob", "type": "note"})
    async with publisher() as (client, _):
        headers = signed(body) | {"webhook-id": "other"} | bearer()
        assert (await client.post("/push", content=body, headers=headers)).status_code == 401
    async with publisher(secrets=[PLAIN]) as (client, _):
        answer = await client.post("/push", content=body, headers=signed(body))
        assert answer.status_code == 401
        assert "none of its publish secrets is base64" in answer.json()["error"]["message"]


# -- the hook ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_the_hook_sees_what_was_pushed(kind: str) -> None:
    """Each event once: one, several, a broadcast; plain or async."""
    seen: list[Event] = []

    async def note(event: Event) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(event)

    hook: Callable[[Event], Any] = seen.append if kind == "plain" else note
    async with publisher(on_push=hook) as (client, _):
        await post(client, user="bob", type="one")
        await post(client, users=["bob", "carol"], type="many")
        await post(client, broadcast=True, type="all")
        await post(client, user="", type="refused")
    assert [(event.user, event.type) for event in seen] == [
        ("bob", "one"),
        ("bob", "many"),
        ("carol", "many"),
        ("", "all"),
    ]


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_a_hook_that_fails_does_not_fail_the_push(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The event is pushed already: 202, a line in the log, and the hook is called with the next event."""
    seen: list[str] = []

    def raises(event: Event) -> None:
        seen.append(event.user)
        raise error("boom")

    with caplog.at_level(logging.ERROR, "notify.web"):
        async with publisher(on_push=raises) as (client, _):
            assert (await post(client, users=["bob", "eve"], type="note")).status_code == 202
    assert caplog.text.count("on_push failed for an event of type note") == 2
    assert seen == ["bob", "eve"]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_slow_hook_has_one_bound_for_all_events(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It is cancelled, and not called for the rest: a request with a thousand users takes no longer than one."""
    monkeypatch.setattr(publish_module, "WITHIN", 0.05)
    seen: list[str] = []

    async def hangs(event: Event) -> None:
        seen.append(event.user)
        await anyio.sleep_forever()

    def dawdles(event: Event) -> None:
        seen.append(event.user)
        time.sleep(0.1)

    hook: Callable[[Event], Any] = dawdles if kind == "plain" else hangs
    async with publisher(on_push=hook) as (client, notifier):
        with anyio.fail_after(5), caplog.at_level(logging.ERROR, "notify.web"):
            answer = await post(client, users=[f"user-{number}" for number in range(1000)], type="note")
        assert (answer.status_code, len(answer.json()["ids"])) == (202, 1000)
        assert notifier.statistics().pushes["stored"] == 1000
    assert len(seen) <= 3  # the timer of an event loop that was blocked fires a turn later
    missed = 1000 - len(seen) if kind == "plain" else 1000
    assert f"{missed} of 1000 events of type note: it took more than 0.05 s" in caplog.text


async def test_a_client_that_leaves_ends_the_hooks(caplog: pytest.LogCaptureFixture) -> None:
    """It has no answer, so it repeats its request: with its key nothing is stored twice, and all hooks are called."""
    seen: list[str] = []
    cancelled = anyio.Event()

    async def hook(event: Event) -> None:
        seen.append(event.user)
        if len(seen) == 1:
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

    async with publisher(on_push=hook) as (client, notifier):
        with caplog.at_level(logging.ERROR, "notify.web"):
            with pytest.raises(httpx.ReadTimeout):
                await client.post(
                    "/push",
                    json={"users": ["bob", "eve"], "type": "note", "key": "k"},
                    headers=bearer(),
                    timeout=httpx.Timeout(5, read=0.5),
                )
            with anyio.fail_after(5):
                await cancelled.wait()
            await until(lambda: "2 of 2 events of type note: the client has left" in caplog.text)
        assert seen == ["bob"]
        assert (await post(client, users=["bob", "eve"], type="note", key="k")).status_code == 202
        assert seen == ["bob", "bob", "eve"]
        assert len((await notifier.store.read("bob", ids.ZERO, 9)).events) == 1


def test_an_order_is_parsed_without_a_server() -> None:
    """The payload may be absent, and is null then."""
    order = parsed_order(b'{"user": "bob", "type": "note", "group": null}')
    assert order.users == ["bob"]
    assert order.options == {"type": "note", "payload": None, "key": None, "group": None, "ephemeral": False}
    with pytest.raises(WebError):
        parsed_order(b"[]")
