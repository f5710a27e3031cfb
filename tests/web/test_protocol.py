"""docs/protocol.md: its frames are what the code writes, its tables are what the code has, its client works."""

from __future__ import annotations

import ast
import asyncio
import json
import math
import re
import socket
import threading
import time
import typing
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint
from anyio.to_thread import run_sync

from notify import Event, Notifier, web
from notify._asgi import _reply
from notify.inbox.abc import CHANGES, MAX_IDS, Change, Counts, Item, ItemPage
from notify.web import (
    Identity,
    NotifyApp,
    WebError,
    _commands,
    _inbox,
    _inbox_arguments,
    _inbox_values,
    _polling,
    _session,
    _sse,
    _text_feed,
    _websocket,
)
from notify.web._app import ROUTES
from notify.web._frames import HEARTBEAT, FrameCache
from notify.web._options import WebOptions
from notify_memory import MemoryStore
from tests.web.servers import WebServer
from tests.web.serving import serving

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "protocol.md"
GOLDEN = Path(__file__).parent / "golden"

ID, AFTER = "1795879843133-0", "1795879843170-0"
TOKEN = f"m1.alice.{ID}.room_3A7.{AFTER}"
PUSHED = datetime(2026, 11, 28, 14, 30, 43, 133512, tzinfo=UTC)
EVENT = Event(
    "alice", "comment.created", {"post": 7}, id=ID, prev="0", timestamp=PUSHED, group="post:7", meta={"lang": "en"}
)
PLAIN = Event("alice", "comment.created", {"post": 7}, id=ID, prev="0", timestamp=PUSHED)
EPHEMERAL = Event("alice", "typing", {"by": "bob"}, timestamp=PUSHED)
GAP = Event("alice", "notify.gap", {"reason": "trimmed", "from": ID, "to": AFTER}, id=AFTER, prev=ID)
CHANGED = "1795879843190-0"
NEWS = f"m1.alice.{ID}.news.{AFTER}"
SEEN = datetime(2026, 11, 28, 14, 31, tzinfo=UTC)
READ = Event("alice", "notify.read", {"ids": [ID]}, id=CHANGED, prev=ID, timestamp=PUSHED)
COUNTS = {"total": 12, "unseen": 2, "unread": 2, "position": CHANGED}
TOLD = Event("alice", "notify.counts", COUNTS)
SYNC = Event("alice", "notify.sync", {**COUNTS, "unread": 3, "position": AFTER}, id=AFTER, prev=AFTER)
ITEM = Event("alice", "comment.created", {"post": 7}, id=ID, timestamp=PUSHED, group="post:7",
             meta={"lang": "en", "notify.item": ""})  # fmt: skip
STORY = Event("news", "story", {"title": "Snow"}, id=AFTER, timestamp=PUSHED, meta={"notify.item": "1795962643133"})
END = _session.Ended("lifetime", 2741)


def site() -> Any:
    """What rendering needs of a site."""
    options, closing = WebOptions(), SimpleNamespace(begun="")
    heartbeat = str(options.heartbeat).encode()
    return SimpleNamespace(options=options, heartbeat=heartbeat, frames=FrameCache(), dialect=None, closing=closing)


def session(**changes: Any) -> Any:
    """What rendering needs of a session."""
    usual = {"last_id": AFTER, "is_invalid": False, "is_one_log": True, "has_log": True, "user": "alice"}
    return SimpleNamespace(**usual | changes)


def feed(**changes: Any) -> _sse.FrameFeed:
    return _sse.FrameFeed(site(), session(**changes))


def texts(**changes: Any) -> _text_feed.TextFeed:
    return _text_feed.TextFeed(site(), session(**changes), None)


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def beginning_of_an_invalid_one() -> bytes:
    stream = feed(is_invalid=True)
    retry, _, rest = stream._beginning.partition(b"\n")
    assert re.fullmatch(rb"retry: [0-9]+", retry)
    return rest


def page_of_events() -> bytes:
    page = _polling.PollPage(site(), 100, ID)
    page._takes(PLAIN, session(last_id=ID))
    page._takes(GAP, session())
    page._takes(Event("alice", "notify.sync", {}, id=AFTER, prev=ID), session())
    return bytes(page.messages(SimpleNamespace(response_headers=[]))[1]["body"]) + b"\n"  # type: ignore[arg-type]


