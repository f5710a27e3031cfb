"""`event_stream` and mounted applications in five frameworks, served by uvicorn to a real client."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import anyio
import httpx
import pytest

from notify import Notifier
from notify_memory import MemoryPresence, MemoryStreamStore
from tests.parts import until
from tests.web.applications import APPS, App, Make, reading, served

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]  # uvicorn runs on asyncio

CLIENTS = 40

frameworks = pytest.mark.parametrize("make", APPS.values(), ids=APPS)
pulled = pytest.mark.parametrize("make", [APPS["django"], APPS["quart"]], ids=["django", "quart"])


@pytest.fixture
async def notifier() -> AsyncIterator[Notifier]:
    async with Notifier(MemoryStreamStore(), presence=MemoryPresence(), linger=0) as notifier:
        yield notifier


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is released is released without the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def open_streams(notifier: Notifier) -> int:
    return notifier.statistics().open_streams


async def pushed(notifier: Notifier, count: int, user: str = "alice") -> list[str]:
    events = [await notifier.push(user, "t", {"n": number}) for number in range(count)]
    return [event.id for event in events if event is not None]


# -- event_stream -------------------------------------------------------------------------------------------------


@frameworks
@pytest.mark.parametrize("path", ["/live/alice", "/sync/alice"])
async def test_a_stream(notifier: Notifier, make: Make, path: str) -> None:
    """Head and `retry:` first, then the replay after `Last-Event-ID`, `notify.sync`, and live events; asynchronous and
    synchronous handlers alike."""
    ids = await pushed(notifier, 3)
    async with (
        served(make(notifier)) as client,
        reading(client, path, headers={"last-event-id": ids[0]}) as reader,
    ):
        headers = reader.response.headers
        assert reader.response.status_code == 200
        assert headers["content-type"].partition(";")[0] == "text/event-stream"
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert "content-length" not in headers
        for number in (1, 2):
            frame = await reader.frame()
            assert frame["id"] == ids[number]
            assert "event" not in frame
            assert (frame["data"]["type"], frame["data"]["payload"]) == ("t", {"n": number})
        assert 1000 <= (reader.retry or 0) <= 5000
        sync = await reader.frame()
        assert (sync["event"], sync["id"], sync["data"]["position"]) == ("notify.sync", ids[2], ids[2])
        live = await notifier.push("alice", "live", "now")
        frame = await reader.frame()
        assert (frame["id"], frame["data"]["payload"]) == (live.id, "now")
        assert open_streams(notifier) == 1
        await notifier.push("bob", "other", "not shown")
        await notifier.push("alice", "seen", ephemeral=True)
        frame = await reader.frame()
        assert (frame["data"]["type"], "id" in frame) == ("seen", False)


@frameworks
async def test_positions(notifier: Notifier, make: Make) -> None:
    """The query names a position too; one that is not a position is a gap, and not an error; types by `?events=`."""
    ids = await pushed(notifier, 2)
    async with served(make(notifier)) as client:
        for name in ("lastEventId", "last_event_id", "last_id"):
            async with reading(client, "/live/alice", params={name: ids[0], "events": "typed"}) as reader:
                frame = await reader.frame()
                assert (frame["id"], frame["event"]) == (ids[1], "t")
        async with reading(client, "/live/alice", headers={"last-event-id": "what?"}) as reader:
            gap = await reader.frame()
            assert (gap["event"], gap["data"]["reason"]) == ("notify.gap", "invalid")
            assert (await reader.frame())["event"] == "notify.sync"


@frameworks
async def test_heartbeats(notifier: Notifier, make: Make) -> None:
    """A comment without a blank line after each `heartbeat` seconds without a byte, for longer than Quart's limit for
    responses, which is 0.7 seconds here."""
    async with served(make(notifier, heartbeat=0.1)) as client, reading(client, "/live/alice") as reader:
        sync = await reader.frame()
        assert sync["data"]["heartbeat"] == 0.1
        began = anyio.current_time()
        await anyio.sleep(1.2)
        await notifier.push("alice", "t")
        assert (await reader.frame())["data"]["type"] == "t"
        assert 4 <= reader.comments <= 2 + (anyio.current_time() - began) / 0.1


@frameworks
async def test_the_end_of_a_lifetime(notifier: Notifier, make: Make) -> None:
    """The stream ends with `notify.end` and a time to come back."""
    async with served(make(notifier, lifetime=0.3)) as client, reading(client, "/live/alice") as reader:
        await reader.frame()
        end = await reader.frame()
        assert (end["event"], end["data"]["reason"]) == ("notify.end", "lifetime")
        assert reader.retry == end["data"]["retry"]
        assert await reader.rest() == ""
        await until(lambda: open_streams(notifier) == 0)


@frameworks
async def test_credentials_that_expire(notifier: Notifier, make: Make) -> None:
    """So does `expires_at`, also if it has passed before the stream is opened."""
    moment = datetime.now(UTC) + timedelta(seconds=1)
    async with served(make(notifier, expires_at=moment)) as client:
        for _ in range(2):
            async with reading(client, "/live/alice") as reader:
                end = await reader.frame()
                while end["event"] == "notify.sync":
                    end = await reader.frame()
                assert (end["event"], end["data"]["reason"]) == ("notify.end", "expired")
                assert await reader.rest() == ""
    assert datetime.now(UTC) >= moment


@frameworks
async def test_disconnect(notifier: Notifier, make: Make) -> None:
    """`disconnect` ends the stream; a client that comes back by itself with the id of the last frame finds 204, and one
    with another session is let in."""
    async with served(make(notifier)) as client:
        async with reading(client, "/live/alice") as reader:
            await reader.frame()
            await notifier.disconnect("alice")
            end = await reader.frame()
            assert (end["event"], end["data"]["reason"]) == ("notify.end", "disconnected")
        again = await client.get("/live/alice", headers={"last-event-id": end["id"]})
        assert (again.status_code, again.content) == (204, b"")
    async with (
        served(make(notifier, session="another")) as client,
        reading(client, "/live/alice", headers={"last-event-id": end["id"]}) as reader,
    ):
        assert (await reader.frame())["event"] == "notify.sync"


@frameworks
async def test_limits(notifier: Notifier, make: Make) -> None:
    """The oldest stream of a user is replaced; where the process is full, the answer is a stream that ends."""
    async with served(make(notifier, max_streams_per_user=1, max_streams=2)) as client:
        async with reading(client, "/live/alice") as first:
            await first.frame()
            async with reading(client, "/live/alice") as second, reading(client, "/live/bob") as other:
                end = await first.frame()
                assert end["data"]["reason"] == "replaced"
                assert end["data"]["retry"] >= 60_000
                await second.frame()
                await other.frame()
                async with reading(client, "/live/carol") as third:
                    assert third.response.status_code == 200
                    assert (await third.frame())["data"]["reason"] == "overload"
                    assert await third.rest() == ""


@frameworks
async def test_several_logs(notifier: Notifier, make: Make) -> None:
    """The session's log is part of the stream; so is an address that the client names, if it is allowed, and 403 is the
    answer if it is not."""
    async with served(make(notifier, addresses=["room:7"], session="s1")) as client:
        async with reading(client, "/live/alice?address=room:7") as reader:
            await reader.frame()
            for user in ("alice", "s1", "room:7"):
                await notifier.push(user, "t")
                assert (await reader.frame())["data"]["user"] == user
        refused = await client.get("/live/alice?address=room:8")
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "forbidden"
        assert refused.headers["content-type"] == "application/json"


@frameworks
async def test_head(notifier: Notifier, make: Make) -> None:
    """HEAD is answered, if the framework passes it on, and opens nothing."""
    async with served(make(notifier)) as client:
        with anyio.fail_after(5):
            answer = await client.head("/live/alice")
        assert answer.status_code in (200, 405)
        assert open_streams(notifier) == 0


@frameworks
async def test_the_end_of_the_server(notifier: Notifier, make: Make) -> None:
    """When the process is asked to end, every stream ends with its last frame, and a new one at once."""
    async with served(make(notifier)) as client:
        async with reading(client, "/live/alice") as reader:
            await reader.frame()
            (site,) = vars(notifier)["_web_sites"].values()
            site.closing.begin("test")
            end = await reader.frame()
            assert (end["event"], end["data"]["reason"]) == ("notify.end", "shutdown")
            assert await reader.rest() == ""
        async with reading(client, "/live/alice") as reader:
            assert (await reader.frame())["data"]["reason"] == "shutdown"
            assert await reader.rest() == ""


@frameworks
async def test_the_end_of_the_notifier(notifier: Notifier, make: Make) -> None:
    """A notifier that is closed ends its streams; one that is asked later gets the same end."""
    async with served(make(notifier)) as client:
        async with reading(client, "/live/alice") as reader:
            await reader.frame()
            await notifier.aclose()
            assert (await reader.frame())["data"]["reason"] == "shutdown"
            assert await reader.rest() == ""
        answer = await client.get("/live/alice")
        assert answer.status_code in (200, 503)
        assert "shut" in answer.text


# -- clients that leave, and clients that do not read -----------------------------------------------------------------


async def leave_together(notifier: Notifier, app: App, path: str) -> None:
    async with served(app) as client:
        leave, arrived = anyio.Event(), 0

        async def visit(user: str) -> None:
            nonlocal arrived
            async with reading(client, f"{path}/{user}?last_id=0") as reader:
                assert (await reader.frame())["data"]
                arrived += 1
                await leave.wait()

        async with anyio.create_task_group() as tasks:
            for number in range(CLIENTS):
                await notifier.push(f"user{number}", "t", "hello")
                tasks.start_soon(visit, f"user{number}")
            await until(lambda: arrived == CLIENTS, 20)
            assert open_streams(notifier) == CLIENTS
            leave.set()
        await until(lambda: open_streams(notifier) == 0, 3)
        assert notifier.statistics().users == 0


@frameworks
@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("path", ["/live", "/plain", "/notify/stream"])
async def test_clients_that_leave_together(notifier: Notifier, make: Make, path: str) -> None:
    """Forty clients leave at once while their streams wait: all are released, without the garbage collector; so are
    those of the framework's own streaming response over a bare `async for`, and of a mounted application."""
    if path == "/notify/stream":
        await leave_together(notifier, with_user_in_query(make(notifier)), path)
    else:
        await leave_together(notifier, make(notifier), path)


