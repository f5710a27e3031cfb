"""`notify dispatch`: each command imports the application, whose dispatcher uses one SQLite file."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import anyio
import pytest

from notify.dispatch import Dispatcher, Recipient
from notify.dispatch.channels import WebPushChannel
from notify_sqlite import SQLiteDispatchStore
from tests.cli.commands import PATIENCE, Done, called, environment, running
from tests.parts import until

APPLICATION = """
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from notify.dispatch import Accepted, Ambiguous, Dispatcher, Misconfigured, NotificationType, Recipient, Schedule
from notify_sqlite import SQLiteDispatchStore

FILE = Path(__file__).with_name("shop.db")


class Paper:
    has_endpoints = False
    deduplicates = False

    async def send(self, job):
        with FILE.with_name("sent").open("a") as file:
            file.write(f"{job.user} {job.content.title}\\n")
        while job.content.title == "slow" and not FILE.with_name("go").exists():
            await anyio.sleep(0.01)
        if Path(FILE.with_name("broken")).exists():
            return Misconfigured("no paper")
        return Ambiguous() if job.content.title == "lost" else Accepted()


async def recipients(ids):
    return [Recipient(each) for each in ids]


@asynccontextmanager
async def dispatcher() -> AsyncIterator[Dispatcher]:
    async with SQLiteDispatchStore(FILE) as store:
        yield Dispatcher(None, store, [NotificationType("order.sent", channels=["paper"])], {"paper": Paper()},
                         recipients=recipients)


async def plain() -> Dispatcher:
    return Dispatcher(None, SQLiteDispatchStore(FILE), [NotificationType("order.sent", channels=["paper"])],
                      {"paper": Paper()}, recipients=recipients)


@asynccontextmanager
async def daily() -> AsyncIterator[Dispatcher]:
    async with dispatcher() as made:
        made.schedule(Schedule("morning", "order.sent", ["alice"], {"title": "Good morning"}, tz="Europe/Berlin"))
        made.schedule(Schedule("hourly", "order.sent", [], every=3600))
        yield made


@asynccontextmanager
async def seven() -> AsyncIterator[int]:
    yield 7


number = 7
"""
TARGET = "shop:dispatcher"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return the directory of an application."""
    (tmp_path / "shop.py").write_text(APPLICATION)
    return tmp_path


def notify(directory: Path, *arguments: str) -> Done:
    """Run the command in this process, then unload the application, so that the next command imports it again."""
    importlib.invalidate_caches()
    with patch.object(sys, "path", [*sys.path]):
        try:
            return called(directory, *arguments)
        finally:
            for module in ("shop", "half"):
                sys.modules.pop(module, None)


def submit(directory: Path, *titles: str) -> list[str]:
    """Submit notifications to alice, as the application does; return their tickets."""

    class Paper:
        has_endpoints = False
        deduplicates = False

        async def send(self, job: object) -> object:
            raise AssertionError("another process sends")

    async def recipients(ids: object) -> list[Recipient]:
        return [Recipient("alice")]

    async def main() -> list[str]:
        from notify.dispatch import NotificationType

        async with SQLiteDispatchStore(directory / "shop.db") as store:
            types = [NotificationType("order.sent", channels=["paper"])]
            dispatcher = Dispatcher(None, store, types, {"paper": Paper()}, recipients=recipients)  # type: ignore[dict-item]
            tickets = [await dispatcher.submit("order.sent", "alice", {"title": title}) for title in titles]
            return [each.id for each in tickets if each is not None]

    return anyio.run(main)


def sent(directory: Path) -> list[str]:
    """Return what was sent."""
    file = directory / "sent"
    return file.read_text().splitlines() if file.exists() else []


def test_plan_says_what_would_be_sent(shop: Path) -> None:
    """A plan has one line for each channel, and sends nothing."""
    done = notify(shop, "dispatch", "plan", TARGET, "order.sent", "alice", '{"title": "x"}')
    assert (done.status, done.out) == (0, "paper: send, allowed by type\n")
    assert not sent(shop)


