"""An inbox over real servers: what streams tell of it, on each transport, and commands on a WebSocket."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest

from notify import Notifier, open_store
from notify.inbox import Inbox
from notify.web import Identity, NotifyApp, Request
from notify_memory import MemoryStreamStore
from tests.parts import until
from tests.web.clients import RawClient
from tests.web.serving import Client, serving, websocket

pytestmark = pytest.mark.anyio

TOPICS = ("news", "sport/local", *(f"topic-{number}" for number in range(10)))


def authenticate(request: Request) -> Identity | None:
    """The user in the URL, and its session."""
    user = request.query.get("user")
    return Identity(user, TOPICS, session=request.query.get("session", "")) if user else None


class Instance:
    """One process of an application: a notifier, its inbox, a server.

    Attributes:
        http: a client of alice.
    """

    def __init__(self, notifier: Notifier[Any], inbox: Inbox, place: str, http: httpx.AsyncClient) -> None:
        self.notifier, self.inbox, self.place, self.http = notifier, inbox, place, http

    @property
    def port(self) -> int:
        return int(self.place.rpartition(":")[2])

    def stream(self, position: str = "", user: str = "alice", **query: str) -> RawClient:
        """A client of `GET /stream`."""
        more = "".join(f"&{name}={value}" for name, value in query.items())
        return RawClient(self.port, f"/stream?user={user}&last_id={position}{more}")

    async def post(self, path: str, **body: Any) -> Any:
        """The answer to a request of alice."""
        answer = await self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def get(self, path: str, **query: Any) -> Any:
        """The answer to a request of alice."""
        answer = await self.http.get(path, params={"user": "alice", **query})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def delete(self, path: str) -> Any:
        """The answer to a request of alice."""
        answer = await self.http.delete(path, headers={"x-notify": "1"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def send(self, user: str = "alice", number: int = 0, **options: Any) -> str:
        """Send an item; return its id."""
        sent = await self.inbox.send(user, "note", {"n": number}, **options)
        assert sent is not None
        return sent.id


@asynccontextmanager
async def running(notifier: Notifier[Any] | None = None, **options: Any) -> AsyncIterator[Instance]:
    """Run an instance; `heartbeat=` is short, so that nothing waits for long."""
    async with notifier or Notifier(MemoryStreamStore()) as notifier, Inbox(notifier) as inbox:
        app = NotifyApp(notifier, authenticate, inbox=inbox, **options)
        async with serving(app) as place:
            async with httpx.AsyncClient(base_url=f"http://{place}", params={"user": "alice"}, timeout=20) as http:
                yield Instance(notifier, inbox, place, http)


@asynccontextmanager
async def cluster(number: int = 2) -> AsyncIterator[list[Instance]]:
    """Run instances that share a store."""
    async with AsyncExitStack() as stack:
        name = f"memory://inbox-{secrets.token_hex(8)}"
        yield [await stack.enter_async_context(running(Notifier(open_store(name)))) for _ in range(number)]


async def next_of(client: RawClient, kind: str, count: int = 1, within: float = 10.0) -> list[Any]:
    """Read until there are that many frames of an event name (or of `message` objects of a type); return them."""
    with anyio.fail_after(within):
        while len(found := of(client, kind)) < count:
            assert await client.read(), bytes(client.body)
    return found


def of(client: RawClient, kind: str) -> list[Any]:
    """The data of the frames of a name, or the objects of a type."""
    named = [frame.json for frame in client.frames if frame.event == kind]
    return named + [each for each in client.messages if each["type"] == kind]


def numbers(counts: Any) -> tuple[int, int, int]:
    """Total, unseen, unread."""
    return counts["total"], counts["unseen"], counts["unread"]


class TestStream:
    async def test_sync_has_the_counts(self) -> None:
        """With the position for which they hold, on each transport."""
        async with running() as alice:
            first = await alice.send()
            await alice.send(number=1)
            await alice.post("/inbox/mark", state="read", ids=[first])
            position = (await alice.get("/inbox"))["position"]
            expected = {"total": 2, "unseen": 1, "unread": 1, "counts_position": position}
            async with alice.stream() as client:
                (sync,) = await next_of(client, "notify.sync")
                assert sync == {"position": position, "heartbeat": 15.0, **expected}
            async with websocket(alice.place, "user=alice") as socket:
                assert (await socket.receive())["data"] == {"position": position, "heartbeat": 15.0, **expected}
            page = await alice.get("/events")
            assert page["counts"] == {"total": 2, "unseen": 1, "unread": 1, "position": position}

    async def test_items_and_changes(self) -> None:
        """An item says that it is one, and when it expires; a change is an event; counts follow, for a position."""
        async with running() as alice, alice.stream() as client:
            await next_of(client, "notify.sync")
            await alice.notifier.push("alice", "plain")
            sent = await alice.send(ttl=3600)
            (item,) = await next_of(client, "note")
            assert item["item"].keys() == {"expires_at"}
            assert "meta" not in item
            (plain,) = of(client, "plain")
            assert "item" not in plain
            counts = (await next_of(client, "notify.counts"))[-1]
            assert (numbers(counts), counts["position"]) == ((1, 1, 1), sent)
            change = await alice.delete(f"/inbox/{sent}")
            (event,) = await next_of(client, "notify.dismissed")
            assert (event["id"], event["payload"], event["user"]) == (change["event"], {"ids": [sent]}, "alice")
            with anyio.fail_after(10):
                while (counts := of(client, "notify.counts")[-1])["position"] != change["position"]:
                    await client.read()
            assert numbers(counts) == (0, 0, 0)
            assert all(not frame.id for frame in client.frames if frame.event == "notify.counts")
            assert client.last_id == change["event"]

    async def test_the_payload_says_which(self) -> None:
        """`ids`, `up_to` or `group`, as they were asked for; also on a stream that is resumed."""
        async with running() as alice:
            sent = await alice.send(group="g")
            position = (await alice.get("/inbox"))["position"]
            for state, named in (
                ("seen", {"up_to": position}),
                ("read", {"ids": [sent]}),
                ("dismissed", {"group": "g"}),
            ):
                await alice.post("/inbox/mark", state=state, **named)
            async with alice.stream(sent) as client:
                await next_of(client, "notify.sync")
                assert [(each["type"], each["payload"]) for each in client.messages] == [
                    ("notify.seen", {"up_to": position}),
                    ("notify.read", {"ids": [sent]}),
                    ("notify.dismissed", {"group": "g"}),
                ]

    async def test_an_item_that_expires(self) -> None:
        """The counts are told without an event."""
        async with running() as alice, alice.stream() as client:
            await next_of(client, "notify.sync")
            await alice.send(ttl=2)  # long enough for its counts to be read
            with anyio.fail_after(10):
                while not (told := of(client, "notify.counts")) or numbers(told[-1]) != (0, 0, 0):
                    await client.read()
            assert numbers(told[0]) == (1, 1, 1)
            assert [each["type"] for each in client.messages] == ["note"]

    async def test_polls(self) -> None:
        """Events, changes and counts of one position; a wait that ends with a change has the counts after it."""
        async with running() as alice:
            start = (await alice.get("/events"))["position"]
            sent = await alice.send()
            page = await alice.get("/events", after=start)
            assert [event["item"] for event in page["events"]] == [{}]
            assert page["counts"] == {"total": 1, "unseen": 1, "unread": 1, "position": sent}
            answers = []

            async def poll() -> None:
                answers.append(await alice.get("/events", after=page["position"], wait=10))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(poll)
                await until(lambda: alice.notifier.statistics().open_streams == 1)
                change = await alice.post("/inbox/mark", state="read", ids=[sent])
            (answer,) = answers
            assert [event["type"] for event in answer["events"]] == ["notify.read"]
            assert answer["counts"] == change["counts"]
            assert (await alice.get("/events", after=answer["position"]))["events"] == []
            first = await alice.get("/events", after="0", limit=1)
            assert (first["sync"], "counts" in first) == (False, False)

    async def test_a_poll_ends_with_counts(self) -> None:
        """A dialect has no object for a change: a poll that waits ends once the change is counted, without one."""
        async with running(dialect="marketplace", long_poll=60.0) as alice:
            sent = await alice.send()
            answers = []

            async def poll() -> None:
                with anyio.fail_after(15):
                    answers.append(await alice.get("/events", cursor=sent, wait=60))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(poll)
                await until(lambda: alice.notifier.statistics().open_streams == 1)
                await anyio.wait_all_tasks_blocked()
                change = await alice.inbox.mark_read("alice", sent)
            assert change.event is not None
            assert answers == [{"items": [], "next_cursor": change.event.id}]

    async def test_session_and_addresses(self) -> None:
        """The stream merges them with the user's log, and its position covers all of them."""
        async with running() as alice:
            async with alice.stream(session="s-1", address="news") as client:
                await next_of(client, "notify.sync")
                for log in ("s-1", "news", "alice"):
                    await alice.send(log)
                assert {each["user"] for each in await next_of(client, "note", 3)} == {"s-1", "news", "alice"}
                counts = (await next_of(client, "notify.counts"))[-1]
                assert counts["total"] <= 1
                assert client.last_id.startswith("m1.")
                position = client.last_id
            await alice.send("s-1", 9)
            async with alice.stream(position, session="s-1", address="news") as client:
                await next_of(client, "notify.sync")
                assert [each["payload"] for each in client.messages] == [{"n": 9}]


