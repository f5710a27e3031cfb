"""What the demo says at the end: counts of what was pushed and shown, and the verdict of the history checker."""

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
    """What is counted on the way.

    Attributes:
        hidden: the id of the event that the sabotage hid.
        delays: seconds from push to display of each live event.
    """

    pushed: int = 0
    skipped: int = 0
    resumed: int = 0
    kills: int = 0
    hidden: str = ""
    delays: list[float] = field(default_factory=list)

    def count(self, delay: float | None) -> None:
        """Count an event that was shown: live after this delay, or on resuming."""
        if delay is None:
            self.resumed += 1
        else:
            self.delays.append(delay)


def summarise(demo: Demo) -> bool:
    """Print what was pushed and shown, and what the checker makes of it; return whether nothing was lost or doubled."""
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
        say(f"Live, half were shown within {percent[49] * 1000:.0f} ms and 99 % within {percent[98] * 1000:.0f} ms.")
    verdict = demo.history.check()
    for violation in verdict.violations[:ROWS]:
        say(fit(f"Wrong ({violation.rule}) for {violation.user}: {violation.text}", None))
        for id_ in violation.ids[:ROWS]:
            push = demo.pushed.get(violation.user, {}).get(id_, "no push that was acknowledged")
            say(fit(f"  {id_} is {push}", None))
    for reason, count in sorted(verdict.gaps.items()):
        say(f"Wrong: {count} gaps ({reason}).")
    if totals.hidden:
        say(f"Sabotage: {totals.hidden} was hidden from the reader.")
    ok = verdict.ok and not verdict.gaps
    if not totals.pushed:
        say(bold("Nothing was pushed, so nothing is proven."))
    elif ok:
        say(bold("OK: nothing lost, nothing doubled, nothing out of order."))
    else:
        say(bold("FAILED: what was shown is not what was pushed."))
    return ok
