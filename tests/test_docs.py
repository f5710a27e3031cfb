"""The documentation: every snippet runs, every link leads somewhere, every claim about commands holds."""

from __future__ import annotations

import ast
import asyncio
import builtins
import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import anyio
import pytest

from notify import Event, Notifier, RoutingInfo, dispatch, http, webhook
from notify_memory import MemoryStore
from tests.code import code_lines
from tests.each import for_each
from tests.language import EXCUSED, HABITS, Habit, findings, pattern_of
from tests.parts import untraced_environment
from tests.servers import postgres, redis

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [
    README,
    *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = sorted(path for package in ROOT.glob("notify*/") for path in package.rglob("*.py"))
WRITTEN = sorted(
    {
        *PAGES,
        *SOURCES,
        *(path for package in ROOT.glob("notify*/") for kind in ("sql", "lua") for path in package.rglob(f"*.{kind}")),
        *(ROOT / "docs").rglob("*.py"),
        *ROOT.glob("*.md"),
        ROOT / "Makefile",
        ROOT / "tests" / "faults" / "README.md",
    }
)
"""What is held to the language of the project."""

TEST_NAME = re.compile(r"`[\w/]+::\w+`")
"""A reference to a test."""

HOWTOS = ("custom-router", "custom-store", "custom-presence", "custom-inbox", "custom-channel")
"""The pages that build a part and hold it to the suites."""

SERVED = {"web.md", "sync-frameworks.md", "celery.md"}
"""Pages whose snippets are files: tests/web/test_web_docs.py and tests/dispatch/test_celery_docs.py run them."""

OPTIONAL = {"apscheduler.md": "apscheduler"}
"""Pages about a library that an environment may lack; those that `make` prepares have it."""

SECONDS = 60
"""How long all snippets of one page may take: for a hang, on any machine."""

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)

FORBIDDEN = ("guaranteed delivery", "exactly once", "exactly-once", "never loses")
"""Words that promise more than any library can keep."""

ALLOWED = ("*Not promised.* Exactly-once processing;", "encoded exactly once")
"""Where the words do not promise delivery."""

THREE_LINES = """\
notifier = Notifier(store=MemoryStore(), router=MyRouter())
event = await notifier.push("alice", "comment.created", {"post": 7})
async for event in notifier.subscribe("alice", last_id): ...
"""


class Snippet(NamedTuple):
    """A fenced block of a page."""

    language: str
    line: int
    source: str


