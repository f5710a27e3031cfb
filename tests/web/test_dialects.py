"""Names, objects and positions that clients of other systems expect: pure, then over a server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notify import Event, Notifier, UsageError
from notify.inbox import Inbox
from notify.inbox.abc import CHANGES
from notify.web import NotifyApp
from notify.web._dialects import DIALECTS, OVERLAP, Frame, Since, find_dialect, stamp
from notify.web._translation import MAX_GROUPS, Translation
from notify_memory import MemoryStore, MemoryStreamStore
from tests.web.serving import serving, websocket

NOW = 1_764_375_000.0
MS = 1_764_374_999_123
SYNC = Event("alice", "notify.sync", {"position": "0"})


def event(type: str = "order", payload: Any = None, sequence: int = 4, ms: int = MS, **options: Any) -> Event:
    return Event("alice", type, payload, id=f"{ms}-{sequence}", prev="0", **options)


def told(name: str, *events: Event, since: str = "", logs: int = 1) -> list[tuple[str, Any]]:
    """What a client of this dialect gets, decoded."""
    translation = Translation(find_dialect(name), "", since, NOW, logs)
    frames = [frame for each in events for frame in translation.frames(each)]
    return [(frame.name, json.loads(frame.data) if frame.data else "") for frame in frames]


def test_an_unknown_dialect_is_an_error_that_names_the_known_ones() -> None:
    """At construction, where the mistake is."""
    for wrong in ("klingon", 7, []):
        with pytest.raises(UsageError, match="skrift, template, tutorial, marketplace"):
            find_dialect(wrong)  # type: ignore[arg-type]


class TestSince:
    """`?since=` in seconds since 1970."""

    @settings(deadline=None)
    @given(st.integers(1, (1000 << 32) - 1000), st.integers(0, 998))
    def test_a_time_that_was_handed_out_is_an_exact_position(self, ms: int, sequence: int) -> None:
        """Through a client that reads and writes it as a double, as JavaScript does."""
        handed = json.loads(json.dumps(stamp(event(ms=ms, sequence=sequence))))
        since = find_dialect("tutorial").start(repr(handed), now=1e15)
        assert since.seen == (ms, sequence)

    @pytest.mark.parametrize("sequence", [999, 1000, 70_000])
    def test_what_a_time_cannot_tell_apart_is_repeated(self, sequence: int) -> None:
        """More than 999 events in one millisecond: the client may get one twice, and misses none."""
        since = repr(stamp(event(sequence=sequence)))
        later = event(sequence=sequence + 1)
        assert ("order", None) in [(frame["name"], frame["data"]) for _, frame in told("tutorial", later, since=since)]

    @pytest.mark.parametrize("bad", ["", "yesterday", "nan", "inf", "-1", "1e400", "-inf", "12:00"])
    def test_a_bad_value_counts_as_none(self, bad: str) -> None:
        """Each kind of client then starts where it does without one."""
        assert find_dialect("tutorial").start(bad, NOW) == Since("0")
        assert find_dialect("template").start(bad, NOW) == Since(None)
        assert find_dialect("skrift").start(bad, NOW) == Since("0")

    def test_zero_is_everything_and_the_future_is_now(self) -> None:
        """A client's clock may be fast; that is no reason to give it everything again, or nothing for a while."""
        assert find_dialect("template").start("0", NOW) == Since("0")
        assert find_dialect("template").start(str(NOW + 1), NOW) == Since(None)
        assert find_dialect("template").start("9e15", NOW) == Since(None)

    def test_the_replay_leaves_out_what_the_client_has(self) -> None:
        """Strictly later events of the same millisecond are sent, and everything that is live."""
        events = [event(sequence=each) for each in (3, 4, 5)]
        since = repr(stamp(events[1]))
        assert [frame["timestamp"] for _, frame in told("tutorial", *events, since=since)] == [stamp(events[2])]
        assert len(told("tutorial", SYNC, *events, since=since)) == 3

    def test_with_several_logs_the_last_seconds_are_repeated(self) -> None:
        """An event of one log may arrive after a later one of another."""
        since = repr(stamp(event()))
        position, seen = find_dialect("tutorial").start(since, NOW, logs=2)
        assert seen == (MS - OVERLAP, 0)
        assert position.timestamp() == pytest.approx((MS - OVERLAP) / 1000)  # type: ignore[union-attr]
        assert len(told("tutorial", event(ms=MS - OVERLAP + 1), since=since, logs=2)) == 1


