"""Malformed requests, sent to each server: no error leaves the applications, and nothing stays open.

How a server itself answers them is its own affair. All cases are sent to one process of each server, each case over a
connection of its own; a WebSocket's frames follow the server's answer to the handshake.
"""

from __future__ import annotations

import json
import re
import struct
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from tests.parts import until
from tests.web.apps.malformed import SECRET
from tests.web.clients import get
from tests.web.servers import WebServer

pytestmark = pytest.mark.anyio

PATIENCE = 20.0
"""Seconds within which a server answers, ends the response, or closes the connection; the client leaves then."""

JSON = b"content-type: application/json\r\n"
BEARER = b"authorization: Bearer %b\r\n" % SECRET.encode()
CHUNKED = b"transfer-encoding: chunked\r\n"


class Case(NamedTuple):
    """What one connection sends.

    Attributes:
        first: sent at once.
        then: sent after the head of the response has arrived.
    """

    first: bytes
    then: bytes = b""


def request(method: bytes, target: bytes, headers: bytes = b"", body: bytes = b"") -> bytes:
    return b"%b %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n%b\r\n%b" % (method, target, headers, body)


def post(target: bytes, body: bytes, length: bytes | None = None, headers: bytes = b"") -> bytes:
    said = str(len(body)).encode() if length is None else length
    return request(b"POST", target, JSON + BEARER + b"content-length: %b\r\n" % said + headers, body)


