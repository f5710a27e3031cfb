"""The end of the demo: counts of pushed and shown events, and the verdict of the history checker."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from console import bold, fit, say

if TYPE_CHECKING:
    from demo import Demo

ROWS: Final = 16


@dataclass
class Totals:
    """Counts of the demo.

    Attributes:
        hidden: id of the event that `--sabotage` hid.
        delays: seconds from push to display, for each live event.
    """

    pushed: int = 0
    skipped: int = 0
    resumed: int = 0
    kills: int = 0
    hidden: str = ""
    delays: list[float] = field(default_factory=list)

    def count(self, delay: float | None) -> None:
        """Count an event that was shown: live after this delay, or resumed if None."""
        if delay is None:
            self.resumed += 1
        else:
            self.delays.append(delay)


def summarise(demo: Demo) -> bool:
    """Print the counts and the verdict of the checker; return whether it found no violation."""
    totals, seen = demo.totals, sum(demo.seen.values())
    say(bold("\nUser       pushed  shown  last id"))
    for user, pushed in list(demo.pushed.items())[:ROWS]:
        say(f"{fit(user, 10)} {len(pushed):>6} {demo.seen.get(user, 0):>6}  {demo.last_ids[user]}")
    if len(demo.pushed) > ROWS:
        say(f"... and {len(demo.pushed) - ROWS} more users")
    say(f"\nPushed {totals.pushed}; users: {len(demo.pushed)}; lines skipped: {totals.skipped}.")
    say(f"Shown {seen}: {len(totals.delays)} live, {totals.resumed} on resuming; kills: {totals.kills}.")
    if len(totals.delays) > 1:
        percent = statistics.quantiles(totals.delays, n=100, method="inclusive")
        say(f"Live latency: median {percent[49] * 1000:.0f} ms, 99th percentile {percent[98] * 1000:.0f} ms.")
    verdict = demo.history.check()
    for violation in verdict.violations[:ROWS]:
        say(fit(f"Violation ({violation.rule}) for {violation.user}: {violation.text}", None))
        for id_ in violation.ids[:ROWS]:
            push = demo.pushed.get(violation.user, {}).get(id_, "not an acknowledged push")
            say(fit(f"  {id_} is {push}", None))
    for reason, count in sorted(verdict.gaps.items()):
        say(f"Violation: {count} gaps ({reason}).")
    if totals.hidden:
        say(f"Sabotage: {totals.hidden} was hidden from the reader.")
    ok = verdict.ok and not verdict.gaps
    if not totals.pushed:
        say(bold("Nothing was pushed, so nothing is proven."))
    elif ok:
        say(bold("OK: nothing lost, nothing duplicated, nothing out of order."))
    else:
        say(bold("FAILED: the events shown are not the events pushed."))
    return ok
