"""Who checkpoints: the lock that elects one process of several users and names, and what is said where none is."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import signal
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from notify import Event, UsageError
from notify_sqlite import SQLiteStore, _checkpoint, _file, _lock
from notify_sqlite._lock import FileLock, holders
from tests.notify_sqlite.children import child, line
from tests.parts import until
from tests.servers.sqlite import opened, write

pytestmark = pytest.mark.anyio

NOBODY, WWW = 65534, 33

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two other users")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory in which the users of group 33 may create files."""
    directory = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(directory, -1, WWW)
    directory.chmod(0o2775)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the lock and the WAL all the time."""
    monkeypatch.setattr(_checkpoint, "INTERVAL", 0.02)


def database(directory: Path, owner: int, mode: int) -> Path:
    """An empty file that belongs to somebody."""
    path = directory / "n.db"
    path.touch()
    os.chown(path, owner, WWW)
    path.chmod(mode)
    return path


def described(path: Path) -> tuple[int, int, int]:
    """Whose a file is, and its mode."""
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-checkpointer")


@contextmanager
def file_lock(path: Path) -> Iterator[FileLock]:
    """A lock on the database at this path, released in the end."""
    lock = FileLock(f"{path}-checkpointer", str(path))
    yield lock
    lock.release()


# -- users -------------------------------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("umask", ["022", "077", "002"])
async def test_two_service_users_follow_each_other(shared: Path, umask: str) -> None:
    """The lock has mode and group of the database, whatever the umask: the other user is elected when one dies."""
    path = database(shared, NOBODY, 0o664)
    with child("as_user", NOBODY, WWW, umask, "elect", path) as first:
        assert await line(first) == "elected"
        assert described(lock_of(path)) == (NOBODY, WWW, 0o664)
        assert described(Path(f"{path}-wal")) == (NOBODY, WWW, 0o664)
        with child("as_user", WWW, WWW, umask, "elect", path) as second:
            first.send_signal(signal.SIGKILL)
            assert await line(second) == "elected"
    with child("as_user", NOBODY, WWW, umask, "elect", path) as third:
        assert await line(third) == "elected"


@as_root
@pytest.mark.usefixtures("quick")
async def test_root_first_leaves_nothing_of_its_own(shared: Path) -> None:
    """A first call by root, as with sudo, leaves the lock to the owner of the database, who is elected next."""
    path = database(shared, NOBODY, 0o600)
    async with SQLiteStore(path) as store:
        await until(lambda: store._database.checkpointer.elected)
    assert described(lock_of(path)) == (NOBODY, WWW, 0o600)
    with child("as_user", NOBODY, WWW, "077", "elect", path) as process:
        assert await line(process) == "elected"


@as_root
async def test_a_lock_of_somebody_else_is_said(shared: Path) -> None:
    """A lock file that may not be opened is logged with the remedy; once it is applied, the process is elected."""
    path = database(shared, NOBODY, 0o666)
    lock_of(path).touch(0o600)
    with child("as_user", WWW, WWW, "022", "elect", path) as process:
        said = await line(process)
        assert said.startswith(f"this process cannot be elected to checkpoint {path}: {lock_of(path)} cannot be opened")
        assert "give it the mode and the group of the database" in said
        lock_of(path).chmod(0o644)
        said = {await line(process), await line(process)}  # reading is enough for the lock
        assert said == {"elected", f"this process can be elected again to checkpoint {path}"}


@as_root
async def test_a_directory_that_may_not_be_written(shared: Path) -> None:
    """Where the lock cannot be created, that is said; pushes work as long as SQLite's own files are there."""
    path = database(shared, NOBODY, 0o666)
    with opened(path) as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("CREATE TABLE mine (x)")
        os.chmod(shared, 0o555)
        with child("as_user", WWW, WWW, "022", "elect", path) as process:
            assert f"{lock_of(path)} cannot be created (Permission denied): let user 33 write" in await line(process)


@as_root
async def test_who_may_only_read_reads(shared: Path) -> None:
    """A user without the right to write reads, is told why a push fails, and is never elected."""
    path = database(shared, NOBODY, 0o644)
    async with SQLiteStore(path) as keeper:
        await keeper.save(Event("alice", "t"))
        with child("as_user", WWW, WWW, "022", "attempt", path) as process:
            assert await line(process) == "works"
            said = await line(process)
            assert said.startswith(
                "PushRejectedError: nothing was stored: the file is read-only; user 33 may not write it"
            )
            assert f"owner {NOBODY}, group {WWW}, mode 0644" in said
        assert stat.S_IMODE(lock_of(path).stat().st_mode) == 0o644


