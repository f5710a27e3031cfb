"""The pure cursor, without an event loop: its table of states, and that an illegal or empty step changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from notify import Event, Page, ids
from notify._runtime._stats import Counters
from notify._stream._cursor import Cursor, CursorState, Watermark
from notify._stream._position import Start, parse_position
from notify._stream._ring import Ring
from notify.abc import Position
from notify.errors import InvalidEventIdError

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def event(number: int, prev: int | None = None) -> Event:
    before = number - 1 if prev is None else prev
    return Event("alice", "t", number, timestamp=MOMENT).stored(f"{number}-0", f"{before}-0" if before else ids.ZERO)


def attached(position: Position, ring: Ring, *, signals: bool = False) -> Cursor:
    cursor = Cursor(parse_position(position, "alice"), Counters(), signals=signals)
    cursor.attach(ring)
    cursor.state = CursorState.BEHIND
    return cursor


def accept(cursor: Cursor, page: Page, ring: Ring, *, reached_end: bool = True) -> list[object]:
    gap = cursor.accept(page, reached_end, Watermark(ring, ring.end), "alice", 0)
    return [] if gap is None else [gap.reason, gap.start, gap.end]


def hand_out(cursor: Cursor) -> list[str]:
    """Take what is in hand, as a stream does."""
    types = []
    while cursor.page:
        taken = cursor.page.pop()
        cursor.last_id = taken.id
        types.append(taken.type)
    return types


@pytest.mark.parametrize(
    ("position", "start", "wanted"),
    [(None, Start.NOW, None), ("", Start.NOW, None), ("0", Start.ZERO, "0"), ("007-1", Start.ID, "7-1")],
)
def test_a_new_cursor_wants_its_position(position: Position, start: Start, wanted: str | None) -> None:
    """Before its first page a cursor wants the head alone, or what follows its canonical position."""
    cursor = Cursor(parse_position(position, "alice"), Counters())
    assert (cursor.start, cursor.wanted, cursor.state, cursor.opened) == (start, wanted, CursorState.NEW, False)


@pytest.mark.parametrize("position", ["7", "-", "1-2-3", 7, b"1-1"])
def test_what_is_not_a_position_is_refused(position: object) -> None:
    """The error names what was given."""
    with pytest.raises(InvalidEventIdError, match="id"):
        parse_position(position, "alice")  # type: ignore[arg-type]


def test_pages_lead_to_live() -> None:
    """A page that is not the last leaves the cursor behind, and it wants the next one; the last page makes it live."""
    ring = Ring(4)
    cursor = attached("0", ring)
    assert accept(cursor, Page([event(1), event(2)], None, "2-0"), ring, reached_end=False) == []
    assert (cursor.state, cursor.last_id, cursor.wanted, cursor.synced) == (CursorState.BEHIND, "0", "2-0", False)
    assert hand_out(cursor) == ["t", "t"]
    accept(cursor, Page([event(3)], None, "3-0"), ring)
    assert (cursor.state, cursor.last_id, cursor.synced) == (CursorState.LIVE, "2-0", True)
    assert hand_out(cursor) == ["t"]
    assert cursor.counters.delivered_replayed == 3


@pytest.mark.parametrize("signals", [False, True])
@pytest.mark.parametrize("head", [ids.ZERO, "7-0"])
def test_beginning_at_the_head_is_accepting_an_empty_page(head: str, signals: bool) -> None:
    """A cursor that starts now reaches the same state either way, and yields the same events from there on."""
    ring = Ring(4)
    ring.append(event(7, prev=6))
    begun, accepted = (attached(None, ring, signals=signals) for _ in range(2))
    ring.append(event(9, prev=8))  # not found by the read that follows, so the log has lost it
    begun.begin(head, ring.end, "alice", 0)
    accept(accepted, Page([], None, head), ring)
    ring.append(event(10, prev=7))
    for each in (begun, accepted):
        assert (each.state, each.opened, each.synced, each.start) == (CursorState.LIVE, True, True, None)
        assert (each.last_id, each.token) == (head, "0-0" if head == ids.ZERO else head)
        assert hand_out(each) == ["notify.sync"] * signals
        assert (each.lag(ring, 0), each.gaps, each.dropped) == (1, (), 0)
    assert begun.take(ring) == accepted.take(ring) == (event(10, prev=7) if head != ids.ZERO else None)
    assert begun.state == accepted.state


def test_a_live_cursor_takes_what_follows() -> None:
    """The direct successor is taken; what was seen is passed over; nothing there changes nothing."""
    ring = Ring(4)
    cursor = attached("0", ring)
    accept(cursor, Page([], None, "0"), ring)
    before = (cursor.last_id, cursor.index, cursor.state)
    assert cursor.take(ring) is None
    assert (cursor.last_id, cursor.index, cursor.state) == before
    ring.append(event(1))
    assert cursor.take(ring) == event(1)
    ring.events.append(event(1))
    ring.end += 1
    assert cursor.take(ring) is None
    assert (cursor.last_id, cursor.state, cursor.index) == ("1-0", CursorState.LIVE, ring.end)


def test_a_cursor_that_is_not_live_takes_nothing() -> None:
    """Whatever the ring holds, a cursor that has to read the log first leaves it there."""
    ring = Ring(4)
    cursor = attached("0", ring)
    ring.append(event(1))
    for state in (CursorState.NEW, CursorState.BEHIND, CursorState.READING):
        cursor.state = state
        assert cursor.take(ring) is None
        assert (cursor.last_id, cursor.index, cursor.state) == ("0", 0, state)


@pytest.mark.parametrize("what", ["a gap in the chain", "a resync", "an overflow"])
def test_what_is_not_proven_sends_the_cursor_to_the_log(what: str) -> None:
    """An offer that does not follow, a resync, and entries that the ring no longer holds: the cursor does not move."""
    ring = Ring(2)
    cursor = attached("0", ring)
    accept(cursor, Page([], None, "0"), ring)
    if what == "a gap in the chain":
        ring.append(event(5))
    elif what == "a resync":
        ring.resync()
    else:
        for number in range(1, 4):
            ring.append(event(number))
    assert cursor.take(ring) is None
    assert (cursor.state, cursor.last_id, cursor.wanted) == (CursorState.BEHIND, "0", "0")


def test_what_a_page_has_proven_is_not_read_again() -> None:
    """Entries that the ring no longer holds send the cursor to the log only if they came after the last read began."""
    ring = Ring(2)
    cursor = attached("0", ring)
    for number in range(1, 4):
        ring.append(event(number))
    accept(cursor, Page([event(1), event(2), event(3)], None, "3-0"), ring)
    ring.append(event(4))
    hand_out(cursor)
    assert cursor.take(ring) == event(4)
    assert cursor.take(ring) is None
    assert cursor.state is CursorState.LIVE
    for number in range(5, 8):
        ring.append(event(number))
    assert cursor.take(ring) is None
    assert (cursor.state, cursor.wanted) == (CursorState.BEHIND, "4-0")


def test_a_stored_event_that_only_ephemeral_ones_follow_is_looked_for() -> None:
    """None of what is left in the ring shows that an event is missing, so its loss has to."""
    ring = Ring(2)
    cursor = attached("0", ring)
    accept(cursor, Page([], None, "0"), ring)
    ring.append(event(1))
    for _ in range(2):
        ring.append(Event("alice", "t"))
    assert cursor.take(ring) is None
    assert (cursor.state, cursor.wanted) == (CursorState.BEHIND, "0")


def test_an_offer_that_the_log_has_lost_is_passed_over() -> None:
    """What was offered before a read that did not find it would be looked for without end."""
    ring = Ring(4)
    cursor = attached("0", ring)
    ring.append(event(5))
    accept(cursor, Page([], None, "0"), ring)
    assert cursor.take(ring) is None
    assert cursor.state is CursorState.LIVE


def test_gaps_are_crossed() -> None:
    """Without signals the cursor moves to the far side at once; with them when the reader is handed the gap event."""
    for signals, last_id in ((False, "3-0"), (True, "1-0")):
        ring = Ring(4)
        cursor = attached("1-0", ring, signals=signals)
        assert accept(cursor, Page([event(4)], "trimmed", "4-0"), ring) == ["trimmed", "1-0", "3-0"]
        assert cursor.last_id == last_id
        assert hand_out(cursor) == (["notify.gap", "t", "notify.sync"] if signals else ["t"])
        assert (cursor.last_id, cursor.counters.gaps["trimmed"], len(cursor.gaps)) == ("4-0", 1, 1)


def test_a_position_ahead_of_the_log_is_followed_by_all_that_is_left() -> None:
    """The gap is noted, and the next page is wanted from the beginning, which excuses what was gone before."""
    ring = Ring(4)
    cursor = attached("9-0", ring)
    assert accept(cursor, Page([], "rewound", "2-0"), ring) == ["rewound", "9-0", "0"]
    assert (cursor.state, cursor.wanted, cursor.opened) == (CursorState.BEHIND, "0", False)
    assert accept(cursor, Page([event(2)], "trimmed", "2-0"), ring) == []
    assert hand_out(cursor) == ["t"]


def test_with_signals_the_token_waits_for_the_gap_event() -> None:
    """A reader that goes before it was handed the gap event resumes before the gap, and learns of it then."""
    ring = Ring(4)
    cursor = attached("0-0", ring, signals=True)
    assert accept(cursor, Page([], "trimmed", "4-0"), ring) == ["trimmed", "0", "4-0"]
    assert cursor.token == "0-0"  # not "0", which asks for all that is left and excuses what is gone
    assert hand_out(cursor) == ["notify.gap", "notify.sync"]
    assert cursor.token == "4-0"

    for events, end in (([event(2)], "2-0"), ([], "2-0"), ([], "0")):
        cursor = attached("9-0", ring, signals=True)
        assert accept(cursor, Page([], "rewound", end), ring) == ["rewound", "9-0", "0"]
        assert (cursor.token, cursor.wanted) == ("9-0", "0")
        assert accept(cursor, Page(events, None, end), ring) == []
        assert cursor.token == "9-0"
        assert hand_out(cursor) == ["notify.gap", *[each.type for each in events], "notify.sync"]
        assert cursor.token == ("0-0" if end == "0" else end)


def test_detaching_keeps_the_position_and_the_page() -> None:
    """Attached again, the cursor goes on where it was; ephemeral events that it had not read count as lost."""
    ring = Ring(4)
    cursor = attached("0", ring)
    accept(cursor, Page([event(1), event(2)], None, "2-0"), ring)
    cursor.last_id = cursor.page.pop().id  # type: ignore[union-attr]
    ring.append(Event("alice", "t"))
    cursor.detach(ring)
    assert (cursor.state, cursor.last_id, cursor.page, cursor.dropped) == (CursorState.NEW, "1-0", None, 0)
    ring.append(event(3))
    cursor.attach(ring)
    assert (cursor.index, cursor.dropped, cursor.wanted) == (ring.end, 1, "2-0")
    assert hand_out(cursor) == ["t"]
    assert cursor.wanted == "2-0"


def test_lag_counts_events_only() -> None:
    """Up to the limit the count may include what is no event; above it, only what is still to be handed out counts."""
    ring = Ring(8)
    cursor = attached("0", ring)
    accept(cursor, Page([event(1)], None, "1-0"), ring)
    hand_out(cursor)
    ring.resync()
    for number in (1, 2, 3):
        ring.append(event(number))
    assert cursor.lag(ring, 10) == 4
    assert cursor.lag(ring, 1) == 2
