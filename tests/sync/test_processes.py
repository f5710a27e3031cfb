"""`SyncNotifier` and processes: forks, the end of a process, Ctrl-C; each in scripts of their own."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest

from tests.sync.scripts import background, events, output_of, script, wait_until

pytestmark = pytest.mark.slow

START = """
import os, sys, threading, time
from notify.sync import SyncNotifier
notifier = SyncNotifier.from_url("sqlite:///a.db")
"""


def types(directory: Path) -> list[str]:
    return [event.type for event in events(directory / "a.db")]


def test_a_script_ends_by_itself(tmp_path: Path) -> None:
    """A script that only pushes ends with everything stored and not a word on standard error."""
    began = time.monotonic()
    assert output_of(tmp_path, START + "for n in range(3): print(notifier.push('alice', 'a', n).payload)") == list(
        "012"
    )
    assert types(tmp_path) == ["a"] * 3
    assert time.monotonic() - began < 40


def test_pushes_of_threads_finish_before_the_end(tmp_path: Path) -> None:
    """Threads that still push when the main thread has ended are waited for, as without the library."""
    source = """
    notifier.push("bob", "first")
    def push(name):
        while threading.main_thread().is_alive(): time.sleep(0.01)
        for number in range(20): notifier.push("alice", name, number)
        print(name + chr(10), end="")  # in one piece
    for name in "ab": threading.Thread(target=push, args=(name,)).start()
    """
    assert sorted(output_of(tmp_path, START + source.replace("\n    ", "\n"))) == ["a", "b"]
    assert sorted(types(tmp_path)) == ["a"] * 20 + ["b"] * 20


def test_pending_pushes_of_daemon_threads_are_stored(tmp_path: Path) -> None:
    """What daemon threads are pushing at the end is stored whole or not at all, and the process ends."""
    source = """
    def push(name):
        for number in range(10_000): notifier.push("alice", name, number)
    for name in "ab": threading.Thread(target=push, args=(name,), daemon=True).start()
    while notifier.statistics().pushes["stored"] < 10: time.sleep(0.01)
    """
    done = script(tmp_path, START + source.replace("\n    ", "\n"))
    assert done.returncode == 0, done
    stored = events(tmp_path / "a.db")
    for name in "ab":
        numbers = [event.payload for event in stored if event.type == name]
        assert numbers == list(range(len(numbers)))
    assert len(stored) >= 10


def test_a_stream_does_not_keep_the_process(tmp_path: Path) -> None:
    """A daemon thread that waits in a stream ends with the process."""
    source = """
    def read():
        for event in notifier.subscribe("alice", "0"): print(event.type, flush=True)
    threading.Thread(target=read, daemon=True).start()
    notifier.push("alice", "a")
    while notifier.statistics().open_streams == 0: time.sleep(0.01)
    """
    assert output_of(tmp_path, START + source.replace("\n    ", "\n")) in (["a"], [])


def test_handlers_of_the_application_can_push_at_exit(tmp_path: Path) -> None:
    """An `atexit` handler pushes: it runs before the notifier is closed."""
    source = START + "import atexit\natexit.register(lambda: print(notifier.push('alice', 'last').type))"
    assert output_of(tmp_path, source + "\nnotifier.push('alice', 'first')") == ["last"]
    assert types(tmp_path) == ["first", "last"]


def test_the_first_push_at_exit(tmp_path: Path) -> None:
    """It works, or, where Python starts no thread any more (3.12 and later), the error says what to do."""
    source = START + "import atexit\natexit.register(lambda: print(notifier.push('alice', 'last').type))"
    began = time.monotonic()
    done = script(tmp_path, source)
    assert time.monotonic() - began < 40
    if "last" in done.stdout:
        assert (done.returncode, done.stdout) == (0, "last\n"), done
    else:
        assert sys.version_info >= (3, 12), done
        assert "UsageError: the first use of a SyncNotifier came while the interpreter was shutting down" in done.stderr
        assert "could not be closed" not in done.stderr


def test_a_server_that_hangs_does_not_keep_the_process(tmp_path: Path) -> None:
    """The end of the process is bounded, also while a push waits for a server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = f"""
import threading, time
from notify.sync import SyncNotifier
notifier = SyncNotifier.from_url("redis://127.0.0.1:{server.getsockname()[1]}")
threading.Thread(target=notifier.push, args=("alice", "a"), daemon=True).start()
while notifier.statistics().pending_pushes == 0: time.sleep(0.01)
"""
        began = time.monotonic()
        assert script(tmp_path, source).returncode == 0
        assert time.monotonic() - began < 40


