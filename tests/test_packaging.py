"""The distribution: what is built from a checkout is complete, and works in an environment of its own."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.cli.commands import notify as in_fork
from tests.parts import untraced_environment

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent for top in ROOT.glob("notify*/__init__.py") for path in top.parent.rglob("__init__.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

DATA = ("**/*.sql", "**/*.lua", "**/py.typed", "web/client/*", "web/demo/*", "dispatch/presets/*")
"""Files of a package that are not Python."""

pytestmark = pytest.mark.timeout(300)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command in a directory away from the checkout's own modules, and return what it printed."""
    done = subprocess.run(
        command, cwd=cwd, env={**untraced_environment(), **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, directory: Path, what: str) -> Path:
    """Build with the pinned tools that are installed here, and return the one file that it makes.

    Nothing is fetched, and nothing is left in the source: an old build/ there would get into the wheel.
    """
    elsewhere = directory / "elsewhere.cfg"
    elsewhere.write_text(f"[build]\nbuild_base = {directory}/build\n[egg_info]\negg_base = {directory}\n")
    command = [sys.executable, "-m", "build", "--no-isolation", what, "--outdir", directory / "dist", source]
    run(*command, cwd=directory, DIST_EXTRA_CONFIG=str(elsewhere))
    (built,) = (directory / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "--sdist")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "--wheel")


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (project,) = directory.iterdir()
    return project


def contents(wheel: Path) -> dict[str, str]:
    with ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def test_the_wheel_is_complete(wheel: Path) -> None:
    """Every module, query, script and marker of every package is in the wheel, and nothing else is."""
    sources = {path for package in PACKAGES for path in package.glob("*.py")}
    data = {path for package in PACKAGES for pattern in DATA for path in package.glob(pattern)}
    names = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert names == {path.relative_to(ROOT).as_posix() for path in sources | data}
    assert {Path(name).suffix for name in names} == {
        ".py",
        ".sql",
        ".lua",
        ".typed",
        ".js",
        ".ts",
        ".json",
        ".toml",
        ".html",
        ".css",
    }


