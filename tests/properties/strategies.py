"""Hypothesis strategies for everything that a caller can hand in: usual, extreme and hostile."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from hypothesis import strategies as st

from notify import Event, ids

HOSTILE_USERS = (
    "{}",
    "{a}b",
    "a:b",
    "a/../b",
    "..",
    "%00",
    "a b",
    " ",
    "*",
    "'; drop table events; --",
    '"',
    "\\",
    "\N{GRINNING FACE}" * 63,
    "Stra\N{LATIN SMALL LETTER SHARP S}e",
    "e\N{COMBINING ACUTE ACCENT}",
    "\N{LATIN SMALL LETTER E WITH ACUTE}",
    "\N{RIGHT-TO-LEFT OVERRIDE}abc",
    "\N{ZERO WIDTH SPACE}",
    "u" * 255,
)

REFUSED_USERS = ("", "a\nb", "a\x00b", "\x7f", "\x85", "\ud800", "u" * 256, "\N{GRINNING FACE}" * 64)

_name_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)

users = st.one_of(st.sampled_from(HOSTILE_USERS), _name_text.filter(lambda name: len(name.encode()) <= 255))
names = users
types = st.from_regex(r"\A[A-Za-z0-9_.:-]{1,128}\Z").filter(lambda name: not name.startswith("notify."))

_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
payloads = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=4),
    ),
    max_leaves=12,
)

metas = st.dictionaries(_name_text, _name_text, max_size=4)

parts = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1))
event_ids = st.builds(ids.format, parts, parts)
"""Canonical ids, `"0"` among them."""

packable_ids = st.builds(ids.format, st.integers(0, 2**43 - 1), st.integers(0, 2**20 - 1))

spelled_ids = st.builds(
    lambda ms, sequence, zeros: f"{'0' * zeros[0]}{ms}-{'0' * zeros[1]}{sequence}",
    st.integers(0, 10**15),
    st.integers(0, 10**15),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
"""Ids in spellings that are not canonical."""

not_ids = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "-", "1-", "-1", "1-2-3", "1 -2", "+1-1", "\N{ARABIC-INDIC DIGIT ONE}-1", "1", f"{2**64}-0"]),
    st.none(),
    st.integers(),
    st.binary(max_size=4),
).filter(lambda text: text != "0" and not (isinstance(text, str) and _looks_like_an_id(text)))

moments = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))

events = st.builds(
    Event,
    users,
    types,
    payloads,
    id=st.just("") | event_ids,
    prev=st.just("") | event_ids,
    timestamp=moments,
    group=st.none() | names,
    key=st.none() | names,
    meta=st.none() | metas,
)


json_texts = st.builds(
    lambda payload, indent, ascii_only: json.dumps(payload, indent=indent, ensure_ascii=ascii_only).encode(),
    payloads,
    st.none() | st.integers(0, 2),
    st.booleans(),
)
"""Payloads as any program may spell them; without white space around them."""

events_of_others = st.builds(
    lambda event, data, is_broadcast: _with_data(event, data).addressed_to("" if is_broadcast else event.user),
    events,
    json_texts,
    st.booleans(),
).filter(lambda event: event.user or not event.id)
"""Events and broadcasts whose data was not encoded here."""

json_members = st.one_of(
    st.just("NaN"),
    st.just("1e999"),
    st.sampled_from(
        ['"\\ud800"', '"\ud800"', '""', '"0"', '"5-6"', '"2020-01-01T00:00:00Z"', "{}", '{"a":"b"}', "[[]]"]
    ),
    json_texts.map(bytes.decode),
    users.map(json.dumps),
    types.map(json.dumps),
    st.text(max_size=6),
)
"""The text of a member's value: right, of the wrong kind, or not JSON."""


def _with_data(event: Event, data: bytes) -> Event:
    return Event(
        event.user,
        event.type,
        data=data,
        id=event.id,
        prev=event.prev,
        timestamp=event.timestamp,
        group=event.group,
        key=event.key,
        meta=event.meta,
    )


def _looks_like_an_id(text: str) -> bool:
    ms, dash, sequence = text.partition("-")
    return bool(dash) and all(
        part.isascii() and part.isdigit() and len(part) <= 20 and int(part) < 2**64 for part in (ms, sequence)
    )
