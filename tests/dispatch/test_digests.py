"""Digests: which one a notification joins, when it ends and is sent, and what it has to say."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify import UsageError
from notify.dispatch._decisions import Join, Send, Skip
from notify.dispatch._digests import closes_at, field_of, joins_of, key_of, leading_window
from notify.dispatch._layers import Layers
from notify.dispatch._plan import Look, plan_recipient
from notify.dispatch._preferences import Preferences
from notify.dispatch._reasons import Reason
from notify.dispatch._type_parts import Digest
from notify.dispatch._types import NotificationType, Recipient
from notify.dispatch.abc import DigestJoin
from notify_memory import MemoryDispatchStore
from tests.dispatch.values import CHANNELS, NOW, endpoint, utc

BERLIN, SANTIAGO = "Europe/Berlin", "America/Santiago"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ALICE = [endpoint("email"), endpoint("push")]


def digested(key: str = "comment", **fields: Any) -> NotificationType:
    channels = fields.pop("type_channels", ["in_app", "push", "email"])
    return NotificationType(key, channels=channels, digest=Digest(**{"window": 600, **fields}))


def joins(
    type: NotificationType, *, now: datetime = NOW, data: Any = None, look: Look | None = None, **user: Any
) -> Sequence[DigestJoin]:
    """What is stored for a notification to alice, as a dispatcher does it."""
    layers = Layers(user=Preferences.from_json(user))
    plan = plan_recipient(
        type, Recipient("alice", BERLIN), layers, ALICE, CHANNELS, now=now, expires_at=type.expires_at(now), look=look
    )
    return joins_of(type, "alice", plan.decisions, notification="n1", data=data)


ENDS = {
    "a window from the first": ({"window": 600}, BERLIN, "2027-01-05 12:00", "2027-01-05 12:10"),
    "a window that slides": ({"window": 600, "ceiling": 3600}, BERLIN, "2027-01-05 12:00", "2027-01-05 12:10"),
    "every day": ({"every": "day"}, BERLIN, "2027-01-05 12:00", "2027-01-06 08:00"),
    "every day, before": ({"every": "day"}, BERLIN, "2027-01-05 07:59:59", "2027-01-05 08:00"),
    "every day, at that instant": ({"every": "day"}, BERLIN, "2027-01-05 08:00", "2027-01-06 08:00"),
    "every day, in summer": ({"every": "day"}, BERLIN, "2027-03-27 12:00", "2027-03-28 07:00"),
    "a time that is jumped over": (
        {"every": "day", "at": time(2, 30)},
        BERLIN,
        "2027-03-28 00:00",
        "2027-03-28 01:00",
    ),
    "a time that comes twice, first": (
        {"every": "day", "at": time(2, 30)},
        BERLIN,
        "2027-10-31 00:00",
        "2027-10-31 00:30",
    ),
    "a time that comes twice, between": (
        {"every": "day", "at": time(2, 30)},
        BERLIN,
        "2027-10-31 00:45",
        "2027-11-01 01:30",
    ),
    "a midnight that there is not": (
        {"every": "day", "at": time(0)},
        SANTIAGO,
        "2026-09-06 03:00",
        "2026-09-06 04:00",
    ),
    "a week: Monday": ({"every": "week"}, BERLIN, "2027-01-05 12:00", "2027-01-11 08:00"),
    "two days a week": ({"every": "week", "days": ["fri", "tue"]}, BERLIN, "2027-01-05 12:00", "2027-01-08 08:00"),
    "the same day of the next week": (
        {"every": "week", "days": ["tue"]},
        BERLIN,
        "2027-01-05 08:00",
        "2027-01-12 08:00",
    ),
    "a month": ({"every": "month"}, BERLIN, "2027-01-05 12:00", "2027-02-01 08:00"),
    "a month, clipped": ({"every": "month", "day": 31}, BERLIN, "2027-01-31 12:00", "2027-02-28 08:00"),
    "a month, not clipped": ({"every": "month", "day": 31}, BERLIN, "2027-02-28 12:00", "2027-03-31 07:00"),
    "a leap year": ({"every": "month", "day": 30}, BERLIN, "2028-02-01 12:00", "2028-02-29 08:00"),
    "by the recipient's clock": ({"every": "day"}, "Asia/Kathmandu", "2027-01-05 12:00", "2027-01-06 03:15"),
}


@pytest.mark.parametrize("case", ENDS)
def test_when_a_digest_ends(case: str) -> None:
    """After the window, or at the next such time of the recipient's calendar."""
    fields, tz, now, end = ENDS[case]
    assert closes_at(Digest(**fields), utc(now), tz) == utc(end)


