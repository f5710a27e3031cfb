"""Receiving by XREAD: one blocked read of each master's wake stream (see `_wake`), over a connection of its own.

What one connection does:

1. *Connect* to the master. Load and call the script that keeps the wake stream for its readers; it returns where the
   stream ends. Ask which run of the server this is.
2. *Resume* at the place that was reached before, if the server is the same and has not been restarted: entries that
   were appended in between are read now, so no log has to be read. Otherwise begin at the end; missed events are found
   in the logs (`on_gap(None)`).
3. *Read*: XREAD blocks until something is appended, at most `probe_interval`. Entries are chained, so a trimmed
   entry, or one that a failover lost, is noticed: then the logs are read too.
4. *Probe*: every `probe_interval`, ask over the command connection where the stream ends. If an interval
   later the reader has not reached that place, or is beyond it, it does not read the stream that pushes write to: the
   connection is replaced. It is also replaced if it is silent for two intervals.

Reconnecting, backoff and looking up the masters are as in `_listen`, and `WakeReader` has the methods that the store
uses of `Subscriptions`. Channels cost the server nothing here: messages of channels that are not open are skipped.

| State      | Event                                  | Next                                                       |
|------------|----------------------------------------|------------------------------------------------------------|
| connecting | connected, the same run of the server  | receiving, from the place reached before                   |
| connecting | connected, another run, or the first   | receiving, from the end; `on_gap(None)` unless the first   |
| receiving  | an entry that continues the chain      | receiving; `on_message` for each channel that is open      |
| receiving  | an entry that does not                 | receiving; `on_message`, then `on_gap(None)`               |
| receiving  | the probe finds another end            | backing off; the place reached is forgotten                |
| any        | an error, or silence                   | backing off                                                |
| backing off| the delay has passed                   | connecting                                                 |
| any        | the wake stream is another one         | connecting; the place reached is forgotten                 |
| any        | the node is no longer a master         | stopped                                                    |
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import anyio
import anyio.lowlevel
from redis.exceptions import RedisError, ResponseError

from notify.adapters import OutageLog
from notify.errors import ClosedError

from ._client import REDISCOVER_INTERVAL, RedisClient, RedisNode
from ._connection import Connection, Replies, ask, hang_up, pack, transmitter
from ._errors import FAILURES, NoAnswerError, phrase
from ._listen import STEADY_AFTER, _delays, _resolve
from ._names import PARTITIONS
from ._pubsub import SILENT_PROBES, first_of
from ._scripts import WATCH
from ._wake import WAKE_TTL, WakeStreams, digest

logger = logging.getLogger("notify.redis")

ENTRIES_PER_READ: Final = b"64"
MESSAGES_PER_YIELD: Final = 64
SETUP_TIMEOUT: Final = 5.0

RESUME_TIME: Final = 8.0
"""Seconds without a connection after which streams look for new events in their logs: until then, it is better to wait
for the wake stream, which has all of them, than to search the logs of all users every second."""

SETTLING: Final = REDISCOVER_INTERVAL + 1.0
"""Seconds after partitions have moved in which pushers may still write to the wake streams of the former layout."""

_TTL: Final = b"%d" % (WAKE_TTL * 1000)


class _WakeMaster:
    """What is known about one master.

    Attributes:
        partition: of its wake stream.
        place: the id of the last entry that was passed on.
        is_lost: whether that place is no longer valid, so that reading begins at the end.
        run: which run of the server that place is of.
        is_receiving: whether a read is under way.
        left_at: when a connection was lost last, by the monotonic clock; -inf if the server refuses to be read.
        heard_at: when the server last answered a read, by the monotonic clock.
        scope: cancels the task that keeps this master connected.
        connection_scope: cancels the present connection.
    """

    def __init__(self, node: RedisNode, partition: int, outage: OutageLog, *, is_first: bool) -> None:
        self.node = node
        self.partition = partition
        self.outage = outage
        self.is_first = is_first
        self.place = b""
        self.is_lost = True
        self.run: bytes | None = None
        self.is_receiving = False
        self.heard_at = 0.0
        self.left_at = -math.inf
        self.scope = anyio.CancelScope()
        self.connection_scope = anyio.CancelScope()

    def restart(self) -> None:
        """Connect again, and begin at the end."""
        self.is_lost = True
        self.connection_scope.cancel()


class WakeReader:
    """What this process receives through wake streams.

    Args:
        client: knows the masters, and connects to them.
        wakes: the names of the wake streams.
        probe_interval: seconds that a read blocks at most, and between two probes.
        on_message: called with each channel that is open and its messages.
        on_gap: called with None when messages may have been missed.

    Attributes:
        connections: how many connections have been opened so far, to all masters together.
    """

    def __init__(
        self,
        client: RedisClient,
        wakes: WakeStreams,
        *,
        probe_interval: float,
        on_message: Callable[[bytes, bytes], None],
        on_gap: Callable[[bytes | None], None],
    ) -> None:
        self.connections = 0
        self._client = client
        self._wakes = wakes
        self._interval = probe_interval
        self._on_message = on_message
        self._on_gap = on_gap
        self._channels: dict[bytes, bytes] = {}  # the fields that a channel may have in an entry: its name, its digest
        self._masters: dict[RedisNode, _WakeMaster] = {}
        self._waiting: list[asyncio.Future[None]] = []  # what `ready` waits for
        self._started = False
        self._failed = False  # a master does not receive, so `ready` does not wait
        self._is_late = False  # streams have read their logs before this process received
        self._settled_at = 0.0
        client.moved.append(self._rebalance)

    @property
    def is_receiving(self) -> bool:
        """Whether every master's wake stream is read, and pushers are known to write to it."""
        is_settled = time.monotonic() >= self._settled_at
        return bool(self._masters) and is_settled and all(each.is_receiving for each in self._masters.values())

    @property
    def is_reliable(self) -> bool:
        """Whether no log has to be polled: events arrive, or will soon, because reading continues where it stopped."""
        now = time.monotonic()
        return (
            bool(self._masters)
            and now >= self._settled_at
            and all(
                each.is_receiving or (not each.is_lost and now - each.left_at < RESUME_TIME)
                for each in self._masters.values()
            )
        )

    def __contains__(self, channel: object) -> bool:
        """Return whether a channel is open here."""
        return channel in self._channels

    def open(self, channel: bytes, partition: int) -> None:
        """Pass on the messages of a channel. Never waits."""
        self._channels[channel] = self._channels[digest(channel)] = channel
        if not self._started:
            self._started = True
            self._client.start(self._find_masters)

    def close(self, channel: bytes) -> None:
        """Do not pass on the messages of a channel any longer. Never waits: called in finalisers too."""
        self._channels.pop(channel, None)
        self._channels.pop(digest(channel), None)

    async def ready(self, channel: bytes, timeout: float) -> None:
        """Wait until this process receives; if that takes too long or fails, `on_gap` is called once it does."""
        if not self._is_reading() and not self._failed:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            with anyio.move_on_after(timeout):
                await waiter
        if not self._is_reading():
            self._is_late = True

    def _is_reading(self) -> bool:
        return bool(self._masters) and all(each.is_receiving for each in self._masters.values())

    # -- staying connected ---------------------------------------------------------------------------------------

    async def _stay_connected(self, master: _WakeMaster) -> None:
        """Connect to one master, and reconnect after every failure, until the scope is cancelled."""
        with master.scope:
            delays = _delays()
            while True:
                began = time.monotonic()
                failure = await self._receive(master)
                if self._client.closed:  # pragma: no cover - CPython 3.11 does not trace what follows a throw
                    return
                if failure is None:  # pragma: no cover - CPython 3.11 does not trace what follows a throw
                    continue
                delays = _delays() if time.monotonic() - began > STEADY_AFTER else delays
                self._failed = True
                self._stop_waiting()
                master.outage.failed(phrase(failure))
                if self._client.endpoint.seeds:
                    with suppress(*FAILURES):
                        await self._client.refresh()
                await anyio.sleep(next(delays))

    async def _receive(self, master: _WakeMaster) -> Exception | None:
        """Open a connection, and read over it; return the error that ended it, or None if `restart` did."""
        connection: Connection | None = None
        failure: Exception | None = None
        try:
            with anyio.CancelScope() as master.connection_scope:
                connection = await master.node.connect()
                self.connections += 1
                await self._begin(master, connection)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._probe, master)
                    await self._read(master, connection)
        except* (RedisError, OSError, ClosedError, *FAILURES) as group:
            failure = first_of(group)
        finally:
            if master.is_receiving:
                master.left_at = -math.inf if isinstance(failure, ResponseError) else time.monotonic()
            master.is_receiving = False
            if connection is not None:
                await hang_up(connection)
        return failure

    async def _begin(self, master: _WakeMaster, connection: Connection) -> None:
        """Find where to go on reading: steps 1 and 2."""
        keys = self._wakes.keys(master.partition)
        watch = pack(b"EVALSHA", WATCH.sha, b"2", *keys, _TTL)
        with anyio.fail_after(SETUP_TIMEOUT):
            commands = (pack(b"SCRIPT", b"LOAD", WATCH.source), watch, pack(b"INFO", b"server"))
            loaded, end, info = await ask(connection, *commands)
        for reply in (loaded, end):
            if isinstance(reply, ResponseError):
                raise reply
        if end is None:
            raise NoAnswerError(f"{keys[1].decode()} is not the counter of a wake stream")
        found = None if isinstance(info, ResponseError) else re.search(rb"run_id:(\w+)", info)
        run = found[1] if found else None
        is_same = not master.is_lost and run is not None and run == master.run
        if not is_same:
            master.place = end
        master.run, master.is_lost = run, False
        master.is_receiving = True
        master.outage.recovered()
        self._failed = not self._is_reading()
        is_first, master.is_first = master.is_first, False
        if self._is_reading():
            self._stop_waiting()
            if self._is_late or not (is_same or is_first):
                self._is_late = False
                self._on_gap(None)
        elif not (is_same or is_first):
            self._on_gap(None)

    # -- reading -------------------------------------------------------------------------------------------------

    async def _read(self, master: _WakeMaster, connection: Connection) -> None:
        """Read until the connection fails. The next read is sent before the entries of the last one are passed on."""
        stream, _ = self._wakes.keys(master.partition)
        block = b"%d" % max(1, self._interval * 1000)
        head = (b"XREAD", b"COUNT", ENTRIES_PER_READ, b"BLOCK", block, b"STREAMS", stream)
        transmit, replies = transmitter(connection), Replies(connection)
        transmit(pack(*head, master.place))
        while True:
            for reply in await replies.take():
                if isinstance(reply, ResponseError):
                    raise reply
                master.heard_at = time.monotonic()
                entries = reply[0][1] if reply else ()
                transmit(pack(*head, entries[-1][0] if entries else master.place))
                await self._pass_on(master, entries)

    async def _pass_on(self, master: _WakeMaster, entries: Any) -> None:
        channels, on_message = self._channels, self._on_message
        since_yield = 0
        for id_, fields in entries:
            epoch, _, end = id_.partition(b"-")
            if master.place != b"%b-%d" % (epoch, int(end) - sum(map(len, fields))):
                self._on_gap(None)
            for number in range(0, len(fields), 2):
                channel = channels.get(fields[number])
                if channel is not None:
                    on_message(channel, fields[number + 1])
            master.place = id_
            since_yield += len(fields) // 2
            if since_yield >= MESSAGES_PER_YIELD:
                since_yield = 0
                await anyio.lowlevel.checkpoint()

    async def _probe(self, master: _WakeMaster) -> None:
        """Raise if pushes write to another stream than this process reads, or nothing is received: step 4."""
        patience = SILENT_PROBES * self._interval
        master.heard_at = answered_at = time.monotonic()
        due = last = master.place
        command = pack(b"EVALSHA", WATCH.sha, b"2", *self._wakes.keys(master.partition), _TTL)
        while True:
            began, before = time.monotonic(), master.place
            end: Any = None
            with suppress(*FAILURES):
                (end,) = await self._client.ask([(master.partition, command)], self._interval / 2)
            if isinstance(end, bytes):
                answered_at = time.monotonic()
                is_stuck = before == last and _number(before) < _number(due)
                if is_stuck or _number(end) < _number(before):
                    master.is_lost = True
                    raise NoAnswerError("pushes write to another wake stream than the one that is read")
                due, last = end, before
            while time.monotonic() - began < self._interval:
                await anyio.sleep(self._interval / 4)
                if time.monotonic() - min(master.heard_at, answered_at) > patience:
                    raise NoAnswerError(f"nothing was received for {patience:.0f} s")

    # -- which master --------------------------------------------------------------------------------------------

    async def _find_masters(self) -> None:
        delays = _delays()
        while True:
            try:
                await self._client.locate()
                break
            except FAILURES:  # logged by the client
                self._failed = True
                self._stop_waiting()
                await anyio.sleep(next(delays))
        self._rebalance()

    def _rebalance(self) -> None:
        """Read the wake stream of each current master; until pushers know them too, nothing counts as received."""
        if not self._started or not self._client.is_located:
            return
        owners = {self._client.node_of(partition): partition for partition in reversed(range(PARTITIONS))}
        for node in set(self._masters).difference(owners):
            self._masters.pop(node).scope.cancel()
        is_moving = bool(self._masters)
        for node, partition in owners.items():
            master = self._masters.get(node)
            if master is None:
                self._masters[node] = self._new_master(node, partition, is_first=not is_moving)
                try:
                    self._client.start(self._stay_connected, self._masters[node])
                except ClosedError:  # pragma: no cover - closed just now
                    return
            elif master.partition != partition or not self._client.is_cluster:
                master.partition = partition
                master.restart()
        if is_moving and self._client.is_cluster:
            self._settled_at = time.monotonic() + SETTLING
            self._on_gap(None)
            self._client.start(self._settle)

    async def _settle(self) -> None:
        """Check once more, when the last pusher must have noticed the new layout."""
        await anyio.sleep(SETTLING)
        self._on_gap(None)

    def _new_master(self, node: RedisNode, partition: int, *, is_first: bool) -> _WakeMaster:
        name = self._client.name
        where = "{}:{}".format(*node.address) if node.address else self._client.endpoint
        outage = OutageLog(logger, f"{name} does not receive from {where}", f"{name} receives from {where} again")
        return _WakeMaster(node, partition, outage, is_first=is_first)

    def _stop_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        _resolve(waiting)


def _number(place: bytes) -> tuple[int, int]:
    """Return a place that can be compared."""
    epoch, _, end = place.partition(b"-")
    return int(epoch), int(end)
