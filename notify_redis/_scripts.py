"""The Lua scripts, by the checksum that Redis knows them by."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final


class Script:
    """One script.

    Attributes:
        source: its text.
        sha: what EVALSHA calls it by.
    """

    def __init__(self, name: str) -> None:
        self.source = files(__package__).joinpath("_lua", f"{name}.lua").read_bytes()
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest().encode()


PUSH: Final = Script("push")
READ: Final = Script("read")
LEASE: Final = Script("lease")
SCRIPTS: Final = (PUSH, READ, LEASE)
