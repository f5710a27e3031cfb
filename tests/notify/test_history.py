import json
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify.errors import ClosedError, InvalidEventIdError, PushRejectedError, PushUncertainError
from notify.testing.history import Attempt, History, HistoryError, Reader, Verdict
from tests.parts import untraced, untraced_environment

Step = tuple[Any, ...]


def ticking() -> History:
    """A history whose clock counts its records."""
    return History(clock=count(1.0).__next__)


def play(steps: list[Step], history: History | None = None) -> History:
    """Record steps of the forms below; attempts and readers are called by any name."""
    history = ticking() if history is None else history
    attempts: dict[object, Attempt] = {}
    readers: dict[object, Reader] = {}
    for act, name, *rest in steps:
        match act:
            case "push":
                value, key, *user = rest
                attempts[name] = history.pushing(user[0] if user else "alice", value, key=key)
            case "ok":
                attempts[name].ok(*rest)
            case "rejected":
                attempts[name].rejected()
            case "uncertain":
                attempts[name].uncertain()
            case "reader":
                start, *user = rest
                readers[name] = history.reader(user[0] if user else "alice", start)
            case "saw":
                readers[name].saw(*rest)
            case "gap":
                readers[name].gap(*rest)
            case _:
                readers[name].finished()
    return history


def stored(*numbers: int) -> list[Step]:
    """Push n is acknowledged as n-0 before the next begins."""
    return [step for n in numbers for step in [("push", n, n, None), ("ok", n, f"{n}-0")]]


def saw(reader: str, *numbers: int, after: int = 0) -> list[Step]:
    """The reader yields n-0 for each n, each linked to the one before."""
    prevs = (after, *numbers)
    return [("saw", reader, f"{n}-0", f"{prev}-0" if prev else "0", n) for prev, n in zip(prevs, numbers, strict=False)]


def rules(verdict: Verdict) -> set[str]:
    return {violation.rule for violation in verdict.violations}


OPEN = ("reader", "r", "0")

