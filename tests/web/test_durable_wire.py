"""The pure half of `notify.web.durable`: offsets, cursors, frames, entity tags."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify import Event, InvalidEventIdError, ids
from notify.web._durable import Form, entity_tag, matches, next_cursor, offset_of, payload, position_of, sse_frames

PART = st.integers(0, (1 << 64) - 1)
JSON = Form(payload)
TEXT = Form(lambda event: event.payload.encode(), "text/plain")
BINARY = Form(lambda event: base64.b64decode(event.payload), "application/octet-stream")


def event(content: object, id_: str = "5-3") -> Event:
    return Event("alice", "row", content, id=id_, prev="0")


@given(st.tuples(PART, PART), st.tuples(PART, PART))
def test_offsets_sort_as_text(one: tuple[int, int], other: tuple[int, int]) -> None:
    """The order of two offsets as text is that of the ids; an offset is an id too."""
    first, second = offset_of(ids.format(*one)), offset_of(ids.format(*other))
    assert (first < second) == (one < other)
    assert ids.parse(first) == one
    assert len(first) == len(second)


@given(PART.filter(bool), PART)
def test_offset_leads_back(ms: int, sequence: int) -> None:
    """The position of an offset is the id that it was made of; the id itself is an offset as well."""
    id_ = ids.format(ms, sequence)
    assert position_of(offset_of(id_)) == position_of(id_) == id_


@pytest.mark.parametrize(("offset", "position"), [("-1", "0"), ("now", None), ("0-0", "0-0"), (offset_of("0"), "0-0")])
def test_special_offsets(offset: str, position: str | None) -> None:
    """The beginning, the end, and the end of a log that was empty."""
    assert position_of(offset) == position


@pytest.mark.parametrize(
    "offset",
    [
        "",
        "0",
        "-2",
        "1",
        "5-3 ",
        " 5-3",
        "5-3\n",
        "5,3",
        "5_3",
        "../5-3",
        "5-3/..",
        "1-",
        "-1-1",
        "\u0663-\u0661",
        "9" * 21 + "-1",
    ],
)
def test_bad_offsets(offset: str) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidEventIdError):
        position_of(offset)


def test_part_beyond_64_bits_is_refused() -> None:
    """Twenty digits can be more than 64 bits."""
    with pytest.raises(InvalidEventIdError):
        position_of("99999999999999999999-0")


@given(st.integers(0, 10**12), st.integers(0, 2 * 10**9), st.integers(1, 180))
def test_cursor_moves_on(asked: int, now: int, jitter: int) -> None:
    """A response has a greater cursor than its request."""
    assert int(next_cursor(str(asked), now, jitter)) > asked


@pytest.mark.parametrize("asked", ["", "x", "-5", "9" * 16, "\u0663"])
def test_cursor_that_is_not_a_number(asked: str) -> None:
    """It is ignored: the clock decides."""
    assert next_cursor(asked, 1_728_432_000 + 45, 7) == "2"


def test_json_frames() -> None:
    """Several events are one array, and a control frame follows; events without a tail say nothing of it."""
    frames = sse_frames(JSON, [event({"n": 1}), event({"n": 2})], "o", "3", up_to_date=False)
    assert frames == (
        b'event: data\ndata:[{"n":1},{"n":2}]\n\nevent: control\ndata:{"streamNextOffset":"o","streamCursor":"3"}\n\n'
    )


def test_control_alone() -> None:
    """Without events there is only the control frame, which says that the tail is reached."""
    frames = sse_frames(JSON, [], "o", "3", up_to_date=True)
    assert frames == b'event: control\ndata:{"streamNextOffset":"o","streamCursor":"3","upToDate":true}\n\n'


@given(st.text())
def test_text_cannot_forge_a_frame(text: str) -> None:
    """Whatever the text holds, a parser finds one data frame with it and one control frame."""
    try:
        frames = sse_frames(TEXT, [event(text)], "o", "3", up_to_date=True).decode()
    except UnicodeEncodeError:
        return
    lines = frames.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert [line for line in lines if line.startswith("event:")] == ["event: data", "event: control"]
    assert set(line.partition(":")[0] for line in lines) <= {"event", "data", ""}
    kept = [line[5:].removeprefix(" ") for line in lines[1 : lines.index("")]]
    assert "\n".join(kept) == text.replace("\r\n", "\n").replace("\r", "\n")


def test_binary_is_base64() -> None:
    """What a frame cannot carry travels as base64, in one piece."""
    raw = bytes(range(256))
    frames = sse_frames(
        BINARY,
        [event(base64.b64encode(raw[:100]).decode()), event(base64.b64encode(raw[100:]).decode())],
        "o",
        "3",
        up_to_date=True,
    )
    data = frames.split(b"\n")[1].removeprefix(b"data:")
    assert base64.b64decode(data, validate=True) == raw


def test_body_of_a_form() -> None:
    """JSON is an array, even if empty; everything else is joined."""
    assert json.loads(JSON.body([])) == []
    assert json.loads(JSON.body([event(1), event("x")])) == [1, "x"]
    assert TEXT.body([event("a"), event("b")]) == b"ab"
    assert Form(payload, "Application/JSON; charset=utf-8").is_json


def test_entity_tag_names_the_part_of_the_log() -> None:
    """Another first event, another end or another log is another tag."""
    tag = entity_tag("alice", [event(1)], "o")
    assert tag == entity_tag("alice", [event(2)], "o")
    others = [
        entity_tag("bob", [event(1)], "o"),
        entity_tag("alice", [event(1, "6-0")], "o"),
        entity_tag("alice", [event(1)], "p"),
        entity_tag("alice", [], "o"),
    ]
    assert len({tag, *others}) == 5


KNOWN = ['"a"', 'W/"a"', '"b", "a"', "*", " * "]


@pytest.mark.parametrize("header", [*KNOWN, "", "a", '"b"'])
def test_if_none_match(header: str) -> None:
    """A list of tags, weak or not, or a star."""
    assert matches(header, '"a"') is (header in KNOWN)
