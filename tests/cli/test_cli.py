"""The `notify` command on one SQLite file, as a person uses it: real processes, a directory of their own."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing, redirect_stdout, suppress
from pathlib import Path

import pytest

from notify import ids
from notify.cli import main
from notify.testing.history import History
from tests.cli.commands import NOTIFY, PATIENCE, Done, environment, notify, running

pytestmark = pytest.mark.timeout(120)

ID = r"\d+-\d+"


def one_line(done: Done, status: int) -> str:
    """The only line that it wrote, on standard error."""
    assert (done.status, done.out) == (status, ""), done
    assert re.fullmatch(r"notify: [^\n]+\n", done.err), done.err
    return done.err


def push(directory: Path, *arguments: str) -> str:
    done = notify(directory, "push", *arguments)
    assert done.status == 0, done
    assert re.fullmatch(ID, done.out.strip())
    return done.out.strip()


def shown(directory: Path, user: str, *arguments: str) -> list[str]:
    done = notify(directory, "tail", user, "--after", "0", "--no-follow", *arguments)
    assert done.status == 0, done
    return done.out.splitlines()


# -- two terminals and one file ------------------------------------------------------------------------------------


def test_two_terminals_and_one_file(tmp_path: Path) -> None:
    """What one process pushes, another one that follows the user shows; Ctrl-C ends it with 130 and not a word."""
    first = push(tmp_path, "alice", "comment.created", '{"post": 7}')
    with running(tmp_path, "tail", "alice", "--after", "0") as tail:
        assert tail.wait_for("comment.created") == f'{first} comment.created {{"post": 7}}'
        push(tmp_path, "bob", "mention")
        second = push(tmp_path, "alice", "mention")
        assert tail.wait_for("mention") == f"{second} mention null"
        assert tail.interrupt() == (130, "\n".join(tail.out), "")
        assert tail.ids() == [first, second]


def test_tail_begins_now(tmp_path: Path) -> None:
    """Without a position only what comes after the start is shown."""
    push(tmp_path, "alice", "old")
    with running(tmp_path, "tail", "alice", "-v") as tail:
        while not tail.out:  # until it has opened, whatever is pushed is of the past
            push(tmp_path, "alice", "new")
        assert " new " in tail.out[0]


def test_tail_from_an_id_and_from_a_time(tmp_path: Path) -> None:
    """`--after` takes an id, after which it begins, and a time, at which it begins."""
    first, second = push(tmp_path, "alice", "a"), push(tmp_path, "alice", "b")
    rest = notify(tmp_path, "tail", "alice", "--after", first, "--no-follow")
    assert rest == (0, f"{second} b null\n", "")
    since = ids.time_of(second).isoformat()
    assert notify(tmp_path, "tail", "alice", "--after", since, "--no-follow").out == f"{second} b null\n"
    assert notify(tmp_path, "tail", "alice", "--no-follow").out == f"{first} a null\n{second} b null\n"
    later = notify(tmp_path, "tail", "alice", "--after", "2200-01-01T00:00:00Z", "--no-follow")
    assert later == (0, "", "")


def test_tail_json(tmp_path: Path) -> None:
    """`--json` gives one object to a line, with every field of the event."""
    id_ = push(tmp_path, "alice", "comment.created", '{"text": "おはよう"}', "--key", "k1")
    (line,) = shown(tmp_path, "alice", "--json")
    assert "おはよう" in line
    event = json.loads(line)
    assert event.pop("timestamp").endswith("+00:00")
    assert event == {
        "id": id_,
        "prev": "0",
        "user": "alice",
        "type": "comment.created",
        "key": "k1",
        "group": None,
        "meta": {},
        "payload": {"text": "おはよう"},
    }


def test_payload_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """Control characters of a payload are shown as JSON escapes, in both forms, and stay the same JSON."""
    text = "\x9b31m\u202e\u2028 \U000e0001"
    push(tmp_path, "alice", "a", json.dumps(text))
    for form in ((), ("--json",)):
        (line,) = shown(tmp_path, "alice", *form)
        assert line.isprintable()
        payload = json.loads(line)["payload"] if form else json.loads(line.split(" ", 2)[2])
        assert payload == text


@pytest.mark.parametrize("as_json", [False, True], ids=["plain", "json"])
def test_tail_shows_a_gap(tmp_path: Path, as_json: bool) -> None:
    """Events that were removed before they could be read are a gap: a line on standard error, or an event as JSON."""
    first, second, third = (push(tmp_path, "alice", type_) for type_ in ("a", "b", "c"))
    assert notify(tmp_path, "trim", third) == (0, "removed 2\n", "")
    form = ("--json",) if as_json else ()
    done = notify(tmp_path, "tail", "alice", "--after", first, "--no-follow", *form)
    assert done.status == 0
    if as_json:
        gap, event = map(json.loads, done.out.splitlines())
        assert (gap["type"], gap["payload"]) == ("notify.gap", {"reason": "trimmed", "from": first, "to": second})
        assert (event["id"], done.err) == (third, "")
    else:
        assert done.out == f"{third} c null\n"
        assert done.err == f"notify: gap (trimmed): events after {first} and up to {second} are gone\n"


def test_tail_into_a_closed_pipe(tmp_path: Path) -> None:
    """Who reads the output goes away, as `head -1` does: tail ends by itself, though nothing more is pushed."""
    push(tmp_path, "alice", "a")
    push(tmp_path, "alice", "b")
    script = '"$@" tail alice --after 0 | head -1; exit "${PIPESTATUS[0]}"'
    for command in (script, script.replace("head -1", "true")):
        done = subprocess.run(
            ["bash", "-c", command, "-", *NOTIFY],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=environment(),
        )
        assert (done.returncode, done.stderr) == (141, "")


def test_tail_goes_on_with_a_new_file(tmp_path: Path) -> None:
    """A file that is deleted is missed once; with its successor tail goes on by itself, and says what is gone."""
    with running(tmp_path, "tail", "alice", "--after", "0") as tail:
        tail.wait_for("is a new file", tail.err)
        before = push(tmp_path, "alice", "a")
        tail.wait_for(before)
        for file in tmp_path.glob("notify.db*"):
            file.unlink()
        tail.wait_for("the store is back", tail.err)
        after = push(tmp_path, "alice", "b")
        tail.wait_for(after)
        assert tail.ids() == [before, after]
        assert len([line for line in tail.err if "the store is away" in line]) == 1
        assert tail.err[-1] == f"notify: gap (expired): the log does not know {before}, and goes on after 0"
        assert tail.interrupt().status == 130


def test_tail_waits_for_a_directory(tmp_path: Path) -> None:
    """A directory that is away for longer than one try is told of once, however often it is looked for."""
    with running(tmp_path, "tail", "alice", "--store", "sqlite:///data/notify.db") as tail:
        assert tail.wait().status == 1  # it was never there
    (tmp_path / "data").mkdir()
    with running(tmp_path, "tail", "alice", "--after", "0", "--store", "sqlite:///data/notify.db") as tail:
        push(tmp_path, "alice", "first", "--store", "sqlite:///data/notify.db")
        tail.wait_for("first null")
        (tmp_path / "data").rename(tmp_path / "moved")
        tail.wait_for("the store is away", tail.err)
        push(tmp_path, "alice", "a", "--store", "sqlite:///moved/notify.db")
        for _ in range(4):  # meanwhile it looks for it, more than once, and nothing tells of that
            assert notify(tmp_path, "check", "--store", "sqlite:///data/notify.db").status == 1
        (tmp_path / "moved").rename(tmp_path / "data")
        tail.wait_for("a null")
        tail.wait_for("the store is back", tail.err)
        assert [line.split()[1] for line in tail.out] == ["first", "a"]
        told = [line.partition(",")[0] for line in tail.err if "new file" not in line]  # whichever of the two made it
        assert told == ["notify: the store is away", "notify: the store is back"]
        assert tail.interrupt().status == 130


# -- the other commands --------------------------------------------------------------------------------------------


def test_push_with_a_key(tmp_path: Path) -> None:
    """The same key again stores nothing and says the first id; without one every push is another event."""
    first = push(tmp_path, "alice", "a", "1", "--key", "k")
    assert push(tmp_path, "alice", "a", "1", "--key", "k") == first
    assert len({push(tmp_path, "alice", "a", "-5") for _ in range(2)}) == 2
    assert len(shown(tmp_path, "alice")) == 3


def test_head(tmp_path: Path) -> None:
    """`head` says the id of the last event, trimmed or not, and 0 for who never had one."""
    last = push(tmp_path, "alice", "a")
    assert notify(tmp_path, "head", "alice") == (0, f"{last}\n", "")
    assert notify(tmp_path, "head", "bob") == (0, "0\n", "")
    assert notify(tmp_path, "trim", "2200-01-01T00:00:00Z") == (0, "removed 1\n", "")
    assert notify(tmp_path, "head", "alice") == (0, f"{last}\n", "")


def test_trim_removes_what_is_older(tmp_path: Path) -> None:
    """`trim` removes, of all users, what lies before the id or time and nothing else."""
    first = push(tmp_path, "alice", "a")
    push(tmp_path, "bob", "a")
    last = push(tmp_path, "alice", "b")
    assert notify(tmp_path, "trim", "0").out == "removed 0\n"
    assert notify(tmp_path, "trim", first).out == "removed 0\n"
    assert notify(tmp_path, "trim", last).out == "removed 2\n"
    assert shown(tmp_path, "alice") == [f"{last} b null"]


def test_check(tmp_path: Path) -> None:
    """`check` says that the store works; where the file is damaged it says so, and its status is 1."""
    push(tmp_path, "alice", "a")
    assert notify(tmp_path, "check") == (0, "store    ok\nlive     ok\n", "")
    (tmp_path / "bad.db").write_bytes(b"this is no database, whatever its name may be" * 100)
    done = notify(tmp_path, "check", "--store", "sqlite:///bad.db")
    assert (done.status, done.err) == (1, "")
    assert re.fullmatch(r"store    cannot be read: the file is no SQLite database.*\n", done.out)


def test_stats(tmp_path: Path) -> None:
    """`stats` tells of the file, and of each user's log how much is in it, from when to when."""
    feed = "".join(f"bob n {number}\n" for number in range(501))
    assert notify(tmp_path, "push", "--stdin", stdin=feed).out == "pushed 501, failed 0\n"
    first = push(tmp_path, "alice", "a", '"1234"')
    last = push(tmp_path, "alice", "b", "5")
    done = notify(tmp_path, "stats", "alice", "bob", "carol")
    assert (done.status, done.err) == (0, "")
    facts = dict(line.split(" ", 1) for line in done.out.splitlines() if not line.startswith("user"))
    assert facts.pop("store").strip() == "SQLiteStreamStore at sqlite:///notify.db"
    assert int(facts["file"].split()[0]) == (tmp_path / "notify.db").stat().st_size
    assert set(facts) == {"read", "file", "wal"}
    assert re.search(rf"^user   alice: 2 events, 7 bytes of payload, from {first} \(.*Z\) to {last} ", done.out, re.M)
    assert re.search(r"^user   bob: 501 events, 1393 bytes", done.out, re.M)
    assert "user   carol: no events\n" in done.out
    notify(tmp_path, "trim", "2200-01-01T00:00:00Z")
    assert f"alice: no events any more; the last one was {last}\n" in notify(tmp_path, "stats", "alice").out


