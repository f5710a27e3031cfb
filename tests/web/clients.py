"""Clients on plain sockets, which show what libraries hide: whether a response was complete, and what was in it."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self

import anyio
import h11
import websockets

PATIENCE = 15.0


class Frame(NamedTuple):
    """One server-sent event, with the fields that it had; a comment has none."""

    event: str
    id: str
    data: str
    retry: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def frame_of(block: str) -> Frame:
    """Parse the lines up to a blank one."""
    fields: dict[str, list[str]] = {}
    for line in re.split(r"\r\n|\n|\r", block):
        name, _, value = line.partition(":")
        fields.setdefault(name, []).append(value.removeprefix(" "))
    first = {name: values[-1] for name, values in fields.items()}
    return Frame(first.get("event", ""), first.get("id", ""), "\n".join(fields.get("data", [])), first.get("retry", ""))


class RawClient:
    """One HTTP/1.1 request on a connection of its own.

    Attributes:
        status: of the response, once its head has been read.
        headers: of the response, names in lower case.
        body: what has arrived of it, chunks decoded.
        complete: whether its end arrived: the last chunk, or all of `content-length`.
        closed: whether the server has closed the connection, or reset it.
    """

    def __init__(self, port: int, target: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> None:
        self.port, self.target, self.method = port, target, method
        self.request_headers = {"host": f"127.0.0.1:{port}", **(headers or {})}
        self.status, self.headers = 0, dict[str, str]()
        self.body, self.complete, self.closed = bytearray(), False, False
        self.socket: socket.socket
        self._http = h11.Connection(h11.CLIENT)

    async def open(self, receive_buffer: int = 0) -> Self:
        """Connect and send the request; a small receive buffer makes a client that stops reading felt at once."""
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setblocking(False)
        with suppress(BlockingIOError):
            self.socket.connect(("127.0.0.1", self.port))
        await anyio.wait_writable(self.socket)
        request = h11.Request(method=self.method, target=self.target, headers=list(self.request_headers.items()))
        data = self._http.send(request) or b""
        self.socket.sendall(data + (self._http.send(h11.EndOfMessage()) or b""))
        return self

    async def read(self) -> bool:
        """Read once; return whether more can arrive."""
        await anyio.wait_readable(self.socket)
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        self.closed = not data
        self._http.receive_data(data)
        with suppress(h11.RemoteProtocolError):  # the connection ended in the middle of the body
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Response):
                    self.status = event.status_code
                    self.headers = {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    self.body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    self.complete = "transfer-encoding" in self.headers or "content-length" in self.headers
                    return False
                else:
                    break
        return not self.closed

    async def read_all(self, within: float = PATIENCE) -> Self:
        """Read to the end."""
        with anyio.fail_after(within):
            while await self.read():
                pass
        return self

    async def read_until(self, text: bytes, within: float = PATIENCE) -> Self:
        """Read until this is in the body."""
        searched = 0
        with anyio.fail_after(within):
            while self.body.find(text, searched) < 0:
                searched = max(0, len(self.body) - len(text))
                if not await self.read():
                    assert text in self.body, f"ended without {text!r}: {self.status} {bytes(self.body)!r:.2000}"
        assert self.status == 200, self.body
        return self

    @property
    def frames(self) -> list[Frame]:
        """The events of the body, those that only carry fields without data included."""
        text = self.body.decode()
        return [frame_of(block) for block in text.split("\n\n")[:-1]]

    @property
    def messages(self) -> list[Any]:
        """The wire objects of the application's events."""
        return [frame.json for frame in self.frames if frame.event == "" and frame.data]

    @property
    def last_id(self) -> str:
        """What a browser would send as `Last-Event-ID`."""
        return next((frame.id for frame in reversed(self.frames) if frame.id), "")

    @property
    def json(self) -> Any:
        """The body, which is one JSON value."""
        return json.loads(self.body)

    def leave(self, how: str = "fin") -> None:
        """End the connection by `fin`, by `rst`, or by `half`: we send no more, and would still read."""
        if how == "half":
            self.socket.shutdown(socket.SHUT_WR)
            return
        if how == "rst":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()


async def get(port: int, target: str) -> Any:
    """The JSON value at a path.

    Raises:
        ConnectionError: there was no complete response.
    """
    async with RawClient(port, target, {"connection": "close"}) as client:
        await client.read_all()
        if not client.complete:
            raise ConnectionError(f"no response to {target}")
        assert client.status == 200, bytes(client.body)
        return client.json


class Socket:
    """A WebSocket, and what it received.

    Attributes:
        received: the objects.
        code: with which the server closed it; 1006 if it only went away.
    """

    def __init__(self, connection: websockets.ClientConnection) -> None:
        self._connection = connection
        self.received: list[Any] = []
        self.code = 0

    @classmethod
    async def open(cls, port: int, target: str) -> Socket:
        url = f"ws://127.0.0.1:{port}{target}"
        return cls(await websockets.connect(url, subprotocols=[websockets.Subprotocol("notify.v1")], compression=None))

    async def read_until(self, event: str, within: float = PATIENCE) -> Any:
        """Read up to an event of this name, and return it."""
        with anyio.fail_after(within):
            while True:
                self.received.append(json.loads(await self._connection.recv()))
                if self.received[-1].get("event") == event:
                    return self.received[-1]

    async def read_all(self, within: float = PATIENCE) -> Self:
        """Read until the server closes it."""
        with anyio.fail_after(within), suppress(websockets.ConnectionClosed):
            while True:
                self.received.append(json.loads(await self._connection.recv()))
        self.code = int(self._connection.close_code or 0)
        return self

    @property
    def last_id(self) -> str:
        return next((each["id"] for each in reversed(self.received) if each.get("id")), "")

    @property
    def messages(self) -> list[Any]:
        """The wire objects of the application's events."""
        return [each["data"] for each in self.received if each.get("event") == "message"]

    def leave(self, how: str = "fin") -> None:
        """End the connection without a closing handshake, as `RawClient.leave` does."""
        transport = self._connection.transport
        raw = transport.get_extra_info("socket")
        if how == "half":
            raw.shutdown(socket.SHUT_WR)
            return
        if how == "rst":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def aclose(self) -> None:
        await self._connection.close()
