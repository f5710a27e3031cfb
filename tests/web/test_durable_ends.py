"""How reads of `DurableStreams` end before they have begun, or while they wait."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
from anyio.to_thread import run_sync

from notify import BackendUnavailableError, Event, Notifier, Page, UsageError
from notify.web import Identity, _durable_reading
from notify.web._durable_reading import unavailable
from notify.web._session import Ended, Session
from notify.web.durable import DurableStreams
from notify_memory import MemoryStore, MemoryStreamStore
from tests.parts import until
from tests.web.serving import serving

pytestmark = pytest.mark.anyio


async def get(place: str, query: str = "", method: str = "GET") -> httpx.Response:
    return await run_sync(partial(httpx.request, method, f"http://{place}/alice?{query}", timeout=20))


async def test_no_log() -> None:
    """Without a store there is no log, so there is no stream."""
    async with Notifier() as notifier, serving(DurableStreams(notifier, lambda request: "alice")) as place:
        answers = [await get(place), await get(place, "offset=now&live=sse"), await get(place, method="HEAD")]
    assert [answer.status_code for answer in answers] == [404, 404, 404]


async def test_closed_notifier() -> None:
    """A notifier that is closed is a server that shuts down."""
    async with Notifier(MemoryStore()) as notifier:
        app = DurableStreams(notifier, lambda request: "alice")
    async with serving(app) as place:
        answer = await get(place)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
    assert "retry-after" in answer.headers


async def test_begin_shutdown() -> None:
    """A long poll that waits ends without events; further live reads are refused, plain ones are not."""
    async with Notifier(MemoryStore()) as notifier:
        app = DurableStreams(notifier, lambda request: "alice", drain=0.2)
        async with serving(app) as place:
            answers: list[httpx.Response] = []

            async def poll() -> None:
                answers.append(await get(place, "offset=now&live=long-poll"))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(poll)
                with anyio.fail_after(10):
                    while not notifier.statistics().open_streams:  # noqa: ASYNC110 - only the server knows
                        await anyio.sleep(0.01)
                app.begin_shutdown()
            live, plain = await get(place, "offset=now&live=sse"), await get(place)
        await app.aclose()
    assert [answer.status_code for answer in (*answers, live, plain)] == [204, 503, 200]


async def test_credentials_that_expire() -> None:
    """A stream of server-sent events ends, complete, when the credentials have expired."""

    def authenticate(request: Any) -> Identity:
        return Identity("alice", expires_at=datetime.now(UTC) + timedelta(seconds=0.4))

    async with Notifier(MemoryStore()) as notifier, serving(DurableStreams(notifier, authenticate)) as place:
        answer = await get(place, "offset=now&live=sse")
    assert (answer.status_code, answer.text.count("event: control")) == (200, 1)


class Unreachable(MemoryStore):
    """A store that can be opened and not be read."""

    async def read(self, user: str, after: str, limit: int) -> Page:
        raise BackendUnavailableError("no answer", backend="Unreachable")


async def test_unreachable_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot be read is a 503 within a bound, not a request without end."""
    monkeypatch.setattr(_durable_reading, "READ_TIMEOUT", 0.3)
    async with Notifier(Unreachable()) as notifier, serving(DurableStreams(notifier, lambda request: "alice")) as place:
        answer = await get(place)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")


# -- while they wait ----------------------------------------------------------------------------------------------


async def waiting(app: DurableStreams, query: str, then: Callable[[], Awaitable[object]]) -> httpx.Response:
    """The answer to a live read from now on: `then` is called once it waits."""
    answers: list[httpx.Response] = []
    async with serving(app) as place:

        async def ask() -> None:
            answers.append(await get(place, f"offset=now&{query}"))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await until(lambda: app._site.notifier.statistics().open_streams == 1)
                await anyio.wait_all_tasks_blocked()
                await then()
    return answers[0]


@pytest.mark.parametrize(("live", "status"), [("long-poll", 410), ("sse", 200)])
async def test_more_at_once_than_the_log_keeps(live: str, status: int) -> None:
    """A long poll is told to begin again; a stream of server-sent events, which has begun, ends without the rest."""
    async with Notifier(MemoryStore(max_len=3), buffer_size=1) as notifier:

        async def push() -> None:
            for number in range(10):  # the reader does not run in between
                await notifier.push("alice", "t", number)

        answer = await waiting(DurableStreams(notifier, lambda request: "alice"), f"live={live}", push)
    assert answer.status_code == status
    if status == 410:
        assert answer.json()["error"]["code"] == "gone"
    else:
        assert (answer.text.count("event: control"), "event: data" in answer.text) == (1, False)


async def test_more_at_once_than_one_answer_has() -> None:
    """A long poll that waits is answered with a part, which does not claim to be all."""
    store = MemoryStreamStore()

    async def push() -> None:
        for number in range(10):
            store.save_nowait(Event("alice", "t", "x" * 50 + str(number)))

    async with Notifier(store) as notifier:
        app = DurableStreams(notifier, lambda request: "alice", chunk=100)
        answer = await waiting(app, "live=long-poll", push)
    assert (answer.status_code, len(answer.json())) == (200, 2)
    assert "stream-up-to-date" not in answer.headers


