"""Counts of frequency caps, and gates of providers, in Redis.

A bucket is a sorted set of notifications, not a counter: asking again for the same one (a second device, a retry, a
delivery that was claimed again) counts once, and each leaves at its own time. One call of a script checks all windows
and counts in all of them; their keys have the tag of the user, so they are on one node of a cluster.

Deliveries are not kept here: a Redis that fails over may forget what was begun, and then it would be sent again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Final, Literal, Self

from redis.exceptions import ResponseError

from notify import Guarantees
from notify.dispatch.abc import CapWindow, checked, instant, millis
from notify.errors import PushRejectedError, PushUncertainError, UsageError

from ._client import RedisClient
from ._connection import RedisUrl, pack
from ._errors import (
    FAILURES,
    BugError,
    Disposition,
    NoAnswerError,
    RefusedError,
    caused,
    disposition_of,
    lacks_right,
    phrase,
    reason,
    unavailable,
)
from ._names import RedisNames
from ._scripts import CAPS, GATE, UNCAP, Script

SLACK: Final = b"3600000"
"""Milliseconds for which a key is kept beyond its time, since clocks differ."""

_GATES: Final = 0
"""The partition of the gates."""


@checked
class RedisCaps:
    """Keeps counts for frequency caps, and closed gates, for any number of processes. asyncio.

    Args:
        url: as for `RedisStore`.
        prefix: what every key begins with.
        timeout: seconds that one call may take.

    Raises:
        UsageError: an argument is unacceptable.
    """

    guarantees: ClassVar = Guarantees(shared=True)

    def __init__(self, url: RedisUrl, *, prefix: str = "notify", timeout: float = 4.0) -> None:
        if not timeout > 0:
            raise UsageError(f"timeout must be greater than 0 seconds, got {timeout!r}")
        self._client = RedisClient(url, type(self).__name__)
        self._keys = RedisNames(prefix)
        self._gates = self._keys.named(_GATES, "gates")
        self._timeout = timeout

    async def admit(
        self,
        notification: str,
        user: str,
        windows: Sequence[CapWindow],
        now: datetime,
        *,
        mode: Literal["check", "record"] = "check",
    ) -> int:
        """See `notify.dispatch.abc.CapStore.admit`."""
        self._client.check_open()
        if not windows:
            raise UsageError("admit() needs at least one window: without a cap there is nothing to ask")
        limits = [piece for each in windows for piece in (each.limit, millis(each.expires_at))]
        return await self._count(notification, user, windows, mode, millis(now), *limits)

    async def refund(self, notification: str, user: str, windows: Sequence[CapWindow]) -> None:
        """See `notify.dispatch.abc.CapStore.refund`."""
        await self._count(notification, user, windows, "refund", 0)

    async def close_gate(self, gate: str, until: datetime) -> None:
        """See `notify.dispatch.abc.GateStore.close_gate`."""
        await self._write(_GATES, _call(GATE, [self._gates], gate.encode(), b"%d" % millis(until), SLACK))

    async def gates(self, now: datetime) -> Mapping[str, datetime]:
        """See `notify.dispatch.abc.GateStore.gates`."""
        command = pack(b"ZRANGEBYSCORE", self._gates, b"(%d" % millis(now), b"+inf", b"WITHSCORES")
        try:
            (reply,) = await self._client.ask([(_GATES, command)], self._timeout)
            if isinstance(reply, ResponseError):
                raise NoAnswerError(f"the server refuses: {phrase(reply)}") from reply
        except FAILURES as error:
            raise unavailable(error, self._client.name) from error
        return {gate.decode(): instant(int(until)) for gate, until in zip(reply[::2], reply[1::2], strict=True)}

    async def forget(self, user: str) -> int:
        """See `notify.abc.Forget.forget`; there are no deliveries here, so it returns 0."""
        self._client.check_open()
        await self._write(self._keys.of_user(user)[3], _call(UNCAP, [self._keys.caps(user)]))
        return 0

    async def aclose(self) -> None:
        """Close; every method raises ClosedError from now on. Idempotent."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        """Return the store; it connects when first needed."""
        self._client.check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    async def _count(
        self, notification: str, user: str, windows: Sequence[CapWindow], mode: str, now: int, *limits: int
    ) -> int:
        index, verdict = self._keys.caps(user), self._keys.verdict(user, notification)
        keys = [index, verdict, *(self._keys.cap(user, each.bucket) for each in windows)]
        numbers = [b"%d" % number for number in limits]
        command = _call(CAPS, keys, mode.encode(), notification.encode(), b"%d" % now, SLACK, *numbers)
        return int(await self._write(self._keys.of_user(user)[3], command))

    async def _write(self, partition: int, command: bytes) -> Any:
        """Send a command that changes something, and may be executed twice.

        Raises:
            PushRejectedError: the server refused it, for example because the login lacks a right.
            PushUncertainError: not answered in time; an attempt may have been executed.
        """
        try:
            (reply,) = await self._client.ask([(partition, command)], self._timeout)
        except RefusedError as error:
            kind = PushUncertainError if isinstance(error, BugError) else PushRejectedError
            raise caused(kind(f"Redis refused to count: {reason(error)}", backend=self._client.name), error) from error
        except FAILURES as error:
            message = f"Redis did not answer, and may have counted it: {reason(error)}"
            raise caused(PushUncertainError(message, backend=self._client.name), error) from error
        if not isinstance(reply, ResponseError):
            return reply
        is_uncertain = disposition_of(reply) is Disposition.UNKNOWN and not lacks_right(reply)
        kind = PushUncertainError if is_uncertain else PushRejectedError
        raise kind(f"Redis refused to count: {phrase(reply)}", backend=self._client.name) from reply


def _call(script: Script, keys: Sequence[bytes], *arguments: bytes) -> bytes:
    return pack(b"EVALSHA", script.sha, b"%d" % len(keys), *keys, *arguments)
