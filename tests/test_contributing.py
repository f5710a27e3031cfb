"""Workflows, issue forms and hooks are well-formed, and the commands that they run exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]
HOOKS = ROOT / ".pre-commit-config.yaml"
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
COMMANDS = [*WORKFLOWS, HOOKS, ROOT / ".github" / "pull_request_template.md", ROOT / ".ci" / "run"]
"""Files with commands that are not meant to be typed."""

FIELDS = {"textarea", "input", "dropdown", "checkboxes"}


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(job: Any) -> Iterator[str]:
    """The commands of a job."""
    yield from (step["run"] for step in job["steps"] if "run" in step)


@pytest.mark.parametrize("path", COMMANDS, ids=short)
def test_commands_are_targets(path: Path) -> None:
    """Each `make` command of a workflow, a hook or a form is a target of the Makefile."""
    named = re.findall(r"\bmake ([a-z-]+)", path.read_text(encoding="utf-8"))
    assert named
    assert set(named) <= TARGETS


def test_the_map_has_every_room() -> None:
    """Each package is on the map of the page for contributors."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = "\n".join(row.split("|")[1] for row in page.partition("## The map")[2].splitlines() if row.startswith("|"))
    packages = [path.parent for path in [*ROOT.glob("notify_*/__init__.py"), *ROOT.glob("notify/*/__init__.py")]]
    assert len(packages) > 15
    assert not [short(path) for path in packages if f"{path.name}/`" not in places]


def test_continuous_integration_covers_what_is_promised() -> None:
    """Every Python that the package names, its pinned drivers, the oldest ones, and the newest of all."""
    jobs = loaded(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    matrix = jobs["test"]["strategy"]["matrix"]
    assert matrix["python"] == named == ["3.11", "3.12", "3.13", "3.14"]
    assert project["requires-python"] == f">={named[0]}"
    pins = {*matrix["constraints"], *(each["constraints"] for each in matrix["include"])}
    assert pins == {path.name for path in ROOT.glob("constraints*.txt")}
    assert {"make check", "make docs"} <= set(steps(jobs["check"]))
    assert any("CONSTRAINTS=/dev/null" in command for command in steps(jobs["newest"]))


@pytest.mark.parametrize("path", WORKFLOWS, ids=short)
def test_workflows_have_few_rights(path: Path) -> None:
    """A workflow may only read; every job ends by itself, and takes its actions at a named version."""
    workflow = loaded(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job.get("timeout-minutes", 0) > 0, name
        for step in job["steps"]:
            assert "run" in step or re.fullmatch(r"[\w-]+/[\w-]+@[\w/.-]+", step["uses"]), (name, step)


def test_a_release_is_a_tag_that_was_tested() -> None:
    """It is built from a tag after the tests, the built version is that of the tag, and no secret is needed."""
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key `on` as true
    commands = [*steps(build)]
    order = [
        next(i for i, command in enumerate(commands) if command.startswith(f"make {name}"))
        for name in ("check", "test", "dist")
    ]
    assert order == sorted(order)
    assert 'test -f "dist/notify_streams-${GITHUB_REF_NAME#v}-py3-none-any.whl"' in commands
    assert (publish["needs"], publish["environment"]) == ("build", "release")
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets." not in text


@pytest.mark.parametrize("path", FORMS, ids=short)
def test_forms_are_well_formed(path: Path) -> None:
    """A form has a name, a description, and fields of their own names, of which one at least must be filled in."""
    form = loaded(path)
    assert form["name"]
    assert form["description"]
    fields = [each for each in form["body"] if each["type"] != "markdown"]
    assert {each["type"] for each in fields} <= FIELDS
    assert len({each["id"] for each in fields}) == len(fields)
    assert all(each["attributes"]["label"] for each in fields)
    assert any(each.get("validations", {}).get("required") for each in fields)


def test_each_commit_can_be_checked() -> None:
    """pre-commit runs `make check`, for the whole of the checkout."""
    (repository,) = loaded(HOOKS)["repos"]
    (hook,) = repository["hooks"]
    assert repository["repo"] == "local"
    assert (hook["entry"], hook["language"], hook["pass_filenames"]) == ("make check", "system", False)
