"""Authentication on real servers: other sites, tickets, expiry, logout."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from websockets.exceptions import InvalidStatus

from notify import Notifier
from notify.web import Identity, NotifyApp, Request, bearer_token, end_session, session_id
from notify_memory import MemoryRouter, MemoryStore, MemoryStreamStore
from tests.parts import until
from tests.web.clients import Frame, RawClient
from tests.web.servers import WebServer
from tests.web.serving import serving, websocket

pytestmark = pytest.mark.anyio

FRIEND = "https://app.example"
STRANGER = "https://evil.example"
ALICE = {"authorization": "Bearer alice"}


def by_token(request: Request) -> str | None:
    return bearer_token(request)


@asynccontextmanager
async def site(authenticate: Any = by_token, **options: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Notifier[Any]]]:
    notifier = Notifier(MemoryStore())
    app = NotifyApp(notifier, authenticate, **options)
    async with notifier, serving(app) as place, httpx.AsyncClient(base_url=f"http://{place}") as client:
        yield client, notifier


class Reading:
    """The events of an open stream, one after the other."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.count = 0

    async def next(self) -> Frame:
        """Return the next event, `notify.sync` aside."""
        is_open = True
        with anyio.fail_after(10):
            while True:
                frames = [frame for frame in self.client.frames if frame.data and frame.event != "notify.sync"]
                if len(frames) > self.count:
                    self.count += 1
                    return frames[self.count - 1]
                assert is_open, "the stream has ended"
                is_open = await self.client.read()

    async def payload(self) -> Any:
        """Return the payload of the next event of the application."""
        return (await self.next()).json["payload"]

    async def reason(self) -> str:
        """Return why the stream ends."""
        frame = await self.next()
        assert frame.event == "notify.end"
        return str(frame.json["reason"])


@asynccontextmanager
async def reading(place: httpx.URL | str, path: str = "/stream", **headers: str) -> AsyncIterator[Reading]:
    """Open a stream, and yield it once it is live."""
    port = httpx.URL(place).port or 0
    async with RawClient(port, path, {name.replace("_", "-"): value for name, value in headers.items()}) as client:
        await client.read_until(b"event: notify.sync")
        assert client.status == 200
        yield Reading(client)


def error_of(response: httpx.Response) -> str:
    found = response.json()
    assert found.keys() == {"error"}
    return str(found["error"]["code"])


# -- other sites -------------------------------------------------------------------------------------------------


async def test_other_sites_are_refused_before_anything_is_opened() -> None:
    """No call of `authenticate`, no stream, and no header that lets the page read the answer."""
    asked: list[Request] = []
    async with site(lambda request: asked.append(request) or "alice", origins=[FRIEND]) as (client, notifier):
        for method, path in (("GET", "/stream"), ("GET", "/events"), ("POST", "/ticket")):
            for headers in ({"origin": STRANGER}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
                answer = await client.request(method, path, headers=headers | {"x-notify": "1"})
                assert (answer.status_code, error_of(answer)) == (403, "cross_site")
                assert not [name for name in answer.headers if name.startswith("access-control")]
        assert asked == []
        assert notifier.statistics().open_streams == 0


async def test_an_allowed_site_can_read_the_answer() -> None:
    """Errors too; and it may ask first."""
    async with site(origins=[FRIEND]) as (client, _):
        headers = {"origin": FRIEND, "sec-fetch-site": "cross-site"}
        for answer in (
            await client.post("/ticket", headers=headers | ALICE),
            await client.post("/ticket", headers=headers),
            await client.get("/nothing", headers=headers),
            await client.put("/stream", headers=headers | {"x-notify": "1"}),
            await client.get("/openapi.json", headers=headers),
        ):
            assert answer.headers["access-control-allow-origin"] == FRIEND, answer.text
            assert answer.headers["access-control-allow-credentials"] == "true"
            assert "Origin" in answer.headers["vary"]
        async with client.stream("GET", "/stream", headers=headers | ALICE) as answer:
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, FRIEND)


async def test_preflight() -> None:
    """OPTIONS names the methods, to an allowed page also the headers; another page is refused."""
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with site(origins=[FRIEND]) as (client, _):
        answer = await client.options("/ticket", headers=asks | {"origin": FRIEND})
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-methods"] == answer.headers["allow"] == "OPTIONS, POST"
        assert answer.headers["access-control-allow-headers"] == "authorization"
        assert (await client.options("/ticket", headers=asks | {"origin": STRANGER})).status_code == 403
        assert (await client.options("/ticket")).headers["allow"] == "OPTIONS, POST"
        assert (await client.options("/nothing")).status_code == 404


