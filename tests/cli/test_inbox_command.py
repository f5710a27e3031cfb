"""`notify inbox` on one SQLite file: what the page shows, and what else the options do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from notify.cli import main

ITEM = ("alice", "app.item")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOTIFY_STORE", raising=False)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> list[str]:
    """Run the command in this process; return its lines, those of errors where it fails."""
    try:
        code = main(["inbox", *arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    assert code == status, err
    return (err if status else out).splitlines()


def test_states_and_filters(capsys: pytest.CaptureFixture[str]) -> None:
    """Items are listed by state and group, named in four ways, and printed as JSON with their times."""
    (one,) = run(capsys, "send", *ITEM, "1", "--key", "k", "--meta", "a=b")
    assert run(capsys, "send", *ITEM, "1", "--key", "k") == [one]
    (two,) = run(capsys, "send", *ITEM, '"x"', "--group", "g", "--ttl", "600")
    assert run(capsys, "counts", "alice") == ["total 2, unseen 2, unread 2"]
    assert run(capsys, "list", "alice", "--group", "g") == [f'{two} unread app.item "x"']
    assert run(capsys, "list", "alice", "--before", two) == [f"{one} unread app.item 1"]
    assert run(capsys, "read", "alice", "--up-to", one) == ["read 1", "total 2, unseen 1, unread 1"]
    assert run(capsys, "read", "alice", "--all") == ["read 1", "total 2, unseen 0, unread 0"]
    assert run(capsys, "read", "alice", one, two) == ["read 0", "total 2, unseen 0, unread 0"]
    assert run(capsys, "dismiss", "alice", two) == ["dismissed 1", "total 1, unseen 0, unread 0"]
    assert run(capsys, "list", "alice", "--state", "read") == [f"{one} read app.item 1"]
    (line,) = run(capsys, "list", "alice", "--state", "dismissed", "--json")
    item = json.loads(line)
    assert (item["id"], item["type"], item["payload"], item["group"]) == (two, "app.item", "x", "g")
    assert all(item[name] for name in ("seen_at", "read_at", "dismissed_at", "expires_at"))
    assert len(run(capsys, "list", "alice", "--state", "all", "--json", "--limit", "1")) == 1


def test_topics(capsys: pytest.CaptureFixture[str]) -> None:
    """A follow with the history lists older items too, and unfollowing removes them."""
    (one,) = run(capsys, "send", "topic", "app.news")
    assert run(capsys, "follow", "alice", "topic", "--history") == []
    assert run(capsys, "follow", "alice") == ["topic"]
    assert run(capsys, "list", "alice") == [f"{one}@topic unread app.news null"]
    assert run(capsys, "follow", "alice", "topic", "--stop") == []
    assert run(capsys, "follow", "alice") == run(capsys, "list", "alice") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "an action is required"),
        (("send", "alice"), "TYPE"),
        (("send", "alice", "t", "{"), "not JSON"),
        (("send", "alice", "t", "--key", ""), "--key"),
        (("send", "alice", "notify.read"), "reserved"),
        (("send", "", "t"), "user"),
        (("send", "alice", "t", "--ttl", "0"), "greater than 0"),
        (("list", "alice", "--state", "new"), "invalid choice"),
        (("list", "alice", "--limit", "0"), "limit"),
        (("list", "alice", "--before", "x"), "before"),
        (("read", "alice"), "exactly one"),
        (("read", "alice", "1-1", "--all"), "exactly one"),
        (("dismiss", "alice", "--up-to", "x"), "up_to must be"),
        (("follow", "alice", "--stop"), "TOPIC"),
        (("counts", "alice", "--nonsense"), "unrecognized"),
    ],
)
def test_wrong_command_lines(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    """One line says what is wrong; the status is 2."""
    Path("notify.db").touch() if arguments[:1] != ("send",) else None
    assert message in run(capsys, *arguments, status=2)[-1]


@pytest.mark.parametrize("action", ["list", "counts", "read", "dismiss"])
def test_nothing_is_created_by_reading(capsys: pytest.CaptureFixture[str], action: str, directory: Path) -> None:
    """Without a file there is nothing to list or to mark, and none is made."""
    more = ["--all"] if action in ("read", "dismiss") else []
    assert "there is nothing" in run(capsys, action, "alice", *more, status=1)[-1]
    assert list(directory.iterdir()) == []
