"""The event: immutable, slotted, its payload encoded exactly once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from time import time_ns
from types import MappingProxyType
from typing import Any, Final, NoReturn, TypeVar

from . import _codec, ids
from ._codec import encode_payload
from .errors import CodecError, InvalidEventError, InvalidEventIdError

T = TypeVar("T")

MAX_NAME_BYTES: Final = 255
"""Bytes of UTF-8 in a user, key or group at most."""

MAX_META_BYTES: Final = 8192
"""Characters in all keys and values of `meta` together at most."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NO_META: Mapping[str, str] = MappingProxyType({})
_KNOWN_TYPES = 1024
_known_types: set[str] = set()  # types that were pushed before and need no check: an application has a few dozen
_TYPE = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class _Fields:
    """The slots of an event while it is being filled, which is several times cheaper than filling a frozen object."""

    __slots__ = ("data", "group", "id", "key", "meta", "micros", "prev", "type", "user")

    id: str
    prev: str
    user: str
    type: str
    data: bytes
    micros: int
    group: str | None
    key: str | None
    meta: Mapping[str, str]


class Event(_Fields):
    """One notification to one user.

    `Event("alice", "comment.created", {"post": 7})` makes a draft; a store returns it with `id` and `prev` set.

    A broadcast has an empty `user`, which this constructor refuses: a codec of one's own makes it by
    `Event("-", ...).addressed_to("")`, or uses `from_json`, which accepts it.

    Args:
        user: whose log it belongs to: 1 to 255 bytes of UTF-8, without control characters or lone surrogates.
        type: `[A-Za-z0-9_.:-]{1,128}`; types that begin with `notify.` are reserved.
        payload: any JSON value.
        data: the payload's JSON, instead of `payload`; not checked.
        id: `<ms>-<seq>`; empty for an event that is not stored (a draft or an ephemeral event).
        prev: the id of the event before it in the same log, `"0"` for the first.
        timestamp: an aware datetime, from 1970 to the year 9999; the current time by default.
        group: what the event is about; an inbox collapses by it.
        key: the idempotency key of the push.
        meta: strings to strings, for trace context and the application; names that begin with `notify.` are reserved.

    Attributes:
        data: the payload's JSON; every store, router and server passes these bytes on unchanged.
        micros: the timestamp as microseconds since 1970.

    Raises:
        InvalidEventError: an argument is unacceptable.
        InvalidEventIdError: `id` or `prev` is neither an id nor empty.
    """

    __slots__ = ()

    def __new__(
        cls,
        user: str,
        type: str,
        payload: Any = None,
        *,
        data: bytes | None = None,
        id: str = "",
        prev: str = "",
        timestamp: datetime | None = None,
        group: str | None = None,
        key: str | None = None,
        meta: Mapping[str, str] | None = None,
    ) -> Event:
        """Check every field; see the class."""
        if data is not None and not isinstance(data, bytes):
            raise InvalidEventError(f"data must be bytes of JSON, not {data.__class__.__name__}")
        check_user(user)
        check_type(type)
        _check_names(group, key)
        for position in (id, prev):
            if position != "":
                ids.parse(position)
        user, type, group, key = plain(user), plain(type), plain(group), plain(key)
        if data is None:
            data = encode_payload(payload)
        micros = time_ns() // 1000 if timestamp is None else _micros(timestamp)
        return build_event(
            id, prev, user, type, data, micros, group, key, NO_META if meta is None else freeze_meta(meta)
        )

    @property
    def payload(self) -> Any:
        """The payload, decoded at each access, so that no two readers share a mutable value."""
        return json.loads(self.data)

    @property
    def timestamp(self) -> datetime:
        """When the event was pushed: aware, UTC, to the microsecond."""
        return _EPOCH + timedelta(microseconds=self.micros)

    def stored(self, id: str, prev: str) -> Event:
        """Return this event as the log holds it, with its ids: for stores."""
        return build_event(id, prev, self.user, self.type, self.data, self.micros, self.group, self.key, self.meta)

    def addressed_to(self, user: str) -> Event:
        """Return this event for another user, whose id must have been checked."""
        return build_event(self.id, self.prev, user, self.type, self.data, self.micros, self.group, self.key, self.meta)

    def with_meta(self, meta: Mapping[str, str]) -> Event:
        """Return this event with other `meta`."""
        frozen = freeze_meta(meta)
        return build_event(
            self.id, self.prev, self.user, self.type, self.data, self.micros, self.group, self.key, frozen
        )

    def to_bytes(self) -> bytes:
        """Return the versioned wire form that routers use."""
        return _codec.encode(self._header(), self.data)

    @classmethod
    def from_bytes(cls, raw: bytes | bytearray | memoryview) -> Event:
        """Return the event of a wire form.

        Raises:
            CodecError: the bytes are not an event in a version that this library reads.
        """
        return cls._of(*_codec.decode(raw))

    @classmethod
    def _of(cls, header: _codec.Header, data: bytes) -> Event:
        id_, prev, user, type_, micros, group, key, meta = header
        frozen = MappingProxyType(dict(meta)) if meta else NO_META
        return build_event(id_, prev, user, type_, data, micros, group, key, frozen)

    def to_json(self) -> str:
        """Return the event as one JSON object, for systems that read JSON rather than `to_bytes`.

        Members: `id`, `prev`, `user`, `type`, `timestamp` (ISO 8601), `group`, `key` and `meta` where there are any,
        and `payload`, whose text is `data` without the white space around it. A broadcast has an empty `user`.

        Raises:
            InvalidEventError: `data`, which the constructor does not check, is not one JSON text.
        """
        return _codec.to_json(self._header(), self.data)

    @classmethod
    def from_json(cls, text: str | bytes) -> Event:
        """Return the event of a JSON object that `to_json` made, or another program in the same form.

        `user`, `type`, `timestamp` and `payload` are required; `id`, `prev`, `group`, `key` and `meta` may be absent.
        They are checked as by `Event(...)`, except that a broadcast has an empty `user`, and no `id`. Members that are
        not known are ignored.

        Raises:
            CodecError: the text is not an event, or not JSON: NaN, infinities and a member that occurs twice are not.
        """
        fields = _codec.from_json(text)
        is_broadcast = fields["user"] == "" and not fields.get("id")
        try:
            event = cls(**(fields | {"user": "-"} if is_broadcast else fields))
        except (InvalidEventError, InvalidEventIdError) as error:
            raise CodecError(f"not the JSON of an event: {error}") from error
        return event.addressed_to("") if is_broadcast else event

    def _header(self) -> _codec.Header:
        return (self.id, self.prev, self.user, self.type, self.micros, self.group, self.key, self.meta)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an event is immutable; cannot set {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"an event is immutable; cannot delete {name}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return self._header() == other._header() and self.data == other.data

    def __hash__(self) -> int:
        return hash((self.user, self.type, self.micros))  # not the id, which a draft gets later

    def __reduce__(self) -> tuple[Any, ...]:
        return (Event.from_bytes, (self.to_bytes(),))

    def __repr__(self) -> str:
        """Without the payload, which must not come into a log or a traceback by accident."""
        size = f"{len(self.data)} bytes"
        return f"<Event user={self.user!r} type={self.type!r} id={self.id!r} prev={self.prev!r} data: {size}>"


_new: Callable[[type[Draft]], Draft] = object.__new__


class Draft(Event):
    """An event that is not stored yet. `stored` changes this object instead of copying it: a push makes one object."""

    __slots__ = ()
    __setattr__ = object.__setattr__  # type: ignore[assignment]
    __delattr__ = object.__delattr__  # type: ignore[assignment]  # without it, setting goes through a slow wrapper

    def stored(self, id: str, prev: str) -> Event:
        """Become the event that the log holds."""
        self.id = id
        self.prev = prev
        self.__class__ = Event  # type: ignore[assignment]  # immutable from here on
        return self

    def addressed_to(self, user: str) -> Draft:
        """Return a draft for another user, whose id must have been checked."""
        other = _new(Draft)
        other.id, other.prev, other.user = self.id, self.prev, user
        other.type, other.data, other.micros = self.type, self.data, self.micros
        other.group, other.key, other.meta = self.group, self.key, self.meta
        return other


def draft(
    user: str,
    type: str,
    payload: Any,
    key: str | None,
    group: str | None,
    meta: Mapping[str, str] | None,
    user_checked: bool,
    data: bytes | None = None,
) -> Draft:
    """Return the draft of a push: checked as by `Event(...)`, and neither the type nor a name in `meta` is reserved.

    With `data`, which was checked, the payload is not used.

    Raises:
        InvalidEventError: an argument is unacceptable.
    """
    if not user_checked:
        check_user(user)
    if type.__class__ is not str or type not in _known_types:
        check_pushed_type(type)
        type = plain(type)
    if group is not None or key is not None:
        _check_names(group, key)
        group, key = plain(group), plain(key)
    event = _new(Draft)
    event.id = event.prev = ""
    event.user = user
    event.type = type
    event.data = encode_payload(payload) if data is None else data
    event.micros = time_ns() // 1000
    event.group = group
    event.key = key
    event.meta = NO_META if meta is None else pushed_meta(meta)
    return event


def build_event(
    id: str,
    prev: str,
    user: str,
    type: str,
    data: bytes,
    micros: int,
    group: str | None,
    key: str | None,
    meta: Mapping[str, str],
) -> Event:
    """Return an event of fields that were checked when they were pushed: for stores and decoders.

    It fills the slots of the mutable base class and then changes the class, which is several times cheaper than
    setting the attributes of an immutable object.
    """
    fields = _Fields()
    fields.id = id
    fields.prev = prev
    fields.user = user
    fields.type = type
    fields.data = data
    fields.micros = micros
    fields.group = group
    fields.key = key
    fields.meta = meta
    fields.__class__ = Event
    return fields  # type: ignore[return-value]


def plain(text: T) -> T:
    """Return an instance of a `str` subclass, such as an enum's, as plain `str`: only that formats as its text."""
    return str.__str__(text) if isinstance(text, str) else text  # type: ignore[return-value]


def check_user(user: object) -> None:
    """Raise InvalidEventError unless `user` is a user id."""
    if isinstance(user, str) and user.isascii() and user.isprintable() and 0 < len(user) <= MAX_NAME_BYTES:
        return  # the usual case, without a second call
    check_name("user", user)


def safe_name(text: str) -> str:
    """Return a name for use in subjects, topics, keys and file names: injective, of `[A-Za-z0-9_=-]` only.

    Letters, digits, `_` and `-` stay as they are; every other byte of the UTF-8 form becomes `=` and two hexadecimal
    digits, so the result has at most three times as many bytes.
    """
    return _UNSAFE.sub(lambda found: f"={found[0][0]:02x}".encode(), text.encode()).decode()


def check_type(text: object) -> None:
    """Raise InvalidEventError unless `text` is an event type."""
    if not isinstance(text, str) or not _TYPE.fullmatch(text):
        raise InvalidEventError(f"an event type must match [A-Za-z0-9_.:-]{{1,128}}: {text!r:.150}")


def check_pushed_type(text: str) -> None:
    """Raise InvalidEventError unless applications may push this type."""
    check_type(text)
    if text.startswith("notify."):
        raise InvalidEventError(f"event types that begin with 'notify.' are reserved: {text!r}")
    if len(_known_types) < _KNOWN_TYPES:
        _known_types.add(plain(text))


def freeze_meta(meta: object) -> Mapping[str, str]:
    """Return a read-only copy of `meta`.

    Raises:
        InvalidEventError: not a mapping of strings to strings, over 8,192 characters, or not valid Unicode.
    """
    if not isinstance(meta, Mapping) or not all(isinstance(text, str) for pair in meta.items() for text in pair):
        raise InvalidEventError("meta must map strings to strings")
    texts = [text for pair in meta.items() for text in pair]
    if sum(map(len, texts)) > MAX_META_BYTES:
        raise InvalidEventError(f"meta must have at most {MAX_META_BYTES} characters in all")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise InvalidEventError("meta must not hold lone surrogates") from error
    return MappingProxyType(dict(meta)) if meta else NO_META


def pushed_meta(meta: object) -> Mapping[str, str]:
    """Return a read-only copy of the `meta` of a push; raise InvalidEventError if it is unacceptable or reserved."""
    frozen = freeze_meta(meta)
    if any(name.startswith("notify.") for name in frozen):
        raise InvalidEventError(f"names in meta that begin with 'notify.' are reserved: {[*frozen]!r:.150}")
    return frozen


def _check_names(group: object, key: object) -> None:
    if group is not None:
        check_name("group", group)
    if key is not None:
        check_name("key", key)


def check_name(what: str, name: object) -> None:
    """Raise InvalidEventError unless `name` is acceptable as a user, key, group or instance id.

    Args:
        what: the argument's name, for the message.
        name: the value.
    """
    if isinstance(name, str):
        if name.isascii() and name.isprintable() and 0 < len(name) <= MAX_NAME_BYTES:
            return
        if name and not _FORBIDDEN.search(name) and len(name.encode()) <= MAX_NAME_BYTES:
            return
    message = f"{what} must be 1 to {MAX_NAME_BYTES} bytes of UTF-8 text without control characters, not {name!r:.80}"
    if isinstance(name, bytes):
        message += ": pass it decoded, as str"
    elif name is not None and not isinstance(name, str):
        message += f": pass str(...) of this {name.__class__.__name__}"
    raise InvalidEventError(message)


def _micros(moment: Any) -> int:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise InvalidEventError("timestamp must be a datetime with a time zone")
    micros = (moment - _EPOCH) // timedelta(microseconds=1)
    if not 0 <= micros < _codec.MICROS_END:
        raise InvalidEventError(f"timestamp must be in the years 1970 to 9999 of UTC: {moment.isoformat()}")
    return micros