def socket_frames() -> bytes:
    socket = texts()
    return lines(
        site().frames.ws(PLAIN, ID), site().frames.ws(EPHEMERAL, ID), *socket._sync(), *socket._texts(GAP),
        _text_feed.PING, _text_feed.ws_text(_text_feed.one_line(END.value), event="notify.end"),
    )  # fmt: skip


def page_of_items() -> bytes:
    items = [Item(STORY, f"{AFTER}@news"), Item(ITEM, ID, seen_at=SEEN, read_at=SEEN)]
    return _inbox_values.page_object("alice", ItemPage(items, ID, Counts(12, 2, 3, NEWS), NEWS)) + b"\n"


def change_of(position: str) -> bytes:
    return _inbox_values.change_object(Change([ID], Counts(12, 2, 2, position), READ))


def poll_with_counts() -> bytes:
    page = _polling.PollPage(site(), 100, CHANGED)
    page._takes(Event("alice", "notify.sync", COUNTS, id=CHANGED, prev=CHANGED), session(last_id=CHANGED))
    return bytes(page.messages(SimpleNamespace(response_headers=[]))[1]["body"]) + b"\n"  # type: ignore[arg-type]


RENDERED: dict[str, Callable[[], bytes]] = {
    "message": lambda: FrameCache().sse(EVENT, ID),
    "typed": lambda: FrameCache().sse(PLAIN, ID, typed=True),
    "several": lambda: FrameCache().sse(PLAIN, TOKEN),
    "ephemeral": lambda: FrameCache().sse(EPHEMERAL, ID),
    "sync": lambda: feed()._sync(),
    "gap": lambda: feed()._frame(GAP),
    "invalid": beginning_of_an_invalid_one,
    "end": lambda: _sse.end_frames(END),
    "heartbeat": lambda: HEARTBEAT,
    "ws": socket_frames,
    "ws_commands": lambda: lines(
        '{"ref": 1, "do": "ping"}',
        _commands.answer(1),
        f'{{"ref": 2, "do": "subscribe", "position": "{ID}"}}',
        _commands.answer(2),
        '{"ref": 3, "do": "dance"}',
        _commands.refusal(_commands.CommandError("unknown_command", "there is no command 'dance'", 3)),
    ),
    "poll": page_of_events,
    "poll_counts": poll_with_counts,
    "sync_counts": lambda: feed()._frame(SYNC),
    "ws_counts": lambda: lines(*texts()._texts(TOLD)),
    "inbox": page_of_items,
    "inbox_change": lambda: change_of(f"m1.alice.{CHANGED}.news.{AFTER}") + b"\n",
    "inbox_event": lambda: FrameCache().sse(READ, CHANGED),
    "inbox_counts": lambda: feed()._frame(TOLD),
    "inbox_topics": lambda: _inbox_values.topics_object(["news"]) + b"\n",
    "inbox_commands": lambda: lines(
        '{"ref": 4, "do": "counts"}',
        _commands.answer_with(4, _text_feed.one_line(COUNTS)),
        f'{{"ref": 5, "do": "mark", "state": "read", "ids": ["{ID}"]}}',
        _commands.answer_with(5, change_of(CHANGED)),
        '{"ref": 6, "do": "inbox", "limit": 0}',
        _commands.refusal(_commands.CommandError("bad_request", "limit must be a whole number of 1 to 100", 6)),
    ),
    "error": lambda: (
        _reply.reply_to(WebError(401, "unauthenticated", "credentials are missing or not valid")).body + b"\n"
    ),
}


@pytest.mark.parametrize("name", sorted(RENDERED))
def test_golden_frames(name: str) -> None:
    """The code writes each frame byte for byte as its file has it, and the page shows the file."""
    golden = (GOLDEN / f"{name}.txt").read_bytes()
    assert RENDERED[name]() == golden
    shown = golden.decode().rstrip("\n")
    assert f"```text\n{shown}\n```" in PAGE.read_text(encoding="utf-8")


def test_what_the_code_says_of_a_limit() -> None:
    """The message of the golden frame is that of the code."""
    with pytest.raises(WebError, match=r"^limit must be a whole number of 1 to 100$"):
        _inbox_arguments.listing_of({"limit": 0})


