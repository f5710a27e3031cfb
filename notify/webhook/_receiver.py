"""An ASGI application that takes signed events and delivers them: the counterpart of `WebhookRouter`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias

import anyio

from notify import CodecError, Event, UsageError
from notify.abc import Deliver

from ._signature import TOLERANCE, Secret, WebhookVerificationError, keys_of, verified

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_SEEN: Final = 10_000
"""Messages that are remembered so that a repetition within the tolerance is not delivered again."""

SENT_WITHIN: Final = 60.0
"""Seconds that a sender may take to read an answer: some servers wait for it, such as hypercorn over HTTP/2."""


class Refused(Exception):
    """The request is answered with this status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class WebhookReceiver:
    """Verifies what another process has posted, and delivers the events. Mount it in an ASGI application.

    It answers 204 once the event was delivered, even if it had been delivered before, and otherwise with an error in
    JSON: 401 for a signature that does not fit or a time that is too far away, 400 for a body that is not an event, 413
    for a body that is too large, 408 for one that is late, 405 for a method other than POST.

    Args:
        deliver: `notifier.deliver`.
        secrets: one secret, or several while one is being replaced: a signature of any of them is accepted.
        tolerance: seconds by which the timestamp of a message may differ from the current time; 0 accepts any time.
        max_body: bytes that a body may have.
        timeout: seconds within which a body has to be complete.

    Raises:
        UsageError: an argument is unacceptable.
    """

    def __init__(
        self,
        deliver: Deliver,
        secrets: Secret | Iterable[Secret],
        *,
        tolerance: float = TOLERANCE,
        max_body: int = 1_048_576,
        timeout: float = 20.0,
    ) -> None:
        if not tolerance >= 0:
            raise UsageError(f"tolerance must be a number of seconds of at least 0: {tolerance!r}")
        if not max_body > 0:
            raise UsageError(f"max_body must be a number of bytes greater than 0, not {max_body!r}")
        if not timeout > 0:
            raise UsageError(f"timeout must be a number of seconds greater than 0, not {timeout!r}")
        self._deliver = deliver
        self._keys = keys_of(secrets)
        self._tolerance = tolerance
        self._max_body = max_body
        self._timeout = timeout
        self._seen: dict[str, float] = {}  # the oldest first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise UsageError(f"WebhookReceiver serves HTTP, not {scope['type']!r}: route only HTTP requests to it")
        try:
            _check_method(scope["method"])
            self._take(_headers(scope), await self._body(receive))
        except Refused as refused:
            body = json.dumps({"error": {"code": refused.code, "message": str(refused)}}).encode()
            extra = [(b"allow", b"POST")] if refused.status == 405 else []
            await _answer(send, refused.status, body, [(b"content-type", b"application/json"), *extra])
        else:
            await _answer(send, 204, b"", [])

    def _take(self, headers: Mapping[str, str], body: bytes) -> None:
        now = time.time()
        try:
            id_ = verified(self._keys, headers, body, now, self._tolerance)
        except WebhookVerificationError as error:
            raise Refused(401, "unauthorized", str(error)) from error
        try:
            event = Event.from_json(body)
        except CodecError as error:
            raise Refused(400, "invalid_event", str(error)) from error
        seen = self._seen
        while seen and (len(seen) >= MAX_SEEN or next(iter(seen.values())) < now):
            del seen[next(iter(seen))]
        if id_ not in seen:
            self._deliver(event)
            seen[id_] = now + 2 * self._tolerance if self._tolerance else math.inf

    async def _body(self, receive: Receive) -> bytes:
        with anyio.move_on_after(self._timeout):
            return await self._whole_body(receive)
        raise Refused(408, "too_slow", f"the body was not complete after {self._timeout:g} s")

    async def _whole_body(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "incomplete", "the request ended before its body was complete")
            body += message.get("body", b"")
            if len(body) > self._max_body:
                raise Refused(413, "too_large", f"a body may have at most {self._max_body} bytes")
            if not message.get("more_body", False):
                return bytes(body)


def _check_method(method: str) -> None:
    if method != "POST":
        raise Refused(405, "method_not_allowed", "use POST")


def _headers(scope: Scope) -> dict[str, str]:
    """Return the headers by name; if one is repeated, signatures are joined and otherwise the last one counts."""
    headers: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name, text = raw.decode("latin-1").lower(), value.decode("latin-1")
        headers[name] = f"{headers[name]} {text}" if name == "webhook-signature" and name in headers else text
    return headers


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    with anyio.move_on_after(SENT_WITHIN):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
