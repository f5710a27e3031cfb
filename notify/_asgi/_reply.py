"""Answers that are not streams: one shape for errors, and the status of each of the library's errors."""

from __future__ import annotations

import json
import logging
import random
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import anyio
from anyio.abc import TaskStatus

from notify import errors

from ._request import Headers, Message, Receive, Send

T = TypeVar("T")

JSON: Final = b"application/json"

NO_STORE: Final[Headers] = [(b"cache-control", b"no-store")]

JSON_HEADERS: Final[Headers] = [
    (b"content-type", JSON),
    *NO_STORE,
    (b"x-content-type-options", b"nosniff"),  # a message may quote the request: no browser may take it for markup
]

logger = logging.getLogger("notify")

SENT_WITHIN: Final = 60.0
"""Seconds that a client may take to read a whole response: that of 100 kB, at 2 kB/s, passes.

Some servers wait until the client has read the response, such as hypercorn over HTTP/2: one that does not read would
keep its request open for as long as it stays connected.
"""

RETRY_AFTER: Final = (1, 5)
"""Seconds that a client is asked to wait after 503: drawn at random, so that clients do not come back together."""

_STATUS: Final[tuple[tuple[type[errors.NotifyError], int, str], ...]] = (
    (errors.PayloadTooLargeError, 413, "payload_too_large"),
    (errors.InvalidEventIdError, 400, "invalid_position"),
    (errors.InvalidEventError, 422, "invalid_event"),
    (errors.ClosedError, 503, "shutting_down"),
    (errors.UsageError, 400, "bad_request"),
    (errors.OverloadedError, 503, "overloaded"),
    (errors.PushUncertainError, 503, "outcome_unknown"),
    (errors.BackendError, 503, "unavailable"),
    (errors.CodecError, 400, "bad_request"),
    (errors.NotifyError, 500, "internal"),
)
"""The first row that fits."""


