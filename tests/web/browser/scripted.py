"""A server that does what a test says: it speaks the protocol, and fails in ways that the real one would not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

import uvicorn

PAGE = """<!doctype html><meta charset=utf-8><title>page</title><link rel=icon href=data:,><p id=out></p>
<script type=module>
import { clients, connect } from '/notify/client.js';
window.clients = clients;
window.connect = connect;
window.record = (client, name) => {
  const got = (window[name] = { client, types: [], payloads: [], ids: [], statuses: [], syncs: [], gaps: [] });
  got.statuses.push(client.status);
  got.ends = [];
  client.on('*', (event) => {
    got.types.push(event.type);
    got.payloads.push(event.payload);
    got.ids.push(event.id);
  });
  client.on('status', (status) => got.statuses.push(status));
  client.on('sync', (sync) => got.syncs.push(sync));
  client.on('gap', (gap) => got.gaps.push(gap));
  client.on('end', (end) => got.ends.push(end));
  return got;
};
window.start = (options = {}, name = 'got') => void record(connect(options.url ?? '/notify', options), name);
window.ready = true;
</script>"""
"""What a test's page runs: `start(options)` connects and keeps what happens in `window.got`."""

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


@dataclass
class Seen:
    """A request that the server got."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    at: float = field(default_factory=time.monotonic)
    body: Any = None


@dataclass
class Answer:
    """What the next request to a path gets instead of its proper answer.

    Attributes:
        status: other than 200, it is the whole answer.
        headers: sent with it.
        hold: the head is sent, and then nothing.
        body: bytes to send first, in these parts.
        end: a `notify.end` frame right after `notify.sync`.
        mute: no heartbeat after `notify.sync`.
        gap: what a poll says instead of an event that it has lost.
        delay: seconds between what a poll finds and its answer.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hold: bool = False
    body: tuple[bytes, ...] = ()
    end: dict[str, Any] | None = None
    mute: bool = False
    gap: dict[str, Any] | None = None
    delay: float = 0.0