def snippets(page: Path, language: str) -> Iterator[Snippet]:
    text = page.read_text(encoding="utf-8")
    for block in FENCE.finditer(text):
        if block[2] == language:
            yield Snippet(block[2], text.count("\n", 0, block.start()) + 2, textwrap.dedent(block[3]))


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def compiled(snippet: Snippet, page: Path) -> CodeType:
    """Compile a snippet, with `await` allowed at its top level, so that tracebacks show the page's lines."""
    code = compile(
        "\n" * (snippet.line - 1) + snippet.source,
        str(page),
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    assert isinstance(code, CodeType)
    return code


def run_all(page: Path) -> None:
    """Run the Python snippets of a page in order, in one namespace and one event loop."""
    namespace: dict[str, Any] = {"__name__": page.stem}
    with asyncio.Runner() as runner:
        for block in snippets(page, "python"):
            if block.source == THREE_LINES:
                continue  # it never ends by itself: it has its own test
            code = compiled(block, page)
            if code.co_flags & inspect.CO_COROUTINE:
                runner.run(asyncio.wait_for(eval(code, namespace), SECONDS))
            else:
                exec(code, namespace)


@contextmanager
def server_for(page: Path, environment: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a private server where the snippets of a page talk to one, and say in the environment where it is."""
    if page.name == "redis.md":
        with redis.single() as server:
            environment.setenv("REDIS_URL", server.url)
            yield
    elif page.name in {"postgres.md", "transactions.md"}:
        with postgres.running() as database:
            environment.setenv("DATABASE_URL", database.dsn)
            yield
    else:
        yield


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(snippets(page, "python")) and page.name not in SERVED], ids=short
)
def test_snippets_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every Python snippet of a page runs as it stands, after those above it, in an empty directory."""
    if page.name in OPTIONAL:
        pytest.importorskip(OPTIONAL[page.name])
    monkeypatch.chdir(tmp_path)
    with server_for(page, monkeypatch):
        if "settings.configure(" in page.read_text(encoding="utf-8"):  # Django has one configuration for each process
            run = f"import tests.test_docs as docs; docs.run_all(docs.ROOT / {short(page)!r})"
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run([sys.executable, "-W", "error", "-c", run], env=environment, check=True, timeout=SECONDS)
        else:
            run_all(page)


def definitions(name: str) -> str:
    """What a how-to defines: its snippets without those that await something."""
    page = ROOT / "docs" / "howto" / f"{name}.md"
    plain = [block for block in snippets(page, "python") if not compiled(block, page).co_flags & inspect.CO_COROUTINE]
    return "\n".join(block.source for block in plain)


@pytest.mark.timeout(240)  # the store of the page syncs its file for each event, which waits for the disk
def test_documented_parts_pass_the_suites(tmp_path: Path) -> None:
    """The part that each how-to builds passes the shipped suites as the how-to runs them, on both event loops."""
    files = {f"test_{name.replace('-', '_')}.py": definitions(name) for name in HOWTOS}
    for file, source in files.items():
        (tmp_path / file).write_text(source, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "-p",
        "anyio",
        "--rootdir",
        str(tmp_path),
    ]
    # All a suite needs is AnyIO's plugin; to import those of this project takes seconds.
    environment = {**untraced_environment(), "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stdout
    for file in files:
        assert len(re.findall(rf"^{re.escape(file)}::.* PASSED", done.stdout, re.MULTILINE)) > 10, file


@pytest.mark.slow
def test_documented_parts_are_typed(tmp_path: Path) -> None:
    """The parts that the how-tos build, and their test classes, pass `mypy --strict`."""
    for name in HOWTOS:
        (tmp_path / f"{name.replace('-', '_')}.py").write_text(definitions(name), encoding="utf-8")
    options = ("--strict", "--follow-imports=silent", f"--config-file={os.devnull}", f"--cache-dir={os.devnull}")
    command = [sys.executable, "-m", "mypy", *options, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=untraced_environment(), capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "part", "limit"),
    [
        ("custom-store", "LiteStore", 60),
        ("custom-store", "LiteStreamStore", 20),
        ("custom-router", "FolderRouter", 15),
        ("custom-presence", "DirectoryPresence", 40),
        ("custom-inbox", "JournalStore", 110),
        ("custom-channel", "ChatChannel", 20),
    ],
)
def test_documented_parts_are_short(name: str, part: str, limit: int) -> None:
    """An adapter takes no more lines than its page says; all that its snippet defines counts."""
    page = ROOT / "docs" / "howto" / f"{name}.md"
    (block,) = (block for block in snippets(page, "python") if f"\nclass {part}(" in block.source.replace(":", "("))
    assert 0 < code_lines(block.source) <= limit


@pytest.mark.parametrize("name", ["README.md", "docs/quickstart.md", "docs/concepts.md", "docs/howto/custom-router.md"])
def test_pages_that_teach_have_snippets(name: str) -> None:
    """The pages for beginners show code, and the parser finds it."""
    assert list(snippets(ROOT / name, "python"))


@for_each(PAGES, short)
def test_every_fence_is_understood(page: Path) -> None:
    """A block is Python that runs, a page or script for browsers, a configuration that tests run, a console, a diagram,
    or plain text: no other label hides code from these tests."""
    labels = re.findall(r"^ *```(\S*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(labels[::2]) <= {"python", "html", "js", "nginx", "console", "text", "mermaid"}
    assert set(labels[1::2]) <= {""}


class MyRouter:
    """Goes nowhere."""

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        """Do nothing."""


def test_three_lines_run_as_typed() -> None:
    """The three lines of the README run as they are typed; the loop ends when the notifier is closed."""
    assert THREE_LINES in README.read_text(encoding="utf-8")
    code = compile(THREE_LINES, "three lines", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    namespace: dict[str, Any] = {"Notifier": Notifier, "MemoryStore": MemoryStore, "MyRouter": MyRouter, "last_id": "0"}

    def is_seen() -> bool:
        return "notifier" in namespace and namespace["notifier"].statistics().delivered_replayed == 1

    async def main() -> None:
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
            tasks.create_task(eval(code, namespace))
            while not is_seen():  # noqa: ASYNC110 - only the code under test knows its notifier
                await anyio.sleep(0.001)
            await namespace["notifier"].aclose()

    asyncio.run(main())
    assert namespace["event"].payload == {"post": 7}


def test_readme_is_short() -> None:
    """The README has at most 120 lines, and its first example at most 15."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120
    assert len(next(snippets(README, "python")).source.splitlines()) <= 15


def test_readme_example_prints_what_it_says() -> None:
    """The first example, as a script under strict warnings, prints one event and ends."""
    script = next(snippets(README, "python")).source
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        cwd=ROOT,
        env=untraced_environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+-\d+ comment\.created \{'post': 7\}\n", done.stdout)
    slow = re.compile(r"Executing <Task .*> took [\d.]+ seconds")  # asyncio's debug mode, on a busy machine
    assert not [line for line in done.stderr.splitlines() if not slow.fullmatch(line)]


@for_each(PAGES, short)
def test_make_targets_exist(page: Path) -> None:
    """Every `make` command that a page names is a target, and an extra that it installs exists."""
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make (\w+)", text, re.MULTILINE)) <= targets
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in re.findall(r"'\.\[(\w+)\]'", text))


def test_readme_names_every_command() -> None:
    """The README tells how to see the demo, run the tests, check the code and measure."""
    consoles = "".join(block.source for block in snippets(README, "console"))
    assert set(re.findall(r"^make (\w+)", consoles, re.MULTILINE)) >= {"demo", "test", "check", "bench"}


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@for_each(PAGES, short)
def test_links_resolve(page: Path) -> None:
    """Every relative link names a file of the checkout, and a heading of it where it has an anchor."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reachable() -> None:
    """From the README, links lead to every page."""
    todo, seen = [README], set[Path]()
    while todo:
        page = todo.pop()
        seen.add(page)
        links = re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8"))
        todo += {(page.parent / link).resolve() for link in links} - seen
    assert seen >= set(PAGES)


@for_each([*PAGES, *SOURCES], short)
def test_no_word_promises_too_much(path: Path) -> None:
    """No page and no docstring uses the words of a promise that cannot be kept."""
    text = " ".join(path.read_text(encoding="utf-8").split())
    for words in ALLOWED:
        text = text.replace(words, "")
    assert not [words for words in FORBIDDEN if words in text.lower()]


@for_each(WRITTEN, short)
def test_language(path: Path) -> None:
    """Source, messages, comments and pages avoid the phrases of `tests/language.py`."""
    found = [
        f"{short(path)}:{line}: {phrase!r}; write: {instead}"
        for line, phrase, instead in findings(TEST_NAME.sub("``", path.read_text(encoding="utf-8")))
        if (short(path), phrase.lower()) not in EXCUSED
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.samples[0])
def test_phrases_are_recognised(habit: Habit) -> None:
    """Each pattern of the list matches its samples, and does not match inside a longer word."""
    pattern = pattern_of(habit)
    for sample in habit.samples:
        found = pattern.search(sample)
        assert found is not None, sample
        assert not pattern.search(f"x{found[0]}x".replace("\n", " "))


def test_plain_english_is_not_refused() -> None:
    """Phrases that resemble those of the list are accepted."""
    text = """There is no event. It is no longer open; there are no others, if x is None. The shepherd, this header. Use
    pip install notify-streams, pip install 'notify-streams[all]' or notify-streams[pg]. It is none of these, and what
    comes next is open."""
    assert not list(findings(text))


def test_excuses_are_needed() -> None:
    """Every excused phrase still occurs in its file, and its reason is given."""
    for (name, phrase), reason in EXCUSED.items():
        assert reason
        assert phrase in {found.phrase.lower() for found in findings((ROOT / name).read_text(encoding="utf-8"))}


FEATURES = ROOT / "docs" / "features.md"


def test_features_have_every_row() -> None:
    """Each behaviour of the four systems has one row."""
    found = re.findall(r"^\| ((?:SK|TP|FL|GH)-\d+) \|", FEATURES.read_text(encoding="utf-8"), re.MULTILINE)
    counts = {"SK": 121, "TP": 77, "FL": 33, "GH": 113}
    assert sorted(found) == sorted(f"{key}-{n:02}" for key, count in counts.items() for n in range(1, count + 1))


def test_features_name_pages_with_snippets() -> None:
    """A row that is shown by a page links to one that has snippets, or its section does."""
    for section in re.split(r"^##", FEATURES.read_text(encoding="utf-8"), flags=re.MULTILINE):
        introduction = "\n".join(line for line in section.splitlines() if not line.startswith("|"))
        for row in re.findall(r"^\| .* \| page \|$", section, re.MULTILINE):
            links = re.findall(r"\]\(([^)#]+)", row) or re.findall(r"\]\(([^)#]+)", introduction)
            assert any(list(snippets(FEATURES.parent / link, "python")) for link in links), row


def test_features_name_tests_that_exist() -> None:
    """Each row names tests, each of which is the only one of its name, or a page, or has none."""
    rows = re.findall(
        r"^\| ((?:SK|TP|FL|GH)-\d+) \|.*\| ([^|]+) \|$", FEATURES.read_text(encoding="utf-8"), re.MULTILINE
    )
    for number, shown in rows:
        for each in [] if shown in {"page", "none"} else shown.split(", "):
            named = re.fullmatch(r"`([\w/]+)::(?:(\w+)::)?(\w+)`", each)
            assert named, (number, each)
            file, within, name = named.groups()
            source = (ROOT / f"{file}.py").read_text(encoding="utf-8")
            if within:
                source = re.split(r"\n(?=\S)", source.partition(f"\nclass {within}")[2])[0]
            assert len(re.findall(rf"^ *(?:async def|def|class) {name}\b", source, re.MULTILINE)) == 1, (number, each)


@pytest.mark.parametrize(
    "module", ["notify.inbox", "notify.dispatch", "notify.dispatch.channels", "notify.testing.dispatch"]
)
def test_each_exported_name_is_on_a_page(module: str) -> None:
    """Whatever the module exports is explained or used by a page beside the reference."""
    pages = [page for page in PAGES if "reference" not in page.parts]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    code = " ".join(re.findall(r"^```python$.*?^```$|`[^`\n]+`", text, re.DOTALL | re.MULTILINE))
    names = importlib.import_module(module).__all__
    assert not {name for name in names if not re.search(rf"\b{name}\b", code)}


def test_names_in_the_docs_exist() -> None:
    """Every error and every option of `Notifier(...)` that a page names exists."""
    errors = importlib.import_module("notify.errors")
    known = {
        *dir(builtins),
        *dispatch.__all__,
        *http.__all__,
        *webhook.__all__,
        "OperationalError",
        "HistoryError",
        "BrokenResourceError",
        "PushError",
    }
    for page in PAGES:
        named = set(re.findall(r"\b[A-Z][A-Za-z]+Error\b", page.read_text(encoding="utf-8")))
        assert {name for name in named - known if not hasattr(errors, name)} == set(), page
    options = set(inspect.signature(Notifier).parameters)
    for page in PAGES:
        for call in re.findall(r"Notifier\(([^()]*(?:\([^()]*\)[^()]*)*)\)", page.read_text(encoding="utf-8")):
            with suppress(SyntaxError):
                parsed = ast.parse(f"f({call})", mode="eval").body
                assert isinstance(parsed, ast.Call)
                assert {keyword.arg for keyword in parsed.keywords} <= options, (page, call)