def test_command_removes_nothing_by_itself(tmp_path: Path) -> None:
    """The command's own pushes trim no log, however long: it knows nothing of the application's limits."""
    feed = "".join(f"alice n {number}\n" for number in range(1200))
    assert notify(tmp_path, "push", "--stdin", stdin=feed).status == 0
    assert len(shown(tmp_path, "alice")) == 1200


# -- feeds ---------------------------------------------------------------------------------------------------------


def test_feed(tmp_path: Path) -> None:
    """A feed is pushed line by line; blank lines and comments are none; each user's events keep their order."""
    lines = ["\ufeff# a comment", "", *(f"user{n % 7} t {n}" for n in range(700)), 'josé x {"a": "小林"}', "bob y"]
    done = notify(tmp_path, "push", "--stdin", stdin="\r\n".join(lines))
    assert done.status == 0
    assert done.out == "pushed 702, failed 0\n"
    for user in range(7):
        assert [int(line.split()[2]) for line in shown(tmp_path, f"user{user}")] == list(range(user, 700, 7))
    assert shown(tmp_path, "josé")[0].endswith('x {"a": "小林"}')
    assert shown(tmp_path, "bob")[0].endswith("y null")


BAD = [
    b"hello",
    b'alice b {"post":',
    b"alice c NaN",
    b"alice no! 1",
    b"alice notify.x 1",
    b"\xff b",
    b"al\x00ice d",
    b'alice e "\\ud800"',
    b"alice f " + b"[" * 100_000,
    b"alice g " + b"1" * 5000,
    b'alice h "' + b"x" * 70_000 + b'"',
    b"alice i " + b"x" * (3 << 20),
]


