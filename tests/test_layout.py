"""The house rules, read from the syntax trees."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "notify"
PACKAGES = sorted(path.parent for path in ROOT.glob("notify*/__init__.py"))
BACKENDS = [package for package in PACKAGES if package != CORE]
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))

ORDER = """
    errors ids _codec event abc
    _splice _ring _backoff
    _stats _results _wake _background
    _subscription _reads _live
    _attendance _locator _routes _writer
    _streams _telemetry _notifier __init__
    _urls _console _feed _tail _inspect cli __main__
""".split()
"""The modules of the core: each imports only modules that stand before it, except for annotations."""

PURE = {"ids", "_codec", "_splice", "_ring", "_backoff"}
PURE_LIBRARY = {
    "__future__", "bisect", "collections", "dataclasses", "datetime", "enum", "functools", "itertools", "json", "math",
    "re", "typing",
}  # fmt: skip
PURE_MAY_USE = {"notify", "notify.abc", "notify.errors", "notify.event"}
IMPURE_CALLS = {"now", "utcnow", "today", "open", "print", "input", "breakpoint"}

PUBLIC = {"notify", "notify.abc", "notify.errors", "notify.ids", "notify.event"}
"""What a backend may import of the core."""

LOOPS = {
    "notify._runtime._waking": {"asyncio"},
    "notify._runtime._background": {"asyncio", "trio"},
    "notify_pg._attempts": {"asyncio"},
    "notify_pg._connection": {"asyncio"},
    "notify_pg._doorbell": {"asyncio"},
    "notify_pg._listener": {"asyncio"},
    "notify_pg._outbox": {"asyncio"},
    "notify_pg._pool": {"asyncio"},
    "notify_pg._presence": {"asyncio"},
    "notify_pg._retention": {"asyncio"},
    "notify_pg._store": {"asyncio"},
    "notify_pg._stream_store": {"asyncio"},
    "notify_pg._writer": {"asyncio"},
    "notify_redis._client": {"asyncio"},
    "notify_redis._hearing": {"asyncio"},
    "notify_redis._link": {"asyncio"},
    "notify_redis._listener": {"asyncio"},
    "notify_redis._presence": {"asyncio"},
    "notify_redis._writes": {"asyncio"},
    "notify_sqlite._worker": {"asyncio"},
}
"""Who may name an event loop, and which."""

MAX_LINES = 400

FIXED_LINES = {
    "Store.save": "order cancellation concurrency cost",
    "Store.read": "order cancellation concurrency cost",
    "Store.head": "cancellation concurrency cost",
    "Store.trim": "cancellation concurrency cost",
    "Store.aclose": "",
    "SaveMany.save_many": "order cancellation concurrency cost",
    "SaveInTransaction.save_in": "order cancellation concurrency cost",
    "ReadMany.read_many": "cancellation concurrency cost",
    "Stream.next": "order cancellation concurrency",
    "Stream.aclose": "",
    "Router.route": "order cancellation concurrency",
    "ReceivingRouter.receive": "",
    "Registration.aclose": "",
    "PresenceTracker.register": "cancellation concurrency cost",
    "PresenceTracker.locate": "cancellation concurrency cost",
    "PresenceTracker.aclose": "",
}
"""Which of the four fixed lines each awaited method of an interface carries: those that apply to it."""


class Import(NamedTuple):
    """One imported module, by its full name, and the name taken from it, if any."""

    module: str
    name: str | None
    for_annotations: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """The full name of a module, a package's without `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(path: Path) -> list[str]:
    return list(path.relative_to(ROOT).parent.parts)


@cache
def imports(path: Path) -> list[Import]:
    """Every import of a module, wherever it stands; `from . import x` counts as an import of the module `x`."""
    return list(_imports(path, tree(path), False))


def _imports(path: Path, node: ast.AST, for_annotations: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        guarded = for_annotations or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, None, guarded) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = package_of(path)[: 1 - child.level or None] if child.level else []
            module = ".".join([*base, *(child.module or "").split(".")]).strip(".")
            for alias in child.names:
                inner = f"{module}.{alias.name}"
                is_module = (ROOT / f"{inner.replace('.', '/')}.py").exists()
                yield Import(inner, None, guarded) if is_module else Import(module, alias.name, guarded)
        else:
            yield from _imports(path, child, guarded)


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


