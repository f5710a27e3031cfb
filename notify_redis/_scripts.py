"""The Lua scripts in `_lua/`, each with the checksum that EVALSHA calls it by."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final


class Script:
    """One script.

    Attributes:
        source: its text.
        sha: the SHA-1 of the text, in hexadecimal digits.
    """

    def __init__(self, name: str) -> None:
        self.source = files(__package__).joinpath("_lua", f"{name}.lua").read_bytes()
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest().encode()


PUSH: Final = Script("push")
READ: Final = Script("read")
LEASE: Final = Script("lease")
SCRIPTS: Final = (PUSH, READ, LEASE)
"""Loaded on every new connection, and again after a reply NOSCRIPT."""
