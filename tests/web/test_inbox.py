"""The endpoints of the inbox, in process: what each answers, to whom, and to what is not well-formed."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import anyio
import anyio.lowlevel
import httpx
import pytest

from notify import Event, Notifier, UsageError
from notify.inbox import Inbox
from notify.web import Identity, NotifyApp, Request, _follow_rule
from notify.web._frames import wire_object
from notify.web._inbox_arguments import is_item_id
from notify.web._routing import route_of
from notify_memory import MemoryStore, MemoryStreamStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Streams of an inbox are tested on both event loops elsewhere."""
    return "asyncio"


ADDRESSES = ("news", "a/b?c#ü%", "stream")


def authenticate(request: Request) -> Identity | None:
    """The user in a header, who may read a few topics."""
    user = request.headers.get("x-user")
    return Identity(user, ADDRESSES) if user else None


class Site:
    """An application, its inbox, and clients of it."""

    def __init__(self, **options: Any) -> None:
        self.notifier = Notifier(MemoryStreamStore())
        self.inbox = Inbox(self.notifier)
        self.app = NotifyApp(self.notifier, authenticate, inbox=self.inbox, **options)

    def client(self, user: str = "alice", **headers: str) -> httpx.AsyncClient:
        """A client that sends the user's credentials, not as a browser does."""
        named = {"x-user": user} if user else {}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://test", headers={**named, **headers}
        )

    async def send(self, user: str = "alice", number: int = 0, **options: Any) -> Event:
        """Send an item."""
        sent = await self.inbox.send(user, "note", {"n": number}, **options)
        assert sent is not None
        return sent


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    async with made.notifier:
        yield made


