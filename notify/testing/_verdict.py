"""What a checked history comes to: a verdict, and the violations in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_LISTED = 20
"""Violations listed in a report; the verdict holds all of them."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule.

    Attributes:
        rule: its name.
        user: in whose log.
        ids: the events it is about.
        text: what happened, as a sentence.
    """

    rule: str
    user: str
    ids: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a history; `str` makes it a report.

    Attributes:
        acknowledged: attempts that returned an id.
        rejected: attempts that certainly stored nothing.
        uncertain: attempts with an unknown outcome, and those that never ended.
        excused: acknowledged pushes that the log itself may have lost, demanded of no reader.
        readers: how many there were.
        yields: events that they saw.
        gaps: how many they met, by reason.
        violations: what is wrong.
    """

    acknowledged: int
    rejected: int
    uncertain: int
    excused: int
    readers: int
    yields: int
    gaps: Mapping[str, int]
    violations: tuple[Violation, ...]

    @property
    def ok(self) -> bool:
        """Whether every rule holds."""
        return not self.violations

    def __str__(self) -> str:
        gaps = ", ".join(f"{count} {reason}" for reason, count in sorted(self.gaps.items()))
        lines = [
            f"pushes      {self.acknowledged} ok, {self.rejected} rejected, {self.uncertain} uncertain",
            f"excused     {self.excused} that the log itself may have lost",
            f"readers     {self.readers}, {self.yields} yields",
            f"gaps        {gaps or 'none'}",
            f"violations  {len(self.violations) or 'none'}",
        ]
        lines += [f"  {v.rule:<12}  {v.user!r}: {v.text}" for v in self.violations[:_LISTED]]
        if len(self.violations) > _LISTED:
            lines.append(f"  ... and {len(self.violations) - _LISTED} more")
        return "\n".join(lines)
