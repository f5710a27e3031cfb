"""The daily partitions of the events: which days lack one, creating it, and emptying the default partition.

Ids hold the time, so a range of ids is a range of time. Events for which there is no partition go into the default one:
nothing is lost, but a partition cannot be attached while events of its range are in the default one. So the events are
moved in the transaction that attaches it, up to `PIECE` of them: a day that holds more of them becomes several
partitions.

A partition is known by its bounds, not by its name: other programs may have attached some, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from ._names import PostgresNames
from ._pool import Connection

DAY: Final = 86_400_000 << 20
"""Ids of one day, which is one partition: an id holds its time in milliseconds above 20 bits of sequence."""

DAYS_AHEAD: Final = 2
"""Days whose partitions exist before they begin."""

LOCK_WAIT: Final = "SET LOCAL lock_timeout = '200ms'"
"""With a longer wait, pushes would queue up behind a change of partitions and a long query; the change is retried."""

MOVE_WAIT: Final = "SET LOCAL lock_timeout = '1s'"
"""Moving events takes as long anyway, and on a busy server there is seldom a moment without a push."""

PIECE: Final = 20_000
"""Events that one transaction moves out of the default partition. Pushes and reads wait: up to a second if busy."""

MAX_MOVED: Final = 1_000_000
"""Events of one day that are moved; a day with more stays in the default partition until `max_age` removes them."""

_BOUND: Final = re.compile(r"FOR VALUES FROM \((MINVALUE|'-?\d+')\) TO \((MAXVALUE|'-?\d+')\)")
_LOWEST, _HIGHEST = -1 << 63, (1 << 63) - 1


class Partition(NamedTuple):
    """A partition of the events.

    Attributes:
        name: within our schema and without the prefix; "" for one with another name.
        low: the lowest id; None for the default partition.
        high: the id after the highest one; None for the default partition.
        pages: its size in pages of the server.
        is_owned: whether this role may drop it.
    """

    name: str
    low: int | None
    high: int | None
    pages: int
    is_owned: bool

    @property
    def is_ours(self) -> bool:
        """Whether the library created it, judging by the name."""
        return re.fullmatch(r"events_\d+(_\d+)?", self.name) is not None


def parse_bound(text: str) -> tuple[int, int] | None:
    """Return the range of a partition's bound, as the server writes it; None for the default partition."""
    found = _BOUND.fullmatch(text)
    if found is None:
        return None
    low, high = (word.strip("'") for word in found.groups())
    return (_LOWEST if low == "MINVALUE" else int(low)), (_HIGHEST if high == "MAXVALUE" else int(high))


def uncovered(low: int, high: int, partitions: Iterable[Partition]) -> Iterator[tuple[int, int]]:
    """Yield the parts of a range of ids that no partition but the default one covers, in order."""
    ranges = sorted((p.low, p.high) for p in partitions if p.low is not None and p.high is not None)
    for first, end in ranges:
        if end <= low or first >= high:
            continue
        if first > low:
            yield low, first
        low = end
    if low < high:
        yield low, high


def missing_ranges(today: int, partitions: Sequence[Partition]) -> list[tuple[int, int]]:
    """Return the ranges from today to `DAYS_AHEAD` that have no partition, each within one day."""
    days = range(today, today + DAYS_AHEAD + 1)
    return [part for day in days for part in uncovered(day * DAY, (day + 1) * DAY, partitions)]


def pieces(low: int, high: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
    """Return a range cut at these ids."""
    edges = [low, *(cut for cut in cuts if low < cut < high), high]
    return [*pairwise(edges)]


def name_of(low: int, high: int) -> str:
    """Return the name of a new partition: of its day, or of its beginning within the day."""
    day, start = divmod(low, DAY)
    return f"events_{day}" if high - low == DAY and not start else f"events_{day}_{start}"


async def create_partition(connection: Connection, names: PostgresNames, low: int, high: int) -> None:
    """Create the partition of a range, without blocking saves.

    Raises:
        asyncpg.CheckViolationError: the default partition already holds events of that range.
    """
    sql = names.sql("make_partition", partition=name_of(low, high), low=low, high=high)
    await connection.execute(f"{LOCK_WAIT};\n{sql}")


async def move_partition(connection: Connection, names: PostgresNames, low: int, high: int) -> None:
    """Create the partition of a range, and move the events of the default partition there. Saves and reads wait."""
    sql = names.sql("move_partition", partition=name_of(low, high), low=low, high=high)
    await connection.execute(f"{MOVE_WAIT};\n{sql}")
