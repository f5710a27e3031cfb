"""Events that are sent to other processes and not stored: ephemeral events, broadcasts, and the library's commands.

A message goes to its user's channel, or to the one channel of broadcasts, so a broadcast is one message for each
process. The script that sends it (`_lua/tell.lua`) announces it as `_wake` describes. All of it is best effort: what
cannot be sent is lost, and the outage is logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import anyio
from redis.exceptions import ResponseError

from notify import Event
from notify.adapters import OutageLog, build_event
from notify.errors import ClosedError, CodecError

from ._client import RedisClient, RedisNode
from ._connection import bulks
from ._errors import FAILURES, Disposition, disposition_of, phrase
from ._names import RedisNames, partition_of
from ._pipeline import PipelinedRequest
from ._scripts import TELL
from ._wake import ARGUMENTS, BROADCASTS, WakeStreams, digest

logger = logging.getLogger("notify.redis")

MAX_WAITING: Final = 10_000
"""Messages that wait to be sent; further ones are lost."""

MAX_WAITING_BYTES: Final = 32 << 20

SEND_TIMEOUT: Final = 2.0
"""Seconds after which a message without a reply counts as lost."""

MARK: Final = b"~ "
"""The first byte of a message that is not stored; an announcement begins with an id."""


def encode_message(event: Event) -> bytes:
    """Return the message of an event that is not stored, without its user."""
    nameless = build_event("", "", "", event.type, event.data, event.micros, event.group, event.key, event.meta)
    return MARK + nameless.to_bytes()


def decode_message(message: bytes, user: str) -> Event:
    """Return the event of a message, for a user.

    Raises:
        CodecError: not such a message.
    """
    event = Event.from_bytes(message[len(MARK) :])
    if event.id or event.user:
        raise CodecError("a message that is not stored has no id and no user")
    return build_event("", "", user, event.type, event.data, event.micros, event.group, event.key, event.meta)


class EphemeralSender:
    """Sends events that are not stored, best effort.

    Messages of one step of the event loop go out together, one request to each master. While one is in flight, further
    messages wait, so the order of the calls is kept for each user, also when a message has to be sent again because its
    partition has moved.

    Invariants:
        I1. While messages wait, `_flush` will be called: it is scheduled, or a request is in flight, or `_locate` runs.

    Args:
        client: knows the masters.
        names: of channels.
        streams: the arguments of the script.
    """

    def __init__(self, client: RedisClient, names: RedisNames, streams: WakeStreams) -> None:
        self._client = client
        self._names = names
        self._streams = streams
        self._waiting: deque[Message] = deque()
        self._bytes = 0
        self._busy: set[RedisNode] = set()
        self._connected: set[RedisNode] = set()  # those that were waited for once
        self._scheduled = self._locating = False
        self._settled: asyncio.Event | None = None
        self._outage = OutageLog(
            logger,
            f"{client.name} cannot send ephemeral events and broadcasts, and those of the outage are lost",
            f"{client.name} sends ephemeral events and broadcasts again",
        )

    def send(self, event: Event) -> None:
        """Send an event soon. Never waits.

        Raises:
            ClosedError: closed.
            UsageError: called from another event loop, or after a fork.
        """
        self._client.check_open()
        message = self._message(event)
        if len(self._waiting) >= MAX_WAITING or self._bytes + message.size > MAX_WAITING_BYTES:
            self._outage.failed("too many are waiting to be sent")
            return
        self._waiting.append(message)
        self._bytes += message.size
        self._schedule()

    async def settle(self, grace: float) -> None:
        """Wait until nothing waits to be sent, `grace` seconds at most: a script may send and close at once."""
        if self._waiting or self._busy:
            self._settled = asyncio.Event()
            with anyio.move_on_after(grace, shield=True):
                await self._settled.wait()

    def _note_settled(self) -> None:
        if self._settled is not None and not self._waiting and not self._busy:
            self._settled.set()

    def _message(self, event: Event) -> Message:
        if event.user:
            return Message(self._names.channel(event.user), partition_of(event.user), encode_message(event))
        return Message(self._streams.broadcasts, BROADCASTS, encode_message(event))

    def _schedule(self) -> None:
        if not self._scheduled and not self._locating:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send what waits for a master to which no request is in flight."""
        self._scheduled = False
        if self._locating or self._client.closed:
            return
        if not self._connected.issuperset(self._client.nodes) or not self._client.is_located:
            self._locate(())
            return
        ready: dict[RedisNode, list[Message]] = {}
        kept: deque[Message] = deque()
        for message in self._waiting:
            node = self._client.node_of(message.partition)
            if node in self._busy:
                kept.append(message)
            else:
                self._bytes -= message.size
                ready.setdefault(node, []).append(message)
        self._waiting = kept
        for node, messages in ready.items():
            self._busy.add(node)
            commands = b"".join([self._command(message) for message in messages])
            request = PipelinedRequest(commands, len(messages), partial(self._on_replies, node, messages), SEND_TIMEOUT)
            node.writes.post(request)

    def _command(self, message: Message) -> bytes:
        arguments = self._streams.arguments(message.partition)
        head = b"*%d\r\n%b" % (6 + ARGUMENTS, bulks(b"EVALSHA", TELL.sha, b"1", message.channel))
        return head + arguments + bulks(digest(message.channel), message.body)

    def _on_replies(self, node: RedisNode, messages: Sequence[Message], replies: list[Any] | Exception) -> None:
        self._busy.discard(node)
        if isinstance(replies, Exception):
            self._outage.failed(phrase(replies))
            replies = []
        again: list[Message] = []
        found: set[Disposition] = set()
        failure: Exception | None = None
        refused: bytes | None = None
        for message, reply in zip(messages, replies, strict=False):
            if isinstance(reply, ResponseError):
                failure = reply
                found.add(disposition_of(reply))
                if disposition_of(reply) in _AGAIN and time.monotonic() < message.due:
                    again.append(message)
            elif reply is not None:
                refused = reply
        self._note(failure if not again else None, refused, sent=bool(replies))
        if again:
            self._waiting.extendleft(reversed(again))
            self._bytes += sum(message.size for message in again)
            self._locate(found, node)
        elif self._waiting:
            self._schedule()
        self._note_settled()

    def _note(self, failure: Exception | None, refused: bytes | None, *, sent: bool) -> None:
        """Log a failure, once for each outage; a refused PUBLISH is one if readers can only be reached by PUBLISH."""
        if refused is not None and self._streams.always:
            self._streams.stop_publishing()
        elif refused or failure:
            self._outage.failed(phrase(failure or (refused or b"").decode(errors="replace")))
        elif sent:
            self._outage.recovered()

    def _locate(self, found: Iterable[Disposition], node: RedisNode | None = None) -> None:
        """In a task, find the masters, or do what a master's errors require; then continue."""
        if not self._locating:  # pragma: no branch - else two masters answer with errors at once
            self._locating = True
            try:
                self._client.start(self._find, frozenset(found), node)
            except ClosedError:  # pragma: no cover - closed just now
                self._locating = False

    async def _find(self, found: frozenset[Disposition], node: RedisNode | None) -> None:
        try:
            if node is None:
                await self._client.locate()
                await self._connect()
            elif Disposition.LOAD in found:
                await node.writes.reload(SEND_TIMEOUT)
            else:
                await anyio.sleep(AGAIN_DELAY)
                await self._client.relocate(found)
        except FAILURES as error:
            self._outage.failed(phrase(error))
            self._waiting.clear()
            self._bytes = 0
        finally:
            self._locating = False
            if self._waiting:
                self._schedule()
            self._note_settled()

    async def _connect(self) -> None:
        """Connect to new masters, so that none gets its messages much later than the others."""
        fresh = [node for node in self._client.nodes if node not in self._connected]
        self._connected = {*self._client.nodes}

        async def connect(node: RedisNode) -> None:
            with suppress(*FAILURES, ClosedError):
                await node.writes.connected(SEND_TIMEOUT / 2)

        async with anyio.create_task_group() as tasks:
            for node in fresh:
                tasks.start_soon(connect, node)


class Message:
    """A message that waits to be sent.

    Attributes:
        due: when it is no longer sent again, by the monotonic clock.
        size: its bytes.
    """

    __slots__ = ("body", "channel", "due", "partition", "size")

    def __init__(self, channel: bytes, partition: int, body: bytes) -> None:
        self.channel = channel
        self.partition = partition
        self.body = body
        self.size = len(body)
        self.due = time.monotonic() + 2 * SEND_TIMEOUT


_AGAIN: Final = (Disposition.LOAD, Disposition.MOVE, Disposition.WAIT)
AGAIN_DELAY: Final = 0.02
"""Seconds before a message is sent to where its partition has moved."""