def ids(answer: httpx.Response) -> list[str]:
    """The ids of a page."""
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error, whose body has the one form."""
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"code", "message"}
    return answer.status_code, body["error"]["code"]


class TestReading:
    async def test_a_page(self, site: Site) -> None:
        """Items newest first, each as the stream sends it with its three times; counts and their position."""
        first = await site.send(number=1, group="g", meta={"lang": "en"})
        second = await site.send(number=2, ttl=3600)
        async with site.client() as client:
            page = (await client.get("/inbox")).json()
            assert page.keys() == {"items", "user", "next", "counts", "position"}
            assert page["user"] == "alice"
            assert page["next"] is None
            assert page["counts"] == {"total": 2, "unseen": 2, "unread": 2, "position": second.id}
            assert page["position"] == second.id
            newest, oldest = page["items"]
            assert oldest == {
                "id": first.id,
                "user": "alice",
                "type": "note",
                "payload": {"n": 1},
                "timestamp": first.timestamp.isoformat(timespec="microseconds"),
                "group": "g",
                "meta": {"lang": "en"},
                "item": {},
                "seen_at": None,
                "read_at": None,
                "dismissed_at": None,
            }
            assert newest["item"].keys() == {"expires_at"}
            assert (await client.get("/inbox/counts")).json() == page["counts"]
            head = await client.get("/inbox")
            assert head.headers["cache-control"] == "no-store"

    async def test_pages(self, site: Site) -> None:
        """`next` of one page is `before` of the next one; 20 items without a limit."""
        sent = [(await site.send(number=number)).id for number in range(45)]
        async with site.client() as client:
            found: list[str] = []
            before: Any = ""
            for size in (20, 20, 5):
                page = await client.get("/inbox", params={"before": before} if before else {})
                assert len(ids(page)) == size
                found += ids(page)
                before = page.json()["next"]
            assert before is None
            assert found == sent[::-1]
            assert len(ids(await client.get("/inbox?limit=100"))) == 45
            assert len(ids(await client.get("/inbox?limit=1"))) == 1

    async def test_filters(self, site: Site) -> None:
        """State, types (repeated) and group choose items; the counts stay those of the whole inbox."""
        sent = {}
        for number, kind in enumerate(("a", "b", "c")):
            event = await site.inbox.send("alice", kind, number, group=f"g{kind}")
            assert event is not None
            sent[kind] = event.id
        async with site.client() as client:
            await client.post("/inbox/mark", json={"state": "read", "ids": [sent["a"]]})
            await client.post("/inbox/mark", json={"state": "dismissed", "ids": [sent["b"]]})
            for query, kinds in (
                ("", "ca"), ("state=active", "ca"), ("state=unread", "c"), ("state=read", "a"),
                ("state=dismissed", "b"), ("state=all", "cba"), ("types=a&types=c", "ca"), ("types=a,c", "ca"),
                ("types=a,c&types=b&state=all", "cba"), ("type=a", "a"),
                ("group=ga", "a"), ("group=gb", ""), ("state=all&group=gb", "b"), ("unknown=1", "ca"),
            ):  # fmt: skip
                page = await client.get(f"/inbox?{query}")
                assert ids(page) == [sent[kind] for kind in kinds], query
                assert page.json()["counts"]["total"] == 2

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("limit=0", "bad_request"), ("limit=101", "bad_request"), ("limit=x", "bad_request"),
            ("limit=-1", "bad_request"), ("limit=1.5", "bad_request"), ("limit=", "bad_request"),
            ("limit=9999999999", "bad_request"), ("limit=%D9%A1", "bad_request"), ("state=new", "bad_request"),
            ("types=a%20b", "bad_request"), ("types=", "bad_request"), ("group=%00", "bad_request"),
            ("before=nonsense", "invalid_position"), ("before=1-0@", "invalid_position"),
            ("before=%FF", "invalid_position"), ("&".join(["types=a"] * 101), "bad_request"),
        ],
    )  # fmt: skip
    async def test_what_is_not_well_formed(self, site: Site, query: str, code: str) -> None:
        """400, with the code that says which."""
        async with site.client() as client:
            assert error_of(await client.get(f"/inbox?{query}")) == (400, code)


class TestMarks:
    async def test_each_state(self, site: Site) -> None:
        """200 with the ids changed, the counts after it, their position and the event; none where nothing changed."""
        event = await site.send()
        async with site.client() as client:
            for state, counts in (
                ("seen", (1, 0, 1)), ("read", (1, 0, 0)), ("unread", (1, 0, 1)), ("dismissed", (0, 0, 0)),
                ("restored", (1, 0, 0)),
            ):  # fmt: skip
                answer = await client.post("/inbox/mark", json={"state": state, "ids": [event.id]})
                assert answer.status_code == 200, answer.text
                change = answer.json()
                assert change["ids"] == [event.id]
                told = change["counts"]
                assert (told["total"], told["unseen"], told["unread"]) == counts, state
                assert change["position"] == told["position"] == change["event"]
                again = (await client.post("/inbox/mark", json={"state": state, "ids": [event.id]})).json()
                assert again == {**change, "ids": [], "event": None}

    async def test_up_to_and_group(self, site: Site) -> None:
        """`up_to` names what the page's position held, or an item and those before it; `group` a group."""
        first, second = await site.send(number=1), await site.send(number=2, group="g")
        async with site.client() as client:
            position = (await client.get("/inbox")).json()["position"]
            later = await site.send(number=3)
            for state in ("seen", "read", "dismissed"):
                answer = await client.post("/inbox/mark", json={"state": state, "up_to": position})
                assert answer.json()["ids"] == [second.id, first.id]
            answer = await client.post("/inbox/mark", json={"state": "restored", "up_to": first.id})
            assert answer.json()["ids"] == [first.id]
            answer = await client.post("/inbox/mark", json={"state": "restored", "group": "g"})
            assert answer.json()["ids"] == [second.id]
            answer = await client.delete("/inbox/group/g")
            assert (answer.status_code, answer.json()["ids"]) == (200, [second.id])
            answer = await client.delete(f"/inbox/{later.id}")
            assert (answer.status_code, answer.json()["ids"]) == (200, [later.id])
            assert answer.json()["counts"]["total"] == 1

    @pytest.mark.parametrize(
        "body",
        [
            {}, {"state": "read"}, {"ids": []}, {"state": "gone", "ids": []}, {"state": ["read"], "ids": []},
            {"state": "read", "ids": [], "group": "g"}, {"state": "read", "ids": "1-0"}, {"state": "read", "ids": [1]},
            {"state": "read", "ids": {"1-0": 1}}, {"state": "read", "up_to": 1}, {"state": "read", "group": None},
            {"state": "read", "group": ["g"]}, {"state": "read", "id": "1-0"}, {"state": "read", "ids": [], "x": 1},
            {"state": "read", "ids": ["1-0"] * 1001}, [], "text", 1, None,
        ],
    )  # fmt: skip
    async def test_what_is_not_well_formed(self, site: Site, body: Any) -> None:
        """400: neither ids, nor up_to, nor group; more than one; another form; an unknown member."""
        await site.send()
        async with site.client() as client:
            headers = {"content-type": "application/json"}
            answer = await client.post("/inbox/mark", content=json.dumps(body), headers=headers)
            assert error_of(answer) == (400, "bad_request")
            assert (await client.get("/inbox/counts")).json()["unread"] == 1

    @pytest.mark.parametrize("up_to", ["", "nonsense", "1-0@", "m1.alice", "m1.alice.1-0.alice.1-0", "\ud800", "ü"])
    async def test_up_to_what_is_not_a_position(self, site: Site, up_to: str) -> None:
        """400 with a code of its own; nothing is marked."""
        await site.send()
        async with site.client() as client:
            answer = await client.post(
                "/inbox/mark",
                content=json.dumps({"state": "read", "up_to": up_to}),
                headers={"content-type": "application/json"},
            )
            assert error_of(answer) == (400, "invalid_position")
            assert (await client.get("/inbox/counts")).json()["unread"] == 1

    async def test_bodies(self, site: Site) -> None:
        """Bounded in size, JSON, and declared as such."""
        as_json = {"content-type": "application/json"}
        async with site.client() as client:
            for content, headers, expected in (
                (b"{", as_json, (400, "invalid_json")),
                (b'{"state": NaN}', as_json, (400, "invalid_json")),
                (b'{"state": "read", "state": "seen"}', as_json, (400, "invalid_json")),
                (b"[" * 50_000, as_json, (400, "invalid_json")),
                (b"\xff", as_json, (400, "invalid_json")),
                (b" " * 70_000, as_json, (413, "payload_too_large")),
                (b"{}", {"content-type": "text/plain"}, (415, "unsupported_media_type")),
                (b"{}", {"content-type": "text/xml"}, (415, "unsupported_media_type")),
            ):
                for path in ("/inbox/mark", "/follow"):
                    assert error_of(await client.post(path, content=content, headers=headers)) == expected


