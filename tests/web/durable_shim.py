"""The write half of Durable Streams as far as the public suite needs it to set up what it then reads; for tests only.

`PUT` declares a stream with a content type, `POST` appends by `notifier.push`, `DELETE` erases the log. Everything else
is answered by `DurableStreams`.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from notify import Notifier
from notify.web import Identity, Request
from notify.web.durable import DurableStreams, Form, payload
from notify_memory import MemoryStore

SECURITY = [(b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"cross-origin")]


def name_of(path: str) -> str:
    return path.rpartition("/")[2]


def media_type(text: str) -> str:
    return text.partition(";")[0].strip().lower()


class WritableStreams:
    """An ASGI application: both halves."""

    def __init__(self) -> None:
        self.notifier = Notifier(MemoryStore(max_len=100_000), max_payload=32 * 1024 * 1024)
        self.types: dict[str, str] = {}
        self.sequences: dict[str, str] = {}
        self.reading = DurableStreams(
            self.notifier,
            lambda request: Identity("suite", addresses=[name_of(request.path)]),
            form=self.form_of,
            origins=["https://example.com"],
            long_poll=4.0,
            heartbeat=1.0,
        )

    def form_of(self, log: str) -> Form | None:
        """The content of a stream that was made, as it was declared."""
        content_type = self.types.get(log)
        if content_type is None:
            return None
        if media_type(content_type) == "application/json":
            return Form(payload, content_type)
        return Form(lambda event: base64.b64decode(event.payload), content_type)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] not in ("PUT", "POST", "DELETE"):
            await self.reading(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        request = Request(scope)
        status, headers = await getattr(self, scope["method"].lower())(name_of(request.path), request, body)
        head = [*SECURITY, *((name.encode(), value.encode()) for name, value in headers.items())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": b""})

    async def put(self, log: str, request: Request, body: bytes) -> tuple[int, dict[str, str]]:
        """Declare a stream."""
        content_type = request.headers.get("content-type") or "application/octet-stream"
        if log in self.types:
            same = media_type(self.types[log]) == media_type(content_type)
            return (200 if same else 409), {"content-type": self.types[log], **await self.tail(log)}
        self.types[log] = content_type
        if body and body.strip() != b"[]":
            await self.append(log, body)
        location = f"http://{request.headers['host']}{request.path}"
        return 201, {"content-type": content_type, "location": location, **await self.tail(log)}

    async def post(self, log: str, request: Request, body: bytes) -> tuple[int, dict[str, str]]:
        """Append to a stream."""
        if log not in self.types:
            return 404, {}
        content_type = request.headers.get("content-type")
        if not body or content_type is None:
            return 400, {}
        if media_type(content_type) != media_type(self.types[log]):
            return 409, {}
        sequence = request.headers.get("stream-seq")
        if sequence is not None:
            if sequence <= self.sequences.get(log, ""):
                return 409, {}
            self.sequences[log] = sequence
        try:
            await self.append(log, body)
        except ValueError:
            return 400, {}
        return 204, await self.tail(log)

    async def delete(self, log: str, request: Request, body: bytes) -> tuple[int, dict[str, str]]:
        """Erase a stream."""
        if self.types.pop(log, None) is None:
            return 404, {}
        await self.notifier.forget(log)
        return 204, {}

    async def append(self, log: str, body: bytes) -> None:
        if media_type(self.types[log]) != "application/json":
            await self.notifier.push(log, "appended", base64.b64encode(body).decode())
            return
        value = json.loads(body)
        items = value if isinstance(value, list) else [value]
        if not items:
            raise ValueError("an empty array")
        for item in items:
            await self.notifier.push(log, "appended", item)

    async def tail(self, log: str) -> dict[str, str]:
        async with self.notifier.subscribe(log) as stream:
            ms, _, sequence = stream.last_id.partition("-")
        return {"stream-next-offset": f"{int(ms):020d}-{int(sequence):020d}"}


app = WritableStreams()