class TestSkrift:
    def test_a_notification(self) -> None:
        """SK-46: the payload is nested, and the group is there only if set."""
        frames = told("skrift", event(payload={"title": "Hi"}), event(payload=1, sequence=5, group="g"))
        assert frames == [
            (
                "notification",
                {
                    "type": "order",
                    "id": f"{MS}-4",
                    "mode": "queued",
                    "created_at": MS / 1000 + 4e-6,
                    "payload": {"title": "Hi"},
                },
            ),
            (
                "notification",
                {
                    "type": "order",
                    "id": f"{MS}-5",
                    "mode": "queued",
                    "created_at": MS / 1000 + 5e-6,
                    "payload": 1,
                    "group": "g",
                },
            ),
        ]

    def test_a_replacement_is_two_frames(self) -> None:
        """SK-09: the old one of the group is dismissed, then the new one comes; groups do not touch each other."""
        first, other, second = (event(sequence=n, group=g) for n, g in ((1, "a"), (2, "b"), (3, "a")))
        frames = told("skrift", first, other, event(sequence=9), second)
        assert [(name, frame["id"]) for name, frame in frames] == [
            ("notification", first.id),
            ("notification", other.id),
            ("notification", f"{MS}-9"),
            ("dismissed", first.id),
            ("notification", second.id),
        ]

    def test_a_broadcast_is_not_what_a_replacement_replaces(self) -> None:
        """SK-11: what is not stored has no id to dismiss later; it replaces by itself in the browser."""
        passing = Event("alice", "order", None, group="a")
        names = [name for name, _ in told("skrift", event(group="a"), passing, event(sequence=8, group="a"))]
        assert names == ["notification", "dismissed", "notification", "notification"]

    def test_the_groups_that_are_remembered_are_bounded(self) -> None:
        """A connection that sees ever new groups does not grow."""
        translation = Translation(find_dialect("skrift"), "", "", NOW)
        for number in range(MAX_GROUPS + 5):
            assert len(list(translation.frames(event(sequence=number + 1, group=f"g{number}")))) == 1
        assert len(translation._latest) == MAX_GROUPS

    def test_the_flush_and_the_series(self) -> None:
        """SK-05, SK-48: queued ones are sent at every connect; a series only to a client that says since when."""
        old, new = (event(sequence=n, meta={"mode": "timeseries"}) for n in (1, 7))
        queued = event(sequence=2)
        since = repr(stamp(event(sequence=3)))
        assert [frame["id"] for _, frame in told("skrift", old, queued, new)] == [queued.id]
        assert [frame["id"] for _, frame in told("skrift", old, queued, new, since=since)] == [queued.id, new.id]
        live = told("skrift", SYNC, old)
        assert [name for name, _ in live] == ["sync", "notification"]
        assert live[0] == ("sync", "")

    def test_what_is_not_stored_has_an_id_too(self) -> None:
        """These clients drop an id that they have seen, so two ephemeral events need different ones."""
        first, second = (Event("alice", "order", n, timestamp=SYNC.timestamp) for n in (1, 2))
        frames = [frame for _, frame in told("skrift", first, second)]
        assert len({frame["id"] for frame in frames}) == 2
        assert {frame["mode"] for frame in frames} == {"ephemeral"}
        assert frames[0]["created_at"] == pytest.approx(first.micros / 1e6)

    def test_dismissed_keeps_its_name(self) -> None:
        """SK-15."""
        assert told("skrift", event("dismissed", {"id": "5-1"})) == [("dismissed", {"id": "5-1"})]


class TestTemplate:
    def test_a_notification(self) -> None:
        """TP-55: names in camelCase, an ISO time; what is not a field of theirs is the data."""
        payload = {"title": "T", "message": "M", "action_url": "/x", "n": 1}
        sent = event("info", payload)
        ((name, frame),) = told("template", sent)
        assert name == "notification:new"
        assert frame == {
            "id": sent.id,
            "userId": "alice",
            "type": "info",
            "title": "T",
            "message": "M",
            "data": {"n": 1},
            "actionUrl": "/x",
            "read": False,
            "createdAt": sent.timestamp.isoformat().replace("+00:00", "Z"),
        }

    def test_what_there_is_not_is_absent(self) -> None:
        """TP-03: data and action are optional; a payload that is no object is the data."""
        ((_, bare),) = told("template", event())
        assert not {"data", "actionUrl"} & bare.keys()
        assert told("template", event(payload=[1]))[0][1]["data"] == [1]

    def test_a_broadcast_has_its_own_name(self) -> None:
        """TP-41: clients count it as not unread."""
        sent = Event("-", "info", {"title": "T"}).addressed_to("")
        assert told("template", sent)[0][0] == "notification:broadcast"

    @pytest.mark.parametrize(
        ("type", "payload"),
        [("unread:count", 5), ("notification:updated", {"id": "1", "read": True}), ("notifications:cleared", None)],
    )
    def test_its_other_names_are_types(self, type: str, payload: Any) -> None:
        """TP-42 to 45, 65: an application pushes them as types."""
        assert told("template", event(type, payload)) == [(type, payload)]