LEGAL: dict[str, list[Step]] = {
    "a pending push is read": [OPEN, ("push", 1, 1, None), *saw("r", 1)],
    "an uncertain push is read": [OPEN, ("push", 1, 1, None), ("uncertain", 1), *saw("r", 1)],
    "an uncertain push is never read": [OPEN, ("push", 1, 1, None), ("uncertain", 1)],
    "a rejected push is never read": [OPEN, ("push", 1, 1, None), ("rejected", 1), *stored(2), *saw("r", 2)],
    "a retry of a rejected push is stored": [
        *[OPEN, ("push", "a", 1, "k"), ("rejected", "a"), ("push", "b", 1, "k"), ("ok", "b", "1-0")],
        *saw("r", 1),
    ],
    "a retry with the key gets the first id": [
        *[OPEN, ("push", "a", 1, "k"), ("ok", "a", "1-0"), *stored(2)],
        *[("push", "b", 1, "k"), ("ok", "b", "01-0"), *saw("r", 1, 2)],
    ],
    "two pushes of one value without a key": [
        *[OPEN, ("push", "a", 1, None), ("ok", "a", "1-0"), ("push", "b", 1, None), ("uncertain", "b")],
        *[("saw", "r", "1-0", "0", 1), ("saw", "r", "2-0", "1-0", 1)],
    ],
    "two readers agree": [OPEN, ("reader", "s", "0"), *stored(1, 2), *saw("r", 1, 2), *saw("s", 1, 2)],
    "two users share ids and values": [
        *[OPEN, *stored(1), *saw("r", 1), ("reader", "b", "0", "bob"), ("push", "b", 1, None, "bob")],
        *[("ok", "b", "1-0"), *saw("b", 1)],
    ],
    "a resumed reader goes on": [
        *[OPEN, *stored(1, 2, 3), *saw("r", 1), ("finished", "r")],
        *[("reader", "s", "1-0"), *saw("s", 2, 3, after=1)],
    ],
    "a gap covers what retention took": [
        *[OPEN, *stored(1, 2, 3), ("gap", "r", "trimmed", "0", "2-0"), *saw("r", 3, after=2)],
    ],
    "a gap covers all there is": [OPEN, *stored(1, 2), ("gap", "r", "trimmed", "0", "2-0")],
    "a failover loses a tail that was seen, and more": [
        *[OPEN, *stored(1, 2, 3, 4), *saw("r", 1, 2, 3), ("gap", "r", "rewound", "3-0", "1-0")],
        *[*stored(9), *saw("r", 9, after=1), ("reader", "s", "0"), *saw("s", 1, 9)],
    ],
    "ids start over after the log was lost with its clock": [
        *[OPEN, *stored(7, 8), *saw("r", 7, 8), ("gap", "r", "rewound", "8-0", "0"), *stored(3, 4)],
        *saw("r", 3, 4),
    ],
    "ids start over behind a reader that ends": [
        *[OPEN, *stored(7, 8), *saw("r", 7, 8), ("gap", "r", "rewound", "8-0", "0"), ("finished", "r")],
        *stored(3, 4),
    ],
    "an expired log starts anew": [
        *[OPEN, *stored(1, 2), *saw("r", 1), ("gap", "r", "expired", "1-0", "0"), *stored(9), *saw("r", 9)],
    ],
    "a finished reader misses the end": [OPEN, *stored(1), *saw("r", 1), ("finished", "r"), *stored(2)],
    "from now on, with nothing before": [
        *stored(1),
        ("reader", "r", None),
        *stored(2),
        *saw("r", 2, after=1),
    ],
    "from now on, and nothing comes": [*stored(1), ("reader", "r", None)],
    "from now on, and a gap first": [
        *[*stored(1), ("reader", "r", None), *stored(2, 3), ("gap", "r", "trimmed", "1-0", "2-0")],
        *saw("r", 3, after=2),
    ],
    "concurrent pushes get ids in either order": [
        *[OPEN, ("push", 2, 2, None), ("push", 1, 1, None), ("ok", 2, "2-0"), ("ok", 1, "1-0")],
        *saw("r", 1, 2),
    ],
    "ephemeral events are not judged": [OPEN, ("saw", "r", "", "", "typing")],
}

