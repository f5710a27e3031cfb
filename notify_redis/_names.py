"""The names of everything that is kept in Redis.

Rules:
    1. Every name begins with `prefix:{tag}:`. The tag is one of 256, so names fall into 256 hash slots: batches for
       many users share slots, and a cluster of any size gets an even part of them. The id's checksum says which tag.
    2. What users, keys and instances are called is percent-encoded outside `[A-Za-z0-9_.@-]`: a name holds neither the
       separator nor a brace, so no two are alike and none can choose another slot.
    3. `prefix:{tag}:user` is the user's stream, and its pub/sub channel. What follows the user after a further colon,
       or an empty user, is something else: `:k:<key>` an idempotency key, `:p` presence; `::users` the users of a
       partition, `::retries` what was appended by a second attempt, `::i:<instance>` a router's channel.
    4. The layout is part of the data: it never changes for a prefix.
"""

from __future__ import annotations

import re
from binascii import crc32, crc_hqx
from collections.abc import Callable
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from notify.errors import UsageError

PARTITIONS: Final = 256
"""How many hash slots the names of one prefix fall into."""

SLOTS: Final = 16_384
"""Hash slots of a Redis cluster."""

_PREFIX = re.compile(r"[A-Za-z0-9_.:@-]{1,100}")
_CACHED_NAMES: Final = 65_536


def slot_of(tag: str) -> int:
    """Return the hash slot of every name with this tag."""
    return crc_hqx(tag.encode(), 0) % SLOTS


def _tags() -> tuple[str, ...]:
    """Return tags whose slots are spread evenly: the first `pNNN` in each 256th part of the slots."""
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
    """Return a name without separators, braces and everything else that means something in Redis."""
    return quote(name, safe="@").replace("~", "%7E")


def partition_of(name: str) -> int:
    """Return the partition of a user or an instance."""
    return crc32(name.encode()) % PARTITIONS


class RedisNames:
    """The names under one prefix.

    Args:
        prefix: what every name begins with.

    Attributes:
        stream: user to the name of the stream, which is the name of the channel too.

    Raises:
        UsageError: the prefix has a character that means something.
    """

    def __init__(self, prefix: str) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise UsageError(f"a prefix matches {_PREFIX.pattern}: {prefix!r:.120}")
        self.prefix = prefix
        self._heads = [f"{prefix}:{{{tag}}}:".encode() for tag in TAGS]
        self.indexes = [head + b":users" for head in self._heads]
        self.retries = [head + b":retries" for head in self._heads]
        self.of_user: Callable[[str], tuple[bytes, bytes, bytes, int]] = lru_cache(_CACHED_NAMES)(self._of_user)

    def _of_user(self, user: str) -> tuple[bytes, bytes, bytes, int]:
        """Return the names of stream, index and retries, and the partition."""
        partition = partition_of(user)
        stream = self._heads[partition] + encode(user).encode()
        return stream, self.indexes[partition], self.retries[partition], partition

    def stream(self, user: str) -> bytes:
        """Return the name of the user's stream and channel."""
        return self.of_user(user)[0]

    def idempotency(self, user: str, key: str) -> bytes:
        """Return the name of what remembers an idempotency key."""
        return b"%b:k:%b" % (self.of_user(user)[0], encode(key).encode())

    def presence(self, user: str) -> bytes:
        """Return the name of the hash that says where the user is connected."""
        return self.of_user(user)[0] + b":p"

    def named(self, partition: int, kind: str, name: str = "") -> bytes:
        """Return a name that belongs to no user."""
        return self._heads[partition] + f":{kind}:{encode(name)}".encode()
