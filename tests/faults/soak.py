"""Random faults for as long as you like: `python -m tests.faults.soak [--seconds 60] [--seed N] [--backends ...]`.

The seed is printed and gives the same choices again (not the same timing). Exits with 1 if a history breaks a rule.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random, SystemRandom
from typing import TypeAlias

import anyio
import anyio.to_thread

from notify.testing import FaultProxy, Faults, Verdict

from .backends import Backend, Fleet, RedisCluster, RedisSentinels, Servers
from .scene import PATIENCE, Process, Scene
from .stores import open_store
from .web_servers import WebServers

BY_XREAD = ["redis xread", "redis cluster xread", "redis sentinel xread"]
BACKENDS = [
    "sqlite",
    "redis",
    "redis cluster",
    "redis sentinel",
    "redis xread",
    "redis cluster xread",
    "redis sentinel xread",
    "postgres",
]
SETTLE = 60.0
"""Seconds that readers have in the end to get everything."""
NICE = 10
"""How far the priority of workers is below that of the servers and of this process, in which the proxies run.

There are more workers than a small machine can run at once, and if a proxy has to wait for the processor, connections
through it time out."""

Fault: TypeAlias = Callable[[], Awaitable[None]]


class Soak:
    """One backend under random faults.

    Args:
        backend: whose servers suffer.
        random: every choice.
        directory: for the files of its processes.
    """

    def __init__(self, backend: Backend, random: Random, directory: Path) -> None:
        self.backend = backend
        self.random = random
        self.directory = directory
        self.faults: Counter[str] = Counter()
        self.verdict: Verdict | None = None
        self.problem = ""
        self.scene: Scene
        self.web: WebServers
        self.proxy: FaultProxy | None = None

    async def run(self, seconds: float) -> None:
        """Work and suffer for so long, then let all be well, and judge."""
        async with AsyncExitStack() as stack:
            url = self.backend.url
            if isinstance(self.backend, Servers) and not isinstance(self.backend, RedisCluster | RedisSentinels):
                (server,) = self.backend.servers
                self.proxy = await stack.enter_async_context(FaultProxy("127.0.0.1", server.port))
                url = url.replace(str(server.port), str(self.proxy.port))
            self.scene = Scene(self.backend, self.directory, url=url, pace=0.02, many=1, nice=NICE)
            stack.callback(self.scene.close)
            self.web = stack.enter_context(WebServers(self.scene, self.directory, self.random))
            try:
                await self._suffer(seconds)
                self.verdict = await self.scene.judge(within=SETTLE, durable=not self._may_lose)
            except Exception as error:
                self.problem = "\n".join(map(str, _leaves(error)))

    @property
    def _may_lose(self) -> bool:
        return isinstance(self.backend, RedisSentinels)  # its failovers lose what the replica has not got

    async def _suffer(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        if isinstance(self.backend, RedisSentinels):
            self.backend.fence()
        await anyio.to_thread.run_sync(self.web.start)
        for role in ("read", "read", "push", "push"):
            self.scene.start(role, restless=self.random.random() < 0.3)
        for _ in range(2):
            self.scene.start("browse", restless=self.random.random() < 0.5, port=self.web.port)
        await self.scene.ready()
        faults = [self.kill_pusher, self.kill_reader, self.freeze_worker, self.trim]
        faults += [self.end_web_server, self.kill_web_server, self.freeze_web_server]
        if isinstance(self.backend, Servers):
            faults += [self.restart, self.freeze, self.cut_wake]
        if isinstance(self.backend, RedisSentinels):
            faults += [self.fail_over]
        if self.proxy is not None:
            faults += [self.cut, self.lose_replies, self.swallow_replies, self.slow_down]
        while time.monotonic() < end:
            fault = self.random.choice(faults)
            self.faults[fault.__name__] += 1
            await fault()
            await self.scene.more("ok", self.random.randrange(10, 200), within=SETTLE)

    # -- the faults; each ends by healing what it did --------------------------------------------------------------

    async def kill_pusher(self) -> None:
        self._choose("push").kill()
        self.scene.start("push", restless=self.random.random() < 0.3)

    async def kill_reader(self) -> None:
        reader = self._choose("read")
        reader.kill()
        self.scene.resume(reader, restless=self.random.random() < 0.3)
        await self.scene.ready()

    async def freeze_worker(self) -> None:
        process = self._choose(self.random.choice(["push", "read"]))
        process.signal(signal.SIGSTOP)
        await self._last(6.0)
        process.signal(signal.SIGCONT)

    async def end_web_server(self) -> None:
        await anyio.to_thread.run_sync(self.web.end)
        await self._last(1.0)
        await anyio.to_thread.run_sync(self.web.start)

    async def kill_web_server(self) -> None:
        await anyio.to_thread.run_sync(self.web.kill)
        await self._last(1.0)
        await anyio.to_thread.run_sync(self.web.start)

    async def freeze_web_server(self) -> None:
        self.web.signal(signal.SIGSTOP)
        await self._last(6.0)
        self.web.signal(signal.SIGCONT)

    async def trim(self) -> None:
        # Who has seen nothing yet reads "all that is retained", and need not be told that this is less now.
        users, readers = self.scene.users, self.scene.readers
        began = lambda: all(each.log.positions.get(user, "0") != "0" for each in readers for user in users)  # noqa: E731
        await self.scene.until(lambda: self.scene.counted("saw") and began(), SETTLE, "everybody has seen something")
        store = open_store(self.backend.url, self.scene.space, max_len=100_000)
        try:
            await store.trim(datetime.now(UTC) - timedelta(seconds=self.random.uniform(1, 5)))
        finally:
            await store.aclose()

    async def restart(self) -> None:
        assert isinstance(self.backend, Servers)
        await anyio.to_thread.run_sync(self.backend.kill)
        await self._last(1.0)
        await anyio.to_thread.run_sync(self.backend.heal)

    async def freeze(self) -> None:
        assert isinstance(self.backend, Servers)
        self.backend.freeze()
        await self._last(6.0)
        self.backend.thaw()

    async def cut_wake(self) -> None:
        assert isinstance(self.backend, Servers)
        for _ in range(self.random.randrange(1, 5)):
            await anyio.to_thread.run_sync(self.backend.cut_wake)
            await self._last(0.3)

    async def fail_over(self) -> None:
        assert isinstance(self.backend, RedisSentinels)
        await anyio.to_thread.run_sync(self.backend.heal)
        old = self.backend.sentinels.master_port()
        self.backend.sentinels.sentinels[0].ask("SENTINEL", "FAILOVER", self.backend.sentinels.service)
        with anyio.fail_after(PATIENCE):
            while self.backend.sentinels.master_port() == old:  # noqa: ASYNC110 - it tells nobody
                await anyio.sleep(0.05)
        await anyio.to_thread.run_sync(self.backend.heal)

    async def cut(self) -> None:
        assert self.proxy is not None
        for _ in range(self.random.randrange(1, 6)):
            await self.proxy.reset()
            await self._last(0.3)

    async def lose_replies(self) -> None:
        assert self.proxy is not None
        self.proxy.drop_reply(request=b"-push", times=self.random.randrange(1, 5))
        await self._last(1.0)
        self.proxy.heal()

    async def swallow_replies(self) -> None:
        assert self.proxy is not None
        self.proxy.down = Faults(blackhole=True)
        await self._last(5.0)
        await self.proxy.reset()  # what follows a hole in the stream of bytes is not what a network delivers
        self.proxy.heal()
        await self.proxy.reset()

    async def slow_down(self) -> None:
        assert self.proxy is not None
        self.proxy.up = self.proxy.down = Faults(delay=0.01, jitter=0.05, slice=self.random.choice([1, 100, 1000]))
        await self._last(2.0)
        self.proxy.heal()

    def _choose(self, role: str) -> Process:
        return self.random.choice(self.scene.living(role))

    async def _last(self, seconds: float) -> None:
        await anyio.sleep(self.random.uniform(0.0, seconds))

    def report(self) -> str:
        """Return what happened, and the verdict."""
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return f"== {self.backend.name}\nfaults      {faults}\n{self.verdict or self.problem}"


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


async def soak(names: list[str], seconds: float, seed: int) -> bool:
    """Run all at once, showing how far they are; return whether every history holds."""
    with Fleet() as fleet, tempfile.TemporaryDirectory(prefix="notify-soak-") as directory:
        soaks = [Soak(fleet[name], Random(f"{seed} {name}"), Path(directory)) for name in names]
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:

            async def show() -> None:
                while True:
                    faults = sum(each.faults.total() for each in soaks)
                    scenes = [each.scene for each in soaks if hasattr(each, "scene")]
                    pushed, seen = (sum(scene.counted(kind) for scene in scenes) for kind in ("ok", "saw"))
                    line = f"{time.monotonic() - began:4.0f} s  {faults} faults  {pushed} pushed  {seen} seen"
                    sys.stderr.write(f"\r{line}" if sys.stderr.isatty() else f"{line}\n")
                    sys.stderr.flush()
                    await anyio.sleep(0.5 if sys.stderr.isatty() else 10)

            tasks.start_soon(show)
            async with anyio.create_task_group() as running:
                for each in soaks:
                    running.start_soon(each.run, seconds)
            tasks.cancel_scope.cancel()
    sys.stdout.write("\n".join(["", *(each.report() for each in soaks), ""]))
    return all(each.verdict is not None for each in soaks)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1 << 32), help="of all choices")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS, help="where")
    options = parser.parse_args()
    logging.getLogger("notify").setLevel(logging.ERROR)
    sys.stdout.write(f"seed {options.seed}\n")
    sys.stdout.flush()
    held = anyio.run(soak, options.backends, options.seconds, options.seed)
    sys.stdout.write(f"{'every history holds' if held else 'BROKEN'}; seed {options.seed}\n")
    sys.exit(not held)


if __name__ == "__main__":
    main()
