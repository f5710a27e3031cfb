"""GET /events over real servers: pages that join without a seam, waiting, and bad values."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from notify import Notifier, Page
from notify._stream._reads import PAGE_SIZE
from notify.web import Identity, NotifyApp, Request, _linger, _polling
from notify_memory import MemoryStreamStore
from tests.parts import PlainStore, until
from tests.web.servers import WebServer
from tests.web.serving import serving

pytestmark = pytest.mark.anyio


def authenticate(request: Request) -> Identity | None:
    """The user in the URL, who may read its room too."""
    user = request.query.get("user")
    return Identity(user, addresses=[f"room-{user}"], session=request.query.get("session", "")) if user else None


def application(notifier: Notifier[Any], **options: Any) -> NotifyApp:
    return NotifyApp(notifier, authenticate, **options)


@pytest.fixture
async def notifier() -> AsyncIterator[Notifier]:
    async with Notifier(MemoryStreamStore(max_len=500)) as notifier:
        yield notifier


class Poller:
    """A client of one application."""

    def __init__(self, place: str) -> None:
        self._client = httpx.AsyncClient(base_url=f"http://{place}", timeout=20, trust_env=False)

    async def get(self, *, headers: Mapping[str, str] | None = None, **query: Any) -> httpx.Response:
        return await self._client.get("/events", params={"user": "alice"} | query, headers=headers)

    async def page(self, **query: Any) -> Any:
        response = await self.get(**query)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        assert response.headers["cache-control"] == "no-store"
        return response.json()

    async def __aenter__(self) -> Poller:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._client.aclose()


def payloads(page: Any) -> list[Any]:
    return [event["payload"] for event in page["events"]]


class TestPages:
    async def test_from_now_then_everything_after(self, notifier: Notifier) -> None:
        """A page without a position fixes one; the next has what was pushed in between, as in a stream."""
        await notifier.push("alice", "order", 0)
        async with serving(application(notifier)) as place, Poller(place) as client:
            first = await client.page()
            assert (first["events"], first["sync"]) == ([], True)
            event = await notifier.push("alice", "order", 1, group="g")
            page = await client.page(after=first["position"])
            assert page.keys() == {"events", "position", "sync"}
            assert page["position"] == event.id
            (shown,) = page["events"]
            assert shown["id"] == event.id
            assert shown["group"] == "g"
            assert (await client.page(after=event.id))["events"] == []

    @pytest.mark.parametrize(
        ("header", "query", "found"),
        [
            ("2", {"after": "0"}, [2]),
            ("", {"after": "2", "last_id": "0"}, [2]),
            ("", {"after": "", "last_id": "2"}, [2]),
            ("nonsense", {"after": "0"}, []),
        ],
    )
    async def test_which_position_counts(
        self, notifier: Notifier, header: str, query: dict[str, str], found: list[int]
    ) -> None:
        """`Last-Event-ID` wins over `after`, and that over the other names; an empty one is as good as none."""
        ids = {"0": "0", "nonsense": "nonsense"}
        for n in range(3):
            ids[str(n + 1)] = (await notifier.push("alice", "order", n)).id
        params = {name: ids.get(value, value) for name, value in query.items()}
        async with serving(application(notifier)) as place, Poller(place) as client:
            response = await client.get(headers={"Last-Event-ID": ids.get(header, header)}, **params)
        page = response.json()
        assert payloads(page) == found
        assert ("gap" in page) == (header == "nonsense")

    @pytest.mark.parametrize("limit", [1, 7, 100])
    async def test_pages_join(self, notifier: Notifier, limit: int) -> None:
        """Whatever their size: every event once, in order, and `sync` says which page is the last."""
        for n in range(30):
            await notifier.push("alice", "order", n)
        async with serving(application(notifier)) as place, Poller(place) as client:
            seen, position, synced = list[Any](), "0", False
            while not synced:
                page = await client.page(after=position, limit=limit)
                assert len(page["events"]) <= limit
                seen += payloads(page)
                position, synced = page["position"], page["sync"]
            assert seen == list(range(30))

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_a_store_that_has_to_be_asked(self, tmp_path: Any) -> None:
        """Pages join in the same way where a read takes time."""
        async with Notifier.from_url(f"sqlite:///{tmp_path / 'events.db'}") as notifier:
            for n in range(25):
                await notifier.push("alice", "order", n)
            async with serving(application(notifier)) as place, Poller(place) as client:
                first = await client.page(after="0", limit=20)
                rest = await client.page(after=first["position"], limit=20)
                assert payloads(first) + payloads(rest) == list(range(25))
                assert (first["sync"], rest["sync"]) == (False, True)

    async def test_a_page_is_bounded_in_bytes(self, notifier: Notifier) -> None:
        """A megabyte and one event at most, whatever the limit."""
        for _ in range(30):
            await notifier.push("alice", "order", "x" * 60_000)
        async with serving(application(notifier)) as place, Poller(place) as client:
            page = await client.page(after="0", limit=1000)
            assert 17 <= len(page["events"]) <= 19
            assert not page["sync"]
            rest = await client.page(after=page["position"], limit=1000)
            assert len(page["events"]) + len(rest["events"]) == 30

    async def test_a_gap_is_in_the_page(self, notifier: Notifier) -> None:
        """With its reason, and what is left of the log after it."""
        events = [await notifier.push("alice", "order", n) for n in range(510)]
        async with serving(application(notifier)) as place, Poller(place) as client:
            page = await client.page(after=events[0].id, limit=1000)
            assert page["gap"]["reason"] == "trimmed"
            assert page["gap"]["user"] == "alice"
            assert payloads(page) == list(range(10, 510))
            assert page["sync"]

    @pytest.mark.parametrize("position", ["nonsense", "-", "1-2-3", "m1.broken", "9" * 40, "\x00"])
    async def test_what_is_not_a_position_is_a_gap(self, notifier: Notifier, position: str) -> None:
        """Never an error: from now on, and the client learns that it may have missed something."""
        await notifier.push("alice", "order", 1)
        async with serving(application(notifier)) as place, Poller(place) as client:
            page = await client.page(after=position, wait=5)
            assert page["gap"]["reason"] == "invalid"
            await notifier.push("alice", "order", 2)
            assert payloads(await client.page(after=page["position"])) == [2]

    async def test_several_logs_with_gaps(self, notifier: Notifier) -> None:
        """A page has one gap: the second is in the next page, and nothing is between them."""
        async with serving(application(notifier)) as place, Poller(place) as client:
            for log in ("alice", "room-alice"):
                await notifier.push(log, "order", 0)
            position = (await client.page(address="room-alice", after="0"))["position"]
            for log in ("alice", "room-alice"):
                for n in range(501):
                    await notifier.push(log, "order", n)
            gaps, seen, synced = list[str](), 0, False
            while not synced:
                page = await client.page(address="room-alice", after=position, limit=1000)
                gaps += [page["gap"]["user"]] if "gap" in page else []
                seen += len(page["events"])
                position, synced = page["position"], page["sync"]
            assert sorted(gaps) == ["alice", "room-alice"]
            assert seen == 1000

    async def test_other_names_of_the_position(self, notifier: Notifier) -> None:
        """Those of a stream are accepted too."""
        await notifier.push("alice", "order", 1)
        async with serving(application(notifier)) as place, Poller(place) as client:
            for name in ("lastEventId", "last_event_id", "last_id"):
                assert payloads(await client.page(**{name: "0"})) == [1]


class TestWaiting:
    async def test_it_returns_with_the_event(self, notifier: Notifier) -> None:
        """At once, with what else is there; an ephemeral event has no id and moves no position."""
        async with serving(application(notifier)) as place, Poller(place) as client:
            position = (await client.page())["position"]
            for ephemeral in (False, True):
                pages: list[Any] = []

                async def poll(pages: list[Any] = pages, position: str = position) -> None:
                    pages.append(await client.page(after=position, wait=10))

                async with anyio.create_task_group() as group:
                    group.start_soon(poll)
                    await until(lambda: notifier.statistics().open_streams == 1)
                    started = anyio.current_time()
                    await notifier.push("alice", "order", "x", ephemeral=ephemeral)
                    await notifier.push("alice", "order", "y", ephemeral=ephemeral)
                assert anyio.current_time() - started < 5
                assert payloads(pages[0]) == ["x", "y"]
                assert ("id" in pages[0]["events"][0]) is not ephemeral
                assert (pages[0]["position"] == position) is ephemeral
                position = pages[0]["position"]

    async def test_more_than_fits(self, notifier: Notifier) -> None:
        """A page that was waited for is as long as any other, and says that there is more."""
        async with serving(application(notifier)) as place, Poller(place) as client:
            position = (await client.page())["position"]
            pages: list[Any] = []

            async def poll() -> None:
                pages.append(await client.page(after=position, wait=10, limit=2))

            async with anyio.create_task_group() as group:
                group.start_soon(poll)
                await until(lambda: notifier.statistics().open_streams == 1)
                for n in range(3):
                    await notifier.push("alice", "order", n)
            assert (payloads(pages[0]), pages[0]["sync"]) == ([0, 1], False)
            assert payloads(await client.page(after=pages[0]["position"])) == [2]

    async def test_it_returns_after_the_time(self, notifier: Notifier) -> None:
        """Empty, at the same position; a longer time than the server's is shortened to that."""
        async with serving(application(notifier, long_poll=0.4, heartbeat=0.1)) as place, Poller(place) as client:
            position = (await client.page())["position"]
            for wait in (0.3, 1000):
                started = anyio.current_time()
                page = await client.page(after=position, wait=wait)
                assert 0.25 < anyio.current_time() - started < 5
                assert page == {"events": [], "position": position, "sync": True}

    async def test_it_does_not_wait_if_there_is_something(self, notifier: Notifier) -> None:
        """What is in the log is returned at once."""
        await notifier.push("alice", "order", 1)
        async with serving(application(notifier)) as place, Poller(place) as client:
            with anyio.fail_after(10):
                assert payloads(await client.page(after="0", wait=20)) == [1]

    async def test_without_a_store(self) -> None:
        """Only what is pushed while it waits; there is no position."""
        async with Notifier() as notifier, serving(application(notifier)) as place, Poller(place) as client:
            assert await client.page(wait=0.1) == {"events": [], "position": "", "sync": True}

    async def test_a_client_that_leaves(self, notifier: Notifier) -> None:
        """Its stream is released at once."""
        async with serving(application(notifier)) as place, Poller(place) as client:
            with anyio.move_on_after(0.5):
                await client.page(wait=20)
            await until(lambda: notifier.statistics().open_streams == 0)


