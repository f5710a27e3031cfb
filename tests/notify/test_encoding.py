"""Payloads that the application encodes: `dumps=` and `data=`; checked, and kept byte for byte."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify import InvalidEventError, Notifier, PayloadTooLargeError, UsageError
from notify._codec import check_json
from notify_memory import MemoryStore, MemoryStreamStore
from tests.parts import BatchStore

pytestmark = pytest.mark.anyio

READY = [
    b"null",
    b"1",
    b' {"a" :\t[1, 2.50, 1e3],\r\n "b": "\\u00e9 \\ud83d\\ude00"} ',
    '"é"'.encode(),
    b'{"a": 1, "a": 2}',
    b"[" * 200 + b"]" * 200,
]
BAD = {
    "nothing": b"",
    "white space": b"  ",
    "no JSON": b"x",
    "not UTF-8": b'"\xff"',
    "UTF-16": '"a"'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf1",
    "NaN": b"[NaN]",
    "an infinity": b"-Infinity",
    "trailing garbage": b"1 2",
    "two texts": b"{}{}",
    "a comment": b"1 // one",
    "a trailing comma": b"[1,]",
    "an unterminated text": b'"a',
    "a control character": b'"\n"',
    "a lone surrogate": b'["\\uD800"]',
    "half a pair at the end": b'"\\ude00"',
    "too deep": b"[" * 100_000 + b"]" * 100_000,
    "a number of 5,000 digits": b"1" * 5000,
}


@pytest.mark.parametrize("kind", [MemoryStore, MemoryStreamStore, BatchStore])
@pytest.mark.parametrize("data", READY)
async def test_ready_json_is_kept_byte_for_byte(kind: Any, data: bytes) -> None:
    """What is given as `data=` is stored, shown and yielded as it is, by every way of pushing."""
    async with Notifier(kind()) as notifier, notifier.subscribe("alice") as stream:
        assert (await notifier.push("alice", "t", data=data)).data == data
        report = await notifier.push_many(["alice", "bob"], "t", data=data)
        assert [event.data for event in report.events.values()] == [data, data]
        assert (await notifier.broadcast("t", data=data)).data == data
        assert (await notifier.push("alice", "t", data=data, ephemeral=True)).data == data
        for _ in range(4):
            event = await stream.next(10)
            assert event.data == data
            assert event.payload == json.loads(data)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
async def test_what_is_not_one_json_text_is_refused(data: bytes) -> None:
    """It raises InvalidEventError from every way of pushing, as data and as the result of dumps; nothing is stored."""
    store = MemoryStore()
    async with Notifier(store, max_payload=10**6) as notifier:
        for call in (
            notifier.push("alice", "t", data=data),
            notifier.push("alice", "t", data=data, ephemeral=True),
            notifier.push_many(["alice"], "t", data=data),
            notifier.broadcast("t", data=data),
        ):
            with pytest.raises(InvalidEventError, match=r"^data= is not one JSON text"):
                await call
    async with Notifier(store, dumps=lambda payload: data, max_payload=10**6) as notifier:
        for call in (notifier.push("alice", "t"), notifier.push_many(["alice"], "t"), notifier.broadcast("t")):
            with pytest.raises(InvalidEventError, match=r"^what dumps= returned is not one JSON text"):
                await call
    assert store.head_nowait("alice") == "0"


async def test_data_is_bytes_and_takes_the_place_of_a_payload() -> None:
    """A text is refused with the remedy, a payload beside `data=` too; the limit counts the bytes that are given."""
    given_: Any
    async with Notifier(MemoryStore(), max_payload=10) as notifier:
        for given_ in ("1", bytearray(b"1"), 1, {}):
            with pytest.raises(InvalidEventError, match="data= must be bytes of JSON in UTF-8, not "):
                await notifier.push("alice", "t", data=given_)
        with pytest.raises(InvalidEventError, match="either a payload or data="):
            await notifier.push("alice", "t", 0, data=b"0")
        assert (await notifier.push("alice", "t", data=b" " * 9 + b"1")).payload == 1
        with pytest.raises(PayloadTooLargeError) as caught:
            await notifier.push("alice", "t", data=b" " * 10 + b"1")
        assert (caught.value.size, caught.value.limit) == (11, 10)


def encode(payload: Any) -> str:
    return json.dumps(payload, default=lambda value: value.isoformat())


@pytest.mark.parametrize(
    "dumps", [encode, lambda payload: encode(payload).encode(), lambda payload: bytes(encode(payload), "utf-8")]
)
async def test_an_encoder_of_the_application(dumps: Any) -> None:
    """What the standard encoder refuses is encoded by `dumps=`, once for each push, to text or bytes."""
    calls = []

    def noting(payload: Any) -> Any:
        calls.append(payload)
        return dumps(payload)

    moment = datetime(2026, 1, 2, tzinfo=UTC)
    async with Notifier(MemoryStore(), dumps=noting) as notifier:
        event = await notifier.push("alice", "t", {"at": moment})
        assert event.data == b'{"at": "2026-01-02T00:00:00+00:00"}'
        report = await notifier.push_many([f"user{number}" for number in range(10)], "t", [moment])
        assert {event.data for event in report.events.values()} == {b'["2026-01-02T00:00:00+00:00"]'}
        await notifier.broadcast("t", moment)
        await notifier.push("alice", "t", data=b"1")  # ready, so there is nothing to encode
    assert calls == [{"at": moment}, [moment], moment]


async def test_an_encoder_that_fails() -> None:
    """An encoder that raises, or returns something else, makes an InvalidEventError with its error as the cause."""
    cases: list[tuple[Any, str]] = [
        (lambda payload: 1 / 0, "could not encode the payload: ZeroDivisionError"),
        (lambda payload: None, "must return bytes or str, not NoneType"),
        (lambda payload: bytearray(b"1"), "must return bytes or str, not bytearray"),
        (lambda payload: "\ud800", "could not encode the payload: UnicodeEncodeError"),
    ]
    for dumps, message in cases:
        async with Notifier(MemoryStore(), dumps=dumps) as notifier:
            with pytest.raises(InvalidEventError, match=message):
                await notifier.push("alice", "t", 1)
    async with Notifier(MemoryStore(), dumps=lambda payload: "1" * 11, max_payload=10) as notifier:
        with pytest.raises(PayloadTooLargeError):
            await notifier.push("alice", "t", 1)


async def test_an_encoder_must_be_a_plain_function() -> None:
    """What cannot be called, and a coroutine function, are refused by the constructor."""

    async def dumps(payload: Any) -> bytes:
        return b"1"

    wrong: list[Any] = [b"1", "orjson", dumps]
    for each in wrong:
        with pytest.raises(UsageError, match="dumps= must be a plain function"):
            Notifier(dumps=each)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@given(JSON, st.booleans(), st.sampled_from([None, 2]))
def test_every_json_text_is_accepted(value: Any, ascii_only: bool, indent: int | None) -> None:
    """What an encoder makes of any value is one JSON text, unless it holds a lone surrogate."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    try:
        json.dumps(value, ensure_ascii=False).encode()
        data = text.encode()
    except UnicodeEncodeError:
        if ascii_only:
            with pytest.raises(InvalidEventError):
                check_json(text.encode(), "it")
    else:
        check_json(data, "it")


@given(st.binary(max_size=30))
def test_any_bytes_are_judged_as_strictly_as_what_the_library_encodes(data: bytes) -> None:
    """Bytes are accepted exactly if they decode to a value that can be decoded, and encoded, again."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        text = data.decode()
        json.dumps(json.loads(text, parse_constant=refuse), ensure_ascii=False).encode()
    except ValueError:
        with pytest.raises(InvalidEventError):
            check_json(data, "it")
    else:
        check_json(data, "it")


@pytest.mark.parametrize(("payload", "is_a_type"), [(datetime.now(UTC), True), (float("nan"), False)])
async def test_the_remedy_is_named(payload: object, is_a_type: bool) -> None:
    """A value of a type that JSON does not have can be pushed with dumps=; a number that it does not have cannot."""
    async with Notifier(MemoryStore()) as notifier:
        with pytest.raises(InvalidEventError) as caught:
            await notifier.push("alice", "t", payload)
    assert ("the dumps= of a Notifier" in str(caught.value)) is is_a_type
