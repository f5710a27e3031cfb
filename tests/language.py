"""Words and phrases that the source and the documentation do not use, with what to write instead.

A pattern matches whole words, whatever their case; identifiers count as well, at underscores. A space in a pattern
matches a line break too, also in the middle of a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Habit(NamedTuple):
    """A phrase to avoid.

    Attributes:
        pattern: a regular expression.
        samples: texts that it matches, so that the pattern itself is tested.
        instead: what to write.
    """

    pattern: str
    samples: tuple[str, ...]
    instead: str


HABITS = (
    Habit(
        "nobody|somebody|anybody", ("Nobody waits", "somebody else's lock"), "name the part: no task, another process"
    ),
    Habit("whoever|whomever", ("whoever reads it", "for\n    # whomever"), "the reader, the caller, any task that"),
    Habit("he|his|him|himself", ("until he commits", "with his patience"), "the caller, the reader: use its role"),
    Habit(
        "who (?:waits?|listens?|reads?|asks?|comes?|closes?|runs?|wants|writes?|needs|is behind|is away|stayed)",
        ("wakes who waits", "Who stayed away", "who is behind"),
        "the waiting tasks, the readers that are behind",
    ),
    Habit("meanwhile", ("closed meanwhile", "Meanwhile,\n"), "during the read, in between, concurrently"),
    Habit("for ever", ("wait for ever", "for\n  ever"), "indefinitely, without end"),
    Habit("of ours|of yours", ("a task of ours", "a process of yours"), "our own; a task of the store"),
    Habit("anew", ("opened anew",), "again"),
    Habit("in vain|all the same", ("read in vain", "works all the same"), "without effect; anyway"),
    Habit(
        "what (?:comes|came)(?! (?:after|before|next|first))",
        ("what comes from now on", "what came"),
        "new events, arriving messages",
    ),
    Habit(
        r"(?<!there\x20)(?<!there\n)(?:is|are|was|were) "
        r"(?:(?-i:no)(?! (?:longer|more|matter|such|different))|(?-i:none)(?!\x20of))",
        ("a string that is no id", "what is no page", "Texts that are no positions", "something that is none"),
        "is not a",
    ),
    Habit(
        "so many (?:seconds|events|of|lines|columns)",
        ("for so many seconds", "so many events"),
        "`limit` events; for `timeout` seconds",
    ),
    Habit(
        "have (?:the|a|an|it) (?:[a-z]+ ){1,6}(?:saved|opened|handed|done) ?",
        ("have the event saved", "Have the page that it wants handed to it"),
        "save the event, open it",
    ),
    Habit("canar(?:y|ies)", ("a canary", "CANARY = '!'", "canaries"), "probe"),
    Habit("doorbells?|rings the bell", ("the doorbell", "_doorbell.ring()"), "wake message, wake channel"),
    Habit("deaf|hearing|listener hears", ("while it is deaf", "self._hearing"), "(not) receiving, `is_receiving`"),
    Habit("(?:hears?|heard) of", ("hears of events", "is not heard of"), "receives, learns of"),
    Habit("fates?|Advice", ("Fate.REJECTED", "its fate"), "disposition, outcome"),
    Habit("stirring|hopeful|attendance", ("self._hopeful", "_attendance"), "pump_scheduled, waiting, LocalPresence"),
    Habit(
        r"pip install (?:-[A-Za-z]+ )*['\"]?notify(?!-streams)|notify\[[a-z,]+\]",
        tuple(
            f"pip install {what}"  # put together, so that no search finds these as advice
            for what in ("notify", "'notify[pg]'", "-U notify", '"notify[all]"')
        ),
        "notify-streams: the name notify belongs to another project",
    ),
)

EXCUSED: dict[tuple[str, str], str] = {}
"""File and phrase of each legitimate use, with the reason."""


class Finding(NamedTuple):
    """A place where a phrase is used."""

    line: int
    phrase: str
    instead: str


def pattern_of(habit: Habit) -> re.Pattern[str]:
    """The pattern with word boundaries that treat an underscore as a boundary."""
    spaced = habit.pattern.replace(" ", r"(?:[ ]|\s*\n\s*(?:(?:#|--)[ ]+)?)")
    return re.compile(rf"(?<![A-Za-z])(?:{spaced})(?![A-Za-z])", re.IGNORECASE)


PATTERNS = [(pattern_of(habit), habit) for habit in HABITS]


def findings(text: str) -> Iterator[Finding]:
    """Yield every use of a phrase in this text."""
    for pattern, habit in PATTERNS:
        for found in pattern.finditer(text):
            yield Finding(text.count("\n", 0, found.start()) + 1, found[0], habit.instead)
