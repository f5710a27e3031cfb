"""Announcing events to other processes: what is announced where, and by which commands.

An event is announced by the script that appends it, in the same step (`_lua/push.lua`). There are two ways:

- It is published on its user's channel: `wake="pubsub"`, see `_listen`.
- It is appended to the *wake stream* of its master, which every process reads: `wake="xread"`, see `_xread`.

A process reads in one way, but writes in both, so that processes with different `wake` receive everything:

- A wake stream is written while a process reads it: each reader keeps the stream's counter, which expires WAKE_TTL
  after the last reader has gone. A pusher with `wake="xread"` creates it too, since it knows that there are readers.
- Publishing costs next to nothing where no process subscribes. Where the server refuses it, a store with
  `wake="xread"` no longer tries.

A wake stream:

- One for each master, because a cluster serves an XREAD only for keys of one slot. Its slot is that of the first
  partition that the master has. The scripts reach it from other slots of that master, which Redis allows where a script
  does not declare a key; a slot that is being moved is out of reach, and `_xread` copes with that.
- An entry holds pairs of a channel and a message, those of one call of a script: 32 events cost one command.
- The id of an entry is `epoch-bytes`: when the counter was created, and how many bytes of pairs were appended since. So
  entries are chained, so a reader notices what it has missed. The stream is bounded in bytes, whatever the size of
  events.
- A message that is not stored names its user by a digest, so that `forget` has to find only announcements of stored
  events in a wake stream.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from ._client import RedisClient
from ._connection import bulks
from ._names import PARTITIONS, RedisNames

WAKE_TTL: Final = 300.0
"""Seconds that a wake stream is kept without a reader: a reader that is disconnected for longer catches up."""

WAKE_BYTES: Final = 32 << 20
"""Bytes of a wake stream: 100,000 small events. A reader that is further behind catches up."""

BROADCASTS: Final = 0
"""The partition of the channel of broadcasts."""


class WakeStreams:
    """The names that scripts need to announce an event.

    Args:
        client: knows which master has which partition.
        names: of keys and channels.
        always: create wake streams that no process reads yet.

    Attributes:
        publish: the command that publishes; empty where the server refuses it.
        broadcasts: the channel of broadcasts.
    """

    def __init__(self, client: RedisClient, names: RedisNames, *, always: bool) -> None:
        self.publish = client.publish
        self.broadcasts = names.named_channel(BROADCASTS, "e")
        self._client = client
        self._names = names
        self.always = always
        self._arguments: dict[int, bytes] = {}
        client.moved.append(self._arguments.clear)

    def stop_publishing(self) -> None:
        """Leave publishing out from now on: the server refuses it."""
        self.publish = b""
        self._arguments.clear()

    def partition_of(self, partition: int) -> int:
        """Return the partition of the wake stream that the master of a partition has."""
        if not self._client.is_cluster:
            return 0
        owner = self._client.node_of(partition)
        return next(each for each in range(PARTITIONS) if self._client.node_of(each) is owner)

    def keys(self, partition: int) -> tuple[bytes, bytes]:
        """Return the names of the wake stream in a partition, and of its counter."""
        return self._names.named(partition, "w"), self._names.named(partition, "wn")

    def arguments(self, partition: int) -> bytes:
        """Return what the scripts need to announce something in a partition, encoded."""
        found = self._arguments.get(partition)
        if found is None:
            limits = (b"%d" % (WAKE_TTL * 1000), b"%d" % WAKE_BYTES, b"1" if self.always else b"")
            keys = self.keys(self.partition_of(partition))
            found = self._arguments[partition] = bulks(self.publish, self._names.channel_suffix, *keys, *limits)
        return found


ARGUMENTS: Final = 7
"""The number of arguments that `WakeStreams.arguments` returns."""


def digest(channel: bytes) -> bytes:
    """Return the name in a wake stream of a channel whose messages are not stored."""
    return blake2b(channel, digest_size=12).hexdigest().encode()
