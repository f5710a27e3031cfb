"""Pure: sorts the records of a history into one log per user, with its pushes and its readers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from notify import ids

Value: TypeAlias = str | int
"""Names one push, and is what readers see of it."""

Record: TypeAlias = tuple[Any, ...]
"""`(kind, time, number, ...)`; the number is that of an attempt or of a reader."""

Key: TypeAlias = tuple[int, int]
"""A parsed id."""


class Push:
    """One push, with all attempts that share its key.

    Attributes:
        value: what it pushes.
        invoked: when the first attempt began.
        acked: when the first acknowledgement came.
        id: what was acknowledged; empty where nothing was.
        key: the same, parsed.
        clashes: other ids that it was acknowledged with.
        open: how many attempts were not rejected.
        namesake: another push with the same value.
    """

    __slots__ = ("acked", "clashes", "id", "invoked", "key", "namesake", "open", "value")

    def __init__(self, value: Value, invoked: float, namesake: Push | None) -> None:
        self.value = value
        self.invoked = invoked
        self.namesake = namesake
        self.open = 0
        self.acked = 0.0
        self.id = ""
        self.key: Key = (0, 0)
        self.clashes: tuple[str, ...] = ()

    def acknowledge(self, time: float, id_: str) -> None:
        """Take in one acknowledgement."""
        key = ids.parse(id_)
        if not self.id:
            self.id, self.key, self.acked = id_, key, time
        elif key == self.key:
            self.acked = min(self.acked, time)
        else:
            self.clashes += (id_,)


class RecordedReader:
    """One reader and how far it got; the positions mean nothing before it has `begun`.

    Attributes:
        items: what it saw, in order.
        position: where the next `prev` must be.
        floor: what the next id must be beyond.
        first: where it began.
        base: where it went on after its last rewind.
        stretches: the spans that it read through.
        covers: the spans of its gaps.
        loss: the end and the time of a gap that went back, until it is known when that was.
        seen: what was yielded to it.
    """

    __slots__ = (
        *("base", "begun", "covers", "finished", "first", "floor", "items"),
        *("loss", "opened", "position", "seen", "start", "stretches"),
    )
    position: Key
    floor: Key
    first: Key
    base: Key

    def __init__(self, opened: float, start: str | None) -> None:
        self.opened = opened
        self.start = start
        self.finished = False
        self.begun = False
        self.items: list[Record] = []
        self.stretches: list[tuple[Key, Key]] = []
        self.covers: list[tuple[Key, Key]] = []
        self.loss: tuple[Key, float] | None = None
        self.seen: set[Key] = set()

    def begin(self, key: Key) -> None:
        """Take a position, unless there is one."""
        if not self.begun:
            self.begun = True
            self.position = self.floor = self.base = self.first = key

    def rewind(self, key: Key) -> None:
        """Go back to where the log does."""
        self.stretches.append((self.base, min(self.floor, key)))
        self.floor = self.base = key


class Log:
    """What was pushed to one user, and its readers."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.pushes: list[Push] = []
        self.readers: list[RecordedReader] = []
        self._keyed: dict[str, Push] = {}
        self._named: dict[Value, Push] = {}  # the latest of this value

    def attempt(self, time: float, value: Value, key: str | None) -> Push:
        """Take in one attempt and return the push that it belongs to."""
        push = None if key is None else self._keyed.get(key)
        if push is None:
            push = self._named[value] = Push(value, time, self._named.get(value))
            self.pushes.append(push)
            if key is not None:
                self._keyed[key] = push
        push.invoked = min(push.invoked, time)
        push.open += 1
        return push

    def named(self, value: Value) -> Iterator[Push]:
        """Return every push of this value."""
        push = self._named.get(value)
        while push is not None:
            yield push
            push = push.namesake


class Sorted:
    """A history by user, and its counts.

    Records of one attempt, and those of one reader, come in the order in which they were made.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.logs: dict[str, Log] = {}
        self.counts: Counter[str] = Counter()
        self.gaps: Counter[str] = Counter()
        pushes: dict[int, Push] = {}
        readers: dict[int, RecordedReader] = {}
        for record in records:
            kind, time, number = record[:3]
            self.counts[kind] += 1
            if kind == "push":
                pushes[number] = self._log(record[3]).attempt(time, record[4], record[5])
            elif kind == "ok":
                pushes[number].acknowledge(time, record[3])
            elif kind == "rejected":
                pushes[number].open -= 1
            elif kind == "reader":
                readers[number] = RecordedReader(time, record[4])
                self._log(record[3]).readers.append(readers[number])
            elif kind == "finished":
                readers[number].finished = True
            elif kind != "uncertain":
                readers[number].items.append(record)
                if kind == "gap":
                    self.gaps[record[3]] += 1

    def _log(self, user: str) -> Log:
        return self.logs.get(user) or self.logs.setdefault(user, Log(user))
