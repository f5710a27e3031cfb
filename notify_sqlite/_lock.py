"""The lock that elects the process which checkpoints, and which processes hold a lock on a file.

The lock is a file beside the database, not the database itself: closing any handle of the database would drop SQLite's
own locks on it. `flock` needs no right to write, so every user who may open the file can be elected.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import weakref
from pathlib import Path
from typing import Final

LOCKS = Path("/proc/locks")

_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """A lock that at most one process holds. The system releases it when its holder dies.

    Args:
        path: the lock file. It is created when first needed.
        model: the file whose mode, group and (from root) owner it takes, so that every user of that file may lock it.

    Attributes:
        trouble: why the lock cannot be used here; empty while it can, or while another process holds it.
    """

    def __init__(self, path: str, model: str) -> None:
        self.path = path
        self.trouble = ""
        self._model = model
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._handle is not None

    def acquire(self) -> bool:
        """Take the lock if it is free; return whether this object holds it. Never waits."""
        if self._handle is not None:
            return True
        self.trouble = ""
        try:
            handle = self._open()
        except OSError as error:
            self.trouble = self._explain(error)
            return False
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # root must not change another file of a user
                self.trouble = f"{self.path} is not a regular file with one name: remove it"
                return False
            self._adopt(handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError as error:
                self.trouble = f"{self.path} cannot be locked ({error.strerror}): use a local file system"
                return False
            if not self._is_current(handle):
                return False  # removed since it was opened; the next attempt opens the new one
            self._handle, handle = handle, -1
        finally:
            if handle >= 0:
                os.close(handle)
        _held.add(self)
        return True

    def check(self) -> bool:
        """Return whether the lock is still held; release it if its file was removed: others then lock a new one."""
        if self._handle is not None and not self._is_current(self._handle):
            self.release()
        return self.held

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _open(self) -> int:
        """Open the file, or create it; never through a link that was put in its place."""
        try:
            return os.open(self.path, os.O_RDWR | _FLAGS)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
                raise
            return os.open(self.path, os.O_RDONLY | _FLAGS)
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
        except FileExistsError:  # another process was faster
            return os.open(self.path, os.O_RDONLY | _FLAGS)

    def _adopt(self, handle: int) -> None:
        """Give the lock file the model's mode, group and owner, as SQLite does for `-wal` and `-shm`."""
        model, own = os.stat(self._model), os.fstat(handle)
        if os.geteuid() not in (0, own.st_uid):
            return
        if (model.st_uid, model.st_gid) != (own.st_uid, own.st_gid):
            try:
                os.fchown(handle, model.st_uid if os.geteuid() == 0 else -1, model.st_gid)
            except PermissionError:  # not a member of that group
                pass
        if stat.S_IMODE(model.st_mode) != stat.S_IMODE(own.st_mode):
            os.fchmod(handle, stat.S_IMODE(model.st_mode) & 0o777)

    def _is_current(self, handle: int) -> bool:
        try:
            named, opened = os.stat(self.path, follow_symlinks=False), os.fstat(handle)
        except OSError:
            return False
        return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)

    def _explain(self, error: OSError) -> str:
        if error.errno == errno.ELOOP:
            return f"{self.path} is a symbolic link, which is not followed: remove it"
        if error.errno == errno.EISDIR:
            return f"{self.path} is a directory: remove it"
        if error.errno == errno.ENXIO:
            return f"{self.path} is not a regular file with one name: remove it"
        if not os.path.lexists(self.path):
            return f"{self.path} cannot be created ({error.strerror}): let user {os.geteuid()} write in that directory"
        return (
            f"{self.path} cannot be opened ({error.strerror}): give it the mode and the group of the database, "
            "or stop every process and remove it"
        )


def holders(path: str, kind: str, first: int = 0, last: int = 0) -> list[int]:
    """Return the ids of the processes that hold a lock on this file; 0 for one that the system does not show here.

    Args:
        path: the file.
        kind: `FLOCK` or `POSIX`.
        first: for `POSIX`: the first byte that the lock may begin at.
        last: for `POSIX`: the last one.
    """
    try:
        found, table = os.stat(path), LOCKS.read_text(encoding="ascii")
    except OSError:
        return []
    identity = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    processes = set()
    for line in table.splitlines():
        fields = line.split()
        if len(fields) == 8 and fields[1] == kind and fields[5] == identity:
            if kind == "FLOCK" or first <= int(fields[6]) <= last:
                processes.add(max(int(fields[4]), 0))
    return sorted(processes)


def _release_copies() -> None:
    """Close the lock handles that a forked process inherited: they would keep the locks of a parent that died."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_copies)
