"""The table of the README: every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent
PLACES = {
    "": HERE,
    "core": TESTS / "notify",
    "memory": TESTS / "notify_memory",
    "sqlite": TESTS / "notify_sqlite",
    "redis": TESTS / "notify_redis",
    "pg": TESTS / "notify_pg",
    "properties": TESTS / "properties",
    "web": TESTS / "web",
    "suite": TESTS.parent / "notify" / "testing",
}

ROWS = [line for line in (HERE / "README.md").read_text().splitlines() if re.match(r"\|.*`\w*/?\w+::", line)]


def test_every_test_of_the_matrix_exists() -> None:
    """Whoever renames or removes a test of a cell has to say what takes its place."""
    for name in re.findall(r"`([\w/]+::\w+)`", "\n".join(ROWS)):
        place, _, rest = name.rpartition("/")
        file, _, test = rest.partition("::")
        path = PLACES[place] / (f"{file}.py" if place == "suite" else f"test_{file}.py")
        assert re.search(rf"^ *(async )?def test_{test}\(", path.read_text(), re.MULTILINE), name


def test_every_fault_has_a_test_and_an_expectation_for_each_backend() -> None:
    """No row is left half empty, and no test of this directory is in no row."""
    assert len(ROWS) >= 40
    for row in ROWS:
        _, fault, *expected, tests, _ = (cell.strip() for cell in row.split("|"))
        assert len(expected) == 5, fault
        assert all(expected), fault
        assert "::" in tests, fault
    named = set(re.findall(r"`(\w+::\w+)`", "\n".join(ROWS)))
    for path in HERE.glob("test_*.py"):
        if path != Path(__file__):
            tests = re.findall(r"^ *(?:async )?def test_(\w+)\(", path.read_text(), re.MULTILINE)
            assert {f"{path.stem.removeprefix('test_')}::{test}" for test in tests} <= named
