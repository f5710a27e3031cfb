"""Input and output of the demo: lines from a file, a pipe or the terminal; output that fits the terminal."""

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
"""Columns of a line; None for a pipe or a file, where nothing is truncated."""

PIPE_TIMEOUT: Final = 2.0
"""Seconds to wait for the first input from a pipe; a build server may leave one open without writing to it."""

_CHUNK: Final = 65_536
_PALETTE: Final = (36, 33, 35, 32, 94, 96, 93, 95)
_COLOURED: Final = (
    sys.stdout is not None
    and sys.stdout.isatty()
    and not os.environ.get("NO_COLOR")
    and os.environ.get("TERM") != "dumb"
)


def say(text: str = "", to: TextIO | None = None) -> None:
    """Write a line and flush."""
    stream = to or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def paint(text: str, colour: int) -> str:
    """Return the text in the colour with this number, if colours are enabled."""
    return f"\x1b[{_PALETTE[colour % len(_PALETTE)]}m{text}\x1b[0m" if _COLOURED else text


def bold(text: str) -> str:
    """Return the text in bold, if colours are enabled."""
    return f"\x1b[1m{text}\x1b[0m" if _COLOURED else text


def fit(text: str, columns: int | None = WIDTH) -> str:
    """Pad or truncate the text to `columns`, if given, and replace control characters."""
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
    """A source of lines.

    Attributes:
        name: its name, for display.
        fd: its file descriptor.
        ahead: input that has been read already.
    """

    name: str
    fd: int
    ahead: bytes = b""

    @property
    def is_terminal(self) -> bool:
        """Whether the input is typed at a terminal."""
        return os.isatty(self.fd)

    async def read_lines(self, take: Callable[[int, bytes], Awaitable[None]]) -> None:
        """Call `take` with the number and the text of each line as it arrives, until end of file."""
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
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or self.is_terminal:  # regular files never block
            await anyio.wait_readable(self.fd)
        return os.read(self.fd, _CHUNK)


def open_source(file: str | None, sample: str) -> Source:
    """Open a file, or standard input for `-`. None: piped input if there is any, otherwise the sample.

    Raises:
        OSError: the file cannot be read.
    """
    if file is not None and file != "-":
        with open(file, "rb") as opened:  # unlike `os.open`, it raises for a directory
            return Source(file, os.dup(opened.fileno()))
    stdin = -1 if sys.stdin is None else sys.stdin.fileno()  # None: closed, and descriptor 0 may be another file
    if file == "-":
        return Source("standard input", os.dup(stdin))
    if stdin >= 0 and not os.isatty(stdin):
        if not select.select([stdin], [], [], PIPE_TIMEOUT)[0]:
            say(f"No input from the pipe within {PIPE_TIMEOUT:g} s: using the sample feed (FILE - waits).", sys.stderr)
        elif ahead := os.read(stdin, _CHUNK):
            return Source("standard input", stdin, ahead)
    return Source(os.path.relpath(sample), os.open(sample, os.O_RDONLY))
