"""Optional abilities of endpoint stores, beyond `EndpointStore`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ._records import Endpoint


@runtime_checkable
class SessionEndpoints(Protocol):
    """Finds the endpoints that were registered before login. The errors are those of `DispatchStore`."""

    @abstractmethod
    async def session_endpoints(self, session: str) -> Sequence[Endpoint]:
        """Return the endpoints in use that belong to a session and to no user, sorted by channel, then id."""
