"""Retries: how long to wait, and when to give up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify import UsageError
from notify.dispatch._outcomes import Ambiguous, Throttled, Transient
from notify.dispatch._retry import LONGEST_WAIT, PATIENT, PROMPT, RetrySchedule, delay, jitter, retry_after
from tests.dispatch.values import NOW

DOWN = Transient("503")
CHANCES = st.floats(0, 1, exclude_max=True)
EXACT = RetrySchedule(attempts=3, delays=(10, 100))


def test_delays_grow() -> None:
    """Each delay is random between nothing and twice as much as before, until the longest."""
    schedule = RetrySchedule(attempts=6, base=10, longest=50)
    assert [delay(attempt, DOWN, schedule, 0.5) for attempt in range(1, 7)] == [5, 10, 20, 25, 25, None]
    assert [delay(attempt, DOWN, schedule, 0) for attempt in range(1, 7)] == [0, 0, 0, 0, 0, None]
    assert delay(7, DOWN, schedule, 0.5) is None
    assert delay(2000, DOWN, RetrySchedule(attempts=3000), 0.5) == 450


def test_exact_delays() -> None:
    """A schedule may name its delays, of which up to a tenth more is random."""
    assert [delay(attempt, DOWN, EXACT, 0) for attempt in (1, 2, 3)] == [10, 100, None]
    assert delay(2, DOWN, EXACT, 0.5) == 105


def test_what_the_provider_asks_for() -> None:
    """It is the least delay; negative, absurd and undefined values are bounded."""
    assert delay(1, Transient("503", 30), RetrySchedule(base=10), 0.9) == 30
    assert delay(1, Transient("503", 30), RetrySchedule(base=100), 0.9) == 90
    assert delay(1, Transient("503", -5), RetrySchedule(base=100), 0) == 0
    assert delay(1, Transient("503", float("nan")), RetrySchedule(base=100), 0) == 0
    assert delay(1, Transient("503", float("inf")), RetrySchedule(base=100), 0) == LONGEST_WAIT
    assert delay(8, Transient("503", 30), PROMPT, 0) is None


def test_throttled_attempts_do_not_count() -> None:
    """There is always a further one, after the time named or that of the schedule, spread so that not all come back."""
    assert delay(99, Throttled(30), PROMPT, 0.5) == 30
    assert delay(99, Throttled(), PROMPT, 0.5) == 90
    assert delay(1, Throttled(0), PROMPT, 0) == 60
    assert delay(1, Throttled(1e9), PROMPT, 0) == LONGEST_WAIT


def test_ambiguous_ones_are_like_failures() -> None:
    """Whether they may be repeated is decided elsewhere; the delay is the same."""
    assert delay(1, Ambiguous(), PROMPT, 0.5) == delay(1, DOWN, PROMPT, 0.5)


@given(st.integers(1, 100), CHANCES, st.none() | st.floats(allow_nan=True), st.sampled_from([PROMPT, PATIENT, EXACT]))
def test_delays_are_sensible(attempt: int, chance: float, asked: float | None, schedule: RetrySchedule) -> None:
    """Whatever a provider asks for, the delay is a number of seconds, and there are as many attempts as are said."""
    for outcome in (Transient("503", asked), Throttled(asked)):
        seconds = delay(attempt, outcome, schedule, chance)
        assert (seconds is None) == (isinstance(outcome, Transient) and attempt >= schedule.attempts)
        assert seconds is None or 0 <= seconds <= LONGEST_WAIT * 1.1


@given(st.integers(1, 9), CHANCES, CHANCES)
def test_more_chance_is_more_delay(attempt: int, one: float, other: float) -> None:
    """The delay depends on the chance alone, and grows with it."""
    low, high = sorted((one, other))
    assert (delay(attempt, DOWN, PATIENT, low) or 0) <= (delay(attempt, DOWN, PATIENT, high) or 0)
    assert (delay(min(attempt, 7), DOWN, PROMPT, low) or 0) <= (delay(min(attempt, 7), DOWN, PROMPT, high) or 0)


def test_schedules_keep_their_word() -> None:
    """Eight tries within half an hour, ten tries within four days."""
    longest = [delay(attempt, DOWN, PROMPT, 1) for attempt in range(1, 8)]
    assert sum(each or 0 for each in longest) <= 1800
    assert sum(PATIENT.delays) <= 4 * 86_400
    assert (PROMPT.attempts, PATIENT.attempts) == (8, 10)


REFUSED: dict[str, dict[str, Any]] = {
    "RetrySchedule.attempts must be a whole number of at least 1": {"attempts": 0},
    "RetrySchedule.base must be a number of seconds greater than 0": {"base": 0},
    "RetrySchedule.longest must be a number": {"longest": "1h"},
    "RetrySchedule.throttled must be a number": {"throttled": -1},
    "RetrySchedule.delays must be a list of int or float": {"delays": 5},
    "RetrySchedule.delays must be a number of seconds of at least 0, not -1": {"attempts": 2, "delays": [-1]},
    "must be one less than attempts=8, since they lie between them; there are 1": {"delays": [1]},
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_schedules_are_refused(message: str) -> None:
    """The error names the argument, what was given, and what to do."""
    with pytest.raises(UsageError, match=message):
        RetrySchedule(**REFUSED[message])


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("99999999999999999999999999", LONGEST_WAIT),
        ("Tue, 05 Jan 2027 12:01:00 GMT", 60),
        ("Tuesday, 05-Jan-27 12:01:00 GMT", 60),
        ("Tue, 05 Jan 2027 13:01:00 +0100", 60),
        ("Tue, 05 Jan 2027 11:00:00 GMT", 0),
        ("Sat, 01 Jan 2050 00:00:00 GMT", LONGEST_WAIT),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Tue, 99 Jan 2027 12:01:00 GMT", None),
    ],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    """Seconds or a date, bounded; None if it is neither."""
    assert retry_after(header, NOW) == seconds


@given(st.text(), st.datetimes(timezones=st.just(UTC), min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)))
def test_any_header_is_read(header: str, now: datetime) -> None:
    """No header of a provider breaks a worker."""
    found = retry_after(header, now)
    assert found is None or 0 <= found <= LONGEST_WAIT


def test_jitter_is_spread() -> None:
    """Deliveries released at 07:00 are spread over two minutes, and each always has the same delay."""
    delays = {f"delivery {number}": jitter(f"delivery {number}") for number in range(1000)}
    assert all(0 <= each < 120 for each in delays.values())
    assert min([int(each) // 12 for each in delays.values()].count(tenth) for tenth in range(10)) > 60
    assert all(jitter(id) == each and jitter(id, 10) == pytest.approx(each / 12) for id, each in delays.items())
    assert 0 <= jitter("\udcff") < 120


def test_dates_without_a_zone() -> None:
    """A date that does not say its zone is not one."""
    assert retry_after("Tue, 05 Jan 2027 12:01:00 -0000", NOW + timedelta(0)) is None