def test_every_golden_file_is_used() -> None:
    """No file outlives its frame."""
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(RENDERED)


# -- tables -------------------------------------------------------------------------------------------------------


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading whose header begins with these words."""
    text = PAGE.read_text(encoding="utf-8")
    rows = text[text.index(heading) :].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows]


def raised() -> set[tuple[str, int]]:
    """Every code and status that the source gives a `WebError` or a `Refusal`, and those of the library's errors."""
    found = {(code, status) for _, status, code in _reply._STATUS}
    for path in [*Path(_reply.__file__).parent.glob("*.py"), *Path(web.__file__).parent.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("WebError", "Refusal"):
                values = [value.value for value in node.args[:2] if isinstance(value, ast.Constant)]
                if len(values) == 2:
                    found.add((values[1], values[0]))
    return found


def test_error_codes() -> None:
    """The table of errors has every code with its status, and no other."""
    rows = {(code, int(status)) for code, status, *_ in table("| Code | Status |")}
    assert rows == raised()


def test_command_errors() -> None:
    """The table of command errors has every code of the source."""
    found = set()
    for module in (_commands, _websocket):
        for node in ast.walk(ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "CommandError":
                found.add(typing.cast("ast.Constant", node.args[0]).value)
    codes = {code for code, *_ in table("| Error code |")}
    assert codes - {"any of the [errors](#errors) below"} == found


def test_inbox_tables() -> None:
    """The tables of the inbox have every type of change, every command and every state."""
    text = PAGE.read_text(encoding="utf-8")
    assert {kind for kind, *_ in table("| Type | Payload |")} == CHANGES
    assert {command for command, *_ in table("| Command | Members |")} == {*_inbox.OPERATIONS}
    assert f"`{'`, `'.join(_inbox_arguments.STATES[:-1])}` or `{_inbox_arguments.STATES[-1]}`" in text
    for words in (f"1 to {_inbox_arguments.MAX_LIMIT}; {_inbox_arguments.LIMIT} by default", f"at most {MAX_IDS:,}"):
        assert words in text, words


def test_end_reasons() -> None:
    """The table of ends has every reason, with the close code that a WebSocket gets."""
    rows = {reason: int(code) for reason, code, *_ in table("| Reason | Close code |")}
    assert rows == dict(_websocket._CODES)
    assert set(rows) == set(typing.get_args(_session.Reason))


def test_close_codes() -> None:
    """The table of close codes has each of ours."""
    ours = {
        value for name, value in vars(_websocket).items() if name.isupper() and isinstance(value, int) and value >= 4000
    }
    assert {int(code) for code, *_ in table("| Close code | Meaning |") if code.startswith("4")} == ours


def test_gap_reasons() -> None:
    """The table of gaps has the reasons of the log, and the one of a position that is not one."""
    from notify.ids import GapReason

    assert {reason for reason, *_ in table("| Reason | What happened |")} == {*typing.get_args(GapReason), "invalid"}


def test_endpoints() -> None:
    """The first table names every endpoint."""
    first = PAGE.read_text(encoding="utf-8").split("| Request | What it is |")[1].split("\n\n")[0]
    assert set(re.findall(r"/([\w./{}]+)`", first)) == {*ROUTES, "ws"}


def test_defaults() -> None:
    """The durations that the page states are the defaults."""
    text, options = PAGE.read_text(encoding="utf-8"), WebOptions()
    assert (options.lifetime, options.ticket_lifetime, options.heartbeat) == (900.0, 30.0, 15.0)
    for words in (
        "15 minutes, with jitter",
        "for 30 seconds",
        f"at most {_commands.MAX_COMMAND:,} bytes",
        f"up to {_polling.MAX_LIMIT:,}",
    ):
        assert words in text, words


# -- the client ---------------------------------------------------------------------------------------------------


def source() -> str:
    """The client of the page."""
    return PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


@pytest.fixture(scope="module")
def follow() -> Callable[..., Iterator[tuple[str, Any, str]]]:
    """Its function, from the page alone."""
    namespace: dict[str, Any] = {}
    exec(compile(source(), str(PAGE), "exec"), namespace)
    return typing.cast("Callable[..., Iterator[tuple[str, Any, str]]]", namespace["follow"])


class Reader:
    """The client in a thread: what it has yielded, and whether it has ended."""

    def __init__(self, items: Iterator[tuple[str, Any, str]]) -> None:
        self.items: list[tuple[str, Any, str]] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, args=[items], daemon=True)
        self._thread.start()

    def _read(self, items: Iterator[tuple[str, Any, str]]) -> None:
        try:
            for item in items:
                self.items.append(item)
        except BaseException as error:
            self.error = error

    def of(self, name: str) -> list[Any]:
        """The data of the frames of one name."""
        return [data for kind, data, _ in self.items if kind == name]

    async def until(self, condition: Callable[[], bool], act: Callable[[], Awaitable[object]] = checkpoint) -> None:
        """Wait for something that the client has seen, and act until then."""
        with anyio.fail_after(30):
            while not condition():
                assert self.error is None
                await act()
                await anyio.sleep(0.01)

    async def ended(self, act: Callable[[], Awaitable[object]] = checkpoint) -> None:
        """Wait until the client stops by itself, and act until then: what reaches it only while it is connected."""
        await self.until(lambda: not self._thread.is_alive(), act)


def test_client_is_short_and_plain() -> None:
    """At most 60 lines of code, and nothing but the standard library."""
    lines = [line for line in source().splitlines() if line.strip()]
    assert len(lines) <= 60
    imported = {
        alias.name for node in ast.walk(ast.parse(source())) if isinstance(node, ast.Import) for alias in node.names
    }
    assert imported == {"http.client", "json", "random", "time"}


pytestmark = pytest.mark.usefixtures("anyio_backend")


@pytest.fixture
def anyio_backend() -> str:
    """The server runs on asyncio; that streams are the same on trio is tested elsewhere."""
    return "asyncio"


@pytest.mark.anyio
async def test_client_over_many_connections(follow: Callable[..., Any]) -> None:
    """Each event once and in order, while connections end by their lifetime; it stops after `disconnect`."""
    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, lambda request: Identity("alice"), retry=(0.01, 0.05), lifetime=0.3)
        async with serving(app) as place:
            reader = Reader(follow(f"http://{place}/stream", "0"))
            pushed = []
            for number in range(60):
                pushed.append((await notifier.push("alice", "row", {"n": number})).id)
                await anyio.sleep(0.03)
            await reader.until(lambda: len(reader.of("message")) >= 60)
            await reader.ended(lambda: notifier.disconnect("alice"))
    assert [event["id"] for event in reader.of("message")] == pushed
    assert [position for kind, _, position in reader.items if kind == "message"] == pushed
    assert len(reader.of("notify.sync")) > 3
    assert not reader.of("notify.gap")


