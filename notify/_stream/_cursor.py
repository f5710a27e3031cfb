"""Pure: one reader's cursor in one user's log, and what every page and every offer does to it.

The cursor moves only in the step that hands an event to the reader, so a reader that is cancelled or that stops at any
moment resumes exactly after the last event it was given. What to do next when there is nothing to hand out:

| state | happens | next |
|---|---|---|
| NEW | the stream attaches to its user's ring | BEHIND; LIVE where there is no log |
| BEHIND | a page is requested | READING |
| READING | a page arrives, and the log has more | BEHIND |
| READING | the last page arrives | LIVE |
| READING | the read fails | BEHIND |
| LIVE | the offered event follows the cursor, or was seen | LIVE |
| LIVE | the offered event does not follow, or the next entry is a resync | BEHIND |
| LIVE | entries that came since the last read began are no longer in the ring | BEHIND |
| any | the stream detaches | NEW |

A first page may arrive while the state is already LIVE or BEHIND again: it is accepted when the reader asks for more.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final, NamedTuple

from .. import ids
from .._codec import encode_payload
from .._runtime._stats import Counters
from ..abc import Gap, Page
from ..event import NO_META, Event, build_event
from ..ids import GapReason
from ._position import FROM_EMPTY, FROM_NOW, FROM_ZERO, Position, Start
from ._ring import RESYNC, Ring
from ._splice import Contiguity, splice
from ._token import EMPTY

GAPS_KEPT: Final = 16

_OPENED, _SYNCED, _SIGNALS, _SAW_BEGINNING = 1, 2, 4, 8
"""Facts about a cursor in one number: there may be one for each of many logs of many streams."""


class CursorState(Enum):
    """See the table above."""

    NEW = "not attached"
    BEHIND = "has to read the log"
    READING = "waits for a page"
    LIVE = "waits for an offer"


# a member of an enum is a descriptor in Python 3.11: 80 ns at each access
NEW, BEHIND, READING, LIVE = CursorState.NEW, CursorState.BEHIND, CursorState.READING, CursorState.LIVE


class Watermark(NamedTuple):
    """A point in a ring: every stored event that was offered before it was in the log by then, or never will be."""

    ring: Ring | None
    end: int


class _Rare:
    """What few cursors need: kept apart, because there may be a cursor for each of many logs of many streams."""

    __slots__ = ("controls", "dropped", "gaps", "kept_page", "unread")

    def __init__(self) -> None:
        self.gaps: deque[Gap] = deque(maxlen=GAPS_KEPT)
        self.controls: tuple[Event, ...] = ()  # handed out before the next page
        self.kept_page: list[Event] | None = None
        self.dropped = self.unread = 0


class Cursor:
    """The position of one reader in one user's log.

    Invariants:
        I1. Everything in the log up to `last_id` was handed out, is covered by a gap, or lies before the start.
        I2. `page` holds what follows `last_id`, in reverse order, or is empty.

    Args:
        position: where to start.
        counters: where gaps, drops and replayed events are counted.
        signals: whether control events are handed out too.

    Attributes:
        last_id: the id of the last event handed out.
        state: what to do when there is nothing to hand out.
        start: the kind of the starting position; None once the first page was accepted.
        page: events read from the log and not handed out yet, the next one last.
        index: the number of the ring's entry that comes next.
    """

    __slots__ = (
        "_ephemerals",
        "_facts",
        "_proven",
        "_rare",
        "counters",
        "index",
        "last_id",
        "page",
        "start",
        "state",
    )

    def __init__(self, position: Position, counters: Counters, signals: bool = False) -> None:
        start, self.last_id = position
        self.start: Start | None = start
        self.state = NEW
        self.page: list[Event] | None = None
        self.index = 0
        self.counters = counters
        self._facts = _SIGNALS * signals | _SAW_BEGINNING * (start is FROM_EMPTY)
        self._proven = self._ephemerals = 0
        self._rare: _Rare | None = None

    @property
    def opened(self) -> bool:
        """Whether the starting position is fixed."""
        return bool(self._facts & _OPENED)

    @property
    def synced(self) -> bool:
        """Whether the replay has reached the end of the log."""
        return bool(self._facts & _SYNCED)

    def open(self) -> None:
        """Note that the starting position is fixed."""
        self._facts |= _OPENED

    def tell_no_sync(self) -> None:
        """Leave `notify.sync` to the caller."""
        self._facts |= _SYNCED

    @property
    def token(self) -> str:
        """The resume token: `last_id`, except at the beginning of a log that was seen to be empty."""
        return EMPTY if self.last_id == ids.ZERO and self._facts & _SAW_BEGINNING else self.last_id

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The latest gaps, oldest first."""
        return tuple(self._rare.gaps) if self._rare is not None else ()

    @property
    def dropped(self) -> int:
        """How many ephemeral events were lost because the ring no longer held them."""
        return self._rare.dropped if self._rare is not None else 0

    def _drop(self, count: int) -> None:
        if count:
            self._need_rare().dropped += count

    def _need_rare(self) -> _Rare:
        if self._rare is None:
            self._rare = _Rare()
        return self._rare

    @property
    def wanted(self) -> str | None:
        """The position to read from; None asks for the head alone."""
        if self.page:
            return self.page[0].id  # a page that is not the last one ends with an event
        if self.start is FROM_NOW:
            return None
        return ids.ZERO if self.start is FROM_ZERO else self.last_id

    # -- attaching -----------------------------------------------------------------------------------------------

    def attach(self, ring: Ring) -> None:
        """Begin at the end of this ring: older entries are found in the log."""
        self.index = ring.end
        self._ephemerals = self.ephemerals_in(ring) if ring.end else 0
        self._proven = 0
        rare = self._rare
        if rare is not None:
            rare.dropped += rare.unread
            rare.unread = 0
            self.page, rare.kept_page = rare.kept_page, None

    def detach(self, ring: Ring) -> None:
        """Leave the ring; `last_id` and the page in hand stay for the next `attach`."""
        missed = self.missed(ring)
        self._drop(missed)
        unread = self.ephemerals_in(ring) - self._ephemerals - missed
        if unread:
            self._need_rare().unread = unread  # lost only if the reader comes back
        self.state = NEW
        if self.page:
            self._need_rare().kept_page, self.page = self.page, None

    def discard(self) -> None:
        """Drop the page in hand: the stream has ended."""
        self.page = None
        if self._rare is not None:
            self._rare.kept_page = None

    def missed(self, ring: Ring) -> int:
        """Return how many ephemeral entries of the ring can no longer be read."""
        return max(0, self.ephemerals_gone(ring) - self._ephemerals)

    def ephemerals_in(self, ring: Ring) -> int:
        """Return how many ephemeral entries for this reader the ring ever had."""
        return ring.ephemerals

    def ephemerals_gone(self, ring: Ring) -> int:
        """Return how many of them can no longer be read."""
        return ring.ephemerals_gone()

    # -- live ----------------------------------------------------------------------------------------------------

    def take(self, ring: Ring) -> Event | None:
        """Return the next event for this cursor in the ring and move past it (keeps I1), or None."""
        remaining = ring.end - self.index
        while remaining and self.state is LIVE:
            if self.index < ring.oldest:
                self._fall_off(ring)
                remaining = ring.end - self.index
                continue
            event = ring.events[-remaining]
            verdict = self._judge(event, ring)
            if verdict is Contiguity.BEHIND:
                self.state = BEHIND
                self.index += event is RESYNC
                return None
            self.index += 1
            remaining -= 1
            if verdict is Contiguity.NEXT:
                if event.id:
                    self.last_id = event.id
                if ring.volatile or not event.id:
                    self._ephemerals += 1
                return event
        return None

    def pass_ephemeral(self) -> None:
        """Move past the next entry of the ring, an event that is not stored: what `take` does with one."""
        self.index += 1
        self._ephemerals += 1

    def _judge(self, event: Event, ring: Ring) -> Contiguity:
        if event is RESYNC:
            return Contiguity.BEHIND
        if ring.volatile:
            return Contiguity.NEXT
        verdict = splice(self.last_id, event)
        if verdict is Contiguity.BEHIND and self.index < self._proven:
            return Contiguity.SEEN  # offered before a read that did not find it: the log has lost it
        return verdict

    def _fall_off(self, ring: Ring) -> None:
        """Skip the entries that the ring no longer holds; the stored events among them are found in the log.

        Entries that were added before the last read began need no further read: they were on its page, or the log has
        lost them. Otherwise a reader would read the log again and again, as long as events arrive during its reads.
        """
        lost = self.missed(ring)
        self._drop(lost)
        self.counters.dropped += lost
        self._ephemerals = self.ephemerals_gone(ring)
        self.index = ring.oldest
        if self.index > self._proven and not ring.volatile:
            self.state = BEHIND

    def lag(self, ring: Ring, limit: int) -> int:
        """Return how many live events are still to be handed out; exact only above `limit`."""
        entries = ring.end - max(self.index, self._proven)
        if entries <= limit:
            return entries
        held = self.page[0].id if self.page else self.last_id
        window = ring.events[-entries:]
        seen = [event is not RESYNC and splice(held, event) is Contiguity.SEEN for event in window]
        if seen[0]:
            entries = len(window)  # then what the ring no longer holds is older still
        return entries - sum(seen) - window.count(RESYNC)

    # -- replay --------------------------------------------------------------------------------------------------

    def begin(self, head: str, end: int, user: str, micros: int) -> None:
        """Begin at the head of the log: what `accept` does with the first page of a stream that starts now.

        Args:
            head: the position at the end of the log.
            end: the end of the ring at the same moment.
            user: the user whose log this is, for `notify.sync`.
            micros: the time in microseconds since 1970, likewise.
        """
        self.start, self.last_id = None, head  # keeps I1
        self.state = LIVE
        self._proven = end
        if self._facts & _SIGNALS and not self._facts & _SYNCED:
            self.page = [build_event(head, head, user, "notify.sync", b"{}", micros, None, None, NO_META)]
        self._facts |= _OPENED | _SYNCED | (_SAW_BEGINNING if head == ids.ZERO else 0)

    def accept(self, page: Page, reached_end: bool, watermark: Watermark, user: str, micros: int) -> Gap | None:
        """Move on to a page that was read from `wanted`; return the gap before it, if there is one.

        Args:
            page: what was read.
            reached_end: whether the log had no more at that time.
            watermark: the end of the ring when the read began.
            user: the user whose log this is, for control events.
            micros: the time in microseconds since 1970, likewise.
        """
        events = page.events
        unread = [*reversed(events)]
        start, self.start = self.start, None
        gap = None
        if page.gap is not None and not _is_excused(start, page):
            if page.gap == "rewound" and not events and start is not None:
                # Ahead of the log, and nothing handed out yet: all that is left follows, and is read before the reader
                # learns of the gap.
                gap = self._cross_gap(page.gap, ids.ZERO, user, micros)
                self.start = Start.ZERO
                self.state = BEHIND
                return gap
            end = (events[0].prev or self.last_id) if events else page.position
            gap = self._cross_gap(page.gap, end, user, micros)
        elif not events:
            if self._rare is None or not self._rare.controls:  # else the reader must be handed a gap first
                self.last_id = page.position
        elif page.gap is not None and start is Start.TIME:
            self.last_id = events[0].prev or self.last_id  # the event before that time: it resumes without a gap
        if not events and page.position == ids.ZERO:
            self._facts |= _SAW_BEGINNING
        elif not events and self.last_id != ids.ZERO:  # else the gap after the beginning is still to be handed out
            self._facts &= ~_SAW_BEGINNING
        self.counters.delivered_replayed += len(events)
        self._facts |= _OPENED
        self.state = LIVE if reached_end else BEHIND
        if reached_end:
            self._proven = watermark.end
            if self._facts & _SIGNALS and not self._facts & _SYNCED:
                unread.insert(0, control(user, "notify.sync", page.position, page.position, {}, micros))
            self._facts |= _SYNCED
        rare = self._rare
        if rare is not None and rare.controls:
            unread += reversed(rare.controls)
            rare.controls = ()
        self.page = unread or None  # keeps I2
        return gap

    def _cross_gap(self, reason: GapReason, end: str, user: str, micros: int) -> Gap:
        """Note a gap and move to its far side (keeps I1); with signals only when the reader is handed the gap event."""
        gap = Gap(reason, self.last_id, end)
        rare = self._need_rare()
        rare.gaps.append(gap)
        self.counters.gaps[reason] += 1
        if self._facts & _SIGNALS:
            payload = {"reason": reason, "from": gap.start, "to": gap.end}
            rare.controls = (control(user, "notify.gap", end, gap.start, payload, micros),)
        else:
            self.last_id = end
        return gap


def control(user: str, type_: str, position: str, prev: str, payload: dict[str, str], micros: int) -> Event:
    data = encode_payload(payload) if payload else b"{}"  # `notify.sync` has none, and every stream yields one
    return build_event(position, prev, user, type_, data, micros, None, None, NO_META)


def _is_excused(start: Start | None, page: Page) -> bool:
    """Return whether a first page may ignore this gap: such a position does not claim that earlier events were seen."""
    if start is Start.ZERO:
        return True
    if start is Start.TIME:
        unborn = page.gap == "expired" and (bool(page.events) or page.position == ids.ZERO)
        return unborn or page.gap == "rewound"
    return False