@pytest.mark.usefixtures("quick")
async def test_a_process_that_may_no_longer_write_is_not_elected(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process whose right to write was taken away does not take the lock from those that can use it."""
    monkeypatch.setattr(_checkpoint, "may", lambda path, mode: False)
    async with SQLiteStore(path) as store:
        await until(lambda: "may not write the file" in caplog.text)
        assert not store._database.checkpointer.elected


@as_root
def test_a_group_that_cannot_be_given_is_left(shared: Path) -> None:
    """The owner of a lock who is no member of the database's group changes the mode alone."""
    path = database(shared, NOBODY, 0o664)
    shared.chmod(0o777)
    lock_of(path).touch(0o600)
    os.chown(lock_of(path), NOBODY, NOBODY)
    with child("as_user", NOBODY, NOBODY, "077", "elect", path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "elected\n"
        assert described(lock_of(path)) == (NOBODY, NOBODY, 0o664)


@contextmanager
def acting_as(user: int, group: int) -> Iterator[None]:
    """Be somebody else for a moment."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(group)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@as_root
def test_what_a_user_may_not_do(shared: Path) -> None:
    """The same as seen from inside: what is not adopted, not given to another group, not opened, not created."""
    path = database(shared, NOBODY, 0o664)
    lock = FileLock(str(lock_of(path)), str(path))
    lock_of(path).touch()
    lock_of(path).chmod(0o664)
    os.chown(lock_of(path), 1, WWW)
    with acting_as(WWW, WWW):
        assert lock.acquire()  # of user 1: left as it is
        lock.release()
    assert described(lock_of(path)) == (1, WWW, 0o664)
    os.chown(lock_of(path), NOBODY, NOBODY)
    lock_of(path).chmod(0o600)
    with acting_as(WWW, WWW):
        assert not lock.acquire()
        assert "cannot be opened (Permission denied)" in lock.trouble
    with acting_as(NOBODY, NOBODY):
        assert lock.acquire()
        lock.release()
    assert described(lock_of(path)) == (NOBODY, NOBODY, 0o664)
    os.chown(lock_of(path), 1, 1)
    lock_of(path).chmod(0o644)
    with acting_as(WWW, WWW):
        assert lock.acquire()  # by reading alone
        lock.release()
    lock_of(path).unlink()
    shared.chmod(0o755)
    with acting_as(WWW, WWW):
        assert not lock.acquire()
        assert "cannot be created" in lock.trouble


@as_root
def test_what_a_user_may_not_do_with_the_database(shared: Path) -> None:
    """Each right that is missing is named: reading, writing, and creating SQLite's files in the directory."""
    path = database(shared, 0, 0o600)
    shared.chmod(0o755)
    with acting_as(NOBODY, NOBODY):
        assert "may not read it (owner 0" in _file.why_not(str(path), sqlite3.SQLITE_CANTOPEN)
        path_of_another = shared / "new.db"
        assert "may not create files" in _file.why_not(str(path_of_another), sqlite3.SQLITE_CANTOPEN)
    path.chmod(0o644)
    with acting_as(NOBODY, NOBODY):
        assert "may not write it (owner 0" in _file.why_not(str(path), sqlite3.SQLITE_READONLY)
        assert "may not create files" in _file.why_not(str(path), sqlite3.SQLITE_CANTOPEN)
    path.chmod(0o666)
    with acting_as(NOBODY, NOBODY):
        assert "may not create files" in _file.why_not(str(path), sqlite3.SQLITE_READONLY)


def test_no_handle_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a free handle is told so."""

    def full(name: str, flags: int, mode: int = 0o777) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    path.touch()
    monkeypatch.setattr(os, "open", full)
    assert "too many open files" in _file.why_not(str(path), sqlite3.SQLITE_CANTOPEN)


# -- the lock file -----------------------------------------------------------------------------------------------


def test_one_of_two_has_it(path: Path) -> None:
    """A lock is held once, by one; the system shows by which process."""
    path.touch()
    with file_lock(path) as one, file_lock(path) as other:
        assert one.acquire()
        assert one.acquire()
        assert not other.acquire()
        assert (one.held, other.held, other.trouble) == (True, False, "")
        assert holders(one.path, "FLOCK") == [os.getpid()]
        one.release()
        assert other.acquire()


@pytest.mark.parametrize("what", ["link", "dangling", "directory", "fifo", "hard link"])
def test_what_is_in_the_place_of_the_lock_is_not_touched(path: Path, tmp_path: Path, what: str) -> None:
    """A link, a directory, a pipe or a second name of another file is neither followed nor changed, and it is said."""
    path.touch(0o666)
    other = tmp_path / "other"
    other.write_text("mine")
    other.chmod(0o600)
    place = lock_of(path)
    if what in ("link", "dangling"):
        place.symlink_to(other if what == "link" else tmp_path / "missing")
    elif what == "directory":
        place.mkdir()
    elif what == "fifo":
        os.mkfifo(place)
    else:
        place.hardlink_to(other)
    with file_lock(path) as lock:
        assert not lock.acquire()
        assert str(place) in lock.trouble
        assert "remove it" in lock.trouble
        assert not lock.check()
    assert other.read_text() == "mine"
    assert stat.S_IMODE(other.stat().st_mode) == 0o600
    assert not (tmp_path / "missing").exists()


def test_a_place_that_cannot_be_opened_at_all(path: Path, tmp_path: Path) -> None:
    """A socket in the place of the lock, and a directory that is missing, are said."""
    import socket

    path.touch()
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # the name of a socket is short
        server.bind(lock_of(path).name)
        os.chdir(here)
        with file_lock(path) as lock:
            assert not lock.acquire()
            assert "not a regular file" in lock.trouble
    lock = FileLock(str(tmp_path / "missing" / "lock"), str(path))
    assert not lock.acquire()
    assert "cannot be created (No such file or directory)" in lock.trouble


def test_locks_that_the_file_system_lacks_are_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, as over some networks, is named as the cause."""

    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    path.touch()
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with file_lock(path) as lock:
        assert not lock.acquire()
        assert "cannot be locked (No locks available): use a local file system" in lock.trouble


def test_two_that_create_it_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that finds no lock file, and then that another one was faster, uses that of the other."""
    path.touch()
    real = os.open

    def slow(name: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            os.close(real(name, flags, mode))
        return real(name, flags, mode)

    monkeypatch.setattr(os, "open", slow)
    with file_lock(path) as lock:
        assert lock.acquire()


def test_a_lock_whose_file_is_removed_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing the lock file, as the message advises, never leaves two that believe they are elected for long."""
    path.touch()
    with file_lock(path) as one, file_lock(path) as other:
        assert one.acquire()
        lock_of(path).unlink()
        assert other.acquire()
        assert not one.check()
        assert not one.held
        assert other.check()
        other.release()
        real = fcntl.flock
        monkeypatch.setattr(fcntl, "flock", lambda handle, how: (real(handle, how), lock_of(path).unlink()))
        assert not one.acquire()  # removed between opening and locking
        assert one.trouble == ""


@pytest.mark.usefixtures("quick")
async def test_a_checkpointer_without_its_lock_stops(path: Path) -> None:
    """When the lock file is removed, another process is elected, and the first one stops checkpointing by itself."""

    def pages(db: object) -> int:
        return int(db.execute("PRAGMA wal_autocheckpoint").fetchone()[0])  # type: ignore[attr-defined]

    async with SQLiteStore(path) as one, SQLiteStore(path) as other:
        await until(lambda: one._database.checkpointer.elected or other._database.checkpointer.elected)
        first, second = (one, other) if one._database.checkpointer.elected else (other, one)
        lock_of(path).unlink()
        with file_lock(path) as stranger:
            assert stranger.acquire()
            await until(lambda: not first._database.checkpointer.elected)
            assert [await store._database.maintain(pages) for store in (first, second)] == [0, 0]
        await until(lambda: first._database.checkpointer.elected or second._database.checkpointer.elected)


def test_locks_are_listed_as_far_as_they_are_shown(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that shows no locks, and a file that is missing, have no holders; one of another container is 0."""
    assert holders(str(path), "FLOCK") == []
    path.touch()
    found = path.stat()
    identity = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    table = path.with_name("locks")
    table.write_text(
        f"1: FLOCK  ADVISORY  WRITE 7 {identity} 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 8 {identity} 0 EOF\n"
        f"2: FLOCK  ADVISORY  WRITE -1 {identity} 0 EOF\n3: POSIX  ADVISORY  READ 9 {identity} 124 124\n"
        f"3: POSIX  ADVISORY  READ 10 {identity} 128 128\n4: FLOCK  ADVISORY  WRITE 11 00:00:1 0 EOF\n"
    )
    monkeypatch.setattr(_lock, "LOCKS", table)
    assert holders(str(path), "FLOCK") == [0, 7]
    assert holders(str(path), "POSIX", 123, 127) == [9]
    assert _checkpoint._listed([0, 7]) == "one of another container, 7"
    monkeypatch.setattr(_lock, "LOCKS", path.with_name("missing"))
    assert holders(str(path), "FLOCK") == []


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["link", "relative", "other root", "directory link"])
async def test_two_names_of_one_file_have_one_lock(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whatever name a process opens the file by, it finds the lock and the WAL of the others, and their events."""
    other: Path = tmp_path / "sub" / "other.db"
    other.parent.mkdir()
    if name == "link":
        os.symlink(path, other)
    elif name == "relative":
        monkeypatch.chdir(other.parent)
        other = Path("../notify.db")
    elif name == "other root":
        other = Path(f"/proc/self/root{path}")
        if not other.parent.exists():
            pytest.skip("this system has no /proc")
    else:
        (tmp_path / "dir").symlink_to(tmp_path)
        other = tmp_path / "dir" / "notify.db"
    async with SQLiteStore(path) as one:
        await one.save(Event("alice", "t"))
        await until(lambda: one._database.checkpointer.elected)
        async with SQLiteStore(other) as two:
            await two.save(Event("alice", "t"))
            for _ in range(3):
                await two._database.checkpointer.step()
            assert not two._database.checkpointer.elected
            assert two._database.checkpointer._lock is not None
            assert two._database.checkpointer._lock.trouble == ""
            assert two.wal_size == one.wal_size > 0
            assert len((await one.read("alice", "0", 9)).events) == 2


async def test_a_hard_link_is_warned_of(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file with two names is used, with a warning: SQLite keeps a WAL for each name."""
    write(path, b"")
    os.link(path, tmp_path / "second.db")
    async with SQLiteStore(path) as store:
        await store.save(Event("alice", "t"))
    assert caplog.text.count("one of several hard links") == 1


async def test_a_file_mounted_alone_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container into which only the file is mounted would keep the newest events outside of it."""
    mounts = path.parent / "mounts"
    where = str(path.parent.resolve() / path.name)
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\n/dev/sda {where} ext4 rw 0 0\n")
    monkeypatch.setattr(_file, "MOUNTS", mounts)
    store = SQLiteStore(path)
    with pytest.raises(UsageError, match="mount its directory instead"):
        await store.save(Event("alice", "t"))
    await store.aclose()


# -- a WAL that grows --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
async def test_a_wal_that_a_reader_pins_is_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Over the limit one warning says that a reader prevents the checkpoint, and who reads; later that this is over."""
    monkeypatch.setattr(_checkpoint, "LIMIT", 100_000)
    monkeypatch.setattr(_checkpoint, "ALARM", 200_000)
    async with SQLiteStore(path) as store:
        await store.save(Event("alice", "t"))
        with opened(path) as file:
            file.execute("BEGIN")
            file.execute("SELECT count(*) FROM notify_events").fetchall()
            while store.wal_size <= 250_000:
                await store.save_many([Event("alice", "t", "x" * 20_000)])
            await until(lambda: "a connection keeps a read transaction open" in caplog.text)
            assert f"processes that read it now: {os.getpid()}" in caplog.text
            file.execute("COMMIT")
        await until(lambda: "MiB again" in caplog.text)
    levels = [record.levelname for record in caplog.records if "write-ahead log of" in record.getMessage()]
    assert levels.count("WARNING") == 2


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("holder", ["frozen", "unusable", "nobody"])
async def test_a_wal_that_nobody_empties_is_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, holder: str
) -> None:
    """A process that is not elected, or that only reads, says which process should checkpoint: a frozen one or none."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(_checkpoint, "ALARM", 3_000)
    with child("elect", path) as process:
        assert await line(process) == "elected"
        reading = SQLiteStore(path)
        if holder == "frozen":
            process.send_signal(signal.SIGSTOP)
            await reading.head("alice")
            await until(lambda: f"process {process.pid} should checkpoint" in caplog.text)
            process.send_signal(signal.SIGCONT)
        else:
            lock_of(path).unlink()
            if holder == "unusable":
                lock_of(path).mkdir()
                await reading.save(Event("alice", "t"))
                await until(lambda: "and this process cannot: " in caplog.text)
            else:
                monkeypatch.setattr(_checkpoint, "holders", lambda *_: [])
                await reading.head("alice")
                await until(lambda: "open the file in a process that writes" in caplog.text)
        messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert sum(f"{path} is over" in message for message in messages) == 1  # other tests' stores may warn, too
        await reading.aclose()


@pytest.mark.usefixtures("quick")
async def test_a_wal_that_is_emptied_soon(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The elected process that has not emptied it yet says that it will."""
    monkeypatch.setattr(_checkpoint, "ALARM", 3_000)
    async with SQLiteStore(path) as store:
        await store.save(Event("alice", "t"))
        await until(lambda: "this process checkpoints, and should empty it soon" in caplog.text)
