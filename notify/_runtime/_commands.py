"""Commands between processes: ephemeral events of the library's own types, which no stream yields."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

ORIGIN: Final = "notify.origin"
"""Key in `meta` of an ephemeral event: the streams that have already seen it, and which ignore its echo."""

FORGOTTEN: Final = "notify.forgotten"
"""A user was erased: the open streams read the log again and find a gap. Payload: the `user_hash` of the user.

It goes to every process, like a broadcast, and does not name the user: a store may keep the command for some seconds,
or longer if no process is left to remove it.
"""

DISCONNECT: Final = "notify.disconnect"
"""The user's streams end; payload: `{"user": name, "reason": text}`.

It goes to everyone, like a broadcast: an event for the user would not reach a process that has no stream of that user
yet, because it is authenticating the request that will open one.
"""

COMMANDS: Final = frozenset({FORGOTTEN, DISCONNECT})


def user_hash(user: str) -> str:
    """Return the hash that stands for a user in a command."""
    return blake2b(user.encode(), digest_size=16).hexdigest()