async def test_the_own_origin_is_let_in() -> None:
    """What a browser sends to the page's own host passes without a list of origins."""
    async with site() as (client, _):
        own = f"http://{client.base_url.host}:{client.base_url.port}"
        answer = await client.post("/ticket", headers=ALICE | {"origin": own})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers
        assert "vary" not in answer.headers


async def test_a_form_of_another_site_gets_no_ticket() -> None:
    """Its content type gives it away, or that it asks for nothing beside the cookie."""
    async with site(lambda request: request.cookies.get("user")) as (client, _):
        cookie = {"cookie": "user=alice"}
        assert (await client.post("/ticket", headers=cookie, data={"a": "b"})).status_code == 415
        assert (await client.post("/ticket", headers=cookie)).status_code == 403
        assert (await client.post("/ticket", headers=cookie, json={})).status_code == 200


async def test_public_files_are_for_every_page() -> None:
    """What shows nothing of any user is not refused."""
    async with site() as (client, _):
        assert (await client.get("/openapi.json", headers={"origin": STRANGER})).status_code == 200


# -- tickets -----------------------------------------------------------------------------------------------------


async def test_a_ticket_opens_one_stream() -> None:
    """With the identity of who asked, and once."""
    async with site(ticket_lifetime=20.0) as (client, notifier):
        answer = await client.post("/ticket", headers=ALICE)
        assert answer.headers["cache-control"] == "no-store"
        ticket, expires = answer.json()["ticket"], datetime.fromisoformat(answer.json()["expires_at"])
        assert timedelta(seconds=10) < expires - datetime.now(UTC) < timedelta(seconds=30)
        async with reading(client.base_url, f"/stream?ticket={ticket}") as events:
            await notifier.push("alice", "note", 1)
            assert await events.payload() == 1
        again = await client.get(f"/stream?ticket={ticket}", headers=ALICE)
        assert (again.status_code, error_of(again)) == (401, "invalid_ticket")
        async with reading(client.base_url, **ALICE):
            pass


async def test_a_ticket_asks_for_credentials() -> None:
    """No ticket without them, and none for a ticket."""
    async with site() as (client, _):
        nameless = await client.post("/ticket")
        assert (nameless.status_code, nameless.headers["www-authenticate"]) == (401, "Bearer")
        ticket = (await client.post("/ticket", headers=ALICE)).json()["ticket"]
        assert (await client.post(f"/ticket?ticket={ticket}")).status_code == 401
        assert (await client.get("/ticket", headers=ALICE)).headers["allow"] == "OPTIONS, POST"


async def test_a_ticket_is_bound_to_its_origin() -> None:
    """Taken by a page of one site, it is worth nothing to another one, even one that is allowed too."""
    other = "https://other.example"
    async with site(origins=[FRIEND, other]) as (client, _):
        ticket = (await client.post("/ticket", headers=ALICE | {"origin": FRIEND})).json()["ticket"]
        for headers in ({"origin": other}, {}):
            answer = await client.get(f"/stream?ticket={ticket}", headers=headers)
            assert (answer.status_code, error_of(answer)) == (401, "invalid_ticket")
        async with reading(client.base_url, f"/stream?ticket={ticket}", origin=FRIEND):
            pass


async def test_an_expired_ticket() -> None:
    """Too late is too late."""
    async with site(ticket_lifetime=0.01) as (client, _):
        ticket = (await client.post("/ticket", headers=ALICE)).json()
        late = datetime.fromisoformat(ticket["expires_at"]) + timedelta(seconds=0.01)
        await until(lambda: datetime.now(UTC) > late)
        assert (await client.get(f"/stream?ticket={ticket['ticket']}")).status_code == 401


