"""What a `MailServer` answers, and the messages that it accepted."""

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
"""In place of an answer: there is none, for as long as the client waits."""

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
    """The answers of a server that are still to be given, and what it has accepted; see `MailServer`."""

    def __init__(self) -> None:
        self.messages: list[MailMessage] = []
        self.commands: list[str] = []
        self._answers: defaultdict[str, deque[str]] = defaultdict(deque)
        self._refused: dict[str, str] = {}

    def answer(self, command: str, *answers: str) -> None:
        """Answer a command so the next times, once with each answer; then as usual.

        Args:
            command: `"EHLO"`, `"MAIL"`, `"RCPT"`, `"DATA"` (after the text), `"RSET"` or `"QUIT"`.
            answers: such as `"451 4.7.1 greylisted"`; `"close"`: the connection is closed without an answer; `"hang"`:
                there is none, for as long as the client waits.

        Raises:
            UsageError: there is no such command, or an answer is not one of SMTP.
        """
        if command not in COMMANDS:
            raise UsageError(f"command must be one of {', '.join(COMMANDS)}, not {command!r:.80}")
        self._answers[command].extend([_checked(each) for each in answers])

    def refuse(self, recipient: str, answer: str | None) -> None:
        """Answer `RCPT` for this address so, until it is called again with None.

        Raises:
            UsageError: the answer is not one of SMTP.
        """
        if answer is None:
            self._refused.pop(recipient, None)
        else:
            self._refused[recipient] = _checked(answer)

    def next_answer(self, command: str, recipient: str = "") -> str:
        """Note a command, and return what to answer; empty: as usual. For the server's thread."""
        self.commands.append(command)
        scripted = self._answers[command]
        return scripted.popleft() if scripted else self._refused.get(recipient, "")


def _checked(answer: str) -> str:
    if answer in (CLOSE, HANG) or _ANSWER.fullmatch(answer):
        return answer
    raise UsageError(f"an answer of SMTP is like '451 4.7.1 greylisted', 'close' or 'hang', not {answer!r:.80}")
