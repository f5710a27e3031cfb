"""How a stream ends: every reason, what the client is told, and that nothing is left behind."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from notify import BackendUnavailableError, Event, Notifier, Page
from notify.web import Identity, NotifyApp, Request, WebError, _sse
from notify.web._endpoint import _shared_site
from notify.web._options import WebOptions
from notify_memory import MemoryPresence, MemoryStore, MemoryStreamStore
from tests.parts import PlainStore, until
from tests.web.clients import Frame, RawClient
from tests.web.test_sse import gist, served, site, stream, web

pytestmark = pytest.mark.anyio


async def last_frame(client: RawClient) -> Frame:
    """Read to the end, which is complete, and return `notify.end`; the time to reconnect is there twice."""
    await client.read_all()
    assert client.complete
    frame = client.frames[-1]
    assert frame.event == "notify.end"
    assert int(frame.retry) == frame.json["retry"]
    return frame


# -- disconnected ---------------------------------------------------------------------------------------------------


async def test_a_client_that_was_disconnected_finds_204() -> None:
    """If it comes back by itself, with the id of the last frame, at any instance; a new session is let in."""
    store = MemoryStreamStore()
    sessions = {"old": Identity("alice", session="old"), "new": Identity("alice", session="new")}

    def auth(request: Request) -> Identity | None:
        return sessions.get(request.query["user"])

    async with site(store, auth) as (here, first), site(store, auth) as (there, second):
        await here.push("alice", "t", 0)
        async with stream(first, "old", last_id="0") as client:
            await client.read_until(b"notify.sync")
            await there.disconnect("alice", "logged out")
            end = await last_frame(client)
        assert end.json["reason"] == "disconnected"
        assert end.id.isascii()
        await here.push("alice", "t", 1)
        for port in (first, second):
            for query in ("", f"&lastEventId={end.id}"):
                async with stream(port, "old", last_id="" if query else end.id, query=query) as client:
                    await client.read_all()
                    assert (client.status, client.body) == (204, b"")
        async with stream(second, "new", last_id=end.id) as client:
            await client.read_until(b"notify.sync")
            assert gist(client.frames) == [1, "notify.sync"]
        async with stream(second, "old") as client:
            await client.read_until(b"notify.sync")


async def test_a_disconnection_reaches_a_client_that_is_being_authenticated() -> None:
    """Here, and at an instance that has no stream open."""
    store = MemoryStreamStore()
    gate, asked = anyio.Event(), 0

    async def slow(request: Request) -> str:
        nonlocal asked
        asked += 1
        await gate.wait()
        return "alice"

    async with site(store, slow) as (here, first), site(store, slow) as (_, second):
        async with stream(first) as near, stream(second) as far:
            await until(lambda: asked == 2)
            await here.disconnect("alice")
            gate.set()
            for client in (near, far):
                end = await last_frame(client)
                assert end.json["reason"] == "disconnected"
                assert end.id
        async with stream(second) as client:
            await client.read_until(b"notify.sync")


# -- times ----------------------------------------------------------------------------------------------------------


async def test_credentials_expire_during_a_stream() -> None:
    """It ends then, and `authenticate` decides about the next one."""

    def auth(request: Request) -> Identity | None:
        at = datetime.fromtimestamp(float(request.query["user"]), UTC)
        return Identity("alice", expires_at=at) if at > datetime.now(UTC) else None

    async with site(auth=auth) as (_, port):
        until_when = (datetime.now(UTC) + timedelta(seconds=0.6)).timestamp()
        async with stream(port, str(until_when)) as client:
            end = await last_frame(client)
            assert (end.json["reason"], end.id) == ("expired", "")
            assert gist(client.frames)[0] == "notify.sync"
            assert time.time() >= until_when
        async with stream(port, str(until_when)) as client:
            await client.read_all()
            assert client.status == 401


async def test_a_lifetime_ends_and_varies() -> None:
    """Within a fifth of what was given."""
    async with site(lifetime=0.5, heartbeat=0.2) as (_, port):
        lived = []

        async def live() -> None:
            began = time.monotonic()
            async with stream(port) as client:
                assert (await last_frame(client)).json["reason"] == "lifetime"
                assert b"\n:\n" in client.body
            lived.append(time.monotonic() - began)

        async with anyio.create_task_group() as group:
            for _ in range(16):  # two that differ by less than a slot of the ticker may end together
                group.start_soon(live)
        assert all(0.35 < each < 1.5 for each in lived)
        assert max(lived) - min(lived) > 0.03


# -- limits ---------------------------------------------------------------------------------------------------------


async def test_a_user_with_too_many_streams_loses_the_oldest() -> None:
    """The rest stay, those of others too; the oldest is asked to stay away for minutes."""
    async with site(max_streams_per_user=2) as (notifier, port):
        async with stream(port) as first, stream(port, "bob") as other:
            for client in (first, other):
                await client.read_until(b"notify.sync")
            async with stream(port) as second, stream(port) as third:
                for client in (second, third):
                    await client.read_until(b"notify.sync")
                end = await last_frame(first)
                assert end.json["reason"] == "replaced"
                assert end.json["retry"] >= 120_000
                await until(lambda: notifier.statistics().open_streams == 3)
                await notifier.push("alice", "t", 1)
                await notifier.push("bob", "t", 1)
                for client in (second, third, other):
                    await client.read_until(b'"payload":1')


async def test_too_many_streams_are_told_to_come_back() -> None:
    """With 200: a browser would give up on 503. Nothing is asked of `authenticate`."""
    asked = []

    def auth(request: Request) -> str:
        asked.append(1)
        return "alice"

    async with site(max_streams=1, auth=auth) as (_, port):
        async with stream(port) as first:
            await first.read_until(b"notify.sync")
            async with stream(port) as second:
                end = await last_frame(second)
                assert (second.status, end.json["reason"]) == (200, "overload")
                assert end.json["retry"] >= 15_000
        assert len(asked) == 1

        async def is_let_in() -> bool:
            async with stream(port) as client:
                await client.read_until(b"\n\n")
                return b"notify.sync" in client.body

        await until(is_let_in)


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_slow_reader_is_ended_and_delays_no_other(http: str, anyio_backend: str) -> None:
    """Its stream is released after `send_timeout`, while others get every event at once."""
    async with Notifier(MemoryStore(max_len=20_000)) as notifier:
        app = NotifyApp(notifier, lambda request: request.query["user"], send_timeout=1.0, heartbeat=0.5)
        async with served(app, http=http) as port, stream(port) as slow, stream(port, "bob") as other:
            await slow.read_until(b"notify.sync")
            await other.read_until(b"notify.sync")
            began = time.monotonic()
            sent = 0
            delays = []
            while notifier.statistics().open_streams == 2:
                assert time.monotonic() - began < 30
                for _ in range(10):
                    await notifier.push("alice", "t", "x" * 60_000)
                await notifier.push("bob", "t", sent)
                pushed = time.monotonic()
                await other.read_until(f'"payload":{sent}'.encode())
                delays.append(time.monotonic() - pushed)
                sent += 1
            assert sorted(delays)[len(delays) // 2] < 0.5
            assert max(delays) < 5
            assert notifier.statistics().open_streams == 1
            assert app._site.limits.open == 1


# -- the server ends ------------------------------------------------------------------------------------------------


async def test_shutting_down_is_told_to_every_stream_and_to_new_ones() -> None:
    """With 200 and a time to come back; what was not seen is there for the next instance."""
    store = MemoryStore()
    asked = []

    def auth(request: Request) -> str:
        asked.append(1)
        return "alice"

    async with Notifier(store) as notifier:
        app = NotifyApp(notifier, auth)
        async with served(app) as port, stream(port) as first, stream(port) as second:
            for client in (first, second):
                await client.read_until(b"notify.sync")
            app.begin_shutdown()
            app.begin_shutdown()
            for client in (first, second):
                assert (await last_frame(client)).json["reason"] == "shutdown"
            async with stream(port, last_id="garbage") as late:
                assert (await last_frame(late)).json["reason"] == "shutdown"
                assert late.status == 200
            assert len(asked) == 2
        missed = await notifier.push("alice", "t", 1)
        position = first.frames[0].id
        async with web(notifier) as port, stream(port, last_id=position) as client:
            await client.read_until(b"notify.sync")
            assert client.messages[0]["id"] == missed.id


async def test_shutting_down_while_a_client_is_authenticated() -> None:
    """It is told as soon as it is known."""
    gate, asked = anyio.Event(), anyio.Event()

    async def slow(request: Request) -> str:
        asked.set()
        await gate.wait()
        return "alice"

    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, slow)
        async with served(app) as port, stream(port) as client:
            await asked.wait()
            app.begin_shutdown()
            gate.set()
            assert (await last_frame(client)).json["reason"] == "shutdown"


async def test_draining_or_closing_the_notifier_ends_the_streams() -> None:
    """As a shutdown; afterwards new ones are told the same."""
    for closing in (False, True):
        notifier = Notifier(MemoryStore())
        async with web(notifier) as port:
            async with stream(port) as client:
                await client.read_until(b"notify.sync")
                await (notifier.aclose() if closing else notifier.drain(0.1))
                assert (await last_frame(client)).json["reason"] == "shutdown"
            async with stream(port) as client:
                assert (await last_frame(client)).json["reason"] == "shutdown"
        await notifier.aclose()


# -- outages --------------------------------------------------------------------------------------------------------


class Failing(PlainStore):
    """A store that fails, or hangs, while it is told to."""

    failing = hanging = False

    async def _enter(self, name: str) -> None:
        await super()._enter(name)
        if self.hanging and name != "save":
            await anyio.sleep_forever()
        if self.failing:
            raise BackendUnavailableError("the store is down")


@pytest.mark.parametrize("how", ["failing", "hanging"])
@pytest.mark.parametrize("last_id", ["", "0"])
async def test_an_outage_when_a_stream_is_opened(how: str, last_id: str) -> None:
    """The client is told to come back later, and then finds everything."""
    store = Failing()
    async with Notifier(store, poll_interval=0.1, timeout=0.3) as notifier, web(notifier) as port:
        await notifier.push("alice", "t", 1)
        setattr(store, how, True)
        async with stream(port, last_id=last_id) as client:
            end = await last_frame(client)
            assert (client.status, end.json["reason"]) == (200, "overload")
            assert end.json["retry"] >= 15_000
        setattr(store, how, False)
        async with stream(port, last_id="0") as client:
            await client.read_until(b"notify.sync")
            assert gist(client.frames) == [1, "notify.sync"]


async def test_an_outage_during_a_stream() -> None:
    """It goes on with heartbeats, and continues where it was."""
    store = Failing()
    async with Notifier(store, poll_interval=0.1, timeout=0.3) as notifier, web(notifier, heartbeat=0.2) as port:
        async with stream(port) as client:
            await client.read_until(b"notify.sync")
            store.failing = True
            await client.read_until(b":\n:\n:\n")
            store.inner.save_nowait(Event("alice", "t", 1))
            store.failing = False
            await client.read_until(b'"payload":1')
            assert gist(client.frames)[0] == "notify.sync"


async def test_an_outage_in_the_middle_of_a_replay() -> None:
    """The replay waits, with heartbeats, and goes on."""

    class Later(Failing):
        async def read(self, user: str, after: str, limit: int) -> Page:
            page = await super().read(user, after, limit)
            self.failing = True
            return page

    store = Later(MemoryStore(max_len=5000))
    async with Notifier(store, poll_interval=60, timeout=0.3) as notifier, web(notifier, heartbeat=0.2) as port:
        for number in range(1500):
            store.inner.save_nowait(Event("alice", "t", number))
        async with stream(port, last_id="0") as client:
            while b'"payload":1499' not in client.body:
                await client.read_until(b":\n", 20)
                client.body = client.body.replace(b"\n:\n", b"\n")
                store.failing = False
            await client.read_until(b"notify.sync")
            assert [message["payload"] for message in client.messages] == [*range(1500)]


# -- nothing is left ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "rst", "half"])
async def test_a_client_that_leaves_is_noticed_at_once(how: str) -> None:
    """Nothing has to be sent to it; presence too is released."""
    presence = MemoryPresence()
    async with Notifier(MemoryStore(), presence=presence, linger=0.05) as notifier:
        app = NotifyApp(notifier, lambda request: request.query["user"])
        async with served(app) as port:
            client = await stream(port).open()
            await client.read_until(b"notify.sync")
            assert await presence.locate(["alice"])
            client.leave(how)  # the next heartbeat is due in 15 s
            await until(lambda: notifier.statistics().open_streams == 0)
            await until(lambda: (app._site.limits.open, len(app._site.ticker), len(app._site.closing)) == (0, 0, 0))

            async def is_offline() -> bool:
                return not await presence.locate(["alice"])

            await until(is_offline)
            client.socket.close()


@pytest.mark.parametrize("error", [BackendUnavailableError("down"), WebError(503, "unavailable", "later")])
async def test_credentials_that_cannot_be_looked_up(error: Exception) -> None:
    """The client comes back, as after an outage of the store."""
    async with Notifier(MemoryStore()) as notifier:

        async def admitted(*_: Any) -> Any:
            raise error

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "http"
            await _sse.serve(_shared_site(notifier, WebOptions()), admitted, Request(scope), receive, send)

        async with served(app) as port, stream(port) as client:
            assert (await last_frame(client)).json["reason"] == "overload"