async def test_a_user_with_too_many_tickets() -> None:
    """429 says when to come back; another user is not affected, and a ticket that is used makes room."""
    async with site(max_streams_per_user=1) as (client, _):
        answers = [await client.post("/ticket", headers=ALICE) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert error_of(answers[5]) == "too_many_tickets"
        assert 1 <= int(answers[5].headers["retry-after"]) <= 30
        assert (await client.post("/ticket", headers={"authorization": "Bearer bob"})).status_code == 200
        async with reading(client.base_url, f"/stream?ticket={answers[0].json()['ticket']}"):
            assert (await client.post("/ticket", headers=ALICE)).status_code == 200


async def test_a_hundred_streams_with_one_ticket() -> None:
    """Exactly one is opened."""
    async with site() as (client, _):
        ticket = (await client.post("/ticket", headers=ALICE)).json()["ticket"]
        statuses: list[int] = []

        async def attempt() -> None:
            async with client.stream("GET", f"/stream?ticket={ticket}", timeout=30) as answer:
                statuses.append(answer.status_code)

        with anyio.fail_after(40):
            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(attempt)
        assert sorted(statuses) == [200] + [401] * 99


# -- the end of credentials --------------------------------------------------------------------------------------


async def test_credentials_expire_during_a_stream_and_are_renewed() -> None:
    """The stream says so and ends; with new ones the client goes on where it was, without loss."""

    def by_time(request: Request) -> Identity | None:
        token = bearer_token(request)
        if token is None:
            return None
        return Identity("alice", expires_at=datetime.fromtimestamp(float(token), UTC))

    async with site(by_time) as (client, notifier):
        soon = datetime.now(UTC).timestamp() + 1.0
        old = {"authorization": f"Bearer {soon}"}
        async with reading(client.base_url, **old) as events:
            await notifier.push("alice", "note", 1)
            seen = await events.next()
            assert await events.reason() == "expired"
            await events.client.read_all()
            assert events.client.complete
        await notifier.push("alice", "note", 2)
        refused = await client.get("/stream", headers=old | {"last-event-id": seen.id})
        assert (refused.status_code, error_of(refused)) == (401, "expired")
        new = {"authorization": f"Bearer {soon + 3600}", "last_event_id": seen.id}
        async with reading(client.base_url, **new) as events:
            assert await events.payload() == 2


async def test_a_logout_ends_the_session_on_every_instance_alone() -> None:
    """Both streams of the session end, on two instances; the user's other session stays."""
    store, router = MemoryStreamStore(), MemoryRouter()
    sessions: dict[str, dict[str, Any]] = {"laptop": {}, "phone": {}}

    def by_session(request: Request) -> Identity | None:
        session = sessions.get(bearer_token(request) or "")
        return None if session is None else Identity("alice", session=session_id(session))

    async with (
        Notifier(store, router=router) as here,
        Notifier(store, router=router) as there,
        serving(NotifyApp(here, by_session)) as one,
        serving(NotifyApp(there, by_session)) as two,
        httpx.AsyncClient() as client,
    ):
        laptop, phone = ({"authorization": f"Bearer {name}"} for name in ("laptop", "phone"))
        async with (
            reading(f"http://{one}", **laptop) as first,
            reading(f"http://{two}", **laptop) as second,
            reading(f"http://{two}", **phone) as stays,
        ):
            await end_session(here, sessions.pop("laptop"))
            for events in (first, second):
                assert await events.reason() == "disconnected"
            await here.push("alice", "note", 1)
            assert await stays.payload() == 1
            assert (await client.get(f"http://{two}/stream", headers=laptop)).status_code == 401
            await there.disconnect("alice")
            assert await stays.reason() == "disconnected"


async def test_a_new_token_is_a_new_login() -> None:
    """Without sessions: who was disconnected and comes back with the same token is stopped, with a new one let in."""

    def by_prefix(request: Request) -> str | None:
        return (bearer_token(request) or "").partition("-")[0] or None

    async with site(by_prefix) as (client, notifier):
        old, new = ({"authorization": f"Bearer alice-{number}"} for number in (1, 2))
        async with reading(client.base_url, **old) as events:
            await notifier.disconnect("alice")
            end = await events.next()
            assert end.json["reason"] == "disconnected"
        await notifier.push("alice", "note", 1)
        for path in ("/stream", "/events"):
            assert (await client.get(path, headers=old | {"last-event-id": end.id})).status_code == 204
        async with reading(client.base_url, **new, last_event_id=end.id) as events:
            assert await events.payload() == 1


@pytest.mark.parametrize("how", ["tickets", "cookies", "tickets for cookies"])
async def test_a_new_login_without_sessions(how: str) -> None:
    """With tickets or cookies too: the same credentials are stopped, new ones are let in, and nothing is lost."""

    def by_prefix(request: Request) -> str | None:
        credential = bearer_token(request) or request.cookies.get("sid", "")
        return credential.partition("-")[0] or None

    async with site(by_prefix) as (client, notifier):

        async def opened(number: int, last: str = "") -> tuple[str, dict[str, str]]:
            credential = f"alice-{number}"
            headers = {"authorization": f"Bearer {credential}"}
            if "cookies" in how:
                headers = {"cookie": f"sid={credential}; lb={len(last)}", "sec-fetch-site": "same-origin"}
            more = {"last-event-id": last} if last else {}
            if "tickets" not in how:
                return "/stream", headers | more
            answer = await client.post("/ticket", headers=headers, json={})
            return f"/stream?ticket={answer.json()['ticket']}", more

        path, headers = await opened(1)
        async with reading(client.base_url, path, **headers) as events:
            await notifier.disconnect("alice")
            end = await events.next()
            assert end.json["reason"] == "disconnected"
        await notifier.push("alice", "note", 1)
        path, headers = await opened(1, end.id)
        assert (await client.get(path, headers=headers)).status_code == 204
        path, headers = await opened(2, end.id)
        async with reading(client.base_url, path, **headers) as events:
            assert await events.payload() == 1


async def test_a_ticket_is_known_by_the_header_it_was_asked_for_with() -> None:
    """A client that was disconnected with a header is stopped with a ticket too."""
    async with site() as (client, notifier):
        async with reading(client.base_url, **ALICE) as events:
            await notifier.disconnect("alice")
            end = await events.next()
        ticket = (await client.post("/ticket", headers=ALICE)).json()["ticket"]
        answer = await client.get(f"/stream?ticket={ticket}", headers={"last-event-id": end.id})
        assert answer.status_code == 204


async def test_what_is_pushed_to_a_session_reaches_it_before_and_after_login() -> None:
    """The id of the session does not change when its user logs in."""
    session: dict[str, Any] = {}

    def either(request: Request) -> Identity:
        own = session_id(session)
        return Identity(session.get("user") or own, session=own)

    async with site(either) as (client, notifier):
        async with reading(client.base_url) as events:
            await notifier.push(session_id(session), "cart", 1)
            before = await events.next()
            assert before.json["payload"] == 1
        session["user"] = "alice"
        await notifier.push(session_id(session), "cart", 2)
        async with reading(client.base_url, last_event_id=before.id) as events:
            assert await events.payload() == 2
            await notifier.push("alice", "note", 3)
            assert await events.payload() == 3


async def test_a_failing_authenticate_is_not_the_clients_fault() -> None:
    """503 with a time to wait; a stream ends by a frame, since a browser gives up on a status. No detail is shown."""

    def fails(request: Request) -> str:
        raise KeyError("hunter2")

    async with site(fails) as (client, _):
        answer = await client.post("/ticket")
        assert (answer.status_code, error_of(answer)) == (503, "authenticate_failed")
        assert int(answer.headers["retry-after"]) >= 1
        stream = await client.get("/stream")
        assert stream.status_code == 200
        assert "event: notify.end" in stream.text
        assert '"reason":"overload"' in stream.text
        assert "hunter2" not in answer.text + stream.text


# -- WebSocket ---------------------------------------------------------------------------------------------------


async def refused(place: str, **options: Any) -> int:
    """Open a WebSocket whose handshake is refused, and return the status."""
    with pytest.raises(InvalidStatus) as caught:
        async with websocket(place, **options):
            pass
    return caught.value.response.status_code


async def test_the_handshake_of_another_site_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Chromium sends an origin and nothing else; programs send none, and then no cookie either."""
    async with site(lambda request: request.cookies.get("user", "alice"), origins=[FRIEND]) as (client, _):
        place = f"{client.base_url.host}:{client.base_url.port}"
        cookie = {"Cookie": "user=bob"}
        with caplog.at_level(logging.INFO, "notify.web"):
            for origin in (STRANGER, "null", f"https://{place}.evil.example"):
                assert await refused(place, origin=origin) == 403
                assert f"refused: the request to the host '{place}' was sent with the origin '{origin}'" in caplog.text
        assert await refused(place, additional_headers=cookie) == 403
        for options in ({"origin": FRIEND}, {"origin": f"http://{place}", "additional_headers": cookie}, {}):
            async with websocket(place, **options) as socket:
                assert (await socket.receive())["event"] == "notify.sync"


async def test_a_ticket_beside_the_subprotocol() -> None:
    """It is not repeated in the answer, opens one WebSocket, and only for its origin."""
    async with site(origins=[FRIEND]) as (client, notifier):
        place = f"{client.base_url.host}:{client.base_url.port}"

        async def taken() -> str:
            answer = await client.post("/ticket", headers=ALICE | {"origin": FRIEND})
            return str(answer.json()["ticket"])

        ticket = await taken()
        options: dict[str, Any] = {"origin": FRIEND, "subprotocols": ["notify.v1", f"ticket.{ticket}"]}
        async with websocket(place, **options) as socket:
            assert socket.connection.subprotocol == "notify.v1"
            assert (await socket.receive())["event"] == "notify.sync"
            await notifier.push("alice", "note", 1)
            assert (await socket.receive())["data"]["payload"] == 1
        for wrong in (options, options | {"origin": None, "subprotocols": ["notify.v1", f"ticket.{await taken()}"]}):
            async with websocket(place, **wrong) as socket:
                _, code, _ = await socket.end()
                assert code == 4001
        async with websocket(place, f"ticket={await taken()}", origin=FRIEND) as socket:
            assert (await socket.receive())["event"] == "notify.sync"


async def test_credentials_expire_during_a_websocket() -> None:
    """4001, with the reason in a frame before it; expired ones are 4001 at once."""

    def soon(request: Request) -> Identity:
        return Identity("alice", expires_at=datetime.fromtimestamp(expires, UTC))

    async with site(soon) as (client, _):
        place = f"{client.base_url.host}:{client.base_url.port}"
        expires = datetime.now(UTC).timestamp() + 1.0
        async with websocket(place) as socket:
            frames, code, _ = await socket.end()
            assert [frame["event"] for frame in frames] == ["notify.sync", "notify.end"]
            assert (frames[-1]["data"]["reason"], code) == ("expired", 4001)
        async with websocket(place) as socket:
            assert (await socket.end())[1] == 4001
        expires = datetime.now(UTC).timestamp() + 3600.0
        async with websocket(place) as socket:
            assert (await socket.receive())["event"] == "notify.sync"


# -- sessions of frameworks --------------------------------------------------------------------------------------


async def test_login_and_logout_with_the_sessions_of_starlette() -> None:
    """One page from its first visit to its logout: what the session was told stays, and the logout ends its stream."""
    notifier = Notifier(MemoryStore())

    def by_session(request: Request) -> Identity:
        session = request.scope["session"]
        own = session_id(session)
        return Identity(session.get("user", own), session=own)

    async def login(request: StarletteRequest) -> JSONResponse:
        request.session["user"] = "alice"
        return JSONResponse(session_id(request.session))

    async def logout(request: StarletteRequest) -> JSONResponse:
        await end_session(notifier, request.session)
        request.session.clear()
        return JSONResponse(None)

    routes = [
        Mount("/notify", NotifyApp(notifier, by_session)),
        Route("/login", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, secret_key="secret")])
    async with notifier, serving(app) as place, httpx.AsyncClient(base_url=f"http://{place}") as client:
        position = (await client.get("/notify/events")).json()["position"]
        session = (await client.post("/login")).json()
        cookie = f"session={client.cookies['session']}"
        await notifier.push(session, "cart", 1)
        page = (await client.get("/notify/events", params={"after": position})).json()
        assert [event["payload"] for event in page["events"]] == [1]
        async with reading(client.base_url, "/notify/stream", cookie=cookie) as events:
            await notifier.push("alice", "note", 2)
            assert await events.payload() == 2
            await client.post("/logout")
            assert await events.reason() == "disconnected"
        anonymous = (await client.post("/login")).json()
        assert anonymous != session


# -- several processes -------------------------------------------------------------------------------------------


class TestBetweenProcesses:
    """Over SQLite, whose driver runs on asyncio only."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    async def test_tickets_and_logouts(self, tmp_path: Path) -> None:
        """A ticket of one server process opens a stream at the other, once; a third process disconnects its user."""
        url = f"sqlite:///{tmp_path / 'notify.db'}"
        servers = [
            WebServer("uvicorn", "tests.web.apps.plain:app", tmp_path, env={"TEST_STORE": url}) for _ in range(2)
        ]
        async with AsyncExitStack() as stack:
            for server in servers:
                await run_sync(stack.enter_context, server)
            one, two = (server.url for server in servers)
            client = await stack.enter_async_context(httpx.AsyncClient())
            ticket = (await client.post(f"{one}/ticket?user=alice")).json()["ticket"]
            notifier = await stack.enter_async_context(Notifier.from_url(url))
            async with reading(two, f"/stream?ticket={ticket}") as events:
                for server in (one, two):
                    answer = await client.get(f"{server}/stream?ticket={ticket}")
                    assert (answer.status_code, error_of(answer)) == (401, "invalid_ticket")
                await notifier.push("alice", "note", 1)
                assert await events.payload() == 1
                await notifier.disconnect("alice")
                assert await events.reason() == "disconnected"
