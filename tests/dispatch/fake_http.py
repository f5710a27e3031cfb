"""A server for tests of channels over HTTP: it answers what it was told to, and keeps what it got."""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """An answer; `hang` gives none, `reset` ends the connection, `half` breaks off after the status."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    how: str = ""


class FakeServer:
    """Answers each path with its replies, one after the other, the last one again and again."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.replies: dict[str, deque[Reply]] = {}
        self.default = Reply()
        self.released = threading.Event()
        self.url = ""

    def reset(self) -> None:
        self.requests.clear()
        self.replies.clear()
        self.default = Reply()

    def answer(self, *replies: Reply, path: str = "") -> None:
        """Answer so, on this path or on all."""
        self.replies[path] = deque(replies)

    def next(self, path: str) -> Reply:
        queue = self.replies.get(path) or self.replies.get("") or deque([self.default])
        return queue.popleft() if len(queue) > 1 else queue[0]

    @contextmanager
    def running(self) -> Iterator[FakeServer]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fake.requests.append(
                    Request(self.path, {name.lower(): text for name, text in self.headers.items()}, body)
                )
                reply = fake.next(self.path)
                if reply.how == "hang":
                    fake.released.wait(60)
                if reply.how in {"hang", "reset"}:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    self.close_connection = True
                    return
                content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, text in reply.headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(content) + (100 if reply.how == "half" else 0)))
                self.end_headers()
                self.wfile.write(content)
                self.close_connection = self.close_connection or reply.how == "half"

            def log_message(self, *_: Any) -> None:
                """Stay quiet."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            server.block_on_close = False
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self.released.set()
                server.shutdown()
                thread.join()
