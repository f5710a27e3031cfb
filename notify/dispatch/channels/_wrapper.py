"""What wrappers share: they are channels, too, so they nest."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from notify import UsageError

from .._channel import Channel, Gated
from ..abc import Endpoint


class ChannelWrapper:
    """A channel over other channels, which it closes with itself.

    Args:
        channels: at least one; all of them have endpoints, or none has.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        who = type(self).__name__
        if not channels:
            raise UsageError(f"{who} needs at least one channel")
        for channel in channels:
            if not isinstance(channel, Channel):
                raise UsageError(f"{who} takes channels, not {type(channel).__name__}")
        if len({channel.has_endpoints for channel in channels}) > 1:
            raise UsageError(f"the channels of {who} must all have endpoints, or none of them")
        self._channels = tuple(channels)
        self.has_endpoints: bool = channels[0].has_endpoints
        self.retries = next((found for channel in channels if (found := getattr(channel, "retries", None))), None)
        self.deduplicates: bool = all(channel.deduplicates for channel in channels)

    def gate(self, endpoint: Endpoint) -> str:
        """See `Gated.gate`: what the first of the channels says that is one."""
        return next((channel.gate(endpoint) for channel in self._channels if isinstance(channel, Gated)), "")

    async def aclose(self) -> None:
        """Close the channels that can be closed, each of them even if another one fails."""
        errors = []
        for channel in self._channels:
            close: Any = getattr(channel, "aclose", None)
            try:
                if close is not None:
                    await close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    async def __aenter__(self) -> Self:
        """Return the channel."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._channels))})"
