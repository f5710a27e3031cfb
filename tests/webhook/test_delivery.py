"""Webhooks over real sockets: real receivers, hostile ones, and what happens when they fail."""

from __future__ import annotations

import json
import logging
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
import standardwebhooks
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSListener

from notify import ClosedError, Event, Notifier, UsageError
from notify.http import _connections as client_module
from notify.webhook import WebhookDeliveryError, WebhookEndpoint, WebhookReceiver, WebhookRouter
from notify.webhook import _router as router_module
from notify_memory import MemoryPresence, MemoryStore, MemoryStreamStore

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_c2Vjb25kIGtleSBvZiAyNCBieXRlcyE="

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Receiver:
    """An HTTP server that answers what it was told to, and keeps what it got."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = [*answers]
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.times: list[float] = []
        self.paths: list[str] = []
        self.connections = 0
        self.port = 0

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        self.connections += 1
        reader = BufferedByteReceiveStream(stream)
        async with stream:
            try:
                while await self.serve_one(reader, stream):
                    pass
            except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError):
                return

    async def serve_one(self, reader: BufferedByteReceiveStream, stream: anyio.abc.ByteStream) -> bool:
        head = (await reader.receive_until(b"\r\n\r\n", 65_536)).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        body = await reader.receive_exactly(int(headers["content-length"]))
        self.paths.append(head[0].split(" ")[1])
        self.requests.append((headers, body))
        self.times.append(time.time())
        reply = self.answers.pop(0) if self.answers else OK
        await stream.send(reply)
        return reply.startswith(b"HTTP/1.1 ") and b"Connection: close" not in reply

    def verified(self, secret: str = SECRET) -> list[Any]:
        webhook = standardwebhooks.Webhook(secret)
        return [webhook.verify(body, headers) for headers, body in self.requests]

    def endpoint(self, **options: Any) -> WebhookEndpoint:
        return WebhookEndpoint(f"http://127.0.0.1:{self.port}/hook", SECRET, **options)


@asynccontextmanager
async def served(*receivers: Receiver, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    listeners: list[Any] = []
    try:
        async with anyio.create_task_group() as tasks:
            for receiver in receivers:
                listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
                receiver.port = listener.extra(anyio.abc.SocketAttribute.local_port)
                if tls is not None:
                    listener = TLSListener(listener, tls, standard_compatible=False)
                listeners.append(listener)
                tasks.start_soon(listener.serve, receiver.serve)
            yield
            tasks.cancel_scope.cancel()
    finally:
        for listener in listeners:
            await listener.aclose()


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "FIRST_DELAY", 0.02)


def stored(number: int = 0, **fields: Any) -> Event:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    user, type_ = fields.pop("user", "alice"), fields.pop("type", "comment.created")
    draft = Event(user, type_, {"post": number}, timestamp=when, **fields)
    return draft.stored(f"1700000000000-{number + 1}", f"1700000000000-{number}" if number else "0")


async def wait_for(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - a list, which has no event
            await anyio.sleep(0.005)


# -- what is sent ---------------------------------------------------------------------------------------------------


async def test_a_message_is_what_the_specification_says() -> None:
    """The specification's library verifies it; it holds the payload as JSON, and the headers of the endpoint."""
    receiver = Receiver()
    async with served(receiver):
        endpoint = receiver.endpoint(headers={"Authorization": "Bearer b"})
        async with WebhookRouter([endpoint], allow_private=True) as router:
            event = stored(7, group="post:7", meta={"by": "bob"})
            await router.route(event, None)
    [(headers, body)] = receiver.requests
    assert receiver.verified() == [json.loads(event.to_json())]
    assert Event.from_json(body) == event
    assert json.loads(body)["payload"] == {"post": 7}
    assert headers["authorization"] == "Bearer b"
    assert headers["content-type"] == "application/json"
    assert receiver.paths == ["/hook"]


async def test_a_secret_that_is_being_replaced() -> None:
    """With two secrets a message carries both signatures."""
    receiver = Receiver()
    async with served(receiver):
        endpoint = WebhookEndpoint(f"http://127.0.0.1:{receiver.port}/", [OTHER, SECRET])
        async with WebhookRouter([endpoint], allow_private=True) as router:
            await router.route(stored(), None)
    assert receiver.verified(SECRET) == receiver.verified(OTHER)


