"""Runs one test over many files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path


def for_each(
    paths: Iterable[Path], name: Callable[[Path], str]
) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Make one test of a claim about a file: it checks every file, and reports all that break the claim.

    Some claims are about hundreds of files, and checking one takes less time than pytest spends on a test.

    Args:
        paths: the files; at least one.
        name: what a file is called in the report.
    """
    files = list(paths)

    def made(claim: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            assert files
            broken = []
            for path in files:
                try:
                    claim(path)
                except AssertionError as error:
                    broken.append(f"{name(path)}: {error}")
            assert not broken, "\n".join(broken)

        test.__doc__ = claim.__doc__
        return test

    return made