def test_tick_sends_what_is_due_and_explain_tells(shop: Path) -> None:
    """What was submitted is sent once; afterwards there is nothing left."""
    (ticket,) = submit(shop, "first")
    assert notify(shop, "dispatch", "tick", TARGET).out == "scheduled 0, taken 1, sent 1, digests closed 0\n"
    assert notify(shop, "dispatch", "tick", TARGET).out == "scheduled 0, taken 0, sent 0, digests closed 0\n"
    assert sent(shop) == ["alice first"]
    lines = notify(shop, "dispatch", "explain", TARGET, ticket, "alice").out.splitlines()
    assert lines[0].startswith(f"order.sent {ticket} to alice, ")
    assert lines[1:3] == ["  paper: send, allowed by type", "    accepted"]
    other = notify(shop, "dispatch", "explain", TARGET, ticket, "bob")
    assert (other.status, other.err) == (1, f"notify: nothing was submitted as {ticket} to bob\n")


def test_dead_lists_what_needs_attention_and_release_tries_again(shop: Path) -> None:
    """What is unknown or parked is listed as JSON; parked deliveries are sent after the channel was mended."""
    submit(shop, "lost")
    notify(shop, "dispatch", "tick", TARGET)
    (shop / "broken").touch()
    submit(shop, "later")
    notify(shop, "dispatch", "tick", TARGET)
    listed = [json.loads(line) for line in notify(shop, "dispatch", "dead", TARGET).out.splitlines()]
    assert sorted((each["state"], each["reason"]) for each in listed) == [
        ("parked", "misconfigured"),
        ("unknown", "ambiguous"),
    ]
    only = notify(shop, "dispatch", "dead", TARGET, "--state", "parked").out.splitlines()
    assert [json.loads(line)["state"] for line in only] == ["parked"]
    (shop / "broken").unlink()
    mistyped = notify(shop, "dispatch", "release", TARGET, "papr")
    assert mistyped.status == 2
    assert "no channel is called 'papr': there are paper" in mistyped.err
    assert notify(shop, "dispatch", "release", TARGET, "paper").out == "released 1\n"
    notify(shop, "dispatch", "tick", TARGET)
    assert sent(shop) == ["alice lost", "alice later", "alice later"]
    refused = notify(shop, "dispatch", "dead", TARGET, "--state", "asleep")
    assert refused.status == 2
    assert "asleep" in refused.err


def test_run_sends_what_others_submit_until_it_is_stopped(shop: Path) -> None:
    """A worker sees what another process submits, and ends with the status of its signal."""
    with running(shop, "dispatch", "run", TARGET, "--poll", "0.05") as worker:
        worker.wait_for("sending what shop:dispatcher has due", worker.err)
        submit(shop, "live")
        anyio.run(until, lambda: sent(shop) == ["alice live"])
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait().status == 128 + signal.SIGTERM
    assert sent(shop) == ["alice live"]


