"""One file that Python runs: every package in a zip archive, with its SQL and Lua texts read from there."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipapp
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parts import untraced_environment
from tests.servers.postgres import Server
from tests.servers.postgres import postgres as postgres
from tests.servers.redis import single

ROOT = Path(__file__).parent.parent
MAIN = "import sys\nfrom notify.cli import main\nsys.exit(main())\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages alone, as `zip -r` takes them: without the metadata of the distribution."""
    directory = tmp_path_factory.mktemp("zipapp")
    target = directory / "bundle.pyz"
    (directory / "source").mkdir()
    (directory / "source" / "__main__.py").write_text(MAIN)
    for package in ROOT.glob("notify*/__init__.py"):
        for path in package.parent.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                copy = directory / "source" / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    zipapp.create_archive(directory / "source", target, compressed=True)
    return target


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed, without this distribution: an interpreter that has the drivers, but not `notify`."""
    directory = tmp_path_factory.mktemp("drivers")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "notify" not in path.name and path.suffix != ".pth":
            (directory / path.name).symlink_to(path)
    return directory


RUN_ALL = """
import json, sys
sys.path.insert(0, sys.argv[1])
from notify.cli import main
sys.exit(max(main(each) for each in json.loads(sys.argv[2])))
"""
"""Runs several commands in one process, since each process that imports the archive has to compile what it imports."""

Use = Callable[[str], None]


@pytest.fixture
def use(bundle: Path, drivers: Path, tmp_path: Path) -> Use:
    """A function that uses a store through the archive."""
    environment = {**untraced_environment(), "PYTHONPATH": str(drivers)}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-S", "-W", "error", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def use(url: str) -> None:
        id_ = run(str(bundle), "push", "alice", "n", "1", "--store", url)
        commands = (["head", "alice"], ["tail", "alice", "--after", "0", "--no-follow"])
        found = run("-c", RUN_ALL, str(bundle), json.dumps([[*each, "--store", url] for each in commands]))
        assert found.splitlines() == [id_, f"{id_} n 1"]

    return use


def test_postgres_from_an_archive(use: Use, postgres: Server) -> None:
    """The tables are created and used."""
    use(postgres.dsn)


def test_sqlite_from_an_archive(use: Use) -> None:
    """A file is created and used."""
    use("sqlite:///n.db")


def test_redis_from_an_archive(use: Use) -> None:
    """The scripts are loaded and used."""
    with single() as server:
        use(server.url)
