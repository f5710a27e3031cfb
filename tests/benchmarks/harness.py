"""Rounds, rows and bars: what all benchmarks share."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import anyio
import anyio.lowlevel

ROUNDS = 5

T = TypeVar("T")

Timed = Callable[[], Awaitable[float]]
"""Does the whole job once and returns the seconds that its timed part took."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure has to reach.

    Attributes:
        text: the bar as the table shows it.
        reached: whether the figure reaches it.
    """

    text: str
    reached: bool


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Return the spread of some values."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was done, and next to what.
        unit: of `limit`, `ours` and `trio`.
        ours: our figure on asyncio, the median.
        limit: the figure of the least that anybody could write.
        ratio: more is better, 1.0 is as good as the limit; taken round by round.
        bar: None: the figure is only shown.
        trio: our figure on trio.
        note: what else was seen.
    """

    name: str
    unit: str
    ours: float
    limit: float | None = None
    ratio: Spread | None = None
    bar: Bar | None = None
    trio: float | None = None
    note: str = ""


def at_least(ratio: Spread, bar: float) -> Bar:
    """Return the bar for a ratio, judged by its median."""
    return Bar(f">= {bar:.1f}", ratio.median >= bar)


def progress(text: str) -> None:
    """Say on stderr what is going on, on one line where that is a terminal."""
    end = "\x1b[K\r" if sys.stderr.isatty() else "\n"
    sys.stderr.write(text + end)
    sys.stderr.flush()


def run(job: Callable[[], Awaitable[T]], *, backend: str = "asyncio") -> T:
    """Run a job in an event loop of its own, with no garbage of the job before it."""
    gc.collect()
    return anyio.run(job, backend=backend)


def rounds(
    name: str, contenders: Mapping[str, Callable[[], Awaitable[T]]], *, trio: Callable[[], Awaitable[T]]
) -> dict[str, list[T]]:
    """Run the contenders in turn, five times, and return what each returned; `trio` is run on trio beside them."""
    results: dict[str, list[T]] = {contender: [] for contender in [*contenders, "trio"]}
    started = time.perf_counter()
    for number in range(1, ROUNDS + 1):
        progress(f"{name}: round {number} of {ROUNDS}, {time.perf_counter() - started:.0f} s")
        for contender, job in contenders.items():
            results[contender].append(run(job))
        results["trio"].append(run(trio, backend="trio"))
    return results


def rate(work: int, seconds: list[float]) -> float:
    """Return how much was done each second in the median round."""
    return work / statistics.median(seconds)


def ratio(limit: list[float], ours: list[float]) -> Spread:
    """Return how many times as fast as the limit ours was, round by round."""
    return Spread.of([theirs / mine for theirs, mine in zip(limit, ours, strict=True)])


def cpu_seconds() -> float:
    """Return the time that this process has computed: these jobs wait for nothing, and other programs do not count."""
    return time.process_time()


async def settle() -> None:
    """Let the tasks that were just started run until they wait."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
