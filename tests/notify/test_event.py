"""The event, its wire form, ids and errors."""

from __future__ import annotations

import copy
import json
import math
import pickle
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest

from notify import BackendError, CodecError, Event, InvalidEventError, InvalidEventIdError, NotifyError, errors, ids
from notify.event import NO_META, draft

MOMENT = datetime(2026, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)


def make() -> Event:
    return Event(
        "ålice{}:/..",
        "comment.created",
        {"a": [1, 2.5, None, True, "é\u2028"]},
        id="5-6",
        prev="5-5",
        timestamp=MOMENT,
        group="g",
        key="k",
        meta={"x": "y"},
    )


def test_an_event_is_immutable_and_slotted() -> None:
    """No attribute can be set, deleted or added, and there is no dictionary."""
    event = make()
    for name in ("id", "payload", "data", "anything"):
        with pytest.raises(AttributeError):
            setattr(event, name, "x")
    with pytest.raises(AttributeError):
        del event.id
    assert not hasattr(event, "__dict__")
    with pytest.raises(TypeError):
        event.meta["x"] = "z"  # type: ignore[index]


def test_what_an_event_holds() -> None:
    """Every field is as given; the payload is decoded from the bytes; the timestamp is aware and exact."""
    event = make()
    assert event.data == '{"a":[1,2.5,null,true,"é\u2028"]}'.encode()
    assert event.payload == {"a": [1, 2.5, None, True, "é\u2028"]}
    assert event.timestamp == MOMENT
    assert event.timestamp.utcoffset() == timedelta(0)
    assert "ålice" in repr(event)
    assert Event("a", "t", data=b"[1]").payload == [1]
    assert Event("a", "t").payload is None
    assert abs(Event("a", "t").timestamp - datetime.now(UTC)) < timedelta(minutes=1)
    assert Event("a", "t").meta is NO_META


def test_a_timestamp_of_another_zone_is_the_same_moment() -> None:
    """Timestamps compare as moments; a naive one or none at all is refused."""
    there = MOMENT.astimezone(timezone(timedelta(hours=5)))
    assert Event("a", "t", timestamp=there).timestamp == MOMENT
    for bad in (datetime(2026, 1, 1), "yesterday"):
        with pytest.raises(InvalidEventError):
            Event("a", "t", timestamp=bad)  # type: ignore[arg-type]


class _NoOffset(tzinfo):
    """A time zone that does not know its offset, which makes a datetime naive."""

    def utcoffset(self, moment: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=1),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))),
        datetime(9999, 12, 31, 23, 59, tzinfo=timezone(-timedelta(hours=1))),
        datetime(2026, 1, 1, tzinfo=_NoOffset()),
    ],
)
def test_a_timestamp_that_no_wire_form_holds_is_refused(moment: datetime) -> None:
    """Before 1970, after 9999 or without an offset: refused when the event is made, not when it is read."""
    with pytest.raises(InvalidEventError):
        Event("a", "t", timestamp=moment)


