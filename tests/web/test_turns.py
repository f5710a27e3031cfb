"""Connections that wait for a turn, and stores that answer slowly while one is held."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from notify import Event, Notifier, Page
from notify.inbox import Inbox
from notify.web import Identity, NotifyApp, Request
from notify.web._limits import TURNS
from notify.web.durable import DurableStreams
from notify_memory import MemoryStore
from tests.parts import PlainStore, until

pytestmark = pytest.mark.anyio

TARGETS = {
    "sse": "/stream?last_id=0",
    "websocket": "/ws?last_id=0",
    "poll": "/events?after=0&wait=20&limit=1000",
    "durable poll": "/alice?offset=-1&live=long-poll",
    "durable sse": "/alice?offset=-1&live=sse",
}


class SlowStore(PlainStore):
    """Answers reads of the users `slow`, up to a position, when `gate` is set; `on_read` runs during each read."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = anyio.Event()
        self.slow: str | None = None
        self.is_slow_after: Callable[[str], bool] = lambda _: True
        self.on_read: Callable[[], Any] | None = None

    async def read(self, user: str, after: str, limit: int) -> Page:
        if self.on_read is not None:
            await self.on_read()
        if user == self.slow and self.is_slow_after(after):
            await self.gate.wait()
        return await super().read(user, after, limit)

    def fill(self, user: str, count: int, payload: Any = None) -> None:
        for _ in range(count):
            self.inner.save_nowait(Event(user, "t", payload))


