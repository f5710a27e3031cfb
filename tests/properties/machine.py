"""The state machine: hypothesis picks what happens next, `World` does it and compares with the model."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from notify import Event, ids
from notify.errors import UsageError

from .backends import Backend
from .model import Kind
from .stores import Calls, Fault, Phase
from .world import USERS, Reader, World, page_size

names = st.sampled_from("AB")
users = st.sampled_from(USERS)
picks = st.integers(0, 1000)
"""An index into whatever there is, modulo its length."""


class Machine(RuleBasedStateMachine):
    """Drives two notifiers on one store. A subclass sets `backend`, and that is all a further backend needs."""

    backend: ClassVar[type[Backend]]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.keyed: list[tuple[str, str, int]] = []

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        buffer_size=st.sampled_from([1, 3, 64]),
        max_len=st.sampled_from([2, 5, 1000]),
        page=st.sampled_from([1, 2, 3, 500]),
    )
    def begin(self, seed: int, buffer_size: int, max_len: int, page: int) -> None:
        """Make the world; small sizes make its corners near."""
        self.stack.enter_context(page_size(page))
        self.world = World(self.backend, seed, buffer_size=buffer_size, max_len=max_len)

    def teardown(self) -> None:
        """Let everybody read on to the end, and judge."""
        with self.stack:
            if hasattr(self, "world"):
                self.world.finish()

    # -- pushing -------------------------------------------------------------------------------------------------

    @rule(name=names, user=users, fault=st.sampled_from([None, None, None, "rejected", "uncertain"]))
    def push(self, name: str, user: str, fault: Fault | None) -> None:
        """Push one event; the store may fail."""
        self.world.run(self._push(name, user, self.world.new_value(), None, fault))

    @rule(name=names, user=users, count=st.integers(2, 6))
    def push_several(self, name: str, user: str, count: int) -> None:
        """Push so many at once that they overtake buffers, pages and retention."""
        for _ in range(count):
            self.world.run(self._push(name, user, self.world.new_value(), None, None))

    @rule(name=names, user=users, fault=st.sampled_from([None, "rejected", "uncertain"]))
    def push_keyed(self, name: str, user: str, fault: Fault | None) -> None:
        """Push one event with a key of its own."""
        value = self.world.new_value()
        self.keyed.append((user, f"k{value}", value))
        self.world.run(self._push(name, user, value, f"k{value}", fault))

    @precondition(lambda self: self.keyed and not self.world.held)
    @rule(name=names, back=st.integers(1, 3))
    def retry(self, name: str, back: int) -> None:
        """Push again with one of the latest keys: it is stored once."""
        user, key, value = self.keyed[-min(back, len(self.keyed))]
        keys = [event.key for event in self.world.logs[user].events if event.key is not None]
        if key not in keys[: -self.world.max_len]:  # otherwise the store may have forgotten it
            self.world.run(self._push(name, user, value, key, None))

    @precondition(lambda self: not self.world.held)
    @rule(name=names, many=st.lists(users, min_size=1, max_size=3))
    def push_many(self, name: str, many: list[str]) -> None:
        """Push one event to several users, one of them named twice perhaps."""
        self.world.run(self.world.push_many(name, many))

    @rule(name=names, user=users, steps=st.integers(0, 12))
    def cancel_push(self, name: str, user: str, steps: int) -> None:
        """Cancel a push after some steps: stored or not, and if so then delivered."""
        self.world.run(self._cancel_push(name, user, steps))

    @rule(name=names, user=st.sampled_from([*USERS, ""]), count=st.integers(1, 4))
    def show(self, name: str, user: str, count: int) -> None:
        """Push ephemeral events, or broadcast them."""
        for _ in range(count):
            self.world.run(self.world.show(name, user))

    # -- readers -------------------------------------------------------------------------------------------------

    @rule(
        name=names,
        user=users,
        kind=st.sampled_from(["now", "now", "zero", "time", "seen", "seen", "unknown"]),
        pick=picks,
        signals=st.booleans(),
        enter=st.booleans(),
    )
    def subscribe(self, name: str, user: str, kind: str, pick: int, signals: bool, enter: bool) -> None:
        """Make a reader somewhere, and perhaps open it at once."""
        start, asked = self._position(user, kind, pick)
        real: Kind = "id" if kind in ("seen", "unknown") else kind  # type: ignore[assignment]
        if start == ids.ZERO and real == "id":
            real = "zero"
        reader = self.world.subscribe(name, user, real, start, asked, signals)
        if enter:
            self.world.run(self.world.enter(reader))

    @precondition(lambda self: self._readers(waiting=False))
    @rule(pick=picks, count=st.integers(1, 5))
    def next(self, pick: int, count: int) -> None:
        """Ask for the next events, until there are none."""
        reader = self._pick(pick, waiting=False)
        for _ in range(count):
            self.world.run(self.world.begin_next(reader))
            if reader.task is not None:
                break

    @precondition(lambda self: self._readers(waiting=False))
    @rule(pick=picks, steps=st.integers(0, 16))
    def cancel_new_next(self, pick: int, steps: int) -> None:
        """Ask for the next event and cancel after some steps, also in the middle of a read."""
        self.world.run(self.world.cancel_next(self._pick(pick, waiting=False), steps))

    @precondition(lambda self: self._readers(waiting=True))
    @rule(pick=picks)
    def cancel_waiting_next(self, pick: int) -> None:
        """Cancel a reader that waits."""
        self.world.run(self.world.cancel_next(self._pick(pick, waiting=True), 0))

    @precondition(lambda self: self._readers(waiting=True))
    @rule(pick=picks)
    def read_twice(self, pick: int) -> None:
        """Let a second task ask too."""

        async def second() -> None:
            stream = self._pick(pick, waiting=True).stream
            assert stream is not None
            with pytest.raises(UsageError):
                await stream.next()

        self.world.run(second())

    @precondition(lambda self: not self.world.held and self._readers(waiting=False))
    @rule(pick=picks)
    def next_with_timeout(self, pick: int) -> None:
        """Ask with a timeout: it ends in time with the next event or TimeoutError."""
        reader = self._pick(pick, waiting=False)

        async def bounded() -> None:
            assert reader.stream is not None
            await self.world.open_first(reader)
            proven = self.world.backend.steps or self.world.has_news(reader)
            try:
                event = await reader.stream.next(5.0 if proven else 0.02)
            except TimeoutError:
                if proven:
                    self.world.check_silence(reader)
            else:
                self.world.took(reader, event)

        self.world.run(bounded())

    @precondition(lambda self: not self.world.held and self._readers(waiting=False))
    @rule(pick=picks, count=st.integers(1, 3), drop=st.booleans())
    def iterate_and_break(self, pick: int, count: int, drop: bool) -> None:
        """Iterate over what there is, leave the loop, and go on later or drop the stream."""
        reader = self._pick(pick, waiting=False)

        async def iterate() -> None:
            assert reader.stream is not None
            await self.world.open_first(reader)
            left = count
            while left and self.world.has_news(reader):
                async for event in reader.stream:
                    self.world.took(reader, event)
                    left -= 1
                    break
            if drop:
                self.world.drop(reader)

        self.world.run(iterate())

    @precondition(lambda self: self._readers())
    @rule(pick=picks)
    def close(self, pick: int) -> None:
        """Close a stream, whatever its reader does."""
        self.world.run(self.world.close(self._pick(pick)))

    @precondition(lambda self: self._readers(waiting=False))
    @rule(pick=picks)
    def drop(self, pick: int) -> None:
        """Drop the last reference to a stream."""
        self.world.drop(self._pick(pick, waiting=False))

    # -- the log, the wire, the notifiers ------------------------------------------------------------------------

    @rule(user=users, pick=picks, by_time=st.booleans())
    def trim(self, user: str, pick: int, by_time: bool) -> None:
        """Trim every log at one event of a user, or right after the last."""
        events = self.world.logs[user].retained
        if events:
            cut = events[pick % len(events)].id
            self.world.run(self._trim(ids.time_of(cut) if by_time else cut, cut))

    @precondition(lambda self: self.world.under_way)
    @rule(pick=picks, fate=st.sampled_from(["arrives", "arrives", "arrives again later", "is lost"]))
    def wire(self, pick: int, fate: Literal["arrives", "arrives again later", "is lost"]) -> None:
        """Decide what becomes of one event under way: they arrive in any order, late, twice or never."""
        world = self.world
        index = pick % len(world.under_way)
        source, event = world.under_way[index]
        if fate != "arrives again later":
            del world.under_way[index]
        if fate != "is lost":
            world.run(self._deliver(source, event))

    @precondition(lambda self: not self.world.held and self.world.backend.clock is not None)
    @rule(name=names, user=users)
    def phantom(self, name: str, user: str) -> None:
        """Offer an event that no log holds, as after a failover: it is never yielded, and no reader spins."""
        ms, sequence = ids.parse(self.world.logs[user].head)
        event = Event(user, "phantom", -1).stored(ids.format(ms, sequence + 1), "1-1")
        clock = self.world.backend.clock
        assert clock is not None
        clock.ms = max(clock.ms, ms) + 1  # no event of the log will have this id

        async def offer() -> None:
            self.world.notifiers[name].deliver(event)

        self.world.run(offer())

    @precondition(lambda self: not self.world.held)
    @rule(name=names)
    def audit(self, name: str) -> None:
        """Look for what no offer announced."""
        self.world.run(self.world.audit(name))

    @precondition(lambda self: not self.world.held)
    @rule(name=names)
    def reopen(self, name: str) -> None:
        """Close a notifier and start another one."""
        self.world.run(self.world.reopen(name))

    @precondition(lambda self: self.world.backend.slow is not None and not self.world.held)
    @rule(phase=st.sampled_from(["before", "after"]), calls=st.sampled_from(["reads", "reads", "saves"]))
    def hold(self, phase: Phase, calls: Calls) -> None:
        """Let calls of the store hang, before or after they take effect."""
        slow = self.world.backend.slow
        assert slow is not None
        slow.hold(phase, calls)

    @precondition(lambda self: self.world.held)
    @rule()
    def release(self) -> None:
        """Let them go on."""
        slow = self.world.backend.slow
        assert slow is not None

        async def go_on() -> None:
            slow.release()

        self.world.run(go_on())

    # -- helpers -------------------------------------------------------------------------------------------------

    async def _push(self, name: str, user: str, value: int, key: str | None, fault: Fault | None) -> None:
        self.world.start_push(name, user, value, key, fault)

    async def _cancel_push(self, name: str, user: str, steps: int) -> None:
        push = self.world.start_push(name, user, self.world.new_value())
        for _ in range(steps):
            await asyncio.sleep(0)
        push.task.cancel()

    async def _trim(self, before: datetime | str, cut: str) -> None:
        first = ids.format(ids.parse(cut)[0], 0) if isinstance(before, datetime) else cut
        removed = await self.world.backend.store.trim(before)
        assert removed == sum(log.trim(first) for log in self.world.logs.values())

    async def _deliver(self, source: str, event: Event) -> None:
        self.world.deliver(source, event)

    def _position(self, user: str, kind: str, pick: int) -> tuple[str, Any]:
        log = self.world.logs[user]
        event_ids = [ids.ZERO, *(event.id for event in log.events)]
        id_ = event_ids[pick % len(event_ids)]
        if kind == "now":
            return "", None if pick % 2 else ""
        if kind == "zero":
            return ids.ZERO, ids.ZERO
        if kind == "time":
            moment = datetime.fromtimestamp(1_600_000_000, UTC) if id_ == ids.ZERO else ids.time_of(id_)
            moment += timedelta(milliseconds=pick % 3 - 1)
            return ids.before(moment), moment
        if kind == "seen":
            return id_, id_
        ms, sequence = ids.parse(id_)
        unknown = ids.format(*((ms, sequence + 1), (ms + 10**9, 0), (1, 1))[pick % 3])
        return unknown, f"0{unknown}"

    def _readers(self, waiting: bool | None = None) -> list[Reader]:
        return [
            reader
            for reader in self.world.readers
            if not reader.closed
            if waiting is None or (reader.entering is None and waiting == (reader.task is not None))
        ]

    def _pick(self, pick: int, waiting: bool | None = None) -> Reader:
        readers = self._readers(waiting)
        return readers[pick % len(readers)]
