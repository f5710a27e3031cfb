"""What servers and clients rarely do to a stream, in process: each ends it, or is of no importance."""

from __future__ import annotations

import logging
import time
from typing import Any

import anyio
import h11
import pytest

from notify import Notifier, UsageError
from notify.web import Identity, NotifyApp, Request
from notify.web.durable import DurableStreams
from notify_memory import MemoryPresence, MemoryStore
from tests.parts import PlainStore, until
from tests.web.test_sse_many import Client, authenticate

pytestmark = pytest.mark.anyio


class Hanging(PlainStore):
    """A store that never says where a log ends."""

    async def head(self, user: str) -> str:
        await super().head(user)
        await anyio.sleep_forever()
        return "0"


class GatedPresence:
    """Presence that registers nobody before a gate is open."""

    def __init__(self) -> None:
        self.inner, self.gate = MemoryPresence(), anyio.Event()

    async def register(self, user: str, routing: Any = None) -> Any:
        await self.gate.wait()
        return await self.inner.register(user, routing)

    async def locate(self, users: Any) -> Any:
        return await self.inner.locate(users)

    async def aclose(self) -> None:
        await self.inner.aclose()


async def test_an_event_that_comes_while_a_stream_from_now_is_opened() -> None:
    """The client learns that there is nothing to replay, and then sees the event."""
    presence = GatedPresence()
    async with Notifier(MemoryStore(), presence=presence) as notifier:
        app = NotifyApp(notifier, authenticate)
        async with anyio.create_task_group() as tasks:
            client = Client(app, "alice")
            tasks.start_soon(client.run)
            await until(lambda: notifier.statistics().open_streams == 1)
            await notifier.push("alice", "t", "early")
            presence.gate.set()
            await until(lambda: b"early" in client.body)
            assert 0 < client.body.find(b"notify.sync") < client.body.find(b"early")
            tasks.cancel_scope.cancel()


def session_of(app: NotifyApp, user: str) -> Any:
    return next(iter(app._site.limits._users[user]))


async def test_too_many_addresses() -> None:
    """A stream reads a hundred logs at most; a request for more is refused."""
    names = [f"topic{number}" for number in range(120)]

    def auth(_: Request) -> Identity:
        return Identity("alice", addresses=names)

    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, auth)
        for count, status in ((99, 200), (100, 400)):
            client = Client(app, "alice")
            client.scope["query_string"] = "&".join(f"address={name}" for name in names[:count]).encode()
            async with anyio.create_task_group() as group:
                group.start_soon(client.run)
                await until(lambda client=client: client.body)
                client.left.set()
            assert client.status == status
        assert app._site.limits.open == 0


async def test_an_interruption_without_a_reason_changes_nothing() -> None:
    """No heartbeat, no end: the stream waits again."""
    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, authenticate)
        client = Client(app, "alice")
        async with anyio.create_task_group() as group:
            group.start_soon(client.run)
            await client.synced.wait()
            before = client.body
            for _ in range(3):
                session_of(app, "alice").stream.interrupt()
                await anyio.wait_all_tasks_blocked()
            assert client.body == before
            await notifier.push("alice", "t", 7)
            await until(lambda: b'"payload":7' in client.body)
            client.left.set()


class Stuck(Client):
    """A client that reads nothing of the body."""

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "http.response.body":
            await anyio.sleep_forever()


@pytest.mark.parametrize("how", ["begin_shutdown", "aclose"])
async def test_a_shutdown_does_not_wait_for_a_client_that_does_not_read(how: str) -> None:
    """Longer than the streams have to sign off; nor is such a client forgotten, and its stream kept for ever."""
    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, authenticate, drain=0.2, send_timeout=60.0)
        client = Stuck(app, "alice")
        began = time.monotonic()
        async with anyio.create_task_group() as group:
            group.start_soon(client.run)
            await until(lambda: client.body)
            ended = getattr(app, how)()
            if ended is not None:
                await ended
        assert time.monotonic() - began < 20
        assert notifier.statistics().open_streams == 0


async def test_a_heartbeat_that_is_due_while_a_stream_is_opened() -> None:
    """It does not end the opening, which has its own limit."""
    async with Notifier(Hanging(), timeout=0.6) as notifier:
        app = NotifyApp(notifier, authenticate, heartbeat=0.1)
        client = Client(app, "alice")
        began = time.monotonic()
        await client.run()
        assert time.monotonic() - began > 0.5
        assert b'"overload"' in client.body


