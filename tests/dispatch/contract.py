"""`DispatchApp`s for Schemathesis to test, on all the stores that `NOTIFY_STORE` lists (`open_store`).

Each request is answered by all of them, and they have to agree: each gets the same requests, so each answers with the
same status and content type, and a body of the same form.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

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


def made(place: Any) -> DispatchApp:
    """An application on the store at a place, with everything around it."""
    inbox = Inbox(Notifier(MemoryStreamStore()))
    dispatcher = Dispatcher(
        inbox,
        open_store(json.dumps(place)),
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
    return DispatchApp(
        dispatcher,
        authenticate,
        admin=lambda identity: True,
        audiences={"all": lambda after: []},
        callbacks={"mail": reports},
        origins=["https://app.example"],
    )


apps = [made(place) for place in json.loads(os.environ["NOTIFY_STORE"])]


async def answer(app: DispatchApp, scope: Any, request: list[Any]) -> list[Any]:
    """Return what an application sends to a request that has arrived whole."""
    coming, sent = iter(request), list[Any]()

    async def receive() -> Any:
        return next(coming, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    await app(dict(scope), receive, send)
    return sent


def form(answer: list[Any]) -> Any:
    """What applications agree about: status, content type and, if it is JSON, which members it has of which types."""
    start, *rest = answer
    (kind,) = [value for name, value in start["headers"] if name == b"content-type"] or [b""]
    body = b"".join(each.get("body", b"") for each in rest)
    return start["status"], kind, _form(json.loads(body)) if kind == b"application/json" else len(body)


def _form(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _form(each) for name, each in value.items()}
    return [*map(_form, value)] if isinstance(value, list) else type(value).__name__


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer as the first application does, if all others agree."""
    if scope["type"] != "http":
        await apps[0](scope, receive, send)
        return
    request = [await receive()]
    while request[-1].get("more_body"):
        request.append(await receive())
    answers = [await answer(each, scope, request) for each in apps]
    forms = [form(each) for each in answers]
    assert all(each == forms[0] for each in forms), (scope["method"], scope["path"], request, forms, answers)
    for message in answers[0]:
        await send(message)
