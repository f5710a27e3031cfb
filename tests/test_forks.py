"""Forks behave as tests expect: they are processes of their own, which begin and end as an interpreter does."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.forks import Fork
from tests.parts import untraced_environment


def fork(directory: Path, program: str, *arguments: str, strict: bool = True, **variables: str) -> Fork:
    """Run a program, as a module in a directory."""
    (directory / "program.py").write_text(program, encoding="utf-8")
    env = untraced_environment() | variables
    return Fork("program", *arguments, cwd=directory, env=env, text=True, strict=strict)


def test_it_is_a_process_of_its_own(tmp_path: Path) -> None:
    """Its streams, arguments, environment, directory, session and open files are what it is given, and nothing else."""
    program = (
        "import os, sys\n"
        "print(__name__, sys.argv[1:], os.environ.get('COLOUR'), os.getcwd(), input(), os.getpid(), os.getsid(0))\n"
        "print(len(os.listdir('/proc/self/fd')))\n"
        "sys.stderr.write('é')\n"
    )
    with fork(tmp_path, program, "a", "b c", COLOUR="red") as process:
        out, err = process.communicate("line\n", 20)
    expected = (
        f"__main__ ['a', 'b c'] red {tmp_path} line {process.pid} {process.pid}\n4\n"  # the listing is the fourth
    )
    assert (process.returncode, out, err) == (0, expected, "é")
    assert "COLOUR" not in os.environ


@pytest.mark.parametrize(
    ("program", "status", "complaint"),
    [
        ("", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import atexit\natexit.register(lambda: 1 / 0)", 0, "ZeroDivisionError"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, "KeyboardInterrupt"),
        ("open(__file__)", 0, "ResourceWarning"),
        ("import warnings\nwarnings.warn('x', DeprecationWarning)", 1, "DeprecationWarning"),
    ],
)
def test_it_ends_as_an_interpreter_does(tmp_path: Path, program: str, status: int, complaint: str) -> None:
    """Its exit status is known, and what goes wrong while it ends is written to its standard error."""
    with fork(tmp_path, program) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == status
    assert complaint in err
    assert bool(err) == bool(complaint)


@pytest.mark.parametrize(("unbuffered", "lines"), [("", 2), ("1", 1)], ids=["buffered", "unbuffered"])
def test_what_it_has_written_is_buffered_or_not(tmp_path: Path, unbuffered: str, lines: int) -> None:
    """PYTHONUNBUFFERED decides: text that is still in its buffer is also written by a process that it forks."""
    program = "import os\nprint('once')\nif os.fork(): os.wait()"
    with fork(tmp_path, program, PYTHONUNBUFFERED=unbuffered) as process:
        out, _ = process.communicate(timeout=20)
    assert out.splitlines() == ["once"] * lines


def test_warnings_that_are_no_errors(tmp_path: Path) -> None:
    with fork(tmp_path, "import warnings\nwarnings.warn('x', UserWarning)", strict=False) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "UserWarning" in err


def test_a_block_that_raises_kills_it(tmp_path: Path) -> None:
    """Nothing waits for one that hangs, and it does not live on."""
    process = fork(tmp_path, "input()")
    with pytest.raises(subprocess.TimeoutExpired), process:
        process.communicate(timeout=0.01)
    assert process.returncode == -signal.SIGKILL


def test_the_order_of_sets_differs(tmp_path: Path) -> None:
    """Between forks, so that what depends on it shows: locks taken in the order of a set, for one."""
    orders = set()
    for _ in range(2):
        with fork(tmp_path, "print({str(number) for number in range(20)})") as process:
            orders.add(process.communicate(timeout=20)[0])
    assert len(orders) == 2


def test_waiting_has_a_bound(tmp_path: Path) -> None:
    """A process that does not end is waited for only as long as the timeout, and can be killed after that."""
    with fork(tmp_path, "input()") as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.poll() is None
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
        assert process.poll() == -signal.SIGKILL
