"""The `notify` command on one SQLite file: real processes in a directory of their own."""

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
from collections.abc import Callable
from contextlib import closing, redirect_stdout, suppress
from pathlib import Path
from typing import IO

import anyio
import pytest

from notify import ids
from notify.cli import _commands, main
from notify.testing.history import History
from tests.cli.commands import NOTIFY, PATIENCE, Done, called, environment, notify, running
from tests.forks import Fork
from tests.parts import untraced_environment

ID = r"\d+-\d+"


def one_line(done: Done, status: int) -> str:
    """The only line of output, which is on standard error."""
    assert (done.status, done.out) == (status, ""), done
    assert re.fullmatch(r"notify: [^\n]+\n", done.err), done.err
    return done.err


def push(directory: Path, *arguments: str) -> str:
    done = called(directory, "push", *arguments)
    assert done.status == 0, done
    assert re.fullmatch(ID, done.out.strip())
    return done.out.strip()


def shown(directory: Path, user: str, *arguments: str) -> list[str]:
    done = called(directory, "tail", user, "--after", "0", "--no-follow", *arguments)
    assert done.status == 0, done
    return done.out.splitlines()


# -- two terminals and one file ------------------------------------------------------------------------------------


def test_two_terminals_and_one_file(tmp_path: Path) -> None:
    """One process prints what another one pushes; Ctrl-C ends it silently with status 130."""
    first = push(tmp_path, "alice", "comment.created", '{"post": 7}')
    with running(tmp_path, "tail", "alice", "--after", "0") as tail:
        assert tail.wait_for("comment.created") == f'{first} comment.created {{"post": 7}}'
        push(tmp_path, "bob", "mention")
        second = push(tmp_path, "alice", "mention")
        assert tail.wait_for("mention") == f"{second} mention null"
        assert tail.interrupt() == (130, "\n".join(tail.out), "")
        assert tail.ids() == [first, second]


def test_tail_begins_now(tmp_path: Path) -> None:
    """Without a position only events pushed after the start are printed."""
    push(tmp_path, "alice", "old")
    with running(tmp_path, "tail", "alice", "-v") as tail:
        while not tail.out:  # events pushed before the stream is open are not printed
            push(tmp_path, "alice", "new")
        assert " new " in tail.out[0]


def test_tail_from_an_id_and_from_a_time(tmp_path: Path) -> None:
    """`--after` accepts an id, to start after it, and a time, to start at it."""
    first, second = push(tmp_path, "alice", "a"), push(tmp_path, "alice", "b")
    rest = called(tmp_path, "tail", "alice", "--after", first, "--no-follow")
    assert rest == (0, f"{second} b null\n", "")
    since = ids.time_of(second).isoformat()
    assert called(tmp_path, "tail", "alice", "--after", since, "--no-follow").out == f"{second} b null\n"
    assert called(tmp_path, "tail", "alice", "--no-follow").out == f"{first} a null\n{second} b null\n"
    later = called(tmp_path, "tail", "alice", "--after", "2200-01-01T00:00:00Z", "--no-follow")
    assert later == (0, "", "")


def test_tail_json(tmp_path: Path) -> None:
    """`--json` prints one object per line, with every field of the event."""
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
    """Control characters of a payload are printed as JSON escapes in both formats, and decode to the same value."""
    text = "\x9b31m\u202e\u2028 \U000e0001"
    push(tmp_path, "alice", "a", json.dumps(text))
    for form in ((), ("--json",)):
        (line,) = shown(tmp_path, "alice", *form)
        assert line.isprintable()
        payload = json.loads(line)["payload"] if form else json.loads(line.split(" ", 2)[2])
        assert payload == text


@pytest.mark.parametrize("as_json", [False, True], ids=["plain", "json"])
def test_tail_shows_a_gap(tmp_path: Path, as_json: bool) -> None:
    """Events removed before they were read are reported as a gap: a line on standard error, or an event with JSON."""
    first, second, third = (push(tmp_path, "alice", type_) for type_ in ("a", "b", "c"))
    assert called(tmp_path, "trim", third) == (0, "removed 2\n", "")
    form = ("--json",) if as_json else ()
    done = called(tmp_path, "tail", "alice", "--after", first, "--no-follow", *form)
    assert done.status == 0
    if as_json:
        gap, event = map(json.loads, done.out.splitlines())
        assert (gap["type"], gap["payload"]) == ("notify.gap", {"reason": "trimmed", "from": first, "to": second})
        assert (event["id"], done.err) == (third, "")
    else:
        assert done.out == f"{third} c null\n"
        assert done.err == f"notify: gap (trimmed): events after {first} up to {second} are missing\n"


def test_tail_into_a_closed_pipe(tmp_path: Path) -> None:
    """When the reader of the output exits, as `head -1` does, tail ends even if nothing more is pushed."""
    push(tmp_path, "alice", "a")
    push(tmp_path, "alice", "b")
    for lines in (1, 0):
        ours, theirs = os.pipe()
        with os.fdopen(theirs, "wb") as pipe:
            tail = Fork("notify", "tail", "alice", "--after", "0", cwd=tmp_path, stdout=pipe, env=environment())
        with tail:
            with os.fdopen(ours, "rb") as reader:
                assert all(b" a null" in reader.readline() for _ in range(lines))
            assert tail.communicate(timeout=PATIENCE) == (None, b"")
        assert tail.returncode == 141


