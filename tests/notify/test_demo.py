"""The demo, run as a person or a build server runs it: a process with its streams, its status and its output."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "docs" / "demo" / "demo.py"
FEED = DEMO.with_name("feed.txt")
COMMAND = (sys.executable, str(DEMO))
OK = "OK: nothing lost, nothing doubled, nothing out of order."
FAILED = "FAILED: what was seen is not what was pushed."

SMALL = """\
alice comment.created {"post": 7}
# a comment, then a blank line

josé order.shipped {"order": "A-1"}
alice mention "from 小林"
alice session.expired
"""

Pushes = list[tuple[str, str, str]]
"""Line number, user and type of every event."""

SIGHTING = re.compile(r"^ *(\d+) (\S+) +(phone|laptop)@(web-[12]) (\d+-\d+) +(replayed: )?(\S+)", re.MULTILINE)


def environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")} | {
        "PYTHONIOENCODING": "utf-8",
        **more,
    }


def demo(*options: str, stdin: str | bytes | None = None) -> subprocess.CompletedProcess[str]:
    """Run the demo; without `stdin` its standard input is /dev/null."""
    text: bytes | None = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [*COMMAND, *options],
        stdin=subprocess.DEVNULL if text is None else None,
        input=text,
        capture_output=True,
        check=False,
        timeout=50,
        env=environment(),
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def events(feed: str) -> Pushes:
    lines = [(str(number), line.split()) for number, line in enumerate(feed.splitlines(), 1)]
    return [(number, words[0], words[1]) for number, words in lines if words and words[0] != "#"]


def numbers(output: str, pattern: str) -> tuple[int, ...]:
    match = re.search(pattern, output, re.MULTILINE)
    assert match is not None, output
    return tuple(map(int, match.groups()))


def assert_complete(output: str, pushes: Pushes) -> None:
    """The live lines, the counts and the verdict all agree with the feed."""
    users = {user for _, user, _ in pushes}
    sightings = SIGHTING.findall(output)
    seen = Counter((number, user, kind, type_) for number, user, kind, _, _, _, type_ in sightings)
    assert seen == Counter((*push[:2], kind, push[2]) for push in pushes for kind in ("phone", "laptop"))
    replayed = sum(bool(mark) for *_, mark, _ in sightings)
    total = len(pushes)
    assert numbers(output, r"pushed +(\d+) events to (\d+) users") == (total, len(users))
    counted = numbers(output, r"seen +(\d+) of (\d+) expected on (\d+) devices, (\d+) of them by replay")
    assert counted == (2 * total, 2 * total, 2 * len(users), replayed)
    assert numbers(output, r"pushes +(\d+) ok, (\d+) rejected, (\d+) uncertain") == (total, 0, 0)
    breaks, missed, caught_up = numbers(output, r"breaks +(\d+); missed (\d+), caught up (\d+)")
    assert missed == caught_up == replayed
    assert numbers(output, r"readers +(\d+), (\d+) yields") == (2 * len(users) + breaks, 2 * total)
    assert output.rstrip().endswith(OK)


def test_sample_feed() -> None:
    """Without arguments every event of the sample feed reaches both devices of its user, and the status is 0."""
    done = demo("--rate", "0")
    pushes = events(FEED.read_text("utf-8"))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(pushes) > 300
    assert any(not user.isascii() for _, user, _ in pushes)
    assert_complete(done.stdout, pushes)


def test_ids_are_those_of_the_log() -> None:
    """Both devices of a user see the same ids in the same growing order."""
    seen: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for _, user, kind, _, id_, _, _ in SIGHTING.findall(demo("--rate", "0").stdout):
        ms, sequence = id_.split("-")
        seen.setdefault((user, kind), []).append((int(ms), int(sequence)))
    assert seen
    for (user, _), ids in seen.items():
        assert ids == sorted(set(ids))
        assert ids == seen[user, "phone"]


def test_broken_off_devices_resume_on_the_other_instance() -> None:
    """A device that broke off resumes from the last id it saw, elsewhere, and gets all that the other one got."""
    output = demo("--rate", "0").stdout
    story = re.findall(
        r">> (\S+)'s (\w+) loses (web-[12]) after (\S+); pushes go on\n(.*?)"
        r">> \1's \2 resumes on (web-[12]) from (\S+)\n(.*?)>> \1's \2 missed (\d+), caught up (\d+)\n",
        output,
        re.DOTALL,
    )
    assert len(story) > 2
    most = 0
    for user, kind, before, last_id, away, after, resumed_from, replay, missed, caught_up in story:
        assert {before, after} == {"web-1", "web-2"}
        assert last_id == resumed_from
        meanwhile = [sighting for sighting in SIGHTING.findall(away) if sighting[1] == user]
        assert kind not in [sighting[2] for sighting in meanwhile]
        back = [sighting for sighting in SIGHTING.findall(replay) if sighting[1:3] == (user, kind)]
        assert [sighting[4] for sighting in back] == [sighting[4] for sighting in meanwhile]
        assert {sighting[3] for sighting in back} <= {after}
        assert all(sighting[5] for sighting in back)
        assert int(missed) == int(caught_up) == len(meanwhile)
        most = max(most, len(meanwhile))
    assert most > 10


@pytest.mark.parametrize("way", ["pipe", "dash", "file", "redirected"])
def test_other_feeds(way: str, tmp_path: Path) -> None:
    """Events come from a pipe, from `-`, from a named file or from one on standard input, comments and all."""
    file = tmp_path / "feed"
    file.write_text(SMALL, "utf-8")
    if way == "pipe":
        done = demo(stdin=SMALL)
    elif way == "dash":
        done = demo("-", stdin=SMALL)
    elif way == "file":
        done = demo(str(file))
    else:
        with file.open("rb") as opened:
            finished = subprocess.run(
                COMMAND, stdin=opened, capture_output=True, encoding="utf-8", check=False, timeout=50, env=environment()
            )
        done = finished
    assert (done.returncode, done.stderr) == (0, "")
    assert_complete(done.stdout, events(SMALL))
    assert ("standard input" in done.stdout) == (way != "file")


def test_last_line_without_an_end() -> None:
    """A last line counts also where no newline ends it, and Windows line ends and a byte order mark do no harm."""
    done = demo("-", stdin=b"\xef\xbb\xbfalice a 1\r\nalice b 2")
    assert done.returncode == 0
    assert_complete(done.stdout, [("1", "alice", "a"), ("2", "alice", "b")])


def test_bad_lines() -> None:
    """Lines that are no event are named with their number and skipped; the others arrive; the status is 2."""
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
    complaints = re.findall(r"^line (\d+) skipped: .+$", done.stderr, re.MULTILINE)
    assert complaints == [str(number) for number in range(2, len(lines))]
    assert "Traceback" not in done.stderr
    assert numbers(done.stdout, r"pushed +(\d+) events to \d+ users; lines skipped: (\d+)") == (2, len(lines) - 2)
    assert numbers(done.stdout, r"seen +(\d+) of (\d+) expected") == (4, 4)


def test_payload_cannot_steer_the_terminal() -> None:
    """Control characters of a payload are not written, and no line is wider than 80 columns."""
    done = demo("-", stdin='alice a "\\u009b31m \u202e \u200f %s"\n' % ("小" * 100))
    assert done.returncode == 0
    assert not set(done.stdout) & set("\x1b\x9b\u202e\u200f")
    assert all(len(line) + line.count("小") <= 80 for line in done.stdout.splitlines())


@pytest.mark.parametrize("options", [("/nowhere/feed",), (str(DEMO.parent),), ("--rate", "-1"), ("--rate", "nan")])
def test_unusable_arguments(options: tuple[str, ...]) -> None:
    """A file that cannot be read and a rate that is none end with status 2 and one sentence, not a traceback."""
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


@pytest.mark.parametrize("redirection", ["<&-", "</dev/null"])
def test_no_standard_input(redirection: str) -> None:
    """Where standard input is closed or empty, the sample feed is taken."""
    script = f'exec "$0" "$@" --rate 0 --quiet {redirection}'
    done = subprocess.run(
        ["sh", "-c", script, *COMMAND],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=50,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(done.stdout, r"pushed +(\d+) events") == (len(events(FEED.read_text("utf-8"))),)


def test_silent_pipe() -> None:
    """A pipe that stays open and says nothing, as on a build server, does not keep the demo from its sample feed."""
    with subprocess.Popen(
        [*COMMAND, "--rate", "0", "--quiet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        output, errors = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0
    assert "Nothing came through the pipe" in errors
    assert output.rstrip().endswith(OK)


def test_quiet() -> None:
    """`--quiet` leaves the summary alone: no sightings, the same counts."""
    done = demo("--quiet", stdin=SMALL)
    assert done.returncode == 0
    assert not SIGHTING.findall(done.stdout)
    assert ">>" not in done.stdout
    assert numbers(done.stdout, r"seen +(\d+) of (\d+) expected") == (8, 8)


def test_sabotage_is_found() -> None:
    """A lost event is found by the checker, which names its id; the status is 1."""
    done = demo("--rate", "0", "--sabotage")
    assert done.returncode == 1
    hidden = re.search(r"sabotage: (\d+-\d+) was hidden", done.stdout)
    assert hidden is not None
    assert re.search(rf"lost-write .*a reader went past {hidden[1]}$", done.stdout, re.MULTILINE)
    named = re.search(rf"lost-write: {hidden[1]} is line (\d+): (\S+) (\S+)", done.stdout)
    assert named is not None
    assert named.groups() in events(FEED.read_text("utf-8"))
    lost = [sighting for sighting in SIGHTING.findall(done.stdout) if sighting[4] == hidden[1]]
    assert len(lost) == 1  # the device that stayed connected
    total = len(events(FEED.read_text("utf-8")))
    assert numbers(done.stdout, r"seen +(\d+) of (\d+) expected") == (2 * total - 1, 2 * total)
    missed, caught_up = numbers(done.stdout, r"missed (\d+), caught up (\d+)$")
    assert missed == caught_up + 1
    assert numbers(done.stdout, r"violations +(\d+)") == (1,)
    assert OK not in done.stdout
    assert done.stdout.rstrip().endswith(FAILED)


@pytest.mark.slow
def test_sabotage_of_the_last_event() -> None:
    """A device that never gets the last event is not waited for without end: it is a violation."""
    done = demo("--sabotage", stdin="alice a 1\nalice b 2\nalice c 3\n")
    assert done.returncode == 1
    assert "unseen" in done.stdout
    assert numbers(done.stdout, r"seen +(\d+) of (\d+) expected") == (5, 6)
    assert done.stdout.rstrip().endswith(FAILED)


def test_sabotage_without_a_victim() -> None:
    """Where nobody reads the log there is nothing to lose: the verdict is good, but the status is 2."""
    done = demo("--sabotage", stdin="alice a 1\n")
    assert done.returncode == 2
    assert "hidden" not in done.stdout
    assert done.stdout.rstrip().endswith(OK)


def test_rate() -> None:
    """The rate bounds how fast events are pushed."""
    done = demo("--rate", "20", stdin="".join(f"alice a {number}\n" for number in range(11)))
    assert done.returncode == 0
    ids = [int(sighting[4].split("-")[0]) for sighting in SIGHTING.findall(done.stdout)]
    assert max(ids) - min(ids) >= 450


def test_interrupt() -> None:
    """Ctrl-C ends the feed, not the verdict: devices that are away are brought back first; the status is 130."""
    process = subprocess.Popen(
        [*COMMAND, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment(),
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("alice a 1\nalice b 2\nalice c 3\n")
        process.stdin.flush()
        output = ""
        while not re.search(r"laptop@web-2 \S+ c 3", output):  # the phone is away by then
            line = process.stdout.readline()
            assert line, output
            output += line
        process.send_signal(signal.SIGINT)
        output += process.stdout.read()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (130, "")
    assert ">> alice's phone missed 1, caught up 1" in output
    assert_complete(output, [("1", "alice", "a"), ("2", "alice", "b"), ("3", "alice", "c")])


def in_terminal(*options: str, lines: str, **more: str) -> tuple[int, str]:
    """Run the demo in a terminal, type the lines one by one as each is answered, then Ctrl-D."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *options], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**{"TERM": "xterm", **more})
    )
    os.close(theirs)
    output = b""
    expected = [f"laptop@web-2 [0-9-]+ {line.split()[1]} ".encode() for line in lines.splitlines()]
    typed = [line.encode() + b"\n" for line in lines.splitlines()] + [b"\x04"]
    with process:
        waiting = [b"Ctrl-D ends", *expected]
        while True:
            while waiting and re.search(waiting[0], output):
                waiting.pop(0)
                os.write(ours, typed.pop(0))
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux reports the end of a terminal so
                break
            if not chunk:
                break
            output += chunk
    os.close(ours)
    return process.returncode, output.decode().replace("\r\n", "\n")


def test_typed_in_a_terminal() -> None:
    """A person types a line and the streams react at once, in colour; Ctrl-D ends with the verdict."""
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
    """A reader of the output that goes away ends the demo without a traceback."""
    with subprocess.Popen(
        [*COMMAND, "--rate", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (-signal.SIGPIPE, "")
