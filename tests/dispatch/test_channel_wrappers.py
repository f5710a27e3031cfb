"""Wrappers of channels: what is sent through which provider, and what is not sent at all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from notify import UsageError
from notify.dispatch._channel import Job
from notify.dispatch._outcomes import (
    Accepted,
    Ambiguous,
    Delivered,
    EndpointGone,
    Misconfigured,
    Outcome,
    Rejected,
    Throttled,
    Transient,
)
from notify.dispatch.channels import Breaker, Failover, Rate, RateLimited, RoundRobin, Sandbox
from notify.testing.dispatch import RecordingChannel
from tests.dispatch.jobs import endpoint, job
from tests.parts import until

pytestmark = pytest.mark.anyio

BOB = job(endpoint("bob@example.com"))


def sent(*channels: RecordingChannel) -> list[int]:
    return [len(channel.jobs) for channel in channels]


# -- failover --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "goes_on"),
    [
        (Accepted("1"), False),
        (Delivered("1"), False),
        (Ambiguous(), False),
        (Rejected("550"), False),
        (EndpointGone("410"), False),
        (Transient("503"), True),
        (Throttled(60.0), True),
        (Misconfigured("no key"), True),
    ],
)
async def test_when_the_next_provider_is_tried(outcome: Outcome, goes_on: bool) -> None:
    """Only when certainly nothing was sent, and another one may take it: never after an unknown outcome (D13)."""
    first, second = RecordingChannel(outcome), RecordingChannel(Accepted("2"))
    found = await Failover(first, second).send(BOB)
    assert found == (Accepted("2") if goes_on else outcome)
    assert sent(first, second) == [1, int(goes_on)]


async def test_each_message_begins_with_the_first() -> None:
    """A failure is not remembered: the first provider is tried again with the next message."""
    first, second = RecordingChannel(Transient("503"), Accepted("1")), RecordingChannel(Accepted("2"))
    failover = Failover(first, second)
    assert [await failover.send(BOB) for _ in range(2)] == [Accepted("2"), Accepted("1")]


async def test_a_provider_that_throttles_is_passed_over() -> None:
    """At once, and until its time has come: it is not asked for each of ten thousand messages."""
    first, second = RecordingChannel(Throttled(60.0)), RecordingChannel(Accepted("2"))
    failover = Failover(first, second)
    assert {await failover.send(BOB) for _ in range(10)} == {Accepted("2")}
    assert sent(first, second) == [1, 10]


async def test_a_gate_of_one_endpoint_closes_no_provider() -> None:
    """What is throttled for one push service says nothing about the others."""
    first, second = RecordingChannel(Throttled(60.0, "https://push.example")), RecordingChannel(Accepted("2"))
    failover = Failover(first, second)
    for _ in range(2):
        await failover.send(BOB)
    assert sent(first, second) == [2, 2]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((Transient("a"), Transient("b", 9.0)), Transient("b", 9.0)),
        ((Transient("a"), Misconfigured("no key")), Transient("a")),
        ((Throttled(5.0), Transient("b")), Transient("b")),
        ((Throttled(9.0), Throttled(5.0)), Throttled(5.0)),
        ((Throttled(9.0), Misconfigured("no key")), Throttled(9.0)),
        ((Misconfigured("a"), Misconfigured("b")), Misconfigured("b")),
    ],
)
async def test_no_provider_takes_it(outcomes: tuple[Outcome, ...], expected: Outcome) -> None:
    """The outcome is the one that tries again earliest; the message is parked only if all are misconfigured."""
    assert await Failover(*map(RecordingChannel, outcomes)).send(BOB) == expected


async def test_all_providers_throttle() -> None:
    """Later messages are throttled without asking any."""
    first, second = RecordingChannel(Throttled(60.0)), RecordingChannel(Throttled(30.0))
    failover = Failover(first, second)
    await failover.send(BOB)
    found = await failover.send(BOB)
    assert isinstance(found, Throttled)
    assert found.retry_after is not None
    assert 0 < found.retry_after <= 30
    assert sent(first, second) == [1, 1]


async def test_a_dead_key_is_not_hidden(caplog: pytest.LogCaptureFixture) -> None:
    """A fallback that works would hide it: it is logged once, and once more when it works again."""
    broken = RecordingChannel(Misconfigured("no key"), Misconfigured("no key"), Accepted())
    with caplog.at_level(logging.WARNING, logger="notify"):
        failover = Failover(broken, RecordingChannel())
        for _ in range(3):
            await failover.send(BOB)
    assert [record.getMessage() for record in caplog.records] == [
        "provider 1 of a channel, RecordingChannel, is misconfigured and is passed over: no key",
        "provider 1 of a channel, RecordingChannel, works again",
    ]


async def test_round_robin_takes_turns() -> None:
    """Each message begins with the next provider, and the others stand in for one that fails."""
    one, two, three = RecordingChannel(), RecordingChannel(Transient("503")), RecordingChannel()
    robin = RoundRobin(one, two, three)
    for _ in range(6):
        assert isinstance(await robin.send(BOB), Accepted)
    assert sent(one, two, three) == [2, 2, 4]


@pytest.mark.parametrize("make", [Failover, RoundRobin])
def test_providers_must_fit(make: Callable[..., Any]) -> None:
    """At least one, all of them channels, with or without endpoints alike."""
    for given, text in [((), "at least one"), ((object(),), "object"), ((one := RecordingChannel(), one), None)]:
        if text is None:
            assert make(*given).has_endpoints
            continue
        with pytest.raises(UsageError, match=text):
            make(*given)
    with pytest.raises(UsageError, match="endpoints"):
        make(RecordingChannel(), RecordingChannel(has_endpoints=False))
    assert make(RecordingChannel(), RecordingChannel(deduplicates=False)).deduplicates is False


# -- rate ------------------------------------------------------------------------------------------------------------


async def test_a_rate() -> None:
    """A burst, then evenly spread; each key by itself; after a pause the burst is there again."""
    now = [100.0]
    rate = Rate(10, 1.0, burst=3, clock=lambda: now[0])
    assert [await rate.acquire("a") for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(0.1)]
    assert await rate.acquire("b") == 0.0
    now[0] += 0.1
    assert [await rate.acquire("a") for _ in range(2)] == [0.0, pytest.approx(0.1)]
    now[0] += 60
    assert [await rate.acquire("a") for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(0.1)]


async def test_a_rate_admits_no_more_than_its_limit() -> None:
    """Over any length of time: the limit, and one burst."""
    now = [0.0]
    rate = Rate(7, 2.0, clock=lambda: now[0])
    admitted = 0
    while now[0] < 20:
        admitted += await rate.acquire("") == 0.0
        now[0] += 0.01
    assert 70 <= admitted <= 77


async def test_a_rate_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys from outside do not fill the memory."""
    monkeypatch.setattr("notify.dispatch.channels._rate.MAX_KEYS", 10)
    now = [0.0]
    rate = Rate(10, clock=lambda: now[0])
    for number in range(1000):
        now[0] += 0.2
        await rate.acquire(str(number))
    assert len(rate._due) <= 11


