"""The house rules, read from the syntax trees."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.each import for_each
from tests.longest import LONGEST
from tests.measured import MEASURED_UNDER_TRIO, UNMEASURED

ROOT = Path(__file__).parent.parent
CORE = ROOT / "notify"
PACKAGES = sorted(path.parent for path in ROOT.glob("notify*/__init__.py"))
BACKENDS = [package for package in PACKAGES if package != CORE]
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))

FLOORS = (
    ["errors", "_version"],
    ["ids"],
    ["_codec"],
    ["event"],
    ["abc"],
    ["_runtime"],
    ["_stream", "_push", "_presence", "_open"],
    ["_assembly"],
    ["_pushing"],
    ["_layers"],
    ["_forgetting"],
    ["_notifier"],
    ["adapters", "__init__"],
    ["http", "inbox", "_asgi"],
    ["webhook"],
    ["dispatch"],
    ["sync", "testing"],
    ["web"],
    ["cli"],
    ["__main__"],
)
"""Who imports whom in the core, annotations included: a module imports its own room and the floors above it here."""

PUBLIC = {
    "notify", "notify.abc", "notify.adapters", "notify.errors", "notify.ids", "notify.event", "notify.inbox",
    "notify.inbox.abc", "notify.dispatch", "notify.dispatch.abc",
}  # fmt: skip
"""What a backend, the command line and the suites may import of the core."""

OUTSIDE = ["_asgi", "cli", "dispatch", "http", "inbox", "testing", "web", "webhook"]
"""Rooms of `notify` that use the core as a stranger would: by its public modules alone."""

BESIDE = {
    "cli": {
        "notify.web",
        "notify.testing.faults",
        "notify.testing.history",
        "notify.inbox",
        "notify.dispatch",
        "notify.dispatch.channels",
    },
    "dispatch": {"notify._asgi", "notify.http", "notify.inbox", "notify.webhook"},
    "testing": {"notify.dispatch.channels", "notify.inbox"},
    "web": {"notify._asgi", "notify.webhook", "notify.inbox"},
    "webhook": {"notify.http"},
}
"""Other rooms that such a room uses, by their public modules too."""

SHOWN = {"_demo_instance": "notify.testing.faults", "_demo_ledger": "notify.testing.history"}
"""Modules of the demo that show what tests do, with the fault proxy and the history checker; neither needs pytest."""

ROLES = {
    "_store": "face", "_stream_store": "face", "_router": "face", "_presence": "face",
    "_save": "first attempts of a save",
    "_retry": "what follows a failed attempt",
    "_wake": "telling other processes",
    "_listen": "being told, catching up",
    "_record": "event to and from bytes or row",
    "_names": "keys, channels, tables",
    "_inbox": "what the inboxes of the store consist of, and their changes",
    "_connection": "connecting, pools",
    "_errors": "the driver's errors, translated in one table",
    "_open": "the entry points of `notify.stores`: from a URL to a store",
    "_dispatch": "notifications and their deliveries, claimed by workers",
    "_dispatch_digests": "digests that collect notifications until they are due",
    "_dispatch_users": "what is kept of users: preferences, endpoints, counts for caps",
}  # fmt: skip
"""The modules of a backend: the same names in each, as far as it has the role."""

FURTHER = {
    "notify_memory": {"_dispatch_rows": "deliveries, found by their ids and by their recipients"},
    "notify_sqlite": {
        "_schema": "the statements, the table prefix, the version of the tables",
        "_worker": "one connection of the driver, used for whole jobs",
        "_file": "whether the file is local and still the same; why it cannot be used",
        "_opening": "what makes a connection to the file fit for use: checks, settings, tables",
        "_lock": "the lock beside the file, and who holds it",
        "_changes": "waiting until the system tells of a commit, or for the poll interval",
        "_ephemeral": "events that are not stored, from process to process",
        "_checkpoint": "moving the write-ahead log into the file, in one elected process",
        "_sweep": "removing what is over its age",
        "_append": "one transaction's events, appended to their logs",
        "_batch": "the events and the changes of inboxes of one transaction, in order",
        "_apply": "what items and changes do to the rows of an inbox",
        "_box": "one transaction's changes to rows, counters and bounds of inboxes; due items",
        "_follow": "items of other logs: topics, merged sessions",
        "_items": "rows of inboxes as their readers get them",
        "_delivery_rows": "one transaction's changes to deliveries: submissions, claims, moves",
        "_digest_rows": "one transaction's changes to digests",
    },
    "notify_redis": {
        "_attempt": "what one attempt sends, and what its replies mean: first and later ones alike",
        "_commands": "pushes without an outcome, and calls of the push script, encoded",
        "_ephemeral": "what is carried and not stored",
        "_client": "which master has which partition",
        "_pipeline": "one shared connection, with the replies in order",
        "_pubsub": "one pub/sub connection, used once",
        "_caps": "counts of frequency caps, and gates of providers",
        "_reach": "whether a server can be reached: one verdict for all connections to it",
        "_endpoint": "a URL or a client of the driver, read for where Redis is and how to log in",
        "_xread": "being told by streams instead: one blocked read of each master",
        "_discovery": "asking sentinels or a cluster for the masters",
        "_selfcheck": "settings of the server that endanger the promises",
        "_scripts": "the Lua scripts",
        "_inbox_keys": "the keys of an inbox, and what is written in them",
        "_inbox_rows": "pages of an inbox: how one is asked for, and what the reply means",
    },
    "notify_pg": {
        "_dsn": "a DSN is read before the driver could print a piece of its password",
        "_connect": "one connection; which files, settings and variables are to blame where it fails",
        "_ephemeral": "events that are not stored, by NOTIFY",
        "_fragments": "an event that is larger than a notification",
        "_outbox": "events in the caller's transaction, and their relay",
        "_reachable": "whether the server is known to be unreachable, for all parts of the process",
        "_partitions": "the daily partitions of the events, and the default one",
        "_queue": "saves that wait, each user's in the order of the calls",
        "_effects": "what the events of a batch do to inboxes, as the functions of the database are told it",
        "_items": "items, counts and pages from rows",
        "_pool": "connections that need no reset between two borrowers",
        "_retention": "partitions and rows that expired",
        "_schema": "tables and their migration",
        "_delivery_rows": "deliveries as the functions of the database are told of them, and as they are read",
        "_dispatch_calls": "what follows a failed call about deliveries, and which error the caller gets",
        "_dispatch_schema": "the tables of deliveries, which exist only where they are used",
    },
}
"""Modules that one backend has beside them, and what they are for: roles that the others do not have."""

LONG = {
    "notify._assembly.assemble": "makes the parts one by one, each from those before it",
    "notify._stream._subscription.__anext__": "the hot path of every reader stays in one frame",
    "notify.cli._main._parser": "the commands, one after the other",
    "notify.dispatch._looking._decide": "the questions about one delivery, in the order in which they count",
    "notify.dispatch._looking._prepare": "from a claim to what the channel gets, step by step",
    "notify.dispatch._settle.settle": "what follows each outcome, one branch for each",
    "notify.dispatch.channels._fcm_message.fcm_message": "one nested object, written as it is sent",
    "notify.testing._dispatch_records.test_arguments_that_no_store_takes": "a list of arguments",
    "notify.web._polling.events": "one answer, with the steps in the order of the protocol",
    "notify.web._sse.serve": "the hot path of every client stays in one frame",
    "notify_sqlite._append.append": "one transaction, statement by statement",
}
"""Functions of more than 40 lines, and why they are not split."""

OPTIONAL = {"inotify_simple"}
"""Packages beside the drivers which a backend uses where they are installed."""

PURE = {
    "notify.ids", "notify._codec", "notify._runtime._backoff", "notify._runtime._options", "notify._runtime._retention",
    "notify._runtime._urls",
    "notify._stream._splice", "notify._stream._ring", "notify._stream._cursor", "notify.webhook._signature",
    "notify.inbox._rows", "notify.inbox._fold", "notify.inbox._folds", "notify.inbox._events",
    "notify.inbox._following",
    "notify.dispatch._caps", "notify.dispatch._checks", "notify.dispatch._decisions", "notify.dispatch._digests",
    "notify.dispatch._layers", "notify.dispatch._outcomes", "notify.dispatch._plan", "notify.dispatch._preferences",
    "notify.dispatch._quiet", "notify.dispatch._quiet_hours", "notify.dispatch._reasons", "notify.dispatch._registry",
    "notify.dispatch._report", "notify.dispatch._retry", "notify.dispatch._schedules", "notify.dispatch._settings",
    "notify.dispatch._type_parts",
    "notify.dispatch._types", "notify.dispatch._zones", "notify.dispatch.channels._sms_text",
    "notify.dispatch.reports._mail",
}  # fmt: skip
PURE_LIBRARY = {
    "__future__", "abc", "base64", "binascii", "bisect", "calendar", "collections", "contextlib", "dataclasses",
    "datetime", "email", "enum", "functools", "hashlib", "heapq", "hmac", "html", "ipaddress", "itertools", "json",
    "math", "re", "tomllib", "types", "typing", "urllib", "zoneinfo",
}  # fmt: skip
PURE_MAY_USE = {
    "notify", "notify.abc", "notify.adapters", "notify.errors", "notify.event", "notify.inbox.abc",
    "notify.dispatch.abc", "notify.http",
}  # fmt: skip
IMPURE_CALLS = {"now", "utcnow", "today", "open", "print", "input", "breakpoint"}

LOOPS = {
    "notify._runtime._background": {"asyncio", "trio"},
    "notify._runtime._loop_guard": {"asyncio"},
    "notify._runtime._waking": {"asyncio"},
    "notify.dispatch.channels._smtp_pool": {"asyncio"},
    "notify_pg._connect": {"asyncio"},
    "notify.sync._loop": {"asyncio"},
    "notify.web._endpoint": {"asyncio"},
    "notify.web._watch": {"asyncio"},
    "notify.web._closing": {"asyncio"},
    "notify_pg._connection": {"asyncio"},
    "notify_pg._dispatch_calls": {"asyncio"},
    "notify_pg._listen": {"asyncio"},
    "notify_pg._outbox": {"asyncio"},
    "notify_pg._pool": {"asyncio"},
    "notify_pg._retention": {"asyncio"},
    "notify_pg._reachable": {"asyncio"},
    "notify_pg._retry": {"asyncio"},
    "notify_pg._save": {"asyncio"},
    "notify_pg._store": {"asyncio"},
    "notify_pg._wake": {"asyncio"},
    "notify_redis._client": {"asyncio"},
    "notify_redis._listen": {"asyncio"},
    "notify_redis._pipeline": {"asyncio"},
    "notify_redis._pubsub": {"asyncio"},
    "notify_redis._save": {"asyncio"},
    "notify_redis._ephemeral": {"asyncio"},
    "notify_redis._xread": {"asyncio"},
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
    "Forget.forget": "cancellation concurrency cost",
    "Prepare.prepare": "cancellation concurrency cost",
    "Enqueue.enqueue": "order cancellation concurrency cost",
    "HasOutbox.backlog": "cancellation concurrency cost",
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


@pytest.fixture(autouse=True, scope="module")
def forgotten_trees() -> Iterator[None]:
    """Keep no trees for the tests of other files: each full garbage collection would go through millions of nodes."""
    yield
    tree.cache_clear()


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


every_module = for_each(MODULES, short)
core_modules = for_each(sorted(CORE.rglob("*.py")), short)
backend_modules = for_each([path for package in BACKENDS for path in sorted(package.rglob("*.py"))], short)


def room_of(module: str) -> str:
    """The part of the core that a module belongs to: a folder, or a module beside them."""
    return module.split(".")[1] if "." in module else "__init__"


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


@core_modules
def test_core_imports_downwards_only(path: Path) -> None:
    """A module imports its own room and lower floors, annotations included, and no other room of its floor."""
    room = room_of(name_of(path))
    assert any(room in rooms for rooms in FLOORS), "give the new room its floor"
    used = {room_of(each.module) for each in imports(path) if each.top == "notify"} - {room}
    assert {other for other in used if floor_of(other) >= floor_of(room)} <= {"__init__"} & used
    if room not in OUTSIDE and room != "__main__":
        assert "__init__" not in used


@pytest.mark.parametrize("package", PACKAGES, ids=short)
def test_imports_have_no_circle(package: Path) -> None:
    """No module imports itself by way of others, annotations included."""
    graph = {
        name_of(path): {each.module for each in imports(path) if each.top == package.name} - {name_of(path)}
        for path in package.rglob("*.py")
    }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*way, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_the_drawing_shows_the_imports() -> None:
    """The drawing of the floors has every room of the core; its arrows are imports, lead down, and imply all others."""
    page = (ROOT / "docs" / "internals" / "streams.md").read_text(encoding="utf-8")
    drawing = page.partition("```mermaid\nflowchart TB\n")[2].partition("```")[0]
    names = dict(re.findall(r'(\w+)\["(\w+)"\]', drawing))
    floors = [
        re.findall(r'\["(\w+)"\]', floor)
        for floor in re.findall(r"^ +subgraph .*?^ +end$", drawing, re.DOTALL | re.MULTILINE)
    ]
    assert len(floors) == 4
    assert sorted(itertools.chain(*floors)) == sorted(names.values())
    arrows = set()
    for line in re.findall(r"^.*-->.*$", re.sub(r'\["\w+"\]', "", drawing), re.MULTILINE):
        ends = [[names[each] for each in re.findall(r"\w+", part)] for part in line.split("-->")]
        arrows |= {(one, other) for left, right in itertools.pairwise(ends) for one in left for other in right}
    above = {room: number for number, rooms in enumerate(floors) for room in rooms}
    assert all(above[one] <= above[other] for one, other in arrows)

    real = {
        (room_of(name_of(path)), room_of(each.module))
        for path in CORE.rglob("*.py")
        for each in imports(path)
        if each.top == "notify"
    }
    core = {room for rooms in FLOORS[: FLOORS.index(["adapters", "__init__"])] for room in rooms} | {"adapters"}
    assert set(names.values()) == core - {"_version"}
    assert arrows <= real

    def leads_to(room: str) -> set[str]:
        return {room}.union(*(leads_to(other) for one, other in arrows if one == room))

    for one, other in real:
        if {one, other} <= set(names.values()):
            assert other in leads_to(one), (one, other)


@core_modules
def test_core_knows_no_backend(path: Path) -> None:
    """Nothing in `notify` imports a `notify_*` package."""
    assert not {each.module for each in imports(path) if each.top.startswith("notify_")}


@core_modules
def test_core_does_not_import_its_suites(path: Path) -> None:
    """The core runs without `notify.testing`, and imports no test tool."""
    if room_of(name_of(path)) != "testing":
        used = {each.module for each in imports(path) if each.module.startswith(("notify.testing", "pytest"))}
        assert used <= {SHOWN.get(path.stem, "")}


@pytest.mark.parametrize("room", OUTSIDE)
def test_rooms_outside_use_what_a_stranger_could(room: str) -> None:
    """Beside their own modules they import public modules of the core only, no backend, no hypothesis."""
    for path in sorted((CORE / room).rglob("*.py")):
        used = {each.module for each in imports(path) if each.top.startswith(("notify", "hypothesis"))}
        strangers = {
            module for module in used if not module.startswith(f"notify.{room}.") and module != f"notify.{room}"
        }
        assert strangers <= PUBLIC | BESIDE.get(room, set()), short(path)


@pytest.mark.parametrize("package", BACKENDS, ids=short)
def test_backends_have_the_same_modules(package: Path) -> None:
    """A backend's modules have the names of their roles; what is special about it is listed with its reason."""
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    further = FURTHER[package.name]
    assert modules <= {*ROLES, *further}
    assert set(further) <= modules, "the list outlives the code"
    assert not set(further) & set(ROLES)


