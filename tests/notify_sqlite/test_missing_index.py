"""A file that lacks an index, as one of an earlier release does that a program with read access opens: all is found."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from notify import BackendUnavailableError, Event
from notify.abc import RoutingInfo
from notify.dispatch.abc import CapWindow, Endpoint, Move, State
from notify.inbox.abc import ItemQuery
from notify.testing._dispatch_base import START, at, joining, note, submission, to
from notify_sqlite import SQLiteDispatchStore, SQLitePresence, SQLiteStore, SQLiteStreamStore
from notify_sqlite._schema import FILES, statements
from tests.cli.commands import Done, called
from tests.notify_sqlite.inboxes import follow, item, mark
from tests.servers.sqlite import opened

TTL = 3600.0

NAMED = {
    "notify_items_by_place": {"items: page", "items: types", "command: inbox list", "command: inbox list --state all"},
    "notify_items_current": {"items: group"},
}
"""The indexes that statements name, and the reads that refuse to do without them."""

COMMANDS = (
    *(("head", "alice"), ("tail", "alice", "--after", "0", "--no-follow", "--json"), ("stats", "alice", "bob")),
    *(("inbox", "list", "alice"), ("inbox", "list", "alice", "--state", "all"), ("inbox", "counts", "alice")),
)


def names() -> list[str]:
    """Return the names of all indexes."""
    texts = [sql for part in FILES for name, sql in statements(part, "notify_").items() if name.startswith("create_")]
    return [found[1] for text in texts if (found := re.match(r"CREATE (?:UNIQUE )?INDEX IF NOT EXISTS (\w+)", text))]


async def fill(path: Path, presence: SQLitePresence) -> None:
    """Fill a file with some of everything."""
    async with SQLiteStore(path) as store:
        sent = [await store.save(item("alice", n, group=f"g{n}", key=f"k{n}")) for n in range(6)]
        await store.save(item("alice", "expires", expires=str(int((time.time() + 9000) * 1000))))
        await mark(store, "alice", "read", ids=[sent[0].id])
        await mark(store, "alice", "dismissed", ids=[sent[1].id])
        await follow(store, "alice", "news")
        await store.save(item("news", "news"))
        await store.pull("alice")
        await store.save(Event("bob", "t", "to bob"))
    await presence.register("alice", RoutingInfo("one"))
    async with SQLiteDispatchStore(path) as store:
        await store.submit(submission(to("alice", notification="waiting", seconds=3600), notification=note("waiting")))
        await store.submit(submission(to("alice"), to("bob"), notification=note("n")))
        await store.submit(submission(joining(notification="joined", closes=0.0), notification=note("joined")))
        await store.close_digests(at(1))
        for claim in await store.claim(at(0), lease=600.0):
            if claim.delivery.notification == "n":
                await store.advance(
                    [Move(claim.delivery.id, claim.delivery.fence, State.PARKED, reason="reason")], at(0)
                )
        await store.patch("alice", b'{"all":true}', by="alice", source="page", now=START)
        await store.register(Endpoint("", "push", "https://push.example/0", session="s"), START)
        await store.register(Endpoint("alice", "push", "https://push.example/1"), START)
        gone = await store.register(Endpoint("alice", "push", "https://push.example/2"), START)
        await store.retire(gone.id, 0, "gone", START)
        await store.admit("n", "alice", [CapWindow("alice/cap", 1, at(60))], START)
        await store.close_gate("push", at(60))


async def answers(path: Path) -> dict[str, Any]:
    """Return what each reading call answers, each on a store that has neither been entered nor written."""
    found: dict[str, Any] = {}

    async def ask(name: str, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            found[name] = await call()
        except BackendUnavailableError as error:
            found[name] = error

    log, presence, dispatch = SQLiteStreamStore(path), SQLitePresence(path, ttl=TTL), SQLiteDispatchStore(path)
    for user in ("alice", "bob"):
        await ask(f"read: {user}", partial(log.read, user, "0", 100))
        await ask(f"head: {user}", partial(log.head, user))
    await ask("read_many", partial(log.read_many, {"alice": "0", "bob": "0"}, 100))
    await ask("subscribe", partial(replay, log))
    sent = (await log.read("alice", "0", 100)).events
    queries = {
        "counts": ItemQuery(limit=0),
        "page": ItemQuery(state="all"),
        "types": ItemQuery(types=("t",)),
        "group": ItemQuery(group="g2", state="all"),
        "ids": ItemQuery(ids=tuple(each.id for each in sent)),
    }
    for name, query in queries.items():
        await ask(f"items: {name}", partial(log.items, "alice", query))
    await ask("edges: user", partial(log.edges, user="alice"))
    await ask("edges: topic", partial(log.edges, topic="news"))
    await ask("locate", partial(presence.locate, ["alice", "bob"]))
    for name in ("n", "waiting", "joined"):
        await ask(f"record: {name}", partial(dispatch.record, name, "alice"))
    await ask("delivery", partial(dispatch.delivery, to("alice").id))
    await ask("stuck", partial(dispatch.stuck, [State.PARKED]))
    await ask("stuck: open", partial(dispatch.stuck, [State.WAITING, State.CLAIMED]))
    await ask("open_channels", dispatch.open_channels)
    rows = await dispatch.stuck([State.WAITING])
    digest = next(each.notification for each in rows if each.notification != "waiting")
    await ask("digest_items", partial(dispatch.digest_items, digest, channel="email"))
    await ask("preferences", partial(dispatch.preferences, ["alice", "bob"]))
    await ask("consents", partial(dispatch.consents, "alice"))
    await ask("endpoints", partial(dispatch.endpoints, ["alice"], retired=True))
    await ask("session_endpoints", partial(dispatch.session_endpoints, "s"))
    await ask("endpoint", partial(dispatch.endpoint, found["session_endpoints"][0].id))
    await ask("gates", partial(dispatch.gates, START))
    for part in (log, presence, dispatch):
        await part.aclose()
    return found


async def replay(log: SQLiteStreamStore) -> list[Event]:
    """Return a user's whole log as a stream has it."""
    async with log.subscribe("alice", "0") as stream:
        head = await log.head("alice")
        events = []
        while stream.last_id != head:
            events.append(await stream.next(timeout=30))
        return events