ILLEGAL: dict[str, tuple[str, list[Step]]] = {
    "made up": ("aborted-read", [OPEN, *saw("r", 1)]),
    "rejected but read": ("aborted-read", [OPEN, ("push", 1, 1, None), ("rejected", 1), *saw("r", 1)]),
    "pushed to another user": (
        "aborted-read",
        [OPEN, ("push", 1, 1, None, "bob"), ("uncertain", 1), *saw("r", 1)],
    ),
    "readers disagree": (
        "one-value",
        [
            *[OPEN, ("reader", "s", "0"), ("push", 1, 1, None), ("push", 2, 2, None)],
            *[("saw", "r", "1-0", "0", 1), ("saw", "s", "1-0", "0", 2)],
        ],
    ),
    "reader and acknowledgement disagree": (
        "one-value",
        [OPEN, ("push", 2, 2, None), *stored(1), ("saw", "r", "1-0", "0", 2)],
    ),
    "two pushes get one id": (
        "one-value",
        [
            *[OPEN, ("push", "a", 1, None), ("push", "b", 1, None), ("ok", "a", "1-0"), ("ok", "b", "1-0")],
            *saw("r", 1),
        ],
    ),
    "skipped by a forged link": ("lost-write", [OPEN, *stored(1, 2, 3), *saw("r", 1, 3)]),
    "skipped before the reader went back": (
        "lost-write",
        [
            *[
                OPEN,
                *stored(1, 2, 3, 4),
                *saw("r", 1, 3, 4),
                ("gap", "r", "rewound", "4-0", "3-0"),
                *stored(9),
            ],
            *saw("r", 9, after=3),
        ],
    ),
    "now began too late": (
        "lost-write",
        [("reader", "r", None), *stored(1, 2), *saw("r", 2, after=1)],
    ),
    "lost although a gap was reported elsewhere": (
        "lost-write",
        [OPEN, *stored(1, 2, 3, 4), ("gap", "r", "trimmed", "0", "1-0"), *saw("r", 2, 4, after=1)],
    ),
    "a link leads nowhere": (
        "contiguity",
        [OPEN, ("push", 1, 1, None), *stored(2), ("saw", "r", "2-0", "1-0", 2)],
    ),
    "a gap ends elsewhere": (
        "contiguity",
        [
            *[OPEN, *stored(1, 2), ("push", 3, 3, None), *stored(4), ("gap", "r", "trimmed", "0", "2-0")],
            ("saw", "r", "4-0", "3-0", 4),
        ],
    ),
    "a gap starts elsewhere": (
        "contiguity",
        [OPEN, *stored(1, 2, 3), *saw("r", 1), ("gap", "r", "trimmed", "0", "2-0"), *saw("r", 3, after=2)],
    ),
    "a resumed reader skips": (
        "contiguity",
        [("push", 2, 2, None), *stored(3), ("reader", "r", "1-0"), *saw("r", 3, after=2)],
    ),
    "yielded twice": ("order", [OPEN, *stored(1, 2), *saw("r", 1, 2), *saw("r", 2, after=1)]),
    "yielded twice across a rewind": (
        "order",
        [OPEN, *stored(1, 2), *saw("r", 1, 2), ("gap", "r", "rewound", "2-0", "1-0"), *saw("r", 2, after=1)],
    ),
    "a smaller id without a rewind": (
        "order",
        [OPEN, ("push", 1, 1, None), *stored(2), *saw("r", 2), *saw("r", 1)],
    ),
    "an id before its own link": (
        "order",
        [("push", 1, 1, None), ("reader", "r", None), ("saw", "r", "1-0", "5-0", 1)],
    ),
    "a resumed reader repeats": ("order", [*stored(1), ("reader", "r", "1-0"), *saw("r", 1)]),
    "a reader stays behind": ("unseen", [OPEN, *stored(1, 2), *saw("r", 1)]),
    "a reader from now on gets nothing": ("unseen", [("reader", "r", None), *stored(1)]),
    "a reader from the beginning gets nothing": ("unseen", [OPEN, *stored(1)]),
    "the later push has the smaller id": (
        "real-time",
        [OPEN, *stored(2, 1), *saw("r", 1, 2)],
    ),
    "a retry hides that the later push has the smaller id": (
        "real-time",
        [
            *[OPEN, ("push", "a", 2, "k"), ("ok", "a", "2-0"), *stored(1), ("push", "b", 2, "k")],
            *[("ok", "b", "2-0"), *saw("r", 1, 2)],
        ],
    ),
    "a retry gets another id": (
        "at-most-once",
        [
            *[OPEN, ("push", "a", 1, "k"), ("ok", "a", "1-0"), ("push", "b", 1, "k"), ("ok", "b", "2-0")],
            ("finished", "r"),
        ],
    ),
    "an acknowledged push is in the log twice": (
        "at-most-once",
        [OPEN, *stored(1), ("saw", "r", "1-0", "0", 1), ("saw", "r", "2-0", "1-0", 1)],
    ),
    "an uncertain push is in the log twice": (
        "at-most-once",
        [
            *[OPEN, ("push", "a", 1, "k"), ("uncertain", "a"), ("push", "b", 1, "k"), ("uncertain", "b")],
            *[("saw", "r", "1-0", "0", 1), ("saw", "r", "2-0", "1-0", 1)],
        ],
    ),
}


@pytest.mark.parametrize("steps", LEGAL.values(), ids=LEGAL)
def test_legal_history_passes(steps: list[Step]) -> None:
    """What a correct system may do is never flagged."""
    assert play(steps).check().violations == ()


