"""The policy for absent users: asks presence before a save only where the answer decides whether there is one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from .._runtime._stats import Counters
from .._runtime._waking import wake
from ._locator import Locator
from ._save import Locations, Save
from ._writer import as_push_error


class Gate:
    """Lets pushes through to the store, in the order of calls for each user.

    Args:
        locator: None: every push passes. Otherwise those to absent users are dropped.
        users: the users with streams open here.
        counters: where dropped pushes are counted.
        name: the store's, for errors.
    """

    def __init__(self, locator: Locator | None, users: Collection[str], counters: Counters, name: str) -> None:
        self.locator = locator
        self._users = users
        self._counters = counters
        self._name = name

    def pass_through(self, save: Save, accept: Callable[[Save], None]) -> None:
        """Accept a push, or first ask presence if that decides: fixes its place. Never waits."""
        user, locator = save.event.user, self.locator
        if locator is None or (
            user in self._users and not locator.answers_at_once and not locator.is_pending(user)
        ):  # there is nothing to decide
            save.accepted = True
            accept(save)
        else:
            locator.request(user, partial(self._located, save, accept), decides=True)

    def _located(self, save: Save, accept: Callable[[Save], None], locations: Locations) -> None:
        """Go on with a push whose presence check is answered."""
        save.locations = locations
        if self._admit(save):
            try:
                accept(save)
            except Exception as error:
                save.outcome = as_push_error(error, self._name)
        wake(save.waiter)

    async def locate(self, saves: Sequence[Save]) -> None:
        """Ask where the users of these pushes are, with one query, if that decides."""
        if self.locator is not None:
            located = await self.locator.locate_many([save.event.user for save in saves])
            for save in saves:
                if not save.accepted:
                    save.locations = None if located is None else located.get(save.event.user, ())

    def admits(self, save: Save, accept: Callable[[Save], None]) -> bool:
        """Return whether a located push may be accepted now; otherwise it follows a pending check of its user."""
        if self.locator is None:
            save.accepted = True
            return True
        if self.locator.is_pending(save.event.user):
            self.pass_through(save, accept)
            return False
        return self._admit(save)

    def _admit(self, save: Save) -> bool:
        save.accepted = True
        user, locations = save.event.user, save.locations
        if self.locator is None or locations is None or locations or user in self._users:
            return True
        self._counters.pushed_offline += 1
        save.absent = True
        return False