@pytest.mark.parametrize("moment", [datetime(1970, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_the_first_and_the_last_timestamp(moment: datetime) -> None:
    """Both wire forms hold every timestamp that is accepted."""
    event = Event("a", "t", timestamp=moment)
    assert Event.from_bytes(event.to_bytes()).timestamp == Event.from_json(event.to_json()).timestamp == moment


def test_empty_values_of_other_kinds_are_refused() -> None:
    """What is not an id or a mapping is refused even if it is empty."""
    for bad in (None, 0, [], b""):
        for name in ("id", "prev"):
            with pytest.raises(InvalidEventIdError):
                Event("a", "t", **{name: bad})  # type: ignore[arg-type]
    for bad in ([], "", 0):
        with pytest.raises(InvalidEventError):
            Event("a", "t", meta=bad)  # type: ignore[arg-type]
        with pytest.raises(InvalidEventError):
            draft("a", "t", 1, None, None, bad, False)  # type: ignore[arg-type]
    assert Event("a", "t", meta={}).meta is draft("a", "t", 1, None, None, {}, False).meta is NO_META


def test_data_is_bytes() -> None:
    """Data of another kind is refused."""
    with pytest.raises(InvalidEventError):
        Event("a", "t", data="[1]")  # type: ignore[arg-type]


def test_equality_and_copies() -> None:
    """Events are equal field by field, hash alike, and survive copying and pickling."""
    event = make()
    assert event == make() != event.stored("7-0", "5-6")
    assert event != "event"
    assert len({event, make()}) == 1
    assert copy.deepcopy(event) == pickle.loads(pickle.dumps(event)) == event
    assert event.addressed_to("bob").user == "bob"


@pytest.mark.parametrize("event", [make(), Event("a", "t")])
def test_the_wire_form_keeps_everything(event: Event) -> None:
    """An event read back from its bytes is equal, and its data the very same bytes."""
    again = Event.from_bytes(event.to_bytes())
    assert again == event
    assert again.data == event.data


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"1",
        b"2" + make().to_bytes()[1:],
        b"1[]\nnull",
        b"1{}\nnull",
        b"1[1,2,3,4,5,6,7,8]\nnull",
        b'1["","","a","t","x",null,null,{}]\nnull',
        b'1["","","a","t",true,null,null,{}]\nnull',
        b'1["","","a","t",1,null,null,[]]\nnull',
        b'1["","","a","t",1,null,null,{"a":1}]\nnull',
        b'1["","","a","t",1,7,null,{}]\nnull',
        b'1["","","a","t",1,null,null,{}]',
        b"1\xff\xfe\n",
        b'1["garbage","0","a","t",1,null,null,{}]\nnull',
        b'1["1-0","garbage","a","t",1,null,null,{}]\nnull',
        b'1["1-0","0","a","t",-1,null,null,{}]\nnull',
        b'1["1-0","0","a","t",253402300800000000,null,null,{}]\nnull',
        b"1" + b"[" * 100_000,
        None,
        "1[]",
    ],
)
def test_other_bytes_are_no_event(raw: object) -> None:
    """Damaged bytes, other versions and what is no bytes at all raise CodecError."""
    with pytest.raises(CodecError):
        Event.from_bytes(raw)  # type: ignore[arg-type]


def json_of(**members: str) -> str:
    """The JSON of an event, with these members as they are spelled here; an empty one is left out."""
    usual = {"user": '"a"', "type": '"t"', "timestamp": '"2020-01-01T00:00:00+00:00"', "payload": "1"}
    return "{" + ", ".join(f'"{name}": {text}' for name, text in (usual | members).items() if text) + "}"


def test_json_of_another_program() -> None:
    """Absent members, unknown ones, other spacing and another zone; the payload's text stays as it is."""
    moment = '"2026-05-04T05:02:01.987654+02:00"'
    text = " " + json_of(payload='{ "a" : [1,  2.50] }', timestamp=moment, more="[{}]") + "\n"
    for form in (text, text.encode()):
        event = Event.from_json(form)
        assert event == Event("a", "t", data=b'{ "a" : [1,  2.50] }', timestamp=MOMENT)
    null = Event.from_json(json_of(id='""', prev='""', group="null", key="null", meta="null"))
    assert null == Event("a", "t", 1, timestamp=datetime(2020, 1, 1, tzinfo=UTC))


def test_a_broadcast_survives_its_json() -> None:
    """An empty user is that of a broadcast, which has no id."""
    event = Event("a", "t", 1, meta={"x": "y"}).addressed_to("")
    assert Event.from_json(event.to_json()) == event
    with pytest.raises(CodecError):
        Event.from_json(event.stored("1-0", "0").to_json())


@pytest.mark.parametrize(
    "text",
    [
        None,
        bytearray(json_of().encode()),
        "",
        "[]",
        "1",
        "\ufeff" + json_of(),
        b"\xef\xbb\xbf" + json_of().encode(),
        b"\xff" + json_of().encode(),
        json_of() + "x",
        json_of() + json_of(),
        json_of(user=""),
        json_of(type=""),
        json_of(timestamp=""),
        json_of(payload=""),
        json_of(user="null"),
        json_of(user='""', type='"sp ace"'),
        json_of(user='""', id="0"),
        json_of(user='"\\ud800"'),
        json_of(user='"\ud800"'),
        json_of(user='"a\\u0000b"'),
        json_of(user='"a\\nb"'),
        json_of(user=f'"{"a" * 5000}"'),
        json_of(user='"a", "user": "a"'),
        json_of(type='"sp ace\\n"'),
        json_of(type='["t"]'),
        json_of(timestamp="1"),
        json_of(timestamp='"2020-01-01"'),
        json_of(timestamp='"yesterday"'),
        json_of(timestamp='"1969-12-31T23:59:59+00:00"'),
        json_of(timestamp='"9999-12-31T23:59:59-23:59"'),
        json_of(timestamp='"0001-01-01T00:00:00+23:59"'),
        json_of(payload="NaN"),
        json_of(payload="[-Infinity]"),
        json_of(payload='"\ud800"'),
        json_of(payload="\u00a01"),
        json_of(payload="1" * 5000),
        json_of(payload="[" * 100_000 + "]" * 100_000),
        json_of(payload='1, "payload": 2'),
        json_of(more="Infinity"),
        json_of(id="NaN"),
        json_of(id="1e999"),
        json_of(id="null"),
        json_of(id="5"),
        json_of(id='"5"'),
        json_of(prev="[]"),
        json_of(key="5"),
        json_of(key='"\\u0000"'),
        json_of(group='""'),
        json_of(meta="[]"),
        json_of(meta='{"x": Infinity}'),
        json_of(meta='{"x": 1e999}'),
        json_of(meta='{"x": "\\ud800"}'),
        json_of(meta='{"x": "1", "x": "2"}'),
        json_of(meta="[" * 900 + "]" * 900),
    ],
)
def test_other_texts_are_no_event(text: object) -> None:
    """Whatever is not the JSON of an event raises CodecError, with a short message."""
    with pytest.raises(CodecError) as caught:
        Event.from_json(text)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b'1,"user":"root"',
        b"1}{",
        b'{"a":1',
        b'"\xff"',
        b"NaN",
        b"\xef\xbb\xbf1",
        b"\xc2\xa01",
        b"[" * 100_000,
    ],
    ids=repr,
)
def test_data_that_is_not_one_json_text_has_no_json_form(data: bytes) -> None:
    """Data that was not checked cannot add members to the JSON form."""
    with pytest.raises(InvalidEventError, match="data is not one JSON text"):
        Event("a", "t", data=data).to_json()


