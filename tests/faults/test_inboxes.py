"""Inboxes in use while applications and servers are killed, frozen, cut off, full, or taken back to an older state.

Afterwards each inbox is what its log says (`tending.assert_folded`), and the log has everything that was accepted.
"""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import pytest

from notify import Notifier, PushRejectedError, StreamStore

from .backends import Backend, Fleet, Postgres, Redis, Servers, SQLite
from .scene import Scene, scene
from .stores import open_store
from .tending import PEOPLE, TOPIC, Tending, assert_folded

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(180)]

in_thread = anyio.to_thread.run_sync


@asynccontextmanager
async def store_of(scene: Scene) -> AsyncIterator[StreamStore]:
    async with aclosing(open_store(scene.backend.url, scene.space, **scene.store)) as store:
        yield store


@pytest.mark.parametrize("backend", ["sqlite", "redis", "postgres"], indirect=True)
async def test_applications_that_are_killed(backend: Backend, tmp_path: Path) -> None:
    """Processes that send and change die by SIGKILL, and one is frozen: what was accepted is listed once."""
    async with scene(backend, tmp_path, role="tend", pushers=3, users=PEOPLE) as at_work:
        for _ in range(2):
            killed, frozen, _ = at_work.pushers
            frozen.signal(signal.SIGSTOP)
            killed.kill()
            at_work.start("tend")
            frozen.signal(signal.SIGCONT)
            await at_work.ready()
            await at_work.more("saw", 100)
        verdict = await at_work.judge()
        async with store_of(at_work) as store:
            assert await assert_folded(store) >= verdict.acknowledged
    assert not verdict.gaps


@pytest.mark.parametrize("backend", ["redis", "redis cluster", "postgres"], indirect=True)
async def test_servers_in_every_trouble(backend: Backend, tmp_path: Path) -> None:
    """Killed, frozen, cut off, and at last taken back to an older state: rows and logs never disagree."""
    assert isinstance(backend, Servers)
    async with scene(backend, tmp_path, role="tend", users=PEOPLE) as at_work, store_of(at_work) as store:
        await in_thread(backend.kill)
        await at_work.more("uncertain rejected", 1)
        await in_thread(backend.start)
        await at_work.more("ok", 50)
        await in_thread(backend.freeze)
        await anyio.sleep(3.0)  # the fault itself: longer than one attempt
        await in_thread(backend.thaw)
        await at_work.more("ok", 50)
        await in_thread(backend.cut_wake)
        await at_work.more("ok", 20)
        await at_work.quiet(20)
        await assert_folded(store)

        await in_thread(backend.snapshot)
        at_work.go()
        await at_work.more("saw", 50)
        await at_work.quiet(20)
        await in_thread(backend.kill)
        await in_thread(backend.rewind)
        await in_thread(backend.start)
        at_work.go()
        await at_work.more("ok", 50)
        verdict = await at_work.judge(within=20, durable=False)
        await assert_folded(store, durable=False)
    assert verdict.gaps == {"rewound": len(PEOPLE)}


async def work(store: StreamStore, rounds: int) -> tuple[int, int]:
    """Send and change items; return how many were accepted, and how many rejected."""
    accepted = rejected = 0
    async with Notifier(store, timeout=60) as notifier:
        tending = Tending(notifier, store, Random(rounds))
        for number in range(rounds):
            for user in PEOPLE:
                try:
                    value = f"{number}-{rounds}"
                    accepted += await tending.save(user, value, [value, "x" * 2000], None) is not None
                except PushRejectedError:
                    rejected += 1
    return accepted, rejected


@asynccontextmanager
async def without_room(backend: Backend, space: str, store: Any) -> AsyncIterator[None]:
    """Let a backend have no room for an item; on PostgreSQL by the error of a full disk, raised by hand."""

    async def grow_to(pages: int) -> None:
        await store._database.maintain(lambda db: db.execute(f"PRAGMA max_page_count = {pages:d}").fetchone())

    if isinstance(backend, SQLite):
        await grow_to(1)  # as many as there are
    elif isinstance(backend, Redis):
        backend.servers[0].ask("CONFIG", "SET", "maxmemory", "1")
    elif isinstance(backend, Postgres):
        backend.sql(
            f"CREATE FUNCTION {space}.no_room() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = '53100'; END $$;"
            f"CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON {space}.notify_items "
            f"FOR EACH ROW EXECUTE FUNCTION {space}.no_room()"
        )
    try:
        yield
    finally:
        if isinstance(backend, SQLite):
            await grow_to(10**6)
        elif isinstance(backend, Redis):
            backend.servers[0].ask("CONFIG", "SET", "maxmemory", "0")
        elif isinstance(backend, Postgres):
            backend.sql(f"DROP FUNCTION {space}.no_room CASCADE")


@pytest.mark.parametrize("backend", ["sqlite", "redis", "postgres"], indirect=True)
async def test_backends_without_room(backend: Backend) -> None:
    """Items and changes for which there is no room are rejected as a whole, and inboxes are read; then all goes on."""
    space = backend.fresh_space()
    async with aclosing(open_store(backend.url, space, timeout=30.0)) as store:
        accepted, _ = await work(store, 12)
        assert await assert_folded(store) == accepted
        async with without_room(backend, space, store):
            more, rejected = await work(store, 15)
            assert rejected > 5
            await assert_folded(store, (TOPIC,))  # others may have news, for which there is no room
        accepted += more
        assert await assert_folded(store) == accepted
        more, rejected = await work(store, 6)
        assert not rejected
        assert await assert_folded(store) == accepted + more


async def test_a_restored_file(fleet: Fleet) -> None:
    """An SQLite file that is replaced by a backup: its inboxes are as they were, and go on above what they have."""
    backend = fleet["sqlite"]
    assert isinstance(backend, SQLite)
    space = backend.fresh_space()
    file, kept = backend.file(space), backend.file(f"{space}-kept")
    async with aclosing(open_store(backend.url, space, timeout=30.0)) as store:
        await work(store, 12)
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(kept)) as target:
            source.backup(target)
        await work(store, 13)
        lost = await store.head("alice")
    backend.wipe(space)
    kept.rename(file)
    async with (
        aclosing(open_store(backend.url, space, timeout=30.0)) as store,
        store.subscribe("alice", lost) as stream,
    ):
        before = await assert_folded(store)
        accepted, _ = await work(store, 14)
        assert await assert_folded(store) == before + accepted
        await stream.next(10)
        assert [gap.reason for gap in stream.gaps] == ["rewound"]