def test_no_two_classes_share_a_name() -> None:
    """A class name says which class is meant, over all packages."""
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(short(path))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


@pytest.mark.parametrize("name", ["__init__", "history", "faults", "dispatch"])
def test_checkers_need_no_pytest(name: str) -> None:
    """The history checker, the fault proxy and the virtual clock work without pytest, as does importing the package."""
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
    """Beside the standard library, anyio and `notify`, a backend imports one package at most, optional ones aside."""
    used = {each.top for path in package.rglob("*.py") for each in imports(path)}
    drivers = used - set(sys.stdlib_module_names) - {"anyio", "notify", package.name} - OPTIONAL
    assert len(drivers) <= 1


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_are_there(module: str) -> None:
    """Each module that must be pure exists; all but `ids` say so in their first word."""
    docstring = ast.get_docstring(tree(ROOT / f"{module.replace('.', '/')}.py")) or ""
    assert module == "notify.ids" or docstring.startswith("Pure:")


@every_module
def test_pure_module_keeps_its_word(path: Path) -> None:
    """A pure module has no I/O, clock, randomness, logging or event loop: time and chance are arguments."""
    if name_of(path) not in PURE and not (ast.get_docstring(tree(path)) or "").startswith("Pure:"):
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
    """Two files know OpenTelemetry: that of the core, and that of dispatch."""
    uses = any(each.top == "opentelemetry" for each in imports(path))
    assert uses == (name_of(path) in ("notify._runtime._telemetry", "notify.dispatch._telemetry"))


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