async def test_over_the_rate() -> None:
    """A message waits as long as it may, else it is throttled before anything is sent."""
    inner = RecordingChannel()
    limited = RateLimited(inner, Rate(1, 3600.0, burst=1), key=lambda job: job.user)
    assert await limited.send(BOB) == Accepted()
    found = await limited.send(BOB)
    assert isinstance(found, Throttled)
    assert found.retry_after == pytest.approx(3600, abs=60)
    assert (found.gate, sent(inner)) == ("alice", [1])
    waits = RateLimited(RecordingChannel(), Rate(100, burst=1), max_wait=60.0)
    assert [await waits.send(BOB) for _ in range(3)] == [Accepted()] * 3
    with pytest.raises(UsageError, match="limiter"):
        RateLimited(inner, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 1, "per": -1}, {"limit": 1, "burst": 0}])
def test_a_rate_is_checked(options: dict[str, Any]) -> None:
    """Numbers that would never admit anything."""
    with pytest.raises(UsageError):
        Rate(**options)


# -- breaker ---------------------------------------------------------------------------------------------------------


async def test_a_breaker_opens_and_closes(caplog: pytest.LogCaptureFixture) -> None:
    """After some failures in a row nothing is sent, until one message is tried and succeeds. Both are logged."""
    failing = [Transient("503"), Ambiguous(), Misconfigured("no key")]
    inner = RecordingChannel(*failing, Accepted())
    breaker = Breaker(inner, failures=3, reset=0.05)
    with caplog.at_level(logging.WARNING, logger="notify"):
        assert [await breaker.send(BOB) for _ in range(3)] == failing
        found = await breaker.send(BOB)
        while isinstance(found, Throttled):
            await anyio.sleep(0.01)
            found = await breaker.send(BOB)
    assert found == Accepted()
    assert sent(inner) == [4]
    assert [record.getMessage() for record in caplog.records] == [
        "nothing is sent through RecordingChannel for a while: Misconfigured",
        "RecordingChannel sends again",
    ]


