"""What the demo reads and writes: lines of a file, a pipe or the terminal; lines of text that fit a terminal."""

from __future__ import annotations

import os
import select
import shutil
import stat
import sys
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TextIO

import anyio

WIDTH: Final = shutil.get_terminal_size().columns - 1 if sys.stdout is not None and sys.stdout.isatty() else None
"""Columns of a line; None: into a pipe or a file nothing is cut."""

PIPE_PATIENCE: Final = 2.0
"""Seconds within which a pipe must begin to say something; a build server may leave one open for ever."""

_CHUNK: Final = 65_536
_PALETTE: Final = (36, 33, 35, 32, 94, 96, 93, 95)
_COLOURED: Final = (
    sys.stdout is not None
    and sys.stdout.isatty()
    and not os.environ.get("NO_COLOR")
    and os.environ.get("TERM") != "dumb"
)


def say(text: str = "", to: TextIO | None = None) -> None:
    """Write a line at once."""
    stream = to or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def paint(text: str, colour: int) -> str:
    """Return the text in the colour of this number, where there are colours."""
    return f"\x1b[{_PALETTE[colour % len(_PALETTE)]}m{text}\x1b[0m" if _COLOURED else text


def bold(text: str) -> str:
    """Return the text in bold, where there are colours."""
    return f"\x1b[1m{text}\x1b[0m" if _COLOURED else text


def fit(text: str, columns: int | None = WIDTH) -> str:
    """Return the text in exactly so many columns, or as long as it is; nothing in it can steer the terminal."""
    cells = [character if character.isprintable() else "·" for character in text]
    widths = [0 if unicodedata.combining(cell) else 1 + (unicodedata.east_asian_width(cell) in "WF") for cell in cells]
    if columns is not None and sum(widths) > columns:
        while sum(widths) >= columns:
            del cells[-1], widths[-1]
        cells.append("…")
        widths.append(1)
    return "".join(cells) + " " * ((columns or 0) - sum(widths))


@dataclass
class Source:
    """Where lines come from.

    Attributes:
        name: what to call it.
        fd: its file descriptor.
        ahead: what was read from it already.
    """

    name: str
    fd: int
    ahead: bytes = b""

    @property
    def is_terminal(self) -> bool:
        """Whether a person types."""
        return os.isatty(self.fd)

    async def read_lines(self, take: Callable[[int, bytes], Awaitable[None]]) -> None:
        """Call `take` with the number and the text of each line, as soon as it is there, until the end."""
        number, rest, chunk = 0, b"", self.ahead or await self._read()
        while chunk:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                number += 1
                await take(number, line)
            chunk = await self._read()
        if rest:
            await take(number + 1, rest)

    async def _read(self) -> bytes:
        mode = os.fstat(self.fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or self.is_terminal:  # others never make one wait
            await anyio.wait_readable(self.fd)
        return os.read(self.fd, _CHUNK)


def open_source(file: str | None, sample: str) -> Source:
    """Open a file, or standard input for `-`. None: standard input if it is no terminal and has data, or the sample.

    Raises:
        OSError: it cannot be read.
    """
    if file is not None and file != "-":
        with open(file, "rb") as opened:  # unlike `os.open` it refuses a directory
            return Source(file, os.dup(opened.fileno()))
    stdin = -1 if sys.stdin is None else sys.stdin.fileno()  # None: it was closed, and its number is not ours
    if file == "-":
        return Source("standard input", os.dup(stdin))
    if stdin >= 0 and not os.isatty(stdin):
        if not select.select([stdin], [], [], PIPE_PATIENCE)[0]:
            say(f"Nothing came through the pipe in {PIPE_PATIENCE:g} s; FILE - would wait for it.", sys.stderr)
        elif ahead := os.read(stdin, _CHUNK):
            return Source("standard input", stdin, ahead)
    return Source(os.path.relpath(sample), os.open(sample, os.O_RDONLY))
