"""Pure: pauses between attempts that grow and never come in step."""

from __future__ import annotations

from collections.abc import Callable, Iterator


def pauses(chance: Callable[[], float], *, first: float, limit: float) -> Iterator[float]:
    """Yield seconds for ever: doubling, half of each fixed and half drawn.

    Args:
        chance: returns a number in [0, 1), for example `random.random`.
        first: the first pause at most.
        limit: the longest.
    """
    step = first
    while True:
        yield step * (0.5 + 0.5 * chance())
        step = min(2 * step, limit)
