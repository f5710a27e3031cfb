"""Servers that are killed, frozen, wiped, taken back to an older state, or replaced by another one."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

import anyio
import anyio.to_thread
import pytest

from .backends import Backend, Fleet, Redis, RedisSentinels, Servers, SQLite
from .scene import gap_of_each, scene

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

in_thread = anyio.to_thread.run_sync
DISKS = ["redis", "redis cluster", "redis xread", "redis cluster xread", "postgres"]
with_disks = pytest.mark.parametrize("backend", DISKS, indirect=True)


@with_disks
async def test_servers_that_are_killed(backend: Backend, tmp_path: Path) -> None:
    """All servers die and come back from their disks: within ten seconds everything goes on, and nothing is missing."""
    assert isinstance(backend, Servers)
    async with scene(backend, tmp_path) as at_work:
        for _ in range(2):
            await in_thread(backend.kill)
            await at_work.more("uncertain rejected", 1)
            await in_thread(backend.start)
            await at_work.more("ok", 100, within=10)
            await at_work.quiet(10)
            at_work.go()
        verdict = await at_work.judge()
    assert not verdict.gaps


async def test_servers_that_hang_for_a_quarter_of_a_minute(fleet: Fleet, tmp_path: Path) -> None:
    """All backends at once: every push has its verdict in time, and what was sent before is not stored twice after."""
    names = ("redis", "redis cluster", "redis sentinel", "redis xread", "postgres")
    async with AsyncExitStack() as stack:
        # Paced: this is about time, not about load.
        scenes = [await stack.enter_async_context(scene(fleet[name], tmp_path, pace=0.05)) for name in names]
        for each in scenes:
            assert isinstance(each.backend, Servers)
            if isinstance(each.backend, RedisSentinels):
                each.backend.master.freeze()
            else:
                each.backend.freeze()
        frozen = monotonic()
        async with anyio.create_task_group() as tasks:
            for each in scenes:
                tasks.start_soon(each.more, "uncertain", 2)  # the servers hang until this is done
        sentinel = scenes[names.index("redis sentinel")]
        await sentinel.more("ok", 100, within=60)  # there is another master by now
        await anyio.sleep(max(0.0, frozen + 15.0 - monotonic()))  # the fault itself lasts at least so long
        for each in scenes:
            assert isinstance(each.backend, Servers)
            each.backend.thaw()
        for each in scenes:
            await each.more("ok", 50, within=60)
        for each in scenes:
            verdict = await each.judge(within=60, durable=each is not sentinel)
            assert set(verdict.gaps) <= ({"rewound"} if each is sentinel else set())


@pytest.mark.parametrize("backend", ["redis", "redis cluster", "redis xread", "redis cluster xread"], indirect=True)
async def test_servers_that_lose_everything(backend: Backend, tmp_path: Path) -> None:
    """After a restart with empty disks, readers that stayed and readers that resume are told `expired`, once each."""
    assert isinstance(backend, Redis)
    async with scene(backend, tmp_path, readers=2) as at_work:
        stayed, left = at_work.readers
        await at_work.quiet(5)
        left.kill()
        await in_thread(backend.kill)
        backend.wipe()
        await in_thread(backend.start)
        at_work.go()
        resumed = at_work.resume(left)
        await at_work.ready()
        await at_work.more("ok", 50, within=10)
        verdict = await at_work.judge(durable=False)
        for reader in (stayed, resumed):
            gap_of_each(at_work, reader, "expired")
    assert verdict.gaps == {"expired": 2 * len(at_work.users)}


async def test_a_file_that_is_deleted(fleet: Fleet, tmp_path: Path) -> None:
    """Every process refuses to go on with another file, none makes one, and what was read before stays true."""
    backend = fleet["sqlite"]
    assert isinstance(backend, SQLite)
    async with scene(backend, tmp_path) as at_work:
        await at_work.quiet(5)
        backend.wipe(at_work.space)
        acked = at_work.counted("ok")
        at_work.go()
        await at_work.more("rejected", 20)
        assert at_work.counted("ok") == acked
        assert not backend.file(at_work.space).exists()
        verdict = await at_work.judge()
    assert not verdict.gaps
    assert not verdict.uncertain


@with_disks
async def test_servers_that_went_back_in_time(backend: Backend, tmp_path: Path) -> None:
    """A backup, or a replica that lagged: what was lost is told as `rewound`, once, to whoever stayed or resumes."""
    assert isinstance(backend, Servers)
    async with scene(backend, tmp_path, readers=2) as at_work:
        stayed, left = at_work.readers
        await at_work.quiet(5)
        await in_thread(backend.snapshot)
        at_work.go()
        await at_work.more("saw", 100)
        await at_work.quiet(5)
        left.kill()
        before = at_work.acked()
        await in_thread(backend.kill)
        await in_thread(backend.rewind)
        await in_thread(backend.start)
        at_work.go()
        resumed = at_work.resume(left)
        await at_work.ready()
        await at_work.more("ok", 50, within=10)
        assert all(id_ != before[user] for user, id_ in at_work.acked().items())
        verdict = await at_work.judge(durable=False)
        for reader in (stayed, resumed):
            gap_of_each(at_work, reader, "rewound")
    assert verdict.excused


@pytest.mark.parametrize("backend", ["redis sentinel", "redis sentinel xread"], indirect=True)
async def test_a_failover_that_loses_the_tail(backend: Backend, tmp_path: Path) -> None:
    """The replica was away when the master died: everybody goes on with it, told `rewound` once, no id is reused."""
    assert isinstance(backend, RedisSentinels)
    async with scene(backend, tmp_path, readers=2) as at_work:
        stayed, left = at_work.readers
        await at_work.quiet(5)
        master, replica = backend.master, backend.replica
        replica.kill()
        at_work.go()
        await at_work.more("saw", 100)
        await at_work.quiet(5)
        left.kill()
        master.kill()
        await in_thread(backend.start_one, replica)
        at_work.go()
        await at_work.until(lambda: backend.sentinels.master_port() == replica.port, 40, "a failover")
        resumed = at_work.resume(left)
        await at_work.ready()
        await at_work.more("ok", 50, within=30)
        await in_thread(backend.start_one, master)  # as a replica, which the sentinels tell it
        verdict = await at_work.judge(within=30, durable=False)
        for reader in (stayed, resumed):
            gap_of_each(at_work, reader, "rewound")
    assert verdict.excused


@pytest.mark.parametrize("backend", ["redis sentinel", "redis sentinel xread"], indirect=True)
async def test_a_failover_that_loses_nothing(backend: Backend, tmp_path: Path) -> None:
    """A replica that has everything takes over: within 30 seconds all go on, without a gap."""
    assert isinstance(backend, RedisSentinels)
    async with scene(backend, tmp_path) as at_work:
        await at_work.quiet(5)
        master, replica = backend.master, backend.replica
        await in_thread(backend.wait_until_in_step)
        master.kill()
        at_work.go()
        await at_work.more("ok", 100, within=30)
        assert backend.sentinels.master_port() == replica.port
        await in_thread(backend.start_one, master)
        verdict = await at_work.judge(within=30)
    assert not verdict.gaps