class TestInbox:
    """What the clients learn of an inbox."""

    def change(self, kind: str, **named: Any) -> Event:
        return event(f"notify.{kind}", named, sequence=9)

    def test_skrift(self) -> None:
        """A dismissal removes what it names, also by its group; other changes are not shown."""
        first, second = event(sequence=1, group="g"), event(sequence=2, group="g").addressed_to("news")
        frames = told("skrift", first, second, self.change("dismissed", ids=["1-0", "2-0@news"]))
        assert [(name, value["id"]) for name, value in frames[2:]] == [("dismissed", "1-0"), ("dismissed", "2-0")]
        frames = told("skrift", first, second, self.change("dismissed", group="g"))
        assert [(name, value["id"]) for name, value in frames[2:]] == [
            ("dismissed", first.id), ("dismissed", second.id),
        ]  # fmt: skip
        for kind in ("read", "seen", "unread", "restored", "followed"):
            assert told("skrift", self.change(kind, ids=["1-0"])) == []
        assert told("skrift", self.change("counts", unread=1)) == []

    def test_template(self) -> None:
        """What was read, one by one or all, and the unread count, which comes after the replay too."""
        assert told("template", self.change("read", ids=["1-0@news"])) == [
            ("notification:updated", {"id": "1-0", "read": True})
        ]
        assert told("template", self.change("dismissed", ids=["1-0"]))[0][0] == "notification:updated"
        assert told("template", self.change("read", up_to="1-0")) == [("notifications:cleared", {})]
        assert told("template", self.change("seen", up_to="1-0")) == []
        assert told("template", self.change("counts", unread=3)) == [("unread:count", 3)]
        assert told("template", self.change("sync", unread=3)) == [("unread:count", 3)]
        assert told("template", event("notify.sync", {})) == []

    @pytest.mark.parametrize("name", ["tutorial", "marketplace"])
    def test_others(self, name: str) -> None:
        """Nothing."""
        for kind in CHANGES | {"notify.counts"}:
            assert told(name, event(kind, {"ids": ["1-0"]})) == []

    @pytest.mark.parametrize("name", ["skrift", "template", "tutorial", "marketplace"])
    def test_a_malformed_one(self, name: str) -> None:
        """It has no frames, and does no harm."""
        for kind in CHANGES:
            for payload in (None, [], "text", {"ids": 1}, {"group": 1}, {"ids": None}):
                assert told(name, event(kind, payload)) == []

    @pytest.mark.anyio
    async def test_dismissing(self) -> None:
        """The requests of `skrift` clients: by id and by group, at the path that they know."""
        async with Notifier(MemoryStore()) as notifier:
            inbox = Inbox(notifier)
            sent = [await inbox.send("alice", "note", number, group=f"g{number}") for number in range(2)]
            app = NotifyApp(notifier, lambda request: "alice", inbox=inbox, dialect="skrift")
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                for path, item in ((sent[0].id, sent[0]), ("group/g1", sent[1])):  # type: ignore[union-attr]
                    answer = await client.delete(f"/notifications/{path}", headers={"sec-fetch-site": "same-origin"})
                    assert answer.json()["ids"] == [item.id]  # type: ignore[union-attr]
                assert (await client.get("/notifications")).json()["items"] == []


def test_tutorial() -> None:
    """FL-11: name, data, timestamp; data may be any JSON; a page is a plain array."""
    ((_, frame),) = told("tutorial", event("unread_message_count", 5))
    assert frame == {"name": "unread_message_count", "data": 5, "timestamp": MS / 1000 + 4e-6}
    assert find_dialect("tutorial").page([frame], "5-1") == [frame]


