"""The pure parts against brute force: ids, the codec, continuity, splice, the ring and backoff."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from notify import Event, continuity, ids
from notify._runtime._backoff import backoff
from notify._stream._ring import RESYNC, Ring
from notify._stream._splice import Contiguity, splice
from notify.errors import CodecError, InvalidEventError, InvalidEventIdError
from notify.event import check_user

from . import strategies as s

# -- ids -------------------------------------------------------------------------------------------------------------


@given(s.parts, s.parts)
def test_format_and_parse_are_inverse(ms: int, sequence: int) -> None:
    """Every pair of 64-bit numbers has one id, which parses back."""
    assert ids.parse(ids.format(ms, sequence)) == (ms, sequence)


@given(s.spelled_ids)
def test_canonical_is_one_spelling(text: str) -> None:
    """Equal ids have equal canonical spellings, and those are fixed points."""
    canonical = ids.canonical(text)
    assert ids.parse(canonical) == ids.parse(text)
    assert ids.canonical(canonical) == canonical
    assert ids.format(*ids.parse(text)) == canonical


@given(s.not_ids)
def test_whatever_is_no_id_is_refused(text: object) -> None:
    """Anything but the grammar raises InvalidEventIdError and nothing else."""
    with pytest.raises(InvalidEventIdError):
        ids.parse(text)


@given(s.event_ids, s.event_ids)
@example("5-9", "5-10")
def test_compare_is_by_number(a: str, b: str) -> None:
    """Ids compare as their numbers, and the order is total."""
    left, right = (tuple(map(int, (text if "-" in text else "0-0").split("-"))) for text in (a, b))
    assert ids.compare(a, b) == (left > right) - (left < right)
    assert ids.compare(a, b) == -ids.compare(b, a)


@given(s.packable_ids, s.packable_ids)
def test_packing_keeps_identity_and_order(a: str, b: str) -> None:
    """An id that fits into 63 bits survives packing, and packed ids compare as ids do."""
    assert ids.unpack(ids.pack(a)) == a
    assert (ids.pack(a) > ids.pack(b)) - (ids.pack(a) < ids.pack(b)) == ids.compare(a, b)


@given(s.event_ids, s.event_ids)
def test_packing_saturates_in_order(a: str, b: str) -> None:
    """An id too large to pack becomes the nearest: the order never turns round, and it is a 64-bit integer."""
    assume(ids.compare(a, b) <= 0)
    assert 0 <= ids.pack(a) <= ids.pack(b) < 2**63


@given(s.moments, st.integers(-5, 5), st.integers(0, 2**64 - 1))
def test_before_divides_the_log_at_a_moment(moment: datetime, offset: int, sequence: int) -> None:
    """Exactly the ids at or after the moment's millisecond lie after `before(moment)`."""
    ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assume(ms + offset >= 0 and (ms + offset, sequence) != (0, 0))
    after = ids.compare(ids.format(ms + offset, sequence), ids.before(moment)) > 0
    assert after == (offset >= 0)


@given(s.event_ids, st.floats())
def test_the_following_id_is_after_the_last(last: str, now: float) -> None:
    """Whatever the clock shows, the next id is a canonical one after the last; or the documented error."""
    if not math.isfinite(now):
        with pytest.raises(ValueError, match="finite"):
            ids.following(last, now)
        return
    try:
        new = ids.following(last, now)
    except OverflowError:
        assert max(now * 1000, ids.parse(last)[0]) >= 2**64 - 1
        return
    assert ids.canonical(new) == new
    assert ids.compare(new, last) == 1


@given(s.users)
def test_acceptable_users_are_accepted(user: str) -> None:
    """Hostile characters are fine as long as they are text."""
    check_user(user)


@pytest.mark.parametrize("user", [*s.REFUSED_USERS, None, b"u", 1])
def test_unacceptable_users_are_refused(user: object) -> None:
    """Empty, too long, control characters, lone surrogates, no text: InvalidEventError."""
    with pytest.raises(InvalidEventError):
        check_user(user)


# -- codec -----------------------------------------------------------------------------------------------------------


@given(s.events)
def test_an_event_survives_its_wire_form(event: Event) -> None:
    """Every field comes back equal, the payload to the very byte."""
    copy = Event.from_bytes(event.to_bytes())
    assert copy == event
    assert copy.data == event.data
    assert (copy.payload, copy.timestamp, copy.meta) == (event.payload, event.timestamp, event.meta)


