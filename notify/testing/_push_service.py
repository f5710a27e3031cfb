"""`PushService`: a strict push service in this process, for tests of web push."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from notify.dispatch.abc import Endpoint

from ._missing import requiring

if TYPE_CHECKING:
    from ._push_check import SubscriptionKeys

EXTRAS: Final = "'notify-streams[webpush,serve]'"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class PushMessage:
    """A message that the service took and decrypted.

    Attributes:
        content: the plaintext.
        ttl: seconds.
        urgency: `normal` where the request did not say.
        topic: empty: none.
        vapid: the public key of the sender; empty: it did not sign.
    """

    content: bytes
    ttl: int
    urgency: str
    topic: str
    vapid: str


@dataclass(frozen=True, slots=True)
class PushReply:
    """What the service answers instead of taking a message.

    Attributes:
        status: the HTTP status; 0 for no answer at all.
        headers: such as `Retry-After`.
        body: the body.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(slots=True)
class PushSubscription:
    """A browser's subscription.

    Attributes:
        url: its address.
        vapid: the only key that may send; empty: any, and none.
        messages: what waits for the browser: a message replaces an older one with the same topic.
        received: all that was accepted.
        gone: the status for an expired subscription; 0: it is in use.
    """

    url: str
    vapid: str
    keys: SubscriptionKeys = field(repr=False)
    messages: list[PushMessage] = field(default_factory=list)
    received: list[PushMessage] = field(default_factory=list)
    gone: int = 0

    def endpoint(self, user: str, channel: str = "web_push") -> Endpoint:
        """Return the endpoint for a dispatcher, as an application stores it."""
        from ._push_check import unpadded

        keys = {"p256dh": unpadded(self.keys.public), "auth": unpadded(self.keys.auth)}
        return Endpoint(user, channel, self.url, meta=keys | ({"vapid": self.vapid} if self.vapid else {}))


class PushService:
    """An ASGI application that takes push messages, decrypts them, and refuses whatever a standard forbids.

    It checks RFC 8030 (TTL, Urgency, Topic, size), 8292 (signature, `aud`, `exp` of at most 24 hours, `sub`, the key of
    the subscription) and 8291 with 8188 (one record, the delimiter, decryption). `refusals` says what was wrong.

    ```python
    with PushService().running() as service:
        browser = service.subscribe(vapid=channel.public_key)
        ...
        assert browser.messages[0].content
    ```

    Args:
        clock: returns seconds since 1970.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.url = "http://127.0.0.1"
        self.refusals: list[str] = []
        self.requests = 0
        self._clock = clock
        self._replies: deque[PushReply] = deque()
        self._subscriptions: dict[str, PushSubscription] = {}

    def subscribe(self, *, vapid: str = "") -> PushSubscription:
        """Return a new subscription, as a browser makes one.

        Args:
            vapid: the `applicationServerKey`, base64url; empty: a subscription for any sender.
        """
        with requiring("PushService", EXTRAS):
            from cryptography.hazmat.primitives.asymmetric import ec

            from ._push_check import SubscriptionKeys, unpadded

        keys = SubscriptionKeys(ec.generate_private_key(ec.SECP256R1()), os.urandom(16))
        path = f"/push/{unpadded(os.urandom(24))}"
        made = self._subscriptions[path] = PushSubscription(f"{self.url}{path}", vapid, keys)
        return made

    def answer(self, *replies: int | PushReply) -> None:
        """Answer the next requests so, one each, whatever they contain; then as usual."""
        self._replies.extend(PushReply(reply) if isinstance(reply, int) else reply for reply in replies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        with requiring("PushService", EXTRAS):
            from ._push_check import PushRefusedError

        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.requests += 1
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self._replies:
            reply = self._replies.popleft()
        else:
            try:
                reply = self._take(scope, headers, body)
            except PushRefusedError as error:
                self.refusals.append(str(error))
                reply = PushReply(error.status, body=error.reason.encode())
        if not reply.status:
            await receive()  # after the whole body, only that the client has gone
            return
        found = [(name.lower().encode(), value.encode()) for name, value in reply.headers.items()]
        found.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": found})
        await send({"type": "http.response.body", "body": reply.body})

    def _take(self, scope: Scope, headers: Mapping[str, str], body: bytes) -> PushReply:
        from ._push_check import PushRefusedError, check_headers, check_vapid, decrypt

        subscription = self._subscriptions.get(scope["path"])
        if subscription is None:
            raise PushRefusedError(404, "there is no such subscription")
        if subscription.gone:
            raise PushRefusedError(subscription.gone, "the subscription has expired")
        if scope["method"] != "POST":
            raise PushRefusedError(405, "messages are posted")
        check_headers(headers, body)
        vapid, audience = "", f"{scope.get('scheme', 'http')}://{headers.get('host', '')}"
        if subscription.vapid or "authorization" in headers:
            vapid = check_vapid(headers.get("authorization", ""), audience, self._clock())
        if subscription.vapid and vapid != subscription.vapid:
            raise PushRefusedError(400, '{"reason":"VapidPkHashMismatch"}')
        taken = PushMessage(
            decrypt(body, subscription.keys) if body else b"",
            int(headers["ttl"]),
            headers.get("urgency", "normal"),
            headers.get("topic", ""),
            vapid,
        )
        subscription.received.append(taken)
        subscription.messages = [
            each for each in subscription.messages if not taken.topic or each.topic != taken.topic
        ] + [taken]
        return PushReply(201, {"Location": f"{self.url}/message/{len(subscription.received)}", "TTL": str(taken.ttl)})

    @contextmanager
    def running(self) -> Iterator[PushService]:
        """Serve on a free port of this host, in a thread, with uvicorn; `url` says where.

        Raises:
            ModuleNotFoundError: an extra is not installed; the message names both that are needed.
        """
        with requiring("PushService", EXTRAS):
            import uvicorn

            from . import _push_check as _push_check  # each request needs it

        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            config = uvicorn.Config(self, lifespan="off", log_level="critical", timeout_graceful_shutdown=1)
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, args=([listener],), name="push service", daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.should_exit = True
                thread.join()
