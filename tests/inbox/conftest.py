"""Which stores run under which event loop: SQLite's driver needs asyncio."""

from __future__ import annotations

import pytest

_ASYNCIO_ONLY = ("sqlite", "redis", "postgres")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the combinations that cannot be."""
    impossible = [item for item in items if _is_impossible(getattr(item, "callspec", None))]
    if impossible:
        config.hook.pytest_deselected(items=impossible)
        items[:] = [item for item in items if item not in set(impossible)]


def _is_impossible(spec: object) -> bool:
    params = getattr(spec, "params", {})
    kind = params.get("inbox", params.get("stores", ""))
    return params.get("anyio_backend") == "trio" and isinstance(kind, str) and kind.startswith(_ASYNCIO_ONLY)