class TestNothingIsTold:
    """A foreign, unknown, expired or malformed id is answered alike."""

    async def test_ids(self, site: Site) -> None:
        """The same answer for each of them, whatever the way; and the foreign item stays as it was."""
        foreign = await site.send("bob")
        topic = await site.send("news")
        async with site.client() as client:
            own = await site.send(number=1)
            gone = await site.send(number=2, group="g")
            await site.send(number=3, group="g")
            unknown = [
                foreign.id, f"{foreign.id}@bob", f"{topic.id}@news", gone.id, f"{own.id}@", f"{own.id}@alice\x00",
                "1-0", "0-0", "0", "nonsense", "99999999999999-0", "99999999999999999999999-0", "-", "@", "1-0@\ud800",
                "../../health", "a" * 5000, "count", "stream",
            ]  # fmt: skip
            before = (await client.get("/inbox/counts")).json()
            expected = {"ids": [], "counts": before, "position": before["position"], "event": None}
            for each in unknown:
                for state in ("read", "unread", "dismissed", "restored"):
                    answer = await client.post(
                        "/inbox/mark",
                        content=json.dumps({"state": state, "ids": [each]}),
                        headers={"content-type": "application/json"},
                    )
                    assert (answer.status_code, answer.json()) == (200, expected), each
                path = quote(each, safe="", errors="surrogatepass")
                answer = await client.delete(f"/inbox/{path}")
                assert (answer.status_code, answer.json()) == (200, expected), each
            answer = await client.delete(f"/inbox/group/{quote('unknown', safe='')}")
            assert answer.json() == expected
            assert (await client.delete("/inbox/group/%00")).json() == expected
        async with site.client("bob") as client:
            assert (await client.get("/inbox/counts")).json()["unread"] == 1

    async def test_an_expired_one(self, site: Site) -> None:
        """As one that never was."""
        sent = await site.send(ttl=0.01)
        await anyio.sleep(0.02)
        async with site.client() as client:
            answer = (await client.delete(f"/inbox/{sent.id}")).json()
            assert (answer["ids"], answer["event"], answer["counts"]["total"]) == ([], None, 0)
            assert answer == (await client.delete("/inbox/1-0")).json()

    async def test_a_list_of_some(self, site: Site) -> None:
        """What is known is marked, the rest is left out."""
        sent = await site.send()
        async with site.client() as client:
            body = {"state": "read", "ids": ["1-0", sent.id, "nonsense", sent.id]}
            assert (await client.post("/inbox/mark", json=body)).json()["ids"] == [sent.id]

    async def test_topics(self, site: Site) -> None:
        """Whether a topic exists that a client may not follow is not told."""
        await site.send("secret")
        async with site.client() as client:
            answers = [await client.post("/follow", json={"topic": topic}) for topic in ("secret", "nothing", "bob")]
            assert {error_of(answer) for answer in answers} == {(403, "forbidden")}
            assert len({answer.text for answer in answers}) == 1


