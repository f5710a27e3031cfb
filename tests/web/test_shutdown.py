"""Servers that end, restart or reload while clients are connected: each is told, in time, and misses nothing."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn

from notify import Notifier, PushUncertainError
from notify.web import NotifyApp
from notify_memory import MemoryStreamStore
from tests.parts import until
from tests.test_docs import ROOT, snippets
from tests.web.clients import RawClient, Socket, get
from tests.web.servers import KINDS, WebServer

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

PAGE = ROOT / "docs" / "howto" / "deploy.md"
APP = "tests.web.apps.plain:app"
DRAIN = 2.0
"""The default of `NotifyApp`."""

RETRY = (1.0, 5.0)
"""The default of `NotifyApp`, in seconds."""

COME_BACK = {"granian": (1006, 4012), "uvicorn": (1012,), "hypercorn-workers": (1006,)}
"""Close codes of servers that may end a WebSocket before the last frames are written: granian at any time, uvicorn if
its own turn, ten times a second, comes first. A client comes back after each of them."""

CUTS = "hypercorn-workers"
"""The server that kills its other workers once one of them has ended: their clients may be cut off without a word."""

EACH = 4
"""Clients of each transport."""

RELOADING = sorted(kind for kind in KINDS if kind.endswith("-reload"))
NAMESAKES = {"uvicorn-h11", "hypercorn-uvloop"}
"""Servers that take signals by the code of `uvicorn` and `hypercorn`: SIGTERM shows that they end as those do."""

CASES = [
    *((kind, "SIGTERM") for kind in sorted(KINDS)),
    *((kind, "SIGINT") for kind in sorted(KINDS) if kind not in NAMESAKES),
    *((kind, "file") for kind in RELOADING),
]

SLOW_QUIT = 4.0
"""Seconds that gunicorn waits for a uvicorn worker which it told to quit at once, whatever the application does."""


def url_of(directory: Path) -> str:
    return f"sqlite:///{directory}/events.db"


def server_of(kind: str, directory: Path, port: int | None = None, **options: Any) -> WebServer:
    """A server of the test application, over a file of events in the directory; in memory under trio."""
    store = "memory://" if kind == "hypercorn-trio" else url_of(directory)
    env = {"TEST_STORE": store, "TEST_OPTIONS": json.dumps(options)}
    return WebServer(kind, APP, directory, env=env, port=port)


class Clients:
    """The clients of one server: `EACH` of every transport; the polls are idle, the others get events all the time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: list[RawClient] = []
        self.sockets: list[Socket] = []
        self.polls: list[RawClient] = []

    async def open(self, stack: AsyncExitStack) -> None:
        """Connect all of them, and wait until each is live."""
        for _ in range(EACH):
            self.streams.append(await stack.enter_async_context(RawClient(self.port, "/stream?user=alice")))
            self.sockets.append(await Socket.open(self.port, "/ws?user=alice"))
            stack.push_async_callback(self.sockets[-1].aclose)
            position = (await get(self.port, "/events?user=quiet"))["position"]
            target = f"/events?user=quiet&wait=25&after={position}"
            self.polls.append(await stack.enter_async_context(RawClient(self.port, target)))
        for stream in self.streams:
            await stream.read_until(b"notify.sync")
        for each in self.sockets:
            await each.read_until("notify.sync")
        for stream in self.streams:
            await stream.read_until(b'"n":')
        for _ in range(2 * EACH):  # polls are silent: what was asked later and is answered shows that they were read
            await get(self.port, "/events?user=quiet")
        for each in self.sockets:
            await each.read_until("message")

    async def read_all(self) -> float:
        """Read to the end of each, and return after how many seconds the last one ended."""
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for each in (*self.streams, *self.sockets, *self.polls):
                tasks.start_soon(each.read_all)
        return time.monotonic() - began

    def check_farewell(self, kind: str) -> None:
        """Every client was told to come back, and each response is complete."""
        retries = set()
        for stream in self.streams:
            if kind == CUTS and not stream.complete:
                continue
            assert stream.complete
            assert stream.headers["content-type"] == "text/event-stream"
            end = stream.frames[-1]
            assert (end.event, end.id, end.json["reason"]) == ("notify.end", "", "shutdown")
            assert int(end.retry) == end.json["retry"]
            retries.add(end.json["retry"])
        for each in self.sockets:
            end = each.received[-1]
            if end["event"] != "notify.end" or each.code != 4012:
                assert each.code in COME_BACK.get(kind, COME_BACK.get(kind.partition("-")[0], ()))
                continue
            assert (each.code, end["event"]) == (4012, "notify.end")
            assert end["data"]["reason"] == "shutdown"
            retries.add(end["data"]["retry"])
        for poll in self.polls:
            if kind == CUTS and not poll.complete:
                continue
            assert (poll.status, poll.complete, poll.json["events"]) == (200, True, [])
            assert poll.json["position"] == poll.target.rpartition("after=")[2]
        assert all(1000 * RETRY[0] <= retry <= 1000 * RETRY[1] for retry in retries)
        assert kind == CUTS or len(retries) > EACH / 2, "they would all come back at the same time"

    async def check_resumed(self, numbers: list[int], missed: list[int]) -> None:
        """Each goes on where it was, and has received everything once."""
        await until(self._is_serving, 20.0)
        for each in (*self.streams, *self.sockets):
            seen = [message["payload"]["n"] for message in each.messages]
            target = f"?user=alice&last_id={each.last_id}"
            if isinstance(each, Socket):
                rest = await Socket.open(self.port, f"/ws{target}")
                await rest.read_until("notify.sync")
                seen += [message["payload"]["n"] for message in rest.messages]
                await rest.aclose()
            else:
                async with RawClient(self.port, f"/stream{target}") as again:
                    await again.read_until(b"notify.sync")
                    seen += [message["payload"]["n"] for message in again.messages]
            assert seen == numbers[numbers.index(seen[0]) :]
        for poll in self.polls:
            found = await get(self.port, poll.target.replace("wait=25", "wait=0"))
            assert [event["payload"]["n"] for event in found["events"]] == missed

    async def _is_serving(self) -> bool:
        """Whether a new stream is not sent away: a server that reloads may do so twice."""
        try:
            async with RawClient(self.port, "/stream?user=another") as client:
                await client.read_until(b"event: notify.")
        except (OSError, AssertionError):
            return False
        return b"notify.sync" in client.body


