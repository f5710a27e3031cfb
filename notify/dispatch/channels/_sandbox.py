"""`Sandbox`: keeps a staging system from sending to real users."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace

from notify import UsageError

from .._channel import Channel, Job
from .._outcomes import Accepted, Outcome
from ._wrapper import ChannelWrapper

_logger = logging.getLogger("notify")


class Sandbox(ChannelWrapper):
    """Sends only to the addresses that are allowed. Every other message is logged, and counts as accepted.

    Args:
        channel: sends the messages that are allowed.
        allow: addresses, or user ids for a channel without endpoints; or a function from a job to a bool.
        redirect_to: an address to which all other messages are sent; None: they are not sent.

    Raises:
        UsageError: `allow` is a single str, or `redirect_to` is given for a channel without endpoints.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        allow: Collection[str] | Callable[[Job], bool] = (),
        redirect_to: str | None = None,
    ) -> None:
        super().__init__([channel])
        if isinstance(allow, str):
            raise UsageError("allow must be a collection of addresses, or a function, not a str")
        if redirect_to is not None and not self.has_endpoints:
            raise UsageError("redirect_to needs a channel with endpoints")
        self._allow = allow
        self._redirect_to = redirect_to

    async def send(self, job: Job) -> Outcome:
        """See `Channel.send`."""
        if self._is_allowed(job):
            return await self._channels[0].send(job)
        if self._redirect_to is not None and job.endpoint is not None:
            return await self._channels[0].send(replace(job, endpoint=replace(job.endpoint, address=self._redirect_to)))
        _logger.info("not sent by the sandbox: %s of type %s over %s", job.id, job.type, job.channel)
        return Accepted("sandbox")

    def _is_allowed(self, job: Job) -> bool:
        if callable(self._allow):
            return self._allow(job)
        return (job.user if job.endpoint is None else job.endpoint.address) in self._allow