@pytest.mark.parametrize(("rule", "steps"), ILLEGAL.values(), ids=ILLEGAL)
def test_illegal_history_is_caught_by_its_rule(rule: str, steps: list[Step]) -> None:
    """Each fault is caught, once, by exactly the rule that it breaks."""
    assert [violation.rule for violation in play(steps).check().violations] == [rule]


def test_unfinished_history_demands_no_end() -> None:
    """Before all is quiet, a reader may still be behind."""
    assert play([OPEN, *stored(1, 2), *saw("r", 1)]).check(quiescent=False).ok


def test_lossy_log_is_excused_only_where_told() -> None:
    """Acknowledged events that no reader saw may vanish without a trace only with durable=False."""
    history = play([OPEN, *stored(1, 2), *saw("r", 1), *stored(9), *saw("r", 9, after=1)])
    assert rules(history.check()) == {"lost-write"}
    verdict = history.check(durable=False)
    assert verdict.ok
    assert verdict.excused == 1


def test_rewind_excuses_only_pushes_before_it() -> None:
    """What is pushed after a rewind is demanded again."""
    before = [OPEN, *stored(1, 2), *saw("r", 1, 2), ("gap", "r", "rewound", "2-0", "1-0")]
    assert rules(play([*before, *stored(8, 9), *saw("r", 9, after=1)]).check()) == {"lost-write"}


def test_late_notice_of_a_rewind_excuses_nothing_newer() -> None:
    """A reader that notices a loss late does not excuse what was pushed after it."""
    lost = [OPEN, *stored(1, 2), *saw("r", 1, 2), *stored(8, 9), ("gap", "r", "rewound", "2-0", "1-0")]
    assert rules(play([*lost, *saw("r", 8, after=1)]).check()) == {"unseen"}


def test_event_of_another_user_is_caught() -> None:
    """An event of bob in the stream of alice is a violation, whatever its value."""

    @dataclass
    class Event:
        id: str
        prev: str
        user: str

    history = ticking()
    history.pushing("alice", 1).ok("1-0")
    reader = history.reader("alice", "0")
    reader.event(Event("1-0", "0", "alice"), 1)
    reader.event(Event("", "", "alice"), "ephemeral")
    assert history.check().ok
    reader.event(Event("2-0", "1-0", "bob"), 1)
    (violation,) = history.check().violations
    assert (violation.rule, violation.user, violation.ids) == ("aborted-read", "alice", ("2-0",))
    assert "'bob'" in violation.text


def test_what_is_no_id_is_refused() -> None:
    """Something recorded as an id that is none stops the check with the offending text."""
    with pytest.raises(InvalidEventIdError, match="nonsense"):
        play([OPEN, ("push", 1, 1, None), ("saw", "r", "nonsense", "0", 1)]).check()


def test_last_id_is_where_the_next_reader_starts() -> None:
    """A reader's last_id follows its yields and gaps and ignores ephemeral events."""
    reader = ticking().reader("alice")
    assert reader.last_id is None
    reader.saw("1-0", "0", 1)
    reader.saw("", "", 2)
    assert reader.last_id == "1-0"
    reader.gap("trimmed", "1-0", "3-0")
    assert reader.last_id == "3-0"


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (PushRejectedError("full"), (0, 1, 0)),
        (ClosedError("closed"), (0, 1, 0)),
        (PushUncertainError("no answer"), (0, 0, 1)),
        (KeyboardInterrupt(), (0, 0, 1)),
        (None, (0, 0, 1)),
    ],
)
def test_leaving_the_block_records_the_outcome(error: BaseException | None, counts: tuple[int, int, int]) -> None:
    """An attempt ends as its exception says, which is passed on; anything unknown is uncertain."""
    history = ticking()

    def push() -> None:
        with history.pushing("alice", 1):
            if error is not None:
                raise error

    if error is None:
        push()
    else:
        with pytest.raises(type(error)):
            push()
    verdict = history.check()
    assert (verdict.acknowledged, verdict.rejected, verdict.uncertain) == counts