@pytest.mark.anyio
async def test_client_cut_at_any_byte(follow: Callable[..., Any]) -> None:
    """Connections that break after so many bytes, at each place of a frame: nothing is lost or repeated."""
    cut = 420  # the head of the response, and a frame

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cut
        cut += 7
        left = cut
        host, port = place.split(":")
        up, down = await asyncio.open_connection(host, int(port))
        down.write(await reader.readuntil(b"\r\n\r\n"))
        while left and (data := await up.read(left)):
            left -= len(data)
            writer.write(data)
            await writer.drain()
        down.transport.abort()
        writer.close()

    async with Notifier(MemoryStore()) as notifier:
        pushed = [(await notifier.push("alice", "row", {"n": number})).id for number in range(40)]
        app = NotifyApp(notifier, lambda request: "alice", retry=(0.001, 0.002))
        async with serving(app) as place, await asyncio.start_server(relay, "127.0.0.1", 0) as server:
            cut_place = "{}:{}".format(*server.sockets[0].getsockname())
            reader = Reader(follow(f"http://{cut_place}/stream", "0", quick))
            await reader.until(lambda: len(reader.of("message")) >= 40)
            await reader.ended(lambda: notifier.disconnect("alice"))  # it may be between two connections
    assert [event["id"] for event in reader.of("message")] == pushed


