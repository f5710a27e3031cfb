"""The file itself: on a local disk, still the one that was opened, and the lock beside it."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path
from typing import Final

from notify import UsageError

from ._errors import FileReplacedError

NETWORK: Final = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"),
        *("ocfs2", "gfs2", "davfs", "virtiofs", "vboxsf", "prl_fs", "vmhgfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.davfs2"),
    }
)
"""File systems that several hosts may share: their locks and shared memory do not suffice for SQLite's WAL."""

MOUNTS = Path("/proc/mounts")
_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def file_system(path: str) -> str:
    """Return the type of the file system that holds this path; empty where the system does not tell."""
    try:
        table = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    where = Path(os.path.realpath(path))
    best, found = -1, ""
    for line in table.splitlines():
        _, point, kind, *_ = line.split(" ")
        mounted = Path(point.replace(r"\040", " ").replace(r"\011", "\t").replace(r"\134", "\\"))
        if where.is_relative_to(mounted) and len(mounted.parts) >= best:
            best, found = len(mounted.parts), kind
    return found


def check_local(path: str) -> None:
    """Refuse a file that another host may open too.

    Raises:
        UsageError: it lies on a network file system.
    """
    kind = file_system(path)
    if kind in NETWORK:
        raise UsageError(
            f"{path} is on a network file system ({kind}), where SQLite loses data when two hosts write; "
            "put it on a local disk, or say network=True if only one host ever opens it"
        )


class FileIdentity:
    """Which file a path named when it was opened."""

    __slots__ = ("_path", "_which")

    def __init__(self, path: str) -> None:
        self._path = path
        self._which = self._look()

    def check(self) -> None:
        """Raise FileReplacedError where the path names another file now, or none."""
        try:
            which = self._look()
        except FileNotFoundError as error:
            raise FileReplacedError("the file was deleted; this store cannot be used any more") from error
        if which != self._which:
            raise FileReplacedError("the file was replaced by another one; this store cannot be used any more")

    def _look(self) -> tuple[int, int]:
        found = os.stat(self._path)
        return found.st_dev, found.st_ino


class FileLock:
    """A lock that at most one of all processes holds; the system releases it when its holder dies.

    It is a file beside the database: closing any handle of the database itself would drop SQLite's own locks.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether it is ours."""
        return self._handle is not None

    def acquire(self) -> bool:
        """Take the lock if it is free; return whether it is ours. Never waits."""
        if self._handle is not None:
            return True
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return False  # a directory that cannot be written
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        os.truncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        self._handle = handle
        _held.add(self)
        return True

    def holder(self) -> int | None:
        """Return the process id that the holder left in the file; None where there is none."""
        try:
            return int(Path(self._path).read_bytes())
        except (OSError, ValueError):
            return None

    def release(self) -> None:
        """Give the lock up. Idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _forget_locks() -> None:
    """In a fork: close our copies, which would keep the locks of a parent that died."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget_locks)
