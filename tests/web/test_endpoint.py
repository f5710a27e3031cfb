"""`EventStream` and `event_stream` by themselves: arguments, headers, other sites, and every way to end a body."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import litestar
import pytest
from django.http import StreamingHttpResponse
from django.test import RequestFactory
from litestar.background_tasks import BackgroundTask as LitestarTask
from litestar.datastructures import ResponseHeader
from quart import Quart
from quart import request as quart_request
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.routing import Route

from notify import InvalidEventError, Notifier, UsageError
from notify.web import EventStream, Identity
from notify.web._sse import FrameFeed
from notify.web.django import event_stream as django_stream
from notify.web.litestar import event_stream as litestar_stream
from notify.web.quart import event_stream as quart_stream
from notify.web.starlette import event_stream as starlette_stream
from notify_memory import MemoryStreamStore
from tests.parts import PlainStore, until
from tests.web.applications import APPS, Make, reading, served

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
frameworks = pytest.mark.parametrize("make", APPS.values(), ids=APPS)
STREAMS = {
    "starlette": starlette_stream, "litestar": litestar_stream, "django": django_stream, "quart": quart_stream,
}  # fmt: skip


@pytest.fixture
async def notifier() -> AsyncIterator[Notifier]:
    async with Notifier(MemoryStreamStore()) as notifier:
        yield notifier


def scope(query: str = "", method: str = "GET", **headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "headers": raw, "query_string": query.encode(), "scheme": "http"}


class WithScope:
    """What every framework's request has."""

    def __init__(self) -> None:
        self.scope = scope()