def test_first_outcome_counts() -> None:
    """What happens after an acknowledgement does not change it."""
    history = ticking()
    with history.pushing("alice", 1) as attempt:
        attempt.ok("1-0")
        attempt.rejected()
    verdict = history.check()
    assert (verdict.acknowledged, verdict.rejected, verdict.uncertain) == (1, 0, 0)


def test_report_names_counts_and_violations() -> None:
    """The report counts everything and says in a sentence what is wrong, without flooding."""
    steps = [OPEN, *stored(*range(1, 9)), ("gap", "r", "trimmed", "0", "1-0"), *saw("r", 8, after=1)]
    with pytest.raises(HistoryError) as caught:
        play([*steps, ("push", "x", 99, None), ("push", "y", 98, None), ("rejected", "y")]).assert_ok()
    report = str(caught.value)
    for line in (
        "pushes      8 ok, 1 rejected, 1 uncertain",
        "readers     1, 1 yields",
        "gaps        1 trimmed",
        "violations  1",
        "lost-write    'alice': a reader went past 2-0, 3-0, 4-0, 5-0, 6-0 and 1 more",
    ):
        assert line in report
    assert caught.value.verdict.violations[0].ids == ("2-0", "3-0", "4-0", "5-0", "6-0", "7-0")
    flood = play([OPEN, *saw("r", *range(1, 31))]).check()
    assert len(flood.violations) == 30
    assert str(flood).endswith("... and 10 more")


def test_assert_ok_returns_the_verdict() -> None:
    """A good history's verdict can be asked for more, for example that there was no gap."""
    verdict = play([OPEN, *stored(1), *saw("r", 1)]).assert_ok()
    assert verdict.gaps == {}
    assert "violations  none" in str(verdict)
    assert "gaps        none" in str(verdict)


# Correct executions, and one mutation of each.


class Model:
    """A correct log with correct readers, which writes down what they do."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.log: list[tuple[int, int, int]] = []  # id, prev, value: what is retained
        self.head = 0
        self.clock = 0
        self.names = count()
        self.cursors: dict[int, int] = {}

    def begin(self, value: int, key: str | None = None) -> int:
        name = next(self.names)
        self.steps.append(("push", name, value, key))
        return name

    def store(self, value: int) -> int:
        self.clock += 1
        self.log.append((self.clock, self.head, value))
        self.head = self.clock
        return self.clock

    def end(self, name: int, act: str, *rest: str) -> None:
        self.steps.append((act, name, *rest))

    def push(self) -> None:
        value = next(self.names)
        self.end(self.begin(value), "ok", text(self.store(value)))

    def reject(self) -> None:
        self.end(self.begin(next(self.names)), "rejected")

    def doubt(self, kept: bool, ended: bool) -> None:
        value = next(self.names)
        name = self.begin(value)
        if kept:
            self.store(value)
        if ended:
            self.end(name, "uncertain")

    def retry(self, kept: bool) -> None:
        value = next(self.names)
        first = self.begin(value, f"k{value}")
        at = self.store(value) if kept else None
        self.end(first, "uncertain" if kept else "rejected")
        self.push()
        second = self.begin(value, f"k{value}")
        self.end(second, "ok", text(at or self.store(value)))

    def overlap(self) -> None:
        values = next(self.names), next(self.names)
        names = [self.begin(value) for value in values]
        late, early = self.store(values[1]), self.store(values[0])
        self.end(names[0], "ok", text(early))
        self.end(names[1], "ok", text(late))

    def open(self, choice: int) -> int:
        name = next(self.names)
        starts = [0, self.head, *(event[0] for event in self.log), *self.cursors.values()]
        at = starts[choice % len(starts)]
        self.steps.append(("reader", name, None if choice % len(starts) == 1 else text(at)))
        self.cursors[name] = at
        return name

    def read(self, choice: int, limit: int | None) -> None:
        if self.cursors:
            name = list(self.cursors)[choice % len(self.cursors)]
            at = self.cursors[name]
            rows = [event for event in self.log if event[0] > at]
            end = rows[0][1] if rows else self.head
            if end != at:
                reason = "expired" if end == 0 else "trimmed" if end > at else "rewound"
                self.steps.append(("gap", name, reason, text(at), text(end)))
                self.cursors[name] = end
            for id_, prev, value in rows[:limit]:
                self.steps.append(("saw", name, text(id_), text(prev), value))
                self.cursors[name] = id_

    def finish(self, choice: int) -> None:
        if self.cursors:
            name = list(self.cursors)[choice % len(self.cursors)]
            del self.cursors[name]
            self.steps.append(("finished", name))

    def trim(self, choice: int) -> None:
        del self.log[: choice % (len(self.log) + 1)]

    def lose(self, keep: int) -> None:
        """Lose the log's tail, before the eyes of one reader that saw all of it."""
        witness = self.open(0)
        place = list(self.cursors).index(witness)
        self.read(place, None)
        del self.log[keep:]
        self.head = self.log[-1][0] if self.log else 0
        self.read(place, None)

    def act(self, kind: int, choice: int) -> None:
        acts = [
            self.push,
            self.push,
            self.overlap,
            self.reject,
            lambda: self.doubt(bool(choice & 1), bool(choice & 2)),
            lambda: self.retry(bool(choice & 1)),
            lambda: self.open(choice),
            lambda: self.read(choice, choice % 4),
            lambda: self.read(choice, None),
            lambda: self.finish(choice),
            lambda: self.trim(choice),
            lambda: self.lose(choice % (len(self.log) + 1)),
        ]
        acts[kind % len(acts)]()

    def settle(self) -> list[Step]:
        """End with some events, a rejected push, and readers who have everything."""
        self.reject()
        for _ in range(3):
            self.push()
        self.open(0)
        for place in range(len(self.cursors)):
            self.read(place, None)
        return self.steps


