"""How the reference renders our docstrings: the fixed lines as a list, a suite by what it tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

FIXED = re.compile(r"^((?:Order|Cancellation|Concurrency|Cost|Raises)[^:.\n]*): (?=\S)", re.MULTILINE)
"""The lines that every awaited method of an interface carries; `Raises:` alone on a line begins a section."""


class Extension(griffe.Extension):
    """Rewrites what was collected from a package before it is rendered."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go through every object of the package."""
        for obj in walk(pkg):
            if obj.docstring:
                obj.docstring.value = FIXED.sub(r"- *\1*: ", obj.docstring.value)
            if isinstance(obj, griffe.Class):
                show_constructor(obj)
                show_claims(obj)


def walk(obj: griffe.Object) -> Iterator[griffe.Object]:
    """Yield an object and everything in it."""
    yield obj
    for member in obj.members.values():
        if not member.is_alias:
            yield from walk(member)


def show_constructor(cls: griffe.Class) -> None:
    """Let a class that is made by `__new__` show those parameters."""
    made_by = cls.members.get("__new__")
    if isinstance(made_by, griffe.Function) and "__init__" not in cls.members:
        made_by.docstring = None  # it refers to the class
        cls.set_member("__init__", made_by)


def show_claims(cls: griffe.Class) -> None:
    """Add to a suite the list of what it tests: the docstring of a test is its claim."""
    tests = {name: member for name, member in cls.all_members.items() if name.startswith("test_")}
    if tests and cls.docstring:
        claims = [" ".join(test.docstring.value.split()) for test in tests.values() if test.docstring]
        cls.docstring.value += "\n\nIt tests:\n\n" + "\n".join(f"- {claim}" for claim in claims)
