"""Erasing a user: in the notifier's store, and in the stores that layers above it have added."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

from ._layers import LayerPushing
from ._pushing import Pushed
from ._runtime._commands import FORGOTTEN, user_hash
from .abc import Forget, ability
from .errors import UsageError
from .event import check_user, plain


class Forgetting(LayerPushing[Pushed]):
    """`forget`, and `extend_forget`, by which a layer above the core takes part in it."""

    async def forget(self, user: str) -> int:
        """Erase everything that is stored about a user, and return the number of events erased.

        This is all that the store holds: the log, keys, the inbox. A `notify.dispatch.Dispatcher` that uses this
        notifier, directly or through its `Inbox`, adds its own stores: preferences, endpoints and deliveries are erased
        first, then the log. A process without such a dispatcher does not erase them.

        Open streams of the user, in every process, get a gap (`expired`) and continue with later events.

        Raises:
            InvalidEventError: `user` is not a user id.
            UsageError: a store cannot erase a user; nothing was erased.
            BackendError: a store failed; some of it may be erased already; safe to repeat.
            ClosedError: the notifier or a store is closed.

        Cancellation: abandons the wait; the work continues.
        Cost: proportional to the length of the log; with a dispatcher, it may read through all deliveries.
        """
        return sum(count for store, count in await self.erase(user) if store is self._store)

    async def erase(self, user: str) -> Sequence[tuple[object, int]]:
        """Erase a user as `forget` does, and return each store with what its `forget` returned, in order.

        For layers above this one, whose own call has to erase everything too. Errors, cancellation and cost are those
        of `forget`.
        """
        self._check_open()
        check_user(user)
        self._guard.check()
        targets = [*self._added()]
        if self._store is not None or not targets:
            targets.append(self._store)
        stores = list[Forget]()
        for store in targets:
            if not ability(store, Forget):
                raise UsageError(f"{type(store).__name__} cannot forget a user: it lacks the ability notify.abc.Forget")
            stores.append(store)
        return await self._parts.jobs.run(self._erase, stores, plain(user))

    def extend_forget(self, *stores: object) -> None:
        """Let `forget` erase users in these stores too, for as long as they are in use.

        For layers above this one. Adding a store again changes nothing. The notifier keeps none of them alive: one that
        nothing else refers to any more is left out.

        Args:
            stores: objects with the ability `notify.abc.Forget`; any other makes `forget` raise UsageError.
        """
        for store in stores:
            if store is not self._store and not any(each is store for each in self._added()):
                self._also_forget.append(_weakly(store))

    def _added(self) -> Sequence[object]:
        """Return the stores that were added and still exist."""
        found = [(each, store) for each in self._also_forget if (store := each()) is not None]
        self._also_forget = [each for each, _ in found]
        return [store for _, store in found]

    async def _erase(self, stores: Sequence[Forget], user: str) -> Sequence[tuple[object, int]]:
        # The log is the last of the stores, because a delivery that is being sent may still write to it.
        erased = [(store, await store.forget(user)) for store in stores]
        self._parts.fan_out.command(FORGOTTEN, "", user_hash(user))
        return erased


def _weakly(store: object) -> Callable[[], object]:
    """Return what returns the store while it exists; a class with `__slots__` may not allow that: then always."""
    try:
        return weakref.ref(store)
    except TypeError:
        return lambda: store
