"""GET /ws over real servers: the same stream as by server-sent events, commands, and every way to end."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from websockets.exceptions import InvalidStatus

from notify import Notifier
from notify.inbox import Inbox
from notify.web import Identity, NotifyApp, Request
from notify_memory import MemoryStreamStore
from tests.parts import until
from tests.web.serving import serving, websocket

pytestmark = pytest.mark.anyio


def authenticate(request: Request) -> Identity | None:
    """The user in the URL, who may read its room too."""
    user = request.query.get("user")
    expires = request.query.get("expires")
    expires_at = datetime.now(UTC) + timedelta(seconds=float(expires)) if expires else None
    return (
        Identity(user, addresses=[f"room-{user}"], expires_at=expires_at, session=request.query.get("session", "s-1"))
        if user
        else None
    )


@pytest.fixture
async def notifier() -> AsyncIterator[Notifier]:
    async with Notifier(MemoryStreamStore()) as notifier:
        yield notifier


def application(notifier: Notifier[Any], **options: Any) -> NotifyApp:
    return NotifyApp(notifier, authenticate, **options)


class TestStream:
    async def test_the_same_objects_as_in_a_stream(self, notifier: Notifier) -> None:
        """The subprotocol is confirmed; then sync with the position, and live events with their ids."""
        async with serving(application(notifier)) as place, websocket(place, "user=alice") as client:
            assert client.connection.subprotocol == "notify.v1"
            sync = await client.receive()
            assert sync["event"] == "notify.sync"
            assert sync["data"] == {"position": sync["id"], "heartbeat": 15.0}
            event = await notifier.push("alice", "order", {"n": 1}, group="g", meta={"a": "b"})
            frame = await client.receive()
            assert frame["event"] == "message"
            assert frame["data"] == {
                "id": event.id,
                "user": "alice",
                "type": "order",
                "payload": {"n": 1},
                "timestamp": frame["data"]["timestamp"],
                "group": "g",
                "meta": {"a": "b"},
            }
            await notifier.push("alice", "order", {"n": 2}, ephemeral=True)
            frame = await client.receive()
            assert "id" not in frame
            assert "id" not in frame["data"]

    @pytest.mark.parametrize("name", ["lastEventId", "last_event_id", "last_id"])
    async def test_it_resumes_exactly(self, notifier: Notifier, name: str) -> None:
        """At the id of any frame, by each name of the position; the replay precedes sync."""
        async with serving(application(notifier)) as place:
            async with websocket(place, "user=alice") as client:
                await client.until("notify.sync")
                await notifier.push("alice", "order", 0)
                position = (await client.receive())["id"]
            for n in range(1, 6):
                await notifier.push("alice", "order", n)
            async with websocket(place, f"user=alice&{name}={position}") as client:
                frames = [await client.receive() for _ in range(6)]
                assert [frame["event"] for frame in frames] == ["message"] * 5 + ["notify.sync"]
                assert [frame["data"]["payload"] for frame in frames[:5]] == [1, 2, 3, 4, 5]
                assert frames[4]["id"] == frames[5]["id"]

    async def test_a_long_replay(self, notifier: Notifier) -> None:
        """Hundreds of events come in order, and commands are answered in between."""
        for n in range(900):
            await notifier.push("alice", "order", n)
        async with serving(application(notifier)) as place, websocket(place, "user=alice&last_id=0") as client:
            await client.send({"ref": "p", "do": "ping"})
            seen, answered = [], False
            while True:
                frame = await client.receive()
                if frame.get("event") == "notify.sync":
                    break
                if "ref" in frame:
                    answered = True
                else:
                    seen.append(frame["data"]["payload"])
            assert seen == list(range(900))
            assert answered or (await client.receive())["ref"] == "p"

    async def test_what_is_not_a_position_is_a_gap(self, notifier: Notifier) -> None:
        """Never an error: the client learns that it may have missed something, and goes on from now."""
        await notifier.push("alice", "order", 1)
        async with serving(application(notifier)) as place:
            async with websocket(place, "user=alice&last_id=nonsense") as client:
                gap, sync = await client.receive(), await client.receive()
                assert (gap["event"], gap["data"]["reason"]) == ("notify.gap", "invalid")
                assert "id" not in gap
                assert sync["event"] == "notify.sync"
                await notifier.push("alice", "order", 2)
                assert (await client.receive())["data"]["payload"] == 2

    async def test_a_gap(self) -> None:
        """What retention has removed is told before the rest."""
        async with Notifier(MemoryStreamStore(max_len=2)) as notifier, serving(application(notifier)) as place:
            first = await notifier.push("alice", "order", 0)
            for n in range(1, 5):
                await notifier.push("alice", "order", n)
            async with websocket(place, f"user=alice&session=&last_id={first.id}") as client:
                gap = await client.receive()
                assert (gap["event"], gap["data"]["reason"], gap["data"]["user"]) == ("notify.gap", "trimmed", "alice")
                assert [(await client.receive())["data"]["payload"] for _ in range(2)] == [3, 4]

    async def test_several_logs(self, notifier: Notifier) -> None:
        """The user, its session and the addresses that it names; the position then covers all of them."""
        async with serving(application(notifier)) as place:
            async with websocket(place, "user=alice&address=room-alice") as client:
                position = (await client.until("notify.sync"))["id"]
            for log in ("room-alice", "s-1", "alice", "room-bob"):
                await notifier.push(log, "order", log)
            async with websocket(place, f"user=alice&address=room-alice&last_id={position}") as client:
                frames = [await client.receive() for _ in range(4)]
                assert {frame["data"].get("user") for frame in frames[:3]} == {"room-alice", "s-1", "alice"}
                assert frames[3]["event"] == "notify.sync"

    async def test_without_a_store(self) -> None:
        """There is nothing to replay: sync comes at once."""
        async with Notifier() as notifier, serving(application(notifier)) as place:
            async with websocket(place, "user=alice") as client:
                assert (await client.receive())["event"] == "notify.sync"
                await notifier.push("alice", "order", 1, ephemeral=True)
                assert (await client.receive())["data"]["payload"] == 1

    async def test_silence_is_noticed(self, notifier: Notifier) -> None:
        """A page sees no control frames of a WebSocket, so the heartbeat is a frame."""
        async with serving(application(notifier, heartbeat=0.2)) as place:
            async with websocket(place, "user=alice") as client:
                assert (await client.receive())["data"]["heartbeat"] == 0.2
                started = anyio.current_time()
                assert [await client.receive(), await client.receive()] == [{"event": "notify.ping", "data": {}}] * 2
                assert anyio.current_time() - started < 5


class TestCommands:
    async def test_ping_and_what_is_unknown(self, notifier: Notifier) -> None:
        """Each command is answered by its reference; what is not one is answered too, and the stream goes on."""
        async with serving(application(notifier)) as place, websocket(place, "user=alice") as client:
            assert await client.ask(ref="a", do="ping") == {"ref": "a", "ok": True}
            assert (await client.ask(ref=7, do="fly"))["error"]["code"] == "unknown_command"
            for bad in ("{", "[" * 5000, "[]", '{"do": 1}', "\ud800".encode("utf-8", "replace").decode()):
                await client.send(bad)
                answer = await client.receive()
                assert (answer["ref"], answer["error"]["code"][:4]) == (None, "bad_")
            await notifier.push("alice", "order", 1)
            assert (await client.receive())["data"]["payload"] == 1

    async def test_subscribe_moves_the_stream(self, notifier: Notifier) -> None:
        """All frames after the answer are of the new stream: replay, sync, live; also when it is asked again."""
        for n in range(3):
            await notifier.push("alice", "order", n)
        async with serving(application(notifier)) as place, websocket(place, "user=alice") as client:
            await client.until("notify.sync")
            for _ in range(2):
                assert await client.ask(ref=2, do="subscribe", position="0") == {"ref": 2, "ok": True}
                frames = [await client.receive() for _ in range(4)]
                assert [frame["data"].get("payload") for frame in frames] == [0, 1, 2, None]
                assert frames[3]["event"] == "notify.sync"
            answer = await client.ask(do="subscribe", position=frames[1]["id"])
            assert answer["ok"]
            assert (await client.receive())["data"]["payload"] == 2
            assert await until_one_stream(notifier)

    async def test_subscribe_to_what_is_not_a_position(self, notifier: Notifier) -> None:
        """As in the URL: a gap for a text; an error only for what is not text."""
        async with serving(application(notifier)) as place, websocket(place, "user=alice") as client:
            await client.until("notify.sync")
            assert (await client.ask(do="subscribe", position=5))["error"]["code"] == "bad_position"
            assert (await client.ask(do="subscribe", position="nonsense"))["ok"]
            assert (await client.receive())["data"]["reason"] == "invalid"

    @pytest.mark.parametrize(
        ("frame", "reason"), [(b"{}", "binary_frame"), ("x" * 9000, "too_large"), ("é" * 5000, "too_large")]
    )
    async def test_frames_of_no_client_end_the_connection(self, notifier: Notifier, frame: Any, reason: str) -> None:
        """Binary and oversized ones: close code 4000."""
        async with serving(application(notifier)) as place, websocket(place, "user=alice") as client:
            await client.send(frame)
            _, code, said = await client.end()
            assert (code, said) == (4000, reason)
            await until(lambda: notifier.statistics().open_streams == 0)

    async def test_a_flood_ends_the_connection(self, notifier: Notifier) -> None:
        """More commands at once than any client needs; another client is not disturbed."""
        async with serving(application(notifier)) as place:
            async with websocket(place, "user=bob") as other, websocket(place, "user=alice") as client:
                for _ in range(200):
                    try:
                        await client.send({"ref": 1, "do": "ping"})
                    except Exception:
                        break
                _, code, reason = await client.end()
                # hypercorn closes with bytes unread, so the system may reset the connection before the code is read
                assert (code, reason) in {(4000, "too_many_commands"), (1006, "")}
                assert (await other.ask(do="ping"))["ok"]


async def until_one_stream(notifier: Notifier) -> bool:
    await until(lambda: notifier.statistics().open_streams == 1)
    return True


class TestWhoIsLetIn:
    async def test_without_credentials(self, notifier: Notifier) -> None:
        """Accepted, then closed: a page sees the code 4001, where a failed handshake would be 1006."""
        async with serving(application(notifier)) as place, websocket(place) as client:
            assert await client.end() == ([], 4001, "unauthenticated")

    async def test_an_address_that_may_not_be_read(self, notifier: Notifier) -> None:
        """Close code 4003."""
        async with serving(application(notifier)) as place:
            async with websocket(place, "user=alice&address=room-bob") as client:
                assert await client.end() == ([], 4003, "forbidden")

    async def test_another_site(self, notifier: Notifier) -> None:
        """Refused in the handshake: the page of another site gets not even an open connection; its own origin does."""
        async with serving(application(notifier)) as place:
            with pytest.raises(InvalidStatus) as refused:
                async with websocket(place, "user=alice", origin="https://evil.example"):
                    pytest.fail("accepted")
            assert refused.value.response.status_code == 403
            async with websocket(place, "user=alice", origin=f"http://{place}") as client:
                assert (await client.receive())["event"] == "notify.sync"

    async def test_a_client_without_the_subprotocol(self, notifier: Notifier) -> None:
        """It is let in, and none is named."""
        async with serving(application(notifier)) as place:
            async with websocket(place, "user=alice", subprotocols=None) as client:
                assert client.connection.subprotocol is None
                assert (await client.receive())["event"] == "notify.sync"

    async def test_authentication_that_fails(self, notifier: Notifier) -> None:
        """The fault is the server's: the client comes back later."""

        def broken(request: Request) -> str:
            raise RuntimeError("no database")

        async with serving(NotifyApp(notifier, broken)) as place, websocket(place) as client:
            frames, code, _ = await client.end()
            assert code == 4012
            assert frames[-1]["data"]["reason"] == "overload"

    async def test_no_user_at_all(self, notifier: Notifier) -> None:
        """A name that cannot be that of a user is as good as none."""
        async with serving(NotifyApp(notifier, lambda request: "a\x00b")) as place, websocket(place) as client:
            _, code, _ = await client.end()
            assert code == 4001


