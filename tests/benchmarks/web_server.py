"""The servers of the web benchmark: the least that one could write, and ours, under the same uvicorn with uvloop.

Driven by lines of JSON on stdin; what is pushed is pushed in the server's own event loop, as an application does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import resource
import socket
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import uvicorn

from notify import Notifier
from notify_memory import MemoryStore

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

TYPE = "comment.created"


class Bare:
    """An ASGI application with an `asyncio.Queue` for each client and a task that watches for its disconnect."""

    def __init__(self, redis_url: str = "") -> None:
        self.queues: dict[str, set[asyncio.Queue[Any]]] = {}
        self.number = 0
        self.redis_url = redis_url
        self.redis: Any = None
        self.listener: asyncio.Task[None] | None = None

    @property
    def open_streams(self) -> int:
        return sum(map(len, self.queues.values()))

    async def start(self) -> None:
        if self.redis_url:
            from redis.asyncio import Redis

            self.redis = Redis.from_url(self.redis_url)
            pubsub = self.redis.pubsub()
            await pubsub.subscribe("bench")

            async def listen() -> None:
                async for message in pubsub.listen():
                    if message["type"] == "message":
                        user, _, text = message["data"].partition(b" ")
                        self.put(user.decode(), text)

            self.listener = asyncio.create_task(listen())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        user = dict(parse_qsl(scope["query_string"].decode()))["user"]
        queue: asyncio.Queue[Any] = asyncio.Queue()
        mine = self.queues.setdefault(user, set())
        mine.add(queue)
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept", "subprotocol": "notify.v1"})
        else:
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"retry: 1000\n", "more_body": True})
        watcher = asyncio.create_task(self.watch(receive, queue))
        try:
            while (text := await queue.get()) is not None:
                if scope["type"] == "websocket":
                    await send({"type": "websocket.send", "text": text.decode()})
                else:
                    await send({"type": "http.response.body", "body": b"data: %b\n\n" % text, "more_body": True})
        finally:
            watcher.cancel()
            mine.discard(queue)

    async def watch(self, receive: Receive, queue: asyncio.Queue[Any]) -> None:
        while not (await receive())["type"].endswith("disconnect"):
            pass
        queue.put_nowait(None)

    def text(self, user: str, payload: Any) -> bytes:
        self.number += 1
        timestamp = "2026-11-28T12:00:00.123456+00:00"
        event = {"id": f"1795879843133-{self.number}", "user": user, "type": TYPE}
        return json.dumps({**event, "payload": payload, "timestamp": timestamp}, separators=(",", ":")).encode()

    def put(self, user: str, text: bytes) -> None:
        for queue in self.queues.get(user, ()):
            queue.put_nowait(text)

    async def push(self, user: str, payload: Any) -> None:
        text = self.text(user, payload)
        if self.redis is not None:
            await self.redis.publish("bench", user.encode() + b" " + text)
        else:
            self.put(user, text)

    async def broadcast(self, payload: Any) -> None:
        text = self.text("", payload)
        for queues in self.queues.values():
            for queue in queues:
                queue.put_nowait(text)


class Ours:
    """`NotifyApp` over a store."""

    def __init__(self, redis_url: str = "") -> None:
        from notify.web import NotifyApp

        if redis_url:
            from notify_redis import RedisStreamStore

            store: Any = RedisStreamStore(redis_url)
        else:
            store = MemoryStore()
        self.notifier = Notifier(store)
        self.app = NotifyApp(self.notifier, lambda request: request.query["user"])

    @property
    def open_streams(self) -> int:
        return self.notifier.statistics().open_streams

    async def start(self) -> None:
        await self.notifier.__aenter__()

    async def push(self, user: str, payload: Any) -> None:
        await self.notifier.push(user, TYPE, payload)

    async def broadcast(self, payload: Any) -> None:
        await self.notifier.broadcast(TYPE, payload)


class Commands:
    """What the benchmark asks for."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def memory(self) -> dict[str, Any]:
        """Return the resident bytes of this process, and how many objects the garbage collector knows."""
        gc.collect()
        objects = len(gc.get_objects())
        with open("/proc/self/statm") as statm:  # noqa: ASYNC230 - of the kernel, at once
            pages = int(statm.read().split()[1])
        return {"bytes": pages * os.sysconf("SC_PAGE_SIZE"), "objects": objects}

    async def deserted(self) -> dict[str, Any]:
        """Wait until every stream has ended."""
        while self.app.open_streams:  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.01)
        return {}

    async def cpu(self) -> dict[str, Any]:
        """Return the seconds that this process has computed."""
        return {"seconds": time.process_time()}

    async def live(self, users: int, rate: int, events: int) -> dict[str, Any]:
        """Push to random users at a steady rate."""
        start, chance = time.perf_counter(), random.Random(7)
        for number in range(events):
            delay = start + number / rate - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            await self.app.push(f"user-{chance.randrange(users)}", {"t": time.perf_counter_ns()})
        return {"seconds": time.perf_counter() - start}

    async def shout(self, times: int, pause: float) -> dict[str, Any]:
        """Broadcast some times."""
        for _ in range(times):
            await self.app.broadcast({"t": time.perf_counter_ns()})
            await asyncio.sleep(pause)
        return {}

    async def fill(self, users: int, events: int) -> dict[str, Any]:
        """Store so many events for each user."""
        for number in range(users):
            for _ in range(events):
                await self.app.push(f"user-{number}", {"t": time.perf_counter_ns()})
        return {}


async def main(kind: str, redis_url: str = "") -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    app: Any = {"bare": Bare, "ours": Ours}[kind](redis_url)
    await app.start()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    served = app if kind == "bare" else app.app
    options: dict[str, Any] = {"loop": "uvloop", "http": "httptools", "lifespan": "off", "log_level": "error"}
    options["ws_ping_interval"] = None  # the load client answers no pings, and thousands need longer than the 40 s
    config = uvicorn.Config(served, backlog=4096, **options)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:  # noqa: ASYNC110 - nothing to wait on
        await asyncio.sleep(0.01)
    commands = Commands(app)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    while line := await reader.readline():
        call = json.loads(line)
        result = await getattr(commands, call.pop("do"))(**call)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
    server.should_exit = server.force_exit = True
    serving.cancel()
    os._exit(0)  # the streams are not closed one by one: nothing is measured any more


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(*sys.argv[1:]))
