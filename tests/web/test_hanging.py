"""While `authenticate` does not return, the client can still leave, and the server can still shut down.

`authenticate` sleeps for an hour here, and its time limit is an hour too: a test that ends did not wait for it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import hypercorn.asyncio
import hypercorn.trio
import pytest
import websockets
from hypercorn.config import Config
from starlette.middleware.base import BaseHTTPMiddleware

from notify import BackendUnavailableError, Notifier
from notify.web import NotifyApp, Request
from notify.web.durable import DurableStreams
from notify_memory import MemoryStore
from tests.parts import until
from tests.web.clients import RawClient, Socket, get
from tests.web.servers import WebServer, free_port

pytestmark = pytest.mark.anyio
outside = pytest.mark.parametrize("anyio_backend", ["asyncio"])

HOUR = 3600
PATHS = {
    "sse": "/stream?user=alice",
    "poll": "/events?user=alice&wait=5",
    "websocket": "/ws?user=alice",
    "log": "/logs/alice?user=alice&offset=-1",
    "log-sse": "/logs/alice?user=alice&offset=now&live=sse",
    "log-poll": "/logs/alice?user=alice&offset=now&live=long-poll",
}
"""Of `NotifyApp`, and of `DurableStreams`."""

BODY = "http.response.body"
UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def application(transport: str, notifier: Notifier[Any], authenticate: Any) -> NotifyApp | DurableStreams:
    """Return the application that serves this transport; its `authenticate` may take an hour."""
    kind = DurableStreams if transport.startswith("log") else NotifyApp
    web: NotifyApp | DurableStreams = kind(notifier, authenticate)
    assert web._site.authentication is not None
    web._site.authentication._timeout = HOUR
    return web


def hanging(kind: str, directory: Path) -> WebServer:
    return WebServer(kind, "tests.web.apps.plain:app", directory, env={"TEST_WITHIN": str(HOUR)})


async def _is(port: int, name: str, value: object) -> bool:
    return bool((await get(port, "/inside"))[name] == value)


@outside
@pytest.mark.parametrize("transport", [*PATHS])
@pytest.mark.parametrize("kind", ["uvicorn", "uvicorn-h11", "hypercorn-w0", "hypercorn-trio"])
async def test_a_client_that_leaves(kind: str, transport: str, tmp_path: Path, anyio_backend: str) -> None:
    """`authenticate` is cancelled, and the connection is over."""
    with hanging(kind, tmp_path) as server:
        headers = UPGRADE if transport == "websocket" else {}
        async with RawClient(server.port, f"{PATHS[transport]}&delay={HOUR}", headers) as client:
            await until(partial(_is, server.port, "authenticating", 1))
            client.leave("rst")
        await until(partial(_is, server.port, "authenticating", 0))
        await until(partial(_is, server.port, "closing", 0))


@pytest.mark.parametrize("transport", [*PATHS])
async def test_a_shutdown(transport: str, anyio_backend_name: str) -> None:
    """hypercorn, in this process: the client is told of the shutdown at once, as one with an open stream is."""
    asked, ended = anyio.Event(), anyio.Event()

    async def authenticate(_: Request) -> str:
        asked.set()
        try:
            await anyio.sleep(HOUR)
        finally:
            ended.set()
        return "alice"

    async with Notifier(MemoryStore()) as notifier:
        web = application(transport, notifier, authenticate)
        config = Config()
        config.bind, config.graceful_timeout, config.errorlog = [f"127.0.0.1:{free_port()}"], 0.2, None
        port = int(config.bind[0].rpartition(":")[2])
        serve: Callable[..., Any] = getattr(hypercorn, anyio_backend_name).serve
        ending = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(serve, web, config, shutdown_trigger=ending.wait))
            await until(partial(_accepts, port))
            headers = UPGRADE if transport == "websocket" else {}
            async with RawClient(port, PATHS[transport], headers) as client:
                await asked.wait()
                web.begin_shutdown()
                await until(lambda: ended.is_set() and not web._site.closing)
                if transport == "websocket":
                    await client.read()
                    assert client.status in (0, 101)
                else:
                    await client.read_all()
                    assert client.complete
                    if transport.startswith("log"):  # the protocol has no frame that says so
                        assert (client.status, client.json["error"]["code"]) == (503, "shutting_down")
                        assert "retry-after" in client.headers
                    else:
                        assert client.status == 200
                        assert b'"reason":"shutdown"' in client.body
            ending.set()
        assert len(web._site.ticker) == web._site.limits.open == notifier.statistics().open_streams == 0


async def _accepts(port: int) -> bool:
    with suppress(OSError):
        await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
        return True
    return False


class Alone:
    """One request to an application, without a server: its receive and send.

    Args:
        transport: a key of `PATHS`.
        repeats: whether `websocket.connect` is repeated until the socket is accepted, as granian before 2.3.2 does.
    """

    def __init__(self, transport: str, *, repeats: bool = False) -> None:
        path, _, query = PATHS[transport].partition("?")
        self.scope = {"type": "websocket" if transport == "websocket" else "http", "path": path, "method": "GET"}
        self.scope |= {"query_string": query.encode(), "headers": [(b"host", b"localhost")]}
        self.gone, self.accepted = anyio.Event(), anyio.Event()
        self.sent = list[str]()
        self.texts = list[Any]()
        self._repeats = repeats
        self._first = True

    async def receive(self) -> Any:
        is_first, self._first = self._first, False
        if self.scope["type"] == "http" and is_first:
            return {"type": "http.request", "body": b"", "more_body": False}
        if self.scope["type"] == "websocket" and (is_first or (self._repeats and not self.accepted.is_set())):
            return {"type": "websocket.connect"}
        await self.gone.wait()
        return {"type": "http.disconnect" if self.scope["type"] == "http" else "websocket.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message["type"])
        if message["type"] == "websocket.accept":
            self.accepted.set()
        elif message["type"] == "websocket.send":
            self.texts.append(json.loads(message["text"]))


class Stubborn:
    """An `authenticate` that returns although it was cancelled."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.asked = anyio.Event()
        self.release = threading.Event()

    async def __call__(self, _: Request) -> str:
        self.asked.set()
        if self.how == "thread":
            await anyio.to_thread.run_sync(self.release.wait)
        elif self.how == "error":
            try:
                await anyio.sleep(HOUR)
            except anyio.get_cancelled_exc_class():
                raise BackendUnavailableError("the users' database was interrupted") from None
        else:
            with suppress(BaseException):
                await anyio.sleep(HOUR)
        return "alice"


