"""HEAD, as monitoring, link checkers and some proxies send it: what GET would begin with, and nothing is opened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from notify import Notifier
from notify.inbox import Inbox
from notify.web import Identity, NotifyApp, Request, bearer_token
from notify.web._app import ROUTES
from notify.web._endpoint import EventStream
from notify.web.durable import DurableStreams
from notify_memory import MemoryStreamStore

pytestmark = pytest.mark.anyio

ALICE = {"authorization": "Bearer alice"}
PAGES = sorted({name for name, methods in ROUTES.items() if "GET" in methods} - {"stream", "events"})


def by_token(request: Request) -> Identity | None:
    token = bearer_token(request)
    return None if token is None else Identity(token, addresses=["room:7"])


@asynccontextmanager
async def site(**options: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Notifier[Any]]]:
    """An application without a server, which would drop the bodies itself."""
    async with Notifier(MemoryStreamStore()) as notifier:
        transport = httpx.ASGITransport(NotifyApp(notifier, by_token, inbox=Inbox(notifier), **options))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client, notifier


@pytest.mark.parametrize("name", PAGES)
async def test_a_page(name: str) -> None:
    """The status and the headers of GET, the length included, without the body."""
    async with site() as (client, _):
        whole, head = [await client.request(method, f"/{name}", headers=ALICE) for method in ("GET", "HEAD")]
        assert (head.status_code, head.headers, head.content) == (200, whole.headers, b"")
        assert int(head.headers["content-length"]) == len(whole.content) or "content-encoding" in whole.headers


async def test_a_stream() -> None:
    """The head of a stream, at once; the response of `event_stream` has the same."""
    async with site(max_streams_per_user=1) as (client, notifier):
        head = await client.head("/stream?address=room:7", headers=ALICE)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == "text/event-stream"
        assert "content-length" not in head.headers  # nor has GET
        scope = {"type": "http", "method": "HEAD", "path": "/", "query_string": b"", "headers": [(b"host", b"test")]}
        transport = httpx.ASGITransport(EventStream(notifier, "alice", scope))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as other:
            assert (await other.head("/")).headers == head.headers
        assert notifier.statistics().open_streams == 0


async def test_a_poll() -> None:
    """The head of a page but for its length, at once: nothing is read, counted or waited for."""
    async with site(max_streams=1) as (client, notifier):
        whole = await client.get("/events", headers=ALICE)
        with anyio.fail_after(10):
            head = await client.head("/events?wait=20&after=0", headers=ALICE)
        assert (head.status_code, head.content) == (200, b"")
        assert dict(head.headers) == {name: value for name, value in whole.headers.items() if name != "content-length"}
        assert (await client.head("/events?limit=0", headers=ALICE)).status_code == 400
        assert notifier.statistics().open_streams == 0


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/stream", {}, 401),
        ("/stream?address=room:8", ALICE, 403),
        ("/stream", ALICE | {"sec-fetch-site": "cross-site"}, 403),
        ("/events", {}, 401),
        ("/events?address=room:8", ALICE, 403),
        ("/ticket", ALICE, 405),
        ("/nothing", ALICE, 404),
    ],
)
async def test_a_refusal(path: str, headers: dict[str, str], status: int) -> None:
    """As GET is refused, without the text."""
    async with site() as (client, _):
        head = await client.head(path, headers=headers)
        assert (head.status_code, head.content) == (status, b"")
        whole = await client.get(path, headers=headers)
        assert (whole.status_code, whole.headers) == (status, head.headers)


async def test_a_ticket_is_not_used_up() -> None:
    """What looks at the link of a stream must not keep its client out."""
    async with site() as (client, notifier):
        ticket = (await client.post("/ticket", headers=ALICE)).json()["ticket"]
        for path in ("/stream", "/events"):
            assert (await client.head(f"{path}?ticket={ticket}")).status_code == 401
            assert (await client.head(f"{path}?ticket={ticket}", headers=ALICE)).status_code == 200
        durable = httpx.ASGITransport(DurableStreams(notifier, by_token))
        async with httpx.AsyncClient(transport=durable, base_url="http://test") as other:
            assert (await other.head(f"/?ticket={ticket}")).status_code == 401
            assert (await other.head(f"/?ticket={ticket}", headers=ALICE)).status_code == 200
        redeemed = await client.get(f"/events?ticket={ticket}")
        assert redeemed.status_code == 200
