"""Iterating over the names of followers and of followed topics, which a store returns in pages."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Self

from .abc import Follow

PAGE: Final = 500
"""How many names are read at once."""


class FollowNames:
    """An async iterator over names, sorted. It holds nothing open between two steps, so it need not be closed.

    Args:
        read: returns the follows after a name: `InboxStore.edges` with a user or a topic.
        name: returns the name to yield for a follow: its topic or its user.
        reading: the context manager that translates the errors of a read.
    """

    def __init__(
        self,
        read: Callable[..., Awaitable[Sequence[Follow]]],
        name: Callable[[Follow], str],
        reading: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._read = read
        self._name = name
        self._reading = reading
        self._page: deque[str] = deque()
        self._after = ""
        self._ended = False

    def __aiter__(self) -> Self:
        """Return the iterator."""
        return self

    async def __anext__(self) -> str:
        """Return the next name.

        Raises:
            BackendUnavailableError: the store is not reachable; the next call tries this name again.

        Cancellation: no name is lost.
        Cost: one round trip for each `PAGE` names.
        """
        if not self._page and not self._ended:
            with self._reading():
                edges = await self._read(after=self._after, limit=PAGE)
            self._page.extend(map(self._name, edges))
            self._ended = len(edges) < PAGE
        if not self._page:
            raise StopAsyncIteration
        self._after = self._page.popleft()
        return self._after
