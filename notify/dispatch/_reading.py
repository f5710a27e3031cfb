"""Cancels the fallbacks for an unread item as soon as it is read or dismissed, in the process that marks it.

This need not succeed: the inbox is asked again when a delivery is due (see `_looking`), since an item may be read by a
process without a dispatcher, or while the store of deliveries is unavailable. So a failure here is logged, and the
delivery only ends later.

A channel is left to that later check if one of its deliveries may have arrived already (`ambiguous`). A digest keeps
what it has collected.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable, Sequence
from itertools import takewhile
from typing import Final
from weakref import finalize, ref

import anyio

from notify import ClosedError, ids
from notify.inbox import Change, Inbox, Item

from ._parts import DispatchParts
from ._reasons import Reason
from ._types import IN_APP, NotificationType
from .abc import IN_DOUBT, STOPPABLE, Delivery, millis

READS: Final = frozenset({"unread", "away"})
"""The uses of fallbacks that are not needed once the item has been read."""

_CHANGES: Final = frozenset({"notify.read", "notify.dismissed"})

_TIMEOUT: Final = 2.0
"""Seconds by which a change of an inbox is delayed at most."""

_MOST: Final = 20
"""Items that are looked at for one change, the newest ones, whose fallbacks wait longest. The rest: see `_ENOUGH`."""

_ENOUGH: Final = 1.0
"""Seconds after which no further item is started: the fallbacks for the rest are skipped when they are due."""

_PAUSE: Final = 10.0
"""Seconds for which nothing is tried after a failure, so that an outage delays few changes."""

_SKEW: Final = 60.0
"""Seconds allowed for the clocks of the log and of the workers to differ, and for a worker to be late."""


def watch_reads(parts: DispatchParts) -> None:
    """Add a hook to the dispatcher's inbox that cancels fallbacks for read items, until the dispatcher is gone."""
    if isinstance(parts.inbox, Inbox):
        hook = CancelWhenRead(parts)
        parts.inbox.add_hook(hook)
        finalize(parts, _unwatch, ref(parts.inbox), hook).atexit = False


def _unwatch(inbox: ref[Inbox], hook: CancelWhenRead) -> None:
    """Remove the hook of a dispatcher that is gone."""
    if (still := inbox()) is not None:
        still.remove_hook(hook)


class CancelWhenRead:
    """A hook of the inbox.

    Args:
        parts: of the dispatcher. They are not kept alive: the inbox may outlive the dispatcher.
    """

    def __init__(self, parts: DispatchParts) -> None:
        self._parts = ref(parts)
        self._longest: float | None = None
        self._types = 0
        self._paused_until = 0.0

    def after_change(self, user: str, change: Change) -> Awaitable[None] | None:
        """See `notify.inbox.AfterChange`; it costs one comparison if no item is new enough for anything to wait."""
        parts = self._parts()
        if parts is None or change.event is None or change.event.type not in _CHANGES:
            return None
        longest = self._longest_wait(parts)
        if longest is None or time.monotonic() < self._paused_until:
            return None
        now = _earliest(parts)
        fresh = takewhile(lambda id: _age(id, now) <= longest, change.ids)  # newest first
        own = [id for id in fresh if "@" not in id]  # a dispatcher sends only to the user's own log
        return self._cancel(parts, user, own[:_MOST], now) if own else None

    def _longest_wait(self, parts: DispatchParts) -> float | None:
        """Return the longest wait of all types; None: no fallback depends on reading. Types are never removed."""
        if self._types != len(parts.types):
            waits = [wait for each in parts.types if (wait := _wait(each)) is not None]
            self._longest, self._types = max(waits, default=None), len(parts.types)
        return self._longest

    async def _cancel(self, parts: DispatchParts, user: str, own: Sequence[str], now: float) -> None:
        """Cancel what waits for those of these items that are still read or dismissed.

        Raises:
            TimeoutError: it took too long.
            BackendError: the inbox or the store of deliveries failed.
        """
        assert parts.inbox is not None
        enough = time.monotonic() + _ENOUGH
        try:
            with anyio.fail_after(_TIMEOUT):
                for item in await parts.inbox.get_many(user, own):
                    if time.monotonic() >= enough:
                        return
                    if not item.is_unread and _may_wait(parts, item, now):
                        await _cancel_fallbacks(parts, user, item)
        except ClosedError:  # the application is ending
            return
        except Exception:
            self._paused_until = time.monotonic() + _PAUSE
            raise


async def _cancel_fallbacks(parts: DispatchParts, user: str, item: Item) -> None:
    """Cancel the fallbacks that wait for an item."""
    id, fallbacks = item.event.meta["notification"], parts.types[item.event.type].fallback
    record = await parts.records.record(id, user)
    if record is None or record[0].digest is not None or not _is_of(item, record[2]):
        return
    waiting = {each.channel for each in record[2] if each.state in STOPPABLE}
    in_doubt = {each.channel for each in record[2] if each.reason == IN_DOUBT}
    for channel in sorted(waiting - in_doubt):
        if channel in fallbacks and fallbacks[channel].use in READS:
            reason = Reason.READ_ALREADY
            if await parts.store.cancel(id, parts.clock(), user=user, channel=channel, reason=reason, joins=False):
                await parts.events.tell_cancelled(parts.records, id, user, reason)


def _is_of(item: Item, deliveries: Iterable[Delivery]) -> bool:
    """Return whether this is the item that the inbox has accepted for these deliveries."""
    return any(each.channel == IN_APP and each.provider_id == item.id for each in deliveries)


def _may_wait(parts: DispatchParts, item: Item, now: float) -> bool:
    """Return whether the item is so new that a fallback of its type may still be waiting."""
    if item.event.type not in parts.types or "notification" not in item.event.meta:
        return False
    wait = _wait(parts.types[item.event.type])
    return wait is not None and _age(item.id, now) <= wait


def _wait(type: NotificationType) -> float | None:
    """Return how many seconds after its item a fallback may wait, with `_SKEW`; None: none depends on reading."""
    waits = [each.after for each in type.fallback.values() if each.use in READS]
    return max(waits) + _SKEW if waits else None


def _earliest(parts: DispatchParts) -> float:
    """Return the current time in seconds, by the system's clock or the dispatcher's, whichever is earlier.

    In tests, the dispatcher's may be set by hand while that of the log, which gives the ids, is not.
    """
    return min(time.time(), millis(parts.clock()) / 1000)


def _age(id: str, now: float) -> float:
    """Return how many seconds before `now` an item was sent."""
    return now - ids.parse(id.partition("@")[0])[0] / 1000
