"""The load client of the web benchmark: a process of its own, raw sockets on uvloop, driven by lines of JSON on stdin.

It does as little as it can for each chunk: it counts the stamps that the payloads carry, and reads the clock once.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import resource
import sys
import time
from typing import Any

import uvloop

STAMP = b'"t":'
"""Stands before the time at which an event was pushed, in nanoseconds of the clock that all processes share."""

WINDOW = 64
"""Connections that are being opened at a time."""


class Load:
    """What all connections have in common."""

    def __init__(self) -> None:
        self.open: set[Connection] = set()
        self.count = self.wanted = self.lost = 0
        self.latencies: list[int] = []
        self.last = 0.0
        self.reached = asyncio.Event()

    def begin(self, wanted: int) -> None:
        self.count, self.wanted, self.latencies, self.last = 0, wanted, [], time.perf_counter()
        self.reached.clear()

    def counted(self, number: int) -> None:
        self.count += number
        if self.count >= self.wanted:
            self.last = time.perf_counter()
            self.reached.set()


class Connection(asyncio.Protocol):
    """One connection: its request, and what arrives."""

    def __init__(self, load: Load, request: bytes) -> None:
        self.load, self.request = load, request
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.head = b""
        self.tail = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.load.open.add(self)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if self.head is not None:
            self.head += data
            head, found, data = self.head.partition(b"\r\n\r\n")
            if not found:
                return
            status = head[9:12]
            if status == b"200" and not data:
                return  # connected is who has the first bytes of the stream
            self.head = None
            if status in (b"200", b"101"):
                self.ready.set_result(None)
            else:
                self.ready.set_exception(RuntimeError(f"refused: {head[:200]!r} {data[:200]!r}"))
                return
        load, now = self.load, time.perf_counter_ns()
        chunk = self.tail + data
        count, at = 0, chunk.find(STAMP)
        while at >= 0:
            count += 1
            end = at + 4
            while chunk[end : end + 1].isdigit():
                end += 1
            if end < len(chunk):
                load.latencies.append(now - int(chunk[at + 4 : end]))
            at = chunk.find(STAMP, end)
        self.tail = chunk[-3:]
        if count:
            load.counted(count)

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.open.discard(self)
        self.load.lost += 1
        if not self.ready.done():
            self.ready.set_exception(RuntimeError(f"closed before it was open: {exc!r}"))


def request_of(transport: str, path: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost"]
    if transport == "ws":
        key = base64.b64encode(os.urandom(16)).decode()
        lines += ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}"]
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: notify.v1"]
    return "\r\n".join([*lines, "", ""]).encode()


class Commands:
    """What the benchmark asks for."""

    def __init__(self) -> None:
        self.load = Load()

    async def connect(
        self, port: int, users: int, path: str, transport: str = "sse", wanted: int = 0, window: int = WINDOW
    ) -> dict[str, Any]:
        """Open a connection for each user, a window of them at a time; with `wanted`, also wait for so many events."""
        slots = asyncio.Semaphore(window)
        loop = asyncio.get_running_loop()
        self.load.begin(wanted)

        async def one(number: int) -> None:
            async with slots:
                request = request_of(transport, path.format(user=f"user-{number}"))
                _, connection = await loop.create_connection(lambda: Connection(self.load, request), "127.0.0.1", port)
                await connection.ready

        started = time.perf_counter()
        await asyncio.gather(*map(one, range(users)))
        seconds = time.perf_counter() - started
        if wanted:
            async with asyncio.timeout(120):
                await self.load.reached.wait()
        return {"seconds": seconds, "all": time.perf_counter() - started, "count": self.load.count}

    async def expect(self, wanted: int) -> dict[str, Any]:
        """Begin to count."""
        self.load.begin(wanted)
        return {}

    async def arrived(self) -> dict[str, Any]:
        """Wait until all that is expected has arrived."""
        async with asyncio.timeout(60):
            await self.load.reached.wait()
        latencies = sorted(self.load.latencies)
        return {
            "count": self.load.count,
            "p50": latencies[len(latencies) // 2] / 1e3,
            "p99": latencies[len(latencies) * 99 // 100] / 1e3,
        }

    async def close(self) -> dict[str, Any]:
        """Close every connection."""
        for connection in list(self.load.open):
            connection.transport.abort()
        async with asyncio.timeout(30):
            while self.load.open:  # noqa: ASYNC110 - nothing to wait on
                await asyncio.sleep(0.01)
        return {}


async def main() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    commands = Commands()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        call = json.loads(line)
        result = await getattr(commands, call.pop("do"))(**call)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main())