def test_factory_that_failed_is_no_matter_at_exit(tmp_path: Path) -> None:
    """Only what is open is closed: a factory that failed is not reported a second time at the end."""
    source = """
from notify.sync import SyncNotifier
try: SyncNotifier(lambda: 1 / 0).push("alice", "a")
except ZeroDivisionError: print("failed")
"""
    assert output_of(tmp_path, source) == ["failed"]


def test_error_of_closing_at_exit_is_logged(tmp_path: Path) -> None:
    """A notifier that cannot be closed at exit is a warning that says why."""
    source = """
from contextlib import asynccontextmanager
from notify import Notifier
from notify.sync import SyncNotifier
@asynccontextmanager
async def make():
    async with Notifier() as notifier: yield notifier
    raise OSError("disk full")
notifier = SyncNotifier(make)
notifier.push("alice", "a")
"""
    done = script(tmp_path, source)
    assert done.returncode == 0
    assert done.stderr.strip() == "a notifier could not be closed at exit: OSError('disk full')"


# -- forks --------------------------------------------------------------------------------------------------------

FORK = (
    START
    + """
def child(function):
    pid = os.fork()
    if pid == 0:
        try: function()
        except Exception:
            import traceback; traceback.print_exc(); os._exit(1)
        sys.exit(0)
    return os.waitpid(pid, 0)[1]
"""
)


def test_both_sides_of_a_fork_push(tmp_path: Path) -> None:
    """A child forked after the first push makes a notifier of its own; the parent's goes on; both end in order."""
    source = """
notifier.push("alice", "parent")
status = child(lambda: [notifier.push("alice", "child", n) for n in range(3)])
notifier.push("alice", "parent")
print(status)
status = child(lambda: sys.exit(child(lambda: notifier.push("alice", "grandchild"))))
print(status)
"""
    assert output_of(tmp_path, FORK + source) == ["0", "0"]
    assert types(tmp_path) == ["parent", "child", "child", "child", "parent", "grandchild"]


def test_fork_before_the_first_push(tmp_path: Path) -> None:
    """Children forked before the first push, as preforking servers do, each make their own."""
    source = "print(sum(child(lambda: notifier.push('alice', 'a', os.getpid())) for _ in range(4)))"
    assert output_of(tmp_path, FORK + source) == ["0"]
    assert len({event.payload for event in events(tmp_path / "a.db")}) == 4


def test_fork_while_another_thread_makes_the_notifier(tmp_path: Path) -> None:
    """A lock that another thread held at the fork does not block the child."""
    source = """
import asyncio
from contextlib import asynccontextmanager
from notify import Notifier
making = threading.Event()
@asynccontextmanager
async def slow():
    making.set()
    await asyncio.sleep(0.5)
    async with Notifier.from_url("sqlite:///a.db") as made: yield made
notifier = SyncNotifier(slow)
threads = [threading.Thread(target=notifier.push, args=("alice", "parent")) for _ in range(4)]
for thread in threads: thread.start()
making.wait()
print(child(lambda: notifier.push("alice", "child")))
with notifier._lock: print(child(lambda: notifier.push("alice", "child")))
for thread in threads: thread.join()
"""
    assert output_of(tmp_path, FORK + source) == ["0", "0"]
    assert sorted(types(tmp_path)) == ["child"] * 2 + ["parent"] * 4


def test_a_stream_stays_with_its_process(tmp_path: Path) -> None:
    """A stream that was opened before a fork is refused in the child, where a new one works; closing it is harmless."""
    source = """
from notify import UsageError
notifier.push("alice", "a")
stream = notifier.subscribe("alice", "0").__enter__()
def use():
    try: stream.next()
    except UsageError as error: print(error, flush=True)
    stream.close()
    with notifier.subscribe("alice", "0") as other: print(other.next(20).type, flush=True)
print(child(use), stream.next(20).type)
"""
    refusal = "this stream was made before a fork: call subscribe() in each process"
    assert output_of(tmp_path, FORK + source) == [refusal, "a", "0 a"]


