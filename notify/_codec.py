"""Pure: the versioned wire form of an event, and the payload's JSON.

Wire form, version 1: `b"1"`, the header, a newline, `data`. The header is a compact JSON array that holds no newline;
`data` is the payload's JSON as it was encoded at push, never touched again. A later version starts with another byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from . import ids
from .errors import CodecError, InvalidEventError, InvalidEventIdError

VERSION: Final = b"1"

Header = tuple[str, str, str, str, int, str | None, str | None, Mapping[str, str]]
"""`(id, prev, user, type, microseconds, group, key, meta)`"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SPACE = re.compile(r"[\s,:]*")  # between two tokens of what was parsed before, so each is where it belongs
_decoder = json.JSONDecoder()
_MICROS_END = 253_402_300_800_000_000  # the year 10000, which a datetime cannot hold
_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _payload_encoder() -> Any:
    """Return a function from a value to an iterable of JSON text.

    `JSONEncoder.encode` builds a new C encoder at each call, half of the cost for a small payload; this keeps one.
    Without the marker dictionary a circular payload ends in RecursionError, which `encode_payload` reports too.
    """
    make: Any = json.encoder.c_make_encoder  # type: ignore[attr-defined]  # None where there is no C accelerator
    if make is None:  # pragma: no cover - other interpreters
        return lambda payload, _level: _encoder.iterencode(payload)
    return make(None, _encoder.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)


_encode = _payload_encoder()


def encode_payload(payload: object) -> bytes:
    """Return the payload's JSON as UTF-8.

    Raises:
        InvalidEventError: the payload is not a JSON value (NaN and infinities are not) or holds lone surrogates.
    """
    try:
        return "".join(_encode(payload, 0)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEventError(f"the payload is not a JSON value: {error}") from error


def encode(header: Header, data: bytes) -> bytes:
    """Return the wire form."""
    return b"%b%b\n%b" % (VERSION, _encoder.encode([*header[:7], dict(header[7])]).encode(), data)


def decode(raw: bytes | bytearray | memoryview) -> tuple[Header, bytes]:
    """Return header and data of a wire form.

    Raises:
        CodecError: not an event, or of a version that this library does not read.
    """
    if not isinstance(raw, bytes | bytearray | memoryview):
        raise CodecError(f"not bytes of an event: {raw!r:.80}")
    if raw[:1] != VERSION:
        raise CodecError(f"not an event of wire version {VERSION.decode()}: {bytes(raw[:16])!r}")
    head, newline, data = bytes(raw[1:]).partition(b"\n")
    try:
        fields = json.loads(head)
        id_, prev, user, type_, micros, group, key, meta = fields
    except (ValueError, TypeError, RecursionError) as error:
        raise CodecError(f"the header of an event is damaged: {head[:80]!r}") from error
    texts = (id_, prev, user, type_, *(field for field in (group, key) if field is not None))
    well_formed = (
        bool(newline)
        and all(isinstance(text, str) for text in texts)
        and type(micros) is int
        and 0 <= micros < _MICROS_END
        and isinstance(meta, dict)
        and all(isinstance(value, str) for value in meta.values())
    )
    if not well_formed:
        raise CodecError(f"the header of an event has fields of the wrong kind: {head[:80]!r}")
    try:
        for position in filter(None, (id_, prev)):
            ids.parse(position)
    except InvalidEventIdError as error:
        raise CodecError(f"the header of an event has a malformed id: {head[:80]!r}") from error
    return (id_, prev, user, type_, micros, group, key, meta), data


def to_json(header: Header, data: bytes) -> str:
    """Return the JSON form; the payload's text is `data` unchanged."""
    id_, prev, user, type_, micros, group, key, meta = header
    moment = (_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds")
    members: dict[str, object] = {"id": id_, "prev": prev, "user": user, "type": type_, "timestamp": moment}
    members |= {name: value for name, value in (("group", group), ("key", key)) if value is not None}
    if meta:
        members["meta"] = dict(meta)
    return f'{_encoder.encode(members)[:-1]},"payload":{data.decode()}}}'


def from_json(text: str | bytes) -> tuple[Header, bytes]:
    """Return header and data of a JSON form.

    Raises:
        CodecError: not an event.
    """
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        members = {name: (value, raw) for name, value, raw in _members(decoded)}
        moment = datetime.fromisoformat(_value(members, "timestamp"))
        micros = (moment - _EPOCH) // timedelta(microseconds=1)
        payload = members["payload"][1]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CodecError(f"not the JSON of an event: {error!r}") from error
    optional = [members.get(name, (None, ""))[0] for name in ("group", "key")]
    required = [_value(members, name) for name in ("id", "prev", "user", "type")]
    head = [*required, micros, *optional, members.get("meta", ({}, ""))[0]]
    return decode(b"%b%b\n%b" % (VERSION, _encoder.encode(head).encode(), payload.encode()))  # checked as all are


def _value(members: Mapping[str, tuple[Any, str]], name: str) -> Any:
    return members.get(name, ("", ""))[0]


def _members(text: str) -> Iterator[tuple[str, Any, str]]:
    """Yield name, value and source text of each member of a JSON object, so that a payload's bytes stay as they are."""
    if not isinstance(json.loads(text), dict):
        raise TypeError("not an object")
    position = text.index("{") + 1
    while (start := _SPACE.match(text, position).end()) and text[start] != "}":  # type: ignore[union-attr]
        name, position = _decoder.raw_decode(text, start)
        start = _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it matches nothing, too
        value, position = _decoder.raw_decode(text, start)
        yield name, value, text[start:position]
