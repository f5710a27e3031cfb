"""Frequency caps: what is counted where, by the recipient's calendar, and when there is room again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify import UsageError
from notify.dispatch._caps import is_counted, mode_of, reason_of, resets_at, windows
from notify.dispatch._reasons import Reason
from notify.dispatch._type_parts import FrequencyCap
from notify.dispatch._types import NotificationType
from notify_memory import MemoryDispatchStore
from tests.dispatch.values import COMMENT, NOW, OFFER, utc

BERLIN, SANTIAGO, TOKYO = "Europe/Berlin", "America/Santiago", "Asia/Tokyo"
HOUR = timedelta(hours=1)


def capped(*caps: FrequencyCap, key: str = "promo", **fields: object) -> NotificationType:
    values = {"channels": ["in_app", "push"], "category": "marketing", "opt_in": "promotions", **fields}
    return NotificationType(key, caps=caps, **values)  # type: ignore[arg-type]


def buckets(type: NotificationType, now: datetime, tz: str = BERLIN, user: str = "alice") -> list[str]:
    return [each.bucket for each in windows(type, user, tz, now)]


def test_buckets_are_named_by_the_local_date() -> None:
    """Day, ISO week and month are those that the recipient's clock on the wall shows."""
    all_three = capped(FrequencyCap(1), FrequencyCap(2, "week"), FrequencyCap(3, "month"))
    assert buckets(all_three, utc("2026-12-31 22:59")) == [
        "alice/promo/day/2026-12-31",
        "alice/promo/week/2026-W53",
        "alice/promo/month/2026-12",
    ]
    assert buckets(all_three, utc("2026-12-31 23:00")) == [
        "alice/promo/day/2027-01-01",
        "alice/promo/week/2026-W53",
        "alice/promo/month/2027-01",
    ]
    assert [each.limit for each in windows(all_three, "alice", BERLIN, NOW)] == [1, 2, 3]


def test_scopes() -> None:
    """Types are counted apart, or with their category, or with all; no user id and no key makes two of these one."""
    cap = FrequencyCap(1, 60.0)
    assert buckets(capped(cap), NOW) == ["alice/promo/rolling/60"]
    assert buckets(capped(FrequencyCap(1, 60, "category")), NOW) == ["alice/*marketing/rolling/60"]
    assert buckets(capped(FrequencyCap(1, 60, "user")), NOW) == ["alice/*/rolling/60"]
    assert buckets(capped(FrequencyCap(1, 0.5)), NOW) == ["alice/promo/rolling/0.5"]
    names = {
        buckets(capped(FrequencyCap(1, 60, scope), key=key), NOW, user=user)[0]
        for scope in ("type", "category", "user")
        for key in ("a", "marketing", "a.b")
        for user in ("x", "x/a", "x/*", "x/*marketing/rolling/60")
    }
    assert len(names) == 4 * (3 + 1 + 1)


RESETS = {
    "a day of 24 hours": ("day", BERLIN, "2027-01-05 12:00", "2027-01-05 23:00"),
    "its last second": ("day", BERLIN, "2027-01-05 22:59:59", "2027-01-05 23:00"),
    "its first instant is the next day's": ("day", BERLIN, "2027-01-05 23:00", "2027-01-06 23:00"),
    "a day of 23 hours": ("day", BERLIN, "2027-03-27 23:00", "2027-03-28 22:00"),
    "a day of 25 hours": ("day", BERLIN, "2027-10-30 22:00", "2027-10-31 23:00"),
    "the day before one that begins at 01:00": ("day", SANTIAGO, "2026-09-05 04:00", "2026-09-06 04:00"),
    "a day that begins at 01:00": ("day", SANTIAGO, "2026-09-06 04:00", "2026-09-07 03:00"),
    "a day whose last hour comes twice": ("day", SANTIAGO, "2027-04-04 02:30", "2027-04-04 04:00"),
    "a week of 167 hours": ("week", BERLIN, "2027-03-21 23:00", "2027-03-28 22:00"),
    "a week, on Sunday": ("week", BERLIN, "2027-01-10 22:00", "2027-01-10 23:00"),
    "a month": ("month", BERLIN, "2027-02-28 12:00", "2027-02-28 23:00"),
    "December": ("month", BERLIN, "2026-12-31 12:00", "2026-12-31 23:00"),
    "January has 31 days": ("month", BERLIN, "2027-01-30 12:00", "2027-01-31 23:00"),
    "the last hour": (3600.0, BERLIN, "2027-01-05 12:00", "2027-01-05 13:00"),
}