class WebError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of the HTTP response.
        code: in snake_case; one of those in docs/protocol.md.
        message: for the developer of the client.
        headers: further ones of the response.
    """

    def __init__(self, status: int, code: str, message: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = [*headers]


class Reply:
    """A whole HTTP response."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.status = status
        self.body = body
        self.headers: Headers = [*headers]

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> Reply:
        """Return a response with a JSON value, which no cache keeps; a lone surrogate is written as its escape."""
        body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")
        return cls(status, body, [*JSON_HEADERS, *headers])

    async def send(self, send: Send, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send the response, with further headers."""
        await send_whole(send, self.messages(more))

    def messages(self, more: Iterable[tuple[bytes, bytes]] = ()) -> list[Message]:
        """Return the response, with further headers."""
        headers = [*self.headers, *more]
        if self.body:  # without one: 204, and HEAD for a stream, whose length GET does not know either
            headers.append((b"content-length", b"%d" % len(self.body)))
        return [
            {"type": "http.response.start", "status": self.status, "headers": headers},
            {"type": "http.response.body", "body": self.body},
        ]


@contextmanager
def while_open() -> Iterator[None]:
    """Run a block that sends, and leave it once the client is gone.

    Then `send` raises OSError on servers of ASGI 2.4; `is_closed` says what it raises on uvicorn.
    """
    try:
        yield
    except OSError:
        return
    except Exception as error:
        if not is_closed(error):
            raise
        log_gone(error)


def is_closed(error: Exception) -> bool:
    """Return whether this is an error that `send` raises after uvicorn has closed the connection itself.

    uvicorn does so because of something that the client sent, such as a malformed chunk of a body. For a moment, `send`
    then raises RuntimeError, or with h11 the LocalProtocolError of that library.
    """
    kind = type(error)
    return isinstance(error, RuntimeError) or (kind.__name__, kind.__module__[:4]) == ("LocalProtocolError", "h11.")


def log_gone(error: Exception) -> None:
    """Log where `send` raised: in the server, or in a middleware, which may have a fault."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)  # unlike `extract_tb`, it reads no source file
    name = frame.f_code.co_filename
    kind = type(error).__name__
    logger.debug("send raised %s at %s:%s, so the client counts as gone", kind, name, line)


async def send_whole(send: Send, messages: Iterable[Message]) -> None:
    """Send a whole response. Give up after `SENT_WITHIN`, or once the client is gone."""
    with while_open(), anyio.move_on_after(SENT_WITHIN):
        for message in messages:
            await send(message)


async def send_part(send: Send, message: Message) -> None:
    """Send one part of a response that is streamed.

    Raises:
        OSError: the client is gone.
    """
    try:
        await send(message)
    except Exception as error:
        if not is_closed(error):
            raise
        log_gone(error)
        raise ConnectionAbortedError("the server has closed the connection") from error


def without_body(send: Send) -> Send:
    """Return a `send` for the response to HEAD: it keeps the head of GET, the length included, and empties the body."""

    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head


def web_error(error: errors.NotifyError) -> WebError:
    """Return the error of a request for an error of the library.

    The text of an error of a backend may name hosts and tables: it is not shown.
    """
    status, code = next((status, code) for kind, status, code in _STATUS if isinstance(error, kind))
    shown = isinstance(error, errors.UsageError | errors.CodecError) and not isinstance(error, errors.ClosedError)
    return WebError(status, code, str(error) if shown else _PHRASES.get(code, "internal error"))


def reply_to(error: WebError | errors.NotifyError) -> Reply:
    """Return the response to an error: `{"error": {"code", "message"}}`."""
    refused = error if isinstance(error, WebError) else web_error(error)
    headers = refused.headers
    if refused.status in (429, 503) and not any(name == b"retry-after" for name, _ in headers):
        headers = [*headers, (b"retry-after", b"%d" % random.randint(*RETRY_AFTER))]
    return Reply.json({"error": error_value(refused)}, refused.status, headers)


def error_value(error: WebError) -> dict[str, str]:
    """Return what every transport shows of an error."""
    return {"code": error.code, "message": error.message}


async def read_body(receive: Receive, limit: int, seconds: float) -> bytes:
    """Return the body of a request.

    Raises:
        WebError: it has more than `limit` bytes, is not complete after `seconds`, or the client has gone before its
            end.
    """
    with anyio.move_on_after(seconds):
        return await _whole_body(receive, limit)
    raise WebError(408, "too_slow", f"the body of the request was not complete after {seconds:g} s")


async def identify_and_read(
    identify: Callable[[], Awaitable[T]], receive: Receive, limit: int, seconds: float
) -> tuple[T, Receive]:
    """Read the body of a request while its client is identified; return the client and what yields the body.

    Some servers (uvicorn) discard a body that has arrived completely if the client disconnects before the application
    first calls `receive`. A page that marks an item and navigates away would lose the mark while its session is looked
    up. So another task asks for the body at once, and `identify` runs in this one, as the functions of the application
    that are called later do. If it raises, reading is cancelled: a client that is refused need not send its body.
    Errors of the body are raised by what yields it.

    Raises:
        Exception: what `identify` raises.
    """
    body, error = b"", None
    client: T
    refusal: Exception | None = None

    async def read(*, task_status: TaskStatus[None]) -> None:
        nonlocal body, error
        task_status.started()  # this task goes on, to its first `receive`
        try:
            body = await read_body(receive, limit, seconds)
        except Exception as failure:
            error = failure

    async with anyio.create_task_group() as tasks:
        await tasks.start(read)
        try:
            client = await identify()
        except Exception as failure:
            refusal = failure
            tasks.cancel_scope.cancel()
    if refusal is not None:
        raise refusal

    async def receive_whole() -> Message:
        if error is not None:
            raise error
        return {"type": "http.request", "body": body, "more_body": False}

    return client, receive_whole


async def _whole_body(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise WebError(400, "incomplete", "the request ended before its body was complete")
        body += message.get("body", b"")
        if len(body) > limit:
            raise WebError(413, "payload_too_large", f"the body of a request may have at most {limit} bytes")
        if not message.get("more_body", False):
            return bytes(body)


_PHRASES: Final = {
    "shutting_down": "the server is shutting down: try again",
    "overloaded": "too many requests are pending: try again later",
    "outcome_unknown": "the outcome is unknown: repeat the request with the same key",
    "unavailable": "the storage is not available: try again later",
}
