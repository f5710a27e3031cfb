"""The console blocks of the documentation: every command is run and must print what the page shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.commands import PATIENCE, Running, called, environment, running

ROOT = Path(__file__).parents[2]
PAGES = ["docs/howto/command-line.md", "docs/quickstart.md"]
FENCE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ID = re.compile(r"\b\d{13}-\d+\b")
VARIES = (
    (r"\d{4}\\-\d\d\\-\d\dT\d\d:\d\d:\d\dZ", r"\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\dZ"),
    (r"[\d.\\]+\\ ms", r"[\\d.]+ ms"),
    (r"\\ \d+\\ bytes$", r" \\d+ bytes"),
)
"""Parts that differ between runs: times, durations and sizes."""


class Page:
    """A page whose commands are run one after the other in one directory.

    Attributes:
        real: maps each id of the page to the id of this run.
    """

    def __init__(self, text: str, directory: Path, stack: ExitStack) -> None:
        self.blocks: list[list[tuple[str, list[str]]]] = []
        for block in FENCE.findall(text):
            commands: list[tuple[str, list[str]]] = []
            for line in block.splitlines():
                if line.startswith("$ "):
                    commands.append((line[2:], []))
                elif commands:
                    commands[-1][1].append(line)
            self.blocks.append(commands)
        self.directory = directory
        self.stack = stack
        self.real: dict[str, str] = {}
        self.following: list[tuple[Running, list[str]]] = []

    def run(self) -> int:
        """Run every command of the page and return their number."""
        commands = [command for block in self.blocks for command in block]
        for command, expected in commands:
            command = ID.sub(lambda match: self.real[match[0]], command)
            words = shlex.split(command)
            if words[:2] == ["notify", "tail"] and "--no-follow" not in words:
                tail = self.stack.enter_context(running(self.directory, *words[1:]))
                self.following.append((tail, expected))
                tail.wait_for("", tail.err)  # it has opened the file
            else:
                self.compare(command, expected, self.output(command))
        for tail, expected in self.following:
            lines = [line for line in expected if not line.startswith("notify: ")]
            tail.wait_for("", count=len(lines))
            self.compare("tail", expected, [*tail.err, *tail.out[: len(lines)]])
            assert tail.interrupt().status == 130
        return len(commands)

    def output(self, command: str) -> list[str]:
        """The lines that a command prints. It runs in this process, half a second faster, if it needs no shell."""
        words = shlex.split(command)
        if words[0] == "notify" and not re.search(r"[|<>&;$]", re.sub(r"'[^']*'", "", command)):
            done = called(self.directory, *words[1:])
            lines = [*done.err.splitlines(), *done.out.splitlines()]
        else:
            lines = self.in_shell(command).splitlines()
        return [line for line in lines if not line.startswith("warning  ")]  # logged for an old SQLite

    def in_shell(self, command: str) -> str:
        script = self.directory / "bin" / "notify"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error -m notify "$@"\n')
        script.chmod(0o755)
        path = f"{script.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=environment({"PATH": path}),
        )
        return done.stdout

    def compare(self, command: str, expected: list[str], lines: list[str]) -> None:
        """Compare output with the page. The first occurrence of an id binds it to the real id from then on."""
        assert len(lines) == len(expected), (command, lines)
        for shown, line in zip(expected, lines, strict=True):
            pattern, start, names = "", 0, []
            for match in ID.finditer(shown):
                pattern += re.escape(shown[start : match.start()])
                known = self.real.get(match[0])
                pattern += f"({ID.pattern})" if known is None else f"({known})"
                names.append(match[0])
                start = match.end()
            pattern += re.escape(shown[start:])
            for varies, anything in VARIES:
                pattern = re.sub(varies, anything, pattern)
            found = re.fullmatch(pattern, line)
            assert found is not None, (command, shown, line)
            self.real.update(zip(names, found.groups(), strict=True))


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.timeout(240)
def test_consoles(name: str, tmp_path: Path) -> None:
    """The commands of a page, run in order in an empty directory, print what the page shows."""
    with ExitStack() as stack:
        assert Page((ROOT / name).read_text(encoding="utf-8"), tmp_path, stack).run() >= 3


def test_wrong_page_fails(tmp_path: Path) -> None:
    """A page with different output fails, and so does a page that uses a different id for the same event."""
    for wrong in (
        "1\n",
        "1795258714800-0\n$ notify head alice\n0\n",
        "1795258714800-0\n$ notify head bob\n1795258714800-0\n",
    ):
        with ExitStack() as stack, pytest.raises(AssertionError):
            Page(f"```console\n$ notify push alice t 2>&-\n{wrong}```", tmp_path, stack).run()