class TestEnds:
    async def test_disconnect(self, notifier: Notifier) -> None:
        """4013, and the last frame has an id by which a client that comes back by itself is known."""
        async with serving(application(notifier)) as place:
            async with websocket(place, "user=alice") as client:
                await client.until("notify.sync")
                await notifier.disconnect("alice")
                (last,), code, reason = await client.end()
                assert (last["event"], last["data"]["reason"]) == ("notify.end", "disconnected")
                assert (code, reason) == (4013, "disconnected")
            async with websocket(place, f"user=alice&last_id={last['id']}") as client:
                (again,), code, _ = await client.end()
                assert (again["data"]["reason"], code) == ("disconnected", 4013)

    async def test_expired_credentials(self, notifier: Notifier) -> None:
        """4001: the client authenticates again."""
        async with serving(application(notifier)) as place:
            async with websocket(place, "user=alice&expires=0.3") as client:
                frames, code, _ = await client.end()
                assert (frames[-1]["data"]["reason"], code) == ("expired", 4001)

    async def test_the_lifetime(self, notifier: Notifier) -> None:
        """4012, with the time after which to come back."""
        async with serving(application(notifier, lifetime=0.3, retry=(2.0, 3.0))) as place:
            async with websocket(place, "user=alice") as client:
                frames, code, _ = await client.end()
                assert (frames[-1]["data"]["reason"], code) == ("lifetime", 4012)
                assert 2000 <= frames[-1]["data"]["retry"] <= 3000

    async def test_replaced(self, notifier: Notifier) -> None:
        """4010 for the oldest, with a time of minutes."""
        async with serving(application(notifier, max_streams_per_user=1)) as place:
            async with websocket(place, "user=alice") as first:
                await first.until("notify.sync")
                async with websocket(place, "user=alice") as second:
                    (last,), code, _ = await first.end()
                    assert (last["data"]["reason"], code) == ("replaced", 4010)
                    assert last["data"]["retry"] >= 60_000
                    assert (await second.ask(do="ping"))["ok"]

    async def test_too_many_streams(self, notifier: Notifier) -> None:
        """Accepted and told when to come back: a failed handshake could not say so."""
        async with serving(application(notifier, max_streams=1)) as place:
            async with websocket(place, "user=alice") as first, websocket(place, "user=bob") as second:
                (last,), code, _ = await second.end()
                assert (last["data"]["reason"], code) == ("overload", 4012)
                assert (await first.ask(do="ping"))["ok"]

    async def test_shutdown(self, notifier: Notifier) -> None:
        """Every open one is told, and one that comes during the drain too."""
        app = application(notifier)
        async with serving(app) as place, websocket(place, "user=alice") as client:
            await client.until("notify.sync")
            app.begin_shutdown()
            (last,), code, _ = await client.end()
            assert (last["data"]["reason"], code) == ("shutdown", 4012)
            async with websocket(place, "user=alice") as late:
                (last,), code, _ = await late.end()
                assert (last["data"]["reason"], code) == ("shutdown", 4012)

    @pytest.mark.parametrize("anyio_backend", ["trio"])  # uvicorn closes WebSockets by itself before it cancels
    async def test_a_server_that_cancels(self, notifier: Notifier) -> None:
        """hypercorn tells the application nothing, and then cancels it: the client is told even so."""

        async def follow(place: str) -> None:
            async with websocket(place, "user=alice") as client:
                frames, code, _ = await client.end()
                assert (frames[-1]["data"]["reason"], code) == ("shutdown", 4012)

        async with anyio.create_task_group() as group, serving(application(notifier)) as place:
            group.start_soon(follow, place)
            await until(lambda: notifier.statistics().open_streams == 1)

    async def test_shutdown_during_authentication(self, notifier: Notifier) -> None:
        """The stream is ended as soon as it is there."""
        asked, answered = anyio.Event(), anyio.Event()

        async def slow(request: Request) -> str:
            asked.set()
            await answered.wait()
            return "alice"

        app = NotifyApp(notifier, slow)
        async with serving(app) as place, anyio.create_task_group() as group:

            async def end_it() -> None:
                await asked.wait()
                app.begin_shutdown()
                answered.set()

            group.start_soon(end_it)
            async with websocket(place) as client:
                frames, code, _ = await client.end()
                assert (frames[-1]["data"]["reason"], code) == ("shutdown", 4012)

    async def test_a_notifier_that_is_closed(self, notifier: Notifier) -> None:
        """As for a server that ends: the client comes back."""
        async with serving(application(notifier)) as place:
            for close in (notifier.drain, notifier.aclose):
                await close()
                async with websocket(place, "user=alice") as client:
                    (last,), code, _ = await client.end()
                    assert (last["data"]["reason"], code) == ("shutdown", 4012)

    async def test_more_logs_than_a_stream_may_read(self, notifier: Notifier) -> None:
        """The client's fault: close code 4000."""
        rooms = [f"room-{n}" for n in range(101)]
        app = NotifyApp(notifier, lambda request: Identity("alice", addresses=rooms))
        async with serving(app) as place:
            async with websocket(place, "&".join(f"address={room}" for room in rooms)) as client:
                assert await client.end() == ([], 4000, "bad_request")

    async def test_a_server_that_raises_at_the_end(self, notifier: Notifier) -> None:
        """Servers differ in what `receive` does once the client is gone; a frame may come when there is no stream."""
        app = application(notifier)
        for closed in (False, True):
            if closed:
                await notifier.drain()
            arriving: list[Any] = [
                {"type": "websocket.connect"},
                {"type": "websocket.receive", "text": '{"ref": 1, "do": "ping"}'},
            ]
            sent: list[Any] = []

            async def receive(arriving: list[Any] = arriving) -> Any:
                await anyio.lowlevel.checkpoint()
                return arriving.pop(0)  # IndexError in the end

            async def send(message: Any, sent: list[Any] = sent) -> None:
                sent.append(message)

            scope = {"type": "websocket", "path": "/ws", "query_string": b"user=alice", "headers": [], "scheme": "ws"}
            await app(scope, receive, send)
            assert sent[0] == {"type": "websocket.accept", "subprotocol": None}
            assert arriving == []
            assert (sent[-1]["type"] == "websocket.close") is closed
        assert notifier.statistics().open_streams == 0

    @pytest.mark.parametrize("closed", [False, True])
    async def test_a_server_that_has_closed_the_connection(self, notifier: Notifier, closed: bool) -> None:
        """As uvicorn does if a frame is not UTF-8: a send fails before the end is received. Nothing is left."""
        app = application(notifier)
        if closed:
            await notifier.drain()
        failed = anyio.Event()
        arriving = ["websocket.connect", "websocket.disconnect"]

        async def receive() -> Any:
            if len(arriving) == 1:
                await failed.wait()
            return {"type": arriving.pop(0), "code": 1007}

        async def send(message: Any) -> None:
            if message["type"] != "websocket.accept":
                failed.set()
                raise RuntimeError("Unexpected ASGI message, after sending 'websocket.close'.")

        scope = {"type": "websocket", "path": "/ws", "query_string": b"user=alice", "headers": [], "scheme": "ws"}
        await app(scope, receive, send)
        assert failed.is_set()
        assert notifier.statistics().open_streams == app._site.limits.open == len(app._site.closing) == 0

    async def test_a_client_that_leaves(self, notifier: Notifier) -> None:
        """By a close frame or a reset: its stream is released at once."""
        async with serving(application(notifier)) as place:
            for linger in (None, b"\x01\x00\x00\x00\x00\x00\x00\x00"):
                async with websocket(place, "user=alice") as client:
                    await client.until("notify.sync")
                    if linger is not None:
                        client.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        client.connection.socket.close()
                await until(lambda: notifier.statistics().open_streams == 0)

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])  # hypercorn's trio worker shields what it sends
    async def test_a_client_that_does_not_read(self, notifier: Notifier) -> None:
        """It delays no other client, and its stream is ended when a send has taken too long."""
        app = application(notifier, send_timeout=0.5)
        async with serving(app) as place, websocket(place, "user=bob") as other:
            await other.until("notify.sync")
            host, port = place.split(":")
            with socket.create_connection((host, int(port))) as silent:
                silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                silent.sendall(
                    f"GET /ws?user=alice HTTP/1.1\r\nHost: {place}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
                )
                await until(lambda: notifier.statistics().open_streams == 2)
                for n in range(200):
                    await notifier.push("alice", "order", "x" * 60_000)
                    if n % 50 == 0:
                        await notifier.push("bob", "order", n)
                        assert (await other.receive())["data"]["payload"] == n
                await until(lambda: notifier.statistics().open_streams == 1, 10)
                assert (await other.ask(do="ping"))["ok"]