def test_the_white_space_around_data_is_not_in_the_json_form() -> None:
    """The payload's text is that of the value alone, with the white space inside it."""
    event = Event("a", "t", data=b' \t{"a": 1}\r\n')
    assert event.to_json().endswith(',"payload":{"a": 1}}')
    assert Event.from_json(event.to_json()).data == b'{"a": 1}'
    assert json.loads(event.to_json())["payload"] == {"a": 1}


def test_types_beyond_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are checked alike whether the set of known ones is full or not."""
    monkeypatch.setattr("notify.event._KNOWN_TYPES", 0)
    for _ in range(2):
        assert draft("a", "never.seen.before", 1, None, None, None, False).type == "never.seen.before"
        for type_ in ("never seen before", "notify.mine"):
            with pytest.raises(InvalidEventError):
                draft("a", type_, 1, None, None, None, False)


def test_ids() -> None:
    """Ids compare by number, pack into one integer and carry their time."""
    assert ids.compare("5-9", "5-10") == -1
    assert ids.compare("10-0", "9-99") == 1
    assert ids.compare("0", "0-0") == 0
    assert ids.canonical("007-00") == "7-0"
    assert ids.canonical("0-0") == ids.canonical("0") == ids.ZERO
    assert ids.unpack(ids.pack("1700000000000-5")) == "1700000000000-5"
    assert ids.pack(f"{2**64 - 1}-{2**64 - 1}") == 2**63 - 1
    assert ids.time_of("1777863721987-3") == MOMENT.replace(microsecond=987000)
    assert ids.compare(ids.before(MOMENT), "1777863721987-0") == -1
    assert ids.before(MOMENT) == "1777863721986-18446744073709551615"  # no id of that millisecond is after it
    assert ids.before(datetime(1970, 1, 1, tzinfo=UTC)) == ids.ZERO
    for bad in ("", "1", None, 5, "1-", "-1", "1-1 "):
        with pytest.raises(InvalidEventIdError):
            ids.parse(bad)


def test_the_id_that_follows() -> None:
    """The next id is that of the clock, or the smallest after the last one if the clock is behind."""
    assert ids.following(ids.ZERO, 1.5) == "1500-0"
    assert ids.following("1500-0", 1.5) == "1500-1"
    assert ids.following("1500-1048575", 1.5) == "1501-0"
    assert ids.following("1500-1048575", -1e306) == "1501-0"
    assert ids.following(ids.ZERO, 0) == "0-1"
    assert ids.following(f"{2**64 - 1}-5", 1) == f"{2**64 - 1}-6"


@pytest.mark.parametrize(
    ("last", "now"), [(f"{2**64 - 1}-1048575", 1), (f"{2**64 - 1}-{2**64 - 1}", 1), ("0", 1e18), ("0", 1e306)]
)
def test_no_id_follows_the_last_one(last: str, now: float) -> None:
    """At the end of 64 bits, of the log or of the clock, there is an error instead of what is not an id."""
    with pytest.raises(OverflowError, match="64 bits"):
        ids.following(last, now)


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf])
def test_a_clock_that_shows_no_time(now: float) -> None:
    """NaN and infinities are refused as the time of an id."""
    with pytest.raises(ValueError, match="finite"):
        ids.following("5-0", now)


def test_errors_say_what_to_do_by_their_parents() -> None:
    """The tree of errors is the documented one."""
    tree = {
        errors.UsageError: NotifyError,
        errors.ClosedError: errors.UsageError,
        errors.SlowConsumerError: errors.ClosedError,
        errors.InvalidEventIdError: errors.UsageError,
        errors.InvalidEventError: errors.UsageError,
        errors.PayloadTooLargeError: errors.InvalidEventError,
        BackendError: NotifyError,
        errors.PushRejectedError: BackendError,
        errors.OverloadedError: errors.PushRejectedError,
        errors.PushUncertainError: BackendError,
        errors.BackendUnavailableError: BackendError,
        CodecError: NotifyError,
    }
    for error, parent in tree.items():
        assert error.__bases__ == (parent,)
        assert error.__name__ in (errors.__doc__ or "")
    assert BackendError("x", backend="redis").backend == "redis"
