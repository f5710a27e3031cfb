"""Packages whose driver is not installed."""

from __future__ import annotations

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
