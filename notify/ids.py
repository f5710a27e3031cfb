"""Event ids: `<milliseconds since 1970>-<sequence>`, the grammar of Redis stream ids.

Rules:
    1. Two ids compare by number, never as strings: `"5-10"` is after `"5-9"`.
    2. Both parts are decimal ASCII digits within 64 bits. `"0"` is the position before every event.
    3. Per user, ids grow strictly in log order: `ms = max(now, last.ms)`, and `sequence` counts inside `ms`.
    4. In SQL and in the library's own stores an id is one signed 64-bit integer, `ms << 20 | sequence`
       (`pack`, `unpack`): over a million events per user and millisecond, until the year 2248.

    5. A reader at position `after` has missed nothing exactly if the first event that follows links back to it
       (`continuity`).

Because an id holds its time, "everything since 09:00" is an id too (`before`).
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias

from .errors import InvalidEventIdError

ZERO: Final = "0"
"""The position before every event."""

GapReason: TypeAlias = Literal["trimmed", "expired", "rewound"]
"""Why continuity cannot be proven: retention removed events, the whole log is gone, or it lost its newest events."""

SEQUENCE_BITS: Final = 20
"""Bits of a packed id that count events inside one millisecond."""

_GRAMMAR = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_SURELY = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")  # below 64 bits
_PART_MAX = (1 << 64) - 1
_SEQUENCE_MAX = (1 << SEQUENCE_BITS) - 1
_PACKED_MAX = (1 << 63) - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse(text: object) -> tuple[int, int]:
    """Return `(milliseconds, sequence)`, which compare as the ids do.

    Raises:
        InvalidEventIdError: the text is not an id.
    """
    if text == ZERO:
        return (0, 0)
    match = _GRAMMAR.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InvalidEventIdError(f"not an event id, which is <ms>-<seq>: {text!r:.80}")
    ms, sequence = int(match[1]), int(match[2])
    if ms > _PART_MAX or sequence > _PART_MAX:
        raise InvalidEventIdError(f"an event id has two parts of at most 64 bits: {text!r:.80}")
    return (ms, sequence)


def is_id(text: object) -> bool:
    """Return whether the text is an id."""
    if isinstance(text, str) and _SURELY.fullmatch(text):
        return True
    try:
        parse(text)
    except InvalidEventIdError:
        return False
    return True


def format(ms: int, sequence: int) -> str:
    """Return the id of these two numbers; `(0, 0)` is `"0"`."""
    return f"{ms}-{sequence}" if ms or sequence else ZERO


def canonical(text: str) -> str:
    """Return the one spelling of this id (no leading zeros), so that equal ids are equal strings.

    Raises:
        InvalidEventIdError: the text is not an id.
    """
    return format(*parse(text))


def compare(a: str, b: str) -> int:
    """Return -1, 0 or 1 as `a` is before, equal to or after `b`."""
    left, right = parse(a), parse(b)
    return (left > right) - (left < right)


def pack(text: str) -> int:
    """Return the id as one signed 64-bit integer; what does not fit becomes the nearest that does."""
    ms, sequence = parse(text)
    return min(ms << SEQUENCE_BITS | min(sequence, _SEQUENCE_MAX), _PACKED_MAX)


def unpack(number: int) -> str:
    """Return the id that `pack` made this integer from."""
    return format(number >> SEQUENCE_BITS, number & _SEQUENCE_MAX)


def before(moment: datetime) -> str:
    """Return the position from which everything at or after `moment` follows, to the millisecond.

    Raises:
        InvalidEventIdError: `moment` has no time zone or lies before 1970.
    """
    if moment.tzinfo is None:
        raise InvalidEventIdError("a position in time needs a time zone, for example datetime.now(UTC)")
    ms = (moment - _EPOCH) // timedelta(milliseconds=1)
    if ms < 0:
        raise InvalidEventIdError(f"a position in time starts at 1970: {moment.isoformat()}")
    return format(ms - 1, _PART_MAX) if ms else ZERO  # an adapter's store may use all 64 bits


def time_of(text: str) -> datetime:
    """Return the id's time, UTC, to the millisecond."""
    return _EPOCH + timedelta(milliseconds=parse(text)[0])


def following(last: str, now: float) -> str:
    """Return the id of the next event of a log: rule 3, and its sequence within the bits of rule 4.

    Args:
        last: the id of the last event ever appended to the log, `"0"` for none.
        now: seconds since 1970.

    Raises:
        InvalidEventIdError: `last` is not an id.
        ValueError: `now` is NaN or infinite.
        OverflowError: the milliseconds of the next id would exceed 64 bits (rule 2).
    """
    ms, sequence = parse(last)
    if not math.isfinite(now):
        raise ValueError(f"the time must be a finite number of seconds since 1970, not {now}")
    clock = int(max(0, min(now * 1000, _PART_MAX + 1)))
    if clock > ms:
        ms, sequence = clock, 0
    elif sequence < _SEQUENCE_MAX:
        sequence += 1
    else:
        ms, sequence = ms + 1, 0
    if ms > _PART_MAX:
        raise OverflowError(f"no id can follow {last} at {now:g} s: its milliseconds would exceed 64 bits")
    return format(ms, sequence)


def continuity(after: str, first_prev: str | None, head: str, *, expired: bool = False) -> GapReason | None:
    """Return the gap between a position and what a log still holds after it: for stores, the value of `Page.gap`.

    Args:
        after: the position that was asked for.
        first_prev: `prev` of the first event after it; None where there is none.
        head: id of the last event ever appended to this log, `"0"` for none.
        expired: where nothing is left after the position, whether that is because of its age.

    A log that still knows its head but lost the events answers `trimmed` (or `expired`); one that was forgotten
    altogether answers `expired`; a position that the log never reached, or whose successor does not link back to it,
    was `rewound`: a restored backup, or a failover that lost its tail.
    """
    if first_prev is None:
        if after == head:
            return None
        if head == ZERO:
            return "expired"
        if parse(after) > parse(head):
            return "rewound"
        return "expired" if expired else "trimmed"
    if first_prev == after:
        return None
    if first_prev == ZERO:
        return "expired"
    return "trimmed" if parse(first_prev) > parse(after) else "rewound"
