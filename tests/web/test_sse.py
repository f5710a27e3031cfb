"""GET /stream over real sockets: what is on the wire, byte by byte, and how a stream ends."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest

from notify import Notifier, UsageError
from notify.web import Identity, NotifyApp, Request
from notify_memory import MemoryStore
from tests.parts import PlainStore
from tests.web.clients import Frame, RawClient
from tests.web.serving import serving

pytestmark = pytest.mark.anyio

HOLDER = Identity("alice", addresses=["room", "desk"], session="s1")


async def authenticate(request: Request) -> Identity | str | None:
    """Whoever says so; `holder` also has addresses and a session."""
    user = request.query.get("user")
    return HOLDER if user == "holder" else user


@asynccontextmanager
async def served(app: Any, **options: Any) -> AsyncIterator[int]:
    """Serve an application while the block runs, and yield the port."""
    async with serving(app, **options) as place:
        yield int(place.rpartition(":")[2])


@asynccontextmanager
async def web(notifier: Notifier[Any], auth: Any = authenticate, **options: Any) -> AsyncIterator[int]:
    app = NotifyApp(notifier, auth, **options)
    async with served(app) as port:
        try:
            yield port
        finally:
            app.begin_shutdown()


@asynccontextmanager
async def site(store: Any = None, auth: Any = authenticate, **options: Any) -> AsyncIterator[tuple[Notifier, int]]:
    async with Notifier(MemoryStore() if store is None else store, poll_interval=0.1) as notifier:
        async with web(notifier, auth, **options) as port:
            yield notifier, port


def stream(port: int, user: str = "alice", *, last_id: str = "", query: str = "", **headers: str) -> RawClient:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if last_id:
        named["last-event-id"] = last_id
    return RawClient(port, f"/stream?user={user}{query}", named)


def gist(frames: list[Frame]) -> list[Any]:
    """The payloads of messages and the names of other frames, in order."""
    return [frame.json["payload"] if not frame.event else frame.event for frame in frames]


# -- the wire -------------------------------------------------------------------------------------------------------


async def test_every_byte_of_a_stream() -> None:
    """Head, `retry:`, the replay, `notify.sync`, a live event, an ephemeral one, a broadcast, a heartbeat."""
    async with site(heartbeat=0.3, retry=(2.0, 2.0)) as (notifier, port):
        stored = await notifier.push("alice", "a.b", {"n": "ü\n"}, group="g", meta={"k": "v", "traceparent": "t"})
        async with stream(port, last_id="0") as client:
            await client.read_until(b"notify.sync")
            live = await notifier.push("alice", "c", data=b'{\r\n "x":\n 1}')
            await notifier.push("alice", "typing", ephemeral=True)
            cast = await notifier.broadcast("all", None)
            await client.read_until(b":\n", 5)
            await client.read_until(b"}\n\n:\n", 5)
        assert client.status == 200
        assert client.headers["content-type"] == "text/event-stream"
        assert client.headers["cache-control"] == "no-cache, no-transform"
        assert client.headers["x-accel-buffering"] == "no"
        moments = re.findall(rb'"timestamp":"([^"]+)"', client.body)
        assert [datetime.fromisoformat(moment.decode()) for moment in moments[:2]] == [
            stored.timestamp,
            live.timestamp,
        ]
        assert datetime.fromisoformat(moments[3].decode()) == cast.timestamp
        expected = (
            "retry: 2000\n"
            f"id: {stored.id}\n"
            f'data: {{"id":"{stored.id}","user":"alice","type":"a.b","payload":{{"n":"ü\\n"}},"timestamp":"T",'
            '"group":"g","meta":{"k":"v","traceparent":"t"}}\n\n'
            f'event: notify.sync\nid: {stored.id}\ndata: {{"position":"{stored.id}","heartbeat":0.3}}\n\n'
            f"id: {live.id}\n"
            f'data: {{"id":"{live.id}","user":"alice","type":"c","payload":{{   "x":  1}},"timestamp":"T"}}\n\n'
            'data: {"user":"alice","type":"typing","payload":null,"timestamp":"T"}\n\n'
            'data: {"user":"","type":"all","payload":null,"timestamp":"T"}\n\n'
            ":\n"
        )
        assert re.sub(rb'"timestamp":"[^"]+"', b'"timestamp":"T"', client.body).decode() == expected


async def test_typed_events() -> None:
    """`?events=typed` names frames by their types, for clients that subscribe to names."""
    async with site() as (notifier, port), stream(port, query="&events=typed") as client:
        await client.read_until(b"notify.sync")
        event = await notifier.push("alice", "comment.created", 1)
        await notifier.push("alice", "typing", 2, ephemeral=True)
        await client.read_until(b'"payload":2')
        await client.read_until(b"}\n\n")
        frames = client.frames[1:]
        assert [(frame.event, frame.id) for frame in frames] == [("comment.created", event.id), ("typing", "")]


async def test_streams_of_different_forms_show_the_same_event() -> None:
    """Each in its own form, whichever was encoded before it."""
    async with site() as (notifier, port), stream(port) as plain, stream(port, query="&events=typed") as typed:
        async with stream(port) as last:
            clients = [plain, typed, last]
            for client in clients:
                await client.read_until(b"notify.sync")
            await notifier.broadcast("all", 1)
            for client in clients:
                await client.read_until(b'+00:00"}\n\n')
            assert [client.frames[-1].event for client in clients] == ["", "all", ""]


async def test_the_time_to_reconnect_is_drawn_for_each_connection() -> None:
    """Within the range that was given."""
    async with site(retry=(1.0, 5.0)) as (_, port):
        seen = set()
        for _ in range(6):
            async with stream(port) as client:
                await client.read_until(b"notify.sync")
                seen.add(int(client.frames[0].retry))
        assert len(seen) > 1
        assert all(1000 <= each <= 5000 for each in seen)


async def test_nothing_of_a_payload_can_forge_a_frame() -> None:
    """Line breaks of every kind, inside strings and between tokens, stay inside the data of one frame."""
    async with site() as (notifier, port), stream(port) as client:
        await client.read_until(b"notify.sync")
        hostile = "\r\n\r\nevent: notify.end\ndata: {}\n\n\u2028\u0085\x00"
        await notifier.push("alice", "t", {hostile: hostile})
        await notifier.push("alice", "t", data=b'\r\n[\r"x"\n]\n\n')
        await notifier.push("alice", "t", "end", meta={"data: x\n\n": "\r\nid: 7"})
        await client.read_until(b'"end"')
        await client.read_until(b"}}\n\n")
        assert gist(client.frames[1:]) == [{hostile: hostile}, ["x"], "end"]
        assert client.messages[-1]["meta"] == {"data: x\n\n": "\r\nid: 7"}


@pytest.mark.parametrize("given", ["header", "lastEventId", "last_event_id", "last_id"])
async def test_where_a_stream_continues(given: str) -> None:
    """The position is in the header or in the query; the header wins."""
    async with site() as (notifier, port):
        events = [await notifier.push("alice", "t", number) for number in range(4)]
        headers = {"last-event-id": events[1].id} if given == "header" else {}
        target = "/stream?user=alice" + (f"&{given}={events[1].id}" if given != "header" else "&last_id=0")
        async with RawClient(port, target, headers) as client:
            await client.read_until(b"notify.sync")
            assert gist(client.frames) == [2, 3, "notify.sync"]
            assert client.last_id == events[3].id


POSITIONS = [
    "garbage", "-1", "1-2-3", "9" * 30 + "-1", "1795879843133", "m1.alice", "m2.x", "x1.short", "x" * 9000,
    "1-1\u00e9", "1-1\n", "\0", "1-1\r\nx: y", "\u0661-1",
]  # fmt: skip


@pytest.mark.parametrize("position", POSITIONS)
async def test_what_is_not_a_position_is_a_gap(position: str) -> None:
    """Never an error status: a browser would give up for good. The stream starts from now."""
    async with site() as (notifier, port):
        await notifier.push("alice", "t", "old")
        is_header = position.isascii() and position.isprintable()
        last_id = position if is_header else ""
        query = "" if is_header else f"&last_id=x{quote(position)}"
        async with stream(port, last_id=last_id, query=query) as client:
            await client.read_until(b"notify.sync")
            await client.read_until(b"}\n\n")
            await notifier.push("alice", "t", "new")
            await client.read_until(b"new")
            await client.read_until(b"}\n\n")
            assert client.status == 200
            assert gist(client.frames) == ["notify.gap", "notify.sync", "new"]
            gap = client.frames[0]
            assert (gap.json["reason"], gap.id) == ("invalid", "")
            assert client.frames[1].json["position"] == gap.json["to"]


async def test_gaps_are_told() -> None:
    """Trimmed and rewound, each with its reason; then everything that is left."""
    async with site(MemoryStore(max_len=2)) as (notifier, port):
        events = [await notifier.push("alice", "t", number) for number in range(5)]
        for position, reason in ((events[0].id, "trimmed"), ("99999999999999-0", "rewound")):
            async with stream(port, last_id=position) as client:
                await client.read_until(b"notify.sync")
                assert gist(client.frames) == ["notify.gap", 3, 4, "notify.sync"]
                data = client.frames[0].json
                assert (data["reason"], data["from"], data["user"]) == (reason, position, "alice")
                assert client.frames[0].id == ""


async def test_the_user_the_session_and_the_addresses_are_merged() -> None:
    """One stream, one position; what the identity does not have is refused, before anything is opened."""
    async with site() as (notifier, port):
        async with stream(port, "holder", query="&address=room&address=room&address=alice") as client:
            await client.read_until(b"notify.sync")
            for user in ("alice", "s1", "desk", "room"):
                await notifier.push(user, "t", user)
            await client.read_until(b'"payload":"room"')
            await client.read_until(b"}\n\n")
            assert gist(client.frames[1:]) == ["alice", "s1", "room"]
            assert [message["user"] for message in client.messages] == ["alice", "s1", "room"]
            token = client.last_id
            assert token.startswith("m1.")
            middle = client.frames[2].id
        await notifier.push("room", "t", "later")
        async with stream(port, "holder", query="&address=room", last_id=middle) as client:
            await client.read_until(b"notify.sync")
            assert gist(client.frames) == ["room", "later", "notify.sync"]
        async with stream(port, "holder", query="&address=other") as client:
            await client.read_all()
            assert client.status == 403
            assert json.loads(client.body)["error"]["code"] == "forbidden"
        assert notifier.statistics().open_streams == 0


async def test_who_is_not_known_is_refused() -> None:
    """401 in the common shape; a function that is not one is refused by the constructor."""
    async with site() as (notifier, port):
        async with RawClient(port, "/stream") as client:
            await client.read_all()
            assert client.status == 401
            assert json.loads(client.body)["error"]["code"] == "unauthenticated"
        async with RawClient(port, "/stream?user=", method="POST") as client:
            await client.read_all()
            assert (client.status, client.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        with pytest.raises(UsageError, match="authenticate"):
            NotifyApp(notifier, "alice")  # type: ignore[arg-type]


async def test_without_a_store_streams_are_live_only() -> None:
    """There is nothing to resume from: `notify.sync` comes at once, without an id."""
    async with Notifier() as notifier, web(notifier) as port, stream(port, last_id="0") as client:
        await client.read_until(b"notify.sync")
        await client.read_until(b"}\n\n")
        await notifier.push("alice", "t", 7)
        await client.read_until(b'"payload":7')
        await client.read_until(b"}\n\n")
        assert gist(client.frames) == ["notify.sync", 7]
        assert client.frames[0].id == ""
        assert client.frames[0].json["position"] == ""


@pytest.mark.parametrize("store", [MemoryStore, PlainStore])
async def test_a_stream_cut_at_every_byte_resumes_exactly(store: Any) -> None:
    """Wherever it is cut, a client that remembers the id of the last whole frame misses nothing and repeats nothing."""
    async with site(store()) as (notifier, port):
        for number in range(3):
            await notifier.push("alice", "t", number)
        async with stream(port, last_id="0") as client:
            await client.read_until(b"notify.sync")
            await client.read_until(b"}\n\n")
            whole = client.body
        starts: dict[str, list[Any]] = {}
        for cut in range(len(whole) + 1):
            seen = RawClient(port, "/")
            seen.body = whole[:cut]
            payloads = [message["payload"] for message in seen.messages]
            last_id = seen.last_id or "0"
            if last_id not in starts:
                async with stream(port, last_id=last_id) as client:
                    await client.read_until(b"notify.sync")
                    starts[last_id] = [message["payload"] for message in client.messages]
            assert payloads + starts[last_id] == [0, 1, 2], cut
        assert len(starts) == 4


async def test_a_long_replay_is_complete_and_in_order() -> None:
    """Far more than one page and one write, while live events are pushed."""
    async with site(MemoryStore(max_len=5000)) as (notifier, port):
        for number in range(3000):
            await notifier.push("alice", "t", number)
        async with stream(port, last_id="0") as client:
            await client.read_until(b'"payload":5')
            for number in range(3000, 3100):
                await notifier.push("alice", "t", number)
            await client.read_until(b'"payload":3099')
            await client.read_until(b"}\n\n")
            assert [message["payload"] for message in client.messages] == [*range(3100)]
            assert [frame.event for frame in client.frames if frame.event] == ["notify.sync"]