@given(s.payloads)
def test_a_payload_is_json(payload: object) -> None:
    """What `json` reads from `data` is what was pushed."""
    assert json.loads(Event("u", "t", payload).data) == payload


@given(st.binary(max_size=200))
@example(b"")
@example(b"1[]\n")
@example(b'1["","","\xff","",0,null,null,{}]\n')
def test_noise_raises_codec_errors_only(raw: bytes) -> None:
    """Random bytes are never an event and never another exception."""
    with pytest.raises(CodecError):
        Event.from_bytes(raw)


@pytest.mark.parametrize(
    "open_and_close", [(b"[", b"]"), (b'{"":', b"}"), (b"9", b"")], ids=["lists", "objects", "digits"]
)
def test_a_header_that_exhausts_the_parser_raises_codec_error(open_and_close: tuple[bytes, bytes]) -> None:
    """Deep nesting and endless numbers are no event either."""
    before, after = open_and_close
    raw = b"1[" + before * 20_000 + b"0" + after * 20_000 + b"]\n"
    with pytest.raises(CodecError):
        Event.from_bytes(raw)


@given(s.events, st.data())
def test_damaged_bytes_raise_codec_errors_only(event: Event, data: st.DataObject) -> None:
    """A wire form that was cut or changed anywhere decodes or raises CodecError; a cut header never decodes."""
    raw = event.to_bytes()
    header = raw.index(b"\n") + 1
    cut = raw[: data.draw(st.integers(0, header - 1), label="cut")]
    with pytest.raises(CodecError):
        Event.from_bytes(cut)
    damaged = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4), label="bytes changed")):
        damaged[data.draw(st.integers(0, header - 1), label="where")] = data.draw(st.integers(0, 255), label="byte")
    try:
        Event.from_bytes(bytes(damaged))
    except CodecError:
        pass


@given(s.events | s.events_of_others)
def test_an_event_survives_its_json(event: Event) -> None:
    """Every field comes back equal and the payload to the very byte, from text and from bytes."""
    text = event.to_json()
    copy = Event.from_json(text)
    assert copy == event == Event.from_json(text.encode())
    assert copy.data == event.data
    assert json.loads(text)["payload"] == event.payload


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["user", "type", "timestamp", "payload", "id", "prev", "group", "key", "meta", "more"]),
            s.json_members,
        ),
        max_size=8,
    )
)
@example([("user", '"a"'), ("type", '"t"'), ("timestamp", '"2020-01-01T00:00:00Z"'), ("payload", "1")])
def test_any_object_is_an_event_or_raises_codec_error(members: list[tuple[str, str]]) -> None:
    """An object of hostile members decodes to what the constructor accepts, or raises CodecError and nothing else."""
    try:
        event = Event.from_json("{" + ",".join(f'"{name}":{text}' for name, text in members) + "}")
    except CodecError:
        return
    assert Event.from_json(event.to_json()) == event == Event.from_bytes(event.to_bytes())
    if event.user:
        check_user(event.user)


@given(st.text(max_size=40) | st.binary(max_size=40))
def test_noise_is_not_json_of_an_event(text: str | bytes) -> None:
    """Random text and bytes raise CodecError and nothing else."""
    with pytest.raises(CodecError):
        Event.from_json(text)


# -- continuity ------------------------------------------------------------------------------------------------------


def _brute_force(after: str, log: list[int], retained: int) -> str | None:
    """Say by the words of the contract what is missing between a position and a log whose first events are gone."""
    position = ids.parse(after)[0]
    known = [0, *log]
    left = [number for number in log[retained:] if number > position]
    gone = [number for number in log[:retained] if number > position]
    if not left:
        if position == known[-1]:
            return None
        if not log:
            return "expired"  # nothing is known of such a log
        return "trimmed" if gone else "rewound"  # or: the log never got there
    if not gone and position in known:
        return None
    first = known[known.index(left[0]) - 1]
    if first == 0:
        return "expired"  # the log began anew after this position was given out
    return "trimmed" if gone else "rewound"