def with_user_in_query(app: App) -> App:
    """`/notify/stream/USER?...` becomes `/notify/stream?user=USER&...`."""

    async def rewritten(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path, _, user = scope["path"].rpartition("/")
            query = scope["query_string"] + f"&user={user}".encode()
            scope = {**scope, "path": path, "raw_path": path.encode(), "query_string": query}
        await app(scope, receive, send)

    return rewritten


async def sockets_that_stall(client: httpx.AsyncClient, path: str) -> socket.socket:
    """Ask for a stream and do not read it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    host, port = client.base_url.host, client.base_url.port
    assert port is not None
    with pytest.raises(BlockingIOError):
        connection.connect((host, port))
    await anyio.wait_writable(connection)
    connection.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return connection


@frameworks
async def test_a_client_that_does_not_read(make: Make) -> None:
    """It is given up after `send_timeout`, and what is released is not waited for by the others."""
    async with Notifier(MemoryStreamStore(max_len=1000), max_payload=1_000_000) as notifier:
        for _ in range(40):
            await notifier.push("alice", "t", "x" * 250_000)
        async with served(make(notifier, send_timeout=0.5)) as client:
            connection = await sockets_that_stall(client, "/live/alice?last_id=0")
            with connection:
                await until(lambda: open_streams(notifier) == 1)
                async with reading(client, "/live/bob") as reader:
                    await reader.frame()
                    await until(lambda: open_streams(notifier) == 1, 5)
                    await notifier.push("bob", "t")
                    assert (await reader.frame())["data"]["type"] == "t"


def is_blocked(notifier: Notifier) -> bool:
    """Whether the only stream has been sending for a while."""
    (site,) = vars(notifier)["_web_sites"].values()
    sending = [session.sending for streams in site.limits._users.values() for session in streams]
    return bool(sending and sending[0]) and time.monotonic() - sending[0] > 0.2


@frameworks
@pytest.mark.usefixtures("no_collector")
async def test_a_client_that_leaves_in_the_middle_of_a_send(make: Make) -> None:
    """It is released at once too, although the framework is not waiting for the stream then."""
    async with Notifier(MemoryStreamStore(max_len=1000), max_payload=1_000_000) as notifier:
        for _ in range(40):
            await notifier.push("alice", "t", "x" * 250_000)
        async with served(make(notifier)) as client:
            connection = await sockets_that_stall(client, "/live/alice?last_id=0")
            with connection:
                await until(lambda: open_streams(notifier) == 1)
                await until(lambda: is_blocked(notifier))
            await until(lambda: open_streams(notifier) == 0, 3)


# -- middleware ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/live/alice", "/notify/stream?user=alice"])
@pytest.mark.parametrize("name", ["starlette", "fastapi", "litestar", "django"])
async def test_compression(notifier: Notifier, name: str, path: str) -> None:
    """Middleware that compresses does not hold an event or the last frame back, and the client can read it."""
    app = APPS[name](notifier, middleware="gzip")
    async with served(app) as client, reading(client, path, headers={"accept-encoding": "gzip"}) as reader:
        assert (await reader.frame())["event"] == "notify.sync"
        for number in range(3):
            await notifier.push("alice", "t", number)
            assert (await reader.frame(5))["data"]["payload"] == number
        if name != "litestar":  # which compresses everything, and flushes each chunk
            assert reader.response.headers.get("content-encoding", "identity") == "identity"
        await notifier.disconnect("alice")
        assert (await reader.frame(5))["data"]["reason"] == "disconnected"
        assert await reader.rest() == ""


@pytest.mark.parametrize("name", ["starlette", "fastapi", "litestar"])
async def test_polls_and_files_are_compressed(notifier: Notifier, name: str) -> None:
    """What is not a stream passes too: once, and whole, whether it was compressed before or not."""
    await pushed(notifier, 50)
    async with served(APPS[name](notifier, middleware="gzip")) as client:
        client.headers["accept-encoding"] = "gzip"
        page = await client.get("/notify/events?user=alice&after=0")
        assert (page.headers["content-encoding"], len(page.json()["events"])) == ("gzip", 50)
        file = await client.get("/notify/client.js")
        assert file.content == files("notify.web").joinpath("client/client.js").read_bytes()


@pytest.mark.parametrize("name", ["starlette", "fastapi"])
@pytest.mark.usefixtures("no_collector")
async def test_base_http_middleware(notifier: Notifier, name: str) -> None:
    """`BaseHTTPMiddleware` holds nothing back, the end of the stream comes through it, and clients that leave are
    noticed."""
    app = APPS[name](notifier, middleware="base")
    async with served(app) as client, reading(client, "/live/alice") as reader:
        assert reader.response.headers["x-passed"] == "yes"
        assert (await reader.frame())["event"] == "notify.sync"
        await notifier.push("alice", "t")
        assert (await reader.frame())["data"]["type"] == "t"
        await notifier.disconnect("alice")
        assert (await reader.frame())["data"]["reason"] == "disconnected"
        assert await reader.rest() == ""
    await leave_together(notifier, APPS[name](notifier, middleware="base"), "/live")
