"""Pure: the versioned wire form of an event, and the payload's JSON.

Wire form, version 1: `b"1"`, the header, a newline, `data`. The header is a compact JSON array that holds no newline;
`data` is the payload's JSON as it was encoded at push, never touched again. A later version starts with another byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

from . import ids
from .errors import CodecError, InvalidEventError, InvalidEventIdError

VERSION: Final = b"1"

Header = tuple[str, str, str, str, int, str | None, str | None, Mapping[str, str]]
"""`(id, prev, user, type, microseconds, group, key, meta)`"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SPACE = re.compile(r"[\s,:]*")  # between two tokens of what was parsed before, so each is where it belongs
_WHITE_SPACE = " \t\n\r"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # an escape of one half of a pair: the other one may be missing
_REQUIRED = ("user", "type", "timestamp", "payload")
_FIELDS = ("user", "type", "id", "prev", "group", "key", "meta")
MICROS_END: Final = 253_402_300_800_000_000  # the year 10000, which a datetime cannot hold
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
        remedy = "; the dumps= of a Notifier encodes other types" if isinstance(error, TypeError) else ""
        raise InvalidEventError(f"the payload is not a JSON value: {error}{remedy}") from error


def dump(dumps: Callable[[Any], bytes | str], payload: object) -> bytes:
    """Return the payload's JSON as a function of the application encodes it; checked by `check_json` afterwards.

    Raises:
        InvalidEventError: the function fails, or returns neither bytes nor text.
    """
    try:
        result = dumps(payload)
        data = result.encode() if isinstance(result, str) else result
    except Exception as error:
        raise InvalidEventError(f"dumps= could not encode the payload: {error!r}") from error
    if not isinstance(data, bytes):
        raise InvalidEventError(f"dumps= must return bytes or str, not {data.__class__.__name__}")
    return data


def check_json(data: bytes, what: str) -> None:
    """Raise InvalidEventError unless the bytes are one JSON text, as strict as what the library encodes itself."""
    try:
        text = data.decode()
        value = _decoder.decode(text)
        if _SURROGATE.search(text):
            _encoder.encode(value).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidEventError(f"{what} is not one JSON text in UTF-8: {error}") from error


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
        raise CodecError(
            f"not an event of wire version {VERSION.decode()}: {len(raw)} bytes, from {bytes(raw[:1])!r} on"
        )
    head, newline, data = bytes(raw[1:]).partition(b"\n")
    try:
        fields = json.loads(head)
        id_, prev, user, type_, micros, group, key, meta = fields
    except (ValueError, TypeError, RecursionError) as error:
        raise CodecError(f"the header of an event is damaged ({len(head)} bytes)") from error
    texts = (id_, prev, user, type_, *(field for field in (group, key) if field is not None))
    well_formed = (
        bool(newline)
        and all(isinstance(text, str) for text in texts)
        and type(micros) is int
        and 0 <= micros < MICROS_END
        and isinstance(meta, dict)
        and all(isinstance(value, str) for value in meta.values())
    )
    if not well_formed:
        raise CodecError(f"the header of an event has fields of the wrong kind ({len(head)} bytes)")
    try:
        for position in filter(None, (id_, prev)):
            ids.parse(position)
    except InvalidEventIdError as error:
        raise CodecError(f"the header of an event has a malformed id ({len(head)} bytes)") from error
    return (id_, prev, user, type_, micros, group, key, meta), data


def to_json(header: Header, data: bytes) -> str:
    """Return the JSON form; the payload's text is `data` without the white space around it.

    Raises:
        InvalidEventError: `data` is not one JSON text, so the form would not be the event's.
    """
    try:
        payload = data.decode().strip(_WHITE_SPACE)
        _decoder.decode(payload)
    except (ValueError, RecursionError) as error:
        raise InvalidEventError(f"data is not one JSON text ({error}): {data[:60]!r}") from error
    id_, prev, user, type_, micros, group, key, meta = header
    moment = (_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds")
    members: dict[str, object] = {"id": id_, "prev": prev, "user": user, "type": type_, "timestamp": moment}
    members |= {name: value for name, value in (("group", group), ("key", key)) if value is not None}
    if meta:
        members["meta"] = dict(meta)
    return f'{_encoder.encode(members)[:-1]},"payload":{payload}}}'


def from_json(text: str | bytes) -> dict[str, Any]:
    """Return the arguments for `Event` that a JSON form holds: of the right names, but not checked.

    Raises:
        CodecError: not JSON, not an object, a member twice, or one that is required is missing.
    """
    if not isinstance(text, str | bytes):
        raise CodecError(f"not the JSON of an event: {text!r:.80}")
    try:
        members = _members(text.decode() if isinstance(text, bytes) else text)
        missing = [name for name in _REQUIRED if name not in members]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")  # noqa: TRY301 - one place makes the CodecError
        fields = {name: members[name][0] for name in _FIELDS if name in members}
        fields["timestamp"] = datetime.fromisoformat(members["timestamp"][0])
        fields["data"] = members["payload"][1].encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise CodecError(f"not the JSON of an event: {error}") from error
    return fields


def _members(text: str) -> dict[str, tuple[Any, str]]:
    """Return value and source text of each member of a JSON object, so that a payload's bytes stay as they are."""
    if not isinstance(_decoder.decode(text), dict):
        raise TypeError("it is not an object")
    members: list[tuple[str, tuple[Any, str]]] = []
    position = text.index("{") + 1
    while (start := _SPACE.match(text, position).end()) and text[start] != "}":  # type: ignore[union-attr]
        name, position = _decoder.raw_decode(text, start)
        start = _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it matches nothing, too
        value, position = (_unique_decoder if name == "meta" else _decoder).raw_decode(text, start)
        members.append((name, (value, text[start:position])))
    return _unique(members)


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of an object: where a name is used twice, programs differ in which value they take."""
    unique = dict(members)
    if len(unique) < len(members):
        raise ValueError("an object has two members of the same name")
    return unique


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)
_unique_decoder = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_unique)