@given(
    st.sampled_from(["day", "week", "month"]),
    st.times().map(lambda each: each.replace(second=0, microsecond=0)),
    st.integers(1, 31),
    st.datetimes(datetime(2026, 1, 1), datetime(2028, 12, 31), timezones=st.just(UTC)),
    st.sampled_from([BERLIN, SANTIAGO, "Australia/Lord_Howe", "Africa/Casablanca"]),
)
def test_the_end_is_such_a_time(every: Any, at: time, day: int, now: datetime, tz: str) -> None:
    """The end is after now, shows the time (or the first one after a jump), and there is none between."""
    digest = Digest(every=every, at=at, day=day)
    end = closes_at(digest, now, tz)
    assert end > now
    local = end.astimezone(ZoneInfo(tz))
    assert local.time() == at or (local - HOUR).time() <= at <= local.time() or local.hour in (0, 1)
    assert closes_at(digest, end - timedelta(microseconds=1), tz) == end
    if every == "week":
        assert local.weekday() == 0


def test_one_digest_for_all_channels_of_a_type() -> None:
    """What is collected on several channels is one digest; the inbox gets each notification at once."""
    (join,) = joins(digested())
    assert join == DigestJoin(
        key='["comment","alice",["email","push"],""]',
        notification="n1",
        user="alice",
        type="comment",
        channels=["push", "email"],
        closes_at=NOW + 10 * MINUTE,
        due_at=NOW + 10 * MINUTE,
    )
    (join,) = joins(digested(channels=["email"], limit=20, ceiling=3600))
    assert (join.channels, join.limit, join.slides_until) == (["email"], 20, 3600)


def test_the_channels_are_those_that_are_on() -> None:
    """A channel that is off is in no digest, and not in its key."""
    (join,) = joins(digested(), channels={"push": False})
    assert (join.channels, join.key) == (["email"], '["comment","alice",["email"],""]')
    assert joins(digested(), channels={"push": False, "email": False}) == ()


KEYED = NotificationType("comment", channels=["email"], digest=Digest(window=600, key="post.id"))


def test_a_digest_for_each_value() -> None:
    """Digests are kept apart by the value of a field; missing and null are one value, and not the same as no field."""
    values = [{"post": {"id": 7}}, {"post": {"id": "7"}}, {"post": {"id": None}}, {"post": {"id": {"b": 1, "a": [2]}}}]
    keys = [key_of(KEYED, "alice", ["email"], data) for data in values]
    assert len({*keys}) == 4
    for missing in ({}, {"post": 3}, None, [], {"post": {"id": None}}):
        assert key_of(KEYED, "alice", ["email"], missing) == keys[2]
    assert key_of(digested(), "alice", ["email"], None) not in keys
    assert key_of(KEYED, "alice", ["email"], {"post": {"id": {"a": [2], "b": 1}}}) == keys[3]


def test_keys_do_not_collide() -> None:
    """No two of type, user, channels and value make the same key; a long one is a hash."""
    keys = {
        key_of(
            NotificationType(type, channels=["a", "b"], digest=Digest(window=1, key="k")), user, channels, {"k": value}
        )
        for type in ("t", "t.u")
        for user in ("x", 'x",["a"]', "x" * 400, "x" * 401)
        for channels in (["a"], ["b"], ["a", "b"])
        for value in ("", "y", ["y"], None)
    }
    assert len(keys) == 2 * 4 * 3 * 4
    assert max(map(len, keys)) <= 300
    assert key_of(digested(), "x", ["b", "a"], None) == key_of(digested(), "x", ["a", "b"], None)


def test_fields_of_data() -> None:
    """A path names a field of inner objects."""
    assert field_of({"a": {"b": [1]}}, "a.b") == [1]
    assert field_of({"a": {"b": 1}}, "a.c") is None
    assert field_of([1], "a") is None


