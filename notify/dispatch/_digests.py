"""Pure: digests: which one a notification joins, and when that ends.

A digest has a key made of the type, the recipient, its channels and a value of the data. While it is open, whatever has
its key joins it. Its definition is not part of the key, so a changed type does not split a digest that is open.
"""

from __future__ import annotations

import calendar
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from notify.errors import UsageError

from ._checks import WEEKDAYS
from ._decisions import Join
from ._reasons import Reason
from ._type_parts import Digest
from ._types import NotificationType
from ._zones import DAY, day_of, instant, utc, zone_of
from .abc import CapWindow, DigestJoin, cap_prefix

_LONGEST_KEY: Final = 300
"""A longer key is replaced by its hash: stores have it in an index."""


def closes_at(digest: Digest, now: datetime, tz: str) -> datetime:
    """Return when a digest that opens, or slides, now ends, quiet hours aside.

    Args:
        digest: its definition.
        now: the present time.
        tz: the recipient's zone, for ends by the calendar.
    """
    now = utc(now)
    if digest.window is not None:
        return now + timedelta(seconds=digest.window)
    zone = zone_of(tz)
    day = day_of(zone, now) - DAY  # where the clocks jump, the end of yesterday may still be to come
    while (end := _end_on(digest, zone, day)) is None or end <= now:
        day += DAY
    return end


def _end_on(digest: Digest, zone: ZoneInfo, day: date) -> datetime | None:
    if digest.every == "week" and WEEKDAYS[day.weekday()] not in digest.days:
        return None
    if digest.every == "month" and day.day != min(digest.day, calendar.monthrange(day.year, day.month)[1]):
        return None
    return instant(zone, day, digest.at)


def key_of(type: NotificationType, user: str, channels: Sequence[str], data: Any, kind: str = "") -> str:
    """Return the key of a digest. A value that is missing is the same as null, and not the same as no key at all."""
    parts: list[Any] = [type.key, user, sorted(channels), kind]
    if type.digest is not None and type.digest.key and not kind:
        parts.append(field_of(data, type.digest.key))
    key = json.dumps(parts, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return key if len(key) <= _LONGEST_KEY else f"{type.key}:{hashlib.sha256(key.encode()).hexdigest()}"


def field_of(data: Any, path: str) -> Any:
    """Return a field of the data, with dots for inner fields; None: there is none."""
    for name in path.split("."):
        data = data.get(name) if isinstance(data, Mapping) else None
    return data


def joins_of(
    type: NotificationType, user: str, decisions: Sequence[object], *, notification: str, data: Any
) -> tuple[DigestJoin, ...]:
    """Return what a store needs to collect a notification.

    The channels on which the type collects share one digest, so that its content is the same on all; it is sent when
    the first of them is not quiet, and the others are held by themselves. What quiet hours collect is by channel.

    Args:
        type: its type.
        user: the recipient.
        decisions: those of the plan, of which each `Join` counts.
        notification: its id.
        data: what was submitted.
    """
    joins = [each for each in decisions if isinstance(each, Join)]
    by_type = [each for each in joins if each.reason is Reason.DIGEST]
    groups = [[each] for each in joins if each.reason is not Reason.DIGEST] + ([by_type] if by_type else [])
    return tuple(_join(type, user, group, notification, data) for group in groups)


def _join(type: NotificationType, user: str, group: Sequence[Join], notification: str, data: Any) -> DigestJoin:
    channels = [each.channel for each in group]
    is_quiet = group[0].reason is not Reason.DIGEST
    digest = None if is_quiet else type.digest
    return DigestJoin(
        key=key_of(type, user, channels, data, "quiet" if is_quiet else ""),
        notification=notification,
        user=user,
        type=type.key,
        channels=channels,
        closes_at=min(each.closes_at for each in group),
        due_at=min(each.until for each in group),
        slides_until=digest.ceiling if digest else None,
        limit=digest.limit if digest else None,
    )


def leading_window(type: NotificationType, user: str, channel: str, data: Any, now: datetime) -> tuple[str, CapWindow]:
    """Return what decides whether a notification is sent at once (see `Digest.leading`): a count of one.

    `CapStore.admit` is asked under an id beside that of the notification, since verdicts are kept. What it refuses is
    collected, and recorded under one more id with `mode="record"`, so that nothing is sent at once while the digest is
    open. With `"look_back"`, the digest itself is recorded when it is sent.

    Returns:
        What to add to the id of the notification, and the window.
    """
    digest = type.digest
    if digest is None or not digest.leading:
        raise UsageError(f"the type {type.key!r} has no leading= in its digest; each notification is collected")
    key = hashlib.sha256(key_of(type, user, [channel], data).encode()).hexdigest()[:32]
    seconds = digest.look_back if digest.look_back is not None else digest.window
    assert seconds is not None
    window = CapWindow(f"{cap_prefix(user)}digest/{key}", 1, utc(now) + timedelta(seconds=seconds))
    return f"/leading/{channel}", window