class TestTopics:
    async def test_follow_and_unfollow(self, site: Site) -> None:
        """Items of a topic are listed from the follow on, marked by `<id>@<log>`, and leave with it."""
        await site.send("news", 1)
        async with site.client() as client:
            answer = await client.post("/follow", json={"topic": "news"})
            assert answer.status_code == 200
            assert answer.json()["event"]
            assert (await client.post("/follow", json={"topic": "news"})).json()["event"] is None
            assert (await client.get("/following")).json() == {"topics": ["news"]}
            sent = await site.send("news", 2)
            page = (await client.get("/inbox")).json()
            assert [(item["id"], item["user"], item["payload"]) for item in page["items"]] == [
                (f"{sent.id}@news", "news", {"n": 2})
            ]
            assert page["position"].startswith("m1.")
            answer = await client.delete(f"/inbox/{quote(page['items'][0]['id'], safe='')}")
            assert answer.json()["ids"] == [f"{sent.id}@news"]
            assert (await client.delete("/follow/news")).json()["event"]
            assert (await client.delete("/follow/news")).json()["event"] is None
            assert (await client.get("/following")).json() == {"topics": []}

    async def test_history(self, site: Site) -> None:
        """What the topic holds already is listed if that is asked for."""
        sent = await site.send("news", 1)
        async with site.client() as client:
            await client.post("/follow", json={"topic": "news", "history": True})
            assert ids(await client.get("/inbox")) == [f"{sent.id}@news"]

    async def test_names_that_need_escapes(self, site: Site) -> None:
        """A topic and the ids of its items may contain any character of a name; one may be called like an endpoint."""
        async with site.client() as client:
            for topic in ADDRESSES:
                await client.post("/follow", json={"topic": topic})
                sent = await site.send(topic, group=topic)
                item = f"{sent.id}@{topic}"
                assert (await client.delete(f"/inbox/{quote(item, safe='')}")).json()["ids"] == [item]
                answer = await client.post("/inbox/mark", json={"state": "restored", "ids": [item]})
                assert answer.json()["ids"] == [item]
                assert (await client.delete(f"/inbox/group/{quote(topic, safe='')}")).json()["ids"] == [item]
                assert (await client.delete(f"/follow/{quote(topic, safe='')}")).json()["event"]
            assert (await client.get("/following")).json() == {"topics": []}

    @pytest.mark.parametrize(
        "body",
        [{}, {"topic": 1}, {"topic": ""}, {"topic": "a\n"}, {"topic": "news", "history": 1}, {"topic": "news", "x": 1}],
    )
    async def test_what_is_not_well_formed(self, site: Site, body: Any) -> None:
        """400."""
        async with site.client() as client:
            assert error_of(await client.post("/follow", json=body)) == (400, "bad_request")

    async def test_a_rule(self, caplog: pytest.LogCaptureFixture) -> None:
        """`authorize_follow` decides instead: plain or async, only True lets in; one that fails is logged."""

        async def slow(identity: Identity, topic: str) -> bool:
            await anyio.lowlevel.checkpoint()
            return identity.user == "alice" and topic == "club"

        def wrong(identity: Identity, topic: str) -> bool:
            raise RuntimeError("no rule today")

        async def stray(identity: Identity, topic: str) -> bool:
            raise asyncio.CancelledError  # a task of its own was cancelled

        def vague(identity: Identity, topic: str) -> object:
            return "yes"

        rules = ((slow, 200), (lambda *_: True, 200), (wrong, 503), (stray, 503), (vague, 403), (lambda *_: None, 403))
        for rule, expected in rules:
            site = Site(authorize_follow=rule)
            with caplog.at_level(logging.ERROR):
                async with site.notifier, site.client() as client:
                    for _ in range(2):
                        assert (await client.post("/follow", json={"topic": "club"})).status_code == expected
                    if rule is slow:
                        assert (await client.post("/follow", json={"topic": "news"})).status_code == 403
        assert [record.message for record in caplog.records] == [
            "authorize_follow() failed, so clients cannot follow topics until it works"
        ] * 2

    async def test_a_rule_that_takes_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """503 after a while."""
        monkeypatch.setattr(_follow_rule, "WITHIN", 0.02)
        site = Site(authorize_follow=lambda *_: anyio.sleep_forever())
        async with site.notifier, site.client() as client:
            assert error_of(await client.post("/follow", json={"topic": "club"})) == (503, "unavailable")