def test_tail_goes_on_with_a_new_file(tmp_path: Path) -> None:
    """When the file is deleted, tail reports it once, continues with the new file and reports the gap."""
    with running(tmp_path, "tail", "alice", "--after", "0") as tail:
        tail.wait_for("there is nothing at sqlite:///notify.db yet", tail.err)
        assert not list(tmp_path.iterdir())
        before = push(tmp_path, "alice", "a")
        tail.wait_for(before)
        for file in tmp_path.glob("notify.db*"):
            file.unlink()
        tail.wait_for("the store is unavailable", tail.err)
        assert not list(tmp_path.iterdir())
        after = push(tmp_path, "alice", "b")
        tail.wait_for(after)
        assert tail.ids() == [before, after]
        assert len([line for line in tail.err if "the store is unavailable" in line]) == 1
        tail.wait_for("the store is available again", tail.err)
        tail.wait_for("notify: gap (", tail.err)
        assert tail.interrupt().status == 130


@pytest.mark.slow
def test_tail_waits_for_a_directory(tmp_path: Path) -> None:
    """A missing directory is reported once, however often opening the file is retried."""
    with running(tmp_path, "tail", "alice", "--store", "sqlite:///data/notify.db") as tail:
        assert tail.wait().status == 1  # it never existed
    (tmp_path / "data").mkdir()
    with running(tmp_path, "tail", "alice", "--after", "0", "--store", "sqlite:///data/notify.db") as tail:
        push(tmp_path, "alice", "first", "--store", "sqlite:///data/notify.db")
        tail.wait_for("first null")
        (tmp_path / "data").rename(tmp_path / "moved")
        tail.wait_for("the store is unavailable", tail.err)
        push(tmp_path, "alice", "a", "--store", "sqlite:///moved/notify.db")
        for _ in range(4):  # it retries several times in between, without another line
            assert called(tmp_path, "check", "--store", "sqlite:///data/notify.db").status == 1
        (tmp_path / "moved").rename(tmp_path / "data")
        tail.wait_for("a null")
        tail.wait_for("the store is available again", tail.err)
        assert [line.split()[1] for line in tail.out] == ["first", "a"]
        reported = [line.partition(",")[0] for line in tail.err if "there is nothing " not in line]
        assert reported == ["notify: the store is unavailable", "notify: the store is available again"]
        assert tail.interrupt().status == 130


# -- the other commands --------------------------------------------------------------------------------------------


def test_push_with_a_key(tmp_path: Path) -> None:
    """A repeated key stores nothing and prints the first id; without a key each push is a new event."""
    first = push(tmp_path, "alice", "a", "1", "--key", "k")
    assert push(tmp_path, "alice", "a", "1", "--key", "k") == first
    assert len({push(tmp_path, "alice", "a", "-5") for _ in range(2)}) == 2
    assert len(shown(tmp_path, "alice")) == 3


def test_head(tmp_path: Path) -> None:
    """`head` prints the id of the last event, even if it was trimmed, and 0 for a user without events."""
    last = push(tmp_path, "alice", "a")
    assert called(tmp_path, "head", "alice") == (0, f"{last}\n", "")
    assert called(tmp_path, "head", "bob") == (0, "0\n", "")
    assert called(tmp_path, "trim", "2200-01-01T00:00:00Z", "--yes") == (0, "removed 1\n", "")
    assert called(tmp_path, "head", "alice") == (0, f"{last}\n", "")


def test_trim_removes_what_is_older(tmp_path: Path) -> None:
    """`trim` removes all users' events older than the id or time, and nothing else."""
    first = push(tmp_path, "alice", "a")
    push(tmp_path, "bob", "a")
    last = push(tmp_path, "alice", "b")
    assert called(tmp_path, "trim", "0").out == "removed 0\n"
    assert called(tmp_path, "trim", first).out == "removed 0\n"
    assert called(tmp_path, "trim", last).out == "removed 2\n"
    assert shown(tmp_path, "alice") == [f"{last} b null"]


def test_check(tmp_path: Path) -> None:
    """`check` reports a working store; for a damaged file it reports the error with status 1."""
    push(tmp_path, "alice", "a")
    assert called(tmp_path, "check") == (0, "store    ok\nlive     ok\n", "")
    (tmp_path / "bad.db").write_bytes(b"not a database, despite its name" * 100)
    done = called(tmp_path, "check", "--store", "sqlite:///bad.db")
    assert (done.status, done.err) == (1, "")
    assert re.fullmatch(r"store    cannot be read: the file is not an SQLite database.*\n", done.out)