def test_schedules_says_where_each_stands(shop: Path) -> None:
    """Each has a line: its next run, and after the first one the last date, and a ticket that can be explained."""
    for moment, scheduled in (("2027-01-05T06:00Z", 0), ("2027-01-05T08:00Z", 1)):
        ticked = notify(shop, "dispatch", "tick", "shop:daily", "--now", moment)
        assert ticked.out.startswith(f"scheduled {scheduled}, "), ticked.err
    assert sent(shop) == ["alice Good morning"]
    morning, hourly = notify(shop, "dispatch", "schedules", "shop:daily").out.splitlines()
    stands, _, ticket = morning.rpartition(" ")
    assert stands == (
        "morning: order.sent every day at 09:00 Europe/Berlin: next 2027-01-06 08:00:00 UTC; last 2027-01-05, ticket"
    )
    assert notify(shop, "dispatch", "explain", "shop:daily", ticket, "alice").out.startswith(
        f"order.sent {ticket} to alice"
    )
    assert hourly.startswith("hourly: order.sent every 3600 s: next 2027-01-05 09:00:00 UTC; last 2027-01-05T08:00:00")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_finishes_what_is_on_its_way(shop: Path, number: signal.Signals) -> None:
    """A worker that is stopped waits for the channel's answer and stores it; it begins nothing further."""
    (ticket,) = submit(shop, "slow")
    with running(shop, "dispatch", "run", TARGET, "--poll", "0.05") as worker:
        anyio.run(until, lambda: sent(shop) == ["alice slow"])
        worker.process.send_signal(number)
        submit(shop, "further")
        (shop / "go").touch()
        assert worker.wait().status == 128 + number
    assert notify(shop, "dispatch", "explain", TARGET, ticket, "alice").out.splitlines()[2] == "    accepted"
    assert notify(shop, "dispatch", "dead", TARGET).out == ""


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("shop", "expected MODULE:NAME"),
        ("shap:dispatcher", "there is no module 'shap'"),
        ("shop:dispitcher", "shop has no 'dispitcher'"),
        ("shop:number", "expected a Dispatcher"),
        ("shop:seven", "shop:seven enters 7; expected a Dispatcher"),
    ],
)
def test_wrong_targets_are_told(shop: Path, target: str, text: str) -> None:
    """The error says what is wrong with the place of the dispatcher, in one line."""
    done = notify(shop, "dispatch", "tick", target)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert text in done.err


def test_module_that_lacks_another_is_not_called_missing(shop: Path) -> None:
    """The module that is missing is named, not the one that asks for it."""
    (shop / "half.py").write_text("import nothing_of_the_kind")
    assert "No module named 'nothing_of_the_kind'" in notify(shop, "dispatch", "tick", "half:dispatcher").err


def test_function_may_be_asynchronous(shop: Path) -> None:
    """A dispatcher whose parts close themselves needs no context."""
    done = notify(shop, "dispatch", "plan", "shop:plain", "order.sent", "alice", "--at", "2027-01-05T07:00")
    assert (done.status, done.out) == (0, "paper: send, allowed by type\n")
    refused = notify(shop, "dispatch", "plan", "shop:plain", "order.sent", "alice", "--at", "at seven")
    assert refused.status == 2
    assert "expected a time such as 2027-01-05T07:00Z, got 'at seven'" in refused.err


def test_installed_command_looks_in_the_current_directory(shop: Path) -> None:
    """As `python -m notify` does, so that an application needs no installation of its own."""
    command = [Path(sys.executable).with_name("notify"), "dispatch", "plan", TARGET, "order.sent", "alice"]
    done = subprocess.run(command, cwd=shop, env=environment(), capture_output=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, "paper: send, allowed by type\n", b"")


def test_keys_are_a_pair(shop: Path) -> None:
    """The public key is that of the private one."""
    lines = notify(shop, "dispatch", "keys").out.splitlines()
    private, public = (line.partition(" ")[2] for line in lines)
    assert [line.partition(" ")[0] for line in lines] == ["private", "public"]
    assert WebPushChannel(private, subject="mailto:operator@example.com").public_key == public


def test_keys_without_their_extra(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for every command: status 1, because the command line is valid, and one line that says what to install."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    done = called(shop, "dispatch", "keys")
    assert (done.status, done.out) == (1, "")
    install = "python -m pip install 'notify-streams[webpush]'"
    assert done.err.startswith(f"notify: keys needs the extra webpush: {install} (import of cryptography")
    assert done.err.count("\n") == 1


def test_action_is_required(shop: Path) -> None:
    """Without an action the error names them."""
    done = notify(shop, "dispatch")
    assert done.status == 2
    assert "run, tick, schedules, plan, explain, dead, release or keys" in done.err
    assert os.listdir(shop) == ["shop.py"]
