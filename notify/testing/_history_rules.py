"""Pure: the rules that judge a history.

Rules, each for one user's log:
    1. `aborted-read`: what is yielded was pushed to this user, and not every attempt was rejected.
    2. `one-value`: an id stands for one push and one value, for all acknowledgements and all readers.
    3. `lost-write`: an acknowledged push between a reader's start and the furthest it got was yielded
       to it or lies in one of its gaps. A reader "from now on" gets what is pushed after it opened.
    4. `contiguity`: the `prev` of a yield, or the start of a gap, is where the reader was: at the id
       yielded before or at the end of a gap.
    5. `order`: a reader's ids grow and never repeat. After a `rewound` gap they may be smaller.
    6. `unseen`: once all is quiet, an open reader has reached the last acknowledged push.
    7. `real-time`: a push that was acknowledged before another began has the smaller id.
    8. `at-most-once`: a push has at most one id, however often it was attempted with its key.

A gap that ends before it starts says that the log itself lost events: a failover, a restored backup, expiry.
Pushes that began before such a gap was met and whose ids lie beyond its end are not demanded of any reader.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from notify import ids

from ._history_logs import Key, Log, Push, Record, RecordedReader, Sorted, Value
from ._verdict import Verdict, Violation

_BEYOND: Key = (1 << 64, 0)
"""After every id."""

_NAMED = 5
"""Ids that a sentence names; the violation holds all of them."""


def judge(records: Iterable[Record], *, quiescent: bool, durable: bool) -> Verdict:
    """Apply every rule. Not durable: what no reader saw may be gone without a trace."""
    history = Sorted(records)
    judges = [_Judge(log, durable) for log in history.logs.values()]
    for one in judges:
        one.run(quiescent)
    counts = history.counts
    return Verdict(
        acknowledged=counts["ok"],
        rejected=counts["rejected"],
        uncertain=counts["push"] - counts["ok"] - counts["rejected"],
        excused=sum(one.excused for one in judges),
        readers=counts["reader"],
        yields=counts["saw"],
        gaps=dict(history.gaps),
        violations=tuple(violation for one in judges for violation in one.violations),
    )


class _Keys(dict[str, Key]):
    """Parses each id once."""

    def __missing__(self, text: str) -> Key:
        key = self[text] = ids.parse(text)
        return key


class _Judge:
    """Judges one log; linear, but for sorting."""

    def __init__(self, log: Log, durable: bool) -> None:
        self.violations: list[Violation] = []
        self.excused = 0
        self._log = log
        self._durable = durable
        self._keys = _Keys()
        self._owners: dict[Key, Push] = {}  # who was acknowledged with this id
        self._values: dict[Key, Value] = {}  # what this id was first yielded as
        self._unowned: dict[Value, list[str]] = {}  # by value: ids yielded that no push was acknowledged with
        self._rewinds: dict[Key, float] = {}  # beyond this, what began before then may be lost

    def run(self, quiescent: bool) -> None:
        """Find the violations."""
        acked = [push for push in self._log.pushes if push.id]
        self._check_acknowledgements(acked)
        for reader in self._log.readers:
            self._follow(reader)
        self._check_copies()
        demanded = [push for push in acked if self._is_demanded(push)]
        self.excused = len(acked) - len(demanded)
        self._check_real_time(acked, demanded)
        later = _Later(demanded)
        demanded.sort(key=lambda push: push.key)
        keys = [push.key for push in demanded]
        for reader in self._log.readers:
            self._check_losses(reader, demanded, keys, later)
            if quiescent and demanded and not reader.finished:
                self._check_unseen(reader, demanded[-1], later)

    def _flag(self, rule: str, named: Iterable[str], text: str) -> None:
        self.violations.append(Violation(rule, self._log.user, tuple(named), text))

    def _check_acknowledgements(self, acked: Sequence[Push]) -> None:
        for push in acked:
            if push.clashes:
                named = [push.id, *push.clashes]
                self._flag("at-most-once", named, f"{push.value!r} was acknowledged as {_listed(named)}")
            other = self._owners.setdefault(push.key, push)
            if other is not push:
                text = f"{push.id} acknowledged both {other.value!r} and {push.value!r}"
                self._flag("one-value", [push.id], text)

    def _follow(self, reader: RecordedReader) -> None:
        if reader.start is not None:
            reader.begin(self._keys[reader.start])
        for kind, time, _, *fields in reader.items:
            if kind == "saw":
                self._pass_yield(reader, *fields)
            elif kind == "gap":
                self._pass_gap(reader, time, *fields)
            else:
                id_, owner = fields
                self._flag("aborted-read", [id_], f"{id_} was yielded but belongs to {owner!r}")
        self._settle(reader)
        if reader.begun:
            reader.stretches.append((reader.base, reader.floor))

    def _pass_yield(self, reader: RecordedReader, id_: str, prev: str, value: Value) -> None:
        key, before = self._keys[id_], self._keys[prev]
        if self._values.get(key) != value:
            self._meet(key, id_, value)
        if reader.loss is not None and key in self._owners:
            # Noticed late, perhaps: what began after this acknowledgement began after the loss.
            self._settle(reader, self._owners[key].acked)
        reader.begin(before)
        if key in reader.seen:
            self._flag("order", [id_], f"{id_} was yielded twice to one reader")
        elif key <= reader.floor:
            self._flag("order", [id_], f"{id_} was yielded after {ids.format(*reader.floor)}")
        else:
            self._connect(reader, before, f"{id_} follows {prev}", id_, prev)
            reader.position = reader.floor = key
        reader.seen.add(key)

    def _pass_gap(self, reader: RecordedReader, time: float, reason: str, start: str, end: str) -> None:
        low, high = self._keys[start], self._keys[end]
        self._settle(reader)
        reader.begin(low)
        self._connect(reader, low, f"a gap starts at {start}", start, end)
        reader.position = high
        if high >= low:
            reader.covers.append((low, high))
            reader.floor = max(reader.floor, high)
            return
        reader.loss = (high, time)
        if reason == "rewound":
            reader.rewind(high)

    def _connect(self, reader: RecordedReader, before: Key, what: str, *named: str) -> None:
        if before != reader.position:
            self._flag("contiguity", named, f"{what}, but the reader was at {ids.format(*reader.position)}")

    def _settle(self, reader: RecordedReader, latest: float = math.inf) -> None:
        """Note what a log may have lost, and that this happened before `latest`."""
        if reader.loss is not None:
            end, time = reader.loss
            self._rewinds[end] = max(min(time, latest), self._rewinds.get(end, 0.0))
            reader.loss = None

    def _meet(self, key: Key, id_: str, value: Value) -> None:
        """Find the push behind an id that is yielded for the first time, or with another value."""
        known = self._values.setdefault(key, value)
        owner = self._owners.get(key)
        pushes = list(self._log.named(value))
        if not any(push.open for push in pushes):
            outcome = "was rejected" if pushes else "was never pushed"
            self._flag("aborted-read", [id_], f"{id_} was yielded as {value!r}, which {outcome}")
        elif known != value:
            self._flag("one-value", [id_], f"{id_} was yielded as {known!r} and as {value!r}")
        elif owner is None:
            self._unowned.setdefault(value, []).append(id_)
        elif owner.value != value:
            self._flag("one-value", [id_], f"{id_} was yielded as {value!r} but acknowledged {owner.value!r}")

    def _check_copies(self) -> None:
        """An id that no push was acknowledged with is that of a push without an acknowledgement."""
        for value, unowned in self._unowned.items():
            pushes = list(self._log.named(value))
            if len(unowned) > sum(not push.id and push.open > 0 for push in pushes):
                named = [push.id for push in pushes if push.id] + unowned
                self._flag("at-most-once", named, f"{value!r} is in the log as {_listed(named)}")

    def _is_demanded(self, push: Push) -> bool:
        if not self._durable and push.key not in self._values:
            return False
        return not any(end < push.key and push.invoked < time for end, time in self._rewinds.items())

    def _check_real_time(self, acked: Sequence[Push], demanded: Sequence[Push]) -> None:
        finished = sorted(demanded, key=lambda push: push.acked)
        highest = blamed = None  # a push that is too high is blamed once, not for each push after it
        done = 0
        for push in sorted(acked, key=lambda push: push.invoked):
            while done < len(finished) and finished[done].acked < push.invoked:
                if highest is None or highest.key < finished[done].key:
                    highest = finished[done]
                done += 1
            if highest is not None and highest.key > push.key and highest is not blamed:
                blamed = highest
                text = f"{highest.id} was acknowledged before the push that became {push.id} began"
                self._flag("real-time", [highest.id, push.id], text)

    def _check_losses(
        self, reader: RecordedReader, demanded: Sequence[Push], keys: Sequence[Key], later: _Later
    ) -> None:
        missing: list[str] = []
        for base, top in reader.stretches:
            for push in demanded[bisect_right(keys, base) : bisect_right(keys, top)]:
                covered = push.key in reader.seen or any(low < push.key <= high for low, high in reader.covers)
                if not covered:
                    missing.append(push.id)
        if reader.start is None and reader.begun and later.lowest(reader.opened) <= reader.first:
            # "From now on" began too late, which its own first position would hide.
            missing += (p.id for p in demanded if p.key <= reader.first and p.invoked > reader.opened)
        if missing:
            self._flag("lost-write", missing, f"a reader went past {_listed(missing)}")

    def _check_unseen(self, reader: RecordedReader, last: Push, later: _Later) -> None:
        if reader.begun and reader.floor < last.key:
            at = ids.format(*reader.floor)
            self._flag("unseen", [last.id], f"a reader stopped at {at}; acknowledged up to {last.id}")
        elif not reader.begun and later.lowest(reader.opened) <= last.key:
            self._flag("unseen", [last.id], f"a reader got nothing; acknowledged up to {last.id}")


class _Later:
    """Knows the lowest id among the pushes that began after a moment."""

    def __init__(self, pushes: Sequence[Push]) -> None:
        ordered = sorted(pushes, key=lambda push: push.invoked)
        self._times = [push.invoked for push in ordered]
        self._lowest = [push.key for push in ordered] + [_BEYOND]
        for i in reversed(range(len(ordered))):
            self._lowest[i] = min(self._lowest[i], self._lowest[i + 1])

    def lowest(self, moment: float) -> Key:
        return self._lowest[bisect_right(self._times, moment)]


def _listed(named: Sequence[str]) -> str:
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + more