@given(st.sets(st.integers(1, 12), max_size=6), st.integers(0, 6), st.integers(0, 13))
def test_continuity_agrees_with_brute_force(numbers: set[int], retained: int, position: int) -> None:
    """Each log, trimmed anywhere, and each position in, between and beyond its events."""
    log = sorted(numbers)
    retained = min(retained, len(log))
    after = f"{position}-0" if position else ids.ZERO
    chain = ["0", *(f"{number}-0" for number in log)]
    left = [index for index in range(retained, len(log)) if log[index] > position]
    first_prev = chain[left[0]] if left else None
    assert continuity(after, first_prev, chain[-1]) == _brute_force(after, log, retained)


@given(st.booleans(), s.event_ids, s.event_ids)
def test_only_an_empty_remainder_expires_by_age(expired: bool, after: str, head: str) -> None:
    """Age turns `trimmed` into `expired` and changes nothing else."""
    plain = continuity(after, None, head)
    aged = continuity(after, None, head, expired=expired)
    assert aged == ("expired" if expired and plain == "trimmed" else plain)


# -- splice ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.lists(st.integers(1, 8), max_size=24))
def test_splice_yields_each_event_once_and_in_order(cursor: int, offers: list[int]) -> None:
    """Offers in any order, doubled and lost, give exactly the log after the cursor up to what was read."""
    log = {n: Event("u", "t", n).stored(f"{n}-0", f"{n - 1}-0" if n > 1 else "0") for n in range(1, 9)}
    position, seen = cursor, list[int]()
    for offer in offers:
        verdict = splice(f"{position}-0", log[offer])
        if verdict is Contiguity.BEHIND:
            assert offer > position + 1
            seen += range(position + 1, offer + 1)  # what reading the log gives
            position = offer
        elif verdict is Contiguity.NEXT:
            assert offer == position + 1
            seen.append(offer)
            position = offer
        else:
            assert offer <= position
    assert seen == list(range(cursor + 1, max([cursor, *offers]) + 1))


@given(s.event_ids, s.events)
def test_splice_accepts_by_prev_alone(cursor: str, event: Event) -> None:
    """Stored events are next exactly if `prev` is the cursor; ephemeral ones always."""
    prev_matches = event.prev == cursor
    assert (splice(cursor, event) is Contiguity.NEXT) == (not event.id or prev_matches)


# -- ring ------------------------------------------------------------------------------------------------------------


_ring_steps = st.lists(
    st.one_of(st.tuples(st.just("stored"), st.integers(1, 12)), st.tuples(st.sampled_from(["ephemeral", "resync"]))),
    max_size=40,
)


@given(st.integers(1, 4), _ring_steps)
def test_the_ring_is_the_tail_of_a_plain_list(size: int, steps: list[tuple[str, int]]) -> None:
    """Whatever is offered: the newest entries in order, their numbers, and how many ephemeral ones are gone."""
    ring, plain = Ring(size), list[Event]()
    last: int | None = None
    for kind, *number in steps:
        if kind == "resync":
            ring.resync()
            plain.append(RESYNC)
            last = None
        elif kind == "ephemeral":
            event = Event("u", "t")
            assert ring.append(event)
            plain.append(event)
        else:
            (n,) = number
            event = Event("u", "t", n).stored(f"{n}-0", f"{n - 1}-0" if n > 1 else "0")
            assert ring.append(event) == (last is None or n > last)
            if last is None or n > last:
                plain.append(event)
                last = n
        assert ring.end == len(plain)
        assert ring.last_id == (None if last is None else f"{last}-0")
        assert ring.readable == min(size, len(plain))
        assert ring.oldest == max(0, len(plain) - size)
        assert len(ring.events) <= 2 * size
        assert list(ring.events[-ring.readable :] if ring.readable else []) == plain[-size:]
        gone = plain[: -ring.readable] if ring.readable else plain
        assert ring.ephemerals_gone() == sum(not entry.id and entry is not RESYNC for entry in gone)


# -- backoff ---------------------------------------------------------------------------------------------------------


@given(
    st.floats(0, 1, exclude_max=True),
    st.floats(0.001, 1),
    st.floats(1, 4),
    st.floats(1, 60),
    st.integers(1, 40),
)
def test_backoff_grows_within_its_bounds(chance: float, first: float, factor: float, limit: float, count: int) -> None:
    """Each delay lies between half a step and a step; steps grow to the limit and stay there."""
    delays = list(islice(backoff(lambda: chance, first=first, factor=factor, limit=limit), count))
    step = first
    for delay in delays:
        assert step * 0.5 <= delay <= step
        step = min(step * factor, limit)
    assert delays == sorted(delays)