def test_stats(tmp_path: Path) -> None:
    """`stats` describes the file, and the size and time range of each user's log."""
    feed = "".join(f"bob n {number}\n" for number in range(501))
    assert called(tmp_path, "push", "--stdin", stdin=feed).out == "pushed 501, failed 0\n"
    first = push(tmp_path, "alice", "a", '"1234"')
    last = push(tmp_path, "alice", "b", "5")
    done = called(tmp_path, "stats", "alice", "bob", "carol")
    assert (done.status, done.err) == (0, "")
    facts = dict(line.split(" ", 1) for line in done.out.splitlines() if not line.startswith("user"))
    assert facts.pop("store").strip() == "SQLiteStreamStore at sqlite:///notify.db"
    assert int(facts["file"].split()[0]) == (tmp_path / "notify.db").stat().st_size
    assert set(facts) == {"read", "file", "wal"}
    assert re.search(rf"^user   alice: 2 events, 7 bytes of payload, from {first} \(.*Z\) to {last} ", done.out, re.M)
    assert re.search(r"^user   bob: 501 events, 1393 bytes", done.out, re.M)
    assert "user   carol: no events\n" in done.out
    called(tmp_path, "trim", "2200-01-01T00:00:00Z", "--yes")
    assert f"alice: no events left; the last id was {last}\n" in called(tmp_path, "stats", "alice").out


def test_command_removes_nothing_by_itself(tmp_path: Path) -> None:
    """Pushes by the command never trim a log, because it does not know the application's limits."""
    feed = "".join(f"alice n {number}\n" for number in range(1200))
    assert called(tmp_path, "push", "--stdin", stdin=feed).status == 0
    assert len(shown(tmp_path, "alice")) == 1200


def test_push_with_group_and_meta(tmp_path: Path) -> None:
    """`--group` and `--meta` are stored with the event, and with each line of a feed."""
    more = ("--group", "order-1", "--meta", "source=shell", "--meta", "note=a=b")
    push(tmp_path, "alice", "a", "1", *more)
    assert called(tmp_path, "push", "--stdin", *more, stdin="alice b\nalice c\n").status == 0
    for event in map(json.loads, shown(tmp_path, "alice", "--json")):
        assert (event["group"], event["meta"]) == ("order-1", {"source": "shell", "note": "a=b"})


def test_forget(tmp_path: Path) -> None:
    """`forget --yes` erases one user and no other; nothing that names the user is left in the file."""
    push(tmp_path, "mallory", "a", "--key", "k")
    push(tmp_path, "mallory", "b")
    kept = push(tmp_path, "alice", "a")
    refused = one_line(called(tmp_path, "forget", "mallory"), 2)
    assert refused.strip().endswith(
        "forget erases the log and idempotency keys, the inbox and follows, the deliveries, preferences and devices of "
        "'mallory' at sqlite:///notify.db, which cannot be undone: repeat it with --yes"
    )
    assert shown(tmp_path, "mallory")
    there = one_line(called(tmp_path, "forget", "mallory", "--store", "redis://u:geheim@localhost:1"), 2)
    assert "the log and idempotency keys, the inbox and follows of 'mallory' at redis://" in there
    assert "geheim" not in there
    assert called(tmp_path, "forget", "mallory", "--yes") == (0, "erased 2\n", "")
    assert shown(tmp_path, "alice") == [f"{kept} a null"]
    assert shown(tmp_path, "mallory") == []
    assert called(tmp_path, "forget", "mallory", "--yes") == (0, "erased 0\n", "")


def test_init(tmp_path: Path) -> None:
    """`init` creates the file, and the second time finds it; reading commands work on it."""
    done = called(tmp_path, "init")
    assert (done.status, done.out) == (0, "ready: SQLiteStreamStore at sqlite:///notify.db\n")
    assert done.err == "notify: created 'notify.db'\n"
    assert called(tmp_path, "init") == (0, done.out, "")
    assert called(tmp_path, "head", "alice") == (0, "0\n", "")


def test_init_prints_what_it_would_do(tmp_path: Path) -> None:
    """`init --print-sql` prints statements that create the same tables, and creates nothing itself."""
    script = called(tmp_path, "init", "--print-sql")
    assert (script.status, script.err) == (0, "")
    assert not list(tmp_path.iterdir())
    with closing(sqlite3.connect(tmp_path / "notify.db")) as file:
        file.executescript(script.out)
    push(tmp_path, "alice", "a")
    assert len(shown(tmp_path, "alice")) == 1


