"""The client against the real application on a real server: restarts, crashes, reloads, proxies, hostile content."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from playwright.sync_api import BrowserContext, Page

from notify import Notifier
from tests.web.browser.conftest import until
from tests.web.browser.scripted import Receive, Send, serving
from tests.web.servers import WebServer

APP = "tests.web.browser.app:app"
OPTIONS = '{"heartbeat": 0.5, "retry": [0.05, 0.1], "drain": 0.2}'
URL = "/notify?user=alice"


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


@pytest.fixture
def server(tmp_path: Path, store: str) -> Iterator[WebServer]:
    with WebServer("uvicorn", APP, tmp_path, env={"TEST_STORE": store, "TEST_OPTIONS": OPTIONS}) as server:
        yield server


def in_another_instance(store: str, work: Callable[[Notifier[Any]], Awaitable[Any]]) -> None:
    """Use a notifier over the same store that is not that of the server."""

    async def run() -> None:
        async with Notifier.from_url(store) as notifier:
            await work(notifier)

    with ThreadPoolExecutor(1) as threads:  # the main thread has the event loop of the driver
        threads.submit(anyio.run, run).result(90)


@contextmanager
def logging_out(store: str) -> Iterator[None]:
    """Sign the user out in another instance, which is there for as long as the block: it sends in the background."""
    over = threading.Event()

    async def log_out(notifier: Notifier[Any]) -> None:
        await notifier.disconnect("alice")
        await anyio.to_thread.run_sync(over.wait)

    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(in_another_instance, store, log_out)
        try:
            yield
        finally:
            over.set()
        result.result(60)


def push(store: str, *payloads: Any, type: str = "note") -> None:
    async def work(notifier: Notifier[Any]) -> None:
        for payload in payloads:
            await notifier.push("alice", type, payload)

    in_another_instance(store, work)


def opened(context: BrowserContext, site: str, **options: Any) -> Page:
    page = context.new_page()
    load(page, site, **options)
    return page


def load(page: Page, site: str, **options: Any) -> None:
    page.goto(f"{site}/page")
    until(page, "window.ready")
    page.evaluate(
        """({storage, ...options}) => {
          start({...options, storage: storage && window[storage]}); }""",
        {"url": URL, **options},
    )


def connected(page: Page) -> None:
    until(page, "got.client.status === 'connected'", 30)


def streams(server: WebServer) -> int:
    """How many streams the server has."""
    return int(httpx.get(f"{server.url}/inside", timeout=30).json()["streams"])


def has(page: Page, payloads: list[Any]) -> None:
    until(page, f"got.payloads.length >= {len(payloads)}", 30)
    assert page.evaluate("got.payloads") == payloads
    assert page.evaluate("got.gaps") == []


@pytest.mark.parametrize("transport", ["fetch", "eventsource", "poll", "websocket"])
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_nothing_is_missed_over_a_restart(
    context: BrowserContext, server: WebServer, store: str, transport: str, end: signal.Signals
) -> None:
    """Events before, while the server is away, and after: each of them once, in order."""
    page = opened(context, server.url, transports=[transport], share=False)
    connected(page)
    push(store, *range(10))
    if end is signal.SIGTERM:
        server.stop(end)
    else:
        server.kill()
    until(page, "got.client.status === 'reconnecting'")
    push(store, *range(10, 20))
    page.wait_for_timeout(1000)
    server.start()
    push(store, *range(20, 30))
    has(page, list(range(30)))
    connected(page)
    if end is signal.SIGTERM and transport in ("fetch", "eventsource"):
        assert {ending["reason"] for ending in page.evaluate("got.ends")} == {"shutdown"}
    else:  # uvicorn closes WebSockets by itself, with code 1012, and may do so before ours is told
        assert {ending["reason"] for ending in page.evaluate("got.ends")} <= {"shutdown"}


def test_nothing_is_missed_without_a_network(context: BrowserContext, server: WebServer, store: str) -> None:
    """Offline for a while: reconnected as soon as the network is back."""
    page = opened(context, server.url, share=False)
    connected(page)
    context.set_offline(True)
    until(page, "got.client.status === 'reconnecting'")
    push(store, 1, 2)
    page.wait_for_timeout(1500)
    assert page.evaluate("got.payloads") == []
    context.set_offline(False)
    has(page, [1, 2])


def test_a_reload_resumes(context: BrowserContext, server: WebServer, store: str) -> None:
    """With a storage the next page goes on where this one was; events from between are not lost."""
    page = opened(context, server.url, storage="localStorage")
    connected(page)
    push(store, 1, 2)
    has(page, [1, 2])
    page.goto("about:blank")
    push(store, 3)
    load(page, server.url, storage="localStorage")
    push(store, 4)
    has(page, [3, 4])


def test_a_page_that_comes_back_from_the_cache_resumes(context: BrowserContext, server: WebServer, store: str) -> None:
    """Kept in the back-forward cache it has no connection; shown again, it reads what it has missed."""
    page = opened(context, server.url)
    page.evaluate("window.shown = []; addEventListener('pageshow', ({persisted}) => shown.push(persisted))")
    connected(page)
    push(store, 1)
    has(page, [1])
    page.goto(f"{server.url}/health")
    for _ in range(600):
        if streams(server) == 0:
            break
        page.wait_for_timeout(50)
    assert streams(server) == 0
    push(store, 2)
    page.go_back(wait_until="commit")
    has(page, [1, 2])
    assert page.evaluate("shown") == [True]
    assert page.evaluate("got.statuses") == ["connecting", "connected", "paused", "reconnecting", "connected"]


def test_eight_tabs_have_one_stream(context: BrowserContext, server: WebServer, store: str) -> None:
    """The server has one stream for eight tabs, also after a restart, and each tab gets everything."""
    pages = [opened(context, server.url) for _ in range(8)]
    for page in pages:
        connected(page)
    assert streams(server) == 1
    push(store, 1)
    server.kill()
    push(store, 2)
    server.start()
    push(store, 3)
    for page in pages:
        has(page, [1, 2, 3])
    assert streams(server) == 1


def test_a_logout_closes_every_tab(context: BrowserContext, server: WebServer, store: str) -> None:
    """`disconnect` in another instance: all tabs are closed and stay closed; a reload in the same session, too."""
    pages = [opened(context, server.url, storage="localStorage") for _ in range(3)]
    for page in pages:
        connected(page)
    with logging_out(store):
        for page in pages:
            until(page, "got.client.status === 'closed'")
    for page in pages:
        assert page.evaluate("got.ends") == [{"reason": "disconnected"}]
    load(pages[0], server.url, storage="localStorage")
    until(pages[0], "got.client.status === 'closed'")
    assert streams(server) == 0


@pytest.mark.parametrize("transport", ["fetch", "eventsource", "poll", "websocket"])
def test_a_logout_is_final(context: BrowserContext, server: WebServer, store: str, transport: str) -> None:
    """By every transport: the client is closed, and does not come back by itself."""
    page = opened(context, server.url, transports=[transport], share=False)
    connected(page)
    with logging_out(store):
        until(page, "got.client.status === 'closed'")
    assert page.evaluate("got.ends") == [{"reason": "disconnected"}]
    assert streams(server) == 0


class BufferingProxy:
    """Passes an answer on when it is complete, which that of a stream never is."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.paths: list[str] = []

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        url = f"{self._upstream}{scope['path']}?{scope['query_string'].decode()}"
        with anyio.CancelScope() as scope_of_request:

            async def until_gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                scope_of_request.cancel()

            async with httpx.AsyncClient(timeout=60) as client, anyio.create_task_group() as tasks:
                tasks.start_soon(until_gone)
                answer = await client.get(url, headers={"accept-encoding": "identity"})
                kind = answer.headers.get("content-type", "text/plain")
                headers = [(b"content-type", kind.encode())]
                await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
                await send({"type": "http.response.body", "body": answer.content})
                tasks.cancel_scope.cancel()


