"""What a reader costs that stops reading while pushes go on: nothing that grows.

The limit is the same without the stream; the figure is the difference, beyond the store's own bound.
"""

from __future__ import annotations

import gc
import tracemalloc

from notify import Notifier
from notify_memory import MemoryStore

from .harness import Bar, Row, progress, run

PUSHES = 1_000_000
BAR = 100_000


class Paused:
    """A reader that had one event and then stopped.

    Attributes:
        after: what it gets when it goes on.
    """

    def __init__(self) -> None:
        self.after = ""

    async def __call__(self) -> float:
        """Return the bytes that the pushes left behind."""
        async with Notifier(store=MemoryStore()) as notifier, notifier.subscribe("alice") as stream:
            await notifier.push("alice", "comment.created", {"post": 0})
            await stream.next()
            size = await _push_all(notifier)
            events = [await stream.next()]
            while events[-1].payload["post"] < PUSHES:
                events.append(await stream.next())
            gaps = ", ".join(gap.reason for gap in stream.gaps)
            self.after = f"then it gets a gap ({gaps}) and the last {len(events):,} events"
            return size


async def nobody() -> float:
    """Return the bytes that the pushes leave behind without a stream."""
    async with Notifier(store=MemoryStore()) as notifier:
        await notifier.push("alice", "comment.created", {"post": 0})
        return await _push_all(notifier)


async def _push_all(notifier: Notifier) -> float:
    gc.collect()
    tracemalloc.start()
    for number in range(1, PUSHES + 1):
        await notifier.push("alice", "comment.created", {"post": number})
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size


def measure() -> list[Row]:
    """Run the benchmark; once, because memory does not drift."""
    progress(f"paused: {PUSHES:,} pushes without a stream")
    limit = run(nobody)
    progress(f"paused: {PUSHES:,} pushes behind a paused stream")
    paused = Paused()
    size = run(paused)
    progress(f"paused: {PUSHES:,} pushes behind a paused stream on trio")
    trio = run(Paused(), backend="trio")
    growth = size - limit
    return [
        Row(
            "paused",
            "bytes",
            growth,
            bar=Bar(f"< {BAR:,} B", growth < BAR),
            trio=trio - limit,
            note=f"beyond the {limit:,.0f} of the log, after {PUSHES:,} pushes; {paused.after}",
        )
    ]