def test_store_of_a_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that needs no preparation is ready if it answers; one whose names have no prefix is given none."""
    (tmp_path / "stranger.py").write_text(
        "from notify_memory import MemoryStreamStore\n"
        "class Store(MemoryStreamStore): prepare = None\n"
        "def make(url, *, max_len): return Store(max_len=max_len)\n"
    )
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[notify.stores]\nstrange = stranger:make\n")
    monkeypatch.syspath_prepend(tmp_path)
    where = ("--store", "strange://host")
    assert called(tmp_path, "init", *where) == (0, "ready: Store at strange://host\n", "")
    done = called(tmp_path, "init", "--print-sql", *where)
    assert done == (0, "-- nothing to create: this store needs no preparation\n", "")
    assert "--prefix does not apply to strange://" in one_line(called(tmp_path, "init", "--prefix", "p", *where), 2)
    del sys.modules["stranger"]


def test_tail_begins_before_the_file_exists(tmp_path: Path) -> None:
    """Following a file that does not exist yet creates nothing, and misses nothing of what is pushed later."""
    with running(tmp_path, "tail", "alice") as tail:
        said = tail.wait_for("there is nothing", tail.err)
        assert said == "notify: there is nothing at sqlite:///notify.db yet: a push or notify init creates it"
        assert not list(tmp_path.iterdir())
        first = push(tmp_path, "alice", "a")
        tail.wait_for(first)
        tail.wait_for(push(tmp_path, "alice", "b"))
        assert tail.ids()[0] == first


def test_options_in_the_url(tmp_path: Path) -> None:
    """Limits that the URL names are the application's: the command applies them, and has none of its own."""
    where = ("--store", "sqlite:///notify.db?max_len=2")
    for type_ in ("a", "b", "c"):
        push(tmp_path, "alice", type_, *where)
    assert [line.split()[1] for line in shown(tmp_path, "alice", *where)] == ["b", "c"]
    described = called(tmp_path, "stats", *where).out
    assert re.search(r"^file   \d+ bytes$", described, re.M)


# -- feeds ---------------------------------------------------------------------------------------------------------


def test_feed(tmp_path: Path) -> None:
    """A feed is pushed line by line, without blank lines and comments; each user's events keep their order."""
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
    """Lines that cannot be pushed are reported by number, all others are pushed; the status is 1."""
    feed = b"\n".join([b"alice a 1", *BAD, b"alice z 2", BAD[-1]])
    done = called(tmp_path, "push", "--stdin", "--ids", stdin=feed)
    bad = [*range(2, 2 + len(BAD)), len(BAD) + 3]
    assert done.status == 1
    reported = re.findall(r"^notify: line (\d+): .+$", done.err, re.M)
    assert sorted(map(int, reported)) == bad
    assert len(done.err.splitlines()) == len(bad) + 1  # and the line about the created file
    assert "notify: line 3: the payload is not JSON: Expecting value: character 9\n" in done.err
    assert "notify: line 13: longer than 1048576 bytes\n" in done.err
    *stored, summary = done.out.splitlines()
    assert summary == f"pushed 2, failed {len(bad)}"
    assert [line.split()[0] for line in stored] == ["1", str(len(BAD) + 2)]
    assert [line.split()[0] for line in shown(tmp_path, "alice")] == [line.split()[1] for line in stored]


def test_feed_with_many_bad_lines(tmp_path: Path) -> None:
    """Only the first 50 failed lines are reported; the others are counted."""
    done = called(tmp_path, "push", "--stdin", stdin="bad\n" * 1000)
    assert (done.status, done.out) == (1, "pushed 0, failed 1000\n")
    assert len(done.err.splitlines()) == 52


def test_feed_pushed_again_with_its_key(tmp_path: Path) -> None:
    """A feed pushed again with the same key stores only the missing lines."""
    half = "".join(f"alice n {number}\n" for number in range(50))
    whole = half + "".join(f"bob n {number}\n" for number in range(50))
    first = called(tmp_path, "push", "--stdin", "--ids", "--key", "import-7", stdin=half)
    again = called(tmp_path, "push", "--stdin", "--ids", "--key", "import-7", stdin=whole)
    assert (first.status, again.status) == (0, 0)
    assert set(first.out.splitlines()[:-1]) < set(again.out.splitlines())
    assert (len(shown(tmp_path, "alice")), len(shown(tmp_path, "bob"))) == (50, 50)


def test_feed_comes_line_by_line(tmp_path: Path) -> None:
    """A line is pushed when it arrives, not when the pipe is closed; progress is reported from time to time."""
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
    """Ctrl-C and SIGTERM end a feed with status 130 and 143; pushing it again with the key it prints stores nothing
    twice."""
    for number, user in ((signal.SIGINT, "alice"), (signal.SIGTERM, "bob")):
        with running(tmp_path, "push", "--stdin", "--ids") as feed:
            feed.write(f"{user} a 1\nbad\n")
            feed.wait_for("1 ")
            feed.wait_for("line 2: ", feed.err)
            feed.process.send_signal(number)
            assert feed.wait().status == 128 + number
            assert feed.out[-1] == "pushed 1, failed 1"
            assert feed.err[-2] == f"notify: stopped by {number.name}"
            resume = re.fullmatch(
                r"notify: to resume, push the whole feed again with --key (\w+); lines already stored are .+",
                feed.err[-1],
            )
            assert resume is not None
            key = resume[1]
        again = called(tmp_path, "push", "--stdin", "--key", key, stdin=f"{user} a 1\n{user} a 2\n")
        assert again.out == "pushed 2, failed 0\n"
        assert [line.split()[2] for line in shown(tmp_path, user)] == ["1", "2"]


