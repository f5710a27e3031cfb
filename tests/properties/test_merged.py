"""A stream of several logs against a model in plain Python: killed and resumed anywhere, with trims in single logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from notify import Event, Gap, MergedStream, Notifier, ids
from notify._stream import _hub, _reads
from notify_memory import MemoryStore, MemoryStreamStore
from tests.parts import BatchStore, PlainStore

USERS: Final = ("a", "room:1", "ü" * 20, "d")
users = st.sampled_from(USERS)
some = st.lists(users, min_size=1, max_size=4, unique=True)

OPS = st.one_of(
    st.tuples(st.just("push"), users, st.integers(1, 4)),
    st.tuples(st.just("save"), users, st.integers(1, 3)),
    st.tuples(st.just("trim"), users, st.integers(0, 6)),
    st.tuples(st.just("show"), st.sampled_from(["", *USERS]), st.just(1)),
    st.tuples(st.just("read"), st.just(""), st.integers(1, 8)),
    st.tuples(st.just("cancel"), st.just(""), st.integers(0, 6)),
    st.tuples(st.just("resume"), some, st.booleans()),
    st.tuples(st.just("add"), users, st.sampled_from([None, "0", "token"])),
    st.tuples(st.just("remove"), users, st.just(0)),
)


@dataclass
class Log:
    """What one log holds, and where the reader is in it."""

    events: list[Event] = field(default_factory=list)
    gone: int = 0
    at: str | None = None
    from_zero: bool = False  # added from "0", and nothing yielded yet: what was gone before its first page is no gap

    @property
    def head(self) -> str:
        return self.events[-1].id if self.events else ids.ZERO

    @property
    def is_read(self) -> bool:
        return self.at in (None, self.head) or (self.from_zero and self.gone == len(self.events))

    @property
    def before_next(self) -> set[str]:
        """The ids that may stand before the next event."""
        assert self.at is not None
        return {self.at, self.events[self.gone - 1].id} if self.from_zero and self.gone else {self.at}


class World:
    """One notifier, one reader, and the model of both."""

    def __init__(self, store: Any, inner: MemoryStore, notifier: Notifier) -> None:
        self.store, self.inner, self.notifier = store, inner, notifier
        self.logs = {user: Log() for user in USERS}
        self.stream: Any = None
        self.signals = False
        self.gaps = 0  # of `stream.gaps`: how many the reader has passed
        self.count = 0
        self.shown: list[tuple[str, int]] = []

    async def begin(self, named: list[str], position: Any, signals: bool) -> None:
        token = position if isinstance(position, str) else ""
        for user, log in self.logs.items():
            if user not in named:
                log.at = None
            elif position == "0":
                log.at = ids.ZERO if log.at is None else log.at
            elif log.at is None or not token:
                log.at = log.head  # it starts from now
        self.stream = self.notifier.subscribe(named, position, signals=signals)
        assert isinstance(self.stream, MergedStream)
        await self.stream.__aenter__()
        self.signals = signals
        self.gaps = 0
        self.shown.clear()

    def took(self, event: Event) -> None:
        """Judge one event."""
        if event.type == "notify.sync":
            assert (event.user, event.id) == ("", self.stream.last_id)
            return
        if event.type in ("shown", "everyone"):
            assert event.payload in [number for _, number in self.shown], f"{event} came twice, or was not for it"
            self.shown = [each for each in self.shown if each[1] != event.payload]
            return
        log = self.logs[event.user]
        assert log.at is not None, f"{event} is of a log that is not read"
        if event.type == "notify.gap":
            self.pass_gap(next(gap for gap in self.stream.gaps if (gap.user, gap.end) == (event.user, event.id)))
            return
        self.cross()
        assert event in log.events
        assert event.prev in log.before_next, f"{event} was yielded to a reader at {log.at}"
        log.at, log.from_zero = event.id, False

    def cross(self) -> None:
        """Pass the gaps that the stream has found since. With signals it passes each when it yields its event."""
        if self.signals:
            return
        gaps = self.stream.gaps
        for gap in gaps[self.gaps :]:
            self.pass_gap(gap)
        self.gaps = len(gaps)

    def pass_gap(self, gap: Gap) -> None:
        """Judge one gap: it begins where the reader is, and nothing in it is retained."""
        log = self.logs[gap.user]
        assert gap.start == (ids.ZERO if log.at is None else log.at)
        order = [ids.ZERO, *(event.id for event in log.events)]
        assert order.index(gap.end) <= log.gone, f"{gap} covers events that are retained"
        assert order.index(gap.start) < order.index(gap.end)
        log.at, log.from_zero = gap.end, False

    @property
    def news(self) -> bool:
        lost = self.stream.dropped  # of those that were shown: the buffer held no more
        return not all(log.is_read for log in self.logs.values()) or len(self.shown) > lost

    async def read(self, count: int) -> None:
        for _ in range(count):
            if not self.news:
                return
            try:
                self.took(await self.stream.next(0.3))
            except TimeoutError:
                self.cross()  # what was left is gone
                if self.news:  # a busy machine may be late; a reader that is never woken times out here too
                    self.took(await self.stream.next(10))

    def check_token(self) -> None:
        """The token holds the position of each log."""
        token = self.stream.last_id
        assert token.isascii()
        assert not set(token) & set(" %+/?&=#")

    async def do(self, op: str, user: Any, value: Any) -> None:
        log = self.logs[user] if isinstance(user, str) and user else None
        if op in ("push", "save"):
            assert log is not None
            for _ in range(value):
                self.count += 1
                if op == "push":
                    stored = await self.notifier.push(user, "t", self.count)
                else:  # by another process: no offer is made on a plain store
                    stored = await self.store.save(Event(user, "t", self.count))
                assert stored is not None
                log.events.append(stored)
        elif op == "trim":
            assert log is not None
            cut = min(log.gone + value, len(log.events))
            held = self.inner._logs.get(user)
            if held is not None:
                held.remove_before(held.start + cut - log.gone)
                log.gone = cut
        elif op == "show":
            self.count += 1
            if user:
                await self.notifier.push(user, "shown", self.count, ephemeral=True)
            else:
                await self.notifier.broadcast("everyone", self.count)
            if not user or log is None or log.at is not None:
                self.shown.append((user, self.count))
        elif op == "read":
            await self.read(value)
        elif op == "cancel":
            with anyio.CancelScope() as scope:

                async def cancel() -> None:
                    for _ in range(value):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()

                async with anyio.create_task_group() as group:
                    group.start_soon(cancel)
                    if self.news:
                        self.took(await self.stream.next())
        elif op == "resume":
            self.cross()
            token = self.stream.last_id
            self.check_token()
            await self.stream.aclose()
            assert self.notifier.statistics().open_streams == 0
            if not token.startswith("m1.") and tuple(user) != self.stream.users:
                token = None  # the plain id of one log does not say of which one
                for each in self.logs.values():
                    each.at = None
            await self.begin(user, token, value)
        elif op == "add":
            await self.add(user, value)
        elif op == "remove":
            assert log is not None
            if log.at is not None and len(self.stream.users) > 1:
                self.cross()
                await self.stream.remove(user)
                log.at = None
                self.shown = [each for each in self.shown if each[0] != user]

    async def add(self, user: str, position: str | None) -> None:
        log = self.logs[user]
        if log.at is not None:
            await self.stream.add(user, "0")  # nothing happens
            return
        if position == "token":
            position = None
        log.at, log.from_zero = log.head if position is None else ids.ZERO, position == "0"
        if position == "0" and log.gone:
            log.at = log.events[log.gone - 1].id  # not a gap: it asks for what is there
        await self.stream.add(user, position)

    async def finish(self) -> None:
        """Read everything that is left; nothing is missing, and nothing stays behind."""
        await self.read(10_000)
        for user, log in self.logs.items():
            assert log.is_read, f"{user} is at {log.at} of {log.head}"
        await self.stream.aclose()
        hub = self.notifier._live._hub
        assert (self.notifier.statistics().open_streams, hub.users, hub.merged_logs) == (0, {}, 0)
        assert hub.everyone.streams == 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["memory", "stream", "plain", "batch"])
@settings(max_examples=80, deadline=None)
@given(first=some, ops=st.lists(OPS, max_size=25), page=st.sampled_from([1, 2, 500]), signals=st.booleans())
@example(  # a gap that a reader with signals was not handed is found again by the stream that takes its place
    first=["d", "a"],
    ops=[("push", "a", 2), ("trim", "a", 1), ("resume", ["a"], True), ("resume", ["a"], False)],
    page=1,
    signals=False,
)
@example(  # a log that is added from "0" and trimmed before its first page was read has no gap
    first=["a"], ops=[("push", "d", 1), ("add", "d", "0"), ("trim", "d", 1)], page=1, signals=False
)
@example(  # the same when all that there was is gone
    first=["a"],
    ops=[("push", "a", 1), ("trim", "a", 1), ("resume", ["a"], True), ("resume", ["a"], False)],
    page=1,
    signals=False,
)
@example(  # an ephemeral event is gone, and counted, once more events than the buffer holds follow it
    first=["a", "d"], ops=[("show", "a", 1), ("push", "a", 4), ("push", "a", 4)], page=1, signals=False
)
def test_every_log_is_read_exactly(
    kind: str, first: list[str], ops: list[tuple[str, Any, Any]], page: int, signals: bool
) -> None:
    """Each log is yielded in order, once, without a hole that no gap reports, whatever happens to the others."""

    async def scenario() -> None:
        inner = MemoryStreamStore() if kind == "stream" else MemoryStore()
        store: Any = {"plain": PlainStore, "batch": BatchStore}.get(kind, lambda inner: inner)(inner)
        async with Notifier(store, poll_interval=0.01, audit_interval=0.01, buffer_size=8) as notifier:
            world = World(store, inner, notifier)
            await world.begin(first, None, signals)
            for op in ops:
                await world.do(*op)
            await world.finish()

    before = _hub.PAGE_SIZE
    _hub.PAGE_SIZE = _reads.PAGE_SIZE = page  # type: ignore[misc]
    try:
        anyio.run(scenario)
    finally:
        _hub.PAGE_SIZE = _reads.PAGE_SIZE = before  # type: ignore[misc]