def test_feed_with_bad_lines(tmp_path: Path) -> None:
    """Lines that cannot be pushed are named by their numbers, all others are pushed; the status is 1."""
    feed = b"\n".join([b"alice a 1", *BAD, b"alice z 2", BAD[-1]])
    done = notify(tmp_path, "push", "--stdin", "--ids", stdin=feed)
    bad = [*range(2, 2 + len(BAD)), len(BAD) + 3]
    assert done.status == 1
    complaints = re.findall(r"^notify: line (\d+): .+$", done.err, re.M)
    assert sorted(map(int, complaints)) == bad
    assert len(done.err.splitlines()) == len(bad) + 1  # and the new file
    assert "notify: line 3: the payload is not JSON: Expecting value: character 9\n" in done.err
    assert "notify: line 13: it is longer than 1048576 bytes\n" in done.err
    *stored, summary = done.out.splitlines()
    assert summary == f"pushed 2, failed {len(bad)}"
    assert [line.split()[0] for line in stored] == ["1", str(len(BAD) + 2)]
    assert [line.split()[0] for line in shown(tmp_path, "alice")] == [line.split()[1] for line in stored]


def test_feed_with_many_bad_lines(tmp_path: Path) -> None:
    """Only so many lines are named; the others are counted."""
    done = notify(tmp_path, "push", "--stdin", stdin="bad\n" * 1000)
    assert (done.status, done.out) == (1, "pushed 0, failed 1000\n")
    assert len(done.err.splitlines()) == 52


