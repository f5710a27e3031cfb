"""The parts of the application that need no server: options, requests, replies, positions, frames, limits, times."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import time
from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify import (
    BackendUnavailableError,
    ClosedError,
    CodecError,
    Event,
    InvalidEventIdError,
    NotifyError,
    OverloadedError,
    PayloadTooLargeError,
    PushUncertainError,
    UsageError,
)
from notify._asgi import Reply, read_body, reply_to
from notify.adapters import Background
from notify.web import Identity, Request, WebError, _frames
from notify.web._admission import logs_of
from notify.web._frames import FrameCache, sse_frame, wire_object, ws_text
from notify.web._limits import HOLD, StreamLimits, Turns
from notify.web._options import WebOptions
from notify.web._position import Asked, asked, mark, parse
from notify.web._ticker import NEVER, Ticker
from notify.web._watch import GroupWatch, Watch, watch
from tests.parts import until


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now


def scope(**fields: Any) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", **fields}


# -- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"heartbeat": 0}, {"heartbeat": "15"}, {"heartbeat": True}, {"heartbeat": float("nan")}, {"lifetime": -1},
        {"send_timeout": float("inf")}, {"long_poll": None}, {"ticket_lifetime": 0}, {"drain": -0.1}, {"drain": "2"},
        {"retry": (5, 1)}, {"retry": (1, 2, 3)}, {"retry": "1"}, {"retry": None}, {"retry": (1000, 5000)},
        {"retry": (-1, 5)}, {"max_streams": 0}, {"max_streams_per_user": 0}, {"max_streams_per_user": 1.5},
        {"max_body": True}, {"origins": "https://a.example"}, {"publish_secrets": b"secret"}, {"origins": 7},
        {"on_push": "f"},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    """The message names the option and what was given."""
    with pytest.raises(UsageError, match=next(iter(wrong))):
        WebOptions(**wrong)


def test_options_are_taken_as_they_are_meant() -> None:
    """One number for `retry`, a list for a sequence; `drain=0` and no limit are fine."""
    options = WebOptions(retry=3, origins=["https://a.example"], drain=0, max_streams=None)  # type: ignore[arg-type]
    assert options.retry == (3.0, 3.0)
    assert options.origins == ("https://a.example",)
    assert WebOptions() == WebOptions()
    assert WebOptions().retry == (1.0, 5.0)


# -- requests -------------------------------------------------------------------------------------------------------


def test_a_request_as_authenticate_sees_it() -> None:
    """Headers, cookies, query, path and client, decoded; what is repeated is joined, or the last one counts."""
    request = Request(
        scope(
            path="/a/stream",
            query_string=b"user=a%20b&x=1&x=2&empty&bad=%ff",
            client=["10.0.0.1", 4711],
            headers=[
                (b"Authorization", b"Bearer \xe9"),
                (b"cookie", b'a=1; b="two"; a=3; =x; c; d = 4 '),
                (b"cookie", b"e=5"),
                (b"accept", b"x"),
                (b"accept", b"y"),
            ],
        )
    )
    assert request.headers["authorization"] == "Bearer \xe9"
    assert request.headers["accept"] == "x, y"
    assert request.cookies == {"a": "1", "b": "two", "d": "4", "e": "5"}
    assert request.cookies is request.cookies
    assert repr(request.cookies) == repr(dict(request.cookies))
    assert len(request.cookies) == 4
    assert request.cookies == {"a": "1", "b": "two", "d": "4", "e": "5"}
    assert request.query == {"user": "a b", "x": "2", "empty": "", "bad": "\ufffd"}
    assert request.query_all("x") == ["1", "2"]
    assert (request.path, request.client, request.method) == ("/a/stream", "10.0.0.1", "GET")
    bare = Request({"type": "websocket", "headers": []})
    assert (bare.path, bare.client, bare.method, bare.query, bare.cookies) == ("", "", "GET", {}, {})


def test_an_identity_is_a_value() -> None:
    """It is immutable, equals another one with the same values, and can be copied, pickled and printed."""
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    identity = Identity("alice", ["room"], expires, "s")
    assert Identity("alice", addresses=["room"], expires_at=expires, session="s") == identity
    assert Identity("alice") == Identity("alice", (), None, "") != identity
    assert hash(Identity("alice", ("room",))) == hash(Identity("alice", ("room",)))
    assert pickle.loads(pickle.dumps(identity)) == copy.copy(identity) == identity
    assert replace(identity, user="bob") == Identity("bob", ["room"], expires, "s")
    assert repr(Identity("alice")) == "Identity(user='alice', addresses=(), expires_at=None, session='')"
    for field in fields(Identity):
        with pytest.raises(FrozenInstanceError):
            setattr(identity, field.name, "other")
    with pytest.raises(TypeError, match="'user'"):
        Identity()  # type: ignore[call-arg]


def test_a_request_says_where_the_session_is() -> None:
    """`request.session` is an attribute error that names the scope, and `hasattr` is still false."""
    request = Request(scope(session={"user": "alice"}))
    with pytest.raises(AttributeError, match=r"no attribute 'session'; .* request\.scope\['session'\]"):
        request.session  # type: ignore[attr-defined]  # noqa: B018 - reading it is what fails
    assert not hasattr(request, "user")


def test_fields_of_a_query_may_be_empty() -> None:
    assert Request(scope(query_string=b"&a=1&&b=&c&")).query == {"a": "1", "b": "", "c": ""}


def test_a_query_has_a_bound() -> None:
    """A thousand fields are read, however many are sent."""
    request = Request(scope(query_string=b"&".join([b"a=1"] * 2000)))
    assert len(request.query_all("a")) == 1000


# -- replies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (WebError(418, "teapot", "no"), 418, "teapot"),
        (PayloadTooLargeError(2, 1), 413, "payload_too_large"),
        (InvalidEventIdError("x"), 400, "invalid_position"),
        (ClosedError("secret"), 503, "shutting_down"),
        (UsageError("x"), 400, "bad_request"),
        (OverloadedError("secret"), 503, "overloaded"),
        (PushUncertainError("secret"), 503, "outcome_unknown"),
        (BackendUnavailableError("secret"), 503, "unavailable"),
        (CodecError("x"), 400, "bad_request"),
        (NotifyError("secret"), 500, "internal"),
    ],
)
def test_every_error_has_a_status_and_a_shape(error: Any, status: int, code: str) -> None:
    """What a backend says is not shown; 503 says when to come back."""
    reply = reply_to(error)
    shown = json.loads(reply.body)
    assert (reply.status, shown["error"]["code"]) == (status, code)
    assert set(shown) == {"error"}
    assert set(shown["error"]) == {"code", "message"}
    assert "secret" not in shown["error"]["message"]
    assert (b"retry-after" in dict(reply.headers)) == (status == 503)
    assert dict(reply_to(WebError(503, "x", "y", [(b"retry-after", b"77")])).headers)[b"retry-after"] == b"77"


def test_every_error_of_the_library_has_a_row() -> None:
    """A new class gets the status of its nearest parent, and never none."""

    def kinds(kind: type[NotifyError]) -> set[type[NotifyError]]:
        return {kind}.union(*map(kinds, kind.__subclasses__()))

    for kind in kinds(NotifyError):
        error = kind.__new__(kind)
        Exception.__init__(error, "x")
        assert 400 <= reply_to(error).status < 600


@pytest.mark.anyio
async def test_replies_and_bodies() -> None:
    """A length unless it is 204; a body in parts, over the limit, and one that ends too early."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await Reply(204).send(send, [(b"x", b"y")])
    await Reply.json({"a": "\u00fc"}, 201).send(send)
    assert sent[0] == {"type": "http.response.start", "status": 204, "headers": [(b"x", b"y")]}
    assert dict(sent[2]["headers"])[b"content-length"] == b"10"
    parts = [{"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.request", "body": b"c"}]

    def receiver(*messages: Any) -> Any:
        remaining = iter(messages)

        async def receive() -> Any:
            return next(remaining)

        return receive

    assert await read_body(receiver(*parts), 3, 1) == b"abc"
    with pytest.raises(WebError) as caught:
        await read_body(receiver(*parts), 2, 1)
    assert caught.value.status == 413
    with pytest.raises(WebError) as caught:
        await read_body(receiver(parts[0], {"type": "http.disconnect"}), 9, 1)
    assert caught.value.code == "incomplete"

    async def silent() -> Any:
        await anyio.sleep_forever()

    with anyio.fail_after(10), pytest.raises(WebError) as caught:
        await read_body(silent, 9, 0.01)
    assert caught.value.status == 408