def test_a_digest_ends_after_quiet_hours() -> None:
    """Its end may be at night; it is sent when the night is over, and stays open until then."""
    quiet = [{"start": "22:00", "end": "07:00"}]
    (join,) = joins(digested(channels=["email"]), now=utc("2027-01-05 20:55"), quiet_hours=quiet)
    assert (join.closes_at, join.due_at) == (utc("2027-01-05 21:05"), utc("2027-01-06 06:00"))
    (join,) = joins(digested(channels=["email"]), now=utc("2027-01-05 21:05"), quiet_hours=quiet)
    assert (join.closes_at, join.due_at) == (utc("2027-01-05 21:15"), utc("2027-01-06 06:00"))
    quiet[0]["channels"] = ["push"]  # type: ignore[assignment]
    (join,) = joins(digested(), now=utc("2027-01-05 20:55"), quiet_hours=quiet)
    assert join.due_at == utc("2027-01-05 21:05"), "the e-mail is not held for the push message"


def test_quiet_hours_that_collect() -> None:
    """A rule may collect what comes at night: one digest for each channel, sent at the end of the night."""
    type = NotificationType("comment", channels=["in_app", "push", "email"])
    quiet = [{"start": "22:00", "end": "07:00", "action": "digest"}]
    found = joins(type, now=utc("2027-01-05 23:00"), quiet_hours=quiet)
    assert [(each.key, each.channels, each.closes_at, each.due_at) for each in found] == [
        (f'["comment","alice",["{channel}"],"quiet"]', [channel], utc("2027-01-06 06:00"), utc("2027-01-06 06:00"))
        for channel in ("push", "email")
    ]
    assert all((each.limit, each.slides_until) == (None, None) for each in found)


def test_decisions_without_a_join() -> None:
    """Nothing is collected of what is sent or skipped."""
    decisions = [
        Send(channel="email", reason=Reason.ALLOWED, layer="type", at=NOW),
        Skip(channel="push", reason=Reason.OPTED_OUT, layer="user"),
    ]
    assert joins_of(digested(), "alice", decisions, notification="n", data=None) == ()
    join = Join(channel="email", reason=Reason.DIGEST, layer="type", closes_at=NOW, until=NOW)
    assert len(joins_of(digested(), "alice", [*decisions, join], notification="n", data=None)) == 1


LEADING = digested(leading="first", channels=["email"])
LOOKING_BACK = digested(leading="look_back", look_back=1800, channels=["email"])


def test_a_leading_notification_is_sent_at_once() -> None:
    """The plan sends it, and says that it may be collected instead; when the count says so, it is."""
    assert joins(LEADING) == ()
    plan = plan_recipient(
        LEADING, Recipient("alice"), Layers(), ALICE, CHANNELS, now=NOW, expires_at=None, look=Look(channel="email")
    )
    assert isinstance(plan["email"], Send)
    assert plan["email"].leading
    (join,) = joins(LEADING, look=Look(channel="email", has_lost_lead=True))
    assert (join.channels, join.closes_at) == (["email"], NOW + 10 * MINUTE)
    assert joins(LEADING, look=Look(channel="email", is_digest=True)) == ()


def test_the_count_of_a_leading_notification() -> None:
    """There is one place for each key, as long as the window, or as the look back."""
    suffix, window = leading_window(LEADING, "alice", "email", None, NOW)
    assert (suffix, window.limit, window.expires_at) == ("/leading/email", 1, NOW + 10 * MINUTE)
    assert leading_window(LOOKING_BACK, "alice", "email", None, NOW)[1].expires_at == NOW + 30 * MINUTE
    others = {
        leading_window(LEADING, user, channel, None, NOW)[1].bucket for user in "ab" for channel in ("email", "sms")
    }
    assert len(others) == 4
    with pytest.raises(UsageError, match="the type 'comment' has no leading="):
        leading_window(digested(), "alice", "email", None, NOW)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("type", "minutes", "sent"),
    [
        (LEADING, [0, 1, 5, 9, 12, 14, 30], [0, 30]),
        (LEADING, [0, 10, 20], [0, 10, 20]),
        (LOOKING_BACK, [0, 15, 30, 44, 59, 89], [0, 89]),
    ],
)
async def test_who_leads(type: NotificationType, minutes: list[int], sent: list[int]) -> None:
    """One is sent at once; while others are collected, none is, also after the place of the first is free again."""
    store = MemoryDispatchStore()
    found = []
    for minute in minutes:
        now = NOW + minute * MINUTE
        suffix, window = leading_window(type, "alice", "email", None, now)
        if await store.admit(f"{minute}{suffix}", "alice", [window], now) == -1:
            found.append(minute)
        else:
            assert await store.admit(f"{minute}{suffix}/collected", "alice", [window], now, mode="record") == -1
    assert found == sent
    await store.aclose()
