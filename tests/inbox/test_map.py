"""The table of the README: every test that it names exists, and every behaviour has one."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent
PLACES = {
    "": HERE,
    "faults": TESTS / "faults",
    "memory": TESTS / "notify_memory",
    "sqlite": TESTS / "notify_sqlite",
    "redis": TESTS / "notify_redis",
    "pg": TESTS / "notify_pg",
    "properties": TESTS / "properties",
    "web": TESTS / "web",
    "browser": TESTS / "web" / "browser",
    "suite": TESTS.parent / "notify" / "testing",
}

ROWS = [line for line in (HERE / "README.md").read_text().splitlines() if re.match(r"\|.*`\w*/?\w+::", line)]


def test_every_test_of_the_map_exists() -> None:
    """A test of a behaviour that is renamed or removed has to be replaced in the table."""
    for name in re.findall(r"`([\w/]+::\w+)`", "\n".join(ROWS)):
        place, _, rest = name.rpartition("/")
        file, _, test = rest.partition("::")
        path = PLACES[place] / (f"{file}.py" if place == "suite" else f"test_{file}.py")
        assert re.search(rf"^ *(async )?def test_{test}\(", path.read_text(), re.MULTILINE), name


def test_every_behaviour_has_a_test() -> None:
    """None of the thirteen is missing."""
    numbers = [row.split("|")[1].strip() for row in ROWS]
    assert [number for number in numbers if number] == [str(number) for number in range(1, 14)]