async def test_only_what_is_wanted_is_sent() -> None:
    """Filters choose; an event that no endpoint wants makes no request and no error."""
    one, two = Receiver(), Receiver()
    async with served(one, two):
        endpoints = [one.endpoint(types=["a"]), two.endpoint(users=["bob"])]
        async with WebhookRouter(endpoints, allow_private=True) as router:
            for event in (stored(1, type="a"), stored(2, type="b"), stored(3, type="b", user="bob")):
                await router.route(event, None)
    assert [body["payload"] for body in one.verified()] == [{"post": 1}]
    assert [body["payload"] for body in two.verified()] == [{"post": 3}]


async def test_ids_tell_messages_apart() -> None:
    """The same event has the same id wherever it is sent; others, also of another user, have others."""
    receiver = Receiver()
    async with served(receiver), WebhookRouter([receiver.endpoint()] * 2, allow_private=True) as router:
        ephemeral = Event("alice", "typing").stored("", "")
        for event in (stored(1), stored(2), stored(1, user="bob"), ephemeral, ephemeral):
            await router.route(event, None)
    ids = [headers["webhook-id"] for headers, _ in receiver.requests]
    assert len(ids) == 10
    assert len(set(ids[:2])) == len(set(ids[2:4])) == 1
    assert len(set(ids)) == 3 + 2


async def test_connections_are_used_again() -> None:
    """Ten messages in a row to one endpoint need one connection, also where answers have bodies."""
    receiver = Receiver(*[answer(200, body=b"thanks")] * 10)
    async with served(receiver), WebhookRouter([receiver.endpoint()], allow_private=True) as router:
        for number in range(10):
            await router.route(stored(number), None)
    assert (len(receiver.requests), receiver.connections) == (10, 1)


# -- failures -------------------------------------------------------------------------------------------------------


async def test_all_attempts_fail() -> None:
    """With two retries there are exactly three attempts, with one id, and one error that names the count."""
    receiver = Receiver(*[answer(503)] * 9)
    async with served(receiver), WebhookRouter([receiver.endpoint()], retries=2, allow_private=True) as router:
        with pytest.raises(WebhookDeliveryError, match="answered 503, after 3 attempts") as caught:
            await router.route(stored(), None)
    assert (caught.value.attempts, caught.value.status) == (3, 503)
    assert len(receiver.requests) == 3
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1
    assert len(receiver.verified()) == 3


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_what_may_succeed_later_is_retried(status: int) -> None:
    """Time-outs, overload and errors of the server are tried again until one attempt is accepted."""
    receiver = Receiver(answer(status), answer(status))
    async with served(receiver), WebhookRouter([receiver.endpoint()], allow_private=True) as router:
        await router.route(stored(), None)
    assert len(receiver.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
async def test_what_will_not_succeed_is_not_retried(status: int) -> None:
    """A refusal ends the delivery after one attempt."""
    receiver = Receiver(answer(status))
    async with served(receiver), WebhookRouter([receiver.endpoint()], allow_private=True) as router:
        with pytest.raises(WebhookDeliveryError, match=f"answered {status}, after 1 attempt$"):
            await router.route(stored(), None)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure(status: int) -> None:
    """It is neither followed nor taken for success."""
    target = Receiver()
    receiver = Receiver()
    async with served(target, receiver), WebhookRouter([receiver.endpoint()], allow_private=True) as router:
        receiver.answers = [answer(status, f"Location: http://127.0.0.1:{target.port}/")]
        with pytest.raises(WebhookDeliveryError, match="redirect"):
            await router.route(stored(), None)
    assert (len(receiver.requests), len(target.requests)) == (1, 0)


async def test_one_of_two_endpoints_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    """Then there is no error; the failure is logged once when it begins and once when it ends, without the path."""
    good, bad = Receiver(), Receiver(*[answer(400)] * 3)
    async with served(good, bad), WebhookRouter([good.endpoint(), bad.endpoint()], allow_private=True) as router:
        with caplog.at_level(logging.WARNING, logger="notify"):
            for number in range(5):
                await router.route(stored(number), None)
    assert len(good.requests) == len(bad.requests) == 5
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"webhooks to http://127.0.0.1:{bad.port} fail: http://127.0.0.1:{bad.port} answered 400, after 1 attempt",
        f"webhooks to http://127.0.0.1:{bad.port} succeed again",
    ]


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_honoured(form: str) -> None:
    """The next attempt comes no earlier than the receiver asks for."""
    until = time.time() + 2
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(until))
    receiver = Receiver(answer(429, f"Retry-After: {'1' if form == 'seconds' else date}"))
    async with served(receiver), WebhookRouter([receiver.endpoint()], allow_private=True) as router:
        await router.route(stored(), None)
    earliest = receiver.times[0] + 1 if form == "seconds" else int(until)
    assert receiver.times[1] >= earliest - 0.05


