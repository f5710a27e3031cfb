"""Applications that are killed, frozen, or impatient: the other processes go on, and so do the logs."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import pytest

from tests.notify_sqlite.children import child, line
from tests.servers.postgres import bouncing

from .backends import Backend, Fleet, Postgres, SQLite
from .scene import scene

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

EVERYWHERE = ["sqlite", "redis", "redis cluster", "redis sentinel", "redis xread", "redis cluster xread", "postgres"]
everywhere = pytest.mark.parametrize("backend", EVERYWHERE, indirect=True)


@everywhere
async def test_an_application_that_is_killed(backend: Backend, tmp_path: Path) -> None:
    """Pushers and readers die by SIGKILL, again and again; those that follow resume by last id, without a gap."""
    async with scene(backend, tmp_path) as at_work:
        for _ in range(2):
            at_work.pushers[0].kill()
            reader = at_work.readers[0]
            reader.kill()
            at_work.start("push")
            at_work.resume(reader)
            await at_work.ready()
            await at_work.more("saw", 100)
        verdict = await at_work.judge()
    assert not verdict.gaps
    assert not verdict.rejected
    assert verdict.uncertain <= 2 * 6  # what was under way in the killed


async def test_an_application_that_hangs(fleet: Fleet, tmp_path: Path) -> None:
    """A pusher and a reader are frozen and go on: others continue; nothing is missed, doubled or a gap."""

    async def hang(name: str) -> None:
        async with scene(fleet[name], tmp_path, pushers=3, readers=2, pace=0.1) as at_work:
            pusher, reader = at_work.pushers[0], at_work.readers[0]
            for process in (pusher, reader):
                process.signal(signal.SIGSTOP)
            await anyio.sleep(5.0)  # the fault itself: longer than any bound of the stores
            if name != "sqlite":  # there the frozen one may hold the only lock, as below
                await at_work.more("ok", 100)
            for process in (pusher, reader):
                process.signal(signal.SIGCONT)
            await at_work.more("saw", 100)
            verdict = await at_work.judge(within=20)
        assert not verdict.gaps

    async with anyio.create_task_group() as tasks:
        for name in EVERYWHERE:
            tasks.start_soon(hang, name)


async def test_a_frozen_process_that_holds_the_only_lock(fleet: Fleet, tmp_path: Path) -> None:
    """While it lasts pushes of all others are turned away in time, and reads go on; nothing is stored late or twice."""
    backend = fleet["sqlite"]
    assert isinstance(backend, SQLite)
    async with scene(backend, tmp_path, store={"timeout": 0.3}) as at_work:
        with child("hold", backend.file(at_work.space)) as holder:
            assert await line(holder) == "held"
            holder.send_signal(signal.SIGSTOP)
            await at_work.more("rejected", 20)
            acked = at_work.counted("ok")
            again = at_work.start("read")  # replays what is there although nobody can write
            await at_work.until(lambda: at_work.counted("saw", [again]) >= 50, 10, "a replay")
            await at_work.until(at_work.caught_up, 10, "a replay of everything")
            assert at_work.counted("ok") == acked
            holder.kill()
        await at_work.more("ok", 50, within=10)
        verdict = await at_work.judge()
    assert not verdict.gaps


@everywhere
async def test_applications_that_give_up_waiting(backend: Backend, tmp_path: Path) -> None:
    """Pushes and waits cancelled by the thousand, streams left and resumed: no loss, no double, no connection left."""
    options = {"restless": True, "pace": 0.0, "lanes": 10}
    async with scene(backend, tmp_path, readers=2, **options) as at_work:
        before = backend.connections()
        await at_work.more("uncertain", 1000)
        await at_work.more("finished", 20)
        assert backend.connections() <= before + 4 * 10  # what the pools of four processes may hold
        verdict = await at_work.judge()
    assert verdict.uncertain > 1000
    assert not verdict.gaps
    assert not verdict.rejected


HOSTILE = ("a", "A", "a:b", "{a}", "{}", "a}b{", "../a", "a\u0301", "\u00e1", "%61", "*", "a b", "\U0001f980", "'; --")


@everywhere
async def test_users_with_hostile_names(backend: Backend, tmp_path: Path) -> None:
    """Whatever a user is called, two processes write that user's log and no other, and its readers see nothing else."""
    users = (*HOSTILE, "\u00fc" * 127)
    async with scene(backend, tmp_path, users=users, lanes=1, pace=0.05) as at_work:
        await at_work.more("saw", 500)
        verdict = await at_work.judge()
        assert at_work.acked().keys() == set(users)
    assert not verdict.gaps
    assert not verdict.rejected + verdict.uncertain


@everywhere
async def test_pushes_to_many_users_in_any_order(backend: Backend, tmp_path: Path) -> None:
    """Processes that push to the same fifty users at once, each time in another order, do not hold each other up."""
    users = [f"user{number}" for number in range(50)]
    async with scene(backend, tmp_path, users=users, pushers=3, lanes=0, many=4) as at_work:
        await at_work.more("saw", 2500)
        verdict = await at_work.judge()
    assert not verdict.gaps
    assert not verdict.rejected + verdict.uncertain


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
async def test_a_pooler_between_the_processes(backend: Backend, tmp_path: Path) -> None:
    """Through a pooler that hands on no notifications, the processes look for news by themselves: late, but no loss."""
    assert isinstance(backend, Postgres)
    with bouncing(backend.server) as pooler:
        async with scene(backend, tmp_path, url=pooler.dsn, store={"timeout": 20.0}) as at_work:
            await at_work.more("saw", 500)
            verdict = await at_work.judge()
    assert not verdict.gaps
    assert not verdict.rejected + verdict.uncertain
