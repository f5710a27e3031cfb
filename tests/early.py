"""Loaded before all other plugins, by pyproject.toml: what they import for nothing.

pytest-randomly seeds the generators of several libraries of invented data, and imports those that are installed. Two of
them came with a web framework. No test uses them, and to import them takes longer than all else that pytest imports, in
each of its processes. A framework that needs them still finds them.
"""

from __future__ import annotations

import importlib
import sys

_UNUSED = [name for name in ("faker", "polyfactory") if name not in sys.modules]

sys.modules.update(dict.fromkeys(_UNUSED))  # type: ignore[arg-type]  # None: not to be found
try:
    importlib.import_module("pytest_randomly")
finally:
    for name in _UNUSED:
        del sys.modules[name]
