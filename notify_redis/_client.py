"""Which master has which partition, and two connections to each: one for pushes, one for other commands.

It is longer than other modules, because finding the masters and asking them share one state.

A name's partition (see `_names`) decides its master. A single server has all of them; behind sentinels the one master
has; in a cluster each partition belongs to the master of its hash slot. The masters are looked up at first use, every
REDISCOVER_INTERVAL seconds from then on, and after every failure that suggests a move.

Pushes have a connection of their own because a page of a replay is large, and replies arrive in order: behind it a push
would wait.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import anyio
from redis.exceptions import ResponseError

from notify.adapters import Background, LoopGuard, OutageLog, backoff
from notify.errors import ClosedError, NotifyError

from ._connection import Address, Connection, RedisEndpoint, RedisUrl, format_address
from ._discovery import ask_cluster, ask_sentinels, connect_master
from ._endpoint import endpoint_of
from ._errors import FAILURES, Disposition, NotSentError, RefusedError, bug, disposition_of, phrase
from ._names import PARTITIONS
from ._pipeline import MIN_TIMEOUT, PipelinedConnection
from ._reach import Reach
from ._selfcheck import self_check

logger = logging.getLogger("notify.redis")

REDISCOVER_INTERVAL: Final = 10.0
"""Seconds between two lookups of the masters."""

LOOK_INTERVAL: Final = 0.5
"""Seconds between two lookups because a master cannot be reached."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that closing may take while a server does not answer."""

_MISSING: Final = object()
_REPEATED: Final = (Disposition.LOAD, Disposition.MOVE, Disposition.WAIT)

T = TypeVar("T")


class RedisNode:
    """One master.

    Attributes:
        address: None for a single server, and behind sentinels, where it changes.
        connect: returns a new connection to it.
        writes: the connection for pushes.
        reads: the connection for all other commands.
    """

    def __init__(self, client: RedisClient, address: Address | None, connect: Callable[[], Any]) -> None:
        self.address = address
        self.connect = connect
        endpoint = client.endpoint if address is None else client.endpoint.at(address)
        options: dict[str, Any] = {
            "prepare": client.prepare,
            "owner": client.name,
            "server": f"{endpoint} {endpoint.service}".rstrip(),
        }
        self.writes = PipelinedConnection(connect, client.background, **options)
        self.reads = PipelinedConnection(connect, client.background, **options)

    def drop(self) -> None:
        """Disconnect both; the next request connects again."""
        self.writes.drop()
        self.reads.drop()

    def retire(self) -> None:
        """Disconnect both; it is no longer a master."""
        self.writes.retire()
        self.reads.retire()


