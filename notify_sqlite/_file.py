"""The file: its real name, its disk, whether it is still the file that was opened, and why it cannot be used."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from notify import UsageError

NETWORK: Final = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"),
        *("ocfs2", "gfs2", "davfs", "virtiofs", "vboxsf", "prl_fs", "vmhgfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.davfs2"),
    }
)
"""File systems that several hosts may share. SQLite's WAL needs shared memory and reliable locks, which they lack."""

MOUNTS = Path("/proc/mounts")


class FileReplacedError(OSError):
    """The path no longer names the file that was opened."""


def beside(path: str, suffix: str) -> str:
    """Return the name of a file beside the database, as SQLite derives it: from the target of a symbolic link."""
    return os.path.realpath(path) + suffix


def _mount_of(path: str) -> tuple[str, Path | None]:
    """Return the type and the mount point of the file system that holds this path, as far as the system says so."""
    try:
        table = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return "", None
    file = Path(os.path.realpath(path))
    best, found, where = -1, "", None
    for line in table.splitlines():
        _, point, kind, *_ = line.split(" ")
        mounted = Path(point.replace(r"\040", " ").replace(r"\011", "\t").replace(r"\134", "\\"))
        if file.is_relative_to(mounted) and len(mounted.parts) >= best:  # of equals, the later mount is on top
            best, found, where = len(mounted.parts), kind, mounted
    return found, where


def file_system(path: str) -> str:
    """Return the type of the file system that holds this path; empty where the system does not list its mounts."""
    return _mount_of(path)[0]


def check_local(path: str) -> None:
    """Refuse a file that another host may open too, or whose `-wal` others would look for elsewhere.

    Raises:
        UsageError: the file is on a network file system, or is a mount by itself.
    """
    kind, point = _mount_of(path)
    if kind in NETWORK:
        raise UsageError(
            f"{path} is on a network file system ({kind}), where SQLite loses data if two hosts write; "
            "put it on a local disk, or pass network=True if only one host ever opens it"
        )
    if point == Path(os.path.realpath(path)) and not os.path.isdir(path):
        raise UsageError(
            f"{path} is mounted as a single file, so its newest events (in the -wal file beside it) would stay outside "
            "that mount and be lost with the container: mount its directory instead"
        )


class FileIdentity:
    """Which file a path named when it was opened, by device and inode."""

    __slots__ = ("_identity", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity = self._look()

    def check(self) -> None:
        """Raise FileReplacedError if the path now names another file, or none."""
        try:
            identity = self._look()
        except FileNotFoundError as error:
            raise FileReplacedError("the file was deleted while open; make a new store") from error
        if identity != self._identity:
            raise FileReplacedError("the file was replaced while open; make a new store")

    def _look(self) -> tuple[int, int]:
        found = os.stat(self._path)
        return found.st_dev, found.st_ino


def touch(path: str) -> None:
    """Set the times of a file to now, which inotify reports to its watchers (see `_changes`); best effort."""
    with suppress(OSError):
        os.utime(path)


def link_count(path: str) -> int:
    """Return how many hard links the file has."""
    return os.stat(path).st_nlink


# -- why it cannot be used ---------------------------------------------------------------------------------------


def why_not(path: str, code: int) -> str:
    """Return why the file cannot be opened or written, with the remedy; empty where the system does not show it.

    Args:
        path: the database.
        code: SQLite's primary result code: `SQLITE_CANTOPEN`, `SQLITE_READONLY` or `SQLITE_IOERR`.
    """
    file = os.path.realpath(path)
    directory = os.path.dirname(file)
    found = _no_place(directory) or _no_file(file)
    if code == sqlite3.SQLITE_IOERR:
        return found
    found = found or _no_right(file, directory, code)
    return found or ("" if code == sqlite3.SQLITE_READONLY else _no_handle())


def _no_place(directory: str) -> str:
    if os.path.isdir(directory):
        return ""
    if os.path.lexists(directory):
        return f"{directory} is not a directory: correct the path"
    return f"the directory {directory} does not exist: create it, or correct the path"


def _no_file(file: str) -> str:
    try:
        mode = os.stat(file).st_mode
    except OSError:
        return ""
    if stat.S_ISDIR(mode):
        return "it is a directory: give the path of a file in it"
    return "" if stat.S_ISREG(mode) else "it is not a regular file: give the path of one"


def _no_right(file: str, directory: str, code: int) -> str:
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        return "its file system is mounted read-only: mount it for writing, or put the file elsewhere"
    if os.path.exists(file):
        if not may(file, os.R_OK):
            return f"{_who()} may not read it ({_owner(file)}): give that user the right, or run as another one"
        if code == sqlite3.SQLITE_READONLY and not may(file, os.W_OK):
            return f"{_who()} may not write it ({_owner(file)}): give that user the right, or run as another one"
    if not may(directory, os.W_OK | os.X_OK):
        return (
            f"{_who()} may not create files in {directory} ({_owner(directory)}), where SQLite keeps its -wal and "
            "-shm: give that user the right to write in the directory"
        )
    return ""


def _no_handle() -> str:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return f"{os.strerror(error.errno or 0).lower()}: raise the limit of open files (ulimit -n)"
    return ""


def may(path: str, mode: int) -> bool:
    """Return whether this process has a right, as the user that it acts as now."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _who() -> str:
    return f"user {os.geteuid()}"


def _owner(path: str) -> str:
    found = os.stat(path)
    return f"owner {found.st_uid}, group {found.st_gid}, mode {stat.S_IMODE(found.st_mode):04o}"
