"""Two processes with one instance id on Redis: both are told, and both get what is sent to their users."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from notify import Notifier
from notify_redis import RedisPresence, RedisRouter, RedisStore
from tests.parts import until
from tests.servers.redis import Server

pytestmark = pytest.mark.anyio


async def test_two_processes_of_one_name(server: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each is told of the other, and an ephemeral event for a user of the other arrives."""
    async with AsyncExitStack() as stack:
        notifiers: list[Notifier] = []
        for _ in range(2):
            store, router = RedisStore(server.url, prefix=prefix), RedisRouter(server.url, prefix=prefix)
            presence = RedisPresence(server.url, prefix=prefix)
            for part in (store, router, presence):
                stack.push_async_callback(part.aclose)
            notifier = Notifier(store, router=router, presence=presence, instance_id="host-1")
            notifiers.append(await stack.enter_async_context(notifier))
        one, two = notifiers
        await until(lambda: caplog.text.count("another process has instance_id='host-1' too") == 2, 10)
        async with two.subscribe("alice") as stream:
            await one.push("alice", "typing", ephemeral=True)
            assert (await stream.next(10)).type == "typing"
            event = await one.push("alice", "t")
            assert await stream.next(10) == event