def text(number: int) -> str:
    return f"{number}-0" if number else "0"


acts = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 60)), max_size=40)


def execution(chosen: list[tuple[int, int]]) -> list[Step]:
    model = Model()
    for kind, choice in chosen:
        model.act(kind, choice)
    return model.settle()


@given(acts)
def test_correct_executions_pass(chosen: list[tuple[int, int]]) -> None:
    """Trims, losses, gaps, resumes, retries and uncertain pushes of a correct log are never flagged."""
    history = play(execution(chosen))
    assert history.check().violations == ()


def places(steps: list[Step], *kinds: str) -> list[int]:
    return [i for i, step in enumerate(steps) if step[0] in kinds]


def pairs(steps: list[Step]) -> list[tuple[int, int]]:
    """Yields of one reader that are followed by another item of it, with that item's place."""
    found: list[tuple[int, int]] = []
    last: dict[object, int] = {}
    for i in places(steps, "saw", "gap"):
        before = last.get(steps[i][1])
        if before is not None and steps[before][0] == "saw":
            found.append((before, i))
        last[steps[i][1]] = i
    return found


def acknowledged(steps: list[Step]) -> dict[object, str]:
    """The acknowledged id of each value that has no key."""
    ids = {step[1]: step[2] for step in steps if step[0] == "ok"}
    return {step[2]: ids[step[1]] for step in steps if step[0] == "push" and step[1] in ids and not step[3]}


def read_values(steps: list[Step]) -> list[int]:
    """Places of yields whose value was acknowledged without a key."""
    known = acknowledged(steps)
    return [i for i in places(steps, "saw") if steps[i][4] in known]


def drop_yield(steps: list[Step], rng: random.Random) -> str:
    from_now = {step[1] for step in steps if step[0] == "reader" and step[2] is None}
    del steps[rng.choice([i for i, _ in pairs(steps) if steps[i][1] not in from_now])]
    return "contiguity"


def repeat_yield(steps: list[Step], rng: random.Random) -> str:
    place = rng.choice(places(steps, "saw"))
    steps.insert(rng.randint(place + 1, len(steps)), steps[place])
    return "order"