async def test_a_message_that_hangs_is_a_failure() -> None:
    """A dispatcher cancels it after its timeout."""
    inner = RecordingChannel()
    inner.send = lambda _: anyio.sleep_forever()  # type: ignore[method-assign,assignment,return-value]
    breaker = Breaker(inner, failures=2, reset=60.0)
    for _ in range(2):
        with anyio.move_on_after(0.01):
            await breaker.send(BOB)
    assert isinstance(await breaker.send(BOB), Throttled)


async def test_an_open_breaker_counts_no_attempt() -> None:
    """It answers as a provider that throttles does, with the time that is left."""
    inner = RecordingChannel(Transient("503"))
    breaker = Breaker(inner, failures=1, reset=60.0)
    await breaker.send(BOB)
    found = await breaker.send(BOB)
    assert isinstance(found, Throttled)
    assert found.retry_after is not None
    assert 0 < found.retry_after <= 60
    assert sent(inner) == [1]


async def test_successes_in_between_keep_it_closed() -> None:
    """So do refusals of a message: the provider works. A throttled message counts neither way."""
    outcomes = [Transient("1"), Throttled(0.0), Transient("2"), Rejected("550"), Transient("3"), Transient("4")]
    inner = RecordingChannel(*outcomes)
    breaker = Breaker(inner, failures=3)
    assert [await breaker.send(BOB) for _ in outcomes] == outcomes
    assert sent(inner) == [6]


async def test_one_probe_at_a_time() -> None:
    """While it is on its way, other messages are throttled; one that hangs is given up in time."""
    started, inner = anyio.Event(), RecordingChannel(Transient("503"))
    breaker = Breaker(inner, failures=1, reset=0.01, probe_timeout=0.5)
    await breaker.send(BOB)
    await anyio.sleep(0.05)
    calls = 0

    async def hang(_: Job) -> Outcome:
        nonlocal calls
        calls += 1
        started.set()
        await anyio.sleep_forever()
        raise AssertionError

    inner.send = hang  # type: ignore[method-assign]
    found: list[Outcome] = []
    async with anyio.create_task_group() as tasks:

        async def probe() -> None:
            found.append(await breaker.send(BOB))

        tasks.start_soon(probe)
        await started.wait()
        others = [await breaker.send(BOB) for _ in range(3)]
    assert all(isinstance(each, Throttled) for each in others)
    assert (calls, found) == (1, [Ambiguous("the probe took too long")])


async def test_a_cancelled_probe_blocks_nothing() -> None:
    """The next message is a probe again, once the breaker has been open for its time."""
    inner = RecordingChannel(Transient("503"))
    breaker = Breaker(inner, failures=1, reset=0.01, probe_timeout=60.0)
    await breaker.send(BOB)
    await anyio.sleep(0.05)
    original, started = inner.send, anyio.Event()

    async def hang(_: Job) -> Outcome:
        started.set()
        await anyio.sleep_forever()
        raise AssertionError

    inner.send = hang  # type: ignore[method-assign]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breaker.send, BOB)
        await started.wait()
        tasks.cancel_scope.cancel()
    inner.send = original  # type: ignore[method-assign]
    found: Outcome = Throttled()
    while isinstance(found, Throttled):
        await anyio.sleep(0.01)
        found = await breaker.send(BOB)
    assert found == Transient("503")


