"""What all methods of an inbox use: the notifier, its store, the hooks, and the tasks that the inbox owns.

`Inbox` is in four modules, each a class that extends the one before: `_base`, `_subscribing` (streams), `_marking`
(changes), `_inbox` (sending and reading).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

import anyio

from notify import BackendUnavailableError, Event, Notifier, NotifyError, PushUncertainError, UsageError
from notify.adapters import Background

from ._events import change_event, check_retention
from ._hooks import Hook, InboxHooks
from ._retention import Sweeper
from .abc import Change, InboxRetention, InboxStore, ItemQuery

DEFAULT_RETENTION: Final = InboxRetention()

_GRACE: Final = 1.0
"""Seconds for which `aclose` waits for the tasks of an inbox."""

_retentions: WeakKeyDictionary[InboxStore, InboxRetention] = WeakKeyDictionary()
"""The retention that the first Inbox on each store object has set: a second one with another is an error."""


class InboxBase:
    """The parts of an inbox, and its end."""

    def __init__(
        self, notifier: Notifier[Any], *, retention: InboxRetention = DEFAULT_RETENTION, hooks: Iterable[Hook] = ()
    ) -> None:
        check_retention(retention)
        self._notifier = notifier
        self._store = _inbox_store(notifier)
        self._name = type(self._store).__name__
        self._hooks = InboxHooks(hooks)
        claimed = _retentions.get(self._store, retention)
        if claimed != retention:
            raise UsageError(
                f"another Inbox on this {self._name} has {claimed}, and a store has one retention: "
                f"give this one the same, not {retention}"
            )
        _retentions[self._store] = self._store.inbox_retention = retention
        self._background = Background("inbox")
        self._sweeper = Sweeper(self._store)

    @property
    def notifier(self) -> Notifier[Any]:
        """The notifier that the inbox was given."""
        return self._notifier

    @property
    def retention(self) -> InboxRetention:
        """How many items each inbox of the store keeps, and for how long."""
        return self._store.inbox_retention

    @property
    def hook_failures(self) -> int:
        """How many calls of hooks have failed."""
        return self._hooks.failures

    def add_hook(self, hook: Hook) -> None:
        """Add a hook, which is called after those that the inbox already has.

        A `notify.dispatch.Dispatcher` with this inbox adds one, to cancel the fallbacks for items that are read. It is
        removed when the dispatcher is gone.

        Raises:
            UsageError: it has none of the methods of a hook.
        """
        self._hooks.add(hook)

    def remove_hook(self, hook: Hook) -> None:
        """Remove a hook: later calls of the inbox do not call it. A hook that the inbox does not have is ignored."""
        self._hooks.remove(hook)

    # -- changes -------------------------------------------------------------------------------------------------

    async def _change(self, user: str, state: str, payload: dict[str, Any]) -> Change:
        """Apply a change, announce it and call the hooks.

        Cancellation: the change is applied and announced or neither; the hooks may not be called.
        """
        draft = change_event(user, state, payload)
        if payload.get("ids") == []:
            with self._reading():
                return Change((), (await self._store.items(draft.user, ItemQuery(limit=0))).counts, None)
        change = await self._background.run(self._apply, draft)
        if change.event is not None and self._hooks.changed:
            await self._hooks.after_change(draft.user, change)
        return change

    async def _apply(self, draft: Event) -> Change:
        """Store a change and announce it; in a task, so that a cancelled caller leaves no change unannounced."""
        try:
            change = await self._store.change(draft)
        except NotifyError:
            raise
        except Exception as error:
            message = f"{self._name} failed while changing an inbox: {error!r}"
            raise PushUncertainError(message, backend=self._name) from error
        if change.event is not None:
            self._notifier.announce(change.event)
        return change

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what a store raises during a read, if it is not an error of the library, into one."""
        try:
            yield
        except NotifyError:
            raise
        except Exception as error:
            message = f"{self._name} failed while reading an inbox: {error!r}"
            raise BackendUnavailableError(message, backend=self._name) from error

    # -- lifecycle -----------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End the tasks of the inbox; the notifier and its own streams are not affected. Idempotent.

        Later changes, and streams that are opened later, raise ClosedError; sending and reading still work.

        Cancellation: takes effect only after everything is released, about a second later at most.
        """
        with anyio.CancelScope(shield=True):
            await self._background.aclose(_GRACE)

    async def __aenter__(self) -> Self:
        """Begin to remove due items in the background, in one process at a time."""
        self._background.start(self._sweeper.run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()


def _inbox_store(notifier: Notifier[Any]) -> InboxStore:
    """Return the store of a notifier.

    Raises:
        UsageError: it does not keep inboxes.
    """
    given: object = notifier  # untyped code may pass anything
    if not isinstance(given, Notifier):
        raise UsageError(f"Inbox expects a Notifier, got {given!r:.80}: for example Inbox(Notifier(MemoryStore()))")
    store = notifier.store
    if isinstance(store, InboxStore):
        return store
    has = "a notifier without a store" if store is None else type(store).__name__
    raise UsageError(
        f"Inbox needs a store that keeps inboxes (notify.inbox.InboxStore), as MemoryStore, SQLiteStreamStore, "
        f"RedisStreamStore and PostgresStreamStore do, not {has}"
    )
