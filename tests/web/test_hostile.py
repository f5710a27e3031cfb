"""Hostile input on every endpoint: nothing of a request or a payload can forge a frame, a header or markup."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import h11
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify import Event, Notifier
from notify.web import Identity, NotifyApp, Request
from notify.web._frames import FrameCache, sse_frame
from notify_memory import MemoryStore
from tests.web.clients import RawClient
from tests.web.serving import serving, websocket

pytestmark = pytest.mark.anyio

SECRET = "a secret"
BEARER = ("authorization", f"Bearer {SECRET}".encode())

FORGED = (
    "x\r\nset-cookie: forged=1\r\n\r\nHTTP/1.1 200 OK\r\n\r\ndata: forged\n\nid: 9-9\nevent: notify.end\ndata: {}\n\n"
)
"""Ends a header, a response or a frame, wherever it is copied unchanged."""

TEXTS = [
    FORGED,
    "\x00",
    "\r",
    "\n",
    "\u2028",
    "\ufeff",
    "<script>alert(1)</script>",
    "%0d%0aset-cookie: forged=1",
    "../../../etc/passwd",
    "A" * 4000,
    "9" * 400,
    "99999999999999999999-99999999999999999999",
    "-1",
    "1-",
    "NaN",
    "1e999",
    "é" * 300,
    "😀",
    "t." + "A" * 3000,
    "{}",
    "[" * 3000,
    "'; DROP TABLE events; --",
]
RAW = [b"%", b"%zz", b"%ff%fe", b"%00", b"%c0%80", b"%ed%a0%80", b"&&&===&", b"%0d%0a%0d%0a"]
"""Query strings that are not text."""

FIELDS = {
    "stream": ("last_id", "lastEventId", "last_event_id", "events", "address", "ticket", "since"),
    "events": ("after", "limit", "wait", "address", "ticket"),
}

SAFE_HEADERS = {
    "access-control-allow-credentials", "access-control-allow-headers", "access-control-allow-methods",
    "access-control-allow-origin", "access-control-expose-headers", "access-control-max-age", "allow", "cache-control",
    "connection", "content-length", "content-type", "date", "etag", "retry-after", "server", "transfer-encoding",
    "vary", "www-authenticate", "x-accel-buffering", "x-content-type-options",
}  # fmt: skip


def authenticate(request: Request) -> Identity | None:
    user = request.query.get("user", request.headers.get("x-user", "alice"))
    return Identity(user, ("news",)) if user else None


@asynccontextmanager
async def site(**options: Any) -> AsyncIterator[tuple[str, Notifier[Any]]]:
    notifier = Notifier(MemoryStore())
    options = {"lifetime": 0.02, "long_poll": 0.02, "retry": (0.1, 0.1), "publish_secrets": [SECRET]} | options
    app = NotifyApp(notifier, authenticate, origins=["https://app.example"], **options)
    async with notifier, serving(app) as place:
        yield place, notifier


def is_type(text: str) -> bool:
    """Whether an event may have this type."""
    return re.fullmatch(r"[A-Za-z0-9_.:-]{1,128}", text) is not None


async def exchange(place: str, request: bytes) -> tuple[h11.Response, bytes]:
    """Send bytes, and read one response by the rules; whatever follows it is an error."""
    host, _, port = place.partition(":")
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x"), ("connection", "close")]))
    connection.send(h11.EndOfMessage())
    response, body = None, b""
    with anyio.fail_after(20):
        async with await anyio.connect_tcp(host, int(port)) as stream:
            await stream.send(request)
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    try:
                        connection.receive_data(await stream.receive())
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        connection.receive_data(b"")
                elif isinstance(event, h11.Response):
                    response = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                    break
    assert response is not None, request[:200]
    return response, body


def check(response: h11.Response, body: bytes, what: object) -> None:
    """One well-formed answer: no 5xx, no header that we do not send, one shape of errors, whole frames."""
    headers = {name.decode(): value.decode("latin-1") for name, value in response.headers}
    assert response.status_code < 500, (what, body)
    assert headers.keys() <= SAFE_HEADERS, what
    assert not [value for value in headers.values() if "forged" in value], what
    kind = headers.get("content-type", "")
    if kind == "application/json":
        found = json.loads(body)
        if response.status_code >= 400:
            assert found.keys() == {"error"}, what
            assert re.fullmatch("[a-z_]+", found["error"]["code"]), what
            assert isinstance(found["error"]["message"], str)
            assert len(found["error"]["message"]) < 1000, what
        assert headers.get("x-content-type-options") == "nosniff"
    elif kind.startswith("text/event-stream"):
        check_frames(body, what)
    else:  # what the server itself refuses
        assert response.status_code in {204, 400, 404, 413, 414, 431}, (what, kind)
        assert "html" not in kind


def check_frames(body: bytes, what: object = "") -> list[dict[str, str]]:
    """Every line is a field that we write, and the data of each frame is one JSON value."""
    frames = []
    for block in body.decode().split("\n\n")[:-1]:
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            if line == ":":
                continue
            name, colon, value = line.partition(": ")
            assert colon, (what, line)
            assert name in {"retry", "id", "event", "data"}, (what, line)
            assert name not in fields, (what, block)
            assert "\r" not in value, what
            assert "\0" not in value, what
            fields[name] = value
        if "data" in fields:
            json.loads(fields["data"])
        assert fields.get("id") != "9-9", what
        frames.append(fields)
    return frames


def get(path: str, query: bytes = b"", headers: Iterable[tuple[str, bytes]] = (), method: str = "GET") -> bytes:
    target = path.encode() + (b"?" + query if query else b"")
    lines = [b"%b %b HTTP/1.1" % (method.encode(), target), b"host: x", b"connection: close"]
    return b"\r\n".join([*lines, *(name.encode() + b": " + value for name, value in headers), b"", b""])


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_every_field_of_every_query(anyio_backend: str) -> None:
    """Positions, limits, addresses, tickets, users: whatever stands there is answered in order."""
    texts = TEXTS if anyio_backend == "asyncio" else TEXTS[::4]
    async with site() as (place, _):
        for path, fields in FIELDS.items():
            for field in (*fields, "user"):
                for text in texts:
                    query = str(httpx.QueryParams({field: text})).encode()
                    check(*await exchange(place, get(f"/{path}", query)), (path, field, text[:60]))
            for raw in RAW:
                check(*await exchange(place, get(f"/{path}", raw)), (path, raw))
                check(*await exchange(place, get(f"/{path}", b"last_id=" + raw)), (path, raw))


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_headers(anyio_backend: str) -> None:
    """Bytes of any kind in the headers that we read; what the server lets through is answered in order."""
    names = ("last-event-id", "origin", "sec-fetch-site", "authorization", "cookie", "x-user", "content-type", "host")
    values = [text.replace("\r", "").replace("\n", "").replace("\0", "").encode()[:3000] for text in TEXTS]
    values = values if anyio_backend == "asyncio" else values[::4]
    async with site() as (place, _):
        for path, method in (("/stream", "GET"), ("/events", "GET"), ("/ticket", "POST"), ("/push", "POST")):
            for name in names:
                for value in (*values, b"\xff\xfe", b"\xc3", b'"', b"=", b"; =; a", b"Bearer \xff"):
                    request = get(path, headers=[(name, value), ("content-length", b"0")], method=method)
                    check(*await exchange(place, request), (path, name, value[:60]))


async def test_preflights() -> None:
    """The headers that a page asks for are repeated only if they are names of headers."""
    async with site() as (place, _):
        for text in TEXTS:
            value = text.replace("\r", "").replace("\n", "").replace("\0", "").encode()[:3000]
            for name in ("access-control-request-headers", "access-control-request-method"):
                headers = [("origin", b"https://app.example"), ("access-control-request-method", b"GET"), (name, value)]
                check(*await exchange(place, get("/stream", headers=headers, method="OPTIONS")), value[:60])


async def test_paths_and_methods() -> None:
    """Paths that lead nowhere are 404, methods that are not supported are 405."""
    paths = ["/", "//", "/nothing", "/stream/../push", "/stream%00", "/stream%0d%0ax:%20y", "/%ff"]
    paths += ["/client.js/../../_app.py", "/..%2f..%2fpyproject.toml", "/" + "a" * 3000, "/stream;x", "/STREAM", "/ws"]
    async with site() as (place, _):
        for path in paths:
            response, body = await exchange(place, get(path))
            check(response, body, path)
            assert response.status_code in {400, 404, 405}, path
        for path in ("/stream", "/events", "/ticket", "/push", "/health", "/openapi.json"):
            for method in ("PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "FORGED"):
                headers = [("content-length", b"0"), ("x-notify", b"1")]
                response, body = await exchange(place, get(path, headers=headers, method=method))
                check(response, body, (path, method))
                assert response.status_code in {400, 405}, (path, method)


async def test_bodies() -> None:
    """Deep, huge, binary and mistyped bodies of POST are 4xx, and push nothing."""
    bodies = [text.encode() for text in TEXTS] + [b"[" * 60_000, b'{"a":' * 10_000, b"\xff" * 100, b" " * 100_000]
    bodies += [json.dumps({"user": text, "type": "note"}).encode() for text in ("\x00", "a\nb", "\ud800", FORGED)]
    bodies += [json.dumps({"user": "bob", "type": text}).encode() for text in TEXTS if not is_type(text)]
    bodies += [json.dumps({"user": "bob", "type": "note", text: 1}).encode() for text in TEXTS]
    async with site() as (place, notifier):
        for body in bodies:
            headers = [("content-type", b"application/json"), ("content-length", str(len(body)).encode())]
            for path in ("/push", "/ticket"):
                request = get(path, headers=[*headers, BEARER], method="POST")
                response, answer = await exchange(place, request + body)
                check(response, answer, (path, body[:60]))
                assert path == "/ticket" or 400 <= response.status_code < 500, body[:60]
        assert notifier.statistics().pushes["stored"] == 0


PAYLOADS: list[Any] = [*TEXTS, {text: text for text in TEXTS}, ["😀"], {"</script>": "<!--"}, None, 1e308]


@pytest.mark.parametrize("query", ["", "events=typed"])
async def test_payloads_cannot_forge_a_frame(query: str) -> None:
    """Each event is one frame, with the payload that was pushed, replayed and live, however it is written."""
    async with site(lifetime=60.0) as (place, notifier):
        for payload in PAYLOADS:
            await notifier.push("alice", "note:x.y-z", payload, group="\u2028<g>", key=None, meta={"m": FORGED})
        await notifier.push("alice", "raw", data=b'{\n  "a":\r\n\t[1,\n\n2]}\n')
        port = int(place.rpartition(":")[2])
        async with RawClient(port, f"/stream?last_id=0&{query}") as client:
            await client.read_until(b"event: notify.sync")
            await notifier.push("alice", "live", FORGED)
            await notifier.push("alice", "live", FORGED, ephemeral=True)
            await notifier.broadcast("live", FORGED)
            await notifier.push("alice", "last")
            await client.read_until(b'"last"')
            await client.read_until(b"}\n\n")
            frames = [frame for frame in check_frames(client.body) if not frame.get("event", "").startswith("notify.")]
        frames = [frame for frame in frames if "data" in frame]
        found = [json.loads(frame["data"]) for frame in frames]
        assert [each["payload"] for each in found] == [*PAYLOADS, {"a": [1, 2]}, FORGED, FORGED, FORGED, None]
        assert found[0]["meta"] == {"m": FORGED}
        expected = [each["type"] for each in found] if query else [None] * len(found)
        assert [frame.get("event") for frame in frames] == expected


async def test_payloads_in_polls_and_on_websockets() -> None:
    """The same over the other transports."""
    async with site(lifetime=60.0) as (place, notifier):
        for payload in PAYLOADS:
            await notifier.push("alice", "note", payload)
        await notifier.push("alice", "raw", data=b'{\n  "a":\r\n\t[1,\n\n2]}\n')
        expected = [*PAYLOADS, {"a": [1, 2]}]
        async with httpx.AsyncClient(base_url=f"http://{place}") as client:
            page = (await client.get("/events?after=0&limit=100")).json()
            assert [each["payload"] for each in page["events"]] == expected
        async with websocket(place, "last_id=0") as socket:
            frames = []
            while (frame := await socket.receive()).get("event") != "notify.sync":
                frames.append(frame)
            assert [frame["data"]["payload"] for frame in frames] == expected


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8")),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
        ),
        max_leaves=5,
    )
)
def test_any_payload_is_one_frame(payload: Any) -> None:
    """Whatever JSON an event holds, its frame is one block of known fields, and holds exactly that."""
    event = Event("alice", "note", payload).stored("5-1", "0")
    (frame,) = check_frames(FrameCache().sse(event, "5-1"))
    assert frame.keys() == {"id", "data"}
    assert json.loads(frame["data"])["payload"] == payload
    assert sse_frame(b"{}").count(b"\n\n") == 1