class TestOneEventOnEachConnection:
    """Two tabs, dismissal in one (behaviour 5)."""

    @pytest.mark.parametrize("by", ["http", "socket"])
    async def test_one_dismissal(self, by: str) -> None:
        """One event on each connection, on that of the dismissing tab too, whichever transport; then silence."""
        async with running() as alice, AsyncExitStack() as stack:
            sent = await alice.send()
            streams = [await stack.enter_async_context(alice.stream()) for _ in range(2)]
            socket = await stack.enter_async_context(websocket(alice.place, "user=alice"))
            position = (await alice.get("/events"))["position"]
            for stream in streams:
                await next_of(stream, "notify.sync")
            await socket.until("notify.sync")
            if by == "http":
                change = await alice.delete(f"/inbox/{sent}")
            else:
                change = await socket.ask(do="dismiss", id=sent)
            assert change["ids"] == [sent]
            await alice.notifier.push("alice", "marker")
            for stream in streams:
                await next_of(stream, "marker")
                assert [each["type"] for each in stream.messages] == ["notify.dismissed", "marker"]
                assert stream.messages[0]["payload"] == {"ids": [sent]}
            frames = [await socket.receive()]
            while frames[-1]["event"] != "message" or frames[-1]["data"]["type"] != "marker":
                frames.append(await socket.receive())
            told = [frame["data"]["type"] for frame in frames if frame["event"] == "message"]
            assert told in (["notify.dismissed", "marker"], ["marker"])  # the event may come before the answer
            page = await alice.get("/events", after=position)
            assert [event["type"] for event in page["events"]] == ["notify.dismissed", "marker"]
            again = await alice.delete(f"/inbox/{sent}")
            assert (again["ids"], again["event"]) == ([], None)

    async def test_who_was_away_learns_of_what_was_dismissed(self) -> None:
        """Of ephemeral, unlisted and listed events only the dismissed one is named when the tab comes back."""
        async with running() as alice:
            async with alice.stream() as client:
                await next_of(client, "notify.sync")
                await alice.notifier.push("alice", "typing", ephemeral=True)
                await alice.notifier.push("alice", "plain")
                kept, gone = await alice.send(number=1), await alice.send(number=2)
                await next_of(client, "note", 2)
                position = client.last_id
            await alice.delete(f"/inbox/{gone}")
            async with alice.stream(position) as client:
                await next_of(client, "notify.sync")
                assert [(each["type"], each["payload"]) for each in client.messages] == [
                    ("notify.dismissed", {"ids": [gone]})
                ]
                assert [item["id"] for item in (await alice.get("/inbox"))["items"]] == [kept]