def frame(opcode: int, data: bytes = b"", *, final: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """One frame of a client; its mask is all zeros."""
    first, mask = (0x80 if final else 0) | reserved << 4 | opcode, 0x80 if masked else 0
    if len(data) < 126:
        head = bytes([first, mask | len(data)])
    else:
        head = bytes([first, mask | 127]) + struct.pack(">Q", len(data))
    return head + (bytes(4) if masked else b"") + data


UPGRADE = (
    b"GET /ws%b HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: notify.v1\r\n\r\n"
)
PUSH = b'{"user":"alice","type":"t","payload":%b}'
FAULTS = [b"%", b"%zz", b"%f", b"%ff%fe", b"%c0%80", b"%ed%a0%80", b"%00", b"%0d%0a", b"%2f..%2f", b"\xff\xfe", b"\xc3"]
PLACES = [
    (b"GET", b"/%b/stream"), (b"DELETE", b"/inbox/%b"), (b"DELETE", b"/inbox/group/%b"), (b"DELETE", b"/follow/%b"),
    (b"GET", b"/logs/%b"), (b"GET", b"/events?after=%b"), (b"GET", b"/events?address=%b"),
    (b"GET", b"/inbox?before=%b"), (b"GET", b"/logs/alice?offset=%b"), (b"GET", b"/stream?user=%b"),
    (b"GET", b"/stream?ticket=%b"),
]  # fmt: skip
TWICE = ["last-event-id", "origin", "sec-fetch-site", "cookie", "x-user", "authorization", "content-type", "host"]
READS = [
    b"/stream",
    b"/events",
    b"/logs/alice",
    b"/logs/alice?offset=now&live=sse",
    b"/health",
    b"/client.js",
    b"/inbox",
]
TEXTS = ["\ud800", "\udfff\ud800", "\0", "x" * 300, ""]
NUMBERS = [b"1e999", b"-1e999", b"9" * 4300, b"9" * 5000, b"NaN", b"1e-999", b"-0"]


def paths() -> dict[str, Case]:
    """Paths and queries that are too long, or cannot be decoded."""
    found = {f"{place!r} {fault!r}": request(method, place % fault) for method, place in PLACES for fault in FAULTS}
    for size in (3000, 70_000):
        for method, place in PLACES:
            found[f"{place!r} {size}"] = request(method, place % (b"9" * size))
    return {name: Case(sent) for name, sent in found.items()}


def headers() -> dict[str, Case]:
    """Headers that occur twice, are too many, or contain bytes that are not text."""
    found = {}
    for name in TWICE:
        twice = f"{name}: https://app.example\r\n{name}: 2-0\r\n".encode()
        for method, target in (
            (b"GET", b"/stream"),
            (b"POST", b"/push"),
            (b"POST", b"/ticket"),
            (b"OPTIONS", b"/inbox/1"),
        ):
            found[f"{name} twice, {target!r}"] = request(method, target, twice)
    for name in ("last-event-id", "x-user", "cookie", "origin", "if-none-match", "accept-encoding"):
        found[f"{name} in bytes"] = request(b"GET", b"/stream", name.encode() + b": \xff=\xfe\r\n")
    found["many"] = request(b"GET", b"/stream", b"".join(b"h%d: x\r\n" % number for number in range(2000)))
    return {name: Case(sent) for name, sent in found.items()}


def bodies() -> dict[str, Case]:
    """Bodies with a wrong length, in another encoding, cut off, or with malformed chunks."""
    whole = PUSH % b"1"
    found = {}
    for target in (b"/push", b"/ticket", b"/inbox/mark", b"/follow"):
        for length in (b"-1", b"ten", b"10000000", b"9" * 30, b"5", b"5, 6"):
            found[f"{target!r} length {length!r}"] = post(target, whole, length)
        for encoding in ("utf-16", "utf-32", "utf-8-sig", "cp037"):
            found[f"{target!r} {encoding}"] = post(target, whole.decode().encode(encoding))
        found[f"{target!r} gzip"] = post(target, b"\x1f\x8b\x08", headers=b"content-encoding: gzip\r\n")
        both = b"content-length: 5\r\n"
        found[f"{target!r} chunks and length"] = request(b"POST", target, JSON + BEARER + CHUNKED + both, b"0\r\n\r\n")
        for chunk in (b"zz\r\n", b"-1\r\n", b"f" * 18 + b"\r\n", b"5\r\nab"):
            found[f"{target!r} chunk {chunk!r}"] = request(b"POST", target, JSON + BEARER + CHUNKED, chunk)
    cases = {name: Case(sent) for name, sent in found.items()}
    for target in READS:
        head = request(b"GET", target, CHUNKED)
        cases[f"{target!r} late chunk"] = Case(head, b"zz\r\n")
        cases[f"{target!r} bytes after it"] = Case(request(b"GET", target), b"\0\xff" * 50 + b"\r\n\r\n")
    return cases


def chunks() -> dict[str, Case]:
    """Malformed chunks in requests that need no body."""
    cases = {}
    for target in (*READS, b"/nothing", b"/openapi.json"):
        for method in (b"GET", b"HEAD"):
            for chunk in (b"zz\r\n", b"-1\r\n"):
                cases[f"{method!r} {target!r} {chunk!r}"] = Case(request(method, target, CHUNKED, chunk))
    return cases


def values() -> dict[str, Case]:
    """JSON that is deeply nested or huge, or contains strings that are not text."""
    found = {}
    for depth in (100, 300, 480, 900, 990, 1100, 5000, 30_000):
        found[f"lists {depth}"] = post(b"/push", PUSH % (b"[" * depth + b"]" * depth))
        found[f"objects {depth}"] = post(
            b"/push", PUSH % (b'{"a":' * min(depth, 9000) + b"1" + b"}" * min(depth, 9000))
        )
    for number in NUMBERS:
        found[f"payload {number[:9]!r}"] = post(b"/push", PUSH % number)
        found[f"ttl {number[:9]!r}"] = post(b"/push", b'{"user":"a","type":"t","list":true,"ttl":%b}' % number)
    for number, text in enumerate(TEXTS):
        for name in ("user", "type", "group", "key", "topic", "payload"):
            order = ({} if name == "topic" else {"user": "alice"}) | {"type": "t", name: text}
            found[f"{name} {number}"] = post(b"/push", json.dumps(order).encode())
        for name, value in {"ids": [text, f"1-0@{text}"], "up_to": text, "group": text}.items():
            mark = {"state": "read", name: value}
            found[f"mark {name} {number}"] = post(b"/inbox/mark", json.dumps(mark).encode())
        found[f"follow {number}"] = post(b"/follow", json.dumps({"topic": text}).encode())
    return {name: Case(sent) for name, sent in found.items()}


def websockets() -> dict[str, Case]:
    """Fragmented, binary and invalid frames, and bad close codes; commands with strings that are not text."""
    ping = b'{"ref":1,"do":"ping"}'
    frames = {
        "pieces": frame(1, ping[:5], final=False) + frame(9, b"x") + frame(0, ping[5:]),
        "empty pieces": frame(1, b"", final=False) + frame(0, b"", final=False) * 500 + frame(0, ping),
        "pieces without end": frame(1, b"x", final=False) + frame(0, b"x" * 100, final=False) * 300,
        "bytes": frame(2, b"\0\xff"),
        "no text": frame(1, b"\xff\xfe"),
        "no text, in pieces": frame(1, b"\xe2\x82", final=False) + frame(0, b"("),
        "surrogate": frame(1, b"\xed\xa0\x80"),
        "a piece first": frame(0, ping),
        "unmasked": frame(1, ping, masked=False),
        "reserved": frame(1, ping, reserved=7),
        "opcode": frame(3, ping),
        "long ping": frame(9, b"x" * 126),
        "large": frame(1, b"x" * (1 << 20)),
        "flood": frame(1, ping) * 500,
        "deep": frame(1, b"[" * 8000),
        "number": frame(1, b'{"ref":1e400,"do":"ping"}'),
        "cut": frame(1, ping)[:6],
        "request": request(b"GET", b"/stream"),
        "close, one byte": frame(8, b"\x03"),
        "close, no text": frame(8, struct.pack(">H", 1000) + b"\xff"),
    }
    frames |= {
        f"close {code}": frame(8, struct.pack(">H", code)) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000)
    }
    for number, text in enumerate(TEXTS):
        for do, name in (
            ("subscribe", "position"),
            ("mark", "up_to"),
            ("mark", "group"),
            ("follow", "topic"),
            (text, "x"),
        ):
            command = {"ref": text[:60], "do": do, "state": "read", name: text}
            if do != "mark":
                del command["state"]
            frames[f"{number} {do!r} {name}"] = frame(1, json.dumps(command).encode())
    cases = {}
    for query in (b"", b"?address=other", b"?ticket=x"):
        cases |= {f"{query!r} {name}": Case(UPGRADE % query, sent) for name, sent in frames.items()}
    return cases