def test_the_logs_of_an_identity() -> None:
    """The user, the session, the addresses that are named; each once."""
    identity = Identity("alice", ["room", "desk"], session="s")
    assert logs_of(identity) == ("alice", "s")
    assert logs_of(identity, ["desk", "alice", "desk"]) == ("alice", "s", "desk")
    assert logs_of(Identity("alice")) == ("alice",)
    with pytest.raises(WebError) as caught:
        logs_of(identity, ["room", "other"])
    assert caught.value.status == 403


# -- positions ------------------------------------------------------------------------------------------------------


def test_where_a_client_says_it_is() -> None:
    """The header, then the names of the query in their order; white space around it does not count."""
    query = {"last_id": "3-0", "last_event_id": "2-0", "lastEventId": " 1-0 "}
    assert asked({"last-event-id": " 9-0 "}, query) == Asked("9-0")
    assert asked({"last-event-id": " "}, query) == Asked("1-0")
    assert asked({}, {"last_id": "3-0", "last_event_id": " "}) == Asked("3-0")
    assert asked({}, {}) == Asked("")
    assert asked({}, {"after": "5-0"}, ("after",)) == Asked("5-0")


@given(st.text(), st.text(), st.text())
def test_a_mark_is_for_one_session(session: str, other: str, position: str) -> None:
    """It gives its position back, and refuses the session in which the client was disconnected, and no other."""
    text = mark(session, position)
    assert parse(text).position == position
    assert parse(text).is_refused(session)
    assert parse(text).is_refused(other) == (other == session)
    assert len(text) == len("x1.") + 16 + len(".") + len(position)