class Pushing:
    """Pushes numbers to alice without a pause between before and after.

    From another process than the server's, which runs on when that ends; under trio, where only the memory store runs,
    through the server.
    """

    def __init__(self, notifier: Notifier[Any] | None) -> None:
        self.notifier = notifier
        self.port = 0
        self.numbers: list[int] = []
        self.stopping = False

    async def push(self, user: str, number: int) -> None:
        if self.notifier is None:
            await get(self.port, f"/inside/push?user={user}&first={number}")
        else:
            while True:
                try:
                    await self.notifier.push(user, "number", {"n": number}, key=str(number))
                except PushUncertainError:  # a busy machine
                    continue
                return

    async def run(self) -> None:
        while not self.stopping:
            try:
                await self.push("alice", len(self.numbers))
            except ConnectionError:
                if self.notifier is not None:
                    raise
                return  # the server has ended
            self.numbers.append(len(self.numbers))
            await anyio.sleep(0.005)


@asynccontextmanager
async def pushing(server: WebServer) -> AsyncIterator[Pushing]:
    async with AsyncExitStack() as stack:
        notifier = None
        if server.kind != "hypercorn-trio":
            notifier = await stack.enter_async_context(Notifier.from_url(url_of(server.directory)))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        pushing = Pushing(notifier)
        pushing.port = server.port
        tasks.start_soon(pushing.run)
        yield pushing


def limit_of(kind: str) -> float:
    """Seconds within which streams have to end: the drain window, and what the server waits before it tells anyone."""
    spec = KINDS[kind]
    return DRAIN + (spec.grace if spec.told == "cancelled" else 0.0)


