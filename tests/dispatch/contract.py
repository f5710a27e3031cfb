"""A `DispatchApp` for Schemathesis to test, on the store that `NOTIFY_STORE` names (`open_store`)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from notify import Notifier
from notify.dispatch import DispatchApp, Dispatcher, Links, Recipient, Report
from notify.dispatch.channels import InAppChannel, WebPushChannel, generate_vapid_key
from notify.inbox import Inbox
from notify.web import Identity, Request
from notify_memory import MemoryStreamStore
from tests.dispatch.app import KEY, TYPES
from tests.dispatch.dispatching import open_store
from tests.dispatch.world import Recorder


def authenticate(request: Request) -> Identity | None:
    """One user, who is an administrator."""
    return Identity("root") if request.headers.get("authorization") == f"Bearer {KEY}" else None


async def recipients(ids: Sequence[str]) -> list[Recipient]:
    """Everybody."""
    return [Recipient(user) for user in ids]


def reports(request: Request, body: bytes) -> list[Report]:
    """Reports of a provider: none."""
    return []


inbox = Inbox(Notifier(MemoryStreamStore()))

dispatcher = Dispatcher(
    inbox,
    open_store(os.environ["NOTIFY_STORE"]),
    TYPES,
    {
        "in_app": InAppChannel(inbox),
        "web_push": WebPushChannel(generate_vapid_key(), subject="mailto:ops@example.com"),
        "fcm": Recorder(has_endpoints=True),
        "email": Recorder(),
    },
    recipients=recipients,
    links=Links("https://example.com/notify", [KEY], tracked=["email"]),
)

app = DispatchApp(
    dispatcher,
    authenticate,
    admin=lambda identity: True,
    audiences={"all": lambda after: []},
    callbacks={"mail": reports},
    origins=["https://app.example"],
)