@pytest.mark.anyio
async def test_client_over_a_server_that_is_killed(follow: Callable[..., Any], tmp_path: Path) -> None:
    """SIGKILL in the middle of a stream, pushes while there is no server, another one: each event once and in order."""
    store, pushed, goal = f"sqlite:///{tmp_path}/events.db", list[str](), math.inf
    env = {"NOTIFY_TEST_STORE": store}
    async with Notifier.from_url(store) as notifier:

        async def push() -> None:
            while len(pushed) < goal:
                pushed.append((await notifier.push("alice", "row", key=str(len(pushed)))).id)
                await anyio.sleep(0.005)

        with WebServer("uvicorn", "tests.web.stored:app", tmp_path, env=env) as server:
            reader = Reader(follow(f"{server.url}/stream?user=alice", "0"))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(push)
                await reader.until(lambda: len(reader.of("message")) >= 5)
                server.kill()
                goal = len(pushed) + 20
        with WebServer("uvicorn", "tests.web.stored:app", tmp_path, env=env, port=server.port):
            goal += 20
            await push()
            await reader.until(lambda: len(reader.of("message")) >= goal)
            await reader.ended(lambda: notifier.disconnect("alice"))
    assert [event["id"] for event in reader.of("message")] == pushed
    assert not reader.of("notify.gap")


def test_client_tries_for_as_long_as_there_is_no_server(
    follow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it fails, it waits half a minute at most."""
    waits: list[float] = []
    here, really_sleep = threading.current_thread(), time.sleep

    def sleep(seconds: float) -> None:
        if threading.current_thread() is not here:  # the client of another test, which still tries
            really_sleep(seconds)
            return
        waits.append(seconds)
        if len(waits) == 200:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # which does not listen
        items = follow("http://{}:{}/stream".format(*nobody.getsockname()))
        with pytest.raises(KeyboardInterrupt):
            next(items)
    assert 1 <= waits[0] <= 4
    assert all(15 <= wait <= 30 for wait in waits[10:])


def quick() -> dict[str, str]:
    """No credentials: the address decides."""
    return {}


@pytest.mark.anyio
async def test_client_renews_credentials(follow: Callable[..., Any]) -> None:
    """It gets new credentials when the server says that the old ones have expired, and stops when they are refused."""
    tokens = iter("abcd")

    def authenticate(request: Any) -> Identity | None:
        if request.headers["x-token"] == "d":
            return None
        return Identity("alice", expires_at=datetime.now(UTC) + timedelta(seconds=0.3))

    async with Notifier(MemoryStore()) as notifier:
        async with serving(NotifyApp(notifier, authenticate)) as place:
            reader = Reader(follow(f"http://{place}/stream", "", lambda: {"X-Token": next(tokens)}))
            await reader.ended()
    assert len(reader.of("notify.sync")) == 3


@pytest.mark.anyio
async def test_client_is_told_of_gaps(follow: Callable[..., Any]) -> None:
    """What is gone since its position is a gap; a position that is not one is a gap as well."""
    async with Notifier(MemoryStore(max_len=3)) as notifier:
        first, *_ = [await notifier.push("alice", "row", number) for number in range(8)]
        async with serving(NotifyApp(notifier, lambda request: "alice")) as place:
            for position, reason, left in ((first.id, "trimmed", [5, 6, 7]), ("nonsense", "invalid", [])):
                reader = Reader(follow(f"http://{place}/stream", position))
                await reader.until(lambda reader=reader: bool(reader.of("notify.sync")))  # type: ignore[misc]
                assert [gap["reason"] for gap in reader.of("notify.gap")] == [reason]
                assert [event["payload"] for event in reader.of("message")] == left
                await notifier.disconnect("alice")
                await reader.ended()


@pytest.mark.anyio
async def test_ticket_has_the_form_of_the_page() -> None:
    """The answer to `POST /ticket` has the members that the page shows."""
    shown = json.loads(re.findall(r'^\{"ticket".*\}$', PAGE.read_text(encoding="utf-8"), re.MULTILINE)[0])
    async with Notifier(MemoryStore()) as notifier:
        async with serving(NotifyApp(notifier, lambda request: "alice")) as place:
            answer = await run_sync(partial(httpx.post, f"http://{place}/ticket", headers={"x-notify": "1"}))
    assert answer.json().keys() == shown.keys()
    assert len(answer.json()["ticket"]) == len(shown["ticket"])
    assert datetime.fromisoformat(answer.json()["expires_at"]).tzinfo is not None