@pytest.mark.parametrize("ends", ["client", "shutdown"])
@pytest.mark.parametrize("how", ["thread", "swallowed", "error"])
@pytest.mark.parametrize("transport", [*PATHS])
async def test_an_authenticate_that_cannot_be_cancelled(transport: str, how: str, ends: str) -> None:
    """Nothing is opened after that, and the response begins once and ends once."""
    authenticate, request = Stubborn(how), Alone(transport)
    async with Notifier(MemoryStore()) as notifier:
        web = application(transport, notifier, authenticate)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(web, request.scope, request.receive, request.send)
                await authenticate.asked.wait()
                if ends == "client":
                    request.gone.set()
                else:
                    web.begin_shutdown()
                await anyio.wait_all_tasks_blocked()
                authenticate.release.set()
        assert len(web._site.ticker) == web._site.limits.open == notifier.statistics().open_streams == 0
        assert notifier.statistics().yielded == 0
        begins = [each for each in request.sent if each in ("http.response.start", "websocket.accept")]
        if transport == "websocket":  # a handshake is answered in any case
            assert len(begins) == (ends == "shutdown")
            assert request.sent[-1] == "websocket.close"
        else:
            assert request.sent == ["http.response.start", BODY]


@pytest.mark.parametrize("when", ["authenticated", "answered"])
@pytest.mark.parametrize("transport", [name for name in PATHS if name != "websocket"])
async def test_middleware_gets_a_response_although_the_client_has_left(transport: str, when: str) -> None:
    """It leaves while it is authenticated, or while it waits. Some middleware logs an error if there is no response."""
    asked, request = anyio.Event(), Alone(transport)

    async def authenticate(_: Request) -> str:
        asked.set()
        await anyio.sleep(HOUR if when == "authenticated" else 0)
        return "alice"

    async def passed_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    async with Notifier(MemoryStore()) as notifier:
        app = BaseHTTPMiddleware(application(transport, notifier, authenticate), passed_on)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(app, request.scope, request.receive, request.send)
                await asked.wait()
                await anyio.wait_all_tasks_blocked()
                request.gone.set()
    assert request.sent[0] == "http.response.start"


