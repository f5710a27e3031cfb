"""Endpoints that accept nothing during all attempts of a message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from notify.dispatch import (
    Accepted,
    Ambiguous,
    Dispatcher,
    Endpoint,
    Fallback,
    Job,
    NotificationType,
    Outcome,
    Recipient,
    RetrySchedule,
    Transient,
)
from notify.dispatch._dispatcher import parts_of
from notify.dispatch.channels import EmailChannel, Failover, WebhookChannel
from notify.testing.dispatch import RecordingChannel, VirtualClock
from notify_memory import MemoryDispatchStore
from tests.dispatch.world import START

pytestmark = pytest.mark.anyio

HOOK = Endpoint("alice", "webhook", "https://hooks.example/alice")


class Hooks:
    """A channel whose receivers fail by their addresses."""

    has_endpoints = deduplicates = True

    def __init__(self, failure: Outcome) -> None:
        self.failure = failure
        self.failing = {HOOK.address}

    async def send(self, job: Job) -> Outcome:
        assert job.endpoint is not None
        return self.failure if job.endpoint.address in self.failing else Accepted()


class Setting:
    """A dispatcher with a webhook for alice, one for bob, and e-mail for owners."""

    def __init__(self, failure: Outcome | None = None, **options: Any) -> None:
        self.clock = VirtualClock(START)
        self.store = MemoryDispatchStore(clock=self.clock)
        self.hooks = Hooks(Transient("503") if failure is None else failure)
        self.email = RecordingChannel(has_endpoints=False)
        event = NotificationType(
            "event", channels=["webhook", "email"], fallback={"email": Fallback("failed", of="webhook")}
        )
        channels = {"webhook": self.hooks, "email": self.email}
        self.dispatcher = Dispatcher(
            None, self.store, [event], channels, recipients=_recipients, clock=self.clock.now, **options
        )

    async def pass_time(self, by: str) -> None:
        self.clock.advance(by)
        while (await self.dispatcher.tick()).claimed:
            pass

    async def days(self, count: int, *, others: bool = True) -> None:
        """Let days pass, on each of which something is sent to bob."""
        for hour in range(count * 24):
            if others and hour % 12 == 0:
                await self.dispatcher.submit("event", "bob", {})
            await self.pass_time("1h")


async def _recipients(ids: Sequence[str]) -> list[Recipient]:
    return [Recipient(each) for each in ids]


async def retired(setting: Setting, of: str = "alice") -> str | None:
    (found,) = (await setting.store.endpoints([of], retired=True))[of]
    return found.reason if found.retired_at is not None else None


async def registered(setting: Setting) -> Setting:
    await setting.store.register(HOOK, setting.clock.now())
    await setting.store.register(Endpoint("bob", "webhook", "https://hooks.example/bob"), setting.clock.now())
    return setting


@pytest.mark.parametrize("failure", [Transient("503"), Ambiguous("no answer")])
async def test_a_webhook_that_fails_for_days_is_retired(failure: Outcome) -> None:
    """With the last of ten attempts, after three days and a half; its owner gets an e-mail."""
    setting = await registered(Setting(failure))
    await setting.dispatcher.submit("event", "alice", {"title": "x"})
    await setting.days(3)
    assert await retired(setting) is None
    await setting.days(1)
    assert await retired(setting) == "failing"
    assert await retired(setting, "bob") is None
    # after no answer it may have arrived, so nothing says that another channel has to step in
    assert len(setting.email.sent(user="alice")) == isinstance(failure, Transient)


async def test_one_that_has_accepted_something_meanwhile_stays() -> None:
    """It is this message that it does not take."""
    setting = await registered(Setting())
    await setting.dispatcher.submit("event", "alice", {"title": "x"})
    await setting.days(2)
    found = (await setting.store.endpoints(["alice"]))["alice"][0]
    await setting.store.observe(found.id, found.generation, setting.clock.now(), ok=True)
    await setting.days(2)
    assert len(setting.email.sent(user="alice")) == 1, "all attempts were made"
    assert await retired(setting) is None


async def test_if_no_other_works_it_may_be_our_own_network() -> None:
    """Then none is retired."""
    setting = await registered(Setting())
    await setting.dispatcher.submit("event", "alice", {"title": "x"})
    await setting.days(4, others=False)
    assert len(setting.email.sent(user="alice")) == 1
    assert await retired(setting) is None


async def test_only_where_the_schedule_says_so() -> None:
    """A schedule of one's own retires nothing unless that is asked for."""
    for retires, reason in ((False, None), (True, "failing")):
        schedule = RetrySchedule(attempts=2, base=60.0, retires=retires)
        setting = await registered(Setting(retries={"webhook": schedule}))
        await setting.dispatcher.submit("event", "alice", {"title": "x"})
        await setting.days(1)
        assert len(setting.email.sent(user="alice")) == 1
        assert await retired(setting) == reason


def test_whatever_a_channel_of_webhooks_is_called() -> None:
    """Also inside a wrapper; e-mail goes to addresses of people, whose server may be away for days."""
    hooks, email = WebhookChannel("whsec_c2VjcmV0"), EmailChannel("smtp://localhost", sender="news@example.org")
    channels = {"webhook": hooks, "partners": hooks, "either": Failover(hooks, hooks), "email": email, "letters": email}
    event = NotificationType("event", channels=[*channels])
    dispatcher = Dispatcher(None, MemoryDispatchStore(), [event], channels, recipients=_recipients)
    retiring = [name for name in channels if parts_of(dispatcher).schedule(name).retires]
    assert retiring == ["webhook", "partners", "either"]


async def test_an_address_of_the_application_is_left_to_it() -> None:
    """Nothing is known of what it has accepted before."""
    setting = await registered(Setting())
    await setting.dispatcher.submit("event", Recipient("carol", endpoints=[HOOK]), {"title": "x"})
    await setting.days(4)
    assert len(setting.email.sent(user="carol")) == 1
    assert await retired(setting) is None
    assert not await setting.store.endpoints(["carol"], retired=True)
