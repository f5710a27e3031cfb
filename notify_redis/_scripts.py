"""The Lua scripts in `_lua/`, each with the checksum that EVALSHA calls it by."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final


class Script:
    """One script.

    Args:
        names: the files that make up the script: functions first, because scripts cannot call each other.

    Attributes:
        source: its text.
        sha: the SHA-1 of the text, in hexadecimal digits.
    """

    def __init__(self, *names: str) -> None:
        folder = files(__package__).joinpath("_lua")
        self.source = b"\n".join(folder.joinpath(f"{name}.lua").read_bytes() for name in names)
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest().encode()


PUSH: Final = Script("head", "wake", "plain", "push")
APPLY: Final = Script("head", "wake", "inbox", "change", "effect", "push")
PAGE: Final = Script("head", "inbox", "page")
NEWS: Final = Script("head", "inbox", "news")
FOLLOW: Final = Script("head", "inbox", "follow")
SESSION: Final = Script("head", "inbox", "session")
DUE: Final = Script("due")
SWEEP: Final = Script("head", "inbox", "sweep")
LEAVE: Final = Script("head", "inbox", "leave")
READ: Final = Script("head", "read")
LEASE: Final = Script("lease")
TELL: Final = Script("wake", "tell")
WATCH: Final = Script("wake", "watch")
FORGET: Final = Script("head", "forget")
SCRIPTS: Final = (PUSH, APPLY, READ, LEASE, TELL, WATCH, FORGET, PAGE, NEWS, FOLLOW, SESSION, DUE, SWEEP, LEAVE)
"""Loaded on every new connection, and again after a reply NOSCRIPT."""