@given(st.text())
def test_what_is_not_a_mark_stays_a_position(text: str) -> None:
    """Nothing that a client sends is refused by accident, or fails."""
    assert parse(text) == Asked(text) or text.startswith("x1.")
    assert not Asked(text).is_refused("")
    assert parse("x1." + text).position in ("x1." + text, text[17:])


# -- frames ---------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner),
    max_leaves=5,
)


@given(JSON, TEXT, st.booleans())
def test_a_frame_is_one_event_and_nothing_else(payload: Any, text: str, indented: bool) -> None:
    """Whatever is in it, a parser finds one event, whose data is the wire object."""
    data = json.dumps(payload, indent=1, ensure_ascii=False).replace("\n", "\r\n").encode() if indented else None
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    meta = {"k": text, "notify.origin": "hidden"}
    event = Event("alice", "t", None if indented else payload, data=data, timestamp=moment, meta=meta).stored(
        "2-1", "1-0"
    )
    frame = FrameCache().sse(event, "2-1")
    lines = frame.split(b"\n")
    assert [line.partition(b": ")[0] for line in lines] == [b"id", b"data", b"", b""]
    assert b"\r" not in frame
    assert json.loads(lines[1].partition(b": ")[2]) == {
        "id": "2-1",
        "user": "alice",
        "type": "t",
        "payload": payload,
        "timestamp": "2026-01-02T03:04:05.000000+00:00",
        "meta": {"k": text},
    }
    assert json.loads(FrameCache().ws(event, "2-1")) == {
        "event": "message",
        "id": "2-1",
        "data": json.loads(lines[1].partition(b": ")[2]),
    }


