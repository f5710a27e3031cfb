"""`Dispatcher(layers=)`: preferences that an operator or a tenant sets for a user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import pytest

from notify import UsageError
from notify.dispatch import DispatchApp, Dispatcher, Layers, NotificationType, Preferences, QuietHours, Recipient
from notify.testing.dispatch import RecordingChannel, VirtualClock
from notify_memory import MemoryDispatchStore
from tests.dispatch.world import START

pytestmark = pytest.mark.anyio

OFF = Preferences(channels={"email": False})
ON = Preferences(channels={"email": True})


class Setting:
    """A dispatcher with one channel, whose layers the test sets."""

    def __init__(self, layers: Callable[..., Any] | None = None, **defaults: Any) -> None:
        self.clock = VirtualClock(START)
        self.store = MemoryDispatchStore(clock=self.clock)
        self.email = RecordingChannel(has_endpoints=False)
        self.found: dict[str, Layers] = {}
        self.asked: list[list[str]] = []
        self.is_away = False
        self.dispatcher = Dispatcher(
            None,
            self.store,
            [NotificationType("note", channels=["email"])],
            {"email": self.email},
            recipients=_recipients,
            layers=self.layers if layers is None else layers,
            defaults=Preferences(**defaults),
            clock=self.clock.now,
        )

    async def layers(self, ids: Sequence[str]) -> Mapping[str, Layers]:
        if self.is_away:
            raise ConnectionError("the database of tenants is away")
        self.asked.append(list(ids))
        return self.found

    async def settle(self) -> None:
        while (await self.dispatcher.tick()).claimed:
            pass


async def _recipients(ids: Sequence[str]) -> list[Recipient]:
    return [Recipient(each) for each in ids]


@pytest.mark.parametrize(
    ("layers", "user", "default", "decided"),
    [
        (Layers(override=OFF), {"email": True}, {}, ("opted_out", "override")),
        (Layers(override=ON), {"email": False}, {}, ("allowed", "override")),
        (Layers(member=OFF), {"email": True}, {}, ("opted_out", "member")),
        (Layers(member=ON), {"email": False}, {}, ("allowed", "member")),
        (Layers(tenant=OFF), {}, {"email": True}, ("opted_out", "tenant")),
        (Layers(tenant=OFF), {"email": True}, {}, ("allowed", "user")),
        (None, {}, {"email": False}, ("opted_out", "default")),
    ],
)
async def test_who_decides(
    layers: Layers | None, user: dict[str, bool], default: dict[str, bool], decided: tuple[str, str]
) -> None:
    """An operator, the member of a tenant, the user, the tenant, the defaults; in a plan and in what is then done."""
    setting = Setting(channels=default)
    await setting.dispatcher.set_preferences("alice", {"channels": user})
    if layers is not None:
        setting.found["alice"] = layers
    (plan,) = (await setting.dispatcher.plan("note", "alice")).decisions
    assert (plan.reason, plan.layer) == decided
    await setting.dispatcher.submit("note", "alice")
    await setting.dispatcher.submit("note", Recipient("alice"))
    await setting.settle()
    assert len(setting.email.jobs) == (2 if decided[0] == "allowed" else 0)


async def test_quiet_hours_and_zone_of_a_tenant() -> None:
    """They count where the user has none, and a plain function may say so."""
    night = QuietHours.from_json([{"start": "11:00", "end": "14:00"}])
    tenant = Layers(tenant=Preferences(quiet_hours=night, tz="Europe/Berlin"))
    setting = Setting(lambda ids: dict.fromkeys(ids, tenant))
    (plan,) = (await setting.dispatcher.plan("note", "alice")).decisions
    assert (plan.reason, plan.layer) == ("quiet_hours", "tenant")
    assert getattr(plan, "until", None) == START.replace(hour=13)
    await setting.dispatcher.set_preferences("alice", {"quiet_hours": []})
    assert str((await setting.dispatcher.plan("note", "alice"))["email"].reason) == "allowed"


async def test_what_waits_is_decided_again() -> None:
    """At the moment of sending, or at once if a change is told by an empty patch."""
    setting = Setting(quiet_hours=QuietHours.from_json([{"start": "11:00", "end": "14:00"}]))
    for user in ("alice", "bob"):
        await setting.dispatcher.submit("note", user)
    await setting.settle()
    setting.found = {
        "alice": Layers(override=OFF),
        "bob": Layers(override=Preferences(quiet_hours=QuietHours())),
    }
    await setting.dispatcher.set_preferences("bob", {})
    await setting.settle()
    assert [job.user for job in setting.email.jobs] == ["bob"]
    setting.clock.advance("3h")
    await setting.settle()
    assert [job.user for job in setting.email.jobs] == ["bob"]


async def test_they_are_asked_once_for_many() -> None:
    """A batch of an audience is one question."""
    setting = Setting()
    await setting.dispatcher.submit_many("note", [f"u{number:03}" for number in range(300)], batch=200)
    assert [len(each) for each in setting.asked] == [200, 100]


async def test_a_page_shows_who_decided() -> None:
    """So that it can lock what the user cannot change."""
    setting = Setting()
    setting.found["alice"] = Layers(override=OFF)
    app = DispatchApp(setting.dispatcher, lambda request: "alice")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x.example") as client:
        answer = (await client.get("/preferences")).json()
    assert answer["effective"]["note"]["email"] == {"on": False, "layer": "override", "rule": "channels/email"}


@pytest.mark.parametrize("wrong", [[Layers()], {"alice": Preferences()}, None])
async def test_what_is_not_layers(wrong: Any) -> None:
    """The error names the argument."""
    setting = Setting(lambda ids: wrong)
    with pytest.raises(TypeError, match="layers= of the Dispatcher must return Layers by user id"):
        await setting.dispatcher.plan("note", "alice")


@pytest.mark.parametrize("wrong", [Layers(user=OFF), Layers(default=OFF)])
async def test_layers_of_the_dispatcher(wrong: Layers) -> None:
    """What the user has set is in the store, and in no other place."""
    setting = Setting()
    setting.found["alice"] = wrong
    with pytest.raises(UsageError, match="must set only override, member and tenant"):
        await setting.dispatcher.plan("note", "alice")


async def test_layers_that_cannot_be_read() -> None:
    """What was submitted waits, and is sent when they can be read again."""
    setting = Setting()
    await setting.dispatcher.submit("note", "alice")
    setting.is_away = True
    await setting.settle()
    assert setting.email.jobs == []
    setting.is_away = False
    setting.clock.advance("1m")
    await setting.settle()
    assert len(setting.email.jobs) == 1