@pytest.mark.parametrize(("kind", "how"), CASES, ids=lambda value: value)
async def test_clients_are_sent_away_and_miss_nothing(kind: str, how: str, tmp_path: Path, anyio_backend: str) -> None:
    """Each client gets a sign-off and a complete response in time, and resumes on the next process without a loss."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(server_of(kind, tmp_path))
        pushes = await stack.enter_async_context(pushing(server))
        clients = Clients(server.port)
        await clients.open(stack)
        if kind == "daphne":  # it ends without a word to anyone within a second after a handshake
            await anyio.sleep(2.1)
        began = time.monotonic()
        if how == "file":
            (server.watched / "changed.py").write_text("")
        else:
            server.send(signal.Signals[how])
        assert await clients.read_all() < limit_of(kind)
        clients.check_farewell(kind)
        if how != "file":
            await anyio.to_thread.run_sync(server.wait)
            slow = SLOW_QUIT if (kind, how) == ("gunicorn-uvicorn", "SIGINT") else 0.0
            assert time.monotonic() - began < limit_of(kind) + slow + 2.0
        if how == "SIGINT" or pushes.notifier is None:
            return  # what follows differs in nothing; or the events were in the memory of the server
        missed = [1, 2, 3]
        for number in missed:
            await pushes.push("quiet", number)
        if how == "file":
            await anyio.to_thread.run_sync(server.wait_ready)
        else:
            stack.enter_context(server_of(kind, tmp_path, server.port))
        await until(partial(lambda goal: len(pushes.numbers) > goal, len(pushes.numbers) + 5))
        pushes.stopping = True
        await clients.check_resumed(pushes.numbers, missed)


async def test_a_worker_that_is_killed_while_its_clients_are_told(tmp_path: Path, anyio_backend: str) -> None:
    """The other one has no streams, ends first, and hypercorn kills this one: its client misses nothing either."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(server_of(CUTS, tmp_path))
        notifier = await stack.enter_async_context(Notifier.from_url(url_of(tmp_path)))
        client = await stack.enter_async_context(RawClient(server.port, "/stream?user=alice"))
        await client.read_until(b"notify.sync")
        await notifier.push("alice", "number", {"n": 0})
        await client.read_until(b'"n":0')
        server.send(signal.SIGTERM)
        for number in (1, 2):
            await notifier.push("alice", "number", {"n": number})
        await client.read_all(limit_of(CUTS) + 2.0)
        await anyio.to_thread.run_sync(server.wait)
        stack.enter_context(server_of(CUTS, tmp_path, server.port))
        async with RawClient(server.port, f"/stream?user=alice&last_id={client.last_id}") as again:
            await again.read_until(b"notify.sync")
            assert [each["payload"]["n"] for each in (*client.messages, *again.messages)] == [0, 1, 2]


@pytest.mark.parametrize("kind", ["uvicorn", "uvicorn-h11", "hypercorn-w0", "granian", "daphne", "gunicorn"])
async def test_the_servers_handlers_come_back(kind: str, tmp_path: Path, anyio_backend: str) -> None:
    """While a stream is open there is one handler on top; after the last one, those of the server are installed."""
    with server_of(kind, tmp_path) as server:
        before = (await get(server.port, "/inside"))["handlers"]
        assert "SignalLink" not in before
        async with RawClient(server.port, "/stream?user=alice") as first:
            await first.read_until(b"notify.sync")
            async with RawClient(server.port, "/stream?user=bob") as second:
                await second.read_until(b"notify.sync")
            inside = await get(server.port, "/inside")
            assert inside["handlers"] == ["SignalLink"] * 2

        async def restored() -> bool:
            inside = await get(server.port, "/inside")
            return inside["closing"] == 0 and inside["handlers"] == before

        await until(restored)
        assert server.stop() < 5.0


@pytest.mark.parametrize("kind", ["uvicorn", "granian"])
async def test_a_client_that_is_being_authenticated(kind: str, tmp_path: Path, anyio_backend: str) -> None:
    """The shutdown ends the connection of a client that is being authenticated, without waiting for `authenticate`."""
    with server_of(kind, tmp_path) as server:
        async with RawClient(server.port, "/stream?user=alice&delay=1") as client:
            await until(partial(_has, server.port, "closing", 1))
            server.send(signal.SIGTERM)
            await client.read_all(3.0)
            assert client.complete
            assert client.frames[-1].event == "notify.end"
            await anyio.to_thread.run_sync(server.wait)


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn-w0", "granian"])
async def test_an_endpoint_that_is_still_authenticating(kind: str, tmp_path: Path, anyio_backend: str) -> None:
    """It had no stream open when the signal came, and learns of it from the application that had one."""
    with server_of(kind, tmp_path) as server:
        async with (
            RawClient(server.port, "/stream?user=alice") as told,
            RawClient(server.port, "/view?user=bob&delay=0.8") as late,
        ):
            await told.read_until(b"notify.sync")
            await until(partial(_has, server.port, "views", 1))
            server.send(signal.SIGTERM)
            for client in (told, late):
                await client.read_all(10.0)
                assert (client.complete, client.frames[-1].json["reason"]) == (True, "shutdown")
            await anyio.to_thread.run_sync(server.wait)