def test_closed_stays_closed(tmp_path: Path) -> None:
    """A notifier that was closed before a fork is closed in the child too; closing in a child leaves the parent's."""
    source = """
from notify import ClosedError
notifier.push("alice", "a")
print(child(notifier.close))
print(child(lambda: [notifier.push("alice", "b"), notifier.close()]))
notifier.push("alice", "c")
notifier.close()
def use():
    try: notifier.push("alice", "d")
    except ClosedError: print("closed", flush=True)
print(child(use))
"""
    assert output_of(tmp_path, FORK + source) == ["0", "0", "closed", "0"]
    assert types(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(tmp_path: Path, method: str) -> None:
    """Processes of `multiprocessing`, and a pool of them, push; forked ones inherit a notifier that is in use."""
    (tmp_path / "work.py").write_text("""
from notify.sync import SyncNotifier
notifier = SyncNotifier.from_url("sqlite:///a.db")
def push(number): return notifier.push("alice", "child", number).payload
""")
    (tmp_path / "main.py").write_text(f"""
import multiprocessing, work
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    work.notifier.push("alice", "parent")
    with context.Pool(2) as pool: print(sorted(pool.map(work.push, range(10))))
    process = context.Process(target=work.push, args=(10,)); process.start(); process.join(); print(process.exitcode)
""")
    source = "import runpy, sys; sys.path.insert(0, '.'); runpy.run_path('main.py', run_name='__main__')"
    if method == "spawn":  # which has to find the main module again
        with background(tmp_path, sys.executable, "main.py") as process:
            wait_until(lambda: process.poll() is not None, "the end", tmp_path)
        out = [line for line in (tmp_path / "log").read_text().splitlines() if "SQLite 3" not in line]
    else:
        out = output_of(tmp_path, source)
    assert out == [str(list(range(10))), "0"]
    assert sorted(event.payload for event in events(tmp_path / "a.db") if event.type == "child") == list(range(11))


# -- interrupts ---------------------------------------------------------------------------------------------------


def test_ctrl_c_while_waiting(tmp_path: Path) -> None:
    """Ctrl-C interrupts `next`, and loses nothing: the next call returns what came in between, in order."""
    source = """
import signal
stream = notifier.subscribe("alice").__enter__()
seen, interrupts = [], []
def interrupt_and_push():
    for number in range(30):
        while not stream._turn.locked(): time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        while len(interrupts) <= number: time.sleep(0.001)
        notifier.push("alice", "a", number)
        while len(seen) <= number: time.sleep(0.001)
thread = threading.Thread(target=interrupt_and_push)
thread.start()
while len(seen) < 30:
    try: seen.append(stream.next(timeout=20).payload)
    except KeyboardInterrupt: interrupts.append(1)
thread.join()
print(seen == list(range(30)))
try: stream.next(timeout=0)
except TimeoutError: print("no more")
"""
    assert output_of(tmp_path, START + source) == ["True", "no more"]


def test_ctrl_c_during_a_push(tmp_path: Path) -> None:
    """Ctrl-C abandons the wait for a push; the push continues."""
    source = """
import asyncio, signal
from notify import Notifier
from notify_memory import MemoryStore
class SlowStore(MemoryStore):
    async def save(self, event):
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0.2)
        return await super().save(event)
store = SlowStore()
notifier = SyncNotifier(lambda: Notifier(store))
try: notifier.push("alice", "a")
except KeyboardInterrupt: print("interrupted")
while notifier.statistics().pending_pushes: time.sleep(0.01)
print(notifier.statistics().pushes["stored"])
"""
    assert output_of(tmp_path, START + source) == ["interrupted", "1"]


# -- greenlets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "function", "argument"),
    [
        ("gevent.monkey", "is_module_patched", "threading"),
        ("gevent.monkey", "is_module_patched", "queue"),
        ("eventlet.patcher", "is_monkey_patched", "thread"),
        ("eventlet.patcher", "is_monkey_patched", "socket"),
    ],
)
def test_greenlets_are_refused(tmp_path: Path, module: str, function: str, argument: str) -> None:
    """Where a library has replaced threads by greenlets, the first call says so; where it has not, all is well."""
    library = module.partition(".")[0]
    source = f"""
import types
from notify import UsageError
patched = set()
sys.modules[{module!r}] = module = types.ModuleType({module!r})
module.{function} = lambda name: name in patched
notifier.push("alice", "a")
patched.add({argument!r})
try: SyncNotifier.from_url("memory://").push("alice", "a")
except UsageError as error: print(error)
"""
    expected = (
        f"SyncNotifier runs an event loop in a thread, which cannot work where {library} has patched the "
        "standard library: use workers of another kind, such as threads or processes"
    )
    assert output_of(tmp_path, START + source) == [expected]
