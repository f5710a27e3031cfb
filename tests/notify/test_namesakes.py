"""Two processes with one instance id: said in the log, and nothing is lost to it."""

from __future__ import annotations

import pytest

from notify import Notifier
from notify_memory import MemoryPresence, MemoryRouter, MemoryStore
from tests.parts import until

pytestmark = pytest.mark.anyio

WARNING = "another process has instance_id='host-1' too"


async def test_two_notifiers_of_one_name(caplog: pytest.LogCaptureFixture) -> None:
    """Each is told of the other, once, and what is sent to a user of the other arrives, in both directions."""
    store, router, presence = MemoryStore(), MemoryRouter(), MemoryPresence()
    async with (
        Notifier(store, router=router, presence=presence, instance_id="host-1") as one,
        Notifier(store, router=router, presence=presence, instance_id="host-1") as two,
    ):
        async with one.subscribe("alice") as here, two.subscribe("bob") as there, two.subscribe("alice") as other:
            await until(lambda: caplog.text.count(WARNING) == 2)
            await one.push("bob", "typing", ephemeral=True)
            assert (await there.next(10)).type == "typing"
            await two.push("alice", "typing", ephemeral=True)
            assert (await here.next(10)).type == "typing"
            assert (await other.next(10)).type == "typing"
        assert (await one.check()).ok
        assert (await two.check()).ok
    assert caplog.text.count(WARNING) == 2


async def test_names_that_differ(caplog: pytest.LogCaptureFixture) -> None:
    """Instances with names of their own, given or random, are not taken for namesakes."""
    store, router, presence = MemoryStore(), MemoryRouter(), MemoryPresence()
    async with (
        Notifier(store, router=router, presence=presence, instance_id="host-1") as one,
        Notifier(store, router=router, presence=presence, instance_id="host-2") as two,
        Notifier(store, router=router, presence=presence) as three,
        three.subscribe("alice") as stream,
    ):
        for notifier in (one, two):
            assert (await notifier.check()).ok
            await notifier.push("alice", "typing", ephemeral=True)
            assert (await stream.next(10)).type == "typing"
    assert "another process" not in caplog.text
