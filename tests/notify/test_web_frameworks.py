"""Streams in web frameworks: clients that leave release their streams at once, as the README writes the loop."""

from __future__ import annotations

import gc
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse as FastAPIStreamingResponse
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from notify import Notifier
from notify_memory import MemoryPresence, MemoryStreamStore
from tests.parts import until

pytestmark = pytest.mark.anyio

CLIENTS = 40
Message = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """What is released here is released without the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
async def presence() -> MemoryPresence:
    return MemoryPresence()


@pytest.fixture
async def notifier(presence: MemoryPresence) -> AsyncIterator[Notifier]:
    async with Notifier(MemoryStreamStore(), presence=presence, linger=0) as notifier:
        yield notifier


async def frames(notifier: Notifier, users: Any) -> AsyncIterator[str]:
    """The loop that people write, without `async with`."""
    async for event in notifier.subscribe(users, "0"):
        yield f"data: {json.dumps(event.payload)}\n\n"


async def merged_frames(notifier: Notifier, users: Any) -> AsyncIterator[str]:
    async for event in notifier.subscribe([users, "news"], "0"):
        yield f"data: {json.dumps(event.payload)}\n\n"


Frames = Callable[[Notifier, Any], AsyncIterator[str]]


def starlette_app(notifier: Notifier, body: Frames) -> App:
    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(body(notifier, request.path_params["user"]), media_type="text/event-stream")

    return Starlette(routes=[Route("/{user}", stream)])


def fastapi_app(notifier: Notifier, body: Frames) -> App:
    app = FastAPI()

    @app.get("/{user}")
    async def stream(user: str) -> FastAPIStreamingResponse:
        return FastAPIStreamingResponse(body(notifier, user), media_type="text/event-stream")

    return app


apps = pytest.mark.parametrize("make", [starlette_app, fastapi_app], ids=["starlette", "fastapi"])
bodies = pytest.mark.parametrize("body", [frames, merged_frames], ids=["one log", "several logs"])


async def assert_released(notifier: Notifier, presence: MemoryPresence) -> None:
    """No stream counts as open, and no user as present."""
    await until(lambda: notifier.statistics().open_streams == 0, 3)
    assert notifier.statistics().users == 0
    assert presence.locate_nowait([*(f"user{number}" for number in range(CLIENTS)), "news"]) == {}
    assert not notifier._live._hub.users


@apps
@bodies
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_clients_that_leave_a_server(
    notifier: Notifier, presence: MemoryPresence, make: Callable[[Notifier, Frames], App], body: Frames
) -> None:
    """Forty clients of uvicorn leave while their streams wait: all are released, and the server goes on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(make(notifier, body), log_level="critical", lifespan="off"))
        async with anyio.create_task_group() as group, httpx.AsyncClient(base_url=url, timeout=20) as client:
            group.start_soon(server.serve, [listener])
            leave = anyio.Event()
            connected = 0

            async def visit(user: str) -> None:
                nonlocal connected
                async with client.stream("GET", f"/{user}") as response:
                    async for line in response.aiter_lines():  # pragma: no branch - it is left by break
                        assert line == 'data: "hello"'
                        break
                    connected += 1
                    await leave.wait()

            for number in range(CLIENTS):
                await notifier.push(f"user{number}", "t", "hello")
                group.start_soon(visit, f"user{number}")
            await until(lambda: connected == CLIENTS, 20)
            assert notifier.statistics().open_streams == CLIENTS
            leave.set()
            await assert_released(notifier, presence)
            server.should_exit = True


@apps
@bodies
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # the framework does not close it on trio
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("spec_version", ["2.0", "2.4"])
async def test_a_client_that_leaves_cancels_the_response(
    notifier: Notifier,
    presence: MemoryPresence,
    make: Callable[[Notifier, Frames], App],
    body: Frames,
    spec_version: str,
) -> None:
    """On trio too: by a task group that is cancelled, and, for newer servers, by an error of `send`."""
    app = make(notifier, body)
    for number in range(CLIENTS):
        await leave(app, notifier, f"user{number}", spec_version)
    await assert_released(notifier, presence)


async def leave(app: App, notifier: Notifier, user: str, spec_version: str) -> None:
    """Take the first frame of a response and go."""
    sent, gone = anyio.Event(), anyio.Event()

    async def receive() -> Message:
        await sent.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if gone.is_set():
            raise OSError("the client is gone")
        if b"hello" in message.get("body", b""):
            sent.set()

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": spec_version}, "http_version": "1.1",
        "method": "GET", "path": f"/{user}", "raw_path": f"/{user}".encode(), "root_path": "", "scheme": "http",
        "query_string": b"", "headers": [], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await notifier.push(user, "t", "hello")

    async def run() -> None:
        try:
            await app(scope, receive, send)
        except ClientDisconnect:
            assert spec_version == "2.4"

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await sent.wait()
        gone.set()
        if spec_version == "2.4":
            await notifier.push(user, "t", "nobody is there")


@pytest.mark.parametrize("generator", [False, True])
@bodies
async def test_a_bare_loop_in_a_cancelled_task_group(
    notifier: Notifier, presence: MemoryPresence, body: Frames, generator: bool
) -> None:
    """The mechanism by itself: the traceback of the cancellation keeps the stream alive, and it is released anyway."""

    async def read(user: str) -> None:
        if generator:
            async for frame in body(notifier, user):
                pytest.fail(f"{frame} was not pushed")
        users: Any = user if body is frames else [user, "news"]
        async for event in notifier.subscribe(users):
            pytest.fail(f"{event} was not pushed")

    for _ in range(3):
        async with anyio.create_task_group() as group:
            for number in range(CLIENTS):
                group.start_soon(read, f"user{number}")
            await until(lambda: notifier.statistics().open_streams == CLIENTS)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        await assert_released(notifier, presence)
