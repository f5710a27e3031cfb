"""The types and defaults of four existing systems, from the TOML files in `presets/`."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

from ._checks import check_choice
from ._registry import TypeRegistry


def preset(name: Literal["sk", "tp", "fl", "gh"]) -> TypeRegistry:
    """Return the types and defaults of a system that docs/features.md compares with this library.

    Each call returns a registry of its own, to which an application can add its types. `settings_of_tp` and
    `settings_of_gh` read what users of two of them have chosen there.

    Args:
        name: `"sk"`: a server-rendered framework with toasts; `"tp"`: an application with a React client, seven types;
            `"fl"`: a tutorial that polls; `"gh"`: a marketplace, 27 types.
    """
    check_choice("preset", name, ("sk", "tp", "fl", "gh"))
    return TypeRegistry.from_toml((files(__package__) / "presets" / f"{name}.toml").read_text(encoding="utf-8"))
