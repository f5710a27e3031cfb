"""The file: whether its disk is local, whether it is still the file that was opened, and the lock file beside it."""

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
"""File systems that several hosts may share. SQLite's WAL needs shared memory and reliable locks, which they lack."""

MOUNTS = Path("/proc/mounts")
_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def file_system(path: str) -> str:
    """Return the type of the file system that holds this path; empty where the system does not list its mounts."""
    try:
        table = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    file = Path(os.path.realpath(path))
    best, found = -1, ""
    for line in table.splitlines():
        _, point, kind, *_ = line.split(" ")
        mounted = Path(point.replace(r"\040", " ").replace(r"\011", "\t").replace(r"\134", "\\"))
        if file.is_relative_to(mounted) and len(mounted.parts) >= best:  # of equals, the later mount is on top
            best, found = len(mounted.parts), kind
    return found


def check_local(path: str) -> None:
    """Refuse a file that another host may open too.

    Raises:
        UsageError: the file is on a network file system.
    """
    kind = file_system(path)
    if kind in NETWORK:
        raise UsageError(
            f"{path} is on a network file system ({kind}), where SQLite loses data if two hosts write; "
            "put it on a local disk, or pass network=True if only one host ever opens it"
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


class FileLock:
    """A lock that at most one process holds. The system releases it when its holder dies.

    It is a file beside the database, not the database itself: closing any handle of the database would drop SQLite's
    own locks on it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._handle is not None

    def acquire(self) -> bool:
        """Take the lock if it is free; return whether this object holds it. Never waits."""
        if self._handle is not None:
            return True
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return False  # the directory cannot be written
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
        """Return the process id that the holder wrote into the file; None where there is none."""
        try:
            return int(Path(self._path).read_bytes())
        except (OSError, ValueError):
            return None

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _release_copies() -> None:
    """Close the lock handles that a forked process inherited: they would keep the locks of a parent that died."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_copies)
