"""What the command line reads and writes: positions, lines of input as they come, lines of text that steer nothing."""

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
"""Bytes of a line of input: far more than any payload may have."""

_CHUNK: Final = 65_536


class Line(NamedTuple):
    """One line of a feed.

    Attributes:
        number: its place, from 1.
        text: without its end; None: longer than `MAX_LINE`.
    """

    number: int
    text: bytes | None


def printable(text: str) -> str:
    """Return the text in one line, with what could steer a terminal escaped as JSON and Python do."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def say(text: str, to: TextIO | None = None) -> None:
    """Write one line, at once."""
    stream = to or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def complain(text: str) -> None:
    """Write one line about what goes wrong, without passwords."""
    say(f"notify: {printable(redact(text))}", sys.stderr)


def seconds(text: str) -> float:
    """Return a positive number of seconds.

    Raises:
        ValueError: it is none.
    """
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError(text)
    return value


def position(text: str) -> str | datetime:
    """Return the position that a person has typed: an id, `0`, or a time with its zone.

    Raises:
        InvalidEventIdError: it is none.
    """
    if ids.is_id(text):
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidEventIdError(f"not an id, 0 or a time such as 2026-01-01T00:00:00Z: {text!r:.80}") from None
    if moment.tzinfo is None:
        raise InvalidEventIdError(f"a time needs its zone, Z for UTC, as in 2026-01-01T00:00:00Z: {text!r:.80}")
    ids.before(moment)
    return moment


def payload_of(text: str | bytes) -> Any:
    """Return the value of a payload's JSON.

    Raises:
        UsageError: it is none.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"the payload is not JSON: {error.msg}: character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the payload is not JSON: {error}") from None


def plain(event: Event) -> str:
    """Return an event for a person: id, type and payload, with one space between them."""
    return f"{event.id} {event.type} {_compact(event.payload)}"


def as_json(event: Event) -> str:
    """Return an event for a program: one JSON object in one line."""
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
    """Return whether whoever read this pipe has gone: nothing would tell a process that has nothing to write."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(flags & select.POLLERR for _, flags in poll.poll(0))


@contextmanager
def first_signal() -> Iterator[int]:
    """Yield a descriptor that gives the number of a SIGINT or SIGTERM to come; a second one ends the process at once.

    A signal that is ignored, as SIGINT is in the background of a script, stays ignored.
    """
    ours, theirs = os.pipe()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def heed(number: int, _frame: object) -> None:
        restore()
        os.write(theirs, bytes([number]))

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, heed)
    try:
        yield ours
    finally:
        restore()
        os.close(ours)
        os.close(theirs)


async def lines_of(fd: int) -> AsyncIterator[Line]:
    """Yield each line of a file, a pipe or a terminal as soon as it is there, until the end."""
    mode = os.fstat(fd).st_mode
    waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)  # the others never make one wait
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