class Scripted:
    """An application under uvicorn, in a thread of its own; streams look for news every few milliseconds."""

    def __init__(self, heartbeat: float = 2.0) -> None:
        self.heartbeat = heartbeat
        self.retry = 50
        self.log: list[dict[str, Any]] = []
        self.ephemeral: list[dict[str, Any]] = []
        self.seen: list[Seen] = []
        self.answers: dict[str, deque[Answer]] = {}
        self.always: dict[str, Answer] = {}
        self.streams: list[Seen] = []
        self.most = 0
        self.cut = 0
        self.headers: dict[str, str] = {}
        self.files: dict[str, tuple[str, bytes]] = {}
        self.routes: dict[str, Callable[[Seen], Awaitable[Any]]] = {}
        self.counts: Callable[[], dict[str, Any]] | None = None

    # -- what a test does ------------------------------------------------------------------------------------------

    def push(self, payload: object = None, type: str = "note", user: str = "alice", **more: Any) -> dict[str, Any]:
        event_id = f"1700000000000-{len(self.log) + 1}"
        event = {"id": event_id, "user": user, "type": type, "payload": payload, **more}
        self.log.append(event)
        return event

    def next(self, path: str, *answers: Answer) -> None:
        self.answers.setdefault(path, deque()).extend(answers)

    def requests(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]

    @property
    def open(self) -> int:
        """How many streams are open."""
        return len(self.streams)

    def settle(self, streams: int) -> None:
        """Wait until so many streams are open: the server learns of one that was closed a little later."""
        end = time.monotonic() + 30
        while self.open != streams:
            assert time.monotonic() < end, self.streams
            time.sleep(0.02)

    def end_streams(self) -> None:
        self.cut += 1

    # -- what it serves --------------------------------------------------------------------------------------------

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        path = scope["path"].removeprefix("/notify")
        seen = Seen(scope.get("method", "WEBSOCKET"), path, query, headers)
        self.seen.append(seen)
        script = self.answers.get(path)
        answer = script.popleft() if script else self.always.get(path, Answer())
        if answer.status != 200:
            await self.reply(send, b"", "application/json", answer)
        elif path == "/stream":
            await self.stream(seen, answer, receive, send)
        elif path == "/ws":
            await self.websocket(seen, scope, receive, send)
        elif path == "/events":
            await self.events(seen, answer, send)
        elif path == "/ticket":
            await self.reply(send, json.dumps({"ticket": f"t{len(self.seen)}"}).encode(), "application/json", answer)
        elif path in self.routes:
            seen.body = json.loads(await read(receive) or "null")
            result = await self.routes[path](seen)
            await self.reply(send, json.dumps(result).encode(), "application/json", answer)
        elif path in self.files:
            kind, body = self.files[path]
            await self.reply(send, body, kind, answer)
        elif path.endswith(".js"):
            script_file = files("notify.web").joinpath("client", path.rpartition("/")[2])
            await self.reply(send, script_file.read_bytes(), "text/javascript", answer)
        else:
            await self.reply(send, PAGE.encode(), "text/html", answer)

    async def reply(self, send: Send, body: bytes, kind: str, answer: Answer) -> None:
        headers = {"content-type": kind, **self.headers, **answer.headers}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    def after(self, position: str | None) -> int:
        """The number of events up to a position."""
        return len(self.log) if position is None else int(position.rpartition("-")[2])

    def position(self, count: int) -> str:
        return f"1700000000000-{count}"

    async def frames(self, at: int) -> Any:
        """What a stream says: frames as `(name, id, data)`; None for a heartbeat."""
        while at < len(self.log):
            at += 1
            yield "message", self.position(at), self.log[at - 1]
        sync: dict[str, Any] = {"position": self.position(at), "heartbeat": self.heartbeat}
        if self.counts is not None:
            counts = self.counts()
            sync |= {**counts, "position": sync["position"], "counts_position": counts["position"]}
        yield "notify.sync", self.position(at), sync
        cut, signals, last = self.cut, len(self.ephemeral), time.monotonic()
        while self.cut == cut:
            told = at
            while at < len(self.log):
                at, last = at + 1, time.monotonic()
                yield "message", self.position(at), self.log[at - 1]
            if self.counts is not None and told < at:
                yield "notify.counts", None, self.counts()
            while signals < len(self.ephemeral):
                signals += 1
                yield "message", None, self.ephemeral[signals - 1]
            if time.monotonic() - last > self.heartbeat:
                last = time.monotonic()
                yield None
            await asyncio.sleep(0.005)

    @contextlib.contextmanager
    def opened(self, seen: Seen) -> Iterator[None]:
        self.streams = [*self.streams, seen]
        self.most = max(self.most, self.open)
        try:
            yield
        finally:
            self.streams = [other for other in self.streams if other is not seen]

    async def stream(self, seen: Seen, answer: Answer, receive: Receive, send: Send) -> None:
        headers = {"content-type": "text/event-stream", **self.headers, **answer.headers}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})

        async def write(text: bytes) -> None:
            await send({"type": "http.response.body", "body": text, "more_body": True})

        async def talk() -> None:
            if answer.hold:
                await send({"type": "http.response.body", "body": b"", "more_body": True})
                await asyncio.sleep(3600)
            await write(b"retry: %d\n" % self.retry)
            for part in answer.body:
                await write(part)
            at = self.after(seen.query.get("last_event_id") or seen.headers.get("last-event-id"))
            async for frame in self.frames(at):
                if frame is None:
                    if not answer.mute:
                        await write(b":\n")
                    continue
                name, position, data = frame
                lines = [f"event: {name}"] if name != "message" else []
                lines += [f"id: {position}"] if position else []
                await write("\n".join([*lines, f"data: {json.dumps(data)}", "", ""]).encode())
                if name == "notify.sync" and answer.end:
                    await write(f"event: notify.end\ndata: {json.dumps(answer.end)}\n\n".encode())
                    return

        with self.opened(seen):
            await self.until_gone(talk, receive)
        with contextlib.suppress(Exception):
            await send({"type": "http.response.body", "body": b""})

    async def until_gone(self, talk: Callable[[], Awaitable[None]], receive: Receive) -> None:
        async def gone() -> None:
            while (await receive())["type"] not in {"http.disconnect", "websocket.disconnect"}:
                pass

        tasks = [asyncio.ensure_future(talk()), asyncio.ensure_future(gone())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def websocket(self, seen: Seen, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.headers["subprotocols"] = ",".join(scope["subprotocols"])
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "notify.v1"})

        async def talk() -> None:
            async for frame in self.frames(self.after(seen.query.get("last_event_id"))):
                name, position, data = frame or ("notify.ping", None, {})
                text = {"event": name, "data": data, **({"id": position} if position else {})}
                await send({"type": "websocket.send", "text": json.dumps(text)})

        with self.opened(seen):
            await self.until_gone(talk, receive)
        with contextlib.suppress(Exception):
            await send({"type": "websocket.close", "code": 4012})

    async def events(self, seen: Seen, answer: Answer, send: Send) -> None:
        at, cut = self.after(seen.query.get("after")), self.cut
        if answer.gap:
            self.push("lost")
        until = time.monotonic() + float(seen.query.get("wait", 0))
        while at == len(self.log) and time.monotonic() < until and self.cut == cut:  # noqa: ASYNC110 - other thread
            await asyncio.sleep(0.005)
        body: dict[str, Any] = {"events": self.log[at:], "position": self.position(len(self.log)), "sync": True}
        if answer.gap:
            body |= {"events": [], "gap": answer.gap}
        await asyncio.sleep(answer.delay)
        await self.reply(send, json.dumps(body).encode(), "application/json", answer)


async def read(receive: Receive) -> bytes:
    """The body of a request."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


@contextlib.contextmanager
def serving(app: Callable[..., Awaitable[None]]) -> Iterator[str]:
    """Run an application under uvicorn in a thread; the value is its address."""
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"
