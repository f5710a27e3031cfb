"""Pure: the resume token of a stream of several logs, a position for each of them in one text.

```text
m1.alice.1795879843133-0.room_3A7.0-0.~Zm9vYmFyYmF6cXV4MTIzNDU2.t1795879843133-1048575
```

Rules:
    1. `m1`, then pairs of a log and its position, joined by dots. At least one pair, at most `MAX_LOGS`.
    2. A log is its user id, with each byte of its UTF-8 outside `A-Za-z0-9-` written as `_` and two hexadecimal digits.
       One that is longer than a digest is written as `~` and a digest, so a token is bounded, whatever the ids are. A
       token is only ever compared with the logs that are subscribed, so the id need not be recovered.
    3. A position is a canonical id, `0`, `0-0`, or `t` and an id: the log had not been read yet, and starts from that
       time.
    4. All characters are ASCII letters and digits and `. - _ ~`: nothing has to be escaped in a header, a query string
       or a cookie. There is one spelling of each token; any other text is refused.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from .. import ids
from ..errors import InvalidEventIdError

MAX_LOGS: Final = 100
"""Logs that one stream may read: with it, a token is below 7 KB, so it fits into the header of a request."""

EMPTY: Final = "0-0"
"""The position of a reader that has seen the empty beginning of a log."""

_PREFIX: Final = "m1."
_DIGEST_BYTES: Final = 16
_DIGEST_CHARACTERS: Final = 22
_ID_CHARACTERS: Final = 42
MAX_LENGTH: Final = len(_PREFIX) + MAX_LOGS * (_DIGEST_CHARACTERS + 1 + _ID_CHARACTERS + 2)

_LOG = re.compile(r"(?:[A-Za-z0-9-]|_[0-9A-F]{2}){1,22}|~[A-Za-z0-9_-]{22}")
_VERSION = re.compile(r"m[0-9]+\.")


class Place(NamedTuple):
    """A position in one log; `is_time` if the log had not been read yet."""

    id: str
    is_time: bool = False


def is_token(text: str) -> bool:
    """Return whether this is meant to be a token, of this version or another."""
    return _VERSION.match(text) is not None


@lru_cache(maxsize=4096)
def name_of(user: str) -> str:
    """Return how a token writes this log; kept, because each page of an inbox with topics writes all of them again."""
    name = "".join(
        character if character.isascii() and (character.isalnum() or character == "-") else _escaped(character)
        for character in user
    )
    if len(name) <= _DIGEST_CHARACTERS:
        return name
    digest = hashlib.blake2b(user.encode(), digest_size=_DIGEST_BYTES).digest()
    return "~" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def encode(places: Iterable[tuple[str, Place]]) -> str:
    """Return the token of these logs; empty if there are none."""
    pairs = [f"{name_of(user)}.{'t' if place.is_time else ''}{place.id}" for user, place in places]
    return _PREFIX + ".".join(pairs) if pairs else ""


def decode(token: str) -> dict[str, Place]:
    """Return the position of each log, by the name that `name_of` gives it.

    Raises:
        InvalidEventIdError: not a token of this version.
    """
    parts = token[len(_PREFIX) :].split(".")
    if not token.startswith(_PREFIX) or len(token) > MAX_LENGTH or len(parts) % 2 or len(parts) > 2 * MAX_LOGS:
        raise _refusal(token)
    places: dict[str, Place] = {}
    for name, position in zip(parts[::2], parts[1::2], strict=True):
        is_time = position.startswith("t")
        id_ = position[is_time:]
        if not _LOG.fullmatch(name) or name in places or not _is_written_well(name):
            raise _refusal(token)
        if not ids.is_id(id_) or (id_ != EMPTY and ids.canonical(id_) != id_):
            raise _refusal(token)
        places[name] = Place(id_, is_time)
    return places


def join_positions(positions: Mapping[str, str]) -> str:
    """Return a position in several logs as one text, as the `last_id` of a stream: for one log, its plain id.

    Args:
        positions: the id up to which each log was read; the user's own log comes first.
    """
    if len(positions) == 1:
        return next(iter(positions.values()))
    return encode((user, Place(position)) for user, position in positions.items())


def split_positions(position: str, users: Iterable[str]) -> dict[str, str]:
    """Return the position in each of these logs that the text contains; a plain id belongs to the first one.

    Args:
        position: what `join_positions` returned, or the `last_id` of a stream.
        users: the logs; the user's own one comes first. A position in any other log is ignored.

    Raises:
        InvalidEventIdError: not a position.
    """
    if not is_token(position):
        return {user: ids.canonical(position) for user in [*users][:1]}
    places = decode(position)
    found = ((user, places.get(name_of(user))) for user in users)
    return {user: place.id for user, place in found if place is not None}


def _escaped(character: str) -> str:
    return "".join(f"_{byte:02X}" for byte in character.encode())


def _is_written_well(name: str) -> bool:
    """Whether an escaped name is the one spelling of a user id."""
    if name.startswith("~"):
        return True
    data = re.sub(rb"_([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), name.encode())
    try:
        return name_of(data.decode()) == name
    except UnicodeDecodeError:
        return False


def _refusal(token: str) -> InvalidEventIdError:
    return InvalidEventIdError(f"not the last_id of a stream of several logs: {token!r:.80}")