async def test_a_retry_after_that_is_too_long_is_a_failure() -> None:
    """Who asks for a day is not waited for."""
    receiver = Receiver(answer(503, "Retry-After: 86400"))
    async with served(receiver), WebhookRouter([receiver.endpoint()], allow_private=True) as router:
        with pytest.raises(WebhookDeliveryError, match="86400 s"):
            await router.route(stored(), None)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nab",
        b"SSH-2.0-x\r\n",
        b"\x16\x03\x01" * 50,
    ],
)
async def test_what_is_no_answer_is_a_failure(reply: bytes) -> None:
    """A connection that is closed, or speaks something else, is a network error, and retried."""
    receiver = Receiver(*[reply] * 2)

    async with served(receiver), WebhookRouter([receiver.endpoint()], retries=1, allow_private=True) as router:
        with pytest.raises(WebhookDeliveryError, match="after 2 attempts"):
            await router.route(stored(), None)
    assert len(receiver.requests) == 2


async def test_a_receiver_that_never_answers() -> None:
    """An attempt ends after `timeout`, and so does one whose answer never ends."""
    receiver = Receiver(b"HTTP/1.1 200 OK\r\n")
    reached = anyio.Event()

    async def hang(stream: anyio.abc.ByteStream) -> None:
        reached.set()
        async with stream:
            await anyio.sleep_forever()

    receiver.serve = hang  # type: ignore[method-assign]
    async with served(receiver):
        async with WebhookRouter([receiver.endpoint()], retries=0, timeout=0.2, allow_private=True) as router:
            start = time.monotonic()
            with pytest.raises(WebhookDeliveryError, match=r"did not answer within 0\.2 s"):
                await router.route(stored(), None)
            assert time.monotonic() - start < 5
    assert reached.is_set()


async def test_an_answer_without_end() -> None:
    """A body that never ends costs neither memory nor time: the status counts, and the connection is closed."""
    receiver = Receiver()
    sent = 0

    async def flood(stream: anyio.abc.ByteStream) -> None:
        nonlocal sent
        async with stream:
            await stream.receive()
            try:
                await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
                while True:
                    await stream.send(b"x" * 65_536)
                    sent += 65_536
            except (anyio.BrokenResourceError, BlockingIOError):  # trio's way to say that the socket is gone
                return

    receiver.serve = flood  # type: ignore[method-assign]
    async with served(receiver), WebhookRouter([receiver.endpoint()], retries=0, allow_private=True) as router:
        await router.route(stored(), None)
        assert sent < 50_000_000


async def test_nothing_listens() -> None:
    """A refused connection is a network error."""
    receiver = Receiver()
    async with served(receiver):
        pass
    async with WebhookRouter([receiver.endpoint()], retries=1, allow_private=True) as router:
        with pytest.raises(WebhookDeliveryError, match=r"could not be reached.*after 2 attempts"):
            await router.route(stored(), None)


async def test_a_name_that_does_not_exist() -> None:
    """A name that cannot be resolved is a network error."""
    endpoint = WebhookEndpoint("http://does-not-exist.invalid/", SECRET)
    async with WebhookRouter([endpoint], retries=0) as router:
        with pytest.raises(WebhookDeliveryError, match=r"could not be reached"):
            await router.route(stored(), None)


async def test_the_second_address_is_tried() -> None:
    """Of a name with several addresses, the next one is tried where the first refuses: localhost is often ::1 too."""
    receiver = Receiver()
    async with served(receiver):
        endpoint = WebhookEndpoint(f"http://localhost:{receiver.port}/", SECRET)
        async with WebhookRouter([endpoint], retries=0, allow_private=True) as router:
            await router.route(stored(), None)
    assert len(receiver.requests) == 1