def test_feed_in_the_background(tmp_path: Path) -> None:
    """A signal that was ignored at the start, as SIGINT is for background jobs of a script, stays ignored."""
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
    """A feed that is blocked on its output is ended by a second SIGTERM."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with suppress(BlockingIOError):
        while True:
            os.write(theirs, b"-")
    os.set_blocking(theirs, True)
    with os.fdopen(theirs, "wb") as pipe:
        process = Fork("notify", "push", "--stdin", "--ids", cwd=tmp_path, stdout=pipe, env=environment())
    with process:
        assert process.stdin is not None
        process.stdin.write(b"alice a\n")
        process.stdin.flush()
        deadline = time.monotonic() + PATIENCE
        while called(tmp_path, "head", "alice").out in ("", "0\n") and time.monotonic() < deadline:
            assert process.poll() is None
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
        process.kill()
    assert process.returncode == -signal.SIGTERM
    os.close(ours)


def test_feed_whose_server_never_comes(tmp_path: Path) -> None:
    """A server that is unavailable from the start is retried for as long as a line is; then the feed gives up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = ("--store", f"postgresql://u:geheim@127.0.0.1:{server.getsockname()[1]}/db")
    done = called(tmp_path, "push", "--stdin", "--timeout", "6", *where, stdin="alice a\n")
    assert (done.status, done.out) == (1, "")
    away, gave_up = done.err.splitlines()
    assert away.startswith("notify: the store is unavailable, retrying for 6 s: ")
    assert ": gave up: could not be opened for 6 s: " in gave_up
    assert "geheim" not in done.err
    with running(tmp_path, "push", "--stdin", *where) as feed:
        feed.wait_for("the store is unavailable, retrying for 30 s", feed.err)
        done = feed.interrupt()
        assert (done.status, done.out) == (130, "pushed 0, failed 0")


def in_terminal(directory: Path, *arguments: str, stdin: Path, shown: Callable[[bytes], object]) -> tuple[int, str]:
    """Run the command with its output on a terminal; return its status and output.

    `shown` is called with the output so far, as it grows.
    """
    ours, theirs = pty.openpty()
    with stdin.open("rb") as feed:
        with os.fdopen(theirs, "wb") as terminal:
            process = Fork(
                "notify", *arguments, cwd=directory, stdin=feed, stdout=terminal, stderr=terminal, env=environment()
            )
    output = b""
    with process:
        while True:
            try:
                chunk = os.read(ours, 65_536)
            except OSError:  # how Linux reports the end of a terminal
                break
            output += chunk
            shown(output)
    os.close(ours)
    return process.wait(), output.decode()


def test_progress_bar(tmp_path: Path) -> None:
    """On a terminal the bar is drawn on one line; other lines do not break it, and it is cleared at the end."""
    feed = tmp_path / "feed"
    feed.write_text("bad\n" + "".join(f"user{n % 300} t {n}\n" for n in range(2000)) + "bad\n")
    assert called(tmp_path, "init").status == 0
    with closing(sqlite3.connect(tmp_path / "notify.db")) as lock:
        lock.execute("BEGIN IMMEDIATE")  # nothing is pushed before the first bar, however fast the machine is

        def release(output: bytes) -> None:
            if lock.in_transaction and b"] pushed 0, failed 1, " in output:
                lock.rollback()

        status, output = in_terminal(tmp_path, "push", "--stdin", stdin=feed, shown=release)
    assert status == 1
    bars = re.findall(r"\r\x1b\[K\[(#*)(\.*)\] pushed (\d+), failed (\d+), \d+% read", output)
    assert bars
    assert all(len(done) + len(left) == 30 for done, left, _, _ in bars)
    counts = [(int(pushed), int(failed)) for _, _, pushed, failed in bars]
    assert counts == sorted({*counts})
    for number in (1, 2002):
        assert f"\r\x1b[Knotify: line {number}: expected USER TYPE [JSON]\r\n" in output
    assert output.endswith("\r\x1b[Kpushed 2000, failed 2\r\n")


def test_feed_from_nowhere(tmp_path: Path) -> None:
    """An empty feed pushes nothing, a closed one is an error; devices and sockets are accepted as input."""
    assert called(tmp_path, "push", "--stdin").out == "pushed 0, failed 0\n"
    command = ["sh", "-c", 'exec "$@" push --stdin <&-', "-", *NOTIFY]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=PATIENCE, check=False, env=environment())
    assert done.returncode == 2, done
    with open(os.devnull, "rb") as nothing:
        assert fed_by(nothing, tmp_path) == (0, b"pushed 0, failed 0\n")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"alice a 1\n")
        ours.shutdown(socket.SHUT_WR)
        with theirs.makefile("rb") as feed:
            assert fed_by(feed, tmp_path) == (0, b"pushed 1, failed 0\n")