class TestFollowing:
    """Follow on instance A while connected to B (behaviour 6)."""

    async def test_across_instances(self) -> None:
        """Live there in stream order; unfollow stops it; the token survives both; what came in between is there."""
        async with cluster() as (a, b), b.stream() as client:
            await next_of(client, "notify.sync")
            before = client.last_id
            await a.send("news", 0)
            await a.post("/follow", topic="news")
            await a.send("news", 1)
            await next_of(client, "note", 1)
            kinds = [(each["type"], each["user"], each["payload"]) for each in client.messages]
            assert [kind[:2] for kind in kinds] == [("notify.followed", "alice"), ("note", "news")]
            assert kinds[1][2] == {"n": 1}
            during = client.last_id
            assert during.startswith("m1.alice.")
            assert ".news." in during
            await a.delete("/follow/news")
            await next_of(client, "notify.unfollowed")
            await a.send("news", 2)
            await a.send("alice", 3)
            assert [each["payload"] for each in (await next_of(client, "note", 2))] == [{"n": 1}, {"n": 3}]
            for position, expected in (
                (before, ["notify.followed", "notify.unfollowed", "note"]),
                (during, ["notify.unfollowed", "note"]),
                (client.last_id, []),
            ):
                async with a.stream(position) as resumed:
                    await next_of(resumed, "notify.sync")
                    kept = [each["type"] for each in resumed.messages if each["user"] == "alice"]
                    assert kept == expected, position

    async def test_between_the_follow_and_a_reconnect(self) -> None:
        """Items that a topic got after the follow are in the stream of a client whose position lacks the topic."""
        async with cluster() as (a, b):
            async with b.stream() as client:
                await next_of(client, "notify.sync")
                position = client.last_id
            await a.send("sport/local", 0)
            await a.post("/follow", topic="sport/local")
            await a.send("sport/local", 1)
            async with b.stream(position) as client:
                await next_of(client, "notify.sync")
                notes = of(client, "note")
                assert [each["payload"] for each in notes] == [{"n": 1}]
                page = await b.get("/inbox")
                assert [item["id"] for item in page["items"]] == [f"{notes[0]['id']}@sport/local"]
                change = await b.delete(f"/inbox/{quote(page['items'][0]['id'], safe='')}")
                assert change["ids"] == [page["items"][0]["id"]]
                assert (await next_of(client, "notify.dismissed"))[0]["payload"] == {"ids": change["ids"]}