core_modules = pytest.mark.parametrize("path", sorted(CORE.glob("*.py")), ids=short)
every_module = pytest.mark.parametrize("path", MODULES, ids=short)
backend_modules = pytest.mark.parametrize(
    "path", [path for package in BACKENDS for path in sorted(package.rglob("*.py"))], ids=short
)


@core_modules
def test_core_imports_leftwards_only(path: Path) -> None:
    """A module of the core imports only those before it in the order above; annotations are free."""
    assert path.stem in ORDER, "give the new module its place in ORDER"
    allowed = {f"notify.{stem}" for stem in ORDER[: ORDER.index(path.stem)]}
    used = {each.module for each in imports(path) if each.top == "notify" and not each.for_annotations}
    assert used <= allowed


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=short)
def test_core_knows_no_backend(path: Path) -> None:
    """Nothing in `notify` imports a `notify_*` package."""
    assert not {each.module for each in imports(path) if each.top.startswith("notify_")}


@core_modules
def test_core_does_not_import_its_suites(path: Path) -> None:
    """The core runs without `notify.testing`, and imports no test tool."""
    assert not {each.module for each in imports(path) if each.module.startswith(("notify.testing", "pytest"))}


@pytest.mark.parametrize("path", sorted((CORE / "testing").glob("*.py")), ids=short)
def test_suites_import_what_a_stranger_could(path: Path) -> None:
    """Beside their own modules, the shipped suites use public modules of the core only, no backend, no hypothesis."""
    used = {each.module for each in imports(path) if each.top.startswith(("notify", "hypothesis"))}
    assert {module for module in used if not module.startswith("notify.testing")} <= PUBLIC


@pytest.mark.parametrize("name", ["__init__", "history", "faults"])
def test_checkers_need_no_pytest(name: str) -> None:
    """The history checker and the fault proxy work without pytest, nor does importing the package need it."""
    todo, done = [CORE / "testing" / f"{name}.py"], set[Path]()
    while todo:
        path = todo.pop()
        done.add(path)
        used = {each.module for each in imports(path) if not each.for_annotations}
        assert "pytest" not in used, short(path)
        ours = {ROOT / f"{module.replace('.', '/')}.py" for module in used if module.startswith("notify.testing.")}
        todo += ours - done


@backend_modules
def test_backend_has_no_privilege(path: Path) -> None:
    """A backend imports public modules and public names of `notify`, and no other backend."""
    package = package_of(path)[0]
    ours = [each for each in imports(path) if each.top.startswith("notify") and each.top != package]
    assert {each.module for each in ours} <= PUBLIC
    assert not [each for each in ours if (each.name or "").startswith("_")]
    exported = importlib.import_module("notify").__all__
    assert {each.name for each in ours if each.module == "notify"} <= set(exported)


@pytest.mark.parametrize("package", BACKENDS, ids=short)
def test_backend_has_one_driver(package: Path) -> None:
    """Beside the standard library, anyio and `notify`, a backend imports one package at most."""
    used = {each.top for path in package.rglob("*.py") for each in imports(path)}
    drivers = used - set(sys.stdlib_module_names) - {"anyio", "notify", package.name}
    assert len(drivers) <= 1


@pytest.mark.parametrize("path", [CORE / f"{stem}.py" for stem in sorted(PURE)], ids=short)
def test_pure_modules_are_there(path: Path) -> None:
    """Each module that must be pure exists; all but `ids` say so in their first word."""
    assert path.stem == "ids" or (ast.get_docstring(tree(path)) or "").startswith("Pure:")