@pytest.mark.parametrize("how", ["leave", "cancel", "shutdown", "lifetime"])
async def test_a_stream_that_ends_while_it_is_opened(how: str) -> None:
    """Whatever ends it, at once and completely; a client that is still there is told."""
    async with Notifier(Hanging(), timeout=30) as notifier:
        notifier._is_informed = True
        app = NotifyApp(notifier, authenticate, lifetime=0.5 if how == "lifetime" else 900.0)
        client = Client(app, "alice")
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(client.run)
                await until(lambda: app._site.limits.open)
                await anyio.wait_all_tasks_blocked()
                if how == "leave":
                    client.left.set()
                elif how == "cancel":
                    group.cancel_scope.cancel()
                elif how == "shutdown":
                    app.begin_shutdown()
        assert app._site.limits.open == len(app._site.ticker) == len(app._site.closing) == 0
        assert not app._site.turns.is_busy
        assert notifier.statistics().open_streams == 0
        told = f'"{how}"'.encode() in client.body
        assert told == (how in ("shutdown", "lifetime"))


async def test_a_server_that_cancels_gets_a_last_frame() -> None:
    """hypercorn and daphne tell the application in no other way."""
    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, authenticate)
        client = Client(app, "alice")
        async with anyio.create_task_group() as group:
            group.start_soon(client.run)
            await client.synced.wait()
            group.cancel_scope.cancel()
        assert b'event: notify.end\ndata: {"reason":"shutdown"' in client.body
        assert notifier.statistics().open_streams == 0


async def test_what_a_client_sends_is_of_no_importance() -> None:
    """A body in parts and one that is repeated are ignored; a server whose `receive` fails has lost the client."""

    class Chatty(Client):
        received = 0

        async def receive(self) -> Any:
            self.received += 1
            if self.received < 5:
                return {"type": "http.request", "body": b"x", "more_body": self.received < 3}
            await self.left.wait()
            raise OSError("the connection is gone")

    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, authenticate)
        client = Chatty(app, "alice")
        async with anyio.create_task_group() as group:
            group.start_soon(client.run)
            await client.synced.wait()
            await until(lambda: client.received == 5)
            await notifier.push("alice", "t", 7)
            await until(lambda: b'"payload":7' in client.body)
            client.left.set()
        assert notifier.statistics().open_streams == 0


async def test_a_body_without_end_does_not_stop_the_event_loop() -> None:
    """A client, or a wrapper around the server, that always has one more message."""

    class Endless(Client):
        async def receive(self) -> Any:
            if self.left.is_set():
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": b"", "more_body": False}

    async with Notifier(MemoryStore()) as notifier:
        client = Endless(NotifyApp(notifier, authenticate), "alice")
        async with anyio.create_task_group() as group:
            group.start_soon(client.run)
            with anyio.fail_after(5):
                await client.synced.wait()
            client.left.set()
        assert notifier.statistics().open_streams == 0


async def test_other_kinds_of_connections_are_refused() -> None:
    """An ASGI server that offers something unknown is told so; the lifespan is served, and can be repeated."""
    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, authenticate)
        sent: list[str] = []

        async def send(message: Any) -> None:
            sent.append(message["type"])

        for _ in range(2):
            messages = iter(["lifespan.startup", "lifespan.unknown", "lifespan.shutdown"])

            async def receive(messages: Any = messages) -> Any:
                return {"type": next(messages)}

            await app({"type": "lifespan"}, receive, send)
            assert app._site.closing.begun
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"] * 2
        with pytest.raises(UsageError, match="Notifier"):
            NotifyApp("notifier", authenticate)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="webtransport"):
            await app({"type": "webtransport"}, receive, send)
        await app.aclose()


async def test_a_server_that_starts_again_streams_again() -> None:
    """After the end of one lifespan, the next one finds everything ready."""
    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, authenticate)
        for _ in range(2):
            app._site.closing.reopen()
            client = Client(app, "alice")
            async with anyio.create_task_group() as group:
                group.start_soon(client.run)
                await client.synced.wait()
                await app.aclose()
            assert b'"shutdown"' in client.body


@pytest.mark.parametrize("when", ["live", "end"])
async def test_a_send_that_fails_means_that_the_client_is_gone(when: str) -> None:
    """Servers of ASGI 2.4 say so; that is not an error of the application."""

    class Gone(Client):
        async def send(self, message: Any) -> None:
            if (b"notify.end" if when == "end" else b'"payload":7') in message.get("body", b""):
                raise BrokenPipeError
            await super().send(message)

    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, authenticate)
        client = Gone(app, "alice")
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(client.run)
                await client.synced.wait()
                await notifier.push("alice", "t", 7)
                app.begin_shutdown()
        assert notifier.statistics().open_streams == 0
        assert b"notify.end" not in client.body or when == "live"


async def test_no_more_streams_than_allowed_though_all_come_at_once() -> None:
    """Those that were authenticated at the same time are counted when they are opened."""
    gate = anyio.Event()

    async def slow(request: Request) -> str:
        await gate.wait()
        return request.query["user"]

    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, slow, max_streams=3)
        clients = [Client(app, f"user{number}") for number in range(8)]
        async with anyio.create_task_group() as group:
            for client in clients:
                group.start_soon(client.run)
            await anyio.wait_all_tasks_blocked()
            gate.set()
            await until(lambda: all(client.body for client in clients))
            assert sum(client.synced.is_set() for client in clients) == 3
            assert sum(b'"overload"' in client.body for client in clients) == 5
            assert app._site.limits.open == 3
            for client in clients:
                client.left.set()
        assert app._site.limits.open == 0


