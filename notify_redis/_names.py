"""The names of all keys and channels in Redis.

Rules:
    1. Every name begins with `prefix:{tag}:`. There are 256 tags, hence 256 hash slots (the partitions): pushes to many
       users share script calls, and a cluster of any size gets an even share. The checksum of the user id selects the
       tag, so a user's stream, channel and keys are on one master, as a script needs.
    2. User ids, idempotency keys and instance ids are percent-encoded outside `[A-Za-z0-9_.@-]`. So no name contains
       the separator or a brace: names cannot collide, and no user id can address another slot or another user's key.
    3. `prefix:{tag}:user` is the user's stream and channel. Further parts, or an empty user, make other names:
       `:k:<key>` an idempotency key, `:k` the index of these, `:p` presence, `:i` and a letter a part of the inbox
       (see `_inbox_keys`), `:c:<bucket>` what a cap has counted, `:v:<notification>` its verdict, `:c` the
       index of both; `::users` the users
       of a partition, `::inboxes` its inboxes, `::retries` what a repeated attempt appended, `::w:` a wake stream,
       `::wn:` its counter, `::gates:` gates of providers, `::i:<instance>` a router's channel, `::c:<name>` a probe's
       channel, `::e:` the channel of broadcasts.
    4. Keys of different databases are apart, but channels are not: pub/sub has no databases. So the name of a channel
       in a database other than 0 ends with `:d<database>`.
    5. The layout is part of the stored data: it never changes for a prefix.
"""

from __future__ import annotations

import re
from binascii import crc32, crc_hqx
from collections.abc import Callable
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from notify.errors import UsageError

from ._inbox_keys import PARTS

PARTITIONS: Final = 256
"""Hash slots that the names of one prefix use."""

SLOTS: Final = 16_384
"""Hash slots of a Redis cluster."""

_PREFIX = re.compile(r"[A-Za-z0-9_.:@-]{1,100}")
_CACHED_NAMES: Final = 65_536


def slot_of(tag: str) -> int:
    """Return the hash slot of every name with this tag."""
    return crc_hqx(tag.encode(), 0) % SLOTS


def _tags() -> tuple[str, ...]:
    """Return tags whose slots are spread evenly: the first `pNNN` of each 256th part of the slots."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < PARTITIONS:
        tag = f"p{number:03}"
        found.setdefault(slot_of(tag) * PARTITIONS // SLOTS, tag)
        number += 1
    return tuple(found[part] for part in range(PARTITIONS))


TAGS: Final = _tags()
"""The tag of each partition."""


def encode(name: str) -> str:
    """Return a name without separators, braces and other characters with a meaning in Redis."""
    return quote(name, safe="@").replace("~", "%7E")


def partition_of(name: str) -> int:
    """Return the partition of a user or an instance."""
    return crc32(name.encode()) % PARTITIONS


class RedisNames:
    """The names under one prefix.

    Args:
        prefix: begins every name.
        database: the number of the Redis database.

    Attributes:
        channel_suffix: ends the name of every channel; empty in database 0.
        indexes: for each partition, the sorted set of its users' streams.
        retries: for each partition, the hash of what repeated attempts appended.
        inbox: maps a user to the names of the stream, the parts of the inbox, and the index of inboxes; cached.
        of_user: maps a user to the names of stream, index and retries, and the partition; cached.

    Raises:
        UsageError: the prefix has a character with a meaning.
    """

    def __init__(self, prefix: str, database: int = 0) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise UsageError(f"prefix must match {_PREFIX.pattern}, got {prefix!r:.120}")
        self.prefix = prefix
        self.channel_suffix = b":d%d" % database if database else b""
        self._heads = [f"{prefix}:{{{tag}}}:".encode() for tag in TAGS]
        self.indexes = [head + b":users" for head in self._heads]
        self.retries = [head + b":retries" for head in self._heads]
        self.inbox: Callable[[str], tuple[bytes, ...]] = lru_cache(_CACHED_NAMES)(self._inbox)
        self.of_user: Callable[[str], tuple[bytes, bytes, bytes, int]] = lru_cache(_CACHED_NAMES)(self._of_user)

    def _of_user(self, user: str) -> tuple[bytes, bytes, bytes, int]:
        partition = partition_of(user)
        stream = self._heads[partition] + encode(user).encode()
        return stream, self.indexes[partition], self.retries[partition], partition

    def _inbox(self, user: str) -> tuple[bytes, ...]:
        stream, _, _, partition = self.of_user(user)
        return self.inbox_of(stream, partition)

    def inbox_of(self, stream: bytes, partition: int) -> tuple[bytes, ...]:
        """Return what `inbox` does for the user with this stream."""
        parts = [b"%b:%b" % (stream, part.encode()) for part in PARTS]
        return (stream, *parts, self.inboxes(partition))

    def inboxes(self, partition: int) -> bytes:
        """Return the name of the sorted set of a partition's inboxes, by when something in them may be due."""
        return self._heads[partition] + b":inboxes"

    def followers(self, topic: str) -> bytes:
        """Return the name of the sorted set of a topic's followers."""
        return self.of_user(topic)[0] + b":if"

    def stream(self, user: str) -> bytes:
        """Return the name of the user's stream."""
        return self.of_user(user)[0]

    def channel(self, user: str) -> bytes:
        """Return the name of the user's channel."""
        return self.of_user(user)[0] + self.channel_suffix

    def idempotency(self, user: str, key: str) -> bytes:
        """Return the name of the key that stores where an event with this idempotency key was appended."""
        return b"%b:k:%b" % (self.of_user(user)[0], encode(key).encode())

    def idempotency_index(self, user: str) -> bytes:
        """Return the name of the sorted set of the user's idempotency keys, by when each expires."""
        return self.of_user(user)[0] + b":k"

    def presence(self, user: str) -> bytes:
        """Return the name of the hash with the user's locations."""
        return self.of_user(user)[0] + b":p"

    def caps(self, user: str) -> bytes:
        """Return the name of the sorted set of the keys of a user's caps and verdicts, by when each expires."""
        return self.of_user(user)[0] + b":c"

    def cap(self, user: str, bucket: str) -> bytes:
        """Return the name of the sorted set of what a frequency cap has counted."""
        return b"%b:c:%b" % (self.of_user(user)[0], encode(bucket).encode())

    def verdict(self, user: str, notification: str) -> bytes:
        """Return the name of the key that stores whether a notification was admitted."""
        return b"%b:v:%b" % (self.of_user(user)[0], encode(notification).encode())

    def named(self, partition: int, kind: str, name: str = "") -> bytes:
        """Return the name of a key that does not belong to a user."""
        return self._heads[partition] + f":{kind}:{encode(name)}".encode()

    def named_channel(self, partition: int, kind: str, name: str = "") -> bytes:
        """Return the name of a channel that does not belong to a user."""
        return self.named(partition, kind, name) + self.channel_suffix
