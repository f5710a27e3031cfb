"""A thousand open streams when a server is asked to end: all are told, come back spread over time, and miss nothing.

uvicorn is asked with events in each store: tests/compositions/test_web_faults.py.
"""

from __future__ import annotations

import json
import selectors
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from notify.sync import SyncNotifier
from tests.web.clients import Frame, frame_of
from tests.web.servers import PATIENCE, WebServer
from tests.web.test_shutdown import limit_of

MANY = 1_000
USERS = 20
RETRY = 1.0
WIDENED = 3.0
"""Seconds: the most that a thousand clients are told to wait where all are to come back after one second."""

AT_ONCE = 40
"""Connections opened together: fewer than the shortest queue of those that a server has not accepted (daphne's 50)."""

IN_MEMORY = {"hypercorn-trio"}
"""Servers whose event loop only the memory store supports: their events end with them."""

UNFINISHED = {"hypercorn-trio"}
"""Servers that write the end of a response after a checkpoint: on a busy machine there may be no time left for it. The
last frame is written before."""


class Crowd:
    """Many streams on plain sockets, read by one thread; nothing is parsed before the end.

    Attributes:
        received: all bytes of each response.
    """

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self.sockets = sockets
        self.received = [bytearray() for _ in sockets]

    def read_until(self, *ends: bytes) -> None:
        """Read until each response has one of these, or has ended."""
        with selectors.DefaultSelector() as selector:
            for number, each in enumerate(self.sockets):
                if not any(end in self.received[number] for end in ends):
                    selector.register(each, selectors.EVENT_READ, number)
            while selector.get_map():
                ready = selector.select(PATIENCE)
                assert ready, f"{len(selector.get_map())} streams receive nothing more"
                for key, _ in ready:
                    body, data = self.received[key.data], self._receive(key.fileobj)
                    body += data
                    if not data or any(end in body[-len(data) - len(end) :] for end in ends):
                        selector.unregister(key.fileobj)

    def _receive(self, connection: Any) -> bytes:
        try:
            data: bytes = connection.recv(65_536)
        except ConnectionError:
            return b""
        return data

    @property
    def responses(self) -> list[tuple[list[Frame], bool]]:
        """The frames of each response, and whether it is complete."""
        return [response_of(bytes(each)) for each in self.received]


def response_of(received: bytes) -> tuple[list[Frame], bool]:
    """Parse a response that is sent in chunks."""
    head, _, rest = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), received[:500]
    assert b"transfer-encoding: chunked" in head.lower()
    body, complete = b"", False
    while rest and not complete:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body, rest, complete = body + rest[:length], rest[length + 2 :], length == 0
    return [frame_of(block) for block in body.decode().split("\n\n")[:-1]], complete


def payloads(frames: Sequence[Frame]) -> list[Any]:
    return [frame.json["payload"]["n"] for frame in frames if frame.data and not frame.event]


@contextmanager
def crowd(port: int, targets: Sequence[str]) -> Iterator[Crowd]:
    """Open a stream for each target, and read each up to the end of its replay."""
    with ExitStack() as stack:
        group = Crowd([])
        for first in range(0, len(targets), AT_ONCE):
            opened = []
            for target in targets[first : first + AT_ONCE]:
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
                connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                opened.append(connection)
            some = Crowd(opened)
            some.read_until(b"notify.sync")
            group.sockets = [*group.sockets, *opened]
            group.received += some.received
        yield group


@pytest.mark.slow
@pytest.mark.timeout(180)  # two thousand connections, on a busy machine
@pytest.mark.parametrize("kind", ["hypercorn", "hypercorn-trio", "granian", "daphne", "gunicorn", "gunicorn-uvicorn"])
def test_a_thousand_streams(kind: str, tmp_path: Path) -> None:
    """SIGTERM: each client is asked to come back at a time of its own; on the next server nothing is missing."""
    url = "memory://" if kind in IN_MEMORY else f"sqlite:///{tmp_path}/events.db"
    options = {"max_streams_per_user": MANY, "heartbeat": 60.0, "retry": RETRY}
    env = {"TEST_STORE": url, "TEST_OPTIONS": json.dumps(options)}
    users = [f"user{number % USERS}" for number in range(MANY)]
    with ExitStack() as stack:
        outside = None if kind in IN_MEMORY else stack.enter_context(SyncNotifier.from_url(url))
        server = stack.enter_context(WebServer(kind, "tests.web.apps.plain:app", tmp_path, env=env))

        def push(number: int) -> None:
            if outside is not None:
                outside.push_many(set(users), "number", {"n": number})
                return
            for user in set(users):
                httpx.get(f"{server.url}/inside/push", params={"user": user, "first": number}).raise_for_status()

        clients = stack.enter_context(crowd(server.port, [f"/stream?user={user}" for user in users]))
        push(0)
        clients.read_until(b'"n":0')
        began = time.monotonic()
        server.send(signal.SIGTERM)
        if outside is not None:
            push(1)
        clients.read_until(b"\r\n0\r\n\r\n")
        took = time.monotonic() - began
        assert took < limit_of(kind) + PATIENCE
        server.wait(30.0)
        responses = clients.responses
        assert kind in UNFINISHED or all(complete for _, complete in responses)
        ends = [frames[-1] for frames, _ in responses]
        assert {(end.event, end.json["reason"]) for end in ends} == {("notify.end", "shutdown")}
        check_spread([end.json["retry"] for end in ends])
        if outside is None:
            assert all(payloads(frames) == [0] for frames, _ in responses)
            return
        push(2)
        targets = [
            f"/stream?user={user}&last_id={next(frame.id for frame in reversed(frames) if frame.id)}"
            for user, (frames, _) in zip(users, responses, strict=True)
        ]
        server = stack.enter_context(WebServer(kind, "tests.web.apps.plain:app", tmp_path, env=env, port=server.port))
        again = stack.enter_context(crowd(server.port, targets))
        for (before, _), (after, _) in zip(responses, again.responses, strict=True):
            assert payloads(before) + payloads(after) == [0, 1, 2]
        again.sockets = [each for each in again.sockets if each.close()]  # before the server is asked to end


def check_spread(retries: Sequence[int]) -> None:
    """Each quarter of the widened window has its share of the clients."""
    assert all(1000 * RETRY <= each <= 1000 * WIDENED for each in retries)
    quarters = [0, 0, 0, 0]
    for each in retries:
        quarters[min(3, int((each / 1000 - RETRY) * 4 / (WIDENED - RETRY)))] += 1
    assert min(quarters) > MANY / 8, quarters
