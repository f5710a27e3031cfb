"""Runs the demo of `notify serve --demo`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cli.commands import Running, running


@contextmanager
def demo(directory: Path, *arguments: str) -> Iterator[tuple[Running, str]]:
    """Run the demo on a free port; yields it and its URL."""
    with running(directory, "serve", "--demo", "--port", "0", *arguments) as command:
        found = re.search(r"http://127\.0\.0\.1:\d+", command.wait_for("the demo is at "))
        assert found is not None
        yield command, found[0]
