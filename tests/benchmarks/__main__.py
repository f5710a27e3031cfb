"""`python -m tests.benchmarks [names] [--check] [--plot FILE.svg]`."""

from __future__ import annotations

import argparse
import logging
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from . import dispatch, fanout, idle, inbox, paused, plot, postgres, push, redis, redis_wake, replay, sqlite, wake, web
from .harness import Row, progress

BENCHMARKS: dict[str, Callable[[], list[Row]]] = {
    "dispatch": dispatch.measure,
    "push": push.measure,
    "fanout": fanout.measure,
    "idle": idle.measure,
    "inbox": inbox.measure,
    "replay": replay.measure,
    "wake": wake.measure,
    "paused": paused.measure,
    "postgres": postgres.measure,
    "redis": redis.measure,
    "redis_wake": redis_wake.measure,
    "sqlite": sqlite.measure,
    "web": web.measure,
}
_TITLE = f"Python {platform.python_version()}; limit, ours and ratio on asyncio, trio beside; medians of five rounds"
_HEADER = ("benchmark", "unit", "limit", "ours", "ratio [min..max]", "bar", "", "trio", "")


def table(rows: list[Row]) -> str:
    """Return the rows as a table for people."""
    lines = [_HEADER, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = {2, 3, 7}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    spread, bar = row.ratio, row.bar
    ratio = "" if spread is None else f"{spread.median:.2f}"
    if spread is not None and spread.low < spread.high:
        ratio += f" [{spread.low:.2f}..{spread.high:.2f}]"
    verdict = "" if bar is None else "reached" if bar.reached else "missed"
    return (
        row.name,
        row.unit,
        _figure(row.limit),
        _figure(row.ours),
        ratio,
        "" if bar is None else bar.text,
        verdict,
        _figure(row.trio),
        row.note,
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks that were named and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which: {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a bar is missed")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="also draw the ratios")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    logging.getLogger("notify").setLevel(logging.ERROR)  # the gaps that a paused reader meets are meant
    rows = [row for name in options.names or BENCHMARKS for row in BENCHMARKS[name]()]
    progress("")
    sys.stdout.write(f"{_TITLE}\n\n{table(rows)}\n")
    if options.plot is not None:
        plot.write(options.plot, rows)
    missed = any(row.bar is not None and not row.bar.reached for row in rows)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