def swap_yields(steps: list[Step], rng: random.Random) -> str:
    i, j = rng.choice([(i, j) for i, j in pairs(steps) if steps[j][0] == "saw"])
    steps[i], steps[j] = steps[j], steps[i]
    return "order"


def change_id(steps: list[Step], rng: random.Random) -> str:
    place = rng.choice(read_values(steps))
    act, reader, id_, prev, value = steps[place]
    steps[place] = (act, reader, id_.replace("-0", "-7"), prev, value)
    return "at-most-once"


def forge_value(steps: list[Step], rng: random.Random) -> str:
    place = rng.choice(places(steps, "saw"))
    steps[place] = (*steps[place][:4], "forged")
    return "aborted-read"


def mix_up_values(steps: list[Step], rng: random.Random) -> str:
    place = rng.choice(read_values(steps))
    other = rng.choice([value for value in acknowledged(steps) if value != steps[place][4]])
    steps[place] = (*steps[place][:4], other)
    return "one-value"


def reject_what_was_read(steps: list[Step], rng: random.Random) -> str:
    id_ = steps[rng.choice(read_values(steps))][2]
    place = next(i for i in places(steps, "ok") if steps[i][2] == id_)
    steps[place] = ("rejected", steps[place][1])
    return "aborted-read"


def acknowledge_a_rejected_push(steps: list[Step], rng: random.Random) -> str:
    once = [i for i in places(steps, "rejected") if ("push", steps[i][1], steps[i][1] - 1, None) in steps]
    place = rng.choice(once)
    steps[place] = ("ok", steps[place][1], steps[rng.choice(read_values(steps))][2])
    return "one-value"


def swap_acknowledgements(steps: list[Step], rng: random.Random) -> str:
    i, j = rng.sample([i for i in places(steps, "ok") if steps[i][2] in acknowledged(steps).values()][-3:], 2)
    steps[i], steps[j] = (*steps[i][:2], steps[j][2]), (*steps[j][:2], steps[i][2])
    return "one-value"


def stop_early(steps: list[Step], rng: random.Random) -> str:
    del steps[-rng.randint(1, 3) :]
    return "unseen"


def forget_an_acknowledged_push(steps: list[Step], rng: random.Random) -> str:
    id_ = rng.choice([steps[i][2] for i in places(steps, "saw")[-3:]])
    steps += [("push", "lost", "lost", None), ("ok", "lost", f"{int(id_[:-2]) - 1}-5")]
    return "lost-write"


