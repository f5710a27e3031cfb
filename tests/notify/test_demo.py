"""The demo, run as a separate process, as from a shell or on a build server.

The processes that it starts are real. The demo itself is a fork of a process that has already imported what it needs,
except where a test is about how a shell starts it.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.forks import Fork
from tests.parts import untraced_environment

DEMO = Path(__file__).parents[2] / "docs" / "demo" / "demo.py"
FEED = DEMO.with_name("feed.txt")
COMMAND = (sys.executable, str(DEMO))
OK = "OK: nothing lost, nothing duplicated, nothing out of order."
FAILED = "FAILED: the events shown are not the events pushed."

SMALL = """\
alice comment.created {"post": 7}
# a comment, then a blank line

josé order.shipped {"order": "A-1"}
alice mention "from 小林"
alice session.expired
"""

Pushes = list[tuple[str, str, str]]
"""Line number, user and type of every event."""

SIGHTING = re.compile(r"^ *(\d+) +(?:\d+ ms|(resumed)) (\d+-\d+) +(\S+) +(\S+)(?: (.*))?$", re.MULTILINE)
"""Line number, whether it was resumed, id, user, type and payload of an event in the output."""


def environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in untraced_environment().items() if key not in ("NO_COLOR", "TERM")} | {
        "PYTHONIOENCODING": "utf-8",
        **more,
    }


def started(*options: str, **more: Any) -> Fork:
    """Start the demo; its standard streams are the files that are given, or else pipes."""
    env = environment(PYTHONPATH=str(DEMO.parent), **more.pop("variables", {}))
    return Fork("demo", *options, env=env, **more)


def demo(*options: str, stdin: str | bytes | None = None) -> subprocess.CompletedProcess[str]:
    """Run the demo; without `stdin`, its standard input is /dev/null."""
    fed = stdin.encode() if isinstance(stdin, str) else stdin
    with open(os.devnull, "rb") as nothing, started(*options, stdin=nothing if fed is None else None) as process:
        out, err = process.communicate(fed, 50)
        return subprocess.CompletedProcess(process.args, process.wait(), out.decode(), err.decode())


def events(feed: str) -> Pushes:
    lines = [(str(number), line.split()) for number, line in enumerate(feed.splitlines(), 1)]
    return [(number, words[0], words[1]) for number, words in lines if words and words[0] != "#"]


def numbers(output: str, pattern: str) -> tuple[int, ...]:
    match = re.search(pattern, output, re.MULTILINE)
    assert match is not None, output
    return tuple(map(int, match.groups()))


def assert_complete(output: str, pushes: Pushes) -> None:
    """The events shown, the counts and the verdict agree with the feed; for runs that show every event."""
    sightings = SIGHTING.findall(output)
    assert Counter((number, user, type_) for number, _, _, user, type_, _ in sightings) == Counter(pushes)
    total, users = len(pushes), {user for _, user, _ in pushes}
    assert numbers(output, r"^Pushed (\d+); users: (\d+);") == (total, len(users))
    shown, live, resumed, kills = numbers(output, r"^Shown (\d+): (\d+) live, (\d+) on resuming; kills: (\d+)\.")
    assert (shown, live + resumed) == (total, total)
    assert resumed == sum(bool(mark) for _, mark, *_ in sightings)
    assert kills == len(re.findall(r"^>>>> .* is killed", output, re.MULTILINE))
    assert output.rstrip().endswith(OK)


def test_sample_feed() -> None:
    """Every event of the sample feed is shown, complete and in order for each user, although the reader is killed three
    times; the status is 0."""
    done = demo("--rate", "0", "--all")
    pushes = events(FEED.read_text("utf-8"))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(pushes) > 300
    assert any(not user.isascii() for _, user, _ in pushes)
    assert_complete(done.stdout, pushes)
    assert numbers(done.stdout, r"kills: (\d+)\.") == (3,)
    lines = {str(number): line.split(" ", 2) for number, line in enumerate(FEED.read_text("utf-8").splitlines(), 1)}
    seen: dict[str, list[tuple[int, int]]] = {}
    for number, _, id_, user, _, payload in SIGHTING.findall(done.stdout):
        pushed = "".join(cell if cell.isprintable() else "·" for cell in "".join(lines[number][2:]))
        assert (payload and json.loads(payload)) == (pushed and json.loads(pushed))
        ms, sequence = id_.split("-")
        seen.setdefault(user, []).append((int(ms), int(sequence)))
    for ids in seen.values():
        assert ids == sorted(set(ids))


def test_by_itself() -> None:
    """Without options the output is short enough to follow: at most 150 lines, with the kills and the verdict."""
    done = demo()
    assert (done.returncode, done.stderr) == (0, "")
    assert 40 < len(done.stdout.splitlines()) <= 150
    for web in (2, 3, 4):
        story = rf">>>> web-{web} is killed .*^>>>> web-{web + 1} takes over, "
        assert re.search(story, done.stdout, re.MULTILINE | re.DOTALL)
    assert re.search(r"^>>>> web-\d takes over, .*?^ *\d+ +resumed ", done.stdout, re.MULTILINE | re.DOTALL)
    assert re.search(r"^ +\.\.\. 300 pushed, \d+ shown$", done.stdout, re.MULTILINE)
    live, resumed = numbers(done.stdout, r"^Shown 353: (\d+) live, (\d+) on resuming")
    assert min(live, resumed) > 20
    assert re.search(r"^line +after +id +user +type payload$", done.stdout, re.MULTILINE)
    assert done.stdout.rstrip().endswith(OK)


def test_processes_are_real() -> None:
    """Pushing and showing run in processes of their own; afterwards no process and no file is left."""
    with started("-", text=True, stderr=sys.__stderr__) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("alice a 1\n")
        process.stdin.flush()
        output = ""
        while not SIGHTING.search(output):
            output += process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        commands = {child: Path(f"/proc/{child}/cmdline").read_text().split("\0") for child in children}
        assert sorted(any("watcher.py" in word for word in words) for words in commands.values()) == [False, True]
        (file,) = (words[2] for words in commands.values() if words[1].endswith("watcher.py"))
        assert Path(file).exists()
        process.stdin.close()
        output += process.stdout.read()
    assert process.returncode == 0
    assert output.rstrip().endswith(OK)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert not Path(file).parent.exists()


@pytest.mark.parametrize("way", ["file", "redirected"])
def test_other_feeds(way: str, tmp_path: Path) -> None:
    """Events are read from a named file or from a redirected one, with comments; `test_rate` reads them from a pipe."""
    file = tmp_path / "feed"
    file.write_text(SMALL, "utf-8")
    if way == "file":
        done = demo(str(file), "--all")
    else:
        with file.open("rb") as opened:
            done = subprocess.run(
                [*COMMAND, "--all"],
                stdin=opened,
                capture_output=True,
                encoding="utf-8",
                check=False,
                timeout=50,
                env=environment(),
            )
    assert (done.returncode, done.stderr) == (0, "")
    assert_complete(done.stdout, events(SMALL))
    assert ("standard input" in done.stdout) == (way != "file")


def test_last_line_without_an_end() -> None:
    """With `-`, the last line may lack a newline; Windows line endings, tabs and a byte order mark are accepted."""
    done = demo("-", stdin=b"\xef\xbb\xbfalice a 1\r\n# comment\nbob \t c\nalice  b  2")
    assert done.returncode == 0
    assert "standard input" in done.stdout
    assert_complete(done.stdout, [("1", "alice", "a"), ("3", "bob", "c"), ("4", "alice", "b")])


def test_bad_lines() -> None:
    """Invalid lines are reported with their number and skipped; the others are pushed; the status is 2."""
    lines = [
        b"alice a 1",
        b"hello",
        b'alice b {"post":',
        b"alice c NaN",
        b"alice no! 1",
        b"alice notify.x 1",
        b"\xff b",
    ]
    lines += [b"al\x00ice d", b'alice e "\\ud800"', b"alice f " + b"[" * 100_000, b"alice z 2"]
    done = demo(stdin=b"\n".join(lines))
    assert done.returncode == 2
    reported = re.findall(r"^line (\d+) skipped: .+$", done.stderr, re.MULTILINE)
    assert sorted(map(int, reported)) == [*range(2, len(lines))]  # what is not JSON is known before what is refused
    assert "Traceback" not in done.stderr
    assert numbers(done.stdout, r"^Pushed (\d+); users: 1; lines skipped: (\d+)") == (2, len(lines) - 2)
    assert numbers(done.stdout, r"^Shown (\d+):") == (2,)


def test_payload_cannot_steer_the_terminal() -> None:
    """Control characters of a payload are replaced; in a pipe no payload is truncated."""
    done = demo("-", stdin='alice a "\\u009b31m \u202e \u200f %s"\n' % ("小" * 500))
    assert done.returncode == 0
    assert not set(done.stdout) & set("\x1b\x9b\u202e\u200f")
    assert "小" * 500 in done.stdout


@pytest.mark.parametrize("options", [("/nowhere/feed",), (str(DEMO.parent),), ("--rate", "-1"), ("--rate", "nan")])
def test_unusable_arguments(options: tuple[str, ...]) -> None:
    """An unreadable file and an invalid rate end with status 2 and one sentence, not with a traceback."""
    done = demo(*options)
    assert (done.returncode, done.stdout) == (2, "")
    assert "demo.py: error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_to_push() -> None:
    """A feed without events proves nothing: the status is 2."""
    done = demo("-", stdin="# only a comment\n")
    assert done.returncode == 2
    assert "Nothing was pushed" in done.stdout
    assert OK not in done.stdout


def test_no_standard_input() -> None:
    """If standard input is closed, the sample feed is used. `test_by_itself` covers an empty standard input."""
    script = 'exec "$0" "$@" --rate 0 --quiet <&-'
    done = subprocess.run(
        ["sh", "-c", script, *COMMAND],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=50,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(done.stdout, r"^Pushed (\d+);") == (len(events(FEED.read_text("utf-8"))),)


def test_silent_pipe() -> None:
    """With a pipe that stays open but empty, as on a build server, the sample feed is used."""
    with started("--rate", "0", "--quiet", text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        output, errors = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0
    assert "No input from the pipe" in errors
    assert output.rstrip().endswith(OK)


def test_quiet() -> None:
    """`--quiet` prints no events, but the same counts and the verdict."""
    done = demo("--quiet", stdin=SMALL)
    assert done.returncode == 0
    assert not SIGHTING.findall(done.stdout)
    assert ">>" not in done.stdout
    assert numbers(done.stdout, r"^Shown (\d+):") == (4,)


def test_sabotage_is_found() -> None:
    """The checker finds a lost event and prints its id and line; the status is 1."""
    done = demo("--rate", "0", "--sabotage", "--all")
    assert done.returncode == 1
    hidden = re.search(r"Sabotage: (\d+-\d+) was hidden", done.stdout)
    assert hidden is not None
    wrong = rf"^Violation \(lost-write\) for (\S+): a reader went past {hidden[1]}\n  {hidden[1]} is line (\d+): (\S+) "
    named = re.search(wrong, done.stdout, re.MULTILINE)
    assert named is not None
    pushes = events(FEED.read_text("utf-8"))
    assert (named[2], named[1], named[3]) in pushes
    assert hidden[1] not in [sighting[2] for sighting in SIGHTING.findall(done.stdout)]
    assert numbers(done.stdout, r"^Shown (\d+):") == (len(pushes) - 1,)
    assert done.stdout.count("\nViolation (") == 1
    assert OK not in done.stdout
    assert done.stdout.rstrip().endswith(FAILED)


@pytest.mark.slow
def test_sabotage_of_the_last_event() -> None:
    """An event that is never shown is a violation; the demo does not wait for it indefinitely."""
    done = demo("--sabotage", "--rate", "0", stdin="".join(f"user{number} a {number}\n" for number in range(7)))
    assert done.returncode == 1
    assert "Violation (unseen)" in done.stdout
    assert numbers(done.stdout, r"^Shown (\d+):") == (6,)
    assert done.stdout.rstrip().endswith(FAILED)


def test_sabotage_without_a_victim() -> None:
    """If no reader resumes, no event is hidden: the verdict is OK, but the status is 2."""
    done = demo("--sabotage", stdin="alice a 1\n")
    assert done.returncode == 2
    assert "hidden" not in done.stdout
    assert done.stdout.rstrip().endswith(OK)


def test_rate() -> None:
    """`--rate` limits how fast events are pushed, here those from a pipe."""
    feed = SMALL + "".join(f"alice a {number}\n" for number in range(7))
    began = time.monotonic()
    done = demo("--rate", "20", "--all", stdin=feed)
    assert time.monotonic() - began >= 0.5
    assert (done.returncode, done.stderr) == (0, "")
    assert_complete(done.stdout, events(feed))
    assert "standard input" in done.stdout


def test_interrupt() -> None:
    """Ctrl-C ends the feed; a killed reader is replaced and the verdict is printed; the status is 130."""
    with started("-", "--all", text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("alice a 1\nalice b 2\nalice c 3\n")
        process.stdin.flush()
        output = ""
        while ">>>> web-2 is killed" not in output:
            line = process.stdout.readline()
            assert line, output
            output += line
        process.send_signal(signal.SIGINT)
        output += process.stdout.read()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (130, "")
    assert ">>>> web-3 takes over" in output
    assert_complete(output, [("1", "alice", "a"), ("2", "alice", "b"), ("3", "alice", "c")])


def in_terminal(*options: str, lines: str, **more: str) -> tuple[int, str]:
    """Run the demo in a terminal; type each line after the previous one was shown, then Ctrl-D."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r+b", buffering=0) as terminal:
        process = started(
            *options, stdin=terminal, stdout=terminal, stderr=terminal, variables={"TERM": "xterm", **more}
        )
    output = b""
    expected = [f"(ms|resumed) [0-9-]+ +{line.split()[0]} +{line.split()[1]} ".encode() for line in lines.splitlines()]
    typed = [line.encode() + b"\n" for line in lines.splitlines()] + [b"\x04"]
    with process:
        waiting = [b"Ctrl-D ends", *expected]
        while True:
            while waiting and re.search(waiting[0], output):
                waiting.pop(0)
                os.write(ours, typed.pop(0))
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # how Linux reports the end of a terminal
                break
            if not chunk:
                break
            output += chunk
    os.close(ours)
    return process.wait(), output.decode().replace("\r\n", "\n")


def test_typed_in_a_terminal() -> None:
    """Lines typed at a terminal are shown at once, in colour; Ctrl-D ends with the verdict."""
    status, output = in_terminal("-", lines='alice a {"post": 7}\nbob b 1\nalice c 2')
    assert status == 0
    assert "\x1b[36m" in output
    plain = re.sub(r"\x1b\[\d+m", "", output)
    assert_complete(plain, [("1", "alice", "a"), ("2", "bob", "b"), ("3", "alice", "c")])


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_no_colour(variables: dict[str, str]) -> None:
    """`NO_COLOR` and a dumb terminal are respected."""
    status, output = in_terminal("-", lines="alice a 1", **variables)
    assert status == 0
    assert "\x1b" not in output
    assert OK in output


def test_output_cut_off() -> None:
    """If the reader of the output exits, the demo ends without a traceback."""
    with open(os.devnull, "rb") as nothing, started("--rate", "0", stdin=nothing, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (141, "")