@pytest.mark.parametrize("transport", [*PATHS])
async def test_a_server_that_cancels(transport: str) -> None:
    """A client that is not known yet is told nothing."""
    asked, request = anyio.Event(), Alone(transport)

    async def authenticate(_: Request) -> str:
        asked.set()
        await anyio.sleep(HOUR)
        return "alice"

    async with Notifier(MemoryStore()) as notifier:
        web = application(transport, notifier, authenticate)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(web, request.scope, request.receive, request.send)
            await asked.wait()
            tasks.cancel_scope.cancel()
        assert len(web._site.ticker) == web._site.limits.open == notifier.statistics().open_streams == 0
    assert request.sent == []


async def test_a_client_that_was_disconnected_is_told_so_again() -> None:
    """As long as it comes back with the position that it was given then, it gets no stream."""
    first, again = Alone("websocket"), Alone("websocket")
    async with Notifier(MemoryStore()) as notifier:
        web = NotifyApp(notifier, lambda _: "alice")
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(web, first.scope, first.receive, first.send)
                await until(lambda: notifier.statistics().open_streams == 1)
                await notifier.disconnect("alice")
            again.scope["query_string"] = f"last_id={first.texts[-1]['id']}".encode()
            await web(again.scope, again.receive, again.send)
    assert again.sent == ["websocket.accept", "websocket.send", "websocket.close"]
    assert again.texts[0]["data"]["reason"] == "disconnected"


async def test_a_shutdown_while_a_handshake_is_answered() -> None:
    """The WebSocket ends as an open one does."""
    request = Alone("websocket")

    async def send(message: Any) -> None:
        await request.send(message)
        if message["type"] == "websocket.accept":
            web.begin_shutdown()

    async with Notifier(MemoryStore()) as notifier:
        web = NotifyApp(notifier, lambda _: "alice")
        with anyio.fail_after(60):
            await web(request.scope, request.receive, send)
    assert (request.sent[0], request.sent[-1]) == ("websocket.accept", "websocket.close")


async def test_a_server_that_repeats_the_connect() -> None:
    """The client is let in: it has not left."""
    request = Alone("websocket", repeats=True)

    async def authenticate(_: Request) -> str:
        await anyio.sleep(0.2)
        return "alice"

    async with Notifier(MemoryStore()) as notifier:
        web = NotifyApp(notifier, authenticate)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(web, request.scope, request.receive, request.send)
            with anyio.fail_after(60):
                await request.accepted.wait()
                await until(lambda: notifier.statistics().open_streams == 1)
            request.gone.set()


@outside
async def test_a_websocket_is_told_of_a_shutdown(tmp_path: Path, anyio_backend: str) -> None:
    """A WebSocket whose client is being authenticated is accepted, told the reason, and closed, as an open one is."""
    with hanging("hypercorn-w0", tmp_path) as server:
        told = list[Socket]()

        async def connect() -> None:
            with suppress(websockets.InvalidHandshake):
                told.append(await (await Socket.open(server.port, f"{PATHS['websocket']}&delay={HOUR}")).read_all())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect)
            await until(partial(_is, server.port, "authenticating", 1))
            server.send(15)
        assert told[0].received[-1]["data"]["reason"] == "shutdown"
        await anyio.to_thread.run_sync(server.wait)


@outside
async def test_uvicorn_does_not_wait(tmp_path: Path, anyio_backend: str) -> None:
    """A stream, a long poll and a read of a log are answered, and the server ends: nothing waits for `authenticate`."""
    with hanging("uvicorn", tmp_path) as server:
        async with (
            RawClient(server.port, f"{PATHS['sse']}&delay={HOUR}") as stream,
            RawClient(server.port, f"{PATHS['poll']}&delay={HOUR}") as poll,
            RawClient(server.port, f"{PATHS['log']}&delay={HOUR}") as log,
        ):
            await until(partial(_is, server.port, "authenticating", 3))
            server.send(15)
            for client in (stream, poll):
                await client.read_all()
                assert (client.status, client.complete) == (200, True)
                assert b'"reason":"shutdown"' in client.body
            await log.read_all()
            assert (log.status, log.complete, log.json["error"]["code"]) == (503, True, "shutting_down")
            await anyio.to_thread.run_sync(server.wait)
