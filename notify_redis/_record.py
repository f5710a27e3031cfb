"""An event as the log and its announcement hold it, without the ids, which Redis gives.

Version 1: the byte `1`, then user, type, microseconds, group, key and meta, each ended by a newline, then `data` as it
was encoded at push. No field but `data` can hold a newline; what is empty was left out. `meta` is JSON. A fifth of the
time of the general wire form, on the path of every push and announcement. A later version begins with another byte.
"""

from __future__ import annotations

import json
from types import MappingProxyType

from notify.adapters import build_event
from notify.errors import CodecError
from notify.event import NO_META, Event

VERSION = b"1"

_json = json.JSONEncoder(separators=(",", ":"))


def encode(event: Event) -> bytes:
    """Return the event's entry."""
    meta = _json.encode(dict(event.meta)) if event.meta else ""
    head = f"1{event.user}\n{event.type}\n{event.micros}\n{event.group or ''}\n{event.key or ''}\n{meta}\n"
    return head.encode() + event.data


def decode(raw: bytes, id_: str, prev: str) -> Event:
    """Return the event of an entry, with its ids.

    Raises:
        CodecError: not an entry, or of a version that this library does not read.
    """
    if raw[:1] != VERSION:
        raise CodecError(f"not an entry of version 1: {bytes(raw[:16])!r}")
    try:
        user, type_, micros, group, key, meta, data = raw.split(b"\n", 6)
        return build_event(
            id_,
            prev,
            user[1:].decode(),
            type_.decode(),
            data,
            int(micros),
            group.decode() if group else None,
            key.decode() if key else None,
            MappingProxyType(json.loads(meta)) if meta else NO_META,
        )
    except (ValueError, TypeError) as error:
        raise CodecError(f"an entry is damaged: {raw[:80]!r}") from error
