"""Functions of the application that run when an item is sent and when an inbox is changed.

A hook never prevents what the application has asked for by failing: the failure is logged and counted, and the work
goes on without it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from inspect import isawaitable
from typing import Any, Final, Protocol, TypeAlias

from notify import Event, UsageError
from notify.adapters import OutageLog

from .abc import ITEM, Change

logger = logging.getLogger("notify")


class BeforeSend(Protocol):
    """A hook that may change or withhold an item."""

    def before_send(self, draft: Event) -> Event | Awaitable[Event | None] | None:
        """Return what is sent in place of the draft, for the same user; None: nothing is sent."""


class AfterSend(Protocol):
    """A hook that learns of items that were sent."""

    def after_send(self, event: Event) -> Awaitable[None] | None:
        """React to an item that is stored. A repeated idempotency key calls it again, with the first event."""


class AfterChange(Protocol):
    """A hook that learns of changes."""

    def after_change(self, user: str, change: Change) -> Awaitable[None] | None:
        """React to a change of an inbox that was stored."""


Hook: TypeAlias = BeforeSend | AfterSend | AfterChange
"""An object with at least one of the three methods, each plain or async."""

_NAMES: Final = ("before_send", "after_send", "after_change")


class InboxHooks:
    """The hooks of one inbox, which are called in the order in which they were given.

    Args:
        hooks: objects with at least one of the methods of a hook.

    Attributes:
        before: whether any wants to know before an item is sent; and so on.
        after: likewise.
        changed: likewise.
        failures: calls that failed.

    Raises:
        UsageError: one has no such method.
    """

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self.failures = 0
        self.before, self.after, self.changed = [list[_Call]() for _ in _NAMES]
        for hook in hooks:
            calls = [(name, getattr(hook, name, None)) for name in _NAMES]
            if isinstance(hook, type) or not any(callable(function) for _, function in calls):
                raise UsageError(f"a hook is an object with {', '.join(_NAMES)} or some of them, not {hook!r:.80}")
            for (name, function), place in zip(calls, (self.before, self.after, self.changed), strict=True):
                if callable(function):
                    place.append(_Call(f"{type(hook).__name__}.{name}", function))

    async def before_send(self, draft: Event) -> Event | None:
        """Return what is sent in place of this draft; None: nothing is sent."""
        for call in self.before:
            answer = await self._run(call, draft)
            if answer is None:
                return None
            if answer is not _FAILED:
                draft = answer
        return draft

    async def after_send(self, event: Event) -> None:
        """Pass on an item that was sent."""
        for call in self.after:
            await self._run(call, event)

    async def after_change(self, user: str, change: Change) -> None:
        """Pass on a change that was stored."""
        for call in self.changed:
            await self._run(call, user, change)

    async def _run(self, call: _Call, *args: Any) -> Any:
        try:
            answer = call.function(*args)
            if isawaitable(answer):
                answer = await answer
            if answer is not None and call in self.before:
                answer = _checked(answer, *args)
        except Exception as error:
            self.failures += 1
            call.outage.failed(repr(error))
            return _FAILED
        call.outage.recovered()
        return answer


def _checked(answer: Any, draft: Event) -> Event:
    """Return what a hook has returned in place of a draft, as an item.

    Raises:
        ValueError: it is not an event for the same user.
    """
    if not isinstance(answer, Event) or answer.id or answer.user != draft.user:
        raise ValueError(f"returned {answer!r:.150}, not an event without an id for the same user")
    changed: Event = answer
    if ITEM not in changed.meta:
        changed = changed.with_meta({**changed.meta, ITEM: draft.meta[ITEM]})
    return changed


_FAILED: Final = object()


class _Call:
    """One method of one hook, and whether it fails at present."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.function = function
        self.outage = OutageLog(
            logger,
            f"the inbox hook {name} failed, and the inbox goes on without it",
            f"the inbox hook {name} works again",
        )