def test_feed_pushed_again_with_its_key(tmp_path: Path) -> None:
    """A feed pushed again with the same key stores what is missing, and nothing twice."""
    half = "".join(f"alice n {number}\n" for number in range(50))
    whole = half + "".join(f"bob n {number}\n" for number in range(50))
    first = notify(tmp_path, "push", "--stdin", "--ids", "--key", "import-7", stdin=half)
    again = notify(tmp_path, "push", "--stdin", "--ids", "--key", "import-7", stdin=whole)
    assert (first.status, again.status) == (0, 0)
    assert set(first.out.splitlines()[:-1]) < set(again.out.splitlines())
    assert (len(shown(tmp_path, "alice")), len(shown(tmp_path, "bob"))) == (50, 50)


def test_feed_comes_line_by_line(tmp_path: Path) -> None:
    """A line of a pipe is pushed when it comes, not when the pipe ends; now and then a line tells how far it is."""
    with running(tmp_path, "push", "--stdin", "--ids") as feed, running(tmp_path, "tail", "alice") as tail:
        feed.write("alice a 1\n")
        feed.wait_for("1 ")
        number = 1
        while not tail.out:
            number += 1
            feed.write(f"alice a {number}\n")
            feed.wait_for(f"{number} ")
        feed.wait_for("notify: pushed ", feed.err)
        feed.end_input()
        assert feed.wait().status == 0
        assert feed.out[-1] == f"pushed {number}, failed 0"


