"""What the machine expects, in plain Python: a list for each user, and where each reader must be in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from notify import Event, Gap, ids

Kind = Literal["now", "zero", "time", "id"]
"""Of a reader's start."""


class Log:
    """One user's log.

    Attributes:
        events: every event ever stored, in order.
        gone: how many of them, from the front, are no longer retained.
    """

    def __init__(self, max_len: int) -> None:
        self.events: list[Event] = []
        self.gone = 0
        self._max_len = max_len
        self._index = {ids.ZERO: -1}

    @property
    def head(self) -> str:
        """The id of the last event."""
        return self.events[-1].id if self.events else ids.ZERO

    @property
    def retained(self) -> list[Event]:
        """What can still be read."""
        return self.events[self.gone :]

    def __contains__(self, id_: str) -> bool:
        return id_ in self._index

    def append(self, event: Event) -> None:
        """Take in what the store has appended; it must link to what was there."""
        assert event.prev == self.head, f"{event} does not follow {self.head}"
        assert ids.compare(event.id, self.head) > 0, f"{event} is not after {self.head}"
        self._index[event.id] = len(self.events)
        self.events.append(event)
        self.gone = max(self.gone, len(self.events) - self._max_len)

    def trim(self, before: str) -> int:
        """Remove what lies before this id and return how many."""
        count = sum(ids.compare(event.id, before) < 0 for event in self.retained)
        self.gone += count
        return count

    def between(self, low: str, high: str) -> list[Event]:
        """Return the events after `low` up to `high`."""
        return [event for event in self.events if ids.compare(event.id, low) > 0 >= ids.compare(event.id, high)]

    def is_retained(self, event: Event) -> bool:
        """Whether the event can still be read."""
        return self._index[event.id] >= self.gone


class Track:
    """Where one reader is, checked at each thing that it is given: nothing is skipped, doubled or made up.

    Args:
        log: what is read.
        kind: what kind of start was asked for.
        start: its canonical id.

    Attributes:
        position: what was yielded last, or where a gap ended.
        beginning: the head of the log when the stream began to open.
        fresh: nothing was yielded yet.
    """

    def __init__(self, log: Log, kind: Kind, start: str) -> None:
        self.log = log
        self.kind = kind
        self.position = start
        self.beginning = log.head
        self.fresh = True

    def begin(self) -> None:
        """Note that the stream opens now."""
        self.beginning = self.log.head
        if self.kind == "now":
            self.position = self.beginning

    def take(self, event: Event) -> None:
        """Pass one stored event."""
        assert event.id in self.log, f"{event} was never stored"
        assert event == self.log.events[self.log._index[event.id]], f"{event} differs from what was stored"
        if self.fresh and self.kind == "now":
            assert ids.compare(event.prev, self.position) >= 0, f"{event} lies before the stream's beginning"
        elif self.fresh and self.kind != "id":
            self._begin_at(event.prev)
        else:
            assert event.prev == self.position, f"{event} was yielded to a reader at {self.position}"
        self.position, self.fresh = event.id, False

    def rest_at(self, position: str) -> None:
        """Note that the stream has yielded everything that it knows, and says that it is here."""
        if self.fresh and self.kind == "now":
            assert position in self.log
            assert ids.compare(self.position, position) <= 0 >= ids.compare(position, self.log.head)
        elif self.fresh and self.kind != "id":
            self._begin_at(position)
        else:
            assert position == self.position, f"the stream is at {position}, its reader at {self.position}"
        self.position, self.fresh = position, False

    def cross(self, gap: Gap) -> None:
        """Pass one gap; it must be there, and no larger than it is."""
        if self.fresh and self.kind != "id" and gap.start != self.position:
            self.rest_at(gap.start)  # where it was when it opened
        assert gap.start == self.position, f"{gap} does not start at {self.position}"
        assert gap.end in self.log, f"{gap} ends nowhere"
        missing = self.log.between(gap.start, gap.end)
        if gap.reason == "trimmed":
            assert missing, f"{gap}: nothing is missing"
            assert not any(map(self.log.is_retained, missing)), f"{gap}: something of it can still be read"
            if self.fresh and self.kind == "zero":
                assert ids.compare(gap.end, self.beginning) > 0, f"{gap} of what was gone before the stream opened"
        else:
            assert (self.fresh, self.kind) == (True, "id"), f"{gap} in the middle of a log"
            assert gap.start not in self.log, f"{gap} of a position that was there"
            assert ids.compare(gap.end, gap.start) < 0
            if gap.reason == "expired":
                assert gap.end == ids.ZERO
                assert not self.log.between(ids.ZERO, gap.start)
            elif gap.end != ids.ZERO:
                assert not self.log.between(gap.end, gap.start), f"{gap} hides events"
        all_over = gap.reason == "rewound" and gap.end == ids.ZERO
        self.position, self.fresh, self.kind = gap.end, all_over, "zero" if all_over else self.kind

    def _begin_at(self, position: str) -> None:
        skipped = self.log.between(self.position, position)
        assert not any(map(self.log.is_retained, skipped)), f"began at {position} but {skipped[-1]} can be read"
        assert self.kind == "zero" or not skipped, f"began at {position} without a gap"


@dataclass(eq=False)
class Heard:
    """The ephemeral events that one reader was offered.

    Attributes:
        offered: what they held, in order.
        passed: how many of them were yielded or skipped.
        skipped: how many were skipped.
        begin: how many entries of any kind the ring had had before.
        excused: how many were skipped before the stream was last detached.
    """

    offered: list[int] = field(default_factory=list)
    passed: int = 0
    skipped: int = 0
    begin: int = 0
    excused: int = 0

    def cut(self) -> None:
        """Note that the stream was detached: what it has not read is lost to it."""
        self.skipped += len(self.offered) - self.passed
        self.excused = self.skipped
        self.passed = len(self.offered)

    def take(self, value: int) -> None:
        """Pass one that was yielded."""
        assert value in self.offered[self.passed :], f"ephemeral {value} was yielded twice, or out of order"
        position = self.offered.index(value, self.passed)
        self.skipped += position - self.passed
        self.passed = position + 1

    def rest(self, dropped: int, full: bool) -> None:
        """Note that the stream has yielded all it has: the others were dropped, and only for want of room."""
        self.skipped += len(self.offered) - self.passed
        self.passed = len(self.offered)
        assert dropped == self.skipped, f"{self.skipped} ephemeral events are missing, {dropped} count as dropped"
        assert full or dropped <= self.excused, f"{dropped} dropped, but the ring was never full"