def test_a_type_that_no_application_can_push_cannot_end_a_line() -> None:
    """An event of a foreign process is not checked as a pushed one is."""
    event = Event.from_bytes(Event("a", "t", 1).to_bytes().replace(b'"t"', b'"t\\nid: 7"'))
    frame = FrameCache().sse(event, "", typed=True)
    assert frame.startswith(b"event: tid:7\ndata: {")
    assert frame.count(b"\n") == 3
    assert b'"type":"t\\nid: 7"' in wire_object(event)


def test_what_the_library_keeps_in_meta_is_not_shown() -> None:
    """Nor an empty `meta`; a surrogate of a foreign process does no harm."""
    event = Event("a", "t", meta={"notify.origin": "x"})
    assert b"meta" not in wire_object(event)
    foreign = Event.from_bytes(event.to_bytes().replace(b'"a"', b'"\\ud800"'))
    assert json.loads(wire_object(foreign))["user"] == "\ud800"


def test_frames_of_other_shapes() -> None:
    """Fields are there if they have a value."""
    assert sse_frame(b"{}") == b"data: {}\n\n"
    assert sse_frame(b"{}", event="e", id="1-0") == b"event: e\nid: 1-0\ndata: {}\n\n"
    assert ws_text(b"{}", event="notify.sync") == '{"event":"notify.sync","data":{}}'


def test_an_event_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as a message and once for all other forms, however often; for several logs only the id varies."""
    encoded: list[Event] = []
    encode = _frames._encoded

    def counted(event: Event, start: str, end: bytes) -> bytes:
        encoded.append(event)
        return encode(event, start, end)

    monkeypatch.setattr(_frames, "_encoded", counted)
    cache = FrameCache()
    event = Event("a", "t", 1).stored("2-0", "1-0")
    assert cache.sse(event, "2-0") is cache.sse(event, "2-0")
    assert encoded == [event]
    assert cache.sse(event, "2-0", typed=True) is cache.sse(event, "2-0", typed=True)
    assert cache.sse(event, "m1.x").startswith(b"id: m1.x\ndata: ")
    assert cache.sse(event, "m1.x", typed=True).startswith(b"event: t\nid: m1.x\ndata: ")
    assert '"id":"m1.x"' in cache.ws(event, "m1.x")
    other = Event("a", "t", 2).stored("2-1", "2-0")
    assert cache.sse(other, "2-1") is not cache.sse(event, "2-0")
    assert cache.sse(other, "2-1") is cache.sse(other, "2-1")
    assert cache.sse(event, "2-0") is cache.sse(event, "2-0")
    assert cache.ws(event, "2-0") is cache.ws(event, "2-0")
    assert encoded == [event, event, other]


@pytest.mark.parametrize("typed", [False, True])
def test_what_the_cache_keeps_is_bounded(typed: bool) -> None:
    """By number and by bytes. An event that is kept stays alive, so none is taken for another at the same address."""
    cache = FrameCache()
    sizes = []
    for number in range(600):
        frame = cache.sse(Event("a", "t", number).stored("3-0", "2-0"), "3-0", typed=typed)
        assert b'"payload":%d,' % number in frame
        sizes.append(len(cache))
    assert max(sizes) == _frames.KEPT_EVENTS
    sizes.clear()
    for _ in range(40):
        cache.sse(Event("a", "t", "x" * 60_000).stored("3-0", "2-0"), "3-0", typed=typed)
        sizes.append(len(cache))
    assert 10 < max(sizes[20:]) <= _frames.KEPT_BYTES // 60_000
    for size in (2_000_000, 1, 2_000_000):
        cache.sse(Event("a", "t", "x" * size).stored("3-0", "2-0"), "3-0", typed=typed)
        assert len(cache) == 1


# -- limits ---------------------------------------------------------------------------------------------------------


class Counting:
    """A stream that counts."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.stopped: list[str] = []

    def stop(self, reason: str) -> None:
        self.stopped.append(reason)


def test_the_oldest_stream_gives_way() -> None:
    """It counts no longer, whenever it ends; streams of others are not touched."""
    limits = StreamLimits(4, 2)
    streams = [Counting(user) for user in ("a", "a", "b", "a")]
    for each in streams:
        limits.add(each)
    assert [each.stopped for each in streams] == [["replaced"], [], [], []]
    assert (limits.open, limits.is_full) == (3, False)
    for each in streams:
        limits.discard(each)
        limits.discard(each)
    assert limits.open == 0
    assert not StreamLimits(None, 1).is_full