@every_module
def test_pure_module_keeps_its_word(path: Path) -> None:
    """A pure module has no I/O, clock, randomness, logging or event loop: time and chance are arguments."""
    if path.stem not in PURE and not (ast.get_docstring(tree(path)) or "").startswith("Pure:"):
        return
    used = {each.module for each in imports(path)}
    ours = {module for module in used if module.startswith("notify")}
    assert {module.partition(".")[0] for module in used - ours} <= PURE_LIBRARY
    assert all(is_plain(ROOT / f"{module.replace('.', '/')}.py") for module in ours - PURE_MAY_USE)
    calls = [node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    names = {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}
    assert not names & IMPURE_CALLS


def is_plain(path: Path) -> bool:
    """Whether a module imports nothing that acts."""
    return all(each.top in PURE_LIBRARY | {"notify"} for each in imports(path))


@every_module
def test_only_telemetry_imports_opentelemetry(path: Path) -> None:
    """One file knows OpenTelemetry."""
    uses = any(each.top == "opentelemetry" for each in imports(path))
    assert uses == (name_of(path) == "notify._runtime._telemetry")


@every_module
def test_event_loops_are_named_where_allowed(path: Path) -> None:
    """Concurrency is anyio's; who names asyncio or trio is listed above."""
    used = {each.top for each in imports(path)} & {"asyncio", "trio"}
    assert used == LOOPS.get(name_of(path), set())


@every_module
def test_all_is_what_is_exported(path: Path) -> None:
    """`__all__` is sorted; a package's `__init__` re-exports exactly that, as `from .x import Y as Y`."""
    module = tree(path)
    exported = [
        node.value for node in module.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    if not exported:
        assert path.name != "__init__.py" or not imports(path), "a package that re-exports says what"
        return
    names: list[str] = ast.literal_eval(exported[0])
    assert names == sorted(set(names))
    assert all(hasattr(importlib.import_module(name_of(path)), name) for name in names)
    if path.name == "__init__.py":
        aliases = [alias for node in ast.walk(module) if isinstance(node, ast.ImportFrom) for alias in node.names]
        assert sorted(alias.name for alias in aliases if alias.asname == alias.name) == names


@pytest.mark.parametrize("package", PACKAGES, ids=short)
def test_package_only_reexports(package: Path) -> None:
    """The `__init__` of a package holds its docstring, `from .x import Y as Y` and `__all__`, nothing else.

    With a driver the imports stand in a `try` that names the extra.
    """
    docstring, *imports_, exported = tree(package / "__init__.py").body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(exported, ast.Assign)
    if isinstance(imports_[0], ast.Try):
        (attempt,) = imports_
        ((refusal,),) = [handler.body for handler in attempt.handlers]
        assert f"notify-streams[{package.name.removeprefix('notify_')}]" in ast.unparse(refusal)
        imports_ = attempt.body
    for node in imports_:
        assert isinstance(node, ast.ImportFrom)
        assert node.level == 1
        assert all(alias.asname == alias.name for alias in node.names)


@every_module
def test_module_says_what_it_is(path: Path) -> None:
    """Every module has a docstring, and its first line is a sentence."""
    first = (ast.get_docstring(tree(path)) or "").partition("\n")[0]
    assert len(first) > 10
    assert first.endswith((".", ":", ","))


@every_module
def test_module_is_small(path: Path) -> None:
    """A module has at most 400 lines, or its docstring's first paragraphs say why it is longer."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    docstring = ast.get_docstring(tree(path)) or ""
    assert lines <= MAX_LINES or re.search(r"\b[Ll]onger than\b", "\n\n".join(docstring.split("\n\n")[:2]))


def awaited_methods() -> Iterator[tuple[str, str]]:
    """The public methods of the interfaces that are awaited, with their docstrings."""
    for cls in tree(CORE / "abc.py").body:
        if not isinstance(cls, ast.ClassDef):
            continue
        for node in cls.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            returns = ast.unparse(node.returns) if node.returns else ""
            if isinstance(node, ast.AsyncFunctionDef) or returns.startswith("Coroutine["):
                yield f"{cls.name}.{node.name}", ast.get_docstring(node) or ""


def test_interfaces_carry_the_fixed_lines() -> None:
    """Every awaited method of an interface says what it promises on order, cancellation, concurrency and cost."""
    found = {}
    for name, docstring in awaited_methods():
        labels = [
            line.partition(":")[0].lower() for line in docstring.splitlines() if re.match(r"[A-Z][a-z, ]+:", line)
        ]
        spoken = set(re.split(r",\s*", ", ".join(labels)))
        found[name] = " ".join(word for word in ("order", "cancellation", "concurrency", "cost") if word in spoken)
    assert found == FIXED_LINES


def test_interfaces_are_small() -> None:
    """An interface is a Protocol of at most five methods of its own, the stream's dunders aside."""
    for cls in tree(CORE / "abc.py").body:
        if isinstance(cls, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in cls.bases):
            methods = [node for node in cls.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
            own = [node.name for node in methods if not node.name.startswith("__") and not is_property(node)]
            assert len(own) <= 5, cls.name


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)
