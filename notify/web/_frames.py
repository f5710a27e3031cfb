"""Pure: what is written for an event: the wire object, the frames of server-sent events and of a WebSocket.

An event is encoded once for each form, however many connections it goes to: what was encoded last is kept, by the
identity of the event, since a live event is one object for all streams of a process. The payload's JSON is passed
through as it was encoded when it was pushed. What varies between connections is the id of the frame, if a stream reads
several logs.

A frame is a few lines and an empty one. Nothing in an event may end a line: the types and ids of the library cannot,
and in the payload's JSON a line break can only be white space between two tokens, so it becomes a space. `retry:` and
comments have no empty line after them: some clients take that for an event.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from notify import Event
from notify.event import NO_META
from notify.inbox.abc import ITEM

HEARTBEAT: Final = b":\n"

CONTROL: Final = "notify."
"""How the types of control events begin: they are frames of their own, not `message`."""

KEPT_EVENTS: Final = 256
KEPT_BYTES: Final = 1 << 20
_SLOT: Final = KEPT_BYTES // KEPT_EVENTS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LF, _CR = b"\n\r"  # ints: `int in bytes` takes an eighth of the time of `bytes in bytes`
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")
_MILLISECONDS = re.compile("[0-9]{1,14}", re.ASCII)
"""Times up to the year 5138; an item that expires later is shown as one that does not."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_.:-]")
_quote = json.encoder.encode_basestring_ascii  # ASCII, so that every character of a name is safe in a frame


def wire_object(event: Event, id: str = "") -> bytes:
    """Return the JSON object of an event, in one line.

    Members: `id` unless it is ephemeral, `user`, `type`, `payload`, `timestamp`; `group` and `meta` where there are
    any, without what the library itself keeps in `meta`; `item` if an inbox lists it.

    Args:
        event: any one.
        id: the `id` to show instead of the event's.
    """
    id = id or event.id
    return _encoded(event, f'{{"id":{_quote(id)},' if id else "{", b"}")


def _encoded(event: Event, start: str, end: bytes) -> bytes:
    """Return the members of an event's JSON object but for its id, between a start and an end."""
    head = f'{start}"user":{_quote(event.user)},"type":{_quote(event.type)},"payload":'
    data = event.data
    if _LF in data or _CR in data:
        data = data.translate(_LINE_BREAKS)
    second, micros = divmod(event.micros, 1_000_000)
    tail = b',"timestamp":"%b.%06d+00:00"' % (_text_of(second), micros)
    if event.group is not None or event.meta is not NO_META:
        tail += _further_members(event).encode()
    return b"".join((head.encode(), data, tail, end))


def _further_members(event: Event) -> str:
    """Return the members that few events have, as JSON text."""
    members = f',"group":{_quote(event.group)}' if event.group is not None else ""
    shown = {name: value for name, value in event.meta.items() if not name.startswith(CONTROL)}
    if shown:
        members += f',"meta":{json.dumps(shown, separators=(",", ":"))}'
    expiry = event.meta.get(ITEM)
    if expiry is not None:
        members += f',"item":{{{_expires_at(expiry)}}}'
    return members


def _expires_at(expiry: str) -> str:
    """Return the member of an item that expires: its time in milliseconds since 1970, as text."""
    if not _MILLISECONDS.fullmatch(expiry):
        return ""
    second, ms = divmod(int(expiry), 1000)
    return f'"expires_at":"{_text_of(second).decode()}.{ms:03d}000+00:00"'


@lru_cache(maxsize=256)
def _text_of(second: int) -> bytes:
    """Return the date and time of a second since 1970: most events share it with the one before them."""
    return (_EPOCH + timedelta(seconds=second)).isoformat()[:19].encode()


def sync_members(event: Event | None) -> bytes:
    """Return the counts in `notify.sync` as further members of its data, with the position for which they hold.

    Args:
        event: the signal; without an inbox its payload is empty. None if there was none.
    """
    if event is None or event.data == b"{}":
        return b""
    counts = event.payload
    shown = {name: counts[name] for name in ("total", "unseen", "unread")} | {"counts_position": counts["position"]}
    return b"," + one_line(shown)[1:-1]


def one_line(value: Any) -> bytes:
    """Return a JSON value in one line."""
    return json.dumps(value, separators=(",", ":")).encode()


def sse_frame(data: bytes, *, event: str = "", id: str = "") -> bytes:
    """Return one frame of server-sent events.

    Args:
        data: JSON in one line.
        event: what the browser calls the event; empty for `message`.
        id: what the browser sends back when it reconnects; empty for none.
    """
    named = f"event: {event}\n" if event else ""
    numbered = f"id: {id}\n" if id else ""
    return b"%b%bdata: %b\n\n" % (named.encode(), numbered.encode(), data)


