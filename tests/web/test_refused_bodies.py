"""A request whose body is read while its client is identified: what the client and the application notice of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify import Notifier
from notify.inbox import Inbox
from notify.web import Identity, NotifyApp, Request
from notify_memory import MemoryStreamStore

pytestmark = pytest.mark.anyio

MARK = {
    "type": "http", "method": "POST", "path": "/inbox/mark", "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
}  # fmt: skip


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    async with Notifier(MemoryStreamStore()) as notifier:
        yield Inbox(notifier)


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("error", [None, OSError("the database of users is away")])
async def test_a_client_that_is_refused_before_its_body_has_come(
    inbox: Inbox, is_plain: bool, error: Exception | None
) -> None:
    """It gets its answer at once; the server was asked for the body once, and is not asked after the answer."""
    steps: list[object] = []

    def plainly(request: Request) -> None:
        if error is not None:
            raise error

    async def slowly(request: Request) -> None:
        while not steps:
            await anyio.lowlevel.checkpoint()
        plainly(request)

    async def receive() -> Any:
        steps.append("asked")
        try:
            await anyio.sleep_forever()
        finally:
            steps.append("no longer")

    async def send(message: Any) -> None:
        steps.append(message.get("status"))

    app = NotifyApp(inbox.notifier, plainly if is_plain else slowly, inbox=inbox)
    with anyio.fail_after(10):
        await app(MARK, receive, send)
    assert steps == ["asked", "no longer", 401 if error is None else 503, None]


async def test_a_request_that_is_cancelled_before_its_body_has_come(inbox: Inbox) -> None:
    """Both what waits for the body and what identifies the client are cancelled, and nothing is sent."""
    steps: list[str] = []

    async def wait(name: str) -> Any:
        try:
            steps.append(name)
            await anyio.sleep_forever()
        finally:
            steps.append(f"no {name}")

    app = NotifyApp(inbox.notifier, lambda _: wait("client"), inbox=inbox)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, MARK, lambda: wait("body"), lambda _: wait("answer"))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert steps[:2] == ["body", "client"]
    assert {*steps[2:]} == {"no body", "no client"}


async def test_what_authenticate_sets_in_context_variables(inbox: Inbox) -> None:
    """The functions of the application that are called later find it, since it runs in the task of the request."""
    tenant, seen = ContextVar("tenant", default="nobody"), list[Any]()
    task = anyio.get_current_task().id

    async def known(request: Request) -> Identity:
        await anyio.lowlevel.checkpoint()
        tenant.set("alice")
        seen.append(anyio.get_current_task().id)
        return Identity("alice")

    def may_follow(identity: Identity, topic: str) -> bool:
        seen.append(tenant.get())
        return True

    async def receive() -> Any:
        return {"type": "http.request", "body": json.dumps({"topic": "news"}).encode(), "more_body": False}

    async def send(message: Any) -> None:
        seen.append(message.get("status", ""))

    app = NotifyApp(inbox.notifier, known, inbox=inbox, authorize_follow=may_follow)
    await app({**MARK, "path": "/follow"}, receive, send)
    assert seen == [task, "alice", 200, ""]