def test_feed_is_interrupted(tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM end a feed with 130 and 143; it says how far it got, and pushed again with the key that it
    names, nothing is doubled."""
    for number, user in ((signal.SIGINT, "alice"), (signal.SIGTERM, "bob")):
        with running(tmp_path, "push", "--stdin", "--ids") as feed:
            feed.write(f"{user} a 1\nbad\n")
            feed.wait_for("1 ")
            feed.wait_for("line 2: ", feed.err)
            feed.process.send_signal(number)
            assert feed.wait().status == 128 + number
            assert feed.out[-1] == "pushed 1, failed 1"
            assert feed.err[-2] == f"notify: ended by {number.name}"
            assert feed.err[-1].startswith("notify: what is stored is not stored twice if ")
            key = feed.err[-1].split("--key ")[1]
        again = notify(tmp_path, "push", "--stdin", "--key", key, stdin=f"{user} a 1\n{user} a 2\n")
        assert again.out == "pushed 2, failed 0\n"
        assert [line.split()[2] for line in shown(tmp_path, user)] == ["1", "2"]


def test_feed_in_the_background(tmp_path: Path) -> None:
    """A signal that was ignored when the feed began, as Ctrl-C is in the background of a script, stays ignored."""
    script = 'trap "" INT; exec "$@" push --stdin --ids'
    with subprocess.Popen(
        ["sh", "-c", script, "-", *NOTIFY],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as feed:
        assert feed.stdin is not None
        assert feed.stdout is not None
        for number in (1, 2):
            feed.stdin.write("alice a\n")
            feed.stdin.flush()
            assert feed.stdout.readline().startswith(f"{number} ")
            feed.send_signal(signal.SIGINT)
        feed.stdin.close()
        assert feed.stdout.read() == "pushed 2, failed 0\n"
    assert feed.returncode == 0


def test_feed_that_is_stuck(tmp_path: Path) -> None:
    """A feed whose output nobody takes can say nothing more; SIGTERM once again ends it all the same."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with suppress(BlockingIOError):
        while True:
            os.write(theirs, b"-")
    os.set_blocking(theirs, True)
    with subprocess.Popen(
        [*NOTIFY, "push", "--stdin", "--ids"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env=environment(),
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"alice a\n")
        process.stdin.flush()
        deadline = time.monotonic() + PATIENCE
        while notify(tmp_path, "head", "alice").out in ("", "0\n") and time.monotonic() < deadline:
            assert process.poll() is None
        while process.poll() is None and time.monotonic() < deadline:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
        process.kill()
    assert process.returncode == -signal.SIGTERM
    os.close(ours)
    os.close(theirs)


def test_feed_whose_server_never_comes(tmp_path: Path) -> None:
    """A server that is away from the beginning is waited for as long as for a line; then the feed gives up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = ("--store", f"postgresql://u:geheim@127.0.0.1:{server.getsockname()[1]}/db")
    done = notify(tmp_path, "push", "--stdin", "--timeout", "1", *where, stdin="alice a\n")
    assert (done.status, done.out) == (1, "")
    away, gave_up = done.err.splitlines()
    assert away.startswith("notify: the store is away, so opening it is tried again for 1 s: ")
    assert ": gave up: it could not be opened for 1 s: " in gave_up
    assert "geheim" not in done.err
    with running(tmp_path, "push", "--stdin", *where) as feed:
        feed.wait_for("opening it is tried again for 30 s", feed.err)
        done = feed.interrupt()
        assert (done.status, done.out) == (130, "pushed 0, failed 0")


def in_terminal(directory: Path, *arguments: str, stdin: Path) -> tuple[int, str]:
    """Run the command with standard error on a terminal; return its status and what the terminal got."""
    ours, theirs = pty.openpty()
    with stdin.open("rb") as feed:
        process = subprocess.Popen(
            [*NOTIFY, *arguments], cwd=directory, stdin=feed, stdout=theirs, stderr=theirs, env=environment()
        )
    os.close(theirs)
    output = b""
    with process:
        while True:
            try:
                chunk = os.read(ours, 65_536)
            except OSError:  # Linux reports the end of a terminal so
                break
            output += chunk
    os.close(ours)
    return process.returncode, output.decode()


def test_progress_bar(tmp_path: Path) -> None:
    """On a terminal a bar is drawn over and over in one line; complaints do not tear it, and it is gone at the end."""
    feed = tmp_path / "feed"
    feed.write_text("".join(f"user{n % 300} t {n}\n" for n in range(6000)) + "bad\n")
    status, output = in_terminal(tmp_path, "push", "--stdin", stdin=feed)
    assert status == 1
    bars = re.findall(r"\r\x1b\[K\[(#*)(\.*)\] pushed (\d+), failed \d+, (\d+)% read", output)
    assert bars
    assert all(len(done) + len(left) == 30 for done, left, _, _ in bars)
    assert [int(pushed) for _, _, pushed, _ in bars] == sorted({int(pushed) for _, _, pushed, _ in bars})
    assert "\r\x1b[Knotify: line 6001: a line is USER TYPE [JSON]\r\n" in output
    assert output.endswith("\r\x1b[Kpushed 6000, failed 1\r\n")


def test_feed_from_nowhere(tmp_path: Path) -> None:
    """An empty feed pushes nothing, a closed one is an error; a device and a socket are read like anything else."""
    assert notify(tmp_path, "push", "--stdin").out == "pushed 0, failed 0\n"
    for redirection, status in (("</dev/null", 0), ("<&-", 2)):
        script = f'exec "$@" push --stdin {redirection}'
        command = ["sh", "-c", script, "-", *NOTIFY]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, timeout=PATIENCE, check=False, env=environment()
        )
        assert done.returncode == status, done
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"alice a 1\n")
        ours.shutdown(socket.SHUT_WR)
        command = [*NOTIFY, "push", "--stdin"]
        done = subprocess.run(
            command, cwd=tmp_path, stdin=theirs, capture_output=True, timeout=PATIENCE, check=False, env=environment()
        )
    assert done.stdout == b"pushed 1, failed 0\n"


# -- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "which command"),
        (("fly",), "invalid choice"),
        (("--nonsense",), "(see notify --help)"),
        (("tail", "alice", "--nonsense"), "--nonsense (see notify tail --help)"),
        (("push",), "push takes USER TYPE"),
        (("push", "alice"), "push takes USER TYPE"),
        (("push", "alice", "t", "{"), "not JSON: Expecting property name enclosed in double quotes: character 2"),
        (("push", "alice", "t", "NaN"), "not a JSON value"),
        (("push", "alice", "t", "1", "2"), "unrecognized arguments"),
        (("push", "alice", "no!"), "event type"),
        (("push", "alice", "notify.x"), "library's own"),
        (("push", "", "t"), "user"),
        (("push", "al\x1bice", "t"), r"al\x1bice"),
        (("push", "alice", "t", "--key", "x" * 300), "key"),
        (("push", "alice", "t", "--ids"), "--ids"),
        (("push", "alice", "t", '"' + "x" * 70_000 + '"'), "70002 bytes"),
        (("push", "--stdin", "alice"), "standard input"),
        (("push", "--stdin", "--key", "x" * 250), "key"),
        (("tail",), "USER"),
        (("tail", "x" * 256), "user"),
        (("tail", "alice", "--after", "yesterday"), "yesterday"),
        (("tail", "alice", "--after", ""), "not an id"),
        (("tail", "alice", "--after", "2026-01-01"), "zone"),
        (("tail", "alice", "--after", "1969-01-01T00:00:00Z"), "1970"),
        (("trim", "1-2-3"), "not an id"),
        (("head", "alice", "--timeout", "-1"), "above 0"),
        (("head", "alice", "--timeout", "soon"), "above 0"),
        (("stats", ""), "user"),
        (("head", "alice", "--store", "memory://"), "one process"),
        (("head", "alice", "--store", ""), "not the URL of a store"),
        (("head", "alice", "--store", "notify.db"), "not the URL of a store"),
        (("head", "alice", "--store", "mysql://u:geheim@host/db"), "not the URL of a store"),
        (("head", "alice", "--store", "sqlite:"), "not the URL of a store"),
        (("head", "alice", "--store", "sqlite://"), "sqlite:///FILE"),
        (("head", "alice", "--store", "sqlite:///a.db?mode=ro"), "sqlite:///FILE"),
        (("head", "alice", "--store", "redis://u:geheim@host:port"), "port"),
        (("head", "alice", "--store", "redis+cluster://u:geheim@a:1,b:2/3"), "no databases"),
        (("head", "alice", "redis://u:geheim@host"), "unrecognized arguments"),
        (("push", "alice", "t", "--prefix", "No!"), "table_prefix"),
        (("head", "alice", "--schema", "app"), "PostgreSQL"),
    ],
)
def test_wrong_command_lines(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """A command line that is wrong: one line that says what, no password in it, status 2, and no file is made."""
    line = one_line(notify(tmp_path, *arguments), 2)
    assert words in line
    assert "geheim" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", [("head", "alice"), ("trim", "0"), ("check",), ("stats",)], ids=lambda each: each[0]
)
def test_file_that_is_not_there(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Where there is no file, nothing is made of it by a command that only looks."""
    assert "there is no file 'notify.db'" in one_line(notify(tmp_path, *command), 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [("push", "alice", "t"), ("tail", "alice"), ("push", "--stdin")], ids=str)
def test_file_that_cannot_be_made(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A file in a directory that does not exist is one line and status 1."""
    assert "cannot be opened" in one_line(notify(tmp_path, *command, "--store", "sqlite:///nowhere/notify.db"), 1)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:geheim@127.0.0.1:{port}",
        "redis://127.0.0.1:{port}?password=geheim",
        "redis+sentinel://u:geheim@127.0.0.1:{port}/main/0",
        "redis+cluster://u:geheim@127.0.0.1:{port},127.0.0.1:{port}",
        "postgresql://u:geheim@127.0.0.1:{port}/db",
    ],
)
def test_unreachable_servers(tmp_path: Path, url: str) -> None:
    """A server that is not there: one line without the password, status 1, for each kind of command."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    where = ("--store", url.format(port=port))
    with ExitStack() as stack:
        commands = [("head", "alice", "--timeout", "2"), ("push", "alice", "t", "--timeout", "2"), ("tail", "alice")]
        *others, check = [
            stack.enter_context(running(tmp_path, *command, *where))
            for command in (*commands, ("check", "--timeout", "2"))
        ]
        for other in others:
            done = other.wait()
            assert (done.status, done.out, len(other.err)) == (1, "", 1)
            assert done.err.startswith("notify: ")
            assert str(port) in done.err
            assert "geheim" not in done.err
        checked = check.wait()
        assert (checked.status, checked.err, len(check.out)) == (1, "", 1)
        assert checked.out.startswith("store    ")
        assert "geheim" not in checked.out


@pytest.mark.parametrize("scheme", ["redis", "postgresql"])
def test_server_that_says_nothing(tmp_path: Path, scheme: str) -> None:
    """A server that accepts connections and never answers is given up within the time that was asked for."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"{scheme}://127.0.0.1:{server.getsockname()[1]}/"
        assert where in one_line(notify(tmp_path, "head", "alice", "--timeout", "1", "--store", where), 1)


@pytest.mark.parametrize(
    ("url", "driver", "extra"),
    [
        ("sqlite:///notify.db", "aiosqlite", "sqlite"),
        ("redis://127.0.0.1", "redis", "redis"),
        ("postgres://127.0.0.1/x", "asyncpg", "pg"),
    ],
)
def test_driver_that_is_not_installed(tmp_path: Path, url: str, driver: str, extra: str) -> None:
    """Where the driver is missing, the line names what to install."""
    script = f"import sys; sys.modules[{driver!r}] = None; from notify.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "push", "alice", "t", "--store", url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment())
    assert f"pip install 'notify-streams[{extra}]'" in one_line(Done(done.returncode, done.stdout, done.stderr), 1)


def test_driver_is_imported_only_where_needed(tmp_path: Path) -> None:
    """Whoever uses a file needs no other driver."""
    gone = "".join(f"sys.modules[{driver!r}] = None; " for driver in ("redis", "asyncpg", "trio"))
    script = f"import sys; {gone}from notify.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "push", "alice", "t"]
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, env=environment()).returncode == 0


def test_locked_file(tmp_path: Path) -> None:
    """A file that somebody else has locked is waited for, and then given up in one line; a feed names its key."""
    push(tmp_path, "alice", "a")
    script = "import sqlite3, sys; sqlite3.connect('notify.db').execute('BEGIN IMMEDIATE'); print('held', flush=True)"
    holder = subprocess.Popen(
        [sys.executable, "-c", script + "; sys.stdin.read()"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        line = one_line(notify(tmp_path, "push", "alice", "b", "--timeout", "1"), 1)
        assert "somebody else holds the lock" in line
        feed = notify(
            tmp_path, "push", "--stdin", "--timeout", "0.5", "--key", "k", stdin="alice b 1\nbob b 2\nbob b 3\n"
        )
        assert (feed.status, feed.out) == (1, "pushed 0, failed 3\n")
        assert re.search(r"gave up: nothing could be pushed for 0.5 s: .+\n.* with --key k\n", feed.err)
        holder.kill()
    again = notify(tmp_path, "push", "--stdin", "--key", "k", stdin="alice b 1\nbob b 2\nbob b 3\n")
    assert again.out == "pushed 3, failed 0\n"


def test_feed_waits_for_a_lock(tmp_path: Path) -> None:
    """A feed goes on when a lock that lasted longer than one try is gone: everything is stored once, and in order."""
    push(tmp_path, "alice", "a")
    script = "import sqlite3, sys; sqlite3.connect('notify.db').execute('BEGIN IMMEDIATE'); print('held', flush=True)"
    holder = subprocess.Popen(
        [sys.executable, "-c", script + "; sys.stdin.read()"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder, running(tmp_path, "push", "--stdin") as feed:
        assert holder.stdout is not None
        holder.stdout.readline()
        feed.write("".join(f"user{n % 3} n {n}\n" for n in range(30)))
        feed.wait_for("the store is away, so pushes are tried again for 30 s", feed.err)
        holder.kill()
        feed.wait_for("the store is back", feed.err)
        feed.end_input()
        assert feed.wait().out == "pushed 30, failed 0"
    for user in range(3):
        assert [int(line.split()[2]) for line in shown(tmp_path, f"user{user}")] == list(range(user, 30, 3))


def test_line_that_the_store_refuses(tmp_path: Path) -> None:
    """A line that the store keeps refusing is named, and does not hold up those of others for good."""
    push(tmp_path, "alice", "a")
    with closing(sqlite3.connect(tmp_path / "notify.db")) as file:
        file.execute(
            "CREATE TRIGGER no BEFORE INSERT ON notify_events WHEN NEW.user = 'mallory' "
            "BEGIN SELECT RAISE(ABORT, 'not for mallory'); END"
        )
    with running(tmp_path, "push", "--stdin", "--ids", "--timeout", "1") as feed:
        feed.write("mallory n 1\n")
        number = 1
        while not any("line 1:" in line for line in feed.err):
            number += 1
            feed.write(f"bob n {number}\n")
            feed.wait_for(f"{number} ")
        feed.end_input()
        assert feed.wait() == (1, "\n".join(feed.out), "\n".join(feed.err))
        assert "not for mallory" in feed.wait_for("line 1:", feed.err)
        assert feed.out[-1] == f"pushed {number - 1}, failed 1"


def test_output_that_is_no_file() -> None:
    """The command may be called from Python, with output that goes anywhere."""
    with redirect_stdout(io.StringIO()) as out:
        assert main(["--version"]) == 0
    assert out.getvalue().startswith("notify ")


def test_full_disk_for_the_output(tmp_path: Path) -> None:
    """Output that cannot be written is one line and status 1; closed output and closed errors do no harm."""
    push(tmp_path, "alice", "a")
    for redirection, status, words in (
        (">/dev/full", 1, "No space left"),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("--nonsense 2>&-", 2, ""),
    ):
        script = f'exec "$@" head alice {redirection}'
        command = ["sh", "-c", script, "-", *NOTIFY]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment()
        )
        assert done.returncode == status, done
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == bool(words)


# -- how it is called ----------------------------------------------------------------------------------------------


def test_where_the_store_is_said(tmp_path: Path) -> None:
    """`--store` wins over NOTIFY_STORE, which wins over the default; it may stand on either side of the command."""
    variable = {"NOTIFY_STORE": "sqlite:///b%20b.db"}
    notify(tmp_path, "push", "alice", "default", variables={"NOTIFY_STORE": ""})
    notify(tmp_path, "push", "alice", "variable", variables=variable)
    notify(tmp_path, "--store", f"sqlite:///{tmp_path}/c.db", "push", "alice", "flag", variables=variable)
    notify(tmp_path, "push", "alice", "flag2", "--store", "sqlite:///c.db", variables=variable)
    for url, types in (
        ("sqlite:///notify.db", ["default"]),
        ("sqlite:///b%20b.db", ["variable"]),
        ("sqlite:///c.db", ["flag", "flag2"]),
    ):
        assert [line.split()[1] for line in shown(tmp_path, "alice", "--store", url)] == types
    assert (tmp_path / "b b.db").exists()


def test_prefix(tmp_path: Path) -> None:
    """Two prefixes are two worlds in one file."""
    push(tmp_path, "alice", "a", "--prefix", "shop_")
    assert len(shown(tmp_path, "alice", "--prefix", "shop_")) == 1
    assert not shown(tmp_path, "alice")


def test_version_and_help(tmp_path: Path) -> None:
    """`--version` names the package's; `--help` lists every command, and each has one of its own."""
    assert re.fullmatch(r"notify \d+\.\d+\S*\n", notify(tmp_path, "--version").out)
    script = (
        "import sys, importlib.metadata as m\n"
        "def version(name): raise m.PackageNotFoundError(name)\n"
        "m.version = version\n"
        "from notify.cli import main\n"
        "sys.exit(main(['--version']))"
    )
    copied = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert copied.stdout == "notify 0+unknown\n"
    for command in ("push", "tail", "head", "trim", "check", "stats"):
        assert re.search(rf"^ +{command} ", notify(tmp_path, "--help").out, re.M)
        assert notify(tmp_path, command, "--help").out.startswith(f"usage: notify {command} ")


def test_verbose(tmp_path: Path) -> None:
    """The library's log is shown where it is asked for, and nowhere else."""
    behind = ("tail", "alice", "--after", push(tmp_path, "alice", "a"), "--no-follow", "--json")
    push(tmp_path, "alice", "b")
    notify(tmp_path, "trim", "2200-01-01T00:00:00Z")
    assert notify(tmp_path, *behind).err == ""
    assert re.fullmatch(r"notify: notify: gap \(trimmed\) for user 'alice' .+\n", notify(tmp_path, "-v", *behind).err)


def test_unexpected_errors_are_one_line_too(tmp_path: Path) -> None:
    """What should not happen is one line all the same; the log has the rest."""
    script = (
        "import sys, notify.cli._main as cli\n"
        "async def head(options): raise ZeroDivisionError('oops')\n"
        "cli._head = head\n"
        "sys.exit(cli.main())"
    )
    command = [sys.executable, "-c", script, "head", "alice"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment())
    assert one_line(Done(done.returncode, done.stdout, done.stderr), 1) == "notify: ZeroDivisionError: oops\n"
    done = subprocess.run([*command, "-v"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr


def test_store_that_takes_for_ever(tmp_path: Path) -> None:
    """Whatever a store does, a single command ends soon after the time that was asked for."""
    script = (
        "import sys, anyio, notify.cli._main as cli\n"
        "async def head(options): await anyio.sleep_forever()\n"
        "cli._head = head\n"
        "sys.exit(cli.main())"
    )
    command = [sys.executable, "-c", script, "head", "alice", "--timeout", "0.2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    line = one_line(Done(done.returncode, done.stdout, done.stderr), 1)
    assert line == "notify: sqlite:///notify.db: no answer within 0.2 s\n"


# -- kills ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_feed_and_tail_killed_and_started_again(tmp_path: Path) -> None:
    """SIGKILL of the pushing process, and then of the following one: with the same key, and from the last id that was
    shown, nothing is lost and nothing doubled."""
    lines = [f"alice n {number}" for number in range(400)]
    history = History()
    for number, line in enumerate(lines, 1):
        history.pushing("alice", line, key=f"k:{number}")
    seen: list[str] = []
    with running(tmp_path, "push", "--stdin", "--ids", "--key", "k") as feed:
        feed.write("\n".join(lines[:200]) + "\n")
        feed.wait_for("50 ")
        with running(tmp_path, "tail", "alice", "--after", "0", "--json") as tail:
            tail.wait_for('"payload": 20}')
            feed.process.send_signal(signal.SIGKILL)
            tail.process.send_signal(signal.SIGKILL)
            seen += tail.wait().out.splitlines()
    last = json.loads(seen[-1])["id"]
    whole = notify(tmp_path, "push", "--stdin", "--ids", "--key", "k", stdin="\n".join(lines))
    assert whole.out.splitlines()[-1] == "pushed 400, failed 0"
    for stored in whole.out.splitlines()[:-1]:
        number, id_ = stored.split()
        history.pushing("alice", lines[int(number) - 1], key=f"k:{number}").ok(id_)
    resumed = notify(tmp_path, "tail", "alice", "--after", last, "--no-follow", "--json")
    reader = history.reader("alice", "0")
    for event in map(json.loads, [*seen, *resumed.out.splitlines()]):
        reader.saw(event["id"], event["prev"], f"alice n {event['payload']}")
    verdict = history.assert_ok()
    assert verdict.yields == 400