async def test_of_several_addresses_the_next_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one address refuses the connection, the next one of the same name gets it."""

    async def addresses(_host: str, _port: int, **_options: Any) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]  # the receiver listens on the second one only

    monkeypatch.setattr(client_module, "resolve", addresses)
    receiver = Receiver()
    async with served(receiver), WebhookRouter([receiver.endpoint()], retries=0, allow_private=True) as router:
        await router.route(stored(), None)
    assert len(receiver.requests) == 1


async def test_a_notifier_gives_a_delivery_its_time() -> None:
    """The attempts of a delivery may take longer than the notifier lets other routes take."""
    receiver = Receiver(answer(503, "Retry-After: 1"))
    async with served(receiver), WebhookRouter([receiver.endpoint()], allow_private=True) as router:
        async with Notifier(MemoryStore(), router=router, timeout=0.3) as notifier:
            event = await notifier.push("alice", "comment.created", {"post": 7})
            await wait_for(lambda: notifier.statistics().routed == 1)
            assert notifier.statistics().route_failures == 0
    assert [body["id"] for body in receiver.verified()] == [event.id, event.id]


async def test_every_event_reaches_the_endpoint() -> None:
    """Whether its user is connected here, elsewhere or nowhere, and whatever the store: each stored event once."""
    for store in (MemoryStore(), MemoryStreamStore()):
        receiver = Receiver()
        async with served(receiver), WebhookRouter([receiver.endpoint()], allow_private=True) as router:
            async with Notifier(store, router=router, presence=MemoryPresence()) as notifier:
                async with notifier.subscribe("alice") as stream:
                    for user in ("alice", "bob"):
                        await notifier.push(user, "comment.created", user)
                    await notifier.push_many(["alice", "bob", "carol"], "news")
                    await notifier.push("alice", "typing", ephemeral=True)
                    assert (await stream.next(5)).payload == "alice"
                    await wait_for(lambda: notifier.statistics().routed == 5)
        assert sorted(body["user"] for body in receiver.verified()) == ["alice", "alice", "bob", "bob", "carol"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "127.1"])
async def test_private_addresses_are_refused(host: str) -> None:
    """Nothing is sent to one of our own addresses, however it is spelled, and it is not tried again."""
    receiver = Receiver()
    async with served(receiver):
        endpoint = WebhookEndpoint(f"http://{host}:{receiver.port}/", SECRET)
        async with WebhookRouter([endpoint]) as router:
            with pytest.raises(WebhookDeliveryError, match=r"nothing was sent.*not public"):
                await router.route(stored(), None)
    assert receiver.connections == 0


async def test_cancelling_ends_a_delivery_at_once() -> None:
    """Also while it waits for its next attempt."""
    receiver = Receiver(*[answer(503, "Retry-After: 50")] * 3)
    async with served(receiver), WebhookRouter([receiver.endpoint()], allow_private=True) as router:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(router.route, stored(), None)
            await wait_for(lambda: bool(receiver.requests))
            await anyio.wait_all_tasks_blocked()
            start = time.monotonic()
            tasks.cancel_scope.cancel()
        assert time.monotonic() - start < 10  # the next attempt would come after 50 s
    assert len(receiver.requests) == 1


async def test_a_closed_router() -> None:
    """After `aclose` a route raises ClosedError; closing twice is harmless."""
    router = WebhookRouter([])
    await router.route(stored(), None)
    await router.aclose()
    await router.aclose()
    with pytest.raises(ClosedError):
        await router.route(stored(), None)


async def test_certificates_are_checked(tmp_path: Path) -> None:
    """A certificate of an unknown authority is refused, and accepted with a context that knows it."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)  # noqa: ASYNC221
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    receiver = Receiver()
    async with served(receiver, tls=server):
        endpoint = WebhookEndpoint(f"https://localhost:{receiver.port}/", SECRET)
        async with WebhookRouter([endpoint], retries=0, allow_private=True) as router:
            with pytest.raises(WebhookDeliveryError, match=r"could not be reached.*certificate"):
                await router.route(stored(), None)
        context = ssl.create_default_context(cafile=str(certificate))
        async with WebhookRouter([endpoint], retries=0, allow_private=True, ssl_context=context) as router:
            await router.route(stored(), None)
    assert len(receiver.verified()) == 1


# -- the receiver ---------------------------------------------------------------------------------------------------


async def request(
    app: WebhookReceiver, headers: dict[str, str], *parts: bytes, method: str = "POST", ends: bool = True
) -> tuple[int, bytes]:
    """Call the application as a server does, and return its answer."""
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.request", "body": b""} if ends else {"type": "http.disconnect"})

    async def receive() -> Any:
        await anyio.lowlevel.checkpoint()
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await app({"type": "http", "method": method, "headers": raw}, receive, send)
    return sent[0]["status"], sent[1]["body"]