MUTATIONS = [
    drop_yield,
    repeat_yield,
    swap_yields,
    change_id,
    forge_value,
    mix_up_values,
    reject_what_was_read,
    acknowledge_a_rejected_push,
    swap_acknowledgements,
    stop_early,
    forget_an_acknowledged_push,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
@given(chosen=acts, seed=st.integers(0, 1000))
def test_one_mutation_is_flagged(mutation: Any, chosen: list[tuple[int, int]], seed: int) -> None:
    """One fault in an otherwise correct execution is flagged by the rule that it breaks."""
    steps = execution(chosen)
    rule = mutation(steps, random.Random(seed))
    assert rule in rules(play(steps).check())


# Files, processes, threads, size.


def test_dump_and_load_keep_the_verdict(tmp_path: Path) -> None:
    """Histories of several processes, put together, are judged as one."""
    writer = play([*stored(1, 2, 3)], ticking())
    reader = History(clock=count(100.0).__next__)
    play([OPEN, ("reader", "s", "2-0"), *saw("r", 1, 2), *saw("s", 3, after=2)], reader)
    writer.dump(tmp_path / "writer")
    reader.dump(tmp_path / "reader")
    both = History.load(tmp_path / "writer", tmp_path / "reader")
    assert rules(both.check()) == {"unseen"}
    assert History.load(tmp_path / "writer", killed=[tmp_path / "reader"]).check().ok


def test_loaded_history_records_on(tmp_path: Path) -> None:
    """What is recorded after loading is not mixed up with what was loaded."""
    play([OPEN, *stored(1), *saw("r", 1)]).dump(tmp_path / "first")
    history = History.load(tmp_path / "first")
    history.reader("alice", "0").saw("1-0", "0", 1)
    verdict = history.check()
    assert verdict.ok
    assert (verdict.readers, verdict.yields, verdict.acknowledged) == (2, 2, 1)


def test_torn_last_line_is_dropped_and_a_broken_one_refused(tmp_path: Path) -> None:
    """A kill may tear the last line at any byte; a broken line elsewhere is an error."""
    path = tmp_path / "history"
    with play([OPEN, *stored(1), *saw("r", 1)], History(path)):
        whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(len(lines[-1])):
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
        assert History.load(path).check().yields == (cut == len(lines[-1]) - 1)
    for broken in (b'["saw",\n', b"5\n", b"[]\n"):
        path.write_bytes(lines[0] + broken + lines[1])
        with pytest.raises(ValueError, match="line 2"):
            History.load(path)


def test_file_of_another_life_is_not_reused(tmp_path: Path) -> None:
    """A second process cannot write into a history that is there."""
    History(tmp_path / "history").close()
    with pytest.raises(FileExistsError):
        History(tmp_path / "history")


def test_history_without_a_file_has_nothing_to_close() -> None:
    """Leaving a history that is only in memory keeps it usable."""
    with ticking() as history:
        pass
    assert play([OPEN, *stored(1), *saw("r", 1)], history).check().ok


def test_history_of_a_killed_process_is_complete(tmp_path: Path) -> None:
    """Every record made before SIGKILL is in the file."""
    path = tmp_path / "history"
    code = (
        "import itertools, sys; from notify.testing.history import History\n"
        "history = History(sys.argv[1])\n"
        "reader = history.reader('alice', '0')\n"
        "for n in itertools.count(1):\n"
        "    history.pushing('alice', n).ok(f'{n}-0')\n"
        "    reader.saw(f'{n}-0', f'{n - 1}-0', n)\n"
        "    if n == 500: print('far enough', flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=untraced_environment())
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    verdict = History.load(killed=[path]).check()
    assert verdict.ok
    assert verdict.yields >= 500
    assert verdict.acknowledged - verdict.yields in (0, 1)


def test_threads_record_into_one_history(tmp_path: Path) -> None:
    """Records of several threads are all there, unbroken, in memory and in the file."""
    path = tmp_path / "history"
    history = History(path)

    def work(user: str) -> None:
        reader = history.reader(user, "0")
        for n in range(1, 200):
            history.pushing(user, n).ok(f"{n}-0")
            reader.saw(f"{n}-0", f"{n - 1}-0", n)

    threads = [threading.Thread(target=work, args=(f"user{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history.close()
    for verdict in (history.check(), History.load(path).check()):
        assert verdict.ok
        assert (verdict.yields, verdict.acknowledged, verdict.readers) == (796, 796, 4)
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def steps_of_a_check(size: int) -> int:
    """How many lines and calls it takes to judge overlapping pushes under as many readers of one user."""
    history = ticking()
    attempts = [(n, history.pushing("alice", n)) for n in range(1, size + 1)]
    random.Random(1).shuffle(attempts)
    readers = [history.reader("alice") for _ in attempts]
    for n, attempt in attempts:
        attempt.ok(f"{n}-0")
    for n, reader in enumerate(readers, 1):
        reader.saw(f"{n}-0", f"{n - 1}-0", n)
    steps = 0

    def count_steps(*_: Any) -> Any:
        nonlocal steps
        steps += 1
        return count_steps

    with untraced():
        sys.settrace(count_steps)
        verdict = history.check(quiescent=False)
        sys.settrace(None)
    assert verdict.ok
    return steps


def test_large_histories_take_seconds() -> None:
    """Four times as many pushes and readers take little more than four times as long: not all pairs are compared."""
    assert steps_of_a_check(800) < 6 * steps_of_a_check(200)
