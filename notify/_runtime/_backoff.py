"""Pure: delays between attempts, growing and with jitter, so that clients of one server do not retry in step."""

from __future__ import annotations

from collections.abc import Callable, Iterator


def backoff(
    chance: Callable[[], float], *, first: float = 0.05, factor: float = 2.0, limit: float = 5.0
) -> Iterator[float]:
    """Yield delays in seconds without end: half of each step is fixed, the other half is random.

    Args:
        chance: returns a number in [0, 1), for example `random.random`.
        first: the first step.
        factor: how much longer each step is than the one before.
        limit: the longest step.
    """
    step = first
    while True:
        yield step * (0.5 + 0.5 * chance())
        step = min(step * factor, limit)