async def _has(port: int, name: str, value: int) -> bool:
    return bool((await get(port, "/inside"))[name] == value)


@pytest.mark.parametrize("kind", ["uvicorn", "uvicorn-h11", "granian", "gunicorn", "gunicorn-uvicorn"])
async def test_a_reader_that_has_stopped_keeps_nobody(kind: str, tmp_path: Path, anyio_backend: str) -> None:
    """Every other client is sent away at once, and the server ends within its own limit, which deploy.md names."""
    spec = KINDS[kind]
    env = {"TEST_STORE": "memory://", "TEST_OPTIONS": "{}"}
    with WebServer(kind, APP, tmp_path, env=env, options=spec.graceful) as server:
        async with (
            RawClient(server.port, "/stream?user=alice") as stopped,
            RawClient(server.port, "/stream?user=bob") as reading,
        ):
            await stopped.read_until(b"notify.sync")
            await reading.read_until(b"notify.sync")
            await fill(server.port, "alice")
            began = time.monotonic()
            server.send(signal.SIGTERM)
            await reading.read_all(DRAIN)
            assert reading.frames[-1].event == "notify.end"
            await anyio.to_thread.run_sync(server.wait)
            assert time.monotonic() - began < 4.0 + 2.0


async def fill(port: int, user: str, megabytes: int = 12) -> None:
    """Push more than the buffers between server and client hold."""
    await get(port, f"/inside/push?user={user}&count={megabytes * 25}&size=40000")


async def test_the_server_of_the_page(anyio_backend: str) -> None:
    """`Server` in docs/howto/deploy.md sends clients away when it is told to end without a signal."""

    def made() -> dict[str, Any]:
        namespace: dict[str, Any] = {"__name__": "page"}
        exec(next(snippets(PAGE, "python")).source, namespace)
        return namespace

    page = await anyio.to_thread.run_sync(made)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = page["Server"](uvicorn.Config(page["web"], ws="none", log_level="error"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            async with RawClient(listener.getsockname()[1], "/stream?user=alice") as client:
                await client.read_until(b"notify.sync")
                server.should_exit = True
                await client.read_all(DRAIN)
                assert (client.complete, client.frames[-1].json["reason"]) == (True, "shutdown")
        finally:
            server.should_exit = True
            await anyio.to_thread.run_sync(thread.join, 10)
    assert not thread.is_alive()
    await page["notifier"].aclose()


def test_the_page_names_each_server_and_its_options(anyio_backend: str) -> None:
    """The reader who runs one of the servers finds its command, and what bounds its end."""
    text = PAGE.read_text(encoding="utf-8")
    for kind, spec in KINDS.items():
        assert f"`{kind.partition('-')[0]} " in text
        assert all(option in text for option in spec.graceful if option.startswith("--"))


async def test_a_server_in_a_thread_and_begin_shutdown(anyio_backend: str) -> None:
    """No signal reaches it: `begin_shutdown`, called from another thread, sends clients away, and later ones too."""

    def made() -> tuple[Notifier[Any], NotifyApp]:  # in another thread than this event loop's, as the server is
        notifier = Notifier(MemoryStreamStore())
        return notifier, NotifyApp(notifier, lambda request: request.query.get("user"))

    notifier, web = await anyio.to_thread.run_sync(made)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(web, ws="none", log_level="error"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            async with (
                RawClient(port, "/stream?user=alice") as open_before,
                RawClient(port, "/stream?user=bob") as after,
            ):
                await open_before.read_until(b"notify.sync")
                assert type(signal.getsignal(signal.SIGTERM)).__name__ != "SignalLink"
                web.begin_shutdown()
                await open_before.read_all(DRAIN)
                await after.read_all(DRAIN)
                assert [open_before.frames[-1].event, after.frames[-1].event] == ["notify.end", "notify.end"]
            async with RawClient(port, "/stream?user=alice") as late:
                await late.read_all(DRAIN)
            assert (late.status, late.complete, len(late.frames)) == (200, True, 1)
            assert (late.frames[0].event, late.frames[0].json["reason"]) == ("notify.end", "shutdown")
            assert int(late.frames[0].retry) >= 1000 * RETRY[0]
        finally:
            server.should_exit = True
            await anyio.to_thread.run_sync(thread.join, 10)
    assert not thread.is_alive()
    await notifier.aclose()