def test_marketplace() -> None:
    """GH-72, 84, 90, 91: known names keep their payload, others are a new_notification; it begins with connected."""
    payload = {"title": "T", "message": "M", "route": "/chats/1", "reference_id": 9}
    sent = event("boost", payload)
    assert told("marketplace", sent, event("new_match", {"a": 1})) == [
        (
            "new_notification",
            {
                "id": sent.id,
                "type": "boost",
                "title": "T",
                "body": "M",
                "is_read": False,
                "reference_id": 9,
                "route": "/chats/1",
                "created_at": sent.timestamp.isoformat().replace("+00:00", "Z"),
            },
        ),
        ("new_match", {"a": 1}),
    ]
    assert find_dialect("marketplace").hello == Frame("connected", b"{}")
    assert find_dialect("marketplace").page([{"id": "1"}], "5-1") == {"items": [{"id": "1"}], "next_cursor": "5-1"}


@pytest.mark.parametrize("name", DIALECTS)
@settings(deadline=None)
@given(payload=st.none() | st.integers() | st.text() | st.dictionaries(st.text(), st.text() | st.none()))
def test_any_payload_becomes_one_line_of_json(name: str, payload: Any) -> None:
    """Nothing of a payload ends a line or forges a field of a frame."""
    frames = list(Translation(DIALECTS[name], "", "", NOW).frames(event(payload=payload)))
    assert [frame.name for frame in frames] == [DIALECTS[name].default]
    assert not {b"\n", b"\r"} & {frames[0].data[at : at + 1] for at in range(len(frames[0].data))}
    assert json.loads(frames[0].data)


def test_gaps_are_passed_on_under_their_own_name() -> None:
    """These clients have no handler for it; one that is written today may have."""
    assert told("template", Event("alice", "notify.gap", {"reason": "trimmed"})) == [
        ("notify.gap", {"reason": "trimmed"})
    ]
    assert told("template", SYNC) == []


