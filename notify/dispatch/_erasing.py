"""Erasing a user everywhere: in the dispatcher's stores, and in the logs of the notifiers that it uses.

`Dispatcher.forget` and `Notifier.forget` both erase everything: the dispatcher adds its stores to its notifiers, and
leaves the work to them.
"""

from __future__ import annotations

from collections.abc import Sequence

from notify import Notifier, UsageError
from notify.abc import Forget
from notify.adapters import check_user
from notify.inbox import Inbox

from ._parts import DispatchParts


def join_notifiers(parts: DispatchParts) -> None:
    """Let the notifiers of a dispatcher erase users in its stores too."""
    for notifier in _notifiers(parts):
        notifier.extend_forget(*_stores(parts))


async def erase(parts: DispatchParts, user: str) -> int:
    """Erase a user, and return the number of deliveries; see `Dispatcher.forget`."""
    check_user(user)
    stores, notifiers, erased = _stores(parts), _notifiers(parts), list[tuple[object, int]]()
    for store in [*stores, *(each.store for each in notifiers if each.store is not None)]:
        if not isinstance(store, Forget):
            raise UsageError(f"{type(store).__name__} cannot forget a user: it lacks the ability notify.abc.Forget")
    for notifier in notifiers:
        erased += await notifier.erase(user)
    if not notifiers:
        erased = [(store, await store.forget(user)) for store in stores if isinstance(store, Forget)]
    return sum(count for store, count in erased if store is parts.store)


def _stores(parts: DispatchParts) -> Sequence[object]:
    """Return the stores that hold data of users, each once; `gates` holds none."""
    return [*{id(each): each for each in (parts.store, parts.preferences, parts.endpoints, parts.caps)}.values()]


def _notifiers(parts: DispatchParts) -> Sequence[Notifier]:
    """Return the notifier of the inbox and that of `events`, which are often the same."""
    found = [parts.inbox.notifier if isinstance(parts.inbox, Inbox) else None, parts.events.notifier]
    return [*{id(each): each for each in found if each is not None}.values()]
