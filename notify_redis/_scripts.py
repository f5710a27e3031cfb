"""The Lua scripts in `_lua/`, each with the checksum that EVALSHA calls it by."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final


class Script:
    """One script.

    Args:
        names: the files that make up the script: functions first, because scripts cannot call each other. Several
            together are the body of one function, `the_rest`, which makes theirs only when it is called.

    Attributes:
        source: its text.
        sha: the SHA-1 of the text, in hexadecimal digits.
    """

    def __init__(self, *names: str | tuple[str, ...]) -> None:
        folder = files(__package__).joinpath("_lua")

        def text(name: str | tuple[str, ...]) -> bytes:
            if isinstance(name, str):
                return folder.joinpath(f"{name}.lua").read_bytes()
            return b"\n".join([b"local function the_rest()", *map(text, name), b"end"])

        self.source = b"\n".join(map(text, names))
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest().encode()


PUSH: Final = Script("head", "wake", "plain", "push")
APPLY: Final = Script("head", "wake", "box", ("inbox", "change"), "effect", "push")
PAGE: Final = Script("head", "box", "inbox", "page")
NEWS: Final = Script("head", "box", "inbox", "news")
FOLLOW: Final = Script("head", "box", "inbox", "follow")
SESSION: Final = Script("head", "box", "inbox", "session")
DUE: Final = Script("due")
SWEEP: Final = Script("head", "box", "inbox", "sweep")
LEAVE: Final = Script("head", "box", "inbox", "leave")
READ: Final = Script("head", "read")
LEASE: Final = Script("lease")
TELL: Final = Script("wake", "tell")
WATCH: Final = Script("wake", "watch")
FORGET: Final = Script("head", "forget")
CAPS: Final = Script("caps")
GATE: Final = Script("gate")
UNCAP: Final = Script("uncap")
SCRIPTS: Final = (
    *(PUSH, APPLY, READ, LEASE, TELL, WATCH, FORGET, PAGE, NEWS, FOLLOW, SESSION, DUE, SWEEP, LEAVE),
    *(CAPS, GATE, UNCAP),
)
"""Loaded on every new connection, and again after a reply NOSCRIPT."""