ENDPOINTS: list[tuple[str, str, Any]] = [
    ("GET", "/inbox", None),
    ("GET", "/inbox/counts", None),
    ("POST", "/inbox/mark", {"state": "read", "ids": []}),
    ("DELETE", "/inbox/1-0", None),
    ("DELETE", "/inbox/group/g", None),
    ("POST", "/follow", {"topic": "news"}),
    ("DELETE", "/follow/news", None),
    ("GET", "/following", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ENDPOINTS)
class TestEachEndpoint:
    async def test_credentials(self, site: Site, method: str, path: str, body: Any) -> None:
        """401 without them."""
        async with site.client("") as client:
            assert error_of(await client.request(method, path, json=body)) == (401, "unauthenticated")

    async def test_without_an_inbox(self, method: str, path: str, body: Any) -> None:
        """404."""
        async with Notifier(MemoryStore()) as notifier:
            transport = httpx.ASGITransport(NotifyApp(notifier, authenticate))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                answer = await client.request(method, path, json=body, headers={"x-user": "alice"})
                assert error_of(answer) == (404, "not_found")

    async def test_other_sites(self, site: Site, method: str, path: str, body: Any) -> None:
        """403, before anything is done."""
        headers = {"sec-fetch-site": "cross-site", "origin": "https://evil.example", "cookie": "a=b"}
        async with site.client(**headers) as client:
            assert error_of(await client.request(method, path, json=body)) == (403, "cross_site")
        if method != "GET":
            async with site.client(cookie="a=b") as client:
                if body is None:
                    assert error_of(await client.request(method, path)) == (403, "cross_site")
                    assert (await client.request(method, path, headers={"x-notify": "1"})).status_code == 200
                else:
                    sent = await client.request(method, path, content=json.dumps(body))
                    assert error_of(sent) == (403, "cross_site")

    async def test_allowed_sites(self, method: str, path: str, body: Any) -> None:
        """A preflight names the method; the response may be read by the page."""
        site = Site(origins=["https://app.example"])
        headers = {"sec-fetch-site": "cross-site", "origin": "https://app.example"}
        async with site.notifier, site.client(**headers) as client:
            asked = {"access-control-request-method": method, "access-control-request-headers": "x-user"}
            answer = await client.options(path, headers=asked)
            assert answer.status_code == 204
            assert method in answer.headers["access-control-allow-methods"]
            answer = await client.request(method, path, json=body)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "https://app.example"

    async def test_other_methods(self, site: Site, method: str, path: str, body: Any) -> None:
        """405 with those that there are."""
        async with site.client() as client:
            answer = await client.put(path, json={})
            assert error_of(answer) == (405, "method_not_allowed")
            assert method in answer.headers["allow"]
            assert method in (await client.options(path)).headers["allow"]

    async def test_mounted(self, site: Site, method: str, path: str, body: Any) -> None:
        """Under any path, and with a slash at the end."""
        async with site.client() as client:
            for before in ("/notify", "/inbox", "/follow/x/inbox"):
                for after in ("", "/"):
                    answer = await client.request(method, f"{before}{path}{after}", json=body)
                    assert answer.status_code == 200, answer.url

    async def test_a_store_that_does_not_answer(
        self, method: str, path: str, body: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """503 after `send_timeout`, in the one form."""
        site = Site(send_timeout=0.02)

        async def forever(*_: Any, **__: Any) -> Any:
            await anyio.sleep_forever()

        for name in ("items", "change", "edges"):
            monkeypatch.setattr(site.notifier.store, name, forever)
        async with site.notifier, site.client() as client:
            answer = await client.request(method, path, json=body)
            assert error_of(answer) == (503, "unavailable")
            assert answer.headers["retry-after"]


@pytest.mark.parametrize(
    "path", ["/inbox/health", "/inbox/openapi.json", "/inbox/group/client.js", "/follow/health", "/follow/stream"]
)
async def test_names_like_those_of_public_files(site: Site, path: str) -> None:
    """They open no way around the cross-site rules."""
    await site.send(group="client.js")
    async with site.client(cookie="a=b", origin="https://evil.example") as client:
        assert error_of(await client.delete(path)) == (403, "cross_site")
        assert (await client.get("/health", headers={"sec-fetch-site": "cross-site"})).status_code == 200
    async with site.client() as client:
        assert (await client.delete(path)).status_code == 200


MARK = {
    "type": "http", "method": "POST", "path": "/inbox/mark", "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
}  # fmt: skip


@pytest.mark.parametrize("event", ["the client leaves", "the server shuts down"])
async def test_a_change_while_its_client_is_being_authenticated(site: Site, event: str) -> None:
    """A complete request is carried out: a page that marks an item and then navigates to it abandons its request."""
    item = await site.send()
    entered, released, left = anyio.Event(), anyio.Event(), anyio.Event()

    async def slowly(request: Request) -> Identity:
        entered.set()
        await released.wait()
        return Identity("alice")

    app = NotifyApp(site.notifier, slowly, inbox=site.inbox)
    body = json.dumps({"state": "read", "ids": [item.id]}).encode()
    arriving = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        if not arriving or left.is_set():  # uvicorn, too, drops what has arrived
            await left.wait()
            return {"type": "http.disconnect"}
        return arriving.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    async with anyio.create_task_group() as group:
        group.start_soon(app, MARK, receive, send)
        await entered.wait()
        await anyio.wait_all_tasks_blocked()
        if event == "the client leaves":
            left.set()
        else:
            app.begin_shutdown()
        await anyio.wait_all_tasks_blocked()
        released.set()
    assert sent[0]["status"] == 200
    assert (await site.inbox.counts("alice")).unread == 0


@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_body_that_comes_in_pieces(site: Site, pieces: int) -> None:
    """It is read before its client is known; what `receive` of a server raises is raised as it is."""
    item, known, sent = await site.send(), anyio.Event(), list[Any]()
    body = json.dumps({"state": "read", "ids": [item.id]}).encode()
    size = -(-len(body) // pieces)
    arriving = [body[start : start + size] for start in range(0, len(body), size)]

    async def slowly(request: Request) -> Identity:
        await known.wait()
        return Identity("alice")

    async def receive() -> Any:
        await anyio.lowlevel.checkpoint()
        return {"type": "http.request", "body": arriving.pop(0), "more_body": bool(arriving)}

    async def send(message: Any) -> None:
        sent.append(message)

    app = NotifyApp(site.notifier, slowly, inbox=site.inbox)
    async with anyio.create_task_group() as group:
        group.start_soon(app, MARK, receive, send)
        await anyio.wait_all_tasks_blocked()
        assert not arriving
        known.set()
    assert sent[0]["status"] == 200
    assert (await site.inbox.counts("alice")).unread == 0
    with pytest.raises(IndexError):
        await app(MARK, receive, send)


async def test_closed(site: Site) -> None:
    """While the server shuts down: 503."""
    async with site.client() as client:
        assert site.notifier.store is not None
        await site.notifier.store.aclose()
        assert error_of(await client.get("/inbox")) == (503, "shutting_down")


def test_arguments() -> None:
    """`inbox=` is an Inbox of the same notifier."""
    notifier, other = Notifier(MemoryStreamStore()), Notifier(MemoryStreamStore())
    wrong: Any = object()
    with pytest.raises(UsageError, match="must be an Inbox"):
        NotifyApp(notifier, authenticate, inbox=wrong)
    with pytest.raises(UsageError, match="an Inbox of the notifier"):
        NotifyApp(notifier, authenticate, inbox=Inbox(other))
    with pytest.raises(UsageError, match="authorize_follow must be a function"):
        NotifyApp(notifier, authenticate, inbox=Inbox(notifier), authorize_follow=wrong)
    NotifyApp(notifier, authenticate, inbox=None)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/stream", ("stream", "")),
        ("GET", "/a/inbox/", ("inbox", "")),
        ("GET", "/inbox/counts", ("inbox/counts", "")),
        ("GET", "/inbox/stream", ("stream", "")),
        ("GET", "/counts", ("counts", "")),
        ("DELETE", "/inbox/counts", ("inbox/counts", "")),
        ("DELETE", "/inbox", ("inbox", "")),
        ("DELETE", "/inbox/group", ("inbox/{id}", "group")),
        ("DELETE", "/inbox/group/counts", ("inbox/group/{group}", "counts")),
        ("DELETE", "/follow/inbox", ("follow/{topic}", "inbox")),
        ("DELETE", "/follow/a%2Fb%2f", ("follow/{topic}", "a/b/")),
        ("DELETE", "/inbox/1-0%40follow%2Fx", ("inbox/{id}", "1-0@follow/x")),
        ("DELETE", "/inbox/%FF", ("inbox/{id}", "\ufffd")),
        ("DELETE", "/", ("", "")),
    ],
)
def test_routing(method: str, path: str, expected: tuple[str, str]) -> None:
    """The end of the path as it was sent decides; of the decoded one if a server passes no other."""
    decoded = httpx.URL(f"http://test{path}").path
    assert route_of({"method": method, "path": decoded, "raw_path": path.encode()}) == expected
    assert route_of({"method": method, "path": "/elsewhere", "raw_path": path.encode()})[0] in (
        expected[0],
        "elsewhere",
    )
    if "%2" not in path:
        assert route_of({"method": method, "path": decoded}) == expected


def test_other_names() -> None:
    """A dialect may have further names for endpoints, also where a name follows."""
    aliases = {"notifications": "inbox"}
    for path, expected in (
        ("/notifications/1-0", ("inbox/{id}", "1-0")),
        ("/notifications/group/g", ("inbox/group/{group}", "g")),
        ("/notifications", ("inbox", "")),
    ):
        assert route_of({"method": "DELETE", "path": path}, aliases) == expected
        assert route_of({"method": "DELETE", "path": path}) == (path.rpartition("/")[2], "")


def test_an_expiry_that_is_not_a_time() -> None:
    """It counts as none, as in every inbox."""
    for expiry in ("", "never", "1" * 15, "-1", "\u0661"):
        shown = json.loads(wire_object(Event("alice", "note", 1, id="1-0", meta={"notify.item": expiry})))
        assert shown["item"] == {}
    shown = json.loads(wire_object(Event("alice", "note", 1, id="1-0", meta={"notify.item": "1795962643133"})))
    assert shown["item"] == {"expires_at": "2026-11-29T14:30:43.133000+00:00"}


@pytest.mark.parametrize("text", ["1-0", "1795879843133-0", "1-0@a", "1-0@a@b", "1-0@ü/?", "18446744073709551616-1"])
def test_ids_that_could_be(text: str) -> None:
    """An id, or an id and the name of a log."""
    assert is_item_id(text) == (not text.endswith("16-1"))