GROUPS = {each.__name__: each for each in (paths, headers, bodies, chunks, values, websockets)}

OWN = {
    ("granian", "chunks"): "it answers 500 if the application got a disconnect and sends no response",
}
"""Cases in which a server itself answers 500."""


HANGING = {"daphne": "late chunk", "hypercorn-w0": "flood"}
"""Where a server itself leaves a connection open, although the client has sent its last byte."""


async def answers(port: int, case: Case) -> tuple[bytes, bool]:
    """Return what the server sends until it closes the connection, and whether it does so within `PATIENCE`."""
    answer = b""
    with anyio.move_on_after(PATIENCE) as patience:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            try:
                await stream.send(case.first)
                while case.then and b"\r\n\r\n" not in answer:
                    answer += await stream.receive()
                if case.then:
                    await stream.send(case.then)
                await stream.send_eof()
                while True:
                    answer += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
    return answer, not patience.cancelled_caught


async def _is_quiet(port: int) -> bool:
    return bool((await get(port, "/inside"))["open"] == 0)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("kind", ["uvicorn", "uvicorn-h11", "hypercorn-w0", "granian", "daphne", "gunicorn"])
async def test_malformed_requests(kind: str, tmp_path: Path, anyio_backend: str) -> None:
    """Every status is below 500, no error leaves the applications, and no connection stays open."""
    statuses: dict[str, int] = {}
    hanging = []
    with WebServer(kind, "tests.web.apps.malformed:app", tmp_path) as server:
        await get(server.port, "/inside")

        async def send(name: str, case: Case) -> None:
            async with limit:
                answer, has_ended = await answers(server.port, case)
                found = re.match(rb"HTTP/1\.[01] ([0-9]{3})", answer)
                statuses[name] = int(found[1]) if found else 0
                if not has_ended:
                    hanging.append(name)

        limit = anyio.Semaphore(20)
        for group, made in GROUPS.items():
            async with anyio.create_task_group() as tasks:
                for name, case in made().items():
                    tasks.start_soon(send, f"{group}: {name}", case)
        await until(partial(_is_quiet, server.port), 15.0)
        inside: dict[str, Any] = await get(server.port, "/inside")
        assert inside["faults"] == []
        assert [name for name in hanging if not name.endswith(HANGING.get(kind, "nothing"))] == []
        bad = {name: status for name, status in statuses.items() if status >= 500}
        assert [name for name in bad if (kind, name.partition(":")[0]) not in OWN] == []
        assert len({status // 100 for status in statuses.values()} & {1, 2, 4}) == 3
        assert not re.search(r"notify/(web|_asgi)/\w+\.py", server.log), server.log
