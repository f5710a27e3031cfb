"""Packages whose driver is not installed."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("package", "driver", "extra"),
    [("notify_redis", "redis", "redis"), ("notify_sqlite", "aiosqlite", "sqlite"), ("notify_pg", "asyncpg", "pg")],
)
def test_a_missing_extra_is_named(package: str, driver: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing a backend without its driver raises an error of one line that says what to install."""
    for name in [name for name in sys.modules if name.split(".")[0] in (package, driver)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        import_module(package)
    assert str(caught.value) == f"{package} needs {driver}: pip install 'notify-streams[{extra}]'"
    assert caught.value.name == driver


WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for statements in sys.argv[2:]:
    try:
        exec(statements)
    except ModuleNotFoundError as error:
        print(error.name, error, sep=": ")
"""


def said_without(package: str, *statements: str) -> str:
    """Run programs, one after another, as if this package were not installed; return what they print, a line each."""
    command = [sys.executable, "-c", WITHOUT, package, *statements]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_suite_without_pytest() -> None:
    """Asking for a suite says what to install; the other tools for tests need nothing."""
    said = said_without(
        "pytest",
        "from notify.testing import FaultProxy, History\nprint(1)",
        "from notify.testing import StoreSuite",
        "from notify.testing.dispatch import DispatchStoreSuite",
    )
    install = "needs pytest: pip install pytest 'notify-streams[trio]'"
    assert said.splitlines() == [
        "1",
        f"pytest: notify.testing.StoreSuite {install}",
        f"pytest: notify.testing.dispatch.DispatchStoreSuite {install}",
    ]


@pytest.mark.parametrize("package", ["cryptography", "uvicorn"])
def test_a_push_service_without_its_extras(package: str) -> None:
    """Using it says which extras it needs."""
    calls = ("running().__enter__()", "subscribe()")
    program = "from notify.testing.dispatch import PushService\nPushService().{}\nprint(1)"
    for call, said in zip(calls, said_without(package, *map(program.format, calls)).splitlines(), strict=True):
        if (package, call) == ("uvicorn", "subscribe()"):
            assert said == "1"
        else:
            assert said.startswith(f"{package}")
            assert f": PushService needs {package}" in said
            assert said.endswith(": pip install 'notify-streams[webpush,serve]'")
