"""A pytest plugin, loaded before all others, that keeps them from importing packages that no test uses.

pytest-randomly seeds several libraries of test data, and imports those that are installed. Two of them are dependencies
of a web framework. In each process, importing them would take longer than everything else that pytest imports. A
framework that needs them can still import them.
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
