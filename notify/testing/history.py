"""Records what a test did and saw, and judges it: nothing lost, doubled, reordered or made up.

A test records every push and every yield, from any number of tasks, threads and processes:

```python
history = History()
with history.pushing("alice", 7, key="k7") as attempt:
    event = await notifier.push("alice", "t", 7, key="k7")
    attempt.ok(event.id)

reader = history.reader("alice", start="0")
async for event in notifier.subscribe("alice", "0"):
    reader.event(event, event.payload)

history.assert_ok()
```

The rules stand at the top of `notify/testing/_history_rules.py`; a violation carries the name of its rule.
A process that may be killed records into a file, `History(path)`; `History.load` puts the files together.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from notify.errors import PushRejectedError, UsageError

from ._history_logs import Record as Record
from ._history_logs import Value as Value
from ._history_rules import judge
from ._verdict import Verdict as Verdict
from ._verdict import Violation as Violation

__all__ = ["Attempt", "History", "HistoryError", "Reader", "StoredEvent", "Value", "Verdict", "Violation"]

_Path: TypeAlias = str | PathLike[str]


class StoredEvent(Protocol):
    """What the history reads of an event."""

    @property
    def id(self) -> str:
        """Its id; empty for an ephemeral event."""

    @property
    def prev(self) -> str:
        """The id before it in the same log."""

    @property
    def user(self) -> str:
        """Whose log."""


class HistoryError(AssertionError):
    """A history breaks a rule; the text is the report.

    Attributes:
        verdict: what was found.
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(f"the history breaks a rule\n{verdict}")
        self.verdict = verdict


class History:
    """What was pushed and what was seen, in the order in which it happened.

    Any task or thread may record; one reader, and one attempt, belong to one task at a time.

    Args:
        path: a new file that takes each record as a line at once; a killed process leaves all but its last.
        clock: monotonic seconds; processes of one host must share it.

    Raises:
        FileExistsError: each process, and each life of a process, needs its own file.
    """

    def __init__(self, path: _Path | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: list[Record] = []
        self._numbers = count()
        self._lock = threading.Lock()  # makes the order of lines that of records
        self._file = None if path is None else Path(path).open("xb", buffering=0)

    def pushing(self, user: str, value: Value, *, key: str | None = None) -> Attempt:
        """Record that a push begins, and return the attempt; call it before the push itself.

        Args:
            user: whose log.
            value: names the push: what readers will see of it, another one for each push.
            key: the idempotency key. Attempts with one key are one push and repeat its value.
        """
        return Attempt(self, self._begin("push", user, value, key))

    def reader(self, user: str, start: str | None = None) -> Reader:
        """Record that a reader has opened.

        Args:
            user: whose log.
            start: the position that it reads from. None: wherever its first event says, but with every push
                that begins after this call: call it once the stream is open.
        """
        return Reader(self, self._begin("reader", user, start), user)

    def check(self, *, quiescent: bool = True, durable: bool = True) -> Verdict:
        """Judge everything recorded so far.

        Args:
            quiescent: pushes have ended and readers had their time: an open reader must have got everything.
            durable: False where the log may lose acknowledged events (a failover, a power loss, expiry): what
                no reader saw is then demanded of none.

        Raises:
            InvalidEventIdError: something recorded as an id is not one.
        """
        return judge(self._records[:], quiescent=quiescent, durable=durable)

    def assert_ok(self, *, quiescent: bool = True, durable: bool = True) -> Verdict:
        """Judge as `check` does and return the verdict.

        Raises:
            HistoryError: a rule is broken.
        """
        verdict = self.check(quiescent=quiescent, durable=durable)
        if not verdict.ok:
            raise HistoryError(verdict)
        return verdict

    def dump(self, path: _Path) -> None:
        """Write every record to a file for `load`."""
        with Path(path).open("wb") as file:
            file.writelines(_line(record) for record in self._records[:])

    @classmethod
    def load(cls, *paths: _Path, killed: Sequence[_Path] = ()) -> Self:
        """Put the files of several processes of one host together.

        Args:
            paths: files written by `dump` or by `History(path)`.
            killed: files of killed processes: their readers count as finished.

        Raises:
            ValueError: a line other than a torn last one is not a record.
        """
        history = cls()
        for path in paths:
            history._append_file(Path(path))
        for path in killed:
            for number in history._append_file(Path(path)):
                history._record("finished", number)
        return history

    def close(self) -> None:
        """Close the file, if there is one. Idempotent."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, kind: str, *fields: Value | None) -> int:
        number = next(self._numbers)
        self._record(kind, number, *fields)
        return number

    def _record(self, kind: str, number: int, *fields: Value | None) -> None:
        record = (kind, self._clock(), number, *fields)
        with self._lock:
            self._records.append(record)
            if self._file is not None:
                self._file.write(_line(record))

    def _append_file(self, path: Path) -> list[int]:
        """Append a file's records under numbers of our own; return the readers'."""
        first = last = next(self._numbers)
        readers: list[int] = []
        with path.open("rb") as file:
            for position, line in enumerate(file, 1):
                try:
                    kind, moment, number, *fields = json.loads(line)
                except (TypeError, ValueError) as error:
                    if not line.endswith(b"\n"):
                        break  # torn: the process was killed while it wrote
                    raise ValueError(f"{path}, line {position}: not a record") from error
                last = max(last, first + number)
                self._records.append((kind, moment, first + number, *fields))
                if kind == "reader":
                    readers.append(first + number)
        self._numbers = count(last + 1)
        return readers


class Attempt:
    """One attempt to push. Records one outcome; later ones are ignored.

    As a context manager it records what its block did not: `rejected` for a PushRejectedError or UsageError,
    `uncertain` for everything else, a cancellation too. It swallows no exception.
    """

    __slots__ = ("_ended", "_history", "_number")

    def __init__(self, history: History, number: int) -> None:
        self._history = history
        self._number = number
        self._ended = False

    def ok(self, id: str) -> None:
        """Record that the push returned this id."""
        self._end("ok", id)

    def rejected(self) -> None:
        """Record that the push certainly stored nothing."""
        self._end("rejected")

    def uncertain(self) -> None:
        """Record that the outcome is unknown."""
        self._end("uncertain")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (PushRejectedError, UsageError)):
            self.rejected()
        else:
            self.uncertain()

    def _end(self, kind: str, *fields: str) -> None:
        if not self._ended:
            self._ended = True
            self._history._record(kind, self._number, *fields)


class Reader:
    """One reader of one user's log. A reader that resumes is another one, starting at this one's `last_id`."""

    __slots__ = ("_history", "_number", "last_id", "user")

    def __init__(self, history: History, number: int, user: str) -> None:
        self._history = history
        self._number = number
        self.user = user
        self.last_id: str | None = None

    def event(self, event: StoredEvent, value: Value) -> None:
        """Record that this event was yielded, and the value that its push named; ignores an ephemeral one."""
        if event.id and event.user != self.user:
            self._history._record("stray", self._number, event.id, event.user)
        else:
            self.saw(event.id, event.prev, value)

    def saw(self, id: str, prev: str, value: Value) -> None:
        """As `event`, in plain values."""
        if id:
            self._history._record("saw", self._number, id, prev, value)
            self.last_id = id

    def gap(self, reason: str, start: str, end: str) -> None:
        """Record that the stream said it cannot prove what lies between two positions."""
        self._history._record("gap", self._number, reason, start, end)
        self.last_id = end

    def finished(self) -> None:
        """Record that the reader ended on purpose, so that nothing more is demanded of it."""
        self._history._record("finished", self._number)


def _line(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