def fed_by(feed: IO[bytes], directory: Path) -> tuple[int, bytes]:
    """Run `notify push --stdin` with this file as its standard input; return its exit status and output."""
    with Fork("notify", "push", "--stdin", cwd=directory, stdin=feed, env=environment()) as process:
        out, _ = process.communicate(timeout=PATIENCE)
        return process.wait(), out


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "a command is required"),
        (("fly",), "invalid choice"),
        (("--nonsense",), "(see notify --help)"),
        (("tail", "alice", "--nonsense"), "--nonsense (see notify tail --help)"),
        (("push",), "push expects USER TYPE"),
        (("push", "alice"), "push expects USER TYPE"),
        (("push", "alice", "t", "{"), "not JSON: Expecting property name enclosed in double quotes: character 2"),
        (("push", "alice", "t", "NaN"), "not a JSON value"),
        (("push", "alice", "t", "1", "2"), "unrecognized arguments"),
        (("push", "alice", "no!"), "event type"),
        (("push", "alice", "notify.x"), "reserved"),
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
        (("tail", "alice", "--after", ""), "expected an id"),
        (("tail", "alice", "--after", "2026-01-01"), "zone"),
        (("tail", "alice", "--after", "1969-01-01T00:00:00Z"), "1970"),
        (("trim", "1-2-3"), "expected an id"),
        (("head", "alice", "--timeout", "-1"), "greater than 0"),
        (("head", "alice", "--timeout", "soon"), "greater than 0"),
        (("stats", ""), "user"),
        (("head", "alice", "--store", "memory://"), "one process"),
        (("head", "alice", "--store", ""), "not a store URL"),
        (("head", "alice", "--store", "notify.db"), "not a store URL"),
        (("head", "alice", "--store", "mysql://u:geheim@host/db"), "no store is known for mysql://"),
        (("head", "alice", "--store", "sqlite:"), "not a store URL"),
        (("head", "alice", "--store", "sqlite://"), "sqlite:///FILE"),
        (("head", "alice", "--store", "sqlite:///a.db?mode=ro"), "no option mode"),
        (("head", "alice", "--store", "sqlite:///a.db?max_len=many"), "max_len='many'"),
        (("tail", "alice", "--store", "sqlite:///a.db?max_len=many"), "max_len='many'"),
        (("push", "alice", "t", "--key", ""), "--key must not be empty"),
        (("push", "--stdin", "--key", ""), "--key must not be empty"),
        (("push", "alice", "t", "--meta", "a"), "--meta expects NAME=TEXT"),
        (("push", "alice", "t", "--meta", "=b"), "--meta expects NAME=TEXT"),
        (("push", "alice", "t", "--meta", "a=1", "--meta", "a=2"), "--meta gives a twice"),
        (("push", "alice", "t", "--meta", "notify.x=1"), "notify.x"),
        (("push", "--stdin", "--meta", "notify.x=1"), "notify.x"),
        (("push", "alice", "t", "--group", ""), "group"),
        (("push", "--stdin", "--group", ""), "group"),
        (("trim", "2200-01-01T00:00:00Z"), "is in the future, so this removes every event of every user: add --yes"),
        (("trim", "9999999999999-0"), "is in the future"),
        (("trim", "18446744073709551615-0"), "is in the future"),
        (("forget", "alice"), "repeat it with --yes"),
        (("forget", "", "--yes"), "user"),
        (("init", "--store", "memory://"), "one process"),
        (("head", "alice", "--store", "redis://u:geheim@host:port"), "port"),
        (("head", "alice", "--store", "redis+cluster://u:geheim@a:1,b:2/3"), "no databases"),
        (("head", "alice", "redis://u:geheim@host"), "unrecognized arguments"),
        (("push", "alice", "t", "--prefix", "No!"), "table_prefix"),
        (("head", "alice", "--schema", "app"), "PostgreSQL"),
    ],
)
def test_wrong_command_lines(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """A wrong command line: one line that names the mistake, without passwords, status 2, and no file is created."""
    line = one_line(called(tmp_path, *arguments), 2)
    assert words in line
    assert "geheim" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ("head", "alice"),
        ("trim", "0"),
        ("check",),
        ("stats",),
        ("stats", "alice"),
        ("tail", "alice", "--no-follow"),
        ("tail", "alice", "--no-follow", "--after", "0"),
        ("forget", "alice", "--yes"),
    ],
    ids=" ".join,
)
def test_missing_file(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Commands that only read never create the file: they say what does."""
    said = "notify: there is nothing at sqlite:///notify.db yet: a push or notify init creates it\n"
    assert one_line(called(tmp_path, *command), 1) == said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", [("push", "alice", "t"), ("init",), ("tail", "alice"), ("push", "--stdin")], ids=str
)
def test_file_that_cannot_be_created(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A file in a directory that does not exist: one line and status 1."""
    line = one_line(called(tmp_path, *command, "--store", "sqlite:///nowhere/notify.db"), 1)
    assert ("'nowhere' does not exist" if command[0] == "tail" else "cannot be opened") in line


@pytest.mark.slow
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
    """An unreachable server: one line without the password and status 1, for each kind of command."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    soon = ("--timeout", "1")
    for command in (("head", "alice", *soon), ("push", "alice", "t", *soon), ("tail", "alice")):
        line = one_line(called(tmp_path, *command, "--store", url.format(port=port)), 1)
        assert str(port) in line
        assert "geheim" not in line
    checked = called(tmp_path, "check", *soon, "--store", url.format(port=port))
    assert (checked.status, checked.err) == (1, "")
    assert re.fullmatch(r"store    [^\n]+\n", checked.out)
    assert "geheim" not in checked.out


@pytest.mark.parametrize("scheme", ["redis", "postgresql"])
def test_server_that_never_answers(tmp_path: Path, scheme: str) -> None:
    """A server that accepts connections but never answers is given up within `--timeout`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"{scheme}://127.0.0.1:{server.getsockname()[1]}/"
        assert where in one_line(called(tmp_path, "head", "alice", "--timeout", "1", "--store", where), 1)


@pytest.mark.parametrize(
    ("url", "driver", "extra"),
    [
        ("sqlite:///notify.db", "aiosqlite", "sqlite"),
        ("redis://127.0.0.1", "redis", "redis"),
        ("postgres://127.0.0.1/x", "asyncpg", "pg"),
    ],
)
def test_driver_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, driver: str, extra: str
) -> None:
    """If the driver is not installed, the error names what to install."""
    for name in [name for name in sys.modules if name.split(".")[0] in (f"notify_{extra}", driver)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, driver, None)
    line = one_line(called(tmp_path, "push", "alice", "t", "--store", url), 1)
    assert f"pip install 'notify-streams[{extra}]'" in line


