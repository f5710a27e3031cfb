"""A router over Redis pub/sub: one channel for each instance, and one for all of them."""

from __future__ import annotations

import logging
import secrets
from types import TracebackType
from typing import ClassVar, Final, Self

import anyio
from anyio.abc import TaskStatus
from redis.exceptions import ResponseError

from notify import Event, Guarantees, RoutingInfo
from notify.abc import Deliver
from notify.errors import NotifyError, UsageError

from ._client import RedisClient
from ._connection import RedisUrl, pack
from ._errors import FAILURES, unavailable
from ._listen import Subscriptions
from ._names import RedisNames, partition_of

logger = logging.getLogger("notify.redis")

_ALL_INSTANCES: Final = 0
"""The partition of the channel of all instances."""


class RedisRouter:
    """Sends events to other instances by pub/sub. asyncio.

    Delivery is best effort: what is published while an instance reconnects is lost, and its streams find it in the log.

    Args:
        url: as for `RedisStore`.
        prefix: begins the name of every channel.
        probe_interval: seconds between two probes; after two intervals without one the connection is replaced.
        timeout: seconds that one `route` may take.

    Raises:
        UsageError: an argument is unacceptable.
    """

    guarantees: ClassVar = Guarantees(shared=True)

    def __init__(
        self, url: RedisUrl, *, prefix: str = "notify", probe_interval: float = 5.0, timeout: float = 4.0
    ) -> None:
        for name, value in {"probe_interval": probe_interval, "timeout": timeout}.items():
            if not value > 0:
                raise UsageError(f"{name} must be greater than 0, not {value!r}")
        self._client = RedisClient(url, type(self).__name__)
        self._names = RedisNames(prefix, self._client.endpoint.database)
        self._probe_interval = probe_interval
        self._timeout = timeout

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        """See `notify.abc.Router.route`."""
        channel, partition = self._all_instances() if to is None else self._instance(to.instance_id)
        command = pack(self._client.publish, channel, event.to_bytes())
        self._client.check_open()
        try:
            (reply,) = await self._client.ask([(partition, command)], self._timeout)
        except FAILURES as error:
            raise unavailable(error, self._client.name) from error
        if isinstance(reply, ResponseError):
            raise unavailable(reply, self._client.name) from reply

    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        """See `notify.abc.ReceivingRouter.receive`; reconnects by itself after a failure (see `_listen`)."""
        self._client.check_open()

        def on_message(_channel: bytes, message: bytes) -> None:
            try:
                deliver(Event.from_bytes(message))
            except NotifyError as error:
                logger.warning("a routed event cannot be delivered: %s", error)

        name = secrets.token_hex(6)
        subscriptions = Subscriptions(
            self._client,
            probe=lambda partition: self._names.named_channel(partition, "c", name),
            probe_interval=self._probe_interval,
            on_message=on_message,
            on_gap=lambda _channel: None,
        )
        channels = [self._all_instances(), self._instance(instance_id)]
        try:
            for channel, partition in channels:
                subscriptions.open(channel, partition)
            while not all(subscriptions.receives(channel) for channel, _ in channels):
                for channel, _ in channels:
                    await subscriptions.ready(channel, 1.0)
                await anyio.sleep(0.01)
            task_status.started()
            await anyio.sleep_forever()
        finally:
            subscriptions.stop()

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        """Return the router; it connects when first needed."""
        self._client.check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    def _instance(self, instance_id: str) -> tuple[bytes, int]:
        partition = partition_of(instance_id)
        return self._names.named_channel(partition, "i", instance_id), partition

    def _all_instances(self) -> tuple[bytes, int]:
        return self._names.named_channel(_ALL_INSTANCES, "all"), _ALL_INSTANCES