async def test_a_head_that_cannot_be_sent() -> None:
    """A client that reads nothing from the beginning is given up, whatever it waits for."""

    class Deadlocked(Client):
        async def send(self, message: Any) -> None:
            await anyio.sleep_forever()

    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, authenticate, send_timeout=0.2)
        for busy in (False, True):
            while busy and not app._site.turns.is_busy:
                await app._site.turns.acquire(object())
            with anyio.fail_after(10):
                await Deadlocked(app, "alice").run()
        assert notifier.statistics().open_streams == 0


async def test_waking_a_session_that_is_being_opened_does_not_end_it() -> None:
    """A command that comes early waits; the stream opens as if nothing had been."""
    gate = anyio.Event()

    class Gated(PlainStore):
        async def head(self, user: str) -> str:
            await gate.wait()
            return await super().head(user)

    async with Notifier(Gated()) as notifier:
        notifier._is_informed = True
        app = NotifyApp(notifier, authenticate)
        client = Client(app, "alice")
        async with anyio.create_task_group() as group:
            group.start_soon(client.run)
            await until(lambda: app._site.limits.open)
            await anyio.wait_all_tasks_blocked()
            session_of(app, "alice").wake()
            gate.set()
            with anyio.fail_after(10):
                await client.synced.wait()
            assert b":\n" not in client.body.replace(b"data:", b"")
            client.left.set()


@pytest.mark.parametrize("allowed", [0, 1, 2])
@pytest.mark.parametrize(
    "path",
    [
        "/stream",
        "/events",
        "/events?wait=0.1",
        "/ws",
        "/durable?offset=-1&live=sse",
        "/durable?offset=-1&live=long-poll",
    ],
)
@pytest.mark.parametrize("is_ending", [False, True])
@pytest.mark.parametrize("error", [OSError, RuntimeError, h11.LocalProtocolError])
async def test_a_send_that_fails(
    path: str, allowed: int, is_ending: bool, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """`send` raises OSError once the client is gone, as ASGI 2.4 says; RuntimeError, or an error of h11, if uvicorn has
    closed the connection itself: each ends the stream without an error. Unless it is an OSError, it may come from a bug
    in a middleware, so the place where it was raised is logged; not its text, which may quote a request."""
    caplog.set_level(logging.DEBUG, "notify")
    sent: list[Any] = []
    failed: list[Any] = []

    async def receive() -> Any:
        if path == "/ws" and not connected.is_set():
            connected.set()
            return {"type": "websocket.connect"}
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        if len(sent) >= allowed:
            failed.append(message)
            raise error("the client is gone")
        sent.append(message)

    connected = anyio.Event()
    path, _, query = path.partition("?")
    async with Notifier(MemoryStore()) as notifier:
        await notifier.push("alice", "t", 1)
        options: Any = {"heartbeat": 0.05}
        app = NotifyApp(notifier, lambda request: "alice", **options)
        durable = DurableStreams(notifier, lambda request: "alice", long_poll=0.1, **options)
        scope = {"type": "websocket" if path == "/ws" else "http", "method": "GET", "path": path, "headers": []}
        scope["query_string"] = query.encode()
        if is_ending:
            app.begin_shutdown()
        with anyio.fail_after(10):  # a heartbeat fails where nothing else has to be sent
            if path == "/durable":
                await durable(scope | {"path": "/alice"}, receive, send)
            else:
                await app(scope, receive, send)
        for site in (app._site, durable._site):
            assert site.limits.open == len(site.ticker) == 0
        assert notifier.statistics().open_streams == 0
    logged = [each.getMessage() for each in caplog.records if each.getMessage().startswith("send raised")]
    assert len(logged) == (0 if error is OSError else len(failed))
    assert all(f"{error.__name__} at {__file__}:" in each and "gone:" not in each for each in logged)


@pytest.mark.parametrize("allowed", [0, 1])
@pytest.mark.parametrize("path", ["/stream", "/events", "/health"])
async def test_a_fault_of_a_middleware_reaches_the_server(path: str, allowed: int) -> None:
    """Any other error that `send` raises is passed on, and not taken for a client that has gone."""
    sent: list[Any] = []

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        if len(sent) >= allowed:
            raise KeyError("of a middleware")
        sent.append(message)

    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, lambda request: "alice")
        scope: Any = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
        with pytest.raises(KeyError, match="of a middleware"):
            await app(scope, receive, send)
        assert notifier.statistics().open_streams == 0
