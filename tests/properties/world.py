"""Two notifiers on one store, the events under way between them, their readers, and what the model says of it all.

Longer than other modules: what is done and what is then to be expected stand side by side.
Whatever happens runs on the private loop, one step at a time; after each step everything is compared.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from notify import Event, Gap, Notifier, RoutingInfo, Stream, ids
from notify._stream import _hub as live_module
from notify._stream import _reads as reads_module
from notify.errors import ClosedError, PushRejectedError, PushUncertainError
from notify.testing.history import History
from notify.testing.history import Reader as Recorder

from .backends import Backend
from .model import Heard, Kind, Log, Track
from .stores import Fault

USERS = ("alice", "{b}:*")
FAR = 1e9
"""Seconds: nothing polls by itself, and nothing times out."""

EXPECTED = {("rejected", PushRejectedError), ("uncertain", PushUncertainError)}
"""Faults of the store, and what a push raises then."""


@contextmanager
def page_size(size: int) -> Iterator[None]:
    """Make pages this small."""
    before = reads_module.PAGE_SIZE
    reads_module.PAGE_SIZE = live_module.PAGE_SIZE = size  # type: ignore[misc,attr-defined]
    try:
        yield
    finally:
        reads_module.PAGE_SIZE = live_module.PAGE_SIZE = before  # type: ignore[misc,attr-defined]


class Wire:
    """The router of one notifier: what it is given stays under way until the machine delivers or drops it."""

    def __init__(self, source: str, under_way: list[tuple[str, Event]]) -> None:
        self._source = source
        self._under_way = under_way

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        """See `notify.abc.Router.route`."""
        self._under_way.append((self._source, event))


@dataclass(eq=False)
class Reader:
    """One stream, its reader's task and what the model knows of it.

    Attributes:
        hint: everything up to here was offered to the stream or was in the log when it looked.
        opening: the stream counts as open; its position may not be fixed yet.
        opened: its position is fixed, and it is attached.
        held: it was entered, so a cancelled `next` leaves it attached.
        asking: the task that waits for the next event has begun.
        leaving: its `next` was cancelled, so it detaches at once, or when the page arrives that is being read.
        fixed: its position was fixed when a cancelled `next` detached it.
    """

    stream: Stream | None
    owner: str
    user: str
    signals: bool
    track: Track
    asked_kind: Kind
    known: bool
    heard: Heard = field(default_factory=Heard)
    hint: str = ids.ZERO
    opening: bool = False
    opened: bool = False
    held: bool = False
    asking: bool = False
    leaving: bool = False
    fixed: bool = False
    closed: bool = False
    synced: bool = False
    gaps: int = 0
    entering: asyncio.Task[Stream] | None = None
    task: asyncio.Task[Event] | None = None
    recorder: Recorder | None = None


@dataclass(eq=False)
class Push:
    """One push under way."""

    task: asyncio.Task[Event | None]
    owner: str
    fault: Fault | None
    cancelled: bool = False


class World:
    """See the top of this file."""

    def __init__(self, backend: type[Backend], seed: int, *, buffer_size: int, max_len: int) -> None:
        random = Random(seed)
        self._now = 0
        self.backend = backend(random, max_len)
        self.loop = self.backend.new_loop(random)
        self.history = History(clock=self._tick)
        self.buffer_size = 64 if self.backend.shared or self.backend.native else buffer_size
        self.max_len = max_len
        self.under_way: list[tuple[str, Event]] = []
        self.logs = {user: Log(max_len) for user in USERS}
        self.notifiers = {name: self._notifier(name) for name in "AB"}
        self.readers: list[Reader] = []
        self.pushes: list[Push] = []
        self.owners: dict[int, tuple[str, Fault | None]] = {}
        self.values = 0
        self.broken = False

    # -- running -------------------------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do one thing, let everything settle, and compare."""

        async def step() -> Any:
            result = await work
            await self.settle()
            await self._compare()
            return result

        try:
            return self.loop.drive(step())
        except BaseException:
            self.broken = True
            raise
        finally:
            work.close()  # where it could not even begin

    async def settle(self) -> None:
        """Wait until nothing moves."""
        await self.backend.quiesce(self._is_quiet)

    @property
    def held(self) -> bool:
        """Whether calls of the store are held, so that nothing can be concluded from silence."""
        return self.backend.slow is not None and self.backend.slow.held

    def new_value(self) -> int:
        """Return what no push held before."""
        self.values += 1
        return self.values

    async def reopen(self, name: str) -> None:
        """Close a notifier, which ends its streams, and start another one."""
        for reader in self.readers:
            if reader.owner == name:
                self._note_closed(reader)
        await self._close_notifier(name)
        self.notifiers[name] = self._notifier(name)

    async def audit(self, name: str) -> None:
        """Look for what no offer announced."""
        heads = {user: log.head for user, log in self.logs.items()}
        await self.notifiers[name]._live._catch_up.audit()
        for reader in self._hearing(name, ""):
            if reader.opened:
                reader.hint = max(reader.hint, heads[reader.user], key=ids.parse)

    def finish(self) -> None:
        """Let every reader read on to the end, judge everything, and close."""
        try:
            if not self.broken:
                self.run(self._calm())
                for reader in self.readers:
                    if not reader.closed:
                        self._read_out(reader)
                self.history.assert_ok()
                self.loop.drive(self._close())
                assert asyncio.all_tasks(self.loop) == set()
        finally:
            self.loop.finish()

    def _read_out(self, reader: Reader) -> None:
        while reader.task is None:
            before = (reader.track.position, reader.heard.passed, reader.synced, reader.gaps)
            self.run(self.begin_next(reader))
            after = (reader.track.position, reader.heard.passed, reader.synced, reader.gaps)
            assert before != after or reader.task  # progress, or silence
        assert reader.track.position == self.logs[reader.user].head

    async def _calm(self) -> None:
        if self.backend.slow is not None:
            self.backend.slow.release()
        await self.settle()
        for name in self.notifiers:
            await self.audit(name)

    async def _close(self) -> None:
        for reader in self.readers:
            self._note_closed(reader)
        for name in self.notifiers:
            await self._close_notifier(name)
        assert not any(notifier._live.positions() for notifier in self.notifiers.values())
        await self.backend.aclose()
        for reader in self.readers:
            if reader.task is not None:
                await asyncio.wait([reader.task])
                assert isinstance(reader.task.exception(), ClosedError)

    async def _close_notifier(self, name: str) -> None:
        notifier = self.notifiers[name]
        await notifier.aclose()
        figures = notifier.statistics()
        assert figures.open_streams == figures.pending_pushes == 0
        for reader in self.readers:
            if reader.owner == name and reader.stream is not None:
                await reader.stream.aclose()  # what nobody reads lets go of its user only now

    # -- pushing -------------------------------------------------------------------------------------------------

    def start_push(self, name: str, user: str, value: int, key: str | None = None, fault: Fault | None = None) -> Push:
        """Start a push in a task of its own."""
        slow = self.backend.slow
        fault = fault if slow is not None and not self.held else None
        if slow is not None and fault is not None:
            slow.fail_next_save(fault)
        self.owners.setdefault(value, (name, fault))

        async def push() -> Event | None:
            with self.history.pushing(user, value, key=key) as attempt:
                event = await self.notifiers[name].push(user, "t", value, key=key)
                assert event is not None
                attempt.ok(event.id)
            return event

        started = Push(self.loop.create_task(push()), name, fault)
        self.pushes.append(started)
        return started

    async def push_many(self, name: str, users: list[str]) -> None:
        """Push one value to each of several users."""
        value = self.new_value()
        self.owners[value] = (name, None)
        attempts = {user: self.history.pushing(user, value) for user in dict.fromkeys(users)}
        report = await self.notifiers[name].push_many(users, "t", value)
        assert set(report.events) == set(users)
        assert not report.failed
        for user, event in report.events.items():
            attempts[user].ok(event.id)

    async def show(self, name: str, user: str) -> None:
        """Push an ephemeral event; without a user, broadcast it."""
        value = self.new_value()
        if user:
            event = await self.notifiers[name].push(user, "t", value, ephemeral=True)
        else:
            event = await self.notifiers[name].broadcast("t", value)
        assert event is not None
        assert event.id == ""
        self.told(name, event)

    def deliver(self, source: str, event: Event) -> None:
        """Let an event arrive at the other notifier, twice; the second copy of a stored one must be a duplicate."""
        name = "B" if source == "A" else "A"
        echo = self.backend.shared and not event.id
        taken = self.notifiers[name].deliver(event)
        if echo:
            assert taken == 0
        else:
            self.told(name, event)
        if event.id:
            assert self.notifiers[name].deliver(event) == 0

    def told(self, name: str, event: Event) -> None:
        """Note that a notifier's streams were offered this event."""
        for reader in self._hearing(name, event.user, everywhere=bool(event.id) and self.backend.native):
            if not event.id:
                reader.heard.offered.append(event.payload)
            else:
                reader.hint = max(reader.hint, event.id, key=ids.parse)

    # -- reading -------------------------------------------------------------------------------------------------

    def subscribe(self, name: str, user: str, kind: Kind, start: str, asked: Any, signals: bool) -> Reader:
        """Make a reader that is not open yet."""
        log = self.logs[user]
        stream = self.notifiers[name].subscribe(user, asked, signals=signals)
        track = Track(log, kind, start)
        reader = Reader(stream, name, user, signals, track, kind, known=kind == "id" and start in log)
        self.readers.append(reader)
        return reader

    async def enter(self, reader: Reader) -> None:
        """Open the stream; it may have to wait for the store."""
        self._note_opening(reader)
        reader.held = True
        assert reader.stream is not None
        reader.entering = self.loop.create_task(reader.stream.__aenter__())
        await self.settle()
        assert reader.entering.done() or self.held

    async def open_first(self, reader: Reader) -> None:
        """Open the stream, unless it is open; everything in the log is known to it then."""
        if not reader.opened:
            await self.enter(reader)
            reader.opened, reader.hint = True, max(reader.hint, reader.track.beginning, key=ids.parse)

    def has_news(self, reader: Reader) -> bool:
        """Whether the stream must have an event that can still be read."""
        log, stream = self.logs[reader.user], reader.stream
        assert stream is not None
        return any(log.is_retained(event) for event in log.between(at(stream) or ids.ZERO, reader.hint))

    async def begin_next(self, reader: Reader) -> None:
        """Start a task that waits for the next event."""
        self._note_opening(reader)
        assert reader.stream is not None
        following, reader.asking = reader.stream.next(), False

        async def ask() -> Event:
            reader.asking, reader.leaving = True, False
            return await following

        reader.task = self.loop.create_task(ask())
        reader.task.add_done_callback(lambda _: following.close())  # also where the task never ran

    async def cancel_next(self, reader: Reader, steps: int) -> None:
        """Cancel the reader's task after some steps; what it returned all the same counts."""
        if reader.task is None:
            await self.begin_next(reader)
        task = reader.task
        assert task is not None
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            reader.task = None
            stream: Any = reader.stream
            if not reader.held and (reader.asking or stream._streams is None):
                reader.leaving = True  # else `next` has not begun, and the stream does not know of it
            self._note_detached(reader)

    async def close(self, reader: Reader) -> None:
        """Close the stream; a task that waits must end at once."""
        self._note_closed(reader)
        assert reader.stream is not None
        await reader.stream.aclose()
        await reader.stream.aclose()

    def drop(self, reader: Reader) -> None:
        """Drop the last reference to the stream."""
        self._note_closed(reader)
        reader.stream = None
        gc.collect()  # the traceback of a timeout may hold it in a cycle: the finaliser is the last resort

    # -- comparing -----------------------------------------------------------------------------------------------

    async def _compare(self) -> None:
        await self._learn()
        for reader in self.readers:
            self._note_detached(reader)
            assert self.held or reader.closed or not reader.leaving, "a stream stays attached after a cancelled next"
            if reader.opening and not reader.opened and not self.held:
                reader.opened = True
                reader.hint = max(reader.hint, reader.track.beginning, key=ids.parse)
        self._collect_pushes()
        await self.settle()  # what was stored just now may have yet to reach the other notifier
        for reader in self.readers:
            self._collect(reader)
        if self.held:
            return
        for name, notifier in self.notifiers.items():
            mine = [reader for reader in self.readers if reader.opening and not reader.closed and reader.owner == name]
            figures = notifier.statistics()
            assert figures.open_streams == len(mine)
            assert figures.users == len({reader.user for reader in mine})
            assert figures.pending_pushes == 0

    async def _learn(self) -> None:
        """Take in what the store has appended, and hold its retention against the model's."""
        for user, log in self.logs.items():
            for event in await self.backend.appended(user, log.head):
                log.append(event)
            assert list(await self.backend.peek(user, ids.ZERO)) == log.retained

    def _collect_pushes(self) -> None:
        for push in [push for push in self.pushes if push.task.done()]:
            self.pushes.remove(push)
            if push.task.cancelled():
                push.cancelled = True
            elif (error := push.task.exception()) is not None:
                if (push.fault, type(error)) not in EXPECTED:
                    raise error
            else:
                event = push.task.result()
                assert event is not None
                assert event.id in self.logs[event.user]
                self.told(push.owner, event)
        if self.held:
            return
        assert not self.pushes
        for log in self.logs.values():  # also of pushes that were cancelled: they are delivered all the same
            for event in log.events:
                name, fault = self.owners.get(event.payload, ("", None))
                if name and fault is None:
                    del self.owners[event.payload]
                    self.told(name, event)

    def _collect(self, reader: Reader) -> None:
        task = reader.task
        if reader.entering is not None and reader.entering.done():
            entering, reader.entering = reader.entering, None
            error = entering.exception()
            if error is not None and not (reader.closed and isinstance(error, ClosedError)):
                raise error
        if reader.opened and not reader.closed and reader.recorder is None and reader.asked_kind != "id":
            reader.recorder = self.history.reader(reader.user)
        if task is None:
            return
        if not task.done():
            if not self.held:
                self.check_silence(reader)
            return
        reader.task = None
        error = task.exception()
        if isinstance(error, ClosedError) and reader.closed:
            return
        if error is not None:
            raise error
        self.took(reader, task.result())

    def took(self, reader: Reader, event: Event) -> None:
        """Hold what a reader got against the model."""
        self._pass_gaps(reader)
        if event.type == "notify.gap":
            assert reader.signals
            payload = event.payload
            self._pass_gap(reader, Gap(payload["reason"], payload["from"], payload["to"]))
        elif event.type == "notify.sync":
            assert reader.signals
            assert not reader.synced, "a second sync"
            reader.synced = True
            reader.track.rest_at(event.id)
        elif event.id:
            reader.track.take(event)
            self._recorder(reader, event.prev).event(event, event.payload)
        else:
            reader.heard.take(event.payload)
        if event.id:
            assert reader.stream is None or at(reader.stream) == reader.track.position

    def check_silence(self, reader: Reader) -> None:
        """Judge a stream that waits: it must have yielded all that it can know of."""
        assert reader.stream is not None
        self._pass_gaps(reader)
        assert ids.compare(at(reader.stream), reader.hint) >= 0, (
            f"a reader waits at {reader.stream.last_id}, but was told of {reader.hint}"
        )
        reader.track.rest_at(at(reader.stream))
        assert reader.synced or not reader.signals, "no sync"
        entries = self.notifiers[reader.owner]._live._hub.users[reader.user].end
        reader.heard.rest(reader.stream.dropped, entries > self.buffer_size + reader.heard.begin)

    def _pass_gaps(self, reader: Reader) -> None:
        if not reader.signals and reader.stream is not None:
            gaps = reader.stream.gaps
            for gap in gaps[reader.gaps :]:
                self._pass_gap(reader, gap)
            assert len(gaps) < 16, "the machine does not follow that many"

    def _pass_gap(self, reader: Reader, gap: Gap) -> None:
        reader.gaps += 1
        unknown = gap.start not in reader.track.log
        reader.track.cross(gap)
        if not unknown:  # otherwise there is nothing that the history could hold against it
            self._recorder(reader, gap.start).gap(gap.reason, gap.start, gap.end)

    def _recorder(self, reader: Reader, start: str | None) -> Recorder:
        if reader.recorder is None:
            reader.recorder = self.history.reader(reader.user, start)
        return reader.recorder

    # -- small things --------------------------------------------------------------------------------------------

    def _hearing(self, name: str, user: str, *, everywhere: bool = False) -> list[Reader]:
        return [
            reader
            for reader in self.readers
            if reader.opening and not reader.closed
            if reader.owner == name or self.backend.shared or everywhere
            if user in ("", reader.user)
        ]

    def _note_opening(self, reader: Reader) -> None:
        if not reader.opening:
            reader.opening = True
            if reader.fixed:
                reader.hint = max(reader.hint, self.logs[reader.user].head, key=ids.parse)  # it reads the log again
            else:
                reader.track.begin()
            topic = self.notifiers[reader.owner]._live._hub.users.get(reader.user)
            reader.heard.begin = 0 if topic is None else topic.end
            if reader.known and reader.recorder is None:
                reader.recorder = self.history.reader(reader.user, reader.track.position)

    def _note_detached(self, reader: Reader) -> None:
        """Note that a cancelled `next` has detached the stream; the next one attaches it again at its cursor."""
        stream: Any = reader.stream
        if not reader.leaving or reader.closed or stream._streams is not None:
            return
        reader.leaving = False
        if not reader.opening:
            return
        self._pass_gaps(reader)
        reader.opening = reader.opened = False
        reader.heard.cut()
        reader.fixed = stream._cursor.opened
        if reader.fixed:
            if (reader.track.kind, reader.track.fresh) == ("now", True):
                reader.track.rest_at(at(stream))  # that much of its position is known
        else:
            reader.hint = ids.ZERO
            if reader.recorder is not None:
                reader.recorder.finished()
                reader.recorder = None

    def _note_closed(self, reader: Reader) -> None:
        if not reader.closed:
            reader.closed = True
            if reader.recorder is not None:
                reader.recorder.finished()

    def _is_quiet(self) -> bool:
        """Whether nothing is under way, and whoever waits has been given what it was told of."""
        busy = any(
            notifier._parts.jobs.running or notifier._live._hub.reads_in_flight for notifier in self.notifiers.values()
        )
        return not busy and all(push.task.done() for push in self.pushes) and all(map(_rests, self.readers))

    def _notifier(self, name: str) -> Notifier:
        return Notifier(
            self.backend.store_of(name),
            router=Wire(name, self.under_way),
            instance_id=name,
            buffer_size=self.buffer_size,
            poll_interval=FAR,
            audit_interval=FAR,
            timeout=FAR,
        )

    def _tick(self) -> float:
        self._now += 1
        return float(self._now)


def _rests(reader: Reader) -> bool:
    """Whether the reader's task, if it has one, is done or waits for more than what it was told of."""
    if reader.entering is not None and not reader.entering.done():
        return False
    if reader.task is None or reader.task.done():
        return True
    stream: Any = reader.stream
    topic = stream._streams
    return topic is not None and stream in topic.waiting and ids.compare(at(stream), reader.hint) >= 0


def at(stream: Stream) -> str:
    """Return where a stream is, as an id of its log: the empty beginning has a token of its own."""
    return ids.canonical(stream.last_id) if stream.last_id else ""