# -- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"user": None}, InvalidEventError, "user"),
        ({"user": ""}, InvalidEventError, "user"),
        ({"user": Identity("")}, InvalidEventError, "user"),
        ({"user": Identity("alice"), "session": "s"}, UsageError, "an Identity, or a user with"),
        ({"user": Identity("alice"), "addresses": ["a"]}, UsageError, "an Identity, or a user with"),
        ({"user": "alice", "expires_at": datetime(2099, 1, 1)}, UsageError, "time zone"),
        ({"user": "alice", "addresses": "room:7"}, UsageError, "not one str"),
        ({"user": Identity("alice", None)}, UsageError, "not NoneType"),  # type: ignore[arg-type]
        ({"user": Identity("alice", session="\n")}, UsageError, "control characters"),
        ({"user": "alice", "heartbeat": 0}, UsageError, "heartbeat"),
        ({"user": "alice", "hartbeat": 1}, TypeError, "hartbeat"),
    ],
)
@pytest.mark.parametrize("framework", STREAMS)
async def test_arguments_that_are_refused(
    notifier: Notifier, framework: str, arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    """A mistake is an exception of the call, not a response that fails later."""
    stream: Any = STREAMS[framework]
    with pytest.raises(error, match=match):
        stream(WithScope(), notifier, **arguments)


async def test_a_notifier_is_needed() -> None:
    """So is something that is not a notifier."""
    other: Any = MemoryStreamStore()
    with pytest.raises(UsageError, match="must be a Notifier"):
        EventStream(other, "alice", scope())


@on_asyncio
@pytest.mark.parametrize("is_first", [False, True])
async def test_a_disconnection_before_the_response_begins(is_first: bool) -> None:
    """Middleware runs in between, and the first stream of a process waits for its store: it is not missed."""
    gate = anyio.Event()

    class Slow(PlainStore):
        async def head(self, user: str) -> str:
            await gate.wait()
            return await super().head(user)

    async with Notifier(Slow()) as notifier:
        notifier._is_informed = not is_first
        stream, other = (EventStream(notifier, user, scope()).chunks() for user in ("alice", "bob"))
        frames: list[bytes] = []

        async def read(chunks: Any) -> None:
            frames.append(await anext(chunks))
            await chunks.aclose()

        async with anyio.create_task_group() as group:
            if is_first:
                group.start_soon(read, stream)
                await anyio.wait_all_tasks_blocked()
            await notifier.disconnect("alice")
            gate.set()
            if not is_first:
                group.start_soon(read, stream)
        await read(other)
    assert b'"disconnected"' in frames[0]
    assert b"notify.end" not in frames[1]


@on_asyncio
async def test_a_disconnection_before_the_call(notifier: Notifier) -> None:
    """It counts if the endpoint has taken the moment before it authenticated the client; otherwise it is too late."""
    moment = await notifier.moment()
    await notifier.disconnect("alice")
    for since, is_over in ((moment, True), (await notifier.moment(), False), (None, False)):
        for user in ("alice", Identity("alice"), Identity("bob", session="alice")):
            chunks = EventStream(notifier, user, scope(), disconnected_since=since).chunks()
            assert (b'"disconnected"' in await anext(chunks)) == is_over
            await chunks.aclose()


@on_asyncio
@frameworks
async def test_a_disconnection_while_a_framework_authenticates(notifier: Notifier, make: Make) -> None:
    """Every `event_stream` takes the moment."""
    moment = await notifier.moment()
    await notifier.disconnect("alice")
    async with served(make(notifier, disconnected_since=moment)) as client, reading(client, "/live/alice") as reader:
        assert (await reader.frame())["data"]["reason"] == "disconnected"


@on_asyncio
async def test_options_that_vary_with_the_request_fill_no_memory(notifier: Notifier) -> None:
    """What such streams would share is dropped, except where one is open: that still counts against its limits."""
    first = EventStream(notifier, "alice", scope(), max_streams=1).chunks()
    await anext(first)
    for number in range(500):
        EventStream(notifier, "alice", scope(), lifetime=100.0 + number)
    assert len(vars(notifier)["_web_sites"]) <= 101
    second = EventStream(notifier, "alice", scope(), max_streams=1).chunks()
    assert b"overload" in await anext(second)
    await first.aclose()


@pytest.mark.parametrize("framework", STREAMS)
async def test_a_framework_that_is_not_installed(
    notifier: Notifier, framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module can be imported without its framework; the call says what to install."""
    name = f"notify.web.{framework}"
    with monkeypatch.context() as patch:
        for module in [module for module in sys.modules if module.partition(".")[0] == framework]:
            patch.setitem(sys.modules, module, None)
        patch.delitem(sys.modules, name)
        fresh = importlib.import_module(name)
        with pytest.raises(ModuleNotFoundError, match=rf"notify.web.{framework} needs .*pip install {framework}"):
            fresh.event_stream(WithScope(), notifier, "alice")


async def test_nothing_of_a_framework_is_imported() -> None:
    """`notify.web` imports no framework."""
    code = "import sys, notify.web; print({*sys.modules} & {'starlette', 'fastapi', 'litestar', 'django', 'quart'})"
    done = await anyio.run_process([sys.executable, "-c", code])
    assert done.stdout.decode().strip() == "set()"


async def test_django_under_wsgi(notifier: Notifier) -> None:
    """A request that came by WSGI is refused with what to do."""
    with pytest.raises(UsageError, match="needs Django under ASGI"):
        django_stream(RequestFactory().get("/live"), notifier, "alice")


async def test_an_identity(notifier: Notifier) -> None:
    """An `Identity` is as good as the arguments."""
    moment = datetime.now(UTC) + timedelta(hours=1)
    identity = Identity("alice", ("room:7",), moment, "s1")
    parts = EventStream(notifier, identity, scope("address=room:7"))
    arguments = EventStream(
        notifier, "alice", scope("address=room:7"), addresses=["room:7"], session="s1", expires_at=moment
    )
    assert parts._identity == arguments._identity
    assert parts._logs == arguments._logs == ("alice", "s1", "room:7")


async def test_what_is_shared(notifier: Notifier) -> None:
    """Calls with the same options share limits and the end of the server; others do not."""
    first, second = EventStream(notifier, "alice", scope()), EventStream(notifier, "bob", scope())
    other = EventStream(notifier, "alice", scope(), heartbeat=3.0)
    assert first._site is second._site
    assert first._site is not other._site


# -- replies ------------------------------------------------------------------------------------------------------


@frameworks
@on_asyncio
async def test_other_sites(notifier: Notifier, make: Make) -> None:
    """The page of another site is refused before a stream is opened; that of an allowed origin is let in, with the
    headers that its browser needs."""
    cross = {"sec-fetch-site": "cross-site", "origin": "https://other.example"}
    async with served(make(notifier)) as client:
        answer = await client.get("/live/alice", headers=cross)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")
        assert answer.headers["content-type"] == "application/json"
        assert "access-control-allow-origin" not in answer.headers
        assert notifier.statistics().open_streams == 0
    allowed = make(notifier, origins=["https://other.example"])
    async with served(allowed) as client, reading(client, "/live/alice", headers=cross) as reader:
        assert (await reader.frame())["event"] == "notify.sync"
        assert reader.response.headers["access-control-allow-origin"] == "https://other.example"


@on_asyncio
async def test_a_stream_that_cannot_be_opened(notifier: Notifier) -> None:
    """More logs than a stream can read are an answer in the shape of an error."""
    rooms = [f"room:{number}" for number in range(150)]
    app = APPS["starlette"](notifier, addresses=rooms)
    async with served(app) as client:
        answer = await client.get("/live/alice", params={"address": rooms})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


@on_asyncio
async def test_headers_of_the_framework(notifier: Notifier) -> None:
    """What the endpoint sets on its response arrives with the stream: headers, cookies, and the work afterwards."""
    done: list[str] = []

    async def starlette(request: Request) -> Any:
        response = starlette_stream(request, notifier, "alice", lifetime=0.1)
        response.headers["x-mine"] = "1"
        response.set_cookie("seen", "yes")
        response.background = BackgroundTask(done.append, "starlette")
        return response

    @litestar.get("/live", response_headers=[ResponseHeader(name="x-mine", value="1")])
    async def live(request: litestar.Request[Any, Any, Any]) -> litestar.Response[Any]:
        response = litestar_stream(request, notifier, "alice", lifetime=0.1)
        response.set_cookie("seen", "yes")
        response.background = LitestarTask(done.append, "litestar")
        return response

    quart = Quart(__name__)

    @quart.get("/live")
    async def quart_live() -> Any:
        response = quart_stream(quart_request, notifier, "alice", lifetime=0.1)
        response.headers["x-mine"] = "1"
        response.set_cookie("seen", "yes")
        return response

    for app in (Starlette(routes=[Route("/live", starlette)]), litestar.Litestar([live], logging_config=None), quart):
        async with served(app) as client:
            answer = await client.get("/live")
            assert (answer.headers["x-mine"], answer.cookies["seen"]) == ("1", "yes")
            assert answer.headers.get_list("content-type") == ["text/event-stream"]
            assert '"lifetime"' in answer.text
    assert done == ["starlette", "litestar"]


@on_asyncio
async def test_django_response(notifier: Notifier) -> None:
    """Django's response is its own: it streams asynchronously, and is not to be compressed."""
    response = django_stream(WithScope(), notifier, "alice")  # type: ignore[arg-type]
    assert isinstance(response, StreamingHttpResponse)
    assert response.is_async
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["Content-Encoding"] == "identity"
    response.close()


# -- the iterator of chunks ---------------------------------------------------------------------------------------


async def test_status_and_headers(notifier: Notifier) -> None:
    """For frameworks that have no module here."""
    stream = EventStream(notifier, "alice", scope())
    assert (stream.status, stream.reply) == (200, None)
    assert ("content-type", "text/event-stream") in stream.headers
    refused = EventStream(notifier, "alice", scope("address=room:8"))
    assert refused.status == 403
    assert ("content-type", "application/json") in refused.headers
    head = EventStream(notifier, "alice", scope(method="HEAD"))
    assert head.reply is not None
    assert ("content-type", "text/event-stream") in head.headers


@on_asyncio
async def test_the_body_of_a_reply(notifier: Notifier) -> None:
    """The chunks of a refusal are its body; an empty one has none."""
    assert [chunk async for chunk in EventStream(notifier, "alice", scope("address=room:8")).chunks()] != []
    assert [chunk async for chunk in EventStream(notifier, "alice", scope(method="HEAD")).chunks()] == []


@on_asyncio
@pytest.mark.parametrize("how", ["aclose", "close", "close in a thread", "cancel", "twice"])
async def test_the_end_of_chunks(notifier: Notifier, how: str) -> None:
    """However the framework ends a body, its stream is released at once, and the iterator yields nothing more."""
    chunks = EventStream(notifier, "alice", scope()).chunks()
    assert b"notify.sync" in await anext(chunks)
    assert notifier.statistics().open_streams == 1
    if how == "cancel":
        with anyio.move_on_after(0.01):
            await anext(chunks)
    elif how == "close":
        chunks.close()
        await anyio.lowlevel.checkpoint()
    elif how == "close in a thread":
        thread = threading.Thread(target=chunks.close)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        await until(lambda: notifier.statistics().open_streams == 0)
    else:
        await chunks.aclose()
        if how == "twice":
            await chunks.aclose()
            chunks.close()
    assert notifier.statistics().open_streams == 0
    assert [chunk async for chunk in chunks] == []
    (site,) = vars(notifier)["_web_sites"].values()
    assert (len(site.closing), site.limits.open, len(site.ticker)) == (0, 0, 0)


@on_asyncio
async def test_chunks_that_are_closed_while_they_are_opened(
    notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream is released as soon as it is open, and nothing more is yielded."""
    asked, allowed = anyio.Event(), anyio.Event()

    async def moment() -> int:
        asked.set()
        await allowed.wait()
        return 0

    monkeypatch.setattr(notifier, "moment", moment)
    stream = EventStream(notifier, "alice", scope())
    chunks, found = stream.chunks(), list[bytes]()

    async def read() -> None:
        found.extend([chunk async for chunk in chunks])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await asked.wait()
        await chunks.aclose()
        allowed.set()
    assert found == []
    assert notifier.statistics().open_streams == 0
    assert (len(stream._site.closing), stream._site.limits.open, len(stream._site.ticker)) == (0, 0, 0)


@on_asyncio
async def test_a_chunk_that_was_read_as_another_task_closed_the_stream(
    notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not yielded: the framework has been told that the stream is over."""
    chunks = EventStream(notifier, "alice", scope()).chunks()
    assert b"notify.sync" in await anext(chunks)

    async def read(feed: FrameFeed) -> bytes:
        await chunks.aclose()
        return b"late"

    monkeypatch.setattr(FrameFeed, "read", read)
    assert [chunk async for chunk in chunks] == []


@on_asyncio
async def test_chunks_that_were_never_asked_for(notifier: Notifier) -> None:
    """A response that is not sent has opened nothing, and can be closed."""
    chunks = EventStream(notifier, "alice", scope()).chunks()
    chunks.close()
    await chunks.aclose()
    assert notifier.statistics().open_streams == 0
    assert [chunk async for chunk in chunks] == []


def test_chunks_of_a_loop_that_has_ended() -> None:
    """Closing them is harmless."""
    kept: list[Any] = []

    async def main() -> None:
        async with Notifier(MemoryStreamStore()) as notifier:
            chunks = EventStream(notifier, "alice", scope()).chunks()
            await anext(chunks)
            kept.append(chunks)
            await chunks.aclose()

    anyio.run(main)
    kept[0].close()
    assert kept[0]._is_over


@on_asyncio
async def test_a_send_that_takes_too_long(notifier: Notifier) -> None:
    """The task that iterates, and now sends, is cancelled, and the stream is released."""
    chunks = EventStream(notifier, "alice", scope(), send_timeout=0.2).chunks()
    ended = anyio.Event()

    async def framework() -> None:
        try:
            async for _ in chunks:
                await anyio.sleep_forever()  # the client does not read
        finally:
            ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(framework)
        with anyio.fail_after(5):
            await ended.wait()
        assert notifier.statistics().open_streams == 0
