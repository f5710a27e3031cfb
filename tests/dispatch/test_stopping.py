"""Addresses that bounce, and addresses whose owners want nothing more."""

from __future__ import annotations

import pytest

from notify.dispatch import Accepted, NotificationType, Reason, Rejected, Skip
from notify.dispatch.abc import State
from tests.dispatch.world import World

pytestmark = pytest.mark.anyio

ORDINARY = NotificationType("ordinary", channels=["web_push"])
MANDATORY = NotificationType("mandatory", channels=["web_push"], mandatory=True)


@pytest.mark.parametrize(
    ("answer", "reason", "mandatory_reaches"),
    [
        (Rejected("550", suppress=True), "suppressed", True),
        (Rejected("21610", stop=True), "stopped", False),
        (Rejected("21610", stop=True, suppress=True, is_unclear=True), "stopped", False),
    ],
)
async def test_after_a_refusal(answer: Rejected, reason: str, mandatory_reaches: bool) -> None:
    """What is mandatory is still sent to an address that bounced, and never to one that its owner stopped."""
    world = World([ORDINARY, MANDATORY])
    device = await world.device("a")
    world.push.answers = [answer, Accepted("p")]
    refused = await world.submit("ordinary")
    await world.settle()
    assert await world.states(refused) == {"web_push": [State.FAILED]}
    kept = await world.store.endpoint(device.id)
    assert kept is not None
    assert kept.reason == reason

    plan = await world.dispatcher.plan("ordinary", "alice", {})
    assert plan["web_push"] == Skip(channel="web_push", reason=Reason.SUPPRESSED, layer="endpoints")
    await world.submit("mandatory")
    await world.settle()
    assert len(world.push.jobs) == 1 + mandatory_reaches

    await world.device("a")  # it registers again
    await world.submit("ordinary")
    await world.settle()
    assert len(world.push.jobs) == 2 + mandatory_reaches
    await world.notifier.aclose()
    await world.store.aclose()
