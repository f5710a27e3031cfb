"""Writes docs/reference.md from docstrings and signatures: `python docs/reference.py`.

The same source always gives the same text, so a test can hold the committed file to it.
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

TARGET = Path(__file__).with_name("reference.md")

INTRODUCTION = """\
# Reference

Written by `python docs/reference.py` from the docstrings: edit those. If the words are new, read
[concepts](concepts.md) first.
"""

MODULES = ("notify", "notify.abc", "notify.errors", "notify.ids", "notify_memory")

SHIPPED = "notify.testing"
"""A package whose public modules are described one by one."""

_WIDTH = 110
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Rules|Invariants):")
_FIXED = re.compile(r"((?:Order|Cancellation|Concurrency|Cost|Raises)[^:.]*): (.*)")
_ITEM = re.compile(r"([\w.]+): (.*)")
_ELSEWHERE = re.compile(r"(See|As) `(notify\.abc\.)?\w+(\.\w+)?`\.")


def render() -> str:
    """Return the text of reference.md."""
    parts = [INTRODUCTION]
    for name in (*MODULES, *_shipped_modules()):
        parts += _module(importlib.import_module(name))
    return "\n".join(parts)


def _shipped_modules() -> list[str]:
    folder = Path(str(importlib.import_module(SHIPPED).__file__)).parent
    return [SHIPPED, *(f"{SHIPPED}.{path.stem}" for path in sorted(folder.glob("[!_]*.py")))]


def _module(module: ModuleType) -> Iterator[str]:
    """Describe a module: what is described under another module is only named."""
    yield f"## {module.__name__}\n"
    yield _prose(re.sub(r"```python\n.*?```", "", module.__doc__ or "", flags=re.DOTALL))
    elsewhere: dict[str, list[str]] = {}
    for name in _public_names(module):
        thing = getattr(module, name)
        home = _home(module, name, thing)
        if isinstance(thing, ModuleType):
            elsewhere.setdefault(thing.__name__, [])
        elif home != module.__name__:
            elsewhere.setdefault(home, []).append(f"`{name}`")
        else:
            yield f"### {name}\n"
            yield from _thing(module, name, thing)
    for home, names in sorted(elsewhere.items()):
        yield f"Also here, from `{home}`: {', '.join(names) or 'the module itself'}.\n"


def _home(module: ModuleType, name: str, thing: Any) -> str:
    """Return the name of the module under which a thing is described."""
    if module.__name__ == SHIPPED:
        submodules = map(importlib.import_module, _shipped_modules()[1:])
        return next((each.__name__ for each in submodules if name in _public_names(each)), SHIPPED)
    home: str = getattr(thing, "__module__", module.__name__)
    return home if home in (*MODULES, *_shipped_modules()) else module.__name__


def _public_names(module: ModuleType) -> list[str]:
    """Return the names of `__all__`, or else what the module itself defines, in its order."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    names = [_name_defined(node) for node in _body(module)]
    return [name for name in names if name and not name.startswith("_")]


def _name_defined(node: ast.stmt) -> str:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name
    return node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else ""


def _thing(module: ModuleType, name: str, thing: Any) -> Iterator[str]:
    if inspect.isclass(thing):
        yield from _class(thing)
    elif isinstance(thing, FunctionType):
        yield _code(name, thing)
        yield _prose(thing.__doc__ or "")
    else:
        yield from _constant(module, name)


def _class(cls: type) -> Iterator[str]:
    constructor = _constructor(cls)
    if constructor is not None:
        yield _code(cls.__name__, constructor, skip_self=True, returns=False)
    bases = [f"`{base.__name__}`" for base in cls.__bases__ if base.__name__ in _described()]
    if bases:
        yield f"Extends {', '.join(bases)}.\n"
    yield _prose(cls.__doc__ or "")
    if _tests(cls):
        yield from _suite(cls)
        return
    as_promised = []
    for name, member in vars(cls).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not isinstance(function, FunctionType):
            continue
        if _ELSEWHERE.fullmatch(function.__doc__ or ""):
            as_promised.append(f"`{name}`")
            continue
        yield f"#### {cls.__name__}.{name}\n"
        if not isinstance(member, property):
            yield _code(name, function, skip_self=not isinstance(member, staticmethod))
        yield _prose(function.__doc__ or "")
    if as_promised:
        yield f"As the interface says: {', '.join(as_promised)}.\n"


def _tests(cls: type) -> dict[str, Any]:
    """Return the tests of a suite, those of its bases first."""
    members = {name: member for base in reversed(cls.__mro__) for name, member in vars(base).items()}
    return {name: member for name, member in members.items() if name.startswith("test_")}


