"""One connection through the fault proxy, and the switches that all of them obey."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Literal, TypeAlias

import anyio
import anyio.lowlevel

from notify.errors import UsageError

Direction: TypeAlias = Literal["up", "down"]

_CHUNK = 65536
_BEAT = 0.02
"""Seconds between two pieces under a bandwidth limit, unless a byte takes longer."""

_LINGER = struct.pack("ii", 1, 0)
"""SO_LINGER with which `close` resets the connection."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens in one direction, on every connection.

    Attributes:
        delay: seconds that each chunk is held back; what arrives after it waits behind it.
        jitter: up to this many seconds more.
        blackhole: bytes vanish, and neither side learns of an end or a reset. Later bytes pass once it is lifted.
        paused: nothing is forwarded, so that the sender feels back-pressure; nothing is lost.
        slice: the most bytes that are sent at once.
        bandwidth: bytes per second and connection.

    Raises:
        UsageError: a number that makes no sense.
    """

    delay: float = 0.0
    jitter: float = 0.0
    blackhole: bool = False
    paused: bool = False
    slice: int = _CHUNK
    bandwidth: float = inf

    def __post_init__(self) -> None:
        if self.delay < 0 or self.jitter < 0 or self.slice < 1 or self.bandwidth <= 0:
            raise UsageError(f"delays start at 0, a slice is at least a byte, bandwidth is positive: {self}")

    @property
    def piece(self) -> int:
        """How many bytes to send at once."""
        return self.slice if self.bandwidth == inf else max(1, min(self.slice, int(self.bandwidth * _BEAT)))


class Switches:
    """What every link of one proxy obeys.

    Attributes:
        faults: of each direction.
        random: of the jitter.
        request: what a request contains whose reply counts.
        spared: replies to pass before the first that is dropped.
        doomed: replies to drop after that.
        dropped: how many were.
        swallowed: bytes that vanished.
    """

    def __init__(self, seed: int) -> None:
        self.faults: dict[Direction, Faults] = {"up": Faults(), "down": Faults()}
        self.random = Random(seed)
        self.request = b""
        self.spared = 0
        self.doomed = 0
        self.dropped = 0
        self.swallowed = 0
        self._changed: anyio.Event | None = None  # only while a task waits for it

    def changed(self) -> None:
        """Wake every task that waits for a change."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def change(self, timeout: float = inf) -> None:
        """Wait until anything changes, but no longer than this many seconds."""
        if self._changed is None:
            self._changed = anyio.Event()
        with anyio.move_on_after(timeout):
            await self._changed.wait()

    def drops_reply(self) -> bool:
        """Count one reply and return whether it is to be dropped."""
        if not self.doomed:
            return False
        if self.spared:
            self.spared -= 1
            return False
        self.doomed -= 1
        self.dropped += 1
        return True


class Link:
    """One connection through the proxy.

    Invariants:
        I1: each socket has at most one task that reads and one that writes: the two pumps.
        I2: sockets are closed after the pumps have ended, so that no task waits on a closed one.
    """

    def __init__(self, switches: Switches, client: socket.socket) -> None:
        client.setblocking(False)
        self.asked = False  # the client sent a request that counts, and no reply has come yet
        self._switches = switches
        self._client = client
        self._server: socket.socket | None = None
        self._scope = anyio.CancelScope()
        self._killed = False
        self._cut: set[Direction] = set()
        self._paced: dict[Direction, float] = {"up": 0.0, "down": 0.0}  # when the next piece may go

    async def run(self, connect: Callable[[], Awaitable[socket.socket]]) -> None:
        """Connect to the server and forward until both directions have ended or the link is killed."""
        try:
            with self._scope:
                self._server = await connect()
                for end in (self._client, self._server):
                    if end.family != socket.AF_UNIX:
                        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                async with anyio.create_task_group() as pumps:
                    pumps.start_soon(self._pump, "up", self._client, self._server)
                    pumps.start_soon(self._pump, "down", self._server, self._client)
        except OSError:
            self._killed = True  # the server cannot be reached
        finally:
            close(self._client, reset=self._killed)  # keeps I2
            if self._server is not None:
                close(self._server, reset=self._killed)

    def kill(self) -> None:
        """Reset both sides, as soon as the pumps have noticed."""
        self._killed = True
        self._scope.cancel()

    def cut(self, way: Direction) -> None:
        """End one direction."""
        target = self._server if way == "up" else self._client
        if target is not None:
            self._cut.add(way)
            _end(target)

    async def _pump(self, way: Direction, source: socket.socket, target: socket.socket) -> None:
        news = way
        try:
            while chunk := await _receive(source):
                if way == "up":
                    self.asked |= self._switches.request in chunk
                elif self.asked:
                    self.asked = False
                    if self._switches.drops_reply():
                        self.kill()
                        return
                news = "down" if way == "up" else "up"  # an error is the target's from here on
                await self._forward(way, target, chunk)
                news = way
        except OSError:
            await self._until_open(news)
            self.kill()
        else:
            await self._until_open(way)
            _end(target)

    async def _until_open(self, way: Direction) -> None:
        """Wait until news may travel this way."""
        while self._switches.faults[way].blackhole or self._switches.faults[way].paused:
            await self._switches.change()

    async def _forward(self, way: Direction, target: socket.socket, chunk: bytes) -> None:
        arrived, luck = anyio.current_time(), self._switches.random.random()
        rest = memoryview(chunk)
        while rest:
            faults = self._switches.faults[way]
            if faults.blackhole or way in self._cut:
                self._switches.swallowed += len(rest)
                return
            due = arrived + faults.delay + luck * faults.jitter
            if faults.bandwidth < inf:
                due = max(due, self._paced[way])
            wait = due - anyio.current_time()
            if faults.paused:
                await self._switches.change()
            elif wait > 0:
                await self._switches.change(wait)
            else:
                sent = await _send(target, rest[: faults.piece])
                rest = rest[sent:]
                self._paced[way] = anyio.current_time() + sent / faults.bandwidth


async def _receive(source: socket.socket) -> bytes:
    while True:
        await anyio.wait_readable(source)
        with suppress(BlockingIOError):
            return source.recv(_CHUNK)


async def _send(target: socket.socket, piece: memoryview) -> int:
    """Send what fits; nothing, after waiting for room, where there was none."""
    try:
        sent = target.send(piece)
    except BlockingIOError:
        await anyio.wait_writable(target)
        return 0
    await anyio.lowlevel.checkpoint()
    return sent


def _end(target: socket.socket) -> None:
    with suppress(OSError):  # the other side may have reset it
        target.shutdown(socket.SHUT_WR)


def close(end: socket.socket, *, reset: bool) -> None:
    """Close a socket, by a reset where asked."""
    if reset:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    end.close()
