"""The answers of a `MailServer`, and the messages that it has accepted."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Final

from notify import UsageError

COMMANDS: Final = ("EHLO", "MAIL", "RCPT", "DATA", "RSET", "QUIT")

CLOSE: Final = "close"
"""In place of an answer: the connection is closed."""

HANG: Final = "hang"
"""In place of an answer: none is sent, for as long as the client waits."""

_ANSWER: Final = re.compile(r"[2-5][0-9]{2} [ -~]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class MailMessage:
    """A message that the server accepted. The repr shows no address.

    Attributes:
        sender: the address of `MAIL FROM`, to which bounces go.
        recipient: the address of `RCPT TO`; one message is kept for each of them.
        message: headers and text.
    """

    sender: str = field(repr=False)
    recipient: str = field(repr=False)
    message: EmailMessage = field(repr=False)


class MailScript:
    """The answers that a server still has to give, and what it has accepted; see `MailServer`."""

    def __init__(self) -> None:
        self.messages: list[MailMessage] = []
        self.commands: list[str] = []
        self._answers: defaultdict[str, deque[str]] = defaultdict(deque)
        self._refused: dict[str, str] = {}

    def answer(self, command: str, *answers: str) -> None:
        """Give these answers to the next commands of this name, one each; after that, the usual answer.

        Args:
            command: `"EHLO"`, `"MAIL"`, `"RCPT"`, `"DATA"` (after the text), `"RSET"` or `"QUIT"`.
            answers: such as `"451 4.7.1 greylisted"`; `"close"`: the connection is closed without an answer; `"hang"`:
                none is sent, for as long as the client waits.

        Raises:
            UsageError: the command is not one of these, or an answer is malformed.
        """
        if command not in COMMANDS:
            raise UsageError(f"command must be one of {', '.join(COMMANDS)}, not {command!r:.80}")
        self._answers[command].extend([_checked(each) for each in answers])

    def refuse(self, recipient: str, answer: str | None) -> None:
        """Give this answer to every `RCPT` for this address, until this is called with None.

        Raises:
            UsageError: the answer is malformed.
        """
        if answer is None:
            self._refused.pop(recipient, None)
        else:
            self._refused[recipient] = _checked(answer)

    def next_answer(self, command: str, recipient: str = "") -> str:
        """Record a command, and return its answer; empty: the usual one. Called in the server's thread."""
        self.commands.append(command)
        scripted = self._answers[command]
        return scripted.popleft() if scripted else self._refused.get(recipient, "")


def _checked(answer: str) -> str:
    if answer in (CLOSE, HANG) or _ANSWER.fullmatch(answer):
        return answer
    raise UsageError(f"an answer must be like '451 4.7.1 greylisted', or 'close' or 'hang', not {answer!r:.80}")
