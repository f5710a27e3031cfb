"""The library does what a plain list would, on every variant of the memory backend, whatever happens in between."""

from __future__ import annotations

from . import backends
from .machine import Machine


class ImmediateMachine(Machine):
    """Pushes and replays without a task."""

    backend = backends.Immediate


class StreamingMachine(Machine):
    """A stream store, shared by both notifiers."""

    backend = backends.Streaming


class SlowMachine(Machine):
    """One task for each save and read."""

    backend = backends.Slow


class BatchingMachine(Machine):
    """Batches of saves, and one query for all users."""

    backend = backends.Batching


TestImmediate = ImmediateMachine.TestCase
TestStreaming = StreamingMachine.TestCase
TestSlow = SlowMachine.TestCase
TestBatching = BatchingMachine.TestCase
