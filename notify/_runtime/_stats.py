"""What the library counts: plain integers, cheap to increment; read by `statistics()` and by the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


class Counters:
    """Running totals of one notifier or stream store."""

    __slots__ = (
        "batches",
        "delivered_local",
        "delivered_replayed",
        "delivered_routed",
        "dropped",
        "duplicates",
        "gaps",
        "open_streams",
        "pending_pushes",
        "presence_failures",
        "pushed_ephemeral",
        "pushed_offline",
        "pushed_rejected",
        "pushed_stored",
        "pushed_uncertain",
        "read_failures",
        "route_failures",
        "routed",
        "yielded",
    )

    def __init__(self) -> None:
        self.open_streams = 0
        self.pending_pushes = 0
        self.pushed_stored = 0
        self.pushed_ephemeral = 0
        self.pushed_offline = 0
        self.pushed_rejected = 0
        self.pushed_uncertain = 0
        self.delivered_local = 0
        self.delivered_routed = 0
        self.delivered_replayed = 0
        self.duplicates = 0
        self.dropped = 0
        self.gaps: Counter[str] = Counter()
        self.batches = 0
        self.routed = 0
        self.route_failures = 0
        self.presence_failures = 0
        self.read_failures = 0
        self.yielded = 0

    def add(self, other: Counters) -> None:
        """Add the totals of another one."""
        for name in Counters.__slots__:
            total = getattr(self, name) + getattr(other, name)
            setattr(self, name, total)


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of one notifier.

    Attributes:
        open_streams: streams open now.
        users: users with an open stream now.
        pending_pushes: pushes whose outcome is still unknown.
        pushes: pushes by outcome (`OUTCOMES`) since the start.
        delivered_local: offers of this notifier's own pushes that open streams accepted. A stream store usually offers
            them itself, which is not counted.
        delivered_routed: offers that arrived through `deliver` and that open streams accepted.
        delivered_replayed: events that streams read from the log.
        duplicates: offers ignored because the streams had seen the event.
        dropped: ephemeral events lost to full buffers, as far as their readers have noticed.
        gaps: gaps by reason.
        batches: calls of `save_many`.
        routed: events handed to the router without an error.
        route_failures: routes that failed, timed out or were skipped because too many were in flight.
        presence_failures: calls of the presence tracker that failed.
        read_failures: reads and polls of the store that failed.
        yielded: events that the streams of this notifier have handed to their readers, on every store; signals too.
    """

    open_streams: int
    users: int
    pending_pushes: int
    pushes: Mapping[str, int]
    delivered_local: int
    delivered_routed: int
    delivered_replayed: int
    duplicates: int
    dropped: int
    gaps: Mapping[str, int]
    batches: int
    routed: int
    route_failures: int
    presence_failures: int
    read_failures: int
    yielded: int


OUTCOMES: Final = ("stored", "ephemeral", "offline", "rejected", "uncertain")
"""The outcomes of a push; `offline`: dropped by the policy for absent users."""


def pushes(counters: Counters) -> dict[str, int]:
    """Return the number of pushes by outcome."""
    return {outcome: getattr(counters, f"pushed_{outcome}") for outcome in OUTCOMES}


def snapshot(counters: Counters, users: int) -> Statistics:
    """Return the totals as they are now."""
    fields = {name: getattr(counters, name) for name in Counters.__slots__ if not name.startswith("pushed_")}
    return Statistics(**fields | {"users": users, "pushes": pushes(counters), "gaps": dict(counters.gaps)})
