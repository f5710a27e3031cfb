"""Erasing a user: in the notifier's store, and in those that layers above it have added."""

from __future__ import annotations

from collections.abc import Sequence

from ._layers import LayerPushing
from ._pushing import Pushed
from ._runtime._commands import FORGOTTEN, mark
from .abc import Forget, ability
from .errors import UsageError
from .event import check_user, plain


class Forgetting(LayerPushing[Pushed]):
    """`forget`, and how a layer above the core takes part in it."""

    async def forget(self, user: str) -> int:
        """Erase everything that is stored about a user, and return the number of events erased.

        This is all that the store holds: the log, keys, the inbox. A `notify.dispatch.Dispatcher` on this notifier, or
        on an `Inbox` on it, adds its stores: preferences, endpoints and deliveries are erased first, then the log. In a
        process that has no such dispatcher, they are not erased.

        Open streams of the user, in every process, get a gap (`expired`) and continue with later events.

        Raises:
            InvalidEventError: `user` is not a user id.
            UsageError: a store cannot forget; nothing was erased.
            BackendError: a store failed; some of it may be erased already; safe to repeat.
            ClosedError: the notifier or a store is closed.

        Cancellation: abandons the wait; the work continues.
        Cost: proportional to the length of the log; with a dispatcher, it may read through all deliveries.
        """
        return sum(count for store, count in await self.erase(user) if store is self._store)

    async def erase(self, user: str) -> Sequence[tuple[object, int]]:
        """Do what `forget` does, and return what each store has erased, in order.

        For layers above this one, whose own call has to erase everything too. As `forget` in every other respect.
        """
        self._check_open()
        check_user(user)
        self._guard.check()
        stores = list[Forget]()
        for store in [*self._also_forget, *([] if self._store is None and self._also_forget else [self._store])]:
            if not ability(store, Forget):
                raise UsageError(f"{type(store).__name__} cannot forget a user: it lacks the ability notify.abc.Forget")
            stores.append(store)
        return await self._parts.jobs.run(self._erase, stores, plain(user))

    def extend_forget(self, *stores: object) -> None:
        """Let `forget` erase users in these stores too, for as long as the notifier lives.

        For layers above this one. Adding a store again changes nothing.

        Args:
            stores: those that cannot erase a user (`notify.abc.Forget`) make `forget` raise UsageError.
        """
        for store in stores:
            if store is not self._store and not any(each is store for each in self._also_forget):
                self._also_forget.append(store)

    async def _erase(self, stores: Sequence[Forget], user: str) -> Sequence[tuple[object, int]]:
        erased = [
            (store, await store.forget(user)) for store in stores
        ]  # the log last: what is being sent writes to it
        self._parts.fan_out.command(FORGOTTEN, "", mark(user))
        return erased