@pytest.mark.parametrize("case", RESETS)
def test_when_there_is_room_again(case: str) -> None:
    """A period ends at the recipient's next midnight, which is 23 to 25 hours after the one before it."""
    per, tz, now, end = RESETS[case]
    cap = FrequencyCap(1, per)  # type: ignore[arg-type]
    assert resets_at(cap, tz, utc(now)) == utc(end)
    (window,) = windows(capped(cap), "alice", tz, utc(now))
    if isinstance(per, str):
        (after,) = windows(capped(cap), "alice", tz, utc(end))
        (before,) = windows(capped(cap), "alice", tz, utc(end) - timedelta(microseconds=1))
        assert before.bucket == window.bucket != after.bucket
        assert window.expires_at >= utc(end) + 26 * HOUR  # the widest distance between two zones
    else:
        assert window.expires_at == utc(end)


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2028, 12, 31), timezones=st.just(UTC)),
    st.sampled_from(["day", "week", "month"]),
    st.sampled_from([BERLIN, SANTIAGO, TOKYO, "Australia/Lord_Howe", "Africa/Casablanca", "America/Havana"]),
)
def test_a_period_is_one_bucket(now: datetime, per: str, tz: str) -> None:
    """From any instant to the end of its period the bucket is the same, and then there is another one."""
    cap = FrequencyCap(1, per)  # type: ignore[arg-type]
    end = resets_at(cap, tz, now)
    assert now < end
    assert buckets(capped(cap), end - timedelta(microseconds=1), tz) == buckets(capped(cap), now, tz)
    assert buckets(capped(cap), end, tz) != buckets(capped(cap), now, tz)
    local = end.astimezone(ZoneInfo(tz))
    assert (local.hour, local.minute) <= (1, 0)


def test_a_change_of_zone() -> None:
    """A recipient who flies west is in the same day again, so gets at most what the limit says and one period more."""
    cap = capped(FrequencyCap(2))
    evening = utc("2027-01-05 16:00")  # the 6th in Tokyo, the 5th in Santiago
    assert buckets(cap, evening, TOKYO) != buckets(cap, evening, SANTIAGO)
    assert buckets(cap, evening, SANTIAGO) == buckets(cap, evening - 12 * HOUR, TOKYO)


def test_what_is_counted() -> None:
    """Only types with caps; not the inbox of a type that goes to the inbox when it is over."""
    assert not is_counted(COMMENT, "push")
    assert is_counted(OFFER, "in_app")
    over = capped(FrequencyCap(1), over_cap="in_app")
    assert (is_counted(over, "push"), is_counted(over, "in_app")) == (True, False)


def test_what_is_not_refused() -> None:
    """Critical and mandatory ones are counted and pass, the latter on the channels on which they are mandatory."""
    caps = {"caps": [FrequencyCap(1)], "channels": ["push", "email"]}
    assert mode_of(OFFER, "email") == "check"
    assert mode_of(NotificationType("a", priority="critical", **caps), "push") == "record"  # type: ignore[arg-type]
    some = NotificationType("a", mandatory=["email"], **caps)  # type: ignore[arg-type]
    assert (mode_of(some, "email"), mode_of(some, "push")) == ("record", "check")


def test_reasons() -> None:
    """Each period has its reason."""
    caps = [FrequencyCap(1, per) for per in ("day", "week", "month", 60)]  # type: ignore[arg-type]
    assert [reason_of(each) for each in caps] == [
        Reason.CAP_DAY,
        Reason.CAP_WEEK,
        Reason.CAP_MONTH,
        Reason.CAP_ROLLING,
    ]


def test_a_naive_time_is_refused() -> None:
    """The present time has a zone."""
    with pytest.raises(UsageError, match="now must be an aware datetime"):
        windows(OFFER, "alice", BERLIN, datetime(2027, 1, 5))
    with pytest.raises(UsageError, match="time zone 'Nowhere' is unknown"):
        windows(OFFER, "alice", "Nowhere", NOW)


@pytest.mark.anyio
async def test_no_hour_has_more_than_the_limit() -> None:
    """A cap by seconds holds in every interval of that length, wherever it begins, and lets through what it can."""
    type = capped(FrequencyCap(3, 3600))
    store = MemoryDispatchStore()
    sent: list[datetime] = []
    for number in range(200):
        now = NOW + number * timedelta(minutes=7) + timedelta(seconds=61 * (number % 5))
        if await store.admit(f"n{number}", "alice", windows(type, "alice", BERLIN, now), now) == -1:
            sent.append(now)
        else:
            assert len([each for each in sent if each > now - HOUR]) == 3, "it refused too early"
    assert all(later - earlier >= HOUR for earlier, later in zip(sent, sent[3:], strict=False))
    assert len(sent) > 50
    await store.aclose()


@pytest.mark.anyio
async def test_a_day_lets_its_limit_through() -> None:
    """On days of 23, 24 and 25 hours, a cap of two a day admits two a day, of one question each quarter of an hour."""
    type = capped(FrequencyCap(2))
    store = MemoryDispatchStore()
    days: dict[str, int] = {}
    for start in ("2027-03-26 23:00", "2027-10-29 22:00"):
        for number in range(4 * 24 * 3):
            now = utc(start) + number * HOUR / 4
            if await store.admit(f"{start} {number}", "alice", windows(type, "alice", BERLIN, now), now) == -1:
                day = now.astimezone(ZoneInfo(BERLIN)).date().isoformat()
                days[day] = days.get(day, 0) + 1
    assert set(days.values()) == {2}
    assert len(days) == 7  # the last quarter of the first series is in the next day; the second one ends with its hour
    await store.aclose()
