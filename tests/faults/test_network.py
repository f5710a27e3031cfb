"""Networks that lose replies, fall silent, or cut what listens, between an application and its backend."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from notify.testing import FaultProxy, Faults
from notify.testing._link import Switches

from .backends import Backend, Servers
from .scene import scene

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

behind_a_proxy = pytest.mark.parametrize("backend", ["redis", "redis xread", "postgres"], indirect=True)
SERVERS = ["redis", "redis cluster", "redis sentinel", "postgres"]
BY_XREAD = ["redis xread", "redis cluster xread", "redis sentinel xread"]
with_servers = pytest.mark.parametrize("backend", [*SERVERS, *BY_XREAD], indirect=True)


def before(backend: Backend) -> FaultProxy:
    """A proxy in front of the only server."""
    assert isinstance(backend, Servers)
    return FaultProxy("127.0.0.1", backend.servers[0].port)


def through(backend: Backend, proxy: FaultProxy) -> str:
    assert isinstance(backend, Servers)
    return backend.url.replace(str(backend.servers[0].port), str(proxy.port))


@behind_a_proxy
async def test_replies_that_are_lost(backend: Backend, tmp_path: Path) -> None:
    """The connection is reset after the push was executed, once and thrice running: each push is stored once."""
    async with before(backend) as proxy, scene(backend, tmp_path, url=through(backend, proxy)) as at_work:
        for times in (1, 3, 1, 3):
            lost = proxy.lost_replies
            proxy.drop_reply(request=b"-push", times=times)
            await at_work.until(lambda lost=lost, times=times: proxy.lost_replies == lost + times, 10, "lost replies")
            await at_work.more("ok", 50)
        verdict = await at_work.judge()
    assert not verdict.gaps
    assert not verdict.rejected + verdict.uncertain


@behind_a_proxy
async def test_replies_that_vanish(backend: Backend, tmp_path: Path) -> None:
    """What is pushed while no reply arrives has its verdict in time, and is stored once at most; nothing is missed."""
    options = {"store": {"timeout": 1.5}}
    async with before(backend) as proxy:
        async with scene(backend, tmp_path, url=through(backend, proxy), read_url=backend.url, **options) as at_work:
            for _ in range(2):
                proxy.down = Faults(blackhole=True)
                await at_work.more("uncertain rejected", 3, within=10)  # what has not been sent yet is rejected
                proxy.heal()
                await proxy.reset()
                await at_work.more("ok", 50)
            verdict = await at_work.judge()
    assert not verdict.gaps


def forget(proxy: FaultProxy) -> None:
    """Let every open connection fall silent for good, as a router does that was restarted; new ones are served."""
    silent = Switches(0)
    silent.faults = {"up": Faults(blackhole=True), "down": Faults(blackhole=True)}
    for link in proxy._links:
        link._switches = silent


@behind_a_proxy
async def test_readers_whose_connections_are_forgotten(backend: Backend, tmp_path: Path) -> None:
    """Only the reader itself ends the half-open connections, which listens anew and has missed nothing."""
    options = {"store": {"timeout": 1.5}}
    async with (
        before(backend) as proxy,
        scene(backend, tmp_path, url=backend.url, read_url=through(backend, proxy), **options) as at_work,
    ):
        for _ in range(2):
            forget(proxy)
            await at_work.more("ok", 20)
            await at_work.quiet(8)
            at_work.go()
            await at_work.more("saw", 100)
        verdict = await at_work.judge()
    assert not verdict.gaps
    assert not verdict.rejected + verdict.uncertain


@behind_a_proxy
async def test_connections_that_are_cut_again_and_again(backend: Backend, tmp_path: Path) -> None:
    """Everybody's connections are reset, many times, through a slow network that slices: nothing is missed."""
    async with before(backend) as proxy, scene(backend, tmp_path, url=through(backend, proxy)) as at_work:
        proxy.up = proxy.down = Faults(delay=0.001, jitter=0.005, slice=500)
        for _ in range(8):
            await proxy.reset()
            await at_work.more("saw", 50)
        await proxy.refuse()
        await proxy.reset()
        await anyio.sleep(0.5)  # the fault itself: nobody is there
        proxy.heal()
        await at_work.more("saw", 50)
        verdict = await at_work.judge()
    assert not verdict.gaps


@with_servers
async def test_listening_connections_that_are_cut(backend: Backend, tmp_path: Path) -> None:
    """What is pushed while no listener is connected is found at once when one is, though nothing is pushed after it."""
    assert isinstance(backend, Servers)
    async with scene(backend, tmp_path, readers=2) as at_work:
        for number in range(5):
            await anyio.to_thread.run_sync(backend.cut_wake)
            await at_work.more("ok", 1 + number)
            await at_work.quiet(4)
            at_work.go()
            await at_work.more("ok", 20)
        verdict = await at_work.judge()
    assert not verdict.gaps
    assert not verdict.rejected + verdict.uncertain
