"""Pure: names, objects and positions that the clients of four other systems expect (`NotifyApp(dialect=...)`).

A row of `DIALECTS` says how such a client sees a stream; `Translation` in `_translation` is one connection's use of it.
docs/howto/dialects.md describes the rows for users.

Rules:
    1. A time that is handed out as a position (`created_at`, `timestamp`) is the event's id, its sequence in the digits
       below the millisecond (`stamp`). So `?since=` resumes exactly, also between two events of one millisecond.
    2. Where a time cannot tell two events apart (more than 999 in a millisecond), or several logs are read, an event
       is repeated rather than lost.
    3. An event whose type is a name of the dialect keeps it, and its payload is sent as it is. Every other event is
       put into the dialect's object for a notification.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2s
from typing import Any, Final, NamedTuple

from notify import Event, Position, UsageError, ids

OVERLAP: Final = 5000
"""Milliseconds that are repeated where several logs are read (rule 2)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_STEP = 999  # the largest sequence that fits below a millisecond in a double


class Frame(NamedTuple):
    """One frame: the value of SSE's `event:`, and JSON (or nothing) for its `data:`."""

    name: str
    data: bytes


class Since(NamedTuple):
    """Where a client continues: what to subscribe with, and the id (as two numbers) up to which it has everything."""

    position: Position
    seen: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """How one family of clients sees a stream.

    Attributes:
        name: what `dialect=` takes.
        wrap: makes the object of a notification.
        default: the name of a frame with such an object.
        broadcast: the same for a broadcast.
        own: types that are sent under their own name, with their payload alone.
        hello, sync: frames at the beginning and after the replay, where the clients know any.
        end: the name of the frame at the end, where they know one.
        without_since: where a client without a position starts.
        cursor: the name of a position in the query of a poll, beside the usual ones.
        is_resumed: frames carry ids, and an event id is accepted beside `?since=`.
        is_flushed: the replay always begins at the beginning; `?since=` only leaves out what it need not repeat.
        changed: makes the frames of a change of an inbox, and of its counts.
        page: makes the answer to a poll, of the objects and the position.
        aliases: further last segments of the path, and the endpoint that each means.
    """

    name: str
    wrap: Callable[[Event], dict[str, Any]]
    default: str
    broadcast: str = ""
    own: frozenset[str] = frozenset()
    hello: Frame | None = None
    sync: Frame | None = None
    end: str = ""
    cursor: str = ""
    without_since: Position = None
    is_resumed: bool = True
    is_flushed: bool = False
    changed: Callable[[Event], list[Frame]] = lambda event: []
    page: Callable[[list[dict[str, Any]], str], object] = lambda objects, position: objects
    aliases: Mapping[str, str] = field(default_factory=dict)

    def start(self, since: str, now: float, logs: int = 1) -> Since:
        """Return where a client with this `?since=` starts; a value that is not a time counts as none.

        Args:
            since: seconds since 1970 as text, empty for none.
            now: the time. A later one than this is "from now on".
            logs: how many logs are read. Between several, the order of ids is not the order of arrival.
        """
        seen = _parse_stamp(since)
        if seen is not None and logs > 1:
            seen = (max(0, seen[0] - OVERLAP), 0)
        if self.is_flushed:
            return Since(ids.ZERO, seen)
        if seen is None:
            return Since(self.without_since)
        if seen == (0, 0):
            return Since(ids.ZERO)
        if seen[0] > now * 1000:
            return Since(None)
        return Since(_EPOCH + timedelta(milliseconds=seen[0]), seen)

    def farewell(self, reason: str) -> Frame | None:
        """Return the frame that says that the server ends the stream, if these clients know one."""
        value = {"type": self.end, "mode": "ephemeral", "payload": {"reason": reason}}
        return Frame(self.end, dump(value)) if self.end else None

    def frame(self, event: Event) -> Frame:
        """Return the frame of an event, as it is without regard to those before it."""
        if event.type in self.own:
            return Frame(event.type, event.data)
        is_broadcast = self.broadcast and not event.user
        return Frame(self.broadcast if is_broadcast else self.default, dump(self.wrap(event)))


def dump(value: object) -> bytes:
    """Return a value as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def stamp(event: Event) -> float:
    """Return an event's time as a position (rule 1): seconds since 1970; for one without an id, when it was pushed."""
    if not event.id:
        return event.micros / 1_000_000
    ms, step = steps_of(event.id)
    return (ms * 1000 + step) / 1_000_000


def find_dialect(name: str) -> Dialect:
    """Return the dialect of this name.

    Raises:
        UsageError: there is none.
    """
    try:
        return DIALECTS[name]
    except (KeyError, TypeError):
        raise UsageError(f"dialect= is one of {', '.join(DIALECTS)}, not {name!r:.80}") from None


def steps_of(id: str) -> tuple[int, int]:
    """Return an id's milliseconds, and its sequence as far as a time can show it (rules 1 and 2)."""
    ms, sequence = ids.parse(id)
    return ms, min(sequence, _LAST_STEP)


