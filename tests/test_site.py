"""The documentation's site, which `make docs` builds strictly: what it is built from, checked without its tools."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NAVIGATION = re.findall(
    r"^ +- (?:[^:\n]+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE
)
HOOKS = (DOCS / "_build" / "hooks.py").read_text(encoding="utf-8")
TOPS = sorted(path.parent for path in ROOT.glob("notify*/__init__.py"))


def constant(name: str) -> Any:
    """A constant of the hooks, which need the site's tools to be imported."""
    for node in ast.parse(HOOKS).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(name)


def public_modules() -> set[str]:
    """Every module that may be imported: its path holds no underscore at the beginning of a name.

    What `notify.testing` is made of is described there, and the command line is not imported.
    """
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for top in TOPS
        for path in top.rglob("*.py")
    }
    public = {name for name in names if not re.search(r"(^|\.)_", name)}
    return {name for name in public if not name.startswith(("notify.testing.", "notify.cli"))}


def test_every_page_is_in_the_navigation() -> None:
    """Each page of docs/, and each page that is taken in from elsewhere, has one place in the navigation."""
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(NAVIGATION) == sorted(pages | set(constant("ADOPTED").values()))


def test_adopted_pages_exist() -> None:
    """The pages from outside docs/ are there, and none of them hides one of docs/."""
    for name, on_site in constant("ADOPTED").items():
        assert (ROOT / name).is_file()
        assert not (DOCS / on_site).exists()


def test_the_reference_covers_every_module() -> None:
    """Each public module has a page of the reference, and the list of them links to it."""
    described: dict[str, str] = {}
    for page in sorted((DOCS / "reference").glob("*.md")):
        for module in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert module not in described
            described[module] = page.name
    assert set(described) == public_modules()
    index = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    assert {
        module: page for module, page in re.findall(r"^\| \[`([\w.]+)`\]\((\S+)\)", index, re.MULTILINE)
    } == described


def test_the_build_checks_every_package() -> None:
    """`make docs` holds the reference to the `__all__` of each public module that has one."""
    with_all = {
        name
        for name in public_modules()
        for path in [ROOT / name.replace(".", "/") / "__init__.py", ROOT / f"{name.replace('.', '/')}.py"]
        if path.exists() and re.search(r"^__all__ = ", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert set(constant("PACKAGES")) == with_all


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda path: path.relative_to(DOCS).as_posix())
def test_links_that_leave_the_docs_lead_to_the_site(page: Path) -> None:
    """A page links to what the site has: a page of docs/, or one that is taken in or replaced there."""
    known = set(constant("ADOPTED")) | set(constant("ELSEWHERE"))
    for link in re.findall(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8")):
        target = (page.parent / link).resolve()
        assert target.is_relative_to(DOCS) or target.relative_to(ROOT).as_posix() in known, link


@pytest.mark.parametrize("name", ["streams", "redis", "postgres", "sqlite", "inbox", "web", "dispatch"])
def test_internals_draw_who_calls_whom(name: str) -> None:
    """Each page on the internals of a backend or a layer has a sequence diagram."""
    page = (DOCS / "internals" / f"{name}.md").read_text(encoding="utf-8")
    assert "```mermaid\nsequenceDiagram\n" in page


def test_commands_name_files_that_exist() -> None:
    """Every test file and folder that the page for contributors names is there."""
    named = re.findall(r"\btests/[\w/.]*\w", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / name).exists()]
