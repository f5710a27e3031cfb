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
try:
    exec(sys.argv[2])
except ModuleNotFoundError as error:
    print(error.name, error, sep=": ")
"""


def said_without(package: str, statements: str) -> str:
    """What a program says that uses what needs a package which is not installed."""
    command = [sys.executable, "-c", WITHOUT, package, statements]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize(
    ("module", "name"), [("notify.testing", "StoreSuite"), ("notify.testing.dispatch", "DispatchStoreSuite")]
)
def test_a_suite_without_pytest(module: str, name: str) -> None:
    """Asking for a suite says what to install; the other tools for tests need nothing."""
    said = said_without("pytest", f"from {module} import {name}")
    assert said == f"pytest: {module}.{name} needs pytest: pip install pytest 'notify-streams[trio]'\n"
    assert said_without("pytest", "from notify.testing import FaultProxy, History\nprint(1)") == "1\n"


@pytest.mark.parametrize("package", ["cryptography", "uvicorn"])
@pytest.mark.parametrize("call", ["running().__enter__()", "subscribe()"])
def test_a_push_service_without_its_extras(package: str, call: str) -> None:
    """Using it says which extras it needs."""
    said = said_without(package, f"from notify.testing.dispatch import PushService\nPushService().{call}\nprint(1)")
    if (package, call) == ("uvicorn", "subscribe()"):
        assert said == "1\n"
    else:
        assert said.startswith(f"{package}")
        assert f": PushService needs {package}" in said
        assert said.endswith(": pip install 'notify-streams[webpush,serve]'\n")
