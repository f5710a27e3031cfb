"""The application behind a real server: a browser subscribes over HTTP, and gets what an administrator sends."""

from __future__ import annotations

import json

import anyio.to_thread
import httpx
import pytest

from notify.dispatch import DispatchApp, Dispatcher, Links, NotificationType, Recipient
from notify.dispatch.channels import WebPushChannel, generate_vapid_key
from notify.testing.dispatch import PushService
from notify_memory import MemoryDispatchStore
from tests.dispatch.app import KEY, user_of
from tests.web.serving import serving

pytestmark = pytest.mark.anyio


async def recipients(ids: object) -> list[Recipient]:
    """Return alice."""
    return [Recipient("alice")]


async def test_from_subscription_to_message() -> None:
    """Over sockets all the way, with the push service that holds each request to its standards."""
    push = WebPushChannel(generate_vapid_key(), subject="mailto:ops@example.com", allow_private=True)
    types = [NotificationType("note", channels=["web_push"])]
    service = PushService()
    with service.running():
        async with push, MemoryDispatchStore() as store:
            links = Links("https://example.com", [KEY])
            dispatcher = Dispatcher(None, store, types, {"web_push": push}, recipients=recipients, links=links)
            app = DispatchApp(dispatcher, user_of, admin=lambda identity: identity.user == "root", allow_private=True)
            async with serving(app) as place:

                def use() -> None:
                    """What the browser and the administrator do, in a thread."""
                    with httpx.Client(base_url=f"http://{place}", headers={"x-user": "alice"}) as page:
                        key = page.get("/push/vapid-key").json()["public_key"]
                        made = browser.endpoint("alice")
                        keys = {name: made.meta[name] for name in ("p256dh", "auth")}
                        body = {"endpoint": made.address, "expirationTime": None, "keys": keys, "vapid": key}
                        assert page.post("/push/subscribe", json=body).status_code == 201
                        order = {"type": "note", "user": "alice", "data": {"title": "hello"}}
                        assert page.post("/send", json=order).status_code == 403
                        answer = page.post("/send", json=order, headers={"x-user": "root"})
                        assert answer.status_code == 202
                        link = links.unsubscribe("alice", "marketing", "email")
                        head = page.head(link.removeprefix("https://example.com"))
                        assert (head.status_code, head.content) == (200, b"")

                browser = service.subscribe(vapid=push.public_key)
                await anyio.to_thread.run_sync(use)
                while (await dispatcher.tick()).claimed:
                    pass
    (message,) = browser.messages
    assert json.loads(message.content)["title"] == "hello"
    assert not service.refusals