async def test_keys_fail_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    """A push service that is down does not stop the others; keys from outside do not fill the memory."""
    monkeypatch.setattr("notify.dispatch.channels._breaker.MAX_KEYS", 5)
    inner = RecordingChannel(Transient("503"))
    breaker = Breaker(inner, failures=1, key=lambda job: job.id)
    await breaker.send(job(id="a"))
    assert isinstance(await breaker.send(job(id="a")), Throttled)
    assert isinstance(await breaker.send(job(id="b")), Transient)
    for number in range(20):
        await breaker.send(job(id=str(number)))
    assert len(breaker._circuits) == 5


async def test_one_key_of_two_recovers(caplog: pytest.LogCaptureFixture) -> None:
    """The log says that the channel works again only when every push service does."""
    inner = RecordingChannel(Transient("503"), Transient("503"), Accepted())
    breaker = Breaker(inner, failures=1, reset=0.0001, key=lambda job: job.id)
    for name in ("a", "b"):
        await breaker.send(job(id=name))
    lines = len(caplog.records)
    await until(lambda: _is_sent(breaker, "a"))
    assert len(caplog.records) == lines
    await until(lambda: _is_sent(breaker, "b"))
    assert len(caplog.records) == lines + 1


async def _is_sent(breaker: Breaker, name: str) -> bool:
    return isinstance(await breaker.send(job(id=name)), Accepted)


async def test_an_exception_is_a_failure() -> None:
    """It is raised, and counted."""
    inner = RecordingChannel()

    async def fail(_: Job) -> Outcome:
        raise ZeroDivisionError

    inner.send = fail  # type: ignore[method-assign]
    breaker = Breaker(inner, failures=1)
    with pytest.raises(ZeroDivisionError):
        await breaker.send(BOB)
    assert isinstance(await breaker.send(BOB), Throttled)


# -- sandbox ---------------------------------------------------------------------------------------------------------


async def test_a_sandbox(caplog: pytest.LogCaptureFixture) -> None:
    """Only allowed addresses get something; the rest counts as accepted, and the log shows no address."""
    inner = RecordingChannel()
    sandbox = Sandbox(inner, allow=["qa@example.com"])
    with caplog.at_level(logging.INFO, logger="notify"):
        assert await sandbox.send(BOB) == Accepted("sandbox")
        assert await sandbox.send(job(endpoint("qa@example.com"))) == Accepted()
    assert [each.endpoint and each.endpoint.address for each in inner.jobs] == ["qa@example.com"]
    assert "bob" not in caplog.text
    assert len(caplog.records) == 1


async def test_a_sandbox_redirects() -> None:
    """To one address, if that is wished; a function decides; without endpoints, users are allowed."""
    inner = RecordingChannel()
    await Sandbox(inner, redirect_to="qa@example.com").send(BOB)
    await Sandbox(inner, allow=lambda job: job.user == "alice").send(BOB)
    assert [each.endpoint and each.endpoint.address for each in inner.jobs] == ["qa@example.com", "bob@example.com"]
    plain = RecordingChannel(has_endpoints=False)
    await Sandbox(plain, allow={"alice"}).send(job())
    assert await Sandbox(plain, allow={"carol"}).send(job()) == Accepted("sandbox")
    assert sent(plain) == [1]
    with pytest.raises(UsageError, match="endpoints"):
        Sandbox(plain, redirect_to="x")
    with pytest.raises(UsageError, match="collection"):
        Sandbox(inner, allow="bob@example.com")


# -- closing ---------------------------------------------------------------------------------------------------------


async def test_wrappers_close_their_channels() -> None:
    """Each of them, through any depth, even if one fails; those that cannot be closed are left alone."""
    closed: list[str] = []

    class Closing(RecordingChannel):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def aclose(self) -> None:
            closed.append(self.name)
            if self.name == "bad":
                raise OSError("no")

    async with Failover(Breaker(RateLimited(Sandbox(Closing("deep")), Rate(1))), RecordingChannel(), Closing("flat")):
        pass
    assert closed == ["deep", "flat"]
    with pytest.raises(OSError, match="no"):
        await Failover(Closing("bad"), Closing("good")).aclose()
    assert closed[2:] == ["bad", "good"]


def test_a_wrapper_shows_what_it_wraps() -> None:
    """For people who look at a configuration."""
    assert repr(Failover(Breaker(RecordingChannel()), RecordingChannel())) == (
        "Failover(Breaker(<RecordingChannel>), <RecordingChannel>)"
    )