class TestMarkAllRead:
    """It marks what the page's position held, not what arrived in between (behaviour 10)."""

    @pytest.mark.parametrize("logs", [1, 10])
    async def test_up_to_a_position(self, logs: int) -> None:
        """In one log and in ten."""
        topics = [f"topic-{number}" for number in range(logs - 1)]
        async with running() as alice:
            for topic in topics:
                await alice.post("/follow", topic=topic)
            for number in range(3):
                for log in ("alice", *topics):
                    await alice.send(log, number)
            page = await alice.get("/inbox", limit=100)
            assert len(page["items"]) == 3 * logs
            later = {await alice.send("alice", 9), *[f"{await alice.send(topic, 9)}@{topic}" for topic in topics]}
            change = await alice.post("/inbox/mark", state="read", up_to=page["position"])
            assert {*change["ids"]} == {item["id"] for item in page["items"]}
            assert change["counts"]["unread"] == logs
            unread = await alice.get("/inbox", state="unread")
            assert {item["id"] for item in unread["items"]} == later


class TestCommands:
    """The same operations on a WebSocket."""

    @pytest.fixture
    async def pair(self) -> AsyncIterator[tuple[Instance, Client]]:
        async with running() as alice, websocket(alice.place, "user=alice") as socket:
            await socket.until("notify.sync")
            yield alice, socket

    async def test_each_answers_as_its_endpoint(self, pair: tuple[Instance, Client]) -> None:
        """With the members of the response beside `ref` and `ok`."""
        alice, socket = pair
        sent = [await alice.send(number=number) for number in range(3)]
        answer = await socket.ask(ref="l", do="inbox", limit=2, state="unread", types=["note"])
        assert answer == {"ref": "l", "ok": True, **await alice.get("/inbox", limit=2)}
        answer = await socket.ask(do="inbox", before=answer["next"])
        assert [item["id"] for item in answer["items"]] == sent[:1]
        assert await socket.ask(do="counts") == {"ref": 1, "ok": True, **await alice.get("/inbox/counts")}
        answer = await socket.ask(do="mark", state="read", up_to=sent[1])
        assert answer["ids"] == [sent[1], sent[0]]
        assert answer["counts"] == await alice.get("/inbox/counts")
        assert (await socket.ask(do="dismiss", ids=sent[:2]))["ids"] == [sent[1], sent[0]]
        assert (await socket.ask(do="follow", topic="news"))["event"]
        assert (await socket.ask(do="following"))["topics"] == ["news"]
        assert (await socket.ask(do="unfollow", topic="news"))["event"]
        assert (await socket.ask(do="dismiss", id="1-0"))["ids"] == []

    async def test_errors(self, pair: tuple[Instance, Client]) -> None:
        """The codes of the endpoints; the stream goes on."""
        alice, socket = pair
        for command, code in (
            ({"do": "inbox", "limit": 0}, "bad_request"), ({"do": "inbox", "limit": "20"}, "bad_request"),
            ({"do": "inbox", "limit": True}, "bad_request"), ({"do": "inbox", "before": "x"}, "invalid_position"),
            ({"do": "inbox", "types": "note"}, "bad_request"), ({"do": "counts", "x": 1}, "bad_request"),
            ({"do": "mark", "state": "read"}, "bad_request"), ({"do": "dismiss"}, "bad_request"),
            ({"do": "mark", "state": "read", "up_to": "x"}, "invalid_position"),
            ({"do": "inbox", "group": 1}, "bad_request"), ({"do": "unfollow"}, "bad_request"),
            ({"do": "unfollow", "topic": "news", "history": True}, "bad_request"),
            ({"do": "follow", "topic": "bob"}, "forbidden"), ({"do": "dance"}, "unknown_command"),
        ):  # fmt: skip
            answer = await socket.ask(ref=7, **command)
            assert (answer["ref"], answer["error"]["code"]) == (7, code), command
        sent = await alice.send()
        assert (await socket.until("message"))["id"] == sent

    async def test_without_an_inbox(self) -> None:
        """They are commands that do not exist."""
        async with Notifier(MemoryStreamStore()) as notifier, serving(NotifyApp(notifier, authenticate)) as place:
            async with websocket(place, "user=alice") as socket:
                assert (await socket.ask(do="inbox"))["error"]["code"] == "unknown_command"

    async def test_many_at_once(self, pair: tuple[Instance, Client]) -> None:
        """Each is answered, in order, while events come in between."""
        alice, socket = pair
        sent = [await alice.send(number=number) for number in range(30)]
        for number, each in enumerate(sent):
            await socket.send({"ref": number, "do": "mark", "state": "read", "ids": [each]})
        answers, events = list[Any](), list[Any]()
        while len(answers) < 30 or len(events) < 60:
            frame = await socket.receive()
            if "ref" in frame:
                answers.append(frame)
            elif frame["event"] == "message":
                events.append(frame)
        assert [answer["ref"] for answer in answers] == [*range(30)]
        assert [answer["ids"] for answer in answers] == [[each] for each in sent]
        assert answers[-1]["counts"]["unread"] == 0
