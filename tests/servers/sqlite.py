"""SQLite files of a test's own: there is no server to start, only a directory that is gone after the test."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file that is not there yet."""
    return tmp_path / "notify.db"


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file as somebody else would, in autocommit mode."""
    file = sqlite3.connect(path, isolation_level=None, timeout=5)
    try:
        yield file
    finally:
        file.close()


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold the write lock of a file."""
    with opened(path) as file:
        file.execute("BEGIN IMMEDIATE")
        try:
            yield file
        finally:
            if file.in_transaction:
                file.execute("ROLLBACK")


def content(path: Path | str) -> bytes:
    """Return what a file holds."""
    return Path(path).read_bytes()


def write(path: Path | str, data: bytes) -> None:
    """Make a file hold this."""
    Path(path).write_bytes(data)


def exists(path: Path) -> bool:
    """Return whether there is such a file."""
    return path.exists()


def files(directory: Path) -> list[Path]:
    """Return what is in a directory."""
    return [*directory.iterdir()]


def remove(path: Path) -> None:
    """Delete a database and what lies beside it."""
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
