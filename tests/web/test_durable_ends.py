"""How reads of `DurableStreams` end before they have begun, or while they wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
from anyio.to_thread import run_sync

from notify import BackendUnavailableError, Notifier, Page, UsageError
from notify.web import Identity, _durable_reading
from notify.web._durable_reading import unavailable
from notify.web._session import Ended
from notify.web.durable import DurableStreams
from notify_memory import MemoryStore
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
