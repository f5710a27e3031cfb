"""The digests of a memory store of deliveries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from notify.dispatch.abc import (
    Delivery,
    DigestItem,
    DigestJoin,
    Notification,
    RecipientRecord,
    delivery_id,
    digest_id,
    exact,
    instant,
    millis,
    next_generation,
    slid,
)


@dataclass
class _Digest:
    """A digest; `items` are the instants of joining by the id of the notification, `left` is cancelled ones."""

    key: str
    id: str
    user: str
    type: str
    channels: Sequence[str]
    opened_at: datetime
    closes_at: datetime
    due_at: datetime
    is_open: bool = True
    items: dict[str, datetime] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)


class MemoryDigests:
    """Opens, joins and closes digests.

    Invariants:
        I1. At most one digest of a key is open.
        I2. A notification is in at most one digest of a key, open or closed.
        I3. A digest that is closed has its notification.

    Args:
        store: stores the notification of a digest, its recipient and its deliveries.
        address_of: returns what was given as the address of a recipient.
    """

    def __init__(
        self,
        store: Callable[[Notification, RecipientRecord, Sequence[Delivery]], None],
        address_of: Callable[[str, str], bytes],
    ) -> None:
        self._store = store
        self._address_of = address_of
        self._digests: dict[str, _Digest] = {}
        self._generations: dict[str, int] = {}

    def join(self, join: DigestJoin, now: datetime) -> None:
        """Put a notification into the open digest of a key, which is opened if need be; close it at its limit."""
        same = [digest for digest in self._digests.values() if digest.key == join.key]
        if any(join.notification in digest.items for digest in same):
            return  # keeps I2
        opened = [digest for digest in same if digest.is_open]
        if opened:
            (digest,) = opened
            closes, due = slid(join, millis(digest.opened_at), millis(digest.closes_at), millis(digest.due_at))
            digest.closes_at, digest.due_at = instant(closes), instant(due)
            digest.type, digest.channels = join.type, join.channels
        else:
            digest = self._open(join, now)
        digest.items[join.notification] = now
        if join.limit is not None and len(digest.items) - len(digest.left) >= join.limit:
            self._close(digest, now)

    def leave(self, notification: str, user: str | None, channel: str | None) -> int:
        """Take a notification out of the digests that are open; return out of how many."""
        count = 0
        for digest in self._digests.values():
            if not digest.is_open or notification not in digest.items or notification in digest.left:
                continue
            if user in (None, digest.user) and (channel is None or {*digest.channels} == {channel}):
                digest.left.add(notification)
                count += 1
        return count

    def close_due(self, now: datetime, limit: int) -> int:
        """Close digests that are due, the earliest first; return how many."""
        due = [digest for digest in self._digests.values() if digest.is_open and digest.due_at <= now]
        due.sort(key=lambda digest: (digest.due_at, digest.id))
        for digest in due[:limit]:
            self._close(digest, now)
        return len(due[:limit])

    def items(
        self, id: str, notifications: Mapping[str, Notification], provider_ids: Mapping[tuple[str, str], str]
    ) -> list[DigestItem]:
        """Return what a digest has collected, cancelled items left out.

        Args:
            id: of the digest.
            notifications: all of them, by id.
            provider_ids: the ids that the provider gave, by notification and user.
        """
        digest = self._digests.get(id)
        if digest is None:
            return []
        found = [(name, at) for name, at in digest.items.items() if name not in digest.left]
        return [DigestItem(at, notifications[name], provider_ids.get((name, digest.user), "")) for name, at in found]

    def needed(self, busy: Collection[str]) -> set[str]:
        """Return the notifications in digests that are open, or whose own notification is among `busy`."""
        return {
            name for digest in self._digests.values() if digest.is_open or digest.id in busy for name in digest.items
        }

    def remove(self, notification: str) -> None:
        """Forget a notification that is purged: a digest, or an item of digests that have been sent."""
        self._digests.pop(notification, None)
        for digest in self._digests.values():
            digest.items.pop(notification, None)

    def forget(self, user: str) -> None:
        """Forget the digests of a user."""
        for id in [id for id, digest in self._digests.items() if digest.user == user]:
            self._generations.pop(self._digests.pop(id).key, None)

    def _open(self, join: DigestJoin, now: datetime) -> _Digest:
        generation = next_generation(self._generations.get(join.key), millis(now))
        self._generations[join.key] = generation
        id = digest_id(join.key, generation)
        ends = exact(join.closes_at), exact(join.due_at)
        digest = self._digests[id] = _Digest(join.key, id, join.user, join.type, join.channels, now, *ends)  # keeps I1
        return digest

    def _close(self, digest: _Digest, now: datetime) -> None:
        digest.is_open = False
        addresses = [self._address_of(name, digest.user) for name in digest.items]
        given = [address for address in addresses if address]
        self._store(  # keeps I3
            Notification(digest.id, digest.type, b"{}", now, digest=digest.id),
            RecipientRecord(digest.id, digest.user, address=given[-1] if given else b""),
            [
                Delivery(delivery_id(digest.id, digest.user, channel), digest.id, digest.user, channel, due_at=now)
                for channel in digest.channels
            ],
        )