async def test_a_user_who_is_disconnected() -> None:
    """A long poll that waits is answered as one without valid credentials."""
    async with Notifier(MemoryStreamStore()) as notifier:
        app = DurableStreams(notifier, lambda request: "alice")
        answer = await waiting(app, "live=long-poll", lambda: notifier.disconnect("alice"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")


class Exchange:
    """A live read of alice's log from now on, without a server in between."""

    def __init__(self, app: DurableStreams, live: str) -> None:
        self._app, self._live = app, live
        self.sent: list[Any] = []
        self.gone = anyio.Event()

    async def run(self) -> None:
        """Serve the request."""
        query = f"offset=now&live={self._live}".encode()
        scope = {"type": "http", "method": "GET", "path": "/alice", "query_string": query, "headers": []}
        await self._app(scope, self._receive, self._send)

    async def wait(self) -> None:
        """Wait until the read does, for an event."""
        await until(lambda: self._app._site.notifier.statistics().open_streams == 1)
        await anyio.wait_all_tasks_blocked()

    async def _receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.mark.parametrize("live", ["long-poll", "sse"])
async def test_what_comes_after_the_shutdown_has_begun(live: str) -> None:
    """It is refused before its client is authenticated, which may take long."""

    async def never(_: Any) -> str:
        raise AssertionError("authenticated")

    async with Notifier(MemoryStreamStore()) as notifier:
        app = DurableStreams(notifier, never)
        app.begin_shutdown()
        exchange = Exchange(app, live)
        await exchange.run()
    assert exchange.sent[0]["status"] == 503
    assert json.loads(exchange.sent[1]["body"])["error"]["code"] == "shutting_down"


@pytest.mark.parametrize("live", ["long-poll", "sse"])
async def test_a_server_that_cancels_what_waits(live: str) -> None:
    """A poll is told to ask again; a stream of server-sent events, which has begun, is completed."""
    async with Notifier(MemoryStreamStore()) as notifier:
        exchange = Exchange(DurableStreams(notifier, lambda request: "alice"), live)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.run)
            await exchange.wait()
            begun = len(exchange.sent)
            tasks.cancel_scope.cancel()
        assert notifier.statistics().open_streams == 0
    if live == "long-poll":
        assert (begun, exchange.sent[0]["status"]) == (0, 503)
        assert json.loads(exchange.sent[1]["body"])["error"]["code"] == "shutting_down"
    else:
        assert (begun, exchange.sent[0]["status"]) == (2, 200)
        assert [message.get("more_body", False) for message in exchange.sent[1:]] == [True, False]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("live", ["long-poll", "sse"])
async def test_a_server_that_cancels_what_waits_for_a_client_that_has_gone(anyio_backend: str, live: str) -> None:
    """The read ends as cancelled, and nothing more is sent, since it could not be received."""
    async with Notifier(MemoryStreamStore()) as notifier:
        exchange = Exchange(DurableStreams(notifier, lambda request: "alice"), live)
        task = asyncio.create_task(exchange.run())
        await exchange.wait()
        begun = len(exchange.sent)
        exchange.gone.set()
        task.cancel()  # before the read has noticed
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (len(exchange.sent), notifier.statistics().open_streams) == (begun, 0)


async def test_heartbeats_within_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a replay waits for its turn, or for the storage, a stream has heartbeats, and then every event."""
    turn, next_ = Session.turn, Session.next
    calls = Counter[str]()

    async def late_turn(session: Session) -> bool:
        calls["turn"] += 1
        return calls["turn"] % 2 == 1 and await turn(session)

    async def late_next(session: Session) -> Event | None:
        calls["next"] += 1
        return None if calls["next"] in (1, 3) else await next_(session)

    monkeypatch.setattr(Session, "turn", late_turn)
    monkeypatch.setattr(Session, "next", late_next)
    text = ""
    async with Notifier(MemoryStreamStore()) as notifier:
        sent = [(await notifier.push("alice", "t", number)).id for number in range(4)]
        app = DurableStreams(notifier, lambda request: "alice", chunk=1)
        async with serving(app) as place:
            async with (
                httpx.AsyncClient(base_url=f"http://{place}", timeout=20) as client,
                client.stream("GET", "/alice?live=sse&offset=-1") as answer,
            ):
                async for chunk in answer.aiter_text():
                    text += chunk
                    if "upToDate" in text:
                        app.begin_shutdown()
    assert text.split("\n").count(":") >= 2
    assert [id for id in sent if f'"{id}"' in text] == sent


async def test_ephemeral_events_within_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is pushed while a log is read, and is not in the log, is not in the answer."""
    next_ = Session.next

    async def beside(session: Session) -> Event | None:
        await notifier.push("alice", "typing", "hush", ephemeral=True)
        return await next_(session)

    monkeypatch.setattr(Session, "next", beside)
    async with Notifier(MemoryStreamStore()) as notifier:
        sent = [(await notifier.push("alice", "t", number)).id for number in range(600)]  # more than a page
        async with serving(DurableStreams(notifier, lambda request: "alice")) as place:
            answer = await get(place, "offset=-1")
        assert notifier.statistics().pushes["ephemeral"] > len(sent)
    assert [event["id"] for event in answer.json()] == sent
    assert "hush" not in answer.text


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("expired", 401, "unauthenticated"),
        ("disconnected", 401, "unauthenticated"),
        ("shutdown", 503, "shutting_down"),
        ("overload", 503, "unavailable"),
        ("replaced", 503, "unavailable"),
    ],
)
async def test_end_before_the_beginning(reason: Any, status: int, code: str) -> None:
    """What a session ends with before it has begun is an error that tells a client what to do."""
    error = unavailable(Ended(reason, 1000))
    assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_other_scopes(kind: str) -> None:
    """Only HTTP is served; the message says what to do."""

    async def unused(*_: Any) -> Any:
        raise AssertionError

    app = DurableStreams(Notifier(MemoryStore()), lambda request: "alice")
    with pytest.raises(UsageError, match="only HTTP"):
        await app({"type": kind}, unused, unused)
