"""`DispatchApp`s for Schemathesis to test, on all the stores that `NOTIFY_STORE` lists (`open_store`).

Every request goes to all of them, and their answers have to agree: the same status and content type, and a body of the
same shape.
"""

from __future__ import annotations

import itertools
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


def make_app(place: Any) -> DispatchApp:
    """Return an application on the store at a place, with all the parts that it needs."""
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


apps = [make_app(place) for place in json.loads(os.environ["NOTIFY_STORE"])]
turns = itertools.cycle(range(len(apps)))


async def answer(app: DispatchApp, scope: Any, request: list[Any]) -> list[Any]:
    """Return the messages with which an application answers a request that has arrived completely."""
    coming, sent = iter(request), list[Any]()

    async def receive() -> Any:
        return next(coming, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    await app(dict(scope), receive, send)
    return sent


def shape(answer: list[Any]) -> Any:
    """Return what has to agree: status, content type, and the members of a JSON body and their types, or its size."""
    start, *rest = answer
    (kind,) = [value for name, value in start["headers"] if name == b"content-type"] or [b""]
    body = b"".join(each.get("body", b"") for each in rest)
    return start["status"], kind, _shape(json.loads(body)) if kind == b"application/json" else len(body)


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shape(each) for name, each in value.items()}
    return [*map(_shape, value)] if isinstance(value, list) else type(value).__name__


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer as one application does, another each time, if all agree."""
    if scope["type"] != "http":
        await apps[0](scope, receive, send)
        return
    request = [await receive()]
    while request[-1].get("more_body"):
        request.append(await receive())
    answers = [await answer(each, scope, request) for each in apps]
    shapes = [shape(each) for each in answers]
    assert all(each == shapes[0] for each in shapes), (scope["method"], scope["path"], request, shapes, answers)
    for message in answers[next(turns)]:
        await send(message)
