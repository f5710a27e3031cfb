"""Random requests to a `DispatchApp`: none is answered with 500 or more, and every answer has the promised form."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import pytest

from notify.dispatch.app import ROUTES
from notify.testing.dispatch import VirtualClock
from tests.dispatch.app import SUBSCRIPTION, serving
from tests.dispatch.stores import NAMES, opened
from tests.dispatch.world import START
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

REQUESTS = 200

TEXTS = (
    *("", "a", "note", "offer", "alice", "root", "fcm", "email", "web_push", "in_app", "*", "token", "x" * 300),
    *("x" * 5000, "a\x00b", "half \ud800", "\U0001f600", "\u202eabc", "a\r\nBcc: b", "../x", "%00", "1" * 40, "\x85"),
)
MEMBERS = (
    *("channel", "address", "kind", "platform", "tz", "vapid", "endpoint", "keys", "type", "user", "users", "data"),
    *("endpoints", "audience", "idempotency_key", "channels", "categories", "types", "opt_in", "quiet_hours", "all"),
    *("extra", "start", "end", "days", "meta", "p256dh", "auth"),
)
TEMPLATES = sorted(ROUTES)
METHODS = ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW")
KINDS = (
    "application/json",
    "application/merge-patch+json",
    "text/plain",
    "application/x-www-form-urlencoded",
    "\xff",
    "",
)


def value(random: Random, depth: int = 0) -> Any:
    """Return some JSON."""
    kind = random.randrange(8 if depth < 3 else 5)
    if kind == 0:
        return random.choice([None, True, False, 0, -1, 1e308, 10**30, 0.5])
    if kind < 5:
        return random.choice(TEXTS)
    if kind == 5:
        return [value(random, depth + 1) for _ in range(random.randrange(4))]
    return {random.choice((*MEMBERS, *TEXTS)): value(random, depth + 1) for _ in range(random.randrange(5))}


def body(random: Random) -> bytes:
    """Return a body, most often a JSON object with names that mean something."""
    kind = random.randrange(10)
    if kind == 0:
        return random.choice([b"", b"{", b"[]", b"\xff\xfe", b"null", b"1e999", b"[" * 3000, b"{}" + b" " * 70_000])
    if kind == 1:
        return json.dumps(SUBSCRIPTION | {random.choice(MEMBERS): value(random)}).encode()
    if kind == 2:
        to: Any = random.choice([{"user": value(random)}, {"users": [value(random)]}, {"endpoint": value(random)}])
        return json.dumps({"type": "note", "data": {"title": value(random)}, "idempotency_key": "k"} | to).encode()
    if kind == 3:
        return json.dumps({"channel": "fcm", "address": random.choice(TEXTS), "kind": random.choice(TEXTS)}).encode()
    return json.dumps({random.choice(MEMBERS): value(random) for _ in range(random.randrange(5))}).encode()


def place(random: Random) -> tuple[str, str]:
    """Return a method and the path of an endpoint, or something like them."""
    template = random.choice(TEMPLATES)
    method, parts = random.choice([*METHODS, *3 * [*ROUTES[template]]]), template.split("/")
    found = [quote(random.choice(TEXTS), safe="", errors="replace") if "{" in part else part for part in parts]
    if random.randrange(3) == 0:
        found[-1] += random.choice(["?limit=x", "?before=%00", "?ticket=%00&user=%00", "?limit=5&before=zz", "/", "//"])
    return method, "/".join(found)


@pytest.mark.parametrize("name", NAMES)
async def test_garbage(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """No request, however strange, is a fault of the server, on any store."""
    server: Server | None = request.getfixturevalue("postgres") if name == "postgres" else None
    random, clock = Random(5), VirtualClock(START)
    dsn, schema = ("", "") if server is None else (server.dsn, fresh_schema())
    async with opened(name, clock, tmp_path, dsn, schema) as store, serving(store=store) as site:
        async with site.client() as client:
            for _ in range(REQUESTS):
                method, where = place(random)
                headers = {"content-type": random.choice(KINDS).encode("latin-1")}
                if random.randrange(6):
                    headers["x-user"] = random.choice(("alice", "bob", "root", "root")).encode()
                if not random.randrange(5):
                    headers["origin"] = random.choice(
                        [b"https://evil.example", b"null", b"http://example.com", b"\xff"]
                    )
                answer = await client.request(method, f"/{where}", content=body(random), headers=headers)
                assert answer.status_code < 500, (method, where, answer.text)
                if answer.status_code >= 400 and method != "HEAD":
                    assert {*answer.json()["error"]} == {"code", "message"}
        await site.settle()