class RedisClient:
    """What a store, router or tracker sends commands through.

    Args:
        url: a URL, client or pool.
        name: the part's, for messages.

    Attributes:
        endpoint: where Redis is.
        background: the tasks of the part.
        check_open: raises ClosedError after `aclose`, and UsageError on another event loop, after a fork, and on trio.
        moved: functions to call after the masters have changed.
    """

    def __init__(self, url: RedisUrl, name: str) -> None:
        self.endpoint: RedisEndpoint = endpoint_of(url)
        self.name = name
        self.background = Background(name)
        self._guard = LoopGuard(name, asyncio_only=True)
        self.check_open = self._guard.check
        self.moved: list[Callable[[], None]] = []
        self._nodes: dict[Address | None, RedisNode] = {}
        self._owner: list[RedisNode] = []  # the node of each partition
        self._checked = False
        self._refreshing: asyncio.Future[None] | None = None
        self._lookup = Reach()
        self._looking = False
        self._looked_at = 0.0
        self._master: Address | None = None
        self._outage = OutageLog(
            logger, f"{name} cannot find the current masters", f"{name} has found the current masters"
        )

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._guard.closed

    @property
    def is_cluster(self) -> bool:
        """Whether partitions are on several masters."""
        return self.endpoint.is_cluster

    @property
    def publish(self) -> bytes:
        """The command that publishes. In a cluster only subscribers at the node of the channel get it."""
        return b"SPUBLISH" if self.is_cluster else b"PUBLISH"

    def start(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run `function(*args)` in a background task; a ClosedError in it while the part closes is not a crash.

        Raises:
            ClosedError: closed.
        """
        self.background.start(self._run, function, *args)

    async def _run(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        try:
            await function(*args)
        except ClosedError:
            if not self.closed:  # pragma: no cover - nothing else raises it
                raise

    async def prepare(self, connection: Connection) -> None:
        """Check once for settings of the server that endanger the promises."""
        if not self._checked:
            self._checked = True
            await self_check(connection, self.endpoint, self.name)

    async def aclose(self) -> None:
        """Close every connection, within CLOSE_TIMEOUT. Idempotent."""
        self._guard.close()
        await self.background.aclose(CLOSE_TIMEOUT)

    # -- the masters ---------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Sequence[RedisNode]:
        """The masters that are known."""
        return list(self._nodes.values())

    @property
    def is_located(self) -> bool:
        """Whether every partition has a node."""
        return bool(self._owner)

    def node_of(self, partition: int) -> RedisNode:
        """Return the master that has a partition; after `locate`."""
        return self._owner[partition]

    async def locate(self) -> None:
        """Give every partition a node, unless they have one.

        Raises:
            NotSentError: the masters cannot be found.
            RefusedError: every server that was asked refused the login or the question.
        """
        if self._owner:
            return
        if self.is_lost:
            self._look_later()
            raise NotSentError(f"no answer for {self._lookup.down_for():.1f} s: {self._lookup.failure}")
        await self.refresh()

    @property
    def is_lost(self) -> bool:
        """Whether the lookup of the masters has been unanswered for so long that calls fail at once."""
        return not self._owner and self._lookup.is_down

    def look_around(self) -> None:
        """A master is unreachable: find out in the background whether another node has taken over. Never waits."""
        if self.is_cluster and self._refreshing is None and time.monotonic() - self._looked_at > LOOK_INTERVAL:
            self._looked_at = time.monotonic()
            self.start(self._look_once)

    async def _look_once(self) -> None:
        with suppress(*FAILURES):
            await self.refresh()

    def _look_later(self) -> None:
        """Look up the masters in the background until they are found."""
        if not self._looking:
            self._looking = True
            self.start(self._look_again)

    async def _look_again(self) -> None:
        delays = backoff(random.random, first=0.1, limit=1.0)
        try:
            while not self._owner:
                with suppress(*FAILURES):
                    await self.refresh()
                await anyio.sleep(next(delays))
        finally:
            self._looking = False

    async def refresh(self) -> None:
        """Look up the masters again. Concurrent callers share one lookup; a failure is logged once per outage.

        Raises:
            NotSentError: no server could be asked.
            RefusedError: every server that was asked refused the login or the question.
        """
        done = self._refreshing
        if done is None:
            done = self._refreshing = asyncio.get_running_loop().create_future()
            done.add_done_callback(lambda future: future.cancelled() or future.exception())
            try:
                self.start(self._refresh, done)  # an eager task may have ended when this returns
            except ClosedError:
                self._refreshing = None
                raise
        await asyncio.shield(done)

    async def _refresh(self, done: asyncio.Future[None]) -> None:
        first = not self._owner
        began = time.monotonic()
        try:
            if self.endpoint.is_cluster:
                self._adopt(await ask_cluster(self.endpoint, [node.address for node in self.nodes if node.address]))
            elif self.endpoint.seeds:
                await self._follow_master()
            else:  # a single server never moves
                node = self._nodes[None] = RedisNode(self, None, self.endpoint.connect)
                self._owner = [node] * PARTITIONS
        except FAILURES as error:
            self._outage.failed(phrase(error))
            if not isinstance(error, RefusedError):
                self._lookup.failed(error, began)
            done.set_exception(error)
        except Exception as error:
            done.set_exception(bug(error, self.name))
        else:
            self._outage.recovered()
            self._lookup.succeeded()
            done.set_result(None)
        finally:
            self._refreshing = None
            if not done.done():
                done.set_exception(NotSentError(f"{self.name} was closed"))
        if first and self._owner and self.endpoint.seeds:
            self.start(self._rediscover)

    async def _rediscover(self) -> None:
        while True:
            await anyio.sleep(REDISCOVER_INTERVAL)
            with suppress(*FAILURES):
                await self.refresh()

    async def _follow_master(self) -> None:
        """Ask the sentinels; where the master has changed, disconnect from the old one."""
        master = await ask_sentinels(self.endpoint)
        if not self._owner:
            node = self._nodes[None] = RedisNode(self, None, self._connect_master)
            self._owner = [node] * PARTITIONS
        elif master != self._master:
            logger.warning("%s follows the master to %s", self.name, format_address(master))
            self._nodes[None].drop()
            self._call_moved()
        self._master = master

    async def _connect_master(self) -> Connection:
        self._master = await ask_sentinels(self.endpoint)
        return await connect_master(self.endpoint, self._master)

    def _adopt(self, owners: Sequence[Address]) -> None:
        """Take over the cluster's layout: the address of each partition's master."""
        before = [node.address for node in self._owner if node.address is not None]
        for address in owners:
            if address not in self._nodes:
                self._nodes[address] = RedisNode(self, address, self.endpoint.at(address).connect)
        self._owner = [self._nodes[address] for address in owners]
        for gone in set(self._nodes).difference(owners):
            self._nodes.pop(gone).retire()
        if before and before != list(owners):
            logger.warning("%s: partitions of the cluster have moved", self.name)
            self._call_moved()

    def _call_moved(self) -> None:
        for function in self.moved:
            function()

    async def relocate(self, found: Iterable[Disposition]) -> None:
        """Find out where the masters are now; a master that says it is not one is disconnected.

        Args:
            found: what the server's errors require.
        """
        if Disposition.MOVE in found and not self.is_cluster:  # in a cluster only some of its slots have moved
            for node in self.nodes:
                node.drop()
        if self.endpoint.seeds:
            with suppress(*FAILURES):
                await self.refresh()

    # -- commands that may be repeated ---------------------------------------------------------------------------

    def chunks(self, items: Iterable[T], partition: Callable[[T], int], size: int) -> list[tuple[RedisNode, list[T]]]:
        """Return the items in groups for one script call each: of one hash slot in a cluster, of any elsewhere."""
        pieces: list[tuple[RedisNode, list[T]]] = []
        if self.is_cluster:
            parts: dict[int, list[T]] = {}
            for item in items:
                parts.setdefault(partition(item), []).append(item)
            groups = [(self._owner[number], group) for number, group in parts.items()]
        else:
            groups = [(self._owner[0], list(items))]
        for node, group in groups:
            pieces += [(node, group[start : start + size]) for start in range(0, len(group), size)]
        return pieces

    async def ask(self, commands: Sequence[tuple[int, bytes]], timeout: float) -> list[Any]:
        """Send packed commands, each for a partition, and return their replies; repeat those that failed for a while.

        Only for commands that may be executed twice. A reply that repeating does not mend stays in the list, as a
        ResponseError.

        Raises:
            NotSentError, NoAnswerError: not answered in time.
            RefusedError: a server refused the connection.
            ClosedError: closed.
        """
        self.check_open()
        replies: list[Any] = [_MISSING] * len(commands)  # None is a reply
        todo = list(range(len(commands)))
        deadline = anyio.current_time() + timeout
        delays = backoff(random.random, first=0.01, limit=0.5)
        while todo:
            failure: Exception | None = None
            try:
                await self._check_reach(commands, todo)
                await self._attempt(commands, todo, replies, deadline - anyio.current_time())
            except (RefusedError, NotifyError):
                raise
            except FAILURES as error:
                failure = error
            except Exception as error:
                raise bug(error, self.name) from error
            todo = [i for i in todo if replies[i] is _MISSING or _is_repeated(replies[i])]
            if not todo:
                break
            delay = next(delays)
            is_over = anyio.current_time() + delay + MIN_TIMEOUT >= deadline
            if is_over or (failure is not None and self._is_unreachable(commands, todo)):
                if failure is None or all(replies[i] is not _MISSING for i in todo):  # an error reply says more
                    break
                raise failure
            found = {disposition_of(replies[i]) for i in todo if isinstance(replies[i], ResponseError)}
            await anyio.sleep(0 if failure is None and found == {Disposition.LOAD} else delay)
            if failure is not None or Disposition.MOVE in found:
                await self.relocate(found)
        return replies

    async def _check_reach(self, commands: Sequence[tuple[int, bytes]], todo: Sequence[int]) -> None:
        """Fail at once if one of the servers is known to be unreachable.

        Raises:
            NotSentError: it is.
        """
        if self._owner:
            for node in {self._owner[commands[i][0]] for i in todo}:
                try:
                    await node.reads.check_reach()
                except NotSentError:
                    self.look_around()
                    raise

    def _is_unreachable(self, commands: Sequence[tuple[int, bytes]], todo: Sequence[int]) -> bool:
        if not self._owner:
            return self.is_lost
        return any(self._owner[commands[i][0]].reads.reach.is_down for i in todo)

    async def _attempt(
        self, commands: Sequence[tuple[int, bytes]], todo: Sequence[int], replies: list[Any], timeout: float
    ) -> None:
        """Send some of the commands, to all masters at once, and store their replies."""
        await self.locate()
        by_node: dict[RedisNode, list[int]] = {}
        for i in todo:
            by_node.setdefault(self._owner[commands[i][0]], []).append(i)
        if len(by_node) == 1:
            (node,) = by_node
            await self._send(node, commands, todo, replies, timeout)
            return
        errors: list[Exception] = []

        async def send(node: RedisNode, indices: list[int]) -> None:
            try:
                await self._send(node, commands, indices, replies, timeout)
            except (*FAILURES, ClosedError) as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for node, indices in by_node.items():
                tasks.start_soon(send, node, indices)
        if errors:
            raise errors[0]

    async def _send(
        self,
        node: RedisNode,
        commands: Sequence[tuple[int, bytes]],
        indices: Sequence[int],
        replies: list[Any],
        timeout: float,
    ) -> None:
        packed = [commands[i][1] for i in indices]
        answers = await node.reads.call(packed, timeout)
        if any(isinstance(each, ResponseError) and disposition_of(each) is Disposition.LOAD for each in answers):
            await node.reads.reload(timeout)
        for i, answer in zip(indices, answers, strict=True):
            replies[i] = answer


def _is_repeated(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and disposition_of(reply) in _REPEATED
