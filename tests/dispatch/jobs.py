"""Jobs for tests of channels."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from notify.dispatch._channel import Content, Job
from notify.dispatch._outcomes import Outcome, Transient
from notify.dispatch.abc import Endpoint

NOW = datetime(2027, 1, 5, 12, 0, tzinfo=UTC)

JOB = Job(
    id="0123456789abcdef0123456789abcdef",
    notification="n1",
    type="comment.created",
    category="transactional",
    user="alice",
    channel="test",
    endpoint=None,
    content=Content("A comment", "Bob wrote: hello", url="https://example.com/posts/7"),
    data={"post": 7},
    priority="normal",
    expires_at=None,
    now=NOW,
    attempt=1,
    created_at=NOW,
)


def endpoint(address: str, kind: str = "", **meta: str) -> Endpoint:
    return Endpoint("alice", "test", address, kind, meta)


def job(endpoint: Endpoint | None = None, **fields: Any) -> Job:
    return replace(JOB, endpoint=endpoint, **fields)


async def when_sent(attempt: Callable[[float], Awaitable[Outcome]]) -> Outcome:
    """What comes of an attempt whose time is over after it was sent: on a busy machine that takes a longer time."""
    for timeout in (0.4, 4.0, 40.0):
        outcome = await attempt(timeout)
        if not isinstance(outcome, Transient):
            return outcome
    return outcome
