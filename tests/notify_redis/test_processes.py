"""Forked processes, and event loops whose tasks run at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from notify import Event, Notifier, RoutingInfo
from notify.errors import UsageError
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore
from tests.servers.redis import Server

REFUSED, WORKED = 1, 2


def in_child(function: Callable[[], int]) -> int:
    """Run a function in a forked process, and return what it returned; it ends the process in any case."""
    child = os.fork()
    if not child:
        status = 99
        try:
            signal.alarm(20)
            status = function()
        finally:
            os._exit(status)
    _, code = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(code)


def used(part: Any) -> Callable[[], Awaitable[object]]:
    """A call that uses a part."""
    if isinstance(part, RedisPresence):
        return lambda: part.locate(["alice"])
    if isinstance(part, RedisRouter):
        return lambda: part.route(Event("alice", "t"), RoutingInfo("there"))
    return lambda: part.save(Event("alice", "t"))


KINDS = [RedisStore, RedisStreamStore, RedisPresence, RedisRouter]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("same_loop", [True, False])
def test_a_fork_after_use(server: Server, prefix: str, kind: Callable[..., Any], same_loop: bool) -> None:
    """What was used before a fork is refused in the child, on the same loop object too, and goes on in the parent."""
    loop = asyncio.new_event_loop()
    part = kind(server.url, prefix=prefix)
    call = used(part)
    loop.run_until_complete(call())

    def child() -> int:
        run = loop.run_until_complete if same_loop else asyncio.new_event_loop().run_until_complete
        try:
            run(call())  # type: ignore[arg-type]
        except UsageError:
            return REFUSED
        return WORKED

    assert in_child(child) == REFUSED
    loop.run_until_complete(call())
    loop.run_until_complete(part.aclose())
    loop.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_before_use(server: Server, prefix: str, kind: Callable[..., Any]) -> None:
    """What was only made before a fork works in both processes."""
    part = kind(server.url, prefix=prefix)
    call = used(part)

    async def use() -> int:
        await call()
        await part.aclose()
        return WORKED

    assert in_child(lambda: asyncio.run(use())) == WORKED
    assert asyncio.run(use()) == WORKED


def eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    return loop


def test_tasks_that_run_at_once(server: Server, prefix: str) -> None:
    """Stores, routers, trackers and notifiers work where a task starts to run when it is made."""
    plain = sys.version_info < (3, 12)
    loop = asyncio.new_event_loop() if plain else eager_loop()

    async def scenario() -> None:
        for _ in range(2):
            async with (
                RedisStreamStore(server.url, prefix=prefix) as store,
                RedisPresence(server.url, prefix=prefix) as presence,
                RedisRouter(server.url, prefix=prefix) as router,
                Notifier(store, presence=presence, router=router) as notifier,
                notifier.subscribe("alice") as stream,
            ):
                event = await notifier.push("alice", "t")
                assert await stream.next(10) == event
                await notifier.broadcast("all")
                assert (await stream.next(10)).type == "all"
                assert (await notifier.check()).ok
                assert [*(await presence.locate(["alice"]))] == ["alice"]
        store = RedisStore(server.url, prefix=prefix)
        assert isinstance(await store.save(Event("alice", "t")), Event)
        await store.aclose()

    began = time.monotonic()
    loop.run_until_complete(asyncio.wait_for(scenario(), 60))
    loop.close()
    assert time.monotonic() - began < 60