def test_behind_a_proxy_that_buffers(context: BrowserContext, server: WebServer, store: str) -> None:
    """No byte of a stream gets through: after two silences the client polls, and nothing is missed."""
    proxy = BufferingProxy(server.url)
    with serving(proxy) as url:
        page = opened(context, url, share=False, heartbeat=0.5, lastId="0")
        push(store, 1, 2)
        has(page, [1, 2])
        connected(page)
        push(store, 3)
        has(page, [1, 2, 3])
        assert proxy.paths.count("/notify/stream") >= 2
        assert "/notify/events" in proxy.paths
        page.close()


HOSTILE = [
    "<img src=x onerror='document.title=1'>",
    "</script><script>document.title=1</script>",
    "\ndata: forged\n\nevent: notify.end\ndata: {}\n\n",
    "\r\rid: 0\r\u2028\u2029\x85",
    {"__proto__": {"admin": True}, "constructor": 1, "toString": None},
    "\U0001f600 \u202e\u0000 \ufeff",
    None,
    [],
    0,
]


@pytest.mark.parametrize("transport", ["fetch", "eventsource", "poll", "websocket"])
def test_hostile_content_is_content(context: BrowserContext, server: WebServer, store: str, transport: str) -> None:
    """What an event contains arrives as it was pushed, and does nothing else."""
    page = opened(context, server.url, transports=[transport], share=False)
    connected(page)
    push(store, *HOSTILE)
    until(page, f"got.payloads.length >= {len(HOSTILE)}")
    assert json.loads(page.evaluate("JSON.stringify(got.payloads)")) == HOSTILE
    assert page.evaluate("({}).admin") is None
    assert page.title() == "page"
    assert page.evaluate("got.ends") == []


def test_types_that_are_names_of_ours_disturb_nothing(context: BrowserContext, server: WebServer, store: str) -> None:
    """Events called `sync`, `status` or `__proto__` are events."""
    page = opened(context, server.url, share=False)
    connected(page)
    syncs = page.evaluate("got.syncs.length")
    page.evaluate("window.own = []; got.client.on('__proto__', (event) => own.push(event.payload)); 0")
    for number, type in enumerate(("sync", "gap", "status", "end", "__proto__", "constructor", "message")):
        push(store, number, type=type)
    has(page, list(range(7)))
    assert page.evaluate("own") == [4]
    assert page.evaluate("got.syncs.length") == syncs
    assert page.evaluate("got.statuses") == ["connecting", "connected"]