def _suite(cls: type) -> Iterator[str]:
    """Describe a suite: what to implement, and the claim of each test."""
    for name in sorted(getattr(cls, "__abstractmethods__", ())):
        yield f"#### {cls.__name__}.{name}\n"
        yield _code(name, getattr(cls, name), skip_self=True)
        yield _prose(getattr(cls, name).__doc__ or "")
    yield "It tests:\n"
    yield "\n".join(f"- {' '.join((test.__doc__ or name).split())}" for name, test in _tests(cls).items()) + "\n"


@cache
def _described() -> frozenset[str]:
    """Return every name that has a section."""
    modules = map(importlib.import_module, (*MODULES, *_shipped_modules()))
    return frozenset(name for module in modules for name in _public_names(module))


def _constructor(cls: type) -> FunctionType | None:
    """Return what takes the constructor's arguments; nothing for interfaces, enumerations and plain exceptions."""
    if getattr(cls, "_is_protocol", False) or issubclass(cls, enum.Enum):
        return None
    for name in ("__init__", "__new__"):
        function = getattr(vars(cls).get(name), "__func__", vars(cls).get(name))
        if isinstance(function, FunctionType):
            return function
    return None


def _code(name: str, function: FunctionType, *, skip_self: bool = False, returns: bool = True) -> str:
    """Return a signature in a block that is not marked as Python, because it is not to be run."""
    signature = inspect.signature(function)
    result = f" -> {_text(signature.return_annotation)}" if returns else ""
    prefix = "async " if inspect.iscoroutinefunction(function) else ""
    parameters = list(_parameters(list(signature.parameters.values())[1 if skip_self else 0 :]))
    line = f"{prefix}{name}({', '.join(parameters)}){result}"
    if len(line) > _WIDTH:
        folded = "".join(f"    {parameter},\n" for parameter in parameters)
        line = f"{prefix}{name}(\n{folded}){result}"
    return f"```text\n{line}\n```\n"


def _parameters(parameters: list[inspect.Parameter]) -> Iterator[str]:
    keyword_only = False
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            yield "*"
        keyword_only = keyword_only or each.kind is each.VAR_POSITIONAL
        stars = "*" if each.kind is each.VAR_POSITIONAL else "**" if each.kind is each.VAR_KEYWORD else ""
        default = "" if each.default is each.empty else f" = {_default(each.default)}"
        yield f"{stars}{each.name}: {_text(each.annotation)}{default}"


def _text(annotation: object) -> str:
    return annotation.replace("'", '"') if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _default(value: Any) -> str:
    """Write a default value the same way under every interpreter."""
    if callable(value):
        return f"{value.__module__}.{value.__name__}"
    return repr(value).replace("'", '"')


def _constant(module: ModuleType, name: str) -> Iterator[str]:
    """Describe a constant or type alias by its source and the string below it, wherever it was imported from."""
    body = _body(module)
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and _name_defined(node) == name and node.value is not None:
            yield f"```text\n{name} = {ast.unparse(node.value)}\n```\n".replace("'", '"')
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                yield _prose(str(after.value.value))
        elif isinstance(node, ast.ImportFrom) and name in (alias.name for alias in node.names):
            home = importlib.import_module("." * node.level + (node.module or ""), module.__package__)
            yield from _constant(home, name)


def _body(module: ModuleType) -> list[ast.stmt]:
    return ast.parse(inspect.getsource(module)).body


def _prose(docstring: str) -> str:
    """Turn a Google docstring into Markdown."""
    blocks = re.split(r"(```.*?```)", inspect.cleandoc(docstring), flags=re.DOTALL)
    texts = [block if block.startswith("```") else _sections(block) for block in blocks]
    return "\n\n".join(text.strip("\n") for text in texts if text.strip()) + "\n"


def _sections(text: str) -> str:
    """Turn sections into lists, and each of the four fixed lines into a list item of its own."""
    lines: list[str] = []
    in_fixed = False
    for line in text.splitlines():
        section, fixed, item = _SECTION.fullmatch(line), _FIXED.fullmatch(line), _ITEM.fullmatch(line.strip())
        if section:
            lines += ["", f"**{section[1]}**", ""]
        elif fixed:
            lines += [f"- *{fixed[1]}*: {fixed[2]}"] if in_fixed else ["", f"- *{fixed[1]}*: {fixed[2]}"]
        elif re.match(r" {4}\S", line):
            number = re.match(r" +[0-9]+\. ", line)
            lines.append(f"- `{item[1]}`: {item[2]}" if item else f"{'' if number else '- '}{line.strip()}")
        elif line.startswith(" "):
            lines.append(f"  {line.strip()}")
        else:
            lines.append(line)
        in_fixed = bool(fixed)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"wrote {TARGET.name}\n")
