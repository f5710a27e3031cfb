"""The page for operators: every metric, span, logger and warning of the source is explained there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "howto" / "operations.md").read_text(encoding="utf-8")
TOPS = sorted(path.parent.name for path in ROOT.glob("notify*/__init__.py"))
TELEMETRY = [ROOT / "notify" / "_runtime" / "_telemetry.py", ROOT / "notify" / "dispatch" / "_telemetry.py"]

OUTAGE_LOG = ROOT / "notify" / "_runtime" / "_outage_log.py"
"""The one module that logs texts which it was given."""

LEVELS = {"warning", "error", "critical", "exception"}


class Logs(NamedTuple):
    """What the modules of a package log, and by which loggers."""

    messages: frozenset[str]
    loggers: frozenset[str]


def text_of(node: ast.expr, where: str) -> str:
    """A message as the page writes it: what varies is an ellipsis."""
    if isinstance(node, ast.Constant):
        return re.sub(r"%[a-z]", "…", node.value)
    assert isinstance(node, ast.JoinedStr), f"{where}: a message that is logged is written where it is logged"
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)


@cache
def logs(top: str) -> Logs:
    """Every text that a package logs as a warning or worse, and the names of its loggers."""
    messages, loggers = set[str](), set[str]()
    for path in sorted((ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                if path != OUTAGE_LOG:
                    messages.update(messages_of(node, f"{path.name}:{node.lineno}"))
                loggers.update(loggers_of(node))
    return Logs(frozenset(messages), frozenset(loggers))


def messages_of(node: ast.Call, where: str) -> Iterator[str]:
    """The texts that a call logs, now or later."""
    function = node.func
    if isinstance(function, ast.Attribute) and function.attr in LEVELS:
        if "logger" in ast.unparse(function.value):
            yield text_of(node.args[0], where)
    elif isinstance(function, ast.Name) and function.id == "OutageLog":
        _, failing, recovered = node.args
        yield text_of(failing, where) + ": …"
        yield text_of(recovered, where)


def loggers_of(node: ast.Call) -> Iterator[str]:
    """The logger of the library that a call gets, if it gets one."""
    function = node.func
    if isinstance(function, ast.Attribute) and function.attr == "getLogger" and node.args:
        name = node.args[0]
        if isinstance(name, ast.Constant) and name.value.startswith("notify"):
            yield name.value


def rows() -> set[str]:
    """The messages of the page's tables."""
    table = PAGE.partition("\n## Warnings\n")[2]
    cells = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    return {message for cell in cells for message in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("top", TOPS)
def test_every_warning_is_explained(top: str) -> None:
    """Each message that a package logs as a warning or an error has a row that says what it means and what to do."""
    assert logs(top).messages <= rows()


def test_no_row_is_out_of_date() -> None:
    """Each row explains a message that is still logged."""
    assert rows() <= {message for top in TOPS for message in logs(top).messages}


def test_every_row_says_what_to_do() -> None:
    """A row has three cells, and none is empty."""
    for line in PAGE.partition("\n## Warnings\n")[2].splitlines():
        if line.startswith("| "):
            assert len([cell for cell in line.strip("|").split(" | ") if cell.strip()]) == 3, line


def test_every_metric_and_span_is_listed() -> None:
    """Each instrument and span that the telemetry names is in the page, with its labels; no other is."""
    nodes = [node for path in TELEMETRY for node in ast.walk(ast.parse(path.read_text()))]
    strings = {node.value for node in nodes if isinstance(node, ast.Constant)}
    ours = {text for text in strings if isinstance(text, str) and re.fullmatch(r"notify\.[a-z_.]+", text)}
    tables = PAGE.partition("\n## Loggers\n")[0]
    labels = {f"notify.{name}" for name in ("type", "channel", "state", "reason", "attempt")}
    assert ours - labels == set(re.findall(r"^\| `(notify\.[a-z_.]+)`", tables, re.MULTILINE))
    assert all(f"`{label}`" in tables for label in labels)


@pytest.mark.parametrize("top", TOPS)
def test_every_logger_is_listed(top: str) -> None:
    """A package has one logger, and the web layer one of its own; the page names them."""
    names = logs(top).loggers
    own = "notify" if top in ("notify", "notify_memory") else top.replace("_", ".")
    assert names <= ({own, "notify.web"} if top == "notify" else {own})
    assert all(f"| `{name}` |" in PAGE for name in names)