def test_driver_is_imported_only_when_needed(tmp_path: Path) -> None:
    """A SQLite file needs no other driver."""
    gone = "".join(f"sys.modules[{driver!r}] = None; " for driver in ("redis", "asyncpg", "trio"))
    script = f"import sys; {gone}from notify.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "push", "alice", "t"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, env=untraced_environment())
    assert done.returncode == 0


@pytest.mark.slow
def test_locked_file(tmp_path: Path) -> None:
    """A file locked by another process is waited for, then given up with one line; a feed prints its key."""
    push(tmp_path, "alice", "a")
    script = "import sqlite3, sys; sqlite3.connect('notify.db').execute('BEGIN IMMEDIATE'); print('held', flush=True)"
    holder = subprocess.Popen(
        [sys.executable, "-c", script + "; sys.stdin.read()"],
        cwd=tmp_path,
        env=untraced_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        line = one_line(called(tmp_path, "push", "alice", "b", "--timeout", "1"), 1)
        assert "another connection holds the write lock" in line
        feed = called(
            tmp_path, "push", "--stdin", "--timeout", "0.5", "--key", "k", stdin="alice b 1\nbob b 2\nbob b 3\n"
        )
        assert (feed.status, feed.out) == (1, "pushed 0, failed 3\n")
        assert re.search(r"gave up: nothing could be pushed for 0.5 s: .+\n.* with --key k; .+\n", feed.err)
        holder.kill()
    again = called(tmp_path, "push", "--stdin", "--key", "k", stdin="alice b 1\nbob b 2\nbob b 3\n")
    assert again.out == "pushed 3, failed 0\n"


@pytest.mark.slow
def test_feed_waits_for_a_lock(tmp_path: Path) -> None:
    """A feed continues when a lock that outlasted one attempt is released: every line is stored once, in order."""
    push(tmp_path, "alice", "a")
    script = "import sqlite3, sys; sqlite3.connect('notify.db').execute('BEGIN IMMEDIATE'); print('held', flush=True)"
    holder = subprocess.Popen(
        [sys.executable, "-c", script + "; sys.stdin.read()"],
        cwd=tmp_path,
        env=untraced_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder, running(tmp_path, "push", "--stdin") as feed:
        assert holder.stdout is not None
        holder.stdout.readline()
        feed.write("".join(f"user{n % 3} n {n}\n" for n in range(30)))
        feed.wait_for("the store is unavailable, retrying for 30 s", feed.err)
        holder.kill()
        feed.wait_for("the store is available again", feed.err)
        feed.end_input()
        assert feed.wait().out == "pushed 30, failed 0"
    for user in range(3):
        assert [int(line.split()[2]) for line in shown(tmp_path, f"user{user}")] == list(range(user, 30, 3))


def test_line_that_the_store_refuses(tmp_path: Path) -> None:
    """A line that the store keeps refusing is reported, and does not block other users' lines."""
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


def test_output_that_is_not_a_file() -> None:
    """`main` can be called from Python with standard output redirected to any text stream."""
    with redirect_stdout(io.StringIO()) as out:
        assert main(["--version"]) == 0
    assert out.getvalue().startswith("notify ")


def test_full_disk_for_the_output(tmp_path: Path) -> None:
    """Output that cannot be written: one line and status 1; closed output and closed error streams are accepted."""
    push(tmp_path, "alice", "a")
    with (
        open("/dev/full", "wb") as full,
        Fork("notify", "head", "alice", cwd=tmp_path, stdout=full, env=environment()) as process,
    ):
        _, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert b"No space left" in complaint
    assert complaint.count(b"\n") == 1
    # Coverage is measured for only one of these, since they run the same lines.
    for redirection, status, env in (
        (">&-", 0, environment()),
        ("2>&-", 0, untraced_environment()),
        ("--nonsense 2>&-", 2, untraced_environment()),
    ):
        command = ["sh", "-c", f'exec "$@" head alice {redirection}', "-", *NOTIFY]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False, env=env
        )
        assert (done.returncode, done.stderr) == (status, "")


# -- options ------------------------------------------------------------------------------------------------------


def test_precedence_of_store_urls(tmp_path: Path) -> None:
    """`--store` overrides NOTIFY_STORE, which overrides the default; it is accepted before and after the command."""
    variable = {"NOTIFY_STORE": "sqlite:///b%20b.db"}
    called(tmp_path, "push", "alice", "default", variables={"NOTIFY_STORE": ""})
    called(tmp_path, "push", "alice", "variable", variables=variable)
    called(tmp_path, "--store", f"sqlite:///{tmp_path}/c.db", "push", "alice", "flag", variables=variable)
    called(tmp_path, "push", "alice", "flag2", "--store", "sqlite:///c.db", variables=variable)
    for url, types in (
        ("sqlite:///notify.db", ["default"]),
        ("sqlite:///b%20b.db", ["variable"]),
        ("sqlite:///c.db", ["flag", "flag2"]),
    ):
        assert [line.split()[1] for line in shown(tmp_path, "alice", "--store", url)] == types
    assert (tmp_path / "b b.db").exists()


def test_prefix(tmp_path: Path) -> None:
    """Stores with different prefixes in one file are independent."""
    push(tmp_path, "alice", "a", "--prefix", "shop_")
    assert len(shown(tmp_path, "alice", "--prefix", "shop_")) == 1
    assert not shown(tmp_path, "alice")


def test_version_and_help(tmp_path: Path) -> None:
    """`--version` prints the package version; `--help` lists every command, and each command has its own help."""
    assert re.fullmatch(r"notify \d+\.\d+\S*\n", called(tmp_path, "--version").out)
    script = (
        "import sys, importlib.metadata as m\n"
        "def version(name): raise m.PackageNotFoundError(name)\n"
        "m.version = version\n"
        "from notify.cli import main\n"
        "sys.exit(main(['--version']))"
    )
    copied = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert copied.stdout == "notify 0+unknown\n"
    overview = notify(tmp_path, "--help").out
    for command in ("push", "tail", "head", "trim", "forget", "init", "check", "stats"):
        assert re.search(rf"^ +{command} ", overview, re.M)
        assert called(tmp_path, command, "--help").out.startswith(f"usage: notify {command} ")


def test_verbose(tmp_path: Path) -> None:
    """The library's log is printed only with `--verbose`."""
    behind = ("tail", "alice", "--after", push(tmp_path, "alice", "a"), "--no-follow", "--json")
    push(tmp_path, "alice", "b")
    called(tmp_path, "trim", "2200-01-01T00:00:00Z", "--yes")
    assert notify(tmp_path, *behind).err == ""
    assert re.fullmatch(r"notify: notify: gap \(trimmed\) for user 'alice' .+\n", notify(tmp_path, "-v", *behind).err)


def test_unexpected_errors_are_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error is one line too; the log has the traceback."""
    script = (
        "import sys, notify.cli._commands as commands\nimport notify.cli as cli\n"
        "async def head(options): raise ZeroDivisionError('oops')\n"
        "commands.head = head\n"
        "sys.exit(cli.main())"
    )
    (tmp_path / "program.py").write_text(script)
    with Fork("program", "head", "alice", "-v", cwd=tmp_path, text=True, env=environment()) as process:
        assert "Traceback" in process.communicate(timeout=PATIENCE)[1]

    async def head(_: object) -> int:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(_commands, "head", head)
    assert one_line(called(tmp_path, "head", "alice"), 1) == "notify: ZeroDivisionError: oops\n"


def test_store_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single command ends soon after `--timeout`, even if the store never returns."""

    async def head(_: object) -> int:
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(_commands, "head", head)
    line = one_line(called(tmp_path, "head", "alice", "--timeout", "0.2"), 1)
    assert line == "notify: sqlite:///notify.db: no answer within 0.2 s\n"


# -- kills ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_feed_and_tail_killed_and_started_again(tmp_path: Path) -> None:
    """After SIGKILL of the feed and of tail: with the same key, and from the last printed id, nothing is lost and
    nothing is duplicated."""
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
    whole = called(tmp_path, "push", "--stdin", "--ids", "--key", "k", stdin="\n".join(lines))
    assert whole.out.splitlines()[-1] == "pushed 400, failed 0"
    for stored in whole.out.splitlines()[:-1]:
        number, id_ = stored.split()
        history.pushing("alice", lines[int(number) - 1], key=f"k:{number}").ok(id_)
    resumed = called(tmp_path, "tail", "alice", "--after", last, "--no-follow", "--json")
    reader = history.reader("alice", "0")
    for event in map(json.loads, [*seen, *resumed.out.splitlines()]):
        reader.saw(event["id"], event["prev"], f"alice n {event['payload']}")
    verdict = history.assert_ok()
    assert verdict.yields == 400
