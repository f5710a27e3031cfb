"""The event, its wire form, ids and errors."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone

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
    assert ids.compare(ids.before(MOMENT), "1777863721986-1048575") == 0
    assert ids.before(datetime(1970, 1, 1, tzinfo=UTC)) == ids.ZERO
    for bad in ("", "1", None, 5, "1-", "-1", "1-1 "):
        with pytest.raises(InvalidEventIdError):
            ids.parse(bad)


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