def copied(source: Path, to: Path) -> None:
    """Copy a file that may be open."""
    with opened(source) as file, opened(to) as copy:
        file.backup(copy)


def has(path: Path, index: str) -> bool:
    """Return whether a file has an index."""
    with opened(path) as file:
        return bool(file.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (index,)).fetchall())


def everything(path: Path) -> dict[str, Any]:
    """Return what each reading call and command answers."""
    found = anyio.run(answers, path)
    for arguments in COMMANDS:
        done = called(path.parent, "--store", f"sqlite:///{path}", *arguments)
        text = re.sub(r"(?m)^(store|read|file|wal) .*\n", "", done.out)
        found[f"command: {' '.join(each for each in arguments if each != 'alice')}"] = (
            text if done.status == 0 else done
        )
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with some of everything, presence of a program that is still running included."""
    directory = tmp_path_factory.mktemp("whole")

    async def make() -> None:
        async with SQLitePresence(directory / "open.db", ttl=TTL) as presence:
            await fill(directory / "open.db", presence)
            copied(directory / "open.db", directory / "notify.db")

    anyio.run(make)
    return directory / "notify.db"


@pytest.fixture(scope="module")
def expected(whole: Path) -> dict[str, Any]:
    """Return what each reading call answers on it."""
    found = everything(whole)
    assert not [name for name, answer in found.items() if not answer or isinstance(answer, Exception | Done)]
    return found


@pytest.mark.parametrize("index", names())
def test_every_read_of_a_file_without_an_index(path: Path, whole: Path, expected: dict[str, Any], index: str) -> None:
    """Each read finds what is there; those whose statements name the index say what is missing and how to make it."""
    copied(whole, path)
    with opened(path) as file:
        file.execute(f"DROP INDEX {index}")
    found = everything(path)
    for name, answer in found.items():
        if name in NAMED.get(index, ()):
            assert index in str(answer)
            assert "notify init" in str(answer)
        else:
            assert answer == expected[name], f"{name} without {index}"
    assert not has(path, index)  # reads create nothing

    async def enter() -> None:
        async with SQLiteStreamStore(path), SQLiteDispatchStore(path), SQLitePresence(path, ttl=TTL):
            pass

    anyio.run(enter)
    assert has(path, index)
