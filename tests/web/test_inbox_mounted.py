"""Names in paths: on every server, and mounted in every framework, they arrive as the client sent them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from notify import Notifier
from notify.inbox import Inbox
from notify.web import Identity, NotifyApp
from notify_memory import MemoryStreamStore
from tests.web.applications import APPS, Make, reading, served
from tests.web.apps.contract import SECRET
from tests.web.frameworks import parts
from tests.web.servers import WebServer

TOPIC = "a/b?c#ü%41 +"
"""Everything that a path could be taken apart at."""


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn", "granian", "daphne"])
def test_servers(kind: str, tmp_path: Path) -> None:
    """Follow a topic, dismiss its item and its group, and end the follow, by names that have to be escaped."""
    with WebServer(kind, "tests.web.apps.contract:app", tmp_path) as server:
        headers = {"authorization": f"Bearer {SECRET}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=20) as client:
            answer = client.post("/follow", json={"topic": TOPIC})
            assert answer.status_code == 200, answer.text
            pushed = client.post("/push", json={"topic": TOPIC, "type": "note", "group": TOPIC}).json()
            item = f"{pushed['id']}@{TOPIC}"
            assert [each["id"] for each in client.get("/inbox").json()["items"]] == [item]
            assert client.delete(f"/inbox/{quote(item, safe='')}").json()["ids"] == [item]
            assert client.post("/inbox/mark", json={"state": "restored", "ids": [item]}).json()["ids"] == [item]
            assert client.delete(f"/inbox/group/{quote(TOPIC, safe='')}").json()["ids"] == [item]
            assert client.delete(f"/follow/{quote(TOPIC, safe='')}").json()["event"]
            assert client.get("/following").json() == {"topics": []}
            assert client.delete("/inbox/nonsense").json()["ids"] == []


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("make", APPS.values(), ids=APPS)
async def test_frameworks(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same under a mount; and `event_stream` with an inbox streams followed topics and counts."""

    def web(notifier: Notifier[Any], **options: Any) -> NotifyApp:
        return NotifyApp(notifier, lambda request: Identity("alice", [TOPIC]), inbox=inbox, **options)

    monkeypatch.setattr(parts, "web", web)
    async with Notifier(MemoryStreamStore()) as notifier:
        inbox = Inbox(notifier)
        async with served(make(notifier, inbox=inbox)) as client:
            assert (await client.post("/notify/follow", json={"topic": TOPIC})).status_code == 200
            async with reading(client, "/live/alice") as stream:
                sync = await stream.frame()
                assert sync["event"] == "notify.sync"
                assert sync["data"]["total"] == 0
                sent = await inbox.publish(TOPIC, "note", 1)
                assert sent is not None
                message = await stream.frame()
                assert (message["data"]["id"], message["data"]["user"]) == (sent.id, TOPIC)
                counts = await stream.frame()
                assert (counts["event"], counts["data"]["unread"]) == ("notify.counts", 1)
                item = f"{sent.id}@{TOPIC}"
                answer = await client.delete(f"/notify/inbox/{quote(item, safe='')}", headers={"x-notify": "1"})
                assert answer.json()["ids"] == [item]
                assert (await stream.frame())["data"]["type"] == "notify.dismissed"
            answer = await client.delete(f"/notify/follow/{quote(TOPIC, safe='')}", headers={"x-notify": "1"})
            assert answer.json()["event"]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("make", APPS.values(), ids=APPS)
async def test_frameworks_without_an_inbox(make: Make) -> None:
    """A stream has the frames that it had before there were inboxes, whatever is stored."""
    async with Notifier(MemoryStreamStore()) as notifier, served(make(notifier)) as client:
        await Inbox(notifier).send("alice", "note", 1)
        async with reading(client, "/live/alice") as stream:
            assert (await stream.frame())["data"].keys() == {"position", "heartbeat"}
            await notifier.push("alice", "plain")
            assert (await stream.frame())["data"]["type"] == "plain"
