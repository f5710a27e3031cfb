"""Pure: what the read half of Durable Streams says on the wire, without the reading.

Rules:
    1. An offset is an event id with both parts padded to 20 digits, so offsets sort as text in log order, and each of
       them is an event id too: a client may pass it as `Last-Event-ID` elsewhere, and any event id is an offset.
    2. `-1` is the beginning of what is retained, `now` the end of the log. The offset of an empty log is all zeros.
    3. A cursor counts intervals of 20 seconds. A response never repeats the cursor of its request: two equal requests
       in a row would otherwise be one to a cache between client and server.
    4. An entity tag names the first and the last event of a body: a part of a log between two ids never changes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from notify import Event, InvalidEventIdError, ids

BEGINNING: Final = "-1"
NOW: Final = "now"

_OFFSET = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_CURSOR_START: Final = 1_728_432_000  # 2024-10-09, from which the protocol counts
_CURSOR_SECONDS: Final = 20
_CURSOR = re.compile(r"[0-9]{1,15}")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_TAG = re.compile(r'(?:W/)?("[^"]*")')


def offset_of(position: str) -> str:
    """Return the offset of a stream's `last_id`.

    Raises:
        InvalidEventIdError: not an event id.
    """
    ms, sequence = ids.parse(position)
    return f"{ms:020d}-{sequence:020d}"


def position_of(offset: str) -> str | None:
    """Return where to subscribe from; None for the end of the log.

    Raises:
        InvalidEventIdError: not an offset.
    """
    if offset == NOW:
        return None
    if offset == BEGINNING:
        return ids.ZERO
    if not _OFFSET.fullmatch(offset):
        raise InvalidEventIdError(f"not an offset: {offset!r:.80}")
    position = ids.canonical(offset)
    return position if position != ids.ZERO else "0-0"  # the end of a log that was empty


def next_cursor(asked: str, now: float, jitter: int) -> str:
    """Return the cursor of a response.

    Args:
        asked: that of the request, if any; one that is not a number is ignored.
        now: seconds since 1970.
        jitter: intervals to move on by if the clock has not moved past `asked`; at least 1.
    """
    current = int((now - _CURSOR_START) // _CURSOR_SECONDS)
    before = int(asked) if _CURSOR.fullmatch(asked) else -1
    return str(current if current > before else before + jitter)


@dataclass(frozen=True, slots=True)
class Form:
    """How the events of a log become the content of a stream.

    Attributes:
        item: the bytes of one event: one JSON text where `content_type` is JSON.
        content_type: of the whole body. JSON items become one array, other items are joined; what is neither JSON nor
            text travels as base64 in server-sent events.
    """

    item: Callable[[Event], bytes]
    content_type: str = "application/json"

    @property
    def is_json(self) -> bool:
        """Whether a body is an array of items."""
        return self.content_type.partition(";")[0].strip().lower() == "application/json"

    @property
    def is_text(self) -> bool:
        """Whether a server-sent event can carry the items as they are."""
        return self.is_json or self.content_type.lower().startswith("text/")

    def body(self, events: Sequence[Event]) -> bytes:
        """Return the content of these events."""
        items = [self.item(event) for event in events]
        return b"[%b]" % b",".join(items) if self.is_json else b"".join(items)


def payload(event: Event) -> bytes:
    """Return what was pushed, as JSON, without the event around it: the `item` of a `Form`."""
    return event.data


def sse_frames(form: Form, events: Sequence[Event], offset: str, cursor: str, *, up_to_date: bool) -> bytes:
    """Return one data frame, if there are events, and the control frame that has to follow it."""
    control = {"streamNextOffset": offset, "streamCursor": cursor} | ({"upToDate": True} if up_to_date else {})
    frames = b"event: control\ndata:%b\n\n" % json.dumps(control, separators=(",", ":")).encode()
    if not events:
        return frames
    body = form.body(events)
    lines = _LINE_END.split(body) if form.is_text else [base64.b64encode(body)]
    return b"event: data\n%b\n%b" % (b"".join(b"data:%b\n" % _kept(line) for line in lines), frames)


def _kept(line: bytes) -> bytes:
    """Return a line with a space in front if it begins with one, because a parser removes one."""
    return b" " + line if line.startswith(b" ") else line


def entity_tag(log: str, events: Sequence[Event], offset: str) -> str:
    """Return the entity tag of a body: the same for the same events of the same log."""
    first = events[0].id if events else ""
    name = hashlib.blake2b(log.encode(), digest_size=6).hexdigest()  # two users may see different logs at one URL
    return f'"{name}.{first}.{offset}"'


def matches(if_none_match: str, tag: str) -> bool:
    """Return whether the client already has the body with this entity tag."""
    return if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match)