def test_the_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    """From the source distribution, pip builds the same wheel as from the checkout, with only the tools that it names.

    The tools are pinned to the versions installed here, since some files in the wheel name the version that wrote them.
    """
    pins = tmp_path / "pins.txt"
    pins.write_text("".join(f"{name}=={metadata.version(name)}\n" for name in ("setuptools", "setuptools-scm")))
    pinned = dict.fromkeys(("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), str(pins))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path]
    run(*pip, sdist, cwd=tmp_path, **pinned)
    (again,) = tmp_path.glob("*.whl")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


def test_the_sdist_can_be_tested(unpacked: Path) -> None:
    """The source distribution carries the tests, the pages and the pins."""
    for name in ("tests/conftest.py", "docs/quickstart.md", "constraints.txt", "Makefile", "CHANGELOG.md", "LICENSE"):
        assert (unpacked / name).is_file(), name


def test_it_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Installed with what the core needs and nothing else, it is imported, pushes, and knows its version."""
    environment = tmp_path / "environment"
    venv.create(environment)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    run(*pip, "--constraint", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    script = (
        "import asyncio, notify, notify_memory\n"
        "async def main():\n"
        "    async with notify.Notifier(notify_memory.MemoryStore()) as notifier:\n"
        "        await notifier.push('alice', 'greeting')\n"
        "asyncio.run(main())\n"
        "print(notify.__version__, notify.__file__)\n"
        "for extra in ('sqlite', 'redis', 'pg'):\n"
        "    try:\n"
        "        __import__(f'notify_{extra}')\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    first, *errors = run(python, "-W", "error", "-c", script, cwd=tmp_path).splitlines()
    version, file = first.split()
    assert Path(file).is_relative_to(environment)
    assert version == wheel.name.split("-")[1]
    for extra, error in zip(("sqlite", "redis", "pg"), errors, strict=True):
        assert f"'notify-streams[{extra}]'" in error
    assert run(environment / "bin" / "notify", "--version", cwd=tmp_path) == f"notify {version}\n"


BACKEND = '''
import os
from notify.adapters import StoreFactory
from notify_sqlite import SQLiteStreamStore

class FolderStreamStore(SQLiteStreamStore):
    """A file of this name in a folder of its own."""

    def __init__(self, name: str, *, max_len: int = 1000, timeout: float = 4.0, table_prefix: str = "notify_") -> None:
        os.makedirs("folder", exist_ok=True)
        super().__init__(f"folder/{name}.db", max_len=max_len, timeout=timeout, table_prefix=table_prefix)

factory = StoreFactory(FolderStreamStore, lambda url: (url.removeprefix("folder://"),))

class PlainStreamStore:
    """A stream store with the methods of the interface and no others."""

    def __init__(self, name: str) -> None:
        self._store = factory(name)

    guarantees = FolderStreamStore.guarantees

    async def save(self, event):
        return await self._store.save(event)

    async def read(self, user, after, limit):
        return await self._store.read(user, after, limit)

    async def head(self, user):
        return await self._store.head(user)

    async def trim(self, before):
        return await self._store.trim(before)

    async def aclose(self):
        await self._store.aclose()

    def subscribe(self, user, last_id=None):
        return self._store.subscribe(user, last_id)

def plain(url: str, **options):
    assert not options, options
    return PlainStreamStore(url.replace("plain:", "folder:"))
'''

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "notify-folder"
version = "1.0"

[project.entry-points."notify.stores"]
folder = "notify_folder:factory"
plain = "notify_folder:plain"

[tool.setuptools]
py-modules = ["notify_folder"]
"""


def test_a_strangers_backend_works_by_url(tmp_path: Path) -> None:
    """A backend that is built and installed as a distribution of its own: `open_store` and the command line use it."""
    source, target, work = tmp_path / "source", tmp_path / "target", tmp_path / "work"
    for folder in (source, work):
        folder.mkdir()
    (source / "notify_folder.py").write_text(BACKEND, encoding="utf-8")
    (source / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    run(*pip, "--target", target, source, cwd=tmp_path)
    path = {"PYTHONPATH": f"{target}{os.pathsep}{ROOT}", "NOTIFY_STORE": "folder://a?max_len=2"}

    def notify(*arguments: str) -> str:
        done = in_fork(work, *arguments, variables=path)
        assert (done.status, done.err) == (0, ""), done
        return done.out

    for type_ in ("first", "second", "third"):
        notify("push", "alice", type_)
    tail = notify("tail", "alice", "--no-follow")
    assert [line.split()[1] for line in tail.splitlines()] == ["second", "third"]
    assert (work / "folder" / "a.db").exists()
    script = "import notify; print(type(notify.open_store('folder://b', table_prefix='x_')).__name__)"
    assert run(sys.executable, "-c", script, cwd=work, **path) == "FolderStreamStore\n"
    path["NOTIFY_STORE"] = "plain://c"
    id_ = notify("push", "alice", "t")
    assert notify("head", "alice") == id_
    assert "store  PlainStreamStore at plain://c" in notify("stats", "alice")


EXTRAS = {
    "trio", "sqlite", "redis", "pg", "webhook", "web", "serve", "email", "webpush", "fcm", "sms", "templates", "dev",
    "all",
}  # fmt: skip
"""What people install by name: one that vanished would only be a warning of pip, and then an import that fails."""


def test_extras_stay() -> None:
    """Each extra that was published is there, and `all` has every one that an application can use."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(extras) >= EXTRAS
    (everything,) = extras["all"]
    named = set(everything.removeprefix("notify-streams[").removesuffix("]").split(","))
    assert named == set(extras) - {"dev", "docs", "all", "http"}


def test_the_name_is_ours() -> None:
    """No page and no message says to install `notify`, which is another program; each extra that is named exists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "notify-streams"
    sources = [path for package in PACKAGES for path in package.glob("*.py")]
    for path in [*PAGES, *sources, ROOT / "pyproject.toml"]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\binstall\b[^\n]* '?notify(?![-_\w])", text), path
        assert not re.search(r"(?<![\w.-])notify\[[a-z]", text), path
        named = ",".join(re.findall(r"notify-streams\[([a-z,]+)\]", text)).split(",")
        assert set(filter(None, named)) <= set(project["optional-dependencies"]), path
