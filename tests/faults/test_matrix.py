"""The table of the README: every test that it names exists."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

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
    "compositions": TESTS / "compositions",
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


@pytest.mark.parametrize("module", ["logs", "network", "processes", "servers"])
def test_both_kinds_of_wake_have_cells(module: str) -> None:
    """Each test of one backend at a time that runs on a server with pub/sub runs on one with wake streams too."""
    tests = vars(import_module(f"tests.faults.test_{module}"))
    lists = {
        name: set(mark.args[1])
        for name, test in tests.items()
        for mark in getattr(test, "pytestmark", ())
        if name.startswith("test_") and mark.args[:1] == ("backend",)
    }
    on_redis = {name: backends for name, backends in lists.items() if "redis" in backends}
    assert on_redis
    assert {name for name, backends in on_redis.items() if "redis xread" not in backends} == set()