@pytest.mark.parametrize("name", ["notify.dispatch", "notify.testing", "notify.testing.dispatch"])
def test_what_is_imported_late_is_what_type_checkers_see(name: str) -> None:
    """A module that imports its names when they are asked for has those of its annotations, and no others."""
    module = importlib.import_module(name)
    late = [each for each in imports(Path(str(module.__file__))) if each.for_annotations]
    assert late
    for each in late:
        assert getattr(module, str(each.name)) is getattr(importlib.import_module(each.module), str(each.name))
    assert not hasattr(module, "Dispatchor")
    assert {each.name for each in late} <= set(module.__all__)


@pytest.mark.parametrize("name", ["abc", "app", "templates"])
def test_public_modules_of_dispatch_are_found_without_importing_them(name: str) -> None:
    """Importing the package is enough to use one; and it lists every name that it exports, before any is used."""
    code = (
        "import notify.dispatch as package, types\n"
        "assert {*package.__all__, '__name__'} <= {*dir(package)}\n"
        f"assert {name!r} not in vars(package)\n"
        f"assert isinstance(package.{name}, types.ModuleType)\n"
        f"assert package.{name}.__name__ == 'notify.dispatch.{name}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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


@every_module
def test_functions_are_short(path: Path) -> None:
    """A function has at most 40 lines after its docstring, or stands in the list with its reason."""
    module = name_of(path)
    long = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if len(node.body) > 1 and ast.get_docstring(node) is not None else node.body
            if (body[-1].end_lineno or 0) - body[0].lineno >= 40:
                long.add(f"{module}.{node.name}")
    assert long == {name for name in LONG if name.rpartition(".")[0] == module}


def test_the_heart_is_small() -> None:
    """The stream that reads one log fits into 300 lines, the notifier stays under 400, and its constructor under 40."""
    assert len((CORE / "_stream" / "_subscription.py").read_text(encoding="utf-8").splitlines()) <= 300
    assert len((CORE / "_notifier.py").read_text(encoding="utf-8").splitlines()) < 400
    (notifier,) = (
        node
        for node in ast.walk(tree(CORE / "_notifier.py"))
        if isinstance(node, ast.ClassDef) and node.name == "Notifier"
    )
    constructor = [node for node in notifier.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"][
        -1
    ]  # those before it are overloads
    assert 1 + constructor.body[-1].end_lineno - constructor.body[0].lineno < 40


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


def test_the_longest_files_exist() -> None:
    """Each file of the order is there, and named once: a renamed file has to be renamed in the order, too."""
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)


def test_what_is_not_measured_exists() -> None:
    """A file or test that is renamed has to be renamed in the lists of what is measured, too."""
    named = [*UNMEASURED, *MEASURED_UNDER_TRIO]
    for name in named:
        file, _, test = name.partition("::")
        assert (ROOT / "tests" / file).exists(), name
        assert not test or f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), name
    assert len(set(named)) == len(named)


def test_quick_starts_no_servers() -> None:
    """A test file that uses a Redis or PostgreSQL server of the tests is left out of `make quick`, or its tests are."""
    command = subprocess.run(["make", "-n", "quick"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    left_out = [ROOT / name for name in re.findall(r"--ignore=(\S+)", command.stdout)]
    by_themselves = {"tests/test_docs.py", "tests/notify/test_open_store.py"}  # by QUICK, and as slow
    servers = {"tests.servers.postgres", "tests.servers.redis", "tests.dispatch.stores"}
    assert left_out
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if not any(path.is_relative_to(each) for each in left_out) and short(path) not in by_themselves:
            used = servers & {each.module for each in imports(path)}
            assert not used, f"add {short(path)} to NEED_SERVERS in the Makefile"
