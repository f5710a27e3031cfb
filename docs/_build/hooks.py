"""What `make docs` adds to MkDocs: pages of the repository that stand outside docs/, and a check of the reference.

Links are written for a code host, where README.md stands beside docs/. On the site the same links must lead to the same
pages, so they are rewritten here.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.utils import log
from mkdocstrings import Inventory

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

ADOPTED = {
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "tests/faults/README.md": "internals/fault-matrix.md",
}
"""Pages outside docs/ that the site includes, and their paths there."""

ELSEWHERE = {"README.md": "index.md"}
"""Pages outside docs/ that the site replaces by another one."""

PACKAGES = ("notify", "notify.adapters", "notify.dispatch", "notify.dispatch.channels", "notify.dispatch.reports", "notify.http", "notify.inbox", "notify.sync", "notify.testing", "notify.web", "notify.webhook", "notify_memory", "notify_sqlite", "notify_redis", "notify_pg")
"""What has an `__all__` that the reference must cover."""

LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the adopted pages."""
    for path, on_site in ADOPTED.items():
        files.append(File.generated(config, on_site, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links that cross the border of docs/."""
    source = page.file.src_uri
    here = Path(page.file.abs_src_path).parent

    def on_site(link: re.Match[str]) -> str:
        target = (here / link[2]).resolve()
        if not target.is_relative_to(ROOT):
            return link[0]
        path = target.relative_to(ROOT).as_posix()
        if target.is_relative_to(DOCS):
            path = target.relative_to(DOCS).as_posix()
        elif path in ADOPTED or path in ELSEWHERE:
            path = (ADOPTED | ELSEWHERE)[path]
        else:
            log.warning("%s links to %s, which the site does not have", source, path)
        relative = os.path.relpath(path, os.path.dirname(source) or ".")
        return f"{link[1]}{relative}{link[3] or ''})"

    return LINK.sub(on_site, markdown)


def public_names(package: str) -> list[str]:
    """Return the `__all__` of a package or module, read from its source; modules in it have pages of their own."""
    path = ROOT / package.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [name for name in ast.literal_eval(node.value) if not (path / f"{name}.py").exists()]
    raise PluginError(f"{package} has no __all__")


def on_post_build(config: Any) -> None:
    """Refuse a reference that lacks a public name: the inventory lists what was rendered."""
    with (Path(config.site_dir) / "objects.inv").open("rb") as file:
        rendered = set(Inventory.parse_sphinx(file))
    missing = [
        f"{package}.{name}"
        for package in PACKAGES
        for name in public_names(package)
        if f"{package}.{name}" not in rendered
    ]
    if missing:
        raise PluginError(f"the reference lacks {', '.join(missing)}")