class Page:
    """A page that is left: it sends commands, and the end of its connection follows at once.

    Args:
        commands: what it sends.
        released: the end follows when this is set; without it, at once.
    """

    def __init__(self, *commands: dict[str, Any], released: anyio.Event | None = None) -> None:
        texts = [{"type": "websocket.receive", "text": json.dumps({"ref": 1} | command)} for command in commands]
        self._arriving: list[dict[str, Any]] = [{"type": "websocket.connect"}, *texts]
        self._released = released
        self.scope = {"type": "websocket", "path": "/ws", "query_string": b"user=alice", "headers": [], "scheme": "ws"}
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> Any:
        if not self._arriving and self._released is not None:
            await self._released.wait()
        return self._arriving.pop(0) if self._arriving else {"type": "websocket.disconnect", "code": 1001}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


class TestChangesOfAPageThatIsLeft:
    """As over HTTP: what has arrived is carried out. A page marks an item, and navigates to it."""

    async def test_they_arrive_with_the_end(self, notifier: Notifier) -> None:
        inbox = Inbox(notifier)
        items = [await inbox.send("alice", "note", n) for n in range(3)]
        page = Page(
            {"do": "mark", "state": "read", "ids": [items[0].id]},
            {"do": "nonsense"},
            {"do": "mark", "state": "read", "ids": "not a list"},
            {"do": "dismiss", "id": items[1].id},
        )
        await application(notifier, inbox=inbox)(page.scope, page.receive, page.send)
        counts = await inbox.counts("alice")
        assert (counts.total, counts.unread) == (2, 1)

    async def test_one_is_in_progress(self, notifier: Notifier, monkeypatch: pytest.MonkeyPatch) -> None:
        inbox = Inbox(notifier)
        item = await inbox.send("alice", "note")
        left, calls, mark = anyio.Event(), 0, Inbox.mark

        async def first_slowly(self: Inbox, *args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1:
                left.set()
                await anyio.sleep_forever()
            return await mark(self, *args, **options)

        monkeypatch.setattr(Inbox, "mark", first_slowly)
        page = Page({"do": "mark", "state": "read", "ids": [item.id]}, released=left)
        await application(notifier, inbox=inbox)(page.scope, page.receive, page.send)
        assert (calls, (await inbox.counts("alice")).unread) == (2, 0)

    async def test_a_send_fails_before_the_end_is_received(self, notifier: Notifier) -> None:
        inbox = Inbox(notifier)
        items = [await inbox.send("alice", "note", n) for n in range(2)]
        page = Page(*({"do": "mark", "state": "read", "ids": [item.id]} for item in items), released=anyio.Event())

        async def send(message: Any) -> None:
            if b'"ok"' in message.get("text", "").encode():
                raise OSError

        await application(notifier, inbox=inbox)(page.scope, page.receive, send)
        assert (await inbox.counts("alice")).unread == 0

    @pytest.mark.parametrize("reason", ["disconnected", "too_many_commands"])
    async def test_the_server_has_ended_the_connection(self, notifier: Notifier, reason: str) -> None:
        """The client is told so, and nothing is carried out any more."""
        inbox = Inbox(notifier)
        item = await inbox.send("alice", "note")
        closed = anyio.Event()
        command = {"do": "mark", "state": "read", "ids": [item.id]}
        page = Page(*[command] * (65 if reason == "too_many_commands" else 1), released=closed)

        async def receive() -> Any:
            message = await page.receive()
            if message["type"] == "websocket.receive" and reason == "disconnected":
                await closed.wait()
            return message

        async def send(message: Any) -> None:
            await page.send(message)
            if "notify.sync" in message.get("text", "") and reason == "disconnected":
                await notifier.disconnect("alice")
            if message["type"] == "websocket.close":
                closed.set()
                await anyio.wait_all_tasks_blocked()

        await application(notifier, inbox=inbox)(page.scope, receive, send)
        assert page.sent[-1]["reason"] == reason
        assert (await inbox.counts("alice")).unread == 1
