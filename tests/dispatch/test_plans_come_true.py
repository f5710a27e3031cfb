"""What a plan says is what is then done, wherever nothing changes in between."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from notify.dispatch import (
    Digest,
    Endpoint,
    Fallback,
    FrequencyCap,
    Hold,
    Join,
    NotificationType,
    Plan,
    Preferences,
    Reason,
    Recipient,
    Send,
    Skip,
    State,
)
from notify.dispatch._layers import Layers
from notify.dispatch._plan import plan_recipient
from notify.testing.dispatch import VirtualClock
from notify_sqlite import SQLiteDispatchStore
from tests.dispatch.world import START, Recorder, World

CHANNELS = ("in_app", "email", "web_push")
REACHING = {"in_app": Recorder(), "email": Recorder(), "web_push": Recorder(has_endpoints=True)}
CLOCKS = [f"{hour:02}:{minute:02}" for hour in range(24) for minute in (0, 30)]
CAPS: list[list[FrequencyCap]] = [
    [],
    [FrequencyCap(3)],
    [FrequencyCap(3, per=86_400.0), FrequencyCap(4, "week", "user")],
]
"""One notification and its digests, each of which counts by itself, fit in, over however many channels and devices."""

LEADING: list[dict[str, Any]] = [{}, {"leading": "first"}, {"leading": "look_back", "look_back": 600.0}]

SWITCHES = st.dictionaries(st.sampled_from([*CHANNELS, "*"]), st.booleans(), max_size=3)


@st.composite
def types(draw: st.DrawFn) -> NotificationType:
    """Types that make sense: a fallback has an inbox to fall back from, and is not collected."""
    channels = draw(st.lists(st.sampled_from(CHANNELS), min_size=1, unique=True))
    others = [each for each in channels if each != "in_app"]
    fallback: dict[str, Fallback] = {}
    if "in_app" in channels:
        for each in draw(st.lists(st.sampled_from(others), unique=True)) if others else ():
            fallback[each] = Fallback(draw(st.sampled_from(["away", "unread"])), draw(st.sampled_from([0.0, 900.0])))
    if len(others) == 2 and not fallback and draw(st.booleans()):
        first, second = draw(st.permutations(others))
        fallback[second] = Fallback("failed", draw(st.sampled_from([0.0, 900.0])), of=first)
    collected = [each for each in others if each not in fallback and each not in {one.of for one in fallback.values()}]
    digest = None
    if collected and draw(st.booleans()):
        digest = Digest(
            window=draw(st.sampled_from([60.0, 3600.0, 43_200.0])), channels=collected, **draw(st.sampled_from(LEADING))
        )
    caps = draw(st.sampled_from(CAPS))
    return NotificationType(
        "note",
        channels=channels,
        priority=draw(st.sampled_from(["low", "normal", "high"])),
        caps=caps,
        over_cap=draw(st.sampled_from(["skip", "hold"])) if caps else "skip",
        opt_in=draw(st.sampled_from([None, None, None, "news"])),
        fallback=fallback,
        digest=digest,
        ttl=draw(st.sampled_from([None, 3600.0 * 20])) if digest is None else None,
        quiet_hours=draw(st.sampled_from(["obey", "obey", "obey", "ignore"])),
    )


@st.composite
def quiet_hours(draw: st.DrawFn, least: int = 0) -> list[dict[str, Any]]:
    """Up to two rules."""
    rules = []
    for _ in range(draw(st.integers(least, 2))):
        start = draw(st.sampled_from(CLOCKS))
        length = draw(st.integers(4, 23))  # two of them leave some time out
        end = CLOCKS[(CLOCKS.index(start) + length) % len(CLOCKS)]
        rules.append({"start": start, "end": end, "action": draw(st.sampled_from(["hold", "drop", "digest"]))})
    return rules


PREFERENCES = st.fixed_dictionaries({"quiet_hours": quiet_hours(least=1)}) | st.fixed_dictionaries(
    {},
    optional={
        "all": st.booleans(),
        "channels": st.dictionaries(st.sampled_from(CHANNELS), st.booleans(), max_size=2),
        "types": st.dictionaries(st.just("note"), SWITCHES),
        "categories": st.dictionaries(st.just("transactional"), SWITCHES),
        "opt_in": st.dictionaries(st.just("news"), st.booleans()),
        "quiet_hours": quiet_hours(),
    },
)


@dataclass(frozen=True)
class Case:
    """What a plan depends on."""

    type: NotificationType
    preferences: dict[str, Any]
    devices: int
    user: str
    minutes: int


CASES = st.builds(
    Case,
    type=types(),
    preferences=PREFERENCES,
    devices=st.integers(0, 2),
    user=st.sampled_from(["alice", "bob", "carol"]),
    minutes=st.sampled_from(range(0, 2 * 24 * 60, 10)),
)


@settings(max_examples=150, deadline=None)
@given(case=CASES)
def test_plan_comes_true(case: Case) -> None:
    """Every Send is sent at once, every Hold and Join when its time has come, and no Skip at all."""
    anyio.run(check, case, World([case.type]))


@settings(max_examples=20, deadline=None)
@given(case=CASES)
def test_plan_comes_true_in_a_file(case: Case) -> None:
    """The same with deliveries in SQLite."""
    with TemporaryDirectory() as folder:
        clock = VirtualClock(START)
        store = SQLiteDispatchStore(Path(folder) / "deliveries.db", clock=clock)
        anyio.run(check, case, World([case.type], clock, store))


async def check(case: Case, world: World) -> None:
    """Check that what is done with a notification is what the plan says."""
    user = case.user
    world.clock.advance(case.minutes * 60.0)
    await world.dispatcher.set_preferences(user, case.preferences)
    names = [(await world.device(f"d{number}", user)).id for number in range(case.devices)]
    plan = await world.dispatcher.plan("note", user, {"title": "x"})
    ticket = await world.submit("note", user, title="x")
    assert (await world.dispatcher.explain(ticket, user)).planned == plan  # type: ignore[union-attr]
    await world.settle()
    await check_now(world, plan, ticket, sorted(names))
    await check_later(world, plan, ticket)
    await world.notifier.aclose()
    await world.store.aclose()


async def check_now(world: World, plan: Plan, ticket: str, devices: list[str]) -> None:
    """Check what has been done at once."""
    states = await world.states(ticket, plan.user)
    for each in plan.decisions:
        match each:
            case Send(endpoints=targets):
                assert states[each.channel] == [State.ACCEPTED] * max(1, len(targets))
                if each.channel == "web_push":
                    assert sorted(targets) == devices
                    assert sorted(_endpoints(world)) == devices
            case Hold():
                # an inbox that has accepted the item at once makes a fallback without delay due in the same moment
                due_now = each.until is None and not each.delay
                assert states[each.channel][0] is State.WAITING or due_now
            case Join() | Skip():
                assert each.channel not in states


async def check_later(world: World, plan: Plan, ticket: str) -> None:
    """Check what is done when the times of the plan have come, and not before."""
    held = [each for each in plan.decisions if isinstance(each, Hold | Join) and each.until is not None]
    for each in sorted(held, key=lambda each: each.until or datetime.max.replace(tzinfo=UTC)):
        assert each.until is not None
        before = each.until - timedelta(seconds=1)
        if before > world.clock.now():
            world.clock.set(before)
            await world.settle()
            assert not _sent(world, each.channel), "sent before its time"
        world.clock.set(max(world.clock.now(), each.until + timedelta(seconds=121)))  # with the spread of releases
        await world.settle()
        assert _sent(world, each.channel), f"{each} was not sent in time"
    waiting = [each for each in plan.decisions if isinstance(each, Hold) and each.until is None]
    if waiting:
        for _ in range(12):  # past delays, and through every hour of the day
            await world.pass_time("6h 30m")
        states = await world.states(ticket, plan.user)
        for each in waiting:
            fallback = world.dispatcher.types.resolve("note").fallback[each.channel]
            if fallback.use == "failed" and isinstance(plan[each.after], Send):
                assert set(states[each.channel]) == {State.SKIPPED}, "the other message was accepted"
            assert set(states[each.channel]) <= {State.ACCEPTED, State.EXPIRED, State.SKIPPED, State.JOINED}


def _sent(world: World, channel: str) -> bool:
    recorder = {"in_app": world.in_app, "email": world.email, "web_push": world.push}[channel]
    return bool(recorder.jobs)


def _endpoints(world: World) -> list[str]:
    return [job.endpoint.id for job in world.push.jobs if job.endpoint is not None]


class _Enough(Exception):
    """Every decision has come up."""


def test_the_strategies_reach_every_decision() -> None:
    """Each kind of decision, and the reasons that matter, come up among the examples."""
    wanted = {
        ("Send", Reason.ALLOWED),
        ("Send", Reason.LISTED_ONLY),
        ("Hold", Reason.QUIET_HOURS),
        ("Hold", Reason.FALLBACK),
        ("Hold after email", Reason.FALLBACK),
        ("Send leading", Reason.ALLOWED),
        ("Join", Reason.DIGEST),
        ("Join", Reason.QUIET_HOURS),
        ("Skip", Reason.OPTED_OUT),
        ("Skip", Reason.NOT_OPTED_IN),
        ("Skip", Reason.NO_ENDPOINT),
        ("Skip", Reason.QUIET_HOURS),
    }
    found: set[tuple[str, Reason]] = set()

    @seed(0)  # one of those with which it takes a quarter of the examples
    @settings(max_examples=1000, deadline=None, database=None, phases=[Phase.generate])
    @given(type=types(), preferences=PREFERENCES, minutes=st.sampled_from(range(0, 24 * 60, 30)))
    def collect(type: NotificationType, preferences: dict[str, Any], minutes: int) -> None:
        now = START + timedelta(minutes=minutes)
        layers = Layers(user=Preferences.from_json(preferences))
        devices = [Endpoint("alice", "web_push", "https://push.example/d")] if minutes % 60 else []
        plan = plan_recipient(type, Recipient("alice"), layers, devices, REACHING, now=now, expires_at=None)
        found.update((each.__class__.__name__, each.reason) for each in plan.decisions)
        for each in plan.decisions:
            if isinstance(each, Send) and each.leading:
                found.add(("Send leading", each.reason))
            if isinstance(each, Hold) and each.after == "email":
                found.add(("Hold after email", each.reason))
        if found >= wanted:
            raise _Enough

    with suppress(_Enough):
        collect()
    assert found >= wanted
