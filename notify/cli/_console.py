"""Input and output of the command line: positions, input lines as they arrive, output without control characters."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple, TextIO

import anyio

from .. import ids
from ..errors import InvalidEventIdError, UsageError
from ..event import Event
from ._urls import redact

MAX_LINE: Final = 1 << 20
"""Longest accepted input line in bytes: far above the limit of a payload."""

_CHUNK: Final = 65_536


class Line(NamedTuple):
    """One line of a feed.

    Attributes:
        number: line number, starting at 1.
        text: the line without its newline; None if it is longer than `MAX_LINE`.
    """

    number: int
    text: bytes | None


def printable(text: str) -> str:
    """Return the text as one line, with control characters escaped as in JSON."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def say(text: str, to: TextIO | None = None) -> None:
    """Write one line and flush."""
    stream = to or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def report(text: str) -> None:
    """Write one line to standard error, with passwords redacted."""
    say(f"notify: {printable(redact(text))}", sys.stderr)


def seconds(text: str) -> float:
    """Parse a positive number of seconds.

    Raises:
        ValueError: not a number, or out of range.
    """
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError(text)
    return value


def position(text: str) -> str | datetime:
    """Parse a position given on the command line: an id, `0`, or a time with a time zone.

    Raises:
        InvalidEventIdError: none of these.
    """
    if ids.is_id(text):
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidEventIdError(f"expected an id, 0, or a time like 2026-01-01T00:00:00Z, got {text!r:.80}") from None
    if moment.tzinfo is None:
        raise InvalidEventIdError(f"a time needs a time zone, as in 2026-01-01T00:00:00Z; got {text!r:.80}")
    ids.before(moment)
    return moment


def payload_of(text: str | bytes) -> Any:
    """Decode a JSON payload.

    Raises:
        UsageError: not JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"the payload is not JSON: {error.msg}: character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the payload is not JSON: {error}") from None


def meta_of(texts: list[str]) -> dict[str, str] | None:
    """Parse `NAME=TEXT` options.

    Raises:
        UsageError: one has no name or no text, or a name is repeated.
    """
    meta: dict[str, str] = {}
    for each in texts:
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise UsageError(f"--meta expects NAME=TEXT, got {each!r:.80}")
        if name.startswith("notify."):
            raise UsageError(f"--meta names that begin with notify. are reserved for the library, got {name!r:.80}")
        if name in meta:
            raise UsageError(f"--meta gives {name} twice")
        meta[name] = text
    return meta or None


def plain(event: Event) -> str:
    """Format an event for reading: id, type and payload, separated by spaces."""
    return f"{event.id} {event.type} {_compact(event.payload)}"


def as_json(event: Event) -> str:
    """Format an event for programs: one JSON object on one line."""
    fields = {
        "id": event.id,
        "prev": event.prev,
        "user": event.user,
        "type": event.type,
        "timestamp": event.timestamp.isoformat(),
        "key": event.key,
        "group": event.group,
        "meta": dict(event.meta),
        "payload": event.payload,
    }
    return _compact(fields)


def _compact(value: object) -> str:
    return printable(json.dumps(value, ensure_ascii=False))


def is_abandoned(stream: TextIO) -> bool:
    """Return whether the reading end of this pipe is closed.

    A process that has nothing to write gets no SIGPIPE, so it has to ask.
    """
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(flags & select.POLLERR for _, flags in poll.poll(0))


@contextmanager
def first_signal() -> Iterator[int]:
    """Yield a file descriptor from which the number of the first SIGINT or SIGTERM can be read.

    A second signal ends the process with the default action. A signal that is ignored at the start, as SIGINT is for
    background jobs of a script, stays ignored.
    """
    receiver, sender = os.pipe()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, _frame: object) -> None:
        restore()
        os.write(sender, bytes([number]))

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield receiver
    finally:
        restore()
        os.close(receiver)
        os.close(sender)


async def lines_of(fd: int) -> AsyncIterator[Line]:
    """Yield each line of a file, pipe or terminal as soon as it is available, until end of file."""
    mode = os.fstat(fd).st_mode
    waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)  # regular files never block
    number, rest, is_long = 0, b"", False
    while True:
        if waits:
            await anyio.wait_readable(fd)
        chunk = os.read(fd, _CHUNK)
        *ended, rest = (rest + chunk).split(b"\n")
        for text in ended:
            number += 1
            yield Line(number, None if is_long or len(text) > MAX_LINE else text)
            is_long = False
        if not chunk:
            break
        if len(rest) > MAX_LINE:
            rest, is_long = b"", True
    if rest or is_long:
        yield Line(number + 1, None if is_long else rest)
