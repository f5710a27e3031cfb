"""The web layer over every composition: streams move between instances, and a logout reaches all of them at once."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import anyio
import pytest

from notify.web import NotifyApp, Request
from tests.parts import until
from tests.web.clients import RawClient
from tests.web.test_sse import served, stream

from .conftest import Start
from .places import COMPOSITIONS, Place

pytestmark = pytest.mark.anyio
compositions = pytest.mark.parametrize("composition", COMPOSITIONS)


def payloads(client: RawClient) -> list[Any]:
    return [message["payload"] for message in client.messages]


async def read_payload(client: RawClient, payload: int) -> None:
    await client.read_until(f'"payload":{payload},'.encode())
    await client.read_until(b"}\n\n")


@compositions
async def test_a_stream_moves_to_another_instance(place: Place, start: Start, composition: str) -> None:
    """Pushed at either of them, seen at either of them; what was pushed in between is replayed."""
    one, two = [await start(place, COMPOSITIONS[composition]) for _ in range(2)]
    apps = [NotifyApp(each, lambda request: request.query["user"]) for each in (one, two)]
    async with served(apps[0]) as first, served(apps[1]) as second:
        async with stream(first) as client:
            await client.read_until(b"notify.sync")
            await two.push("alice", "t", 0)
            await read_payload(client, 0)
            await one.push("alice", "t", 1)
            await read_payload(client, 1)
            assert payloads(client) == [0, 1]
            last_id = client.last_id
        await one.push("alice", "t", 2)
        async with stream(second, last_id=last_id) as client:
            await client.read_until(b"notify.sync")
            await one.push("alice", "t", 3)
            await read_payload(client, 3)
            assert payloads(client) == [2, 3]
            assert all(frame.event != "notify.gap" for frame in client.frames)
        for app in apps:
            app.begin_shutdown()


@compositions
async def test_a_logout_reaches_every_instance(place: Place, start: Start, composition: str) -> None:
    """Open streams, and one whose client is being authenticated at an instance that has no stream open."""
    one, two, three = [await start(place, COMPOSITIONS[composition]) for _ in range(3)]
    gate, asked = anyio.Event(), anyio.Event()

    async def slow(request: Request) -> str:
        asked.set()
        await gate.wait()
        return request.query["user"]

    app, slow_app = NotifyApp(one, lambda request: request.query["user"]), NotifyApp(two, slow)
    async with served(app) as first, served(slow_app) as second:
        async with stream(first) as open_, stream(first, "bob") as other, stream(second) as opening:
            await open_.read_until(b"notify.sync")
            await other.read_until(b"notify.sync")
            await asked.wait()
            await three.disconnect("alice", "logged out")
            await open_.read_all()
            end = open_.frames[-1]
            assert (end.event, end.json["reason"]) == ("notify.end", "disconnected")
            await until(lambda: two._live._hub.disconnection("alice", 0) is not None)
            gate.set()
            await opening.read_all()
            assert opening.frames[-1].json["reason"] == "disconnected"
            async with stream(second, last_id=end.id) as again:
                await again.read_all()
                assert again.status == 204
            await three.push("bob", "t", 1)
            await read_payload(other, 1)
        app.begin_shutdown()
        slow_app.begin_shutdown()


FORGED = {
    "garbage": "invalid",
    "9" * 40 + "-0": "invalid",
    "-1-0": "invalid",
    "1-1-1": "invalid",
    "x" * 5000: "invalid",
    quote("\u0661-\u0660"): "invalid",
    "m1.bob.0-1": "",
    "9999999999999-0": "rewound",
}
"""Positions that no server has handed out to this user, and the reason of the gap. A token without the log of the user
starts from now, as a log that was added does; the last one is ahead of the log."""


@compositions
async def test_a_stream_cut_at_every_byte_resumes_exactly(place: Place, start: Start, composition: str) -> None:
    """Wherever it is cut, on every store: what the client has, and what it is sent then, is each event once."""
    notifier = await start(place, COMPOSITIONS[composition])
    app = NotifyApp(notifier, lambda request: request.query["user"])
    async with served(app) as port:
        for number in range(3):
            await notifier.push("alice", "t", number)
        async with stream(port, last_id="0") as client:
            await client.read_until(b"notify.sync")
            await client.read_until(b"}\n\n")
            whole = client.body
        rests: dict[str, list[Any]] = {}
        for cut in range(len(whole) + 1):
            seen = RawClient(port, "/")
            seen.body = whole[:cut]
            last_id = seen.last_id or "0"
            if last_id not in rests:
                async with stream(port, last_id=last_id) as client:
                    await client.read_until(b"notify.sync")
                    rests[last_id] = payloads(client)
            assert payloads(seen) + rests[last_id] == [0, 1, 2], cut
        assert len(rests) == 4
        app.begin_shutdown()


@compositions
async def test_forged_positions_are_gaps(place: Place, start: Start, composition: str) -> None:
    """A stream opens with 200 whatever its position is, says that events may be missing, and shows the user's own."""
    notifier = await start(place, COMPOSITIONS[composition])
    app = NotifyApp(notifier, lambda request: request.query["user"])
    await notifier.push("bob", "t", "of another user")
    await notifier.push("alice", "t", 0)
    async with served(app) as port:
        for position, reason in FORGED.items():
            async with stream(port, last_id=position) as client:
                await client.read_until(b"notify.sync")
                gaps = [frame.json["reason"] for frame in client.frames if frame.event == "notify.gap"]
                assert gaps == [reason] * bool(reason), position
                assert payloads(client) == ([0] if reason == "rewound" else []), position
        app.begin_shutdown()
