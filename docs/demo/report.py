"""What the demo says at the end: counts of what was pushed and seen, and the verdict of the history checker."""

from __future__ import annotations

import statistics
import textwrap
from typing import TYPE_CHECKING, Final

from console import WIDTH, bold, fit, say

from notify import Event

if TYPE_CHECKING:
    from demo import Demo

ROWS: Final = 16


def summarise(demo: Demo, hidden: Event | None) -> bool:
    """Print what every device saw and what the checker makes of it; return whether nothing was lost or doubled.

    Args:
        demo: which is over.
        hidden: the event that the sabotage hid in the log.
    """
    _print_devices(demo)
    _print_totals(demo)
    verdict = demo.history.check()
    say(bold("\nVerdict of the history checker"))
    for line in str(verdict).splitlines():
        say(textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent=" " * 16))
    named = [(violation, id_) for violation in verdict.violations for id_ in violation.ids]
    for violation, id_ in named[:ROWS]:
        push = demo.pushed.get(violation.user, {}).get(id_, "no push that was acknowledged")
        say("  " + fit(f"{violation.rule}: {id_} is {push}", WIDTH - 2).rstrip())
    if hidden is not None:
        say(f"  sabotage: {hidden.id} was hidden in the log")
    if not demo.pushes:
        say(bold("Nothing was pushed, so nothing is proven."))
    elif verdict.ok and not verdict.gaps:
        say(bold("OK: nothing lost, nothing doubled, nothing out of order."))
    else:
        say(bold("FAILED: what was seen is not what was pushed."))
    return verdict.ok and not verdict.gaps


def _print_devices(demo: Demo) -> None:
    say(bold("\nWhat every device saw"))
    say("  user        device  ended on  pushed   seen  replayed  last id")
    rows = [(user, device) for user, devices in demo.devices.items() for device in devices]
    for user, device in rows[:ROWS]:
        counts = f"{len(demo.pushed[user]):>6} {device.seen:>6} {device.replayed:>9}"
        say(f"  {fit(user, 11)} {device.kind:<7} {device.instance:<9} {counts}  {device.last_id}")
    if len(rows) > ROWS:
        say(f"  ... and {len(rows) - ROWS} more devices")


def _print_totals(demo: Demo) -> None:
    devices = [device for pair in demo.devices.values() for device in pair]
    seen = sum(device.seen for device in devices)
    expected = sum(len(demo.pushed[device.user]) for device in devices)
    replayed = sum(device.replayed for device in devices)
    say(bold("\nIn all"))
    say(f"  pushed      {demo.pushes} events to {len(demo.devices)} users; lines skipped: {demo.skipped}")
    say(f"  seen        {seen} of {expected} expected on {len(devices)} devices, {replayed} of them by replay")
    say(f"  breaks      {demo.breaks.total()}; missed {demo.missed}, caught up {demo.caught_up}")
    if len(demo.latencies) > 1:
        percent = statistics.quantiles(demo.latencies, n=100, method="inclusive")
        half, most = percent[49] * 1000, percent[98] * 1000
        say(f"  live        push to device: half within {half:.2f} ms, 99 % within {most:.2f} ms")