class Call:
    """One request, and what the application has sent."""

    def __init__(self, app: Any, target: str, user: str = "alice") -> None:
        path, _, query = target.partition("?")
        self.app = app
        self.left = anyio.Event()
        self.sent: list[Any] = []
        self.on_send: Callable[[Any], Any] = lambda _: None
        self.over = False
        self._connected = False
        kind = "websocket" if path == "/ws" else "http"
        self.scope: dict[str, Any] = {
            "type": kind, "method": "GET", "path": path, "query_string": query.encode(),
            "headers": [(b"x-user", user.encode()), (b"host", b"a")], "scheme": "http", "client": ["127.0.0.1", 1],
        }  # fmt: skip

    async def receive(self) -> Any:
        if self.scope["type"] == "websocket" and not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        await self.left.wait()
        return {"type": self.scope["type"] + ".disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        self.on_send(message)

    async def run(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        finally:
            self.over = True

    @property
    def status(self) -> int:
        return next((message["status"] for message in self.sent if "status" in message), 0)

    @property
    def headers(self) -> dict[str, str]:
        heads = [message["headers"] for message in self.sent if "status" in message]
        assert len(heads) <= 1
        return {name.decode(): value.decode() for name, value in (heads[0] if heads else ())}

    @property
    def text(self) -> str:
        return "".join(message.get("text", "") + message.get("body", b"").decode() for message in self.sent)

    @property
    def is_complete(self) -> bool:
        last = self.sent[-1] if self.sent else {"type": ""}
        return last["type"] == "websocket.close" or (
            last["type"] == "http.response.body" and not last.get("more_body", False)
        )


def authenticate(request: Request) -> str:
    return request.headers["x-user"]


def application(kind: str, notifier: Notifier, auth: Any = authenticate, **options: Any) -> Any:
    return DurableStreams(notifier, auth, **options) if "durable" in kind else NotifyApp(notifier, auth, **options)


def session_of(app: Any, user: str = "alice") -> Any:
    return next(iter(app._site.limits._users[user]))


class Others:
    """Replays that hold all turns until they are told to end them."""

    def __init__(self, turns: Any, group: Any) -> None:
        self.turns, self.group = turns, group

    async def come(self) -> None:
        """Take all turns; what is held by a connection, as soon as it ends."""
        for number in range(TURNS):
            self.group.start_soon(self.turns.acquire, number)
        await until(lambda: len(self.turns._held) == TURNS)
        await anyio.wait_all_tasks_blocked()

    def go(self) -> None:
        for number in range(TURNS):
            self.turns.discard(number)


@asynccontextmanager
async def waiting(kind: str, phase: str, app: Any, store: SlowStore, call: Call) -> AsyncIterator[Others]:
    """Run a call until it waits for a turn, to be opened or to replay."""
    turns = app._site.turns
    async with anyio.create_task_group() as group:
        others = Others(turns, group)
        came = anyio.Event()

        async def come() -> None:
            if not came.is_set():
                came.set()
                await others.come()

        if phase == "opening":
            await come()
        else:
            store.on_read = come
        group.start_soon(call.run)
        await until(lambda: app._site.limits.open and session_of(app) in turns._waiting)
        yield others
        others.go()
        call.left.set()
    assert turns._held == turns._waiting == {}
    assert app._site.limits.open == 0


@pytest.fixture(autouse=True)
def held(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Turns last until they are released, but for the tests about that."""
    callspec = getattr(request.node, "callspec", None)
    seconds = callspec and callspec.params.get("hold")
    monkeypatch.setattr("notify.web._limits.HOLD", seconds or 3600.0)


@pytest.mark.parametrize("phase", ["opening", "replay"])
@pytest.mark.parametrize("reason", ["shutdown", "lifetime", "replaced"])
@pytest.mark.parametrize("kind", TARGETS)
async def test_a_wait_for_a_turn_ends_at_once(kind: str, reason: str, phase: str) -> None:
    """Although no turn comes; the client is told why."""
    store = SlowStore()
    store.fill("alice", 3)
    lifetime = 1.5 if reason == "lifetime" else 900.0  # enough to come to the wait on a busy machine
    async with Notifier(store) as notifier:
        app = application(kind, notifier, lifetime=lifetime, max_streams_per_user=1, heartbeat=60.0)
        call = Call(app, TARGETS[kind])
        async with waiting(kind, phase, app, store, call), anyio.create_task_group() as group:
            if reason == "shutdown":
                app.begin_shutdown()
            elif reason == "replaced":
                group.start_soon(Call(app, TARGETS[kind]).run)
            await until(lambda: call.over)
            group.cancel_scope.cancel()
        if kind == "websocket":
            assert call.sent[-1]["reason"] == reason
        elif "durable" in kind:
            code = "shutting_down" if reason == "shutdown" else "unavailable"
            assert (call.status, json.loads(call.text)["error"]["code"]) == (503, code)
            assert "stream-up-to-date" not in call.headers
        else:
            assert f'"reason":"{reason}"' in call.text
        assert call.is_complete


@pytest.mark.parametrize(
    ("kind", "phase"), [("sse", "opening"), ("sse", "replay"), ("websocket", "opening"), ("websocket", "replay")]
)
async def test_a_wait_for_a_turn_has_heartbeats(kind: str, phase: str) -> None:
    """It keeps its place in the queue, and then gets everything."""
    store = SlowStore()
    store.fill("alice", 3)
    async with Notifier(store) as notifier:
        app = application(kind, notifier, heartbeat=0.1)
        call = Call(app, TARGETS[kind])
        heartbeat = "notify.ping" if kind == "websocket" else ":\n"
        async with waiting(kind, phase, app, store, call) as others:
            session = session_of(app)
            others.group.start_soon(app._site.turns.acquire, "later")
            await until(lambda: call.text.count(heartbeat) >= 3)
            assert next(iter(app._site.turns._waiting)) is session
            assert "notify.sync" not in call.text
            others.go()
            await until(lambda: "notify.sync" in call.text)
            app._site.turns.discard("later")
        assert call.text.count('"type":"t"') == 3


@pytest.mark.parametrize("phase", ["opening", "replay"])
@pytest.mark.parametrize("kind", ["poll", "durable poll", "durable sse"])
async def test_a_wait_for_a_turn_without_heartbeats(kind: str, phase: str) -> None:
    """A request whose response has not begun is sent nothing when a heartbeat is due, and then gets everything."""
    store = SlowStore()
    store.fill("alice", 3)
    async with Notifier(store) as notifier:
        app = application(kind, notifier, heartbeat=0.05)
        call = Call(app, TARGETS[kind])
        async with waiting(kind, phase, app, store, call) as others:
            turns, session = app._site.turns, session_of(app)
            first = turns._waiting[session]
            await until(lambda: first.is_set() and turns._waiting[session] is not first)  # interrupted, it waits again
            assert call.sent == []
            others.go()
            await until(lambda: call.text.count('"type":"t"') == 3)


async def test_heartbeats_of_durable_streams() -> None:
    """A stream that has begun writes them in the middle of a replay, and nothing is lost."""
    store = SlowStore()
    store.fill("alice", 4, "x" * 100)
    async with Notifier(store) as notifier:
        app = application("durable sse", notifier, heartbeat=0.1, chunk=150)
        call = Call(app, TARGETS["durable sse"])
        async with anyio.create_task_group() as group:
            others = Others(app._site.turns, group)

            def take_all(message: Any) -> None:
                if message.get("body") and not app._site.turns._held:
                    call.on_send = lambda _: None
                    for number in range(TURNS):
                        app._site.turns._held[number] = anyio.current_time() + 3600

            call.on_send = take_all
            group.start_soon(call.run)
            await until(lambda: call.text.count(":\n") >= 2)
            assert "upToDate" not in call.text
            others.go()
            await until(lambda: "upToDate" in call.text)
            call.left.set()
        assert call.text.count('"type":"t"') == 4


async def test_heartbeats_of_durable_streams_on_a_slow_store() -> None:
    """What was read before the store became slow is written with the heartbeat."""
    store = SlowStore()
    store.fill("alice", 600)
    store.slow, store.is_slow_after = "alice", lambda after: not after.startswith("0")
    async with Notifier(store) as notifier:
        app = application("durable sse", notifier, heartbeat=0.1, chunk=1200)
        call = Call(app, TARGETS["durable sse"])
        async with anyio.create_task_group() as group:
            group.start_soon(call.run)
            await until(lambda: call.text.count('"type":"t"') == 500 and ":\n" in call.text)
            assert "upToDate" not in call.text
            store.gate.set()
            await until(lambda: "upToDate" in call.text)
            call.left.set()
        assert call.text.count('"type":"t"') == 600


@pytest.mark.parametrize("hold", [0.1])
@pytest.mark.parametrize("page", ["first", "second"])
@pytest.mark.parametrize("kind", TARGETS)
async def test_a_slow_store_holds_no_turn(kind: str, page: str, hold: float) -> None:
    """More slow reads than there are turns: another user replays too, and in the end each has everything."""
    store = SlowStore()
    store.fill("slow", 600)
    store.fill("quick", 3)
    store.slow = "slow"
    if page == "second":
        store.is_slow_after = lambda after: not after.startswith("0")
    target = TARGETS[kind].replace("alice", "slow")
    done = "upToDate" if kind == "durable sse" else "notify.sync"
    async with Notifier(store, timeout=60) as notifier:
        app = application(kind, notifier, heartbeat=60.0, send_timeout=5.0, max_streams_per_user=100)
        calls = [Call(app, target, "slow") for _ in range(TURNS + 8)]
        quick = Call(app, TARGETS[kind].replace("alice", "quick"), "quick")
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(call.run)
            await until(lambda: notifier.statistics().open_streams == len(calls), 10)
            group.start_soon(quick.run)
            await until(lambda: done in quick.text or quick.over)
            assert quick.text.count('"type":"t"') == 3
            assert not any(call.over or done in call.text for call in calls)
            store.gate.set()
            await until(lambda: all(done in call.text or call.over for call in calls), 20)
            for call in [*calls, quick]:
                call.left.set()
        assert app._site.turns._held == app._site.turns._waiting == {}
        assert {call.text.count('"type":"t"') for call in calls} == {600}


# -- long polls of Durable Streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/stream", "/ws", "/events?wait=20"])
async def test_a_stream_that_starts_from_now_needs_no_turn(target: str) -> None:
    """It has nothing to replay, so it does not wait for the replays of others."""
    async with Notifier(PlainStore()) as notifier:
        app = NotifyApp(notifier, lambda request: request.headers["x-user"])
        turns = app._site.turns
        for number in range(TURNS):
            assert turns.take(number)
        call = Call(app, target)
        async with anyio.create_task_group() as group:
            group.start_soon(call.run)
            await until(lambda: app._site.limits.open and session_of(app)._is_open)
            await notifier.push("alice", "t", "news")
            await until(lambda: "news" in call.text)
            assert all(turns.is_held_by(number) for number in range(TURNS))
            call.left.set()


@pytest.mark.parametrize("target", ["/stream", "/ws", "/events?wait=20"])
async def test_a_stream_with_an_inbox_takes_a_turn(target: str) -> None:
    """It reads the counts of the inbox, wherever it starts: thousands of them at once would be too many for a store."""
    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, lambda request: request.headers["x-user"], inbox=Inbox(notifier))
        turns = app._site.turns
        for number in range(TURNS):
            assert turns.take(number)
        call = Call(app, target)
        async with anyio.create_task_group() as group:
            group.start_soon(call.run)
            await until(lambda: turns._waiting)
            assert notifier.statistics().open_streams == 0
            turns.release(0)
            await until(lambda: notifier.statistics().open_streams == 1)
            call.left.set()


async def ended_poll(phase: str, reason: str) -> Call:
    """Let a long poll end in this phase for this reason, and return it."""
    store = SlowStore()
    if phase == "replay":
        store.fill("alice", 600)
        store.slow, store.is_slow_after = "alice", lambda after: not after.startswith("0")

    def auth(request: Request) -> Identity:
        expires = datetime.now(UTC) + timedelta(seconds=0.5 if reason == "expired" else 3600)
        return Identity("alice", expires_at=expires)

    lifetime, long_poll = 0.5 if reason == "lifetime" else 900.0, 0.3 if reason == "time" else 30.0
    async with Notifier(store) as notifier:
        app = application("durable", notifier, auth, lifetime=lifetime, long_poll=long_poll, max_streams_per_user=1)
        call = Call(app, TARGETS["durable poll"])
        async with anyio.create_task_group() as group:
            group.start_soon(call.run)
            await until(lambda: app._site.limits.open and session_of(app)._is_open)
            await anyio.wait_all_tasks_blocked()
            if reason == "shutdown":
                app.begin_shutdown()
            elif reason == "disconnected":
                await notifier.disconnect("alice")
            elif reason == "replaced":
                group.start_soon(Call(app, TARGETS["durable poll"]).run)
            elif reason == "overload":
                session_of(app).stop("overload")
            elif reason == "left":
                call.left.set()
            elif reason == "cancelled":
                group.cancel_scope.cancel()
            await until(lambda: call.over)
            group.cancel_scope.cancel()
        assert not app._site.turns._held
        assert app._site.limits.open == 0
        assert len(app._site.closing) == (call.status == 204 and reason != "shutdown")  # the next poll is expected
    return call


@pytest.mark.parametrize("phase", ["replay", "live"])
@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("expired", 401, "unauthenticated"),
        ("disconnected", 401, "unauthenticated"),
        ("overload", 503, "unavailable"),
        ("replaced", 503, "unavailable"),
        ("cancelled", 503, "shutting_down"),
    ],
)
async def test_a_long_poll_that_ends_with_an_error(phase: str, reason: str, status: int, code: str) -> None:
    """It says why, and when to come back; never that the log was read."""
    call = await ended_poll(phase, reason)
    assert (call.status, json.loads(call.text)["error"]["code"]) == (status, code)
    assert call.is_complete
    assert "stream-up-to-date" not in call.headers
    assert ("retry-after" in call.headers) == (status == 503)
    if reason == "replaced":
        assert int(call.headers["retry-after"]) >= 120


@pytest.mark.parametrize("reason", ["shutdown", "lifetime", "time"])
async def test_a_long_poll_that_ends_without_events(reason: str) -> None:
    """The log was read to its end, and nothing has come since."""
    call = await ended_poll("live", reason)
    assert (call.status, call.text, call.is_complete) == (204, "", True)
    assert "stream-up-to-date" in call.headers
    assert {"stream-next-offset", "stream-cursor"} <= call.headers.keys()


@pytest.mark.parametrize(("reason", "code"), [("shutdown", "shutting_down"), ("lifetime", "unavailable")])
async def test_a_long_poll_that_has_not_read_the_log(reason: str, code: str) -> None:
    """It asks the client to come back, and does not claim that the log was read."""
    call = await ended_poll("replay", reason)
    assert (call.status, json.loads(call.text)["error"]["code"]) == (503, code)
    assert "retry-after" in call.headers
    assert "stream-up-to-date" not in call.headers


async def test_a_long_poll_whose_client_leaves() -> None:
    """It is answered nonetheless, because some middleware logs an error if there is no response."""
    call = await ended_poll("live", "left")
    assert (call.status, json.loads(call.text)["error"]["code"]) == (400, "incomplete")


async def test_a_long_poll_of_more_than_fits() -> None:
    """Live events that exceed the size of an answer are for the next one, which the client asks for at once."""
    store = SlowStore()
    async with Notifier(store) as notifier:
        app = application("durable", notifier, chunk=150)
        call = Call(app, TARGETS["durable poll"])
        async with anyio.create_task_group() as group:
            group.start_soon(call.run)
            await until(lambda: app._site.limits.open and session_of(app)._is_open)
            await anyio.wait_all_tasks_blocked()
            async with anyio.create_task_group() as pushes:
                for _ in range(6):
                    pushes.start_soon(notifier.push, "alice", "t", "x" * 200)
            await until(lambda: call.over)
        assert call.status == 200
        assert "stream-up-to-date" not in call.headers