def signed_headers(body: bytes, *, secret: str = SECRET, id: str = "msg_1", age: float = 0) -> dict[str, str]:
    from notify.webhook import sign

    timestamp = int(time.time() - age)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, id, timestamp, body),
    }


async def test_a_receiver_delivers_what_is_signed() -> None:
    """Once, also if it comes again; in parts, too."""
    delivered: list[Any] = []
    app = WebhookReceiver(lambda event: delivered.append(event) or 1, [OTHER, SECRET])  # type: ignore[func-returns-value]
    body = stored().to_json().encode()
    for _ in range(2):
        assert await request(app, signed_headers(body), body[:10], body[10:]) == (204, b"")
    assert await request(app, signed_headers(body, id="msg_2"), body) == (204, b"")
    assert delivered == [stored(), stored()]


async def test_a_receiver_forgets_the_oldest() -> None:
    """What is remembered of repetitions is bounded."""
    delivered: list[Any] = []
    app = WebhookReceiver(lambda event: delivered.append(event) or 1, SECRET)  # type: ignore[func-returns-value]
    body = stored().to_json().encode()
    app._seen = {f"old{number}": time.time() + 5 for number in range(10_000)}
    await request(app, signed_headers(body), body)
    assert (len(app._seen), "old0" in app._seen, "msg_1" in app._seen) == (10_000, False, True)
    app._seen = {"old": time.time() - 5}
    await request(app, signed_headers(body), body)
    assert [*app._seen] == ["msg_1"]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"method": "GET"}, 405, "method_not_allowed"),
        ({"secret": "whsec_d3Jvbmcga2V5IG9mIDI0IGJ5dGVzISE="}, 401, "unauthorized"),
        ({"age": 400}, 401, "unauthorized"),
        ({"age": -400}, 401, "unauthorized"),
        ({"body": b"{}"}, 400, "invalid_event"),
        ({"body": b"\xff"}, 400, "invalid_event"),
        ({"body": b"x" * 2000}, 413, "too_large"),
        ({"ends": False}, 400, "incomplete"),
    ],
)
async def test_a_receiver_refuses(changes: dict[str, Any], status: int, code: str) -> None:
    """Each refusal has its status, and delivers nothing."""
    delivered: list[Any] = []
    app = WebhookReceiver(lambda event: delivered.append(event) or 1, SECRET, max_body=1000)  # type: ignore[func-returns-value]
    body = changes.get("body", stored().to_json().encode())
    signing = {name: changes[name] for name in ("secret", "age") if name in changes}
    options = {name: changes[name] for name in ("method", "ends") if name in changes}
    got, text = await request(app, signed_headers(body, **signing), body, **options)
    assert (got, json.loads(text)["error"]["code"]) == (status, code)
    assert delivered == []


async def test_a_receiver_without_a_tolerance_accepts_any_time() -> None:
    """Old and early messages are delivered, and a repetition still is not."""
    delivered: list[Any] = []
    app = WebhookReceiver(lambda event: delivered.append(event) or 1, SECRET, tolerance=0)  # type: ignore[func-returns-value]
    body = stored().to_json().encode()
    for age in (400, -400, 400):
        assert (await request(app, signed_headers(body, age=age), body))[0] == 204
    assert delivered == [stored()]


async def test_a_receiver_serves_http_only() -> None:
    """Mounted where websockets or the lifespan arrive, it says so."""
    app = WebhookReceiver(lambda _event: 0, SECRET)
    never: Callable[..., Awaitable[Any]] = anyio.sleep_forever
    with pytest.raises(UsageError, match="websocket"):
        await app({"type": "websocket"}, never, never)
    for options in ({"tolerance": -1}, {"max_body": 0}):
        with pytest.raises(UsageError):
            WebhookReceiver(lambda _event: 0, SECRET, **options)  # type: ignore[arg-type]


async def test_signatures_in_two_headers_count_both() -> None:
    """A proxy may have split the header."""
    delivered: list[Any] = []
    app = WebhookReceiver(lambda event: delivered.append(event) or 1, SECRET)  # type: ignore[func-returns-value]
    body = stored().to_json().encode()
    headers = signed_headers(body)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw.insert(0, (b"webhook-signature", b"v1,abc"))
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "headers": raw}, receive, send)
    assert sent[0]["status"] == 204
    assert delivered == [stored()]