def retry_line(milliseconds: int) -> bytes:
    """Return the line that tells a browser how long to wait before it reconnects."""
    return b"retry: %d\n" % milliseconds


def ws_text(data: bytes, *, event: str = "message", id: str = "") -> str:
    """Return the text of one frame of a WebSocket, of JSON in one line."""
    numbered = f'"id":{_quote(id)},' if id else ""
    return f'{{"event":{_quote(event)},{numbered}"data":{data.decode()}}}'


class Encoded:
    """What was encoded of one event for other streams than those of `FrameCache.message`.

    Attributes:
        event: the event itself, kept so that its identity is not given to another one.
        data: the wire object.
        typed: the frame with a field `event` for a stream of this one log, once one was needed.
        text: the frame of a WebSocket for a stream of this one log, once one was needed.
    """

    __slots__ = ("data", "event", "text", "typed")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.data = wire_object(event)
        self.typed = b""
        self.text = ""


class FrameCache:
    """A cache of the events that were encoded most recently.

    Nearly every event has one reader, so adding one has to cost little: no entry is evicted by itself, but a full cache
    is emptied. What is still being delivered is then encoded once more.

    Invariants:
        I1. An entry holds the event whose identity is its key.
        I2. There are at most `KEPT_EVENTS` entries, of at most `KEPT_BYTES` in all, unless it is a single one. One
            number bounds both: an entry takes a slot for each `_SLOT` bytes that it has begun.

    Attributes:
        latest: the event for which `message` was called last, and its frame: a broadcast is asked for thousands of
            times in a row.
    """

    def __init__(self) -> None:
        self._messages: dict[int, tuple[Event, bytes]] = {}
        self._others: dict[int, Encoded] = {}
        self._free = KEPT_EVENTS
        self.latest: tuple[Event | None, bytes] = (None, b"")
        self._latest: Encoded | None = None  # likewise, of the other forms

    def __len__(self) -> int:
        return len(self._messages) + len(self._others)

    def message(self, event: Event) -> bytes:
        """Return the frame of server-sent events for a stream of this one log, without a field `event`."""
        key = id(event)
        kept = self._messages.get(key)
        if kept is None:
            # the result of `sse_frame` of the `wire_object`, in half the time: most events have one reader
            id_ = event.id
            start = f'id: {id_}\ndata: {{"id":{_quote(id_)},' if id_ else "data: {"
            frame = _encoded(event, start, b"}\n\n")
            self._free -= 1 + len(frame) // _SLOT
            if self._free < 0:
                self._clear(frame)
            kept = self._messages[key] = (event, frame)  # keeps I1
        self.latest = kept
        return kept[1]

    def encoded(self, event: Event) -> Encoded:
        """Return the cached encodings of this event; encode it if there are none."""
        kept = self._others.get(id(event))
        if kept is None:
            kept = Encoded(event)
            self._free -= 1 + len(kept.data) // _SLOT
            if self._free < 0:
                self._clear(kept.data)
            self._others[id(event)] = kept  # keeps I1
        self._latest = kept
        return kept

    def _clear(self, added: bytes) -> None:
        """Make room for what is added: keeps I2."""
        self._messages.clear()
        self._others.clear()
        self._free = KEPT_EVENTS - 1 - len(added) // _SLOT

    def sse(self, event: Event, last_id: str, *, typed: bool = False) -> bytes:
        """Return the frame of server-sent events.

        Args:
            event: an application's event.
            last_id: the position of the stream after it.
            typed: whether the browser calls the event by its type; otherwise it is a `message`.
        """
        is_of_its_log = last_id == event.id or not event.id
        if is_of_its_log and not typed:
            return self.message(event)
        kept = self._latest
        if kept is None or kept.event is not event:
            kept = self.encoded(event)
        if not is_of_its_log:
            return sse_frame(kept.data, event=_UNSAFE.sub("", event.type) if typed else "", id=last_id)
        if not kept.typed:
            kept.typed = sse_frame(kept.data, event=_UNSAFE.sub("", event.type), id=event.id)
        return kept.typed

    def ws(self, event: Event, last_id: str) -> str:
        """Return the text of a WebSocket frame of an application's event, after which its stream is at `last_id`."""
        kept = self._latest
        if kept is None or kept.event is not event:
            kept = self.encoded(event)
        if last_id != event.id and event.id:
            return ws_text(kept.data, id=last_id)
        if not kept.text:
            kept.text = ws_text(kept.data, id=event.id)
        return kept.text
