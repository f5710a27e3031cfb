"""Hooks: objects of the application that are called when an item is sent and when an inbox is changed.

A hook that fails, or that does not return within `TIMEOUT`, never prevents a send or a change: the failure is logged
and counted, and the hook is skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from inspect import isawaitable
from typing import Any, Final, Protocol, TypeAlias

import anyio

from notify import Event, InvalidEventError, UsageError
from notify.adapters import OutageLog, without_stray_cancellation
from notify.event import check_pushed_type

from .abc import ITEM, Change

logger = logging.getLogger("notify")

TIMEOUT: Final = 10.0
"""Seconds that one call of an async hook may take. It delays only the send or the change that it is called for."""


class BeforeSend(Protocol):
    """A hook that may change or withhold an item."""

    def before_send(self, draft: Event) -> Event | Awaitable[Event | None] | None:
        """Return what is sent instead of the draft, to the same user; the draft itself; or None: nothing is sent."""


class AfterSend(Protocol):
    """A hook that learns of items that were sent."""

    def after_send(self, event: Event) -> Awaitable[None] | None:
        """React to an item that was stored. If a `key` is repeated, this is called again, with the first event."""


class AfterChange(Protocol):
    """A hook that learns of changes."""

    def after_change(self, user: str, change: Change) -> Awaitable[None] | None:
        """React to a change that was stored; not called for one that changed nothing."""


Hook: TypeAlias = BeforeSend | AfterSend | AfterChange
"""An object with at least one of the three methods, each plain or async."""

_NAMES: Final = ("before_send", "after_send", "after_change")


class InboxHooks:
    """The hooks of one inbox, which are called in the order in which they were given.

    Args:
        hooks: objects with at least one of the methods of a hook.

    Attributes:
        before: the `before_send` methods, in order; empty if there are none.
        after: the `after_send` methods.
        changed: the `after_change` methods.
        failures: how many calls have failed.

    Raises:
        UsageError: a hook has none of the methods.
    """

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self.failures = 0
        self.before, self.after, self.changed = [list[_Call]() for _ in _NAMES]
        self._removed: list[Hook] = []
        for hook in hooks:
            self.add(hook)

    def add(self, hook: Hook) -> None:
        """Add a hook, which is called after the others.

        Raises:
            UsageError: it has none of the methods.
        """
        calls = [(name, getattr(hook, name, None)) for name in _NAMES]
        if isinstance(hook, type) or not any(callable(function) for _, function in calls):
            raise UsageError(f"a hook is an object with {', '.join(_NAMES)} or some of them, not {hook!r:.80}")
        self._drop_removed()
        for (name, function), place in zip(calls, (self.before, self.after, self.changed), strict=True):
            if callable(function):
                place.append(_Call(hook, name, function))

    def remove(self, hook: Hook) -> None:
        """Remove a hook, from the next call on; a hook that is not there is ignored.

        The garbage collector may call this in the middle of any other method, or in another thread, so it only appends.
        """
        self._removed.append(hook)

    def _drop_removed(self) -> None:
        """Drop the hooks that have been removed. Calls that are running still iterate over the old lists."""
        while self._removed:
            hook = self._removed.pop()
            self.before, self.after, self.changed = (
                [call for call in place if call.hook is not hook] for place in (self.before, self.after, self.changed)
            )

    async def before_send(self, drafts: Iterable[Event]) -> list[Event]:
        """Pass the drafts of one call through the hooks; return what is to be sent: not what a hook withheld."""
        self._drop_removed()
        late: set[_Call] = set()
        sent = []
        for draft in drafts:
            changed = await self._changed(draft, late)
            if changed is not None:
                sent.append(changed)
        return sent

    async def _changed(self, draft: Event, late: set[_Call]) -> Event | None:
        for call in self.before:
            answer = await self._run(call, late, draft)
            if answer is None:
                return None
            if answer is not _FAILED:
                draft = answer
        return draft

    async def after_send(self, events: Iterable[Event]) -> None:
        """Call the hooks for the items that one call has sent."""
        self._drop_removed()
        late: set[_Call] = set()
        for event in events:
            for call in self.after:
                await self._run(call, late, event)

    async def after_change(self, user: str, change: Change) -> None:
        """Call the hooks for a change that was stored."""
        self._drop_removed()
        for call in self.changed:
            await self._run(call, set(), user, change)

    async def _run(self, call: _Call, late: set[_Call], *args: Any) -> Any:
        """Call a hook once.

        Args:
            call: the hook.
            late: hooks that did not return in time for an earlier item of the same `send_many`. They are skipped,
                since otherwise a thousand items would wait a thousand times as long.
            args: the arguments of the hook.
        """
        if call in late:
            self.failures += 1
            return _FAILED
        try:
            answer = await without_stray_cancellation(_answer, call, late, *args)
            if answer is not None and call.name == "before_send":  # not `in self.before`: it may have been removed
                answer = _checked(answer, *args)
        except Exception as error:
            self.failures += 1
            call.outage.failed(repr(error))
            return _FAILED
        call.outage.recovered()
        return answer


async def _answer(call: _Call, late: set[_Call], *args: Any) -> Any:
    answer = call.function(*args)
    if isawaitable(answer):
        with anyio.move_on_after(TIMEOUT) as scope:
            try:
                answer = await answer
            finally:
                if scope.cancel_called:  # the hook may have caught that, to return or to raise something of its own
                    late.add(call)
        if call in late:
            raise TimeoutError(f"it has not returned within {TIMEOUT:g} s")
    return answer


def _checked(answer: Any, draft: Event) -> Event:
    """Return the event that `before_send` returned, made an item if it is not one: a hook need not know `meta`.

    Raises:
        InvalidEventError: it is not an event for the same user, or its type is reserved: it would change an inbox.
    """
    if not isinstance(answer, Event) or answer.id or answer.user != draft.user:
        raise InvalidEventError(f"returned {answer!r:.150}, not an event without an id for the same user")
    changed: Event = answer
    check_pushed_type(changed.type)
    if ITEM not in changed.meta:
        changed = changed.with_meta({**changed.meta, ITEM: draft.meta[ITEM]})
    return changed


_FAILED: Final = object()


class _Call:
    """One method of one hook, and whether it is failing."""

    def __init__(self, hook: Hook, name: str, function: Callable[..., Any]) -> None:
        self.hook, self.name, self.function = hook, name, function
        called = f"{type(hook).__name__}.{name}"
        self.outage = OutageLog(
            logger,
            f"the inbox hook {called} failed, and the inbox goes on without it",
            f"the inbox hook {called} works again",
        )