@pytest.mark.anyio
async def test_turns_go_in_order_and_are_never_lost() -> None:
    """Also if a waiting task is cancelled, before it has its turn or at that very moment."""
    turns = Turns(1)
    order: list[int] = []

    async def take(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            assert await turns.acquire(number)
            order.append(number)
            turns.release(number)

    assert await turns.acquire("first")
    assert turns.is_busy
    scopes = [anyio.CancelScope() for _ in range(4)]
    async with anyio.create_task_group() as group:
        for number, scope_ in enumerate(scopes):
            group.start_soon(take, number, scope_)
            await anyio.wait_all_tasks_blocked()
        scopes[1].cancel()
        await anyio.wait_all_tasks_blocked()
        scopes[0].cancel()
        turns.release("first")
    assert order[-2:] == [2, 3]
    assert 1 not in order
    assert not turns.is_busy


@pytest.mark.anyio
async def test_an_interrupted_wait_for_a_turn_keeps_its_place() -> None:
    """It may be granted in between; a holder that has left is not granted anything."""
    turns = Turns(1)
    granted: dict[str, list[bool]] = {"a": [], "b": [], "c": []}

    async def ask(name: str) -> None:
        granted[name].append(await turns.acquire(name))

    assert await turns.acquire("first")
    async with anyio.create_task_group() as group:
        for name in granted:
            group.start_soon(ask, name)
            await anyio.wait_all_tasks_blocked()
        turns.interrupt("nobody")
        turns.interrupt("a")
        turns.interrupt("b")
        await anyio.wait_all_tasks_blocked()
        assert granted == {"a": [False], "b": [False], "c": []}
        group.start_soon(ask, "b")
        await anyio.wait_all_tasks_blocked()
        turns.discard("a")
        turns.release("first")
        await anyio.wait_all_tasks_blocked()
        assert granted == {"a": [False], "b": [False, True], "c": []}
        turns.discard("b")
    assert granted["c"] == [True]
    turns.discard("c")
    turns.discard("c")
    assert not turns.is_busy


@pytest.mark.anyio
async def test_a_turn_that_was_granted_during_an_interruption() -> None:
    """It waits for its holder."""
    turns = Turns(1)
    assert await turns.acquire("first")
    async with anyio.create_task_group() as group:
        group.start_soon(turns.acquire, "second")
        await anyio.wait_all_tasks_blocked()
        turns.interrupt("second")
        await anyio.wait_all_tasks_blocked()
        turns.release("first")
    assert turns.is_held_by("second")
    assert await turns.acquire("second")


@pytest.mark.anyio
async def test_a_turn_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks has it then, and whoever waits for it is called back; its release has no effect any more."""
    clock = Clock(time.monotonic())
    monkeypatch.setattr("notify.web._limits.time", clock)
    background = Background("test")
    ticker, turns = Ticker(background, 0.1), Turns(1)
    turns.start(ticker)
    assert await turns.acquire("slow")
    clock.now += HOLD
    assert not turns.is_busy
    assert await turns.acquire("next")
    turns.release("slow")
    assert turns.is_held_by("next")
    async with anyio.create_task_group() as group:
        group.start_soon(turns.acquire, "waiting")
        group.start_soon(turns.acquire, "last")
        await anyio.wait_all_tasks_blocked()
        assert len(ticker) == 1
        assert turns.tick(clock.now) == clock.now + HOLD
        assert not turns.is_held_by("waiting")
        clock.now += HOLD
        turns.tick(clock.now)
        await anyio.wait_all_tasks_blocked()
        assert not turns.is_held_by("next")
        turns.release(next(name for name in ("waiting", "last") if turns.is_held_by(name)))
    assert len(ticker) == 0
    assert turns.tick(clock.now) == float("inf")
    await background.aclose()


@pytest.mark.anyio
async def test_turns_that_run_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when many clients reconnect while the log is slow: those that wait get turns, and nothing stays filed."""
    monkeypatch.setattr("notify.web._limits.HOLD", 0.3)
    background = Background("test")
    ticker, turns, beat = Ticker(background, 0.5), Turns(2), Due()
    turns.start(ticker)
    ticker.add(beat, time.monotonic() + 1.0)
    assert [turns.take(name) for name in ("a", "b", "c")] == [True, True, False]
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(turns.acquire, number)
        await until(lambda: beat.ticks)
        await until(lambda: background.running == 0)
    assert len(ticker) == 0
    await background.aclose()


# -- times ----------------------------------------------------------------------------------------------------------


class Due:
    """Something that is due at times."""

    def __init__(self, *times: float) -> None:
        self.slot = -1
        self.times = [*times]
        self.ticks: list[float] = []

    def tick(self, now: float) -> float:
        self.ticks.append(now)
        return self.times.pop(0) if self.times else NEVER


@pytest.mark.anyio
async def test_what_is_due_is_called_back_in_time() -> None:
    """A tenth of the interval late at most; the task runs only while something is filed."""
    background = Background("test")
    ticker = Ticker(background, 0.5)
    began = time.monotonic()
    twice, once, never = Due(began + 0.3), Due(), Due()
    ticker.add(twice, began + 0.1)
    ticker.add(once, began - 5)
    ticker.add(never, began + 0.2)
    assert len(ticker) == 3
    ticker.discard(never)
    ticker.discard(never)
    await until(lambda: not len(ticker))
    assert [0 < tick - began - due < 0.5 for tick, due in zip(twice.ticks, (0.1, 0.3), strict=True)] == [True, True]
    assert len(once.ticks) == 1
    assert never.ticks == []
    await until(lambda: background.running == 0)
    again = Due()
    ticker.add(again, time.monotonic())
    await until(lambda: again.ticks)
    await background.aclose()


@pytest.mark.anyio
async def test_many_that_are_due_at_once_let_others_run() -> None:
    """Thousands of connections opened in the same second do not delay every event by all their heartbeats."""
    background = Background("test")
    ticker = Ticker(background, 0.5)
    began = time.monotonic()
    many = [Due(began + 60) for _ in range(400)]
    for each in many:
        ticker.add(each, began)

    def ticked() -> int:
        return sum(len(each.ticks) for each in many)

    seen = [0]
    with anyio.fail_after(10):
        while seen[-1] < len(many):
            await anyio.lowlevel.checkpoint()
            seen.append(ticked())
            if seen[-1] and not seen[-2]:  # what is filed in between is called, too
                ticker.discard(many[-1])
                ticker.add(many[-1], began)
    assert max(later - earlier for earlier, later in pairwise(seen)) <= 100
    assert [len(each.ticks) for each in many] == [1] * len(many)
    assert len(ticker) == len(many)
    await background.aclose()


class Refiled(Due):
    """Files itself while its own `tick` runs, as `Turns` does."""

    def __init__(self, ticker: Ticker, *times: float) -> None:
        super().__init__(*times)
        self.ticker = ticker

    def tick(self, now: float) -> float:
        self.ticker.add(self, now)
        return super().tick(now)


@pytest.mark.anyio
async def test_what_is_filed_again_is_filed_once() -> None:
    """It is filed only where it was filed last: an entry left in its old slot would be processed without end."""
    background = Background("test")
    ticker, began = Ticker(background, 0.5), time.monotonic()
    refiled, moved, other = Refiled(ticker, began + 3600), Due(), Due()
    ticker.add(refiled, began)
    ticker.add(moved, began + 3600)
    ticker.add(moved, began)
    ticker.add(other, began + 0.3)
    assert len(ticker) == 3
    with anyio.fail_after(30):
        await until(lambda: other.ticks)
    assert [len(each.ticks) for each in (refiled, moved, other)] == [1, 1, 1]
    assert len(ticker) == 1
    ticker.discard(refiled)
    assert len(ticker) == 0
    await background.aclose()


# -- the watch ------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("plain", [True, False])
async def test_a_block_is_aborted_and_goes_on_after_it(plain: bool) -> None:
    """The cancellation ends with the block, once; whatever the block raises is raised as it is."""

    async def abort_soon(line: Watch) -> None:
        await anyio.sleep(0.01)
        line.abort()
        line.abort()
        await anyio.sleep_forever()

    async def forever(_: Watch) -> None:
        await anyio.sleep_forever()

    for _ in range(2):
        line: Any = watch(abort_soon) if plain else GroupWatch(abort_soon)
        with anyio.fail_after(10):
            async with line:
                await anyio.sleep_forever()
        assert line.aborted
        await anyio.lowlevel.checkpoint()
    line = watch(forever) if plain else GroupWatch(forever)
    with pytest.raises(ValueError, match="mine"):
        async with line:
            raise ValueError("mine")
    line = watch(forever) if plain else GroupWatch(forever)
    async with line:
        pass
    line.abort()  # too late: it has no effect on what comes after the block
    await anyio.sleep(0.01)
    assert line.aborted is isinstance(line, GroupWatch)


@pytest.mark.anyio
async def test_a_watch_that_was_told_of_another_loop() -> None:
    """Streams of a loop that has died may still be noted: the watch then asks which loop runs."""

    async def abort(line: Watch) -> None:
        line.abort()

    dead = asyncio.new_event_loop()
    dead.close()
    line = watch(abort, dead)
    with anyio.fail_after(10):
        async with line:
            await anyio.sleep_forever()
    assert line.aborted


@pytest.mark.anyio
@pytest.mark.parametrize("plain", [True, False])
async def test_a_cancellation_from_outside_goes_on(plain: bool) -> None:
    """Even if the block is aborted too."""

    async def forever(_: Watch) -> None:
        await anyio.sleep_forever()

    for aborted in (False, True):
        with anyio.CancelScope() as outer:
            line: Any = watch(forever) if plain else GroupWatch(forever)
            async with line:
                if aborted:
                    line.abort()
                outer.cancel()
                await anyio.sleep_forever()
            await anyio.sleep(1)
            pytest.fail("the cancellation was swallowed")
        assert outer.cancelled_caught


@pytest.mark.anyio
@pytest.mark.parametrize("plain", [True, False])
async def test_a_block_that_is_aborted_as_it_ends(plain: bool) -> None:
    """What follows it is not cancelled, unless it is from outside."""

    async def forever(_: Watch) -> None:
        await anyio.sleep_forever()

    line: Any = watch(forever) if plain else GroupWatch(forever)
    with anyio.fail_after(10):
        async with line:
            line.abort()
        await anyio.lowlevel.checkpoint()
    assert line.aborted
    with anyio.CancelScope() as outer:
        line = watch(forever) if plain else GroupWatch(forever)
        async with line:
            line.abort()
            outer.cancel()
        await anyio.lowlevel.checkpoint()
        pytest.fail("the cancellation was swallowed")
    assert outer.cancelled_caught


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_block_that_is_aborted_as_its_task_is_cancelled(anyio_backend: str) -> None:
    """The end of the block sees both cancellations as one; the task is cancelled, as requested."""

    async def forever(_: Watch) -> None:
        await anyio.sleep_forever()

    async def cancelled() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with watch(forever) as line:
            line.abort()
            task.cancel()

    task = asyncio.create_task(cancelled())
    with anyio.fail_after(10):
        await asyncio.wait([task])
    assert task.cancelled()
    assert task.cancelling() == 1


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_count_of_cancellations_is_kept(anyio_backend: str) -> None:
    """As `asyncio.timeout` keeps it: the task is not cancelled afterwards."""

    async def forever(_: Watch) -> None:
        await anyio.sleep_forever()

    task = asyncio.current_task()
    assert task is not None
    line = watch(forever)
    async with line:
        asyncio.get_running_loop().call_soon(line.abort)
        await asyncio.sleep(60)
    assert task.cancelling() == 0
    async with asyncio.timeout(5):
        await asyncio.sleep(0)