class TestEnds:
    async def test_shutdown(self, notifier: Notifier) -> None:
        """A waiting request and one that comes later are answered at once, at the position that was asked for."""
        app = application(notifier)
        async with serving(app) as place, Poller(place) as client:
            position = (await client.page())["position"]
            pages: list[Any] = []

            async def poll() -> None:
                pages.append(await client.page(after=position, wait=20))

            async with anyio.create_task_group() as group:
                group.start_soon(poll)
                await until(lambda: notifier.statistics().open_streams == 1)
                app.begin_shutdown()
            pages.append(await client.page(after=position, wait=20))
            for page in pages:
                assert page["end"]["reason"] == "shutdown"
                assert page["end"]["retry"] >= 1000
                assert (page["events"], page["position"], page["sync"]) == ([], position, False)

    async def test_a_server_that_cancels(self, notifier: Notifier) -> None:
        """A server that tells the application nothing, and then cancels it: the request is answered even so."""

        async def poll(place: str) -> None:
            async with Poller(place) as client:
                page = await client.page(after="0", wait=20)
                assert (page["position"], page["end"]["reason"]) == ("0-0", "shutdown")

        async with anyio.create_task_group() as group, serving(application(notifier)) as place:
            group.start_soon(poll, place)
            await until(lambda: notifier.statistics().open_streams == 1)

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_a_signal_between_two_polls(self, tmp_path: Path) -> None:
        """A request that the server still accepts after the signal does not wait, and neither does the server."""
        env = {"NOTIFY_TEST_STORE": "memory://"}
        with WebServer("uvicorn", "tests.web.stored:app", tmp_path, env=env) as server:
            async with Poller(f"127.0.0.1:{server.port}") as client:
                position = (await client.page(wait=0.1))["position"]
                server.send(signal.SIGTERM)
                with suppress(httpx.TransportError):  # if the server was faster
                    page = await client.page(after=position, wait=20)
                    assert page["end"]["reason"] == "shutdown"
            server.wait(10)

    async def test_polls_count_as_a_stream_for_a_while(self, notifier: Notifier, monkeypatch: Any) -> None:
        """Between two polls; not without end, and not when the application is closed."""
        monkeypatch.setattr(_linger, "LINGER", 0.3)
        app = application(notifier)
        async with serving(app) as place, Poller(place) as client:
            await client.page()
            assert not len(app._site.closing)
            for _ in range(3):
                await client.page(wait=0.01)
                assert len(app._site.closing) == 1
            await until(lambda: not len(app._site.closing))
            monkeypatch.setattr(_linger, "LINGER", 1000.0)
            await client.page(wait=0.01)
        await app.aclose()
        assert not len(app._site.closing)

    @pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
    def test_an_event_loop_that_ends_after_a_poll(self, anyio_backend: str) -> None:
        """Nothing of it stays: the process has its own handlers of signals again, and the next loop its own polls."""
        own = signal.default_int_handler
        before = signal.signal(signal.SIGTERM, own)
        app = application(Notifier(MemoryStreamStore()))

        async def receive() -> Any:
            await anyio.sleep_forever()

        async def poll() -> None:
            answered: list[Any] = []

            async def send(message: Any) -> None:
                answered.append(message)

            scope = {"type": "http", "path": "/events", "query_string": b"user=alice&wait=0.01", "headers": []}
            await app(scope, receive, send)
            assert answered[0]["status"] == 200
            assert len(app._site.closing) == 1

        try:
            anyio.run(poll, backend=anyio_backend)
            assert len(app._site.closing) == 0
            assert signal.getsignal(signal.SIGTERM) is own
        finally:
            signal.signal(signal.SIGTERM, before)

    @pytest.mark.parametrize("wait", [0, 20])
    @pytest.mark.parametrize("pages", [0, 1])
    async def test_a_store_that_hangs(self, wait: int, pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """The page ends after a time: with what was read before, else with the order to come back later."""

        class Hanging(PlainStore):
            async def read(self, user: str, after: str, limit: int) -> Page:
                if user == "alice" and self.calls.count("read") >= pages:
                    await anyio.sleep_forever()
                return await super().read(user, after, limit)

        monkeypatch.setattr(_polling, "READ_TIMEOUT", 0.4)
        store = Hanging()
        async with Notifier(store) as notifier, serving(application(notifier)) as place, Poller(place) as client:
            await client.page()
            for n in range(PAGE_SIZE * pages):
                await notifier.push("alice", "order", n)
            store.calls.clear()
            started = anyio.current_time()
            page = await client.page(after="0", wait=wait, limit=1000)
            assert 0.3 < anyio.current_time() - started < 10
            assert (payloads(page), page["sync"]) == ([*range(PAGE_SIZE * pages)], False)
            assert page.get("end", {}).get("reason") == (None if pages else "overload")
            assert page["position"] == (page["events"][-1]["id"] if pages else "0")
            await until(lambda: notifier.statistics().open_streams == 0)

    async def test_shutdown_during_authentication(self, notifier: Notifier) -> None:
        """The request does not wait any more once the client is known."""

        async def slow(request: Request) -> str:
            app.begin_shutdown()
            return "alice"

        app = NotifyApp(notifier, slow)
        async with serving(app) as place, Poller(place) as client:
            page = await client.page(after="0", wait=20)
            assert (page["position"], page["end"]["reason"]) == ("0", "shutdown")

    async def test_a_notifier_that_is_closed(self, notifier: Notifier) -> None:
        """As for a server that ends."""
        async with serving(application(notifier)) as place, Poller(place) as client:
            for close in (notifier.drain, notifier.aclose):
                await close()
                page = await client.page(after="5-1", wait=20)
                assert (page["position"], page["end"]["reason"]) == ("5-1", "shutdown")

    async def test_disconnect(self, notifier: Notifier) -> None:
        """The position then says so: a client that comes back by itself finds 204."""
        async with serving(application(notifier)) as place, Poller(place) as client:
            pages: list[Any] = []

            async def poll() -> None:
                pages.append(await client.page(wait=20))

            async with anyio.create_task_group() as group:
                group.start_soon(poll)
                await until(lambda: notifier.statistics().open_streams == 1)
                await notifier.disconnect("alice")
            assert pages[0]["end"]["reason"] == "disconnected"
            again = await client.get(after=pages[0]["position"])
            assert (again.status_code, again.content) == (204, b"")

    async def test_limits(self, notifier: Notifier) -> None:
        """Waiting counts as a stream: the oldest is ended for a further one; over all, it is told to come later."""
        app = application(notifier, max_streams_per_user=1, max_streams=1)
        async with serving(app) as place, Poller(place) as client, anyio.create_task_group() as group:

            async def poll() -> None:
                assert (await client.page(wait=20))["end"]["reason"] == "shutdown"

            group.start_soon(poll)
            await until(lambda: notifier.statistics().open_streams == 1)
            page = await client.page(wait=20)
            assert page["end"]["reason"] == "overload"
            assert (await client.page())["sync"]  # asking without waiting is always possible, and replaces nothing
            app.begin_shutdown()

    async def test_the_oldest_is_replaced(self, notifier: Notifier) -> None:
        """As for streams: a user who waits too often gets the first answer at once, with a time of minutes."""
        app = application(notifier, max_streams_per_user=1)
        async with serving(app) as place, Poller(place) as client, anyio.create_task_group() as group:
            pages: list[Any] = []

            async def poll() -> None:
                pages.append(await client.page(wait=20))

            group.start_soon(poll)
            await until(lambda: notifier.statistics().open_streams == 1)
            group.start_soon(poll)
            await until(lambda: pages)
            assert pages[0]["end"]["reason"] == "replaced"
            assert pages[0]["end"]["retry"] >= 60_000
            app.begin_shutdown()


class TestBadValues:
    @pytest.mark.parametrize(
        "query",
        [
            {"limit": "0"}, {"limit": "-1"}, {"limit": "1.5"}, {"limit": "x"}, {"limit": ""}, {"limit": "1" * 10},
            {"limit": "\u0661"}, {"wait": "-1"}, {"wait": "x"}, {"wait": "nan"}, {"wait": "inf"}, {"wait": ""},
            {"wait": "1e9"},
        ],
    )  # fmt: skip
    async def test_a_bad_value_is_400(self, notifier: Notifier, query: dict[str, str]) -> None:
        """Of the one shape, and the message names the field."""
        async with serving(application(notifier)) as place, Poller(place) as client:
            response = await client.get(**query)
            assert response.status_code == 400
            error = response.json()["error"]
            assert error["code"] == "bad_request"
            assert next(iter(query)) in error["message"]

    async def test_a_large_limit_is_lowered(self, notifier: Notifier) -> None:
        """As a long wait is."""
        async with serving(application(notifier)) as place, Poller(place) as client:
            assert (await client.get(limit=999_999_999)).status_code == 200

    async def test_who_may_not(self, notifier: Notifier) -> None:
        """401 and 403, as everywhere."""
        async with serving(application(notifier)) as place, Poller(place) as client:
            assert (await client.get(user="")).status_code == 401
            assert (await client.get(address="room-bob")).status_code == 403
