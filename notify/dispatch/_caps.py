"""Pure: frequency caps: which counts a notification needs a place in, and when a count begins again.

A cap by the calendar counts in the recipient's own day, which lasts 23, 24 or 25 hours and may begin at 01:00. Its
bucket has the local date in its name, so a recipient who changes the zone gets at most one period more. A cap by
seconds counts what was sent within the last ones: there is no moment at which twice the limit passes.

A notification is counted once for each recipient, when it is about to be sent over the first channel: retries, further
devices and fallbacks are the same notification. What is critical or mandatory is counted, but never refused.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Final, Literal

from ._reasons import Reason
from ._type_parts import FrequencyCap
from ._types import IN_APP, NotificationType
from ._zones import DAY, day_of, start_of, utc, zone_of
from .abc import CapWindow, cap_prefix

_SLACK: Final = 2 * DAY
"""How much longer than its period a bucket is kept: zones are 26 hours apart, and a recipient may travel west."""

CAP_REASONS: Final = frozenset({Reason.CAP_DAY, Reason.CAP_WEEK, Reason.CAP_MONTH, Reason.CAP_ROLLING})
"""The reasons with which frequency caps refuse."""

_REASONS: Final = {"day": Reason.CAP_DAY, "week": Reason.CAP_WEEK, "month": Reason.CAP_MONTH}


def windows(type: NotificationType, user: str, tz: str, now: datetime) -> tuple[CapWindow, ...]:
    """Return the periods in which a notification is counted, in the order of `type.caps`.

    Args:
        type: its type.
        user: the recipient.
        tz: the recipient's zone.
        now: the present time.
    """
    return tuple(_window(cap, type, user, tz, utc(now)) for cap in type.caps)


def mode_of(type: NotificationType, channel: str) -> Literal["check", "record"]:
    """Return how a notification is counted: `"record"` if caps do not refuse it."""
    return "record" if type.priority == "critical" or type.is_mandatory(channel) else "check"


def is_counted(type: NotificationType, channel: str) -> bool:
    """Whether sending over this channel needs a place in the counts."""
    return bool(type.caps) and not (channel == IN_APP and type.over_cap == "in_app")


def resets_at(cap: FrequencyCap, tz: str, now: datetime) -> datetime:
    """Return when a full count has room again, at the latest."""
    if isinstance(cap.per, str):
        return _next_period(cap.per, tz, utc(now))
    return utc(now) + timedelta(seconds=cap.per)


def reset_of(type: NotificationType, reason: str, tz: str, at: datetime) -> datetime | None:
    """Return when the cap of a type that refused with `reason` at a time has room again; None: no cap did."""
    refusing = next((cap for cap in type.caps if reason_of(cap) == reason), None)
    return None if refusing is None else resets_at(refusing, tz, at)


def reason_of(cap: FrequencyCap) -> Reason:
    """Return the reason for skipping or holding what this cap refuses."""
    return _REASONS[cap.per] if isinstance(cap.per, str) else Reason.CAP_ROLLING


def _window(cap: FrequencyCap, type: NotificationType, user: str, tz: str, now: datetime) -> CapWindow:
    # a star is not part of any name, and what comes before the first slash is the user's: no two buckets have one name
    scope = {"type": type.key, "category": f"*{type.category}", "user": "*"}[cap.scope]
    if isinstance(cap.per, str):
        name, expires = f"{cap.per}/{_period(cap.per, day_of(zone_of(tz), now))}", resets_at(cap, tz, now) + _SLACK
    else:
        name, expires = f"rolling/{cap.per:g}", resets_at(cap, tz, now)
    return CapWindow(f"{cap_prefix(user)}{scope}/{name}", cap.limit, expires)


def _period(per: str, day: date) -> str:
    if per == "day":
        return day.isoformat()
    if per == "month":
        return f"{day:%Y-%m}"
    year, week, _ = day.isocalendar()
    return f"{year:04}-W{week:02}"


def _next_period(per: str, tz: str, now: datetime) -> datetime:
    zone = zone_of(tz)
    today = day_of(zone, now)
    return start_of(zone, _first_day_after(per, today))


def _first_day_after(per: str, day: date) -> date:
    if per == "day":
        return day + DAY
    if per == "week":
        return day + (7 - day.weekday()) * DAY
    return (day.replace(day=1) + 31 * DAY).replace(day=1)