class TestOverServers:
    """The whole way: the frames of a stream, of a WebSocket and of a poll."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    async def notifier(self) -> AsyncIterator[Notifier]:
        async with Notifier(MemoryStreamStore()) as notifier:
            yield notifier

    @staticmethod
    def application(notifier: Notifier, dialect: str) -> NotifyApp:
        return NotifyApp(notifier, lambda request: request.query.get("user"), dialect=dialect)

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])  # on trio httpx leaves generators behind
    async def test_a_stream_with_since(self, notifier: Notifier) -> None:
        """SK-67 to 71: the flush, a bare sync, live; no ids, so that each connect has the whole flush; the end."""
        for n in range(3):
            await notifier.push("alice", "generic", n, meta={"mode": "timeseries"} if n else None)
        app = self.application(notifier, "skrift")
        async with serving(app) as place:
            async with httpx.AsyncClient(base_url=f"http://{place}", trust_env=False) as client:
                stream = Frames(client, "/notifications/stream?user=alice")
                async with stream:
                    (name, first), (synced, empty) = [await stream.next() for _ in range(2)]
                    assert (name, first["payload"], synced, empty) == ("notification", 0, "sync", "")
                    await notifier.push("alice", "generic", 3, meta={"mode": "timeseries"})
                    assert (await stream.next())[1]["payload"] == 3
                    assert "id:" not in stream.text
                page = [event async for event in notifier_events(notifier)]
                since = stamp(page[1])
                stream = Frames(client, f"/notifications/stream?user=alice&since={since}")
                async with stream:
                    frames = [await stream.next() for _ in range(4)]
                    assert [data["payload"] for _, data in frames[:3]] == [0, 2, 3]
                    assert frames[3] == ("sync", "")
                    app.begin_shutdown()
                    name, data = await stream.next()
                    assert (name, data["payload"]) == ("disconnecting", {"reason": "shutdown"})

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])  # on trio httpx leaves generators behind
    async def test_a_stream_that_begins_with_connected(self, notifier: Notifier) -> None:
        """GH-91; its frames have ids, so a browser resumes by itself, under the name of its endpoint."""
        async with serving(self.application(notifier, "marketplace")) as place:
            async with httpx.AsyncClient(base_url=f"http://{place}", trust_env=False) as client:
                stream = Frames(client, "/flatmates/sse?user=alice")
                async with stream:
                    assert await stream.next() == ("connected", {})
                    for n in range(3):
                        await notifier.push("alice", "visit_updated", {"n": n})
                    assert [await stream.next() for _ in range(3)] == [("visit_updated", {"n": n}) for n in range(3)]
                    last = stream.ids[1]
                stream = Frames(client, "/flatmates/sse?user=alice", headers={"Last-Event-ID": last})
                async with stream:
                    assert [await stream.next() for _ in range(2)] == [("connected", {}), ("visit_updated", {"n": 2})]
                page = (await client.get("/flatmates/notifications?user=alice&limit=2&cursor=0")).json()
                assert [item["type"] for item in page["items"]] == ["visit_updated"] * 2
                rest = (await client.get(f"/flatmates/notifications?user=alice&cursor={page['next_cursor']}")).json()
                assert len(rest["items"]) == 1

    async def test_a_websocket(self, notifier: Notifier) -> None:
        """The same names in frames of a WebSocket."""
        async with serving(self.application(notifier, "template")) as place, websocket(place, "user=alice") as client:
            await client.ask(do="ping")
            await notifier.push("alice", "info", {"title": "T"})
            await notifier.broadcast("info", {"title": "All"})
            first, second = await client.receive(), await client.receive()
            assert (first["event"], first["data"]["title"]) == ("notification:new", "T")
            assert first["id"] == first["data"]["id"]
            assert (second["event"], second["data"]["title"]) == ("notification:broadcast", "All")
            assert "id" not in second

    async def test_a_websocket_that_flushes(self, notifier: Notifier) -> None:
        """A frame without data is null there; the end is announced as these clients know it."""
        app = self.application(notifier, "skrift")
        async with serving(app) as place, websocket(place, "user=alice") as client:
            assert await client.receive() == {"event": "sync", "data": None}
            app.begin_shutdown()
            frames, _, _ = await client.end()
            assert [frame["event"] for frame in frames] == ["disconnecting", "notify.end"]

    @pytest.mark.parametrize("dialect", ["template", "marketplace", "skrift"])
    async def test_without_a_store(self, dialect: str) -> None:
        """Nothing is replayed; what is pushed arrives under the names of the dialect."""
        async with Notifier() as notifier:
            async with serving(self.application(notifier, dialect)) as place:
                async with websocket(place, "user=alice") as client:
                    await client.ask(do="ping")
                    await notifier.push("alice", "order", 1, ephemeral=True)
                    assert (await client.receive())["event"] == DIALECTS[dialect].default

    async def test_polling_by_time(self, notifier: Notifier) -> None:
        """FL-08 to 13: an array from since = 0; then by the timestamp of its last item, each event once, in order."""
        app = self.application(notifier, "tutorial")
        async with serving(app) as place:
            async with httpx.AsyncClient(base_url=f"http://{place}", trust_env=False) as client:
                seen, since = list[Any](), 0.0
                for n in range(40):
                    await notifier.push("alice", "progress", n)
                    if n % 7 == 0:
                        items = (await client.get("/notifications", params={"user": "alice", "since": since})).json()
                        seen += [item["data"] for item in items]
                        since = items[-1]["timestamp"]
                items = (await client.get("/notifications", params={"user": "alice", "since": since})).json()
                assert seen + [item["data"] for item in items] == list(range(40))
                assert (await client.get("/notifications?user=alice&since=bad")).json()[0]["data"] == 0
                app.begin_shutdown()
                assert (await client.get("/notifications?user=alice")).json() == []


class Frames:
    """The named frames of a stream."""

    def __init__(self, client: httpx.AsyncClient, url: str, **options: Any) -> None:
        self.text, self.ids = "", list[str]()
        self._opening = client.stream("GET", url, timeout=10, **options)

    async def __aenter__(self) -> None:
        self._lines = (await self._opening.__aenter__()).aiter_lines()

    async def __aexit__(self, *_: Any) -> None:
        await self._opening.__aexit__(None, None, None)

    async def next(self) -> tuple[str, Any]:
        """The next frame of the dialect: its name, and its data, decoded."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            self.text += line + "\n"
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            elif "event" in fields:
                self.ids += [fields["id"]] if "id" in fields else []
                return fields["event"], json.loads(fields["data"]) if fields["data"] else ""
        raise AssertionError(f"the stream ended:\n{self.text}")


async def notifier_events(notifier: Notifier) -> AsyncIterator[Event]:
    async for event in notifier.subscribe("alice", "0"):  # pragma: no branch - it is left by break
        if event.payload == 3:
            break
        yield event
