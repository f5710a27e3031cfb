"""Pure: what a WebSocket client may send, and how often.

A command is one text frame with one JSON object, `{"ref": n, "do": "subscribe" | "ping" | ..., ...}`. Whatever else
arrives becomes a `CommandError`, which is either answered (`{"ref": n, "error": {...}}`) or, where the client cannot be
one that knows this protocol (binary or oversized frames, a flood), ends the connection with close code 4000.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

MAX_COMMAND: Final = 8192
"""Bytes of one command: room for `subscribe` with the longest position there is, that of 100 logs."""

MAX_REF: Final = 64
"""Characters of a `ref` that is text."""

BURST: Final = 50
"""Commands that a client may send at once."""

RATE: Final = 10.0
"""Commands a second that a client may keep sending."""

MAX_WAITING: Final = 64
"""Commands that may wait, for example because the client does not read the answers."""

Ref: TypeAlias = int | str | None


class CommandError(Exception):
    """A frame that is not an acceptable command.

    Attributes:
        code: for programs, in snake_case.
        message: for people.
        ref: the reference of the command, where it could be read.
        is_fatal: the connection ends with close code 4000.
    """

    def __init__(self, code: str, message: str, ref: Ref = None, *, is_fatal: bool = False) -> None:
        super().__init__(message)
        self.code, self.message, self.ref, self.is_fatal = code, message, ref, is_fatal


@dataclass(frozen=True, slots=True)
class Command:
    """A well-formed command: its reference, its name and the whole object."""

    ref: Ref
    do: str
    arguments: dict[str, Any]


def parse_command(message: Any) -> Command:
    """Return the command in a `websocket.receive` message of ASGI.

    Raises:
        CommandError: it is not one.
    """
    text = message.get("text")
    if text is None:
        raise CommandError("binary_frame", "send commands as text frames", is_fatal=True)
    if len(text) > MAX_COMMAND or len(text.encode(errors="surrogatepass")) > MAX_COMMAND:
        raise CommandError("too_large", f"a command must not have more than {MAX_COMMAND} bytes", is_fatal=True)
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: thousands of brackets
        raise CommandError("bad_json", "a command must be one JSON object") from None
    if not isinstance(read, dict):
        raise CommandError("bad_json", "a command must be one JSON object")
    ref, do = read.get("ref"), read.get("do")
    if not _is_ref(ref):
        raise CommandError("bad_ref", f"ref must be a whole number, or a string of at most {MAX_REF} characters")
    if not isinstance(do, str):
        raise CommandError("bad_command", "do is missing: it names the command, such as ping", ref)
    return Command(ref, do, read)


def position_of(command: Command) -> str:
    """Return the position of a `subscribe`, by any of the names that clients use; empty for "from now on".

    Raises:
        CommandError: the position is not text.
    """
    for name in ("position", "last_id", "lastEventId", "last_event_id"):
        value = command.arguments.get(name)
        if value is not None:
            if not isinstance(value, str):
                raise CommandError("bad_position", f"{name} must be a string: the id of an earlier frame", command.ref)
            return value
    return ""


def answer(ref: Ref, **results: Any) -> str:
    """Return the frame that answers a command that worked."""
    return json.dumps({"ref": ref, "ok": True} | results, separators=(",", ":"))


def answer_with(ref: Ref, members: bytes) -> str:
    """Return the frame that answers a command with the members of a JSON object, which has at least one."""
    return f'{{"ref":{json.dumps(ref)},"ok":true,{members[1:].decode()}'


def refusal(error: CommandError) -> str:
    """Return the frame that answers a command that did not work."""
    described = {"code": error.code, "message": error.message}
    return json.dumps({"ref": error.ref, "error": described}, separators=(",", ":"))


@dataclass(slots=True)
class Allowance:
    """How much a client may still send: a bucket that fills at `rate` up to `burst`."""

    burst: float = BURST
    rate: float = RATE
    _left: float = field(init=False)
    _at: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._left = self.burst

    def take(self, now: float) -> bool:
        """Use one, and return whether there was one."""
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class CommandQueue:
    """The commands of one client that wait for their answers: bounded, whatever the client does.

    Attributes:
        fatal: the frame that ends the connection, if one came: nothing that follows it is kept.
    """

    def __init__(self) -> None:
        self.fatal: CommandError | None = None
        self._allowance = Allowance()
        self._waiting: deque[Command | CommandError] = deque()

    def put(self, message: Any, now: float) -> None:
        """Keep what is in a `websocket.receive` message of ASGI: a command, or the error to answer."""
        if self.fatal is not None:
            return
        if len(self._waiting) >= MAX_WAITING or not self._allowance.take(now):
            self.fatal = CommandError(
                "too_many_commands", "commands are sent too fast: send fewer, and read the answers", is_fatal=True
            )
            return
        try:
            self._waiting.append(parse_command(message))
        except CommandError as error:
            if error.is_fatal:
                self.fatal = error
            else:
                self._waiting.append(error)

    def take(self) -> Command | CommandError | None:
        """Return the next one; None if there is none.

        Raises:
            CommandError: the connection ends.
        """
        if self.fatal is not None:
            raise self.fatal
        return self._waiting.popleft() if self._waiting else None


def _is_ref(ref: Any) -> bool:
    if isinstance(ref, str):
        return len(ref) <= MAX_REF
    return ref is None or (isinstance(ref, int) and not isinstance(ref, bool) and abs(ref) < 1 << 53)
