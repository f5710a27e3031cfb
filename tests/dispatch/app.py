"""A `DispatchApp` over the memory store, and a client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from notify import Notifier
from notify.dispatch import (
    Channel,
    DispatchApp,
    Dispatcher,
    FrequencyCap,
    Links,
    NotificationType,
    Recipient,
)
from notify.dispatch.channels import InAppChannel, WebPushChannel, generate_vapid_key
from notify.inbox import Inbox
from notify.testing.dispatch import VirtualClock
from notify.web import Identity, Request
from notify_memory import MemoryDispatchStore, MemoryStreamStore
from tests.dispatch.world import START, Recorder

KEY = "a secret of more than sixteen bytes"

TYPES = (
    NotificationType("note", channels=["in_app", "web_push", "fcm"]),
    NotificationType(
        "offer", channels=["email"], category="marketing", opt_in="offers", caps=[FrequencyCap(100, "day")]
    ),
)

SUBSCRIPTION = {
    "endpoint": "https://push.example.com/send/secret-of-the-browser",
    "expirationTime": None,
    "keys": {
        "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
        "auth": "BTBZMqHH6r4Tts7J_aSIgg",
    },
}


def user_of(request: Request) -> Identity | None:
    """Read the user from a header."""
    user = request.headers.get("x-user")
    return Identity(user) if user else None


class Site:
    """An application with everything around it."""

    def __init__(
        self,
        *,
        types: Sequence[NotificationType] = TYPES,
        links: Links | None = None,
        store: Any = None,
        **options: Any,
    ) -> None:
        self.clock = VirtualClock(START)
        self.store: Any = MemoryDispatchStore(clock=self.clock) if store is None else store
        self.notifier = Notifier(MemoryStreamStore())
        self.inbox = Inbox(self.notifier)
        self.email, self.fcm = Recorder(), Recorder(has_endpoints=True)
        self.web_push = WebPushChannel(generate_vapid_key(), subject="mailto:ops@example.com")
        channels: dict[str, Channel] = {
            "in_app": InAppChannel(self.inbox),
            "web_push": self.web_push,
            "fcm": self.fcm,
            "email": self.email,
        }
        self.links = Links("https://example.com/notify", [KEY], tracked=["email"]) if links is None else links
        self.dispatcher = Dispatcher(
            self.inbox, self.store, types, channels, recipients=self.recipients, clock=self.clock.now, links=self.links
        )
        options.setdefault("admin", lambda identity: identity.user == "root")
        self.app = DispatchApp(self.dispatcher, user_of, **options)

    async def recipients(self, ids: Sequence[str]) -> list[Recipient]:
        """Return everybody."""
        return [Recipient(user) for user in ids]

    async def settle(self) -> None:
        """Handle what is due until nothing is."""
        while (await self.dispatcher.tick()).claimed:
            pass

    async def aclose(self) -> None:
        """Close everything."""
        await self.web_push.aclose()
        await self.notifier.aclose()
        await self.store.aclose()

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request, and read what it refused to read: httpx leaves its generator open otherwise."""
        await self.app(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass

    def client(self, user: str = "", **headers: str) -> httpx.AsyncClient:
        """Return a client that is logged in as a user."""
        who = {"x-user": user} if user else {}
        transport = httpx.ASGITransport(app=self._serve)
        return httpx.AsyncClient(transport=transport, base_url="http://example.com/notify", headers=who | headers)


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Site]:
    """Return a site, closed afterwards."""
    site = Site(**options)
    try:
        yield site
    finally:
        await site.aclose()


def refused(answer: httpx.Response, status: int, code: str) -> str:
    """Check that an answer is an error of the one shape; return its message."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (answer.status_code, [*body], [*body["error"]]) == (status, ["error"], ["code", "message"])
    assert body["error"]["code"] == code
    return str(body["error"]["message"])