def _parse_stamp(text: str) -> tuple[int, int] | None:
    try:
        micros = round(float(text) * 1_000_000)
    except (ValueError, OverflowError):  # not a number; NaN; infinite
        return None
    if micros < 0:
        return None
    ms, step = divmod(micros, 1000)
    return ms, min(step, _LAST_STEP - 1)  # the last step stands for all that follow it, so it is repeated


def mode_of(event: Event) -> str:
    return event.meta.get("mode", "queued") if event.id else "ephemeral"


def _parts(event: Event) -> tuple[dict[str, Any], Any]:
    """Return the payload as an object, and what is not one as the data beside an empty object."""
    payload = event.payload
    return (payload, None) if isinstance(payload, dict) else ({}, payload)


def _name(event: Event) -> str:
    """Return an id, also for an event that has none: these clients drop one whose id they have seen."""
    return event.id or blake2s(f"{event.micros} {event.type} ".encode() + event.data, digest_size=12).hexdigest()


def _iso(event: Event) -> str:
    return event.timestamp.isoformat().replace("+00:00", "Z")


def _skrift(event: Event) -> dict[str, Any]:
    wrapped = {
        "type": event.type,
        "id": _name(event),
        "mode": mode_of(event),
        "created_at": stamp(event),
        "payload": event.payload,
    }
    return wrapped if event.group is None else wrapped | {"group": event.group}


def _template(event: Event) -> dict[str, Any]:
    fields, data = _parts(event)
    rest = {name: value for name, value in fields.items() if name not in _TEMPLATE_FIELDS} or data
    wrapped = {
        "id": _name(event),
        "userId": event.user,
        "type": event.type,
        "title": fields.get("title", ""),
        "message": fields.get("message", ""),
        "data": rest,
        "actionUrl": fields.get("action_url", fields.get("actionUrl")),
        "read": False,
        "createdAt": _iso(event),
    }
    return {name: value for name, value in wrapped.items() if value is not None}


def _tutorial(event: Event) -> dict[str, Any]:
    return {"name": event.type, "data": event.payload, "timestamp": stamp(event)}


def _marketplace(event: Event) -> dict[str, Any]:
    fields, _ = _parts(event)
    return {
        "id": _name(event),
        "type": event.type,
        "title": fields.get("title", ""),
        "body": fields.get("body", fields.get("message", "")),
        "is_read": False,
        "reference_id": fields.get("reference_id"),
        "route": fields.get("route", fields.get("action_url")),
        "created_at": _iso(event),
    }


def gone(id: str) -> Frame:
    """Return the frame that removes a notification from the screens of `skrift` clients."""
    return Frame("dismissed", dump({"type": "dismissed", "id": id, "mode": "ephemeral", "payload": {}}))


def members_of(event: Event) -> dict[str, Any]:
    """Return what the payload of a change says; nothing if it is malformed, in a log that was copied from elsewhere."""
    payload = event.payload
    return payload if isinstance(payload, dict) else {}


def _ids(event: Event) -> list[str]:
    """Return the ids of the events whose items a change names, as clients know them: without the log."""
    ids = members_of(event).get("ids")
    return [str(id).partition("@")[0] for id in ids] if isinstance(ids, list) else []


def _skrift_changed(event: Event) -> list[Frame]:
    return [gone(id) for id in _ids(event)] if event.type == "notify.dismissed" else []


def _template_changed(event: Event) -> list[Frame]:
    if event.type in ("notify.counts", "notify.sync"):
        counts = members_of(event)
        return [Frame("unread:count", dump(counts["unread"]))] if "unread" in counts else []
    if event.type not in ("notify.read", "notify.dismissed"):
        return []
    if "up_to" in members_of(event):
        return [Frame("notifications:cleared", b"{}")]
    return [Frame("notification:updated", dump({"id": id, "read": True})) for id in _ids(event)]


_TEMPLATE_FIELDS = frozenset({"title", "message", "action_url", "actionUrl"})

DIALECTS: Final[Mapping[str, Dialect]] = {
    each.name: each
    for each in (
        Dialect(
            "skrift",
            _skrift,
            "notification",
            own=frozenset({"dismissed"}),
            sync=Frame("sync", b""),
            end="disconnecting",
            is_resumed=False,
            is_flushed=True,
            changed=_skrift_changed,
            aliases={"notifications": "inbox"},
        ),
        Dialect(
            "template",
            _template,
            "notification:new",
            "notification:broadcast",
            own=frozenset(
                {
                    "notification:read",
                    "notification:updated",
                    "notifications:cleared",
                    "notifications:list",
                    "notifications:read-all",
                    "unread:count",
                }
            ),
            changed=_template_changed,
        ),
        Dialect(
            "tutorial",
            _tutorial,
            "notification",
            without_since=ids.ZERO,
            aliases={"notifications": "events"},
        ),
        Dialect(
            "marketplace",
            _marketplace,
            "new_notification",
            own=frozenset(
                {
                    "conversation_updated",
                    "listing_status_changed",
                    "new_match",
                    "new_message",
                    "notification",
                    "property_update",
                    "swipe",
                    "visit_updated",
                }
            ),
            hello=Frame("connected", b"{}"),
            cursor="cursor",
            page=lambda objects, position: {"items": objects, "next_cursor": position},
            aliases={"sse": "stream", "notifications": "events"},
        ),
    )
}
