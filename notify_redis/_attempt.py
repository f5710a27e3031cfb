"""One attempt to append pushes: the command that is sent, and what its replies mean.

First attempts (`_save`) and later ones (`_retry`) are built and settled here, so both follow the same rules:

1. A push keeps its nonce and its deadline through all its attempts. The script refuses an attempt that reaches the
   server after the deadline, and finds the entry that another attempt with this nonce has appended. So an attempt whose
   reply was lost may be repeated, in any order (a frozen server executes late attempts last), and nothing is
   executed after the deadline.
2. The deadline travels in the server's time, because the clocks of two machines differ. `PipelinedConnection.ahead`
   converts it, and errs towards an earlier deadline.
3. Pushes to one user take effect in the order of the calls. So a push is not sent while an earlier one to its user, in
   another call of the script, has no outcome: that one may have to be repeated. `PushAttempts.held` counts these.
4. `PendingPush.unknown_since` is set by the first attempt that may have been executed. A push that fails without it was
   certainly not stored (PushRejectedError); with it, the outcome is unknown (PushUncertainError).
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, Final, TypeAlias

from redis.exceptions import ResponseError

from notify import Event
from notify.adapters import OutageLog, Retention
from notify.errors import NotifyError, PushRejectedError, PushUncertainError

from ._client import RedisClient
from ._connection import bulks, pack
from ._errors import Disposition, NoAnswerError, NotSentError, RefusedError, disposition_of, phrase, rejected, uncertain
from ._names import RedisNames
from ._pipeline import MIN_TIMEOUT, PipelinedConnection
from ._record import decode, encode
from ._scripts import PUSH

logger = logging.getLogger("notify.redis")

EVENTS_PER_CALL: Final = 32
"""Events appended by one call of the script: half a millisecond in which the server does nothing else."""

ATTEMPT_TIMEOUT: Final = 2.0
"""Seconds after which a reply is given up and the push is tried again."""

FAIL_FAST_AFTER: Final = 1.0
"""Seconds without a connection after which pushes to that master are rejected at once, so that they do not pile up."""

REPLICA_TIMEOUT: Final = 1.0
"""Seconds for `min_replicas` to confirm."""

HOUR_MS: Final = 3_600_000

_CACHED_NAMES: Final = 65_536

Outcome: TypeAlias = Event | NotifyError
Done: TypeAlias = Callable[[Outcome], None]


class PendingPush:
    """One event that has no outcome yet.

    Attributes:
        partition: of the event's user.
        names: the keys of the script for this event, encoded as bulk strings.
        arguments: the arguments of the script for this event, likewise.
        done: called once, with the outcome.
        announced: the stored event, if its announcement arrived before the reply.
        is_held: whether it was sent, or handed to `_retry`: later pushes to its user wait until it has its outcome.
        unknown_since: the server's time in milliseconds before the first attempt that may have been executed without a
            reply; None: there was no such attempt.
        failure: why the latest attempt failed.
    """

    __slots__ = (
        "announced",
        "arguments",
        "deadline",
        "done",
        "event",
        "failure",
        "is_held",
        "names",
        "nonce",
        "outcome",
        "partition",
        "unknown_since",
    )

    def __init__(self, event: Event, nonce: bytes, names: bytes, partition: int, deadline: float, done: Done) -> None:
        self.event = event
        self.nonce = nonce
        self.names = names
        self.partition = partition
        self.deadline = deadline
        self.done = done
        record = encode(event)
        keyed = b"$0\r\n" if event.key is None else b"$1\r\n1"
        self.arguments = b"$%d\r\n%b\r\n%b\r\n$%d\r\n%b\r\n" % (len(nonce), nonce, keyed, len(record), record)
        self.unknown_since: float | None = None
        self.failure: Exception | None = None
        self.announced: Event | None = None
        self.is_held = False
        self.outcome: Outcome | None = None


class PushCommands:
    """Encodes calls of the push script. The parts that never change are encoded once.

    Args:
        names: of keys.
        retention: what the script trims and expires.
        exact: trim to exactly `max_len`.
        inline: bytes of a record up to which the announcement carries it.
        publish: the command that announces.
    """

    def __init__(self, names: RedisNames, retention: Retention, *, exact: bool, inline: int, publish: bytes) -> None:
        self._names = names
        age = 0 if retention.max_age is None else max(1, int(retention.max_age * 1000))
        ttl = age and max(age, HOUR_MS)
        window = max(1, int(retention.key_window * 1000))
        numbers = [b"%d" % number for number in (ttl, age, window, inline)]
        announce = (publish, names.channel_suffix)
        self._fixed = bulks(b"%d" % retention.max_len, b"=" if exact else b"~", *numbers, *announce)
        self._of_user: Callable[[str], tuple[bytes, int]] = lru_cache(_CACHED_NAMES)(self._encode_user)

    def names_of(self, event: Event) -> tuple[bytes, int]:
        """Return the script's four keys for an event, encoded, and the partition."""
        if event.key is None:
            return self._of_user(event.user)
        stream, index, retries, partition = self._names.of_user(event.user)
        return bulks(stream, index, retries, self._names.idempotency(event.user, event.key)), partition

    def _encode_user(self, user: str) -> tuple[bytes, int]:
        stream, index, retries, partition = self._names.of_user(user)
        return bulks(stream, index, retries, stream), partition

    def encode(self, pushes: Sequence[PendingPush], ahead: float) -> bytes:
        """Return one call of the script.

        Args:
            pushes: of one hash slot, in a cluster.
            ahead: the server's clock minus ours, in milliseconds.
        """
        deadline = b"%d" % (min([push.deadline for push in pushes]) * 1000 + ahead)
        unknown = [push.unknown_since for push in pushes if push.unknown_since is not None]
        since = b"%d" % min(unknown) if unknown else b""
        return b"".join(
            [
                _head(len(pushes)),
                *[push.names for push in pushes],
                b"$%d\r\n%b\r\n" % (len(deadline), deadline),
                self._fixed,
                b"$%d\r\n%b\r\n" % (len(since), since),
                *[push.arguments for push in pushes],
            ]
        )


@lru_cache
def _head(events: int) -> bytes:
    """Return the beginning of a call for this number of events."""
    return b"*%d\r\n%b" % (13 + 7 * events, bulks(b"EVALSHA", PUSH.sha, b"%d" % (4 * events)))


class PushAttempt:
    """One write to one master: several calls of the script.

    Attributes:
        chunks: the pushes of each call.
        commands: the calls, encoded; where replicas must confirm, a WAIT after them.
        sent_at: an upper bound of the server's time when it was sent, in milliseconds.
    """

    __slots__ = ("chunks", "commands", "connection", "pushes", "sent_at", "timeout")

    def __init__(
        self,
        connection: PipelinedConnection,
        pushes: Sequence[PendingPush],
        chunks: Sequence[Sequence[PendingPush]],
        commands: Sequence[bytes],
        timeout: float,
    ) -> None:
        self.connection = connection
        self.pushes = pushes
        self.chunks = chunks
        self.commands = commands
        self.timeout = timeout
        self.sent_at = time.monotonic() * 1000 + connection.ahead


class PushAttempts:
    """Builds attempts, settles them, and resolves every push one time.

    Args:
        client: how pushes are divided among the masters.
        commands: encodes the calls.
        min_replicas: replicas that must confirm.
        timeout: seconds from a call of `save` until a push without an outcome has failed.

    Attributes:
        pending: the pushes without an outcome, by nonce.
        held: for each user, how many pushes were sent, or handed to `_retry`, and have no outcome.
    """

    def __init__(self, client: RedisClient, commands: PushCommands, *, min_replicas: int, timeout: float) -> None:
        self._client = client
        self._commands = commands
        self._min_replicas = min_replicas
        self._timeout = timeout
        self._origin = secrets.token_hex(6).encode()
        self._numbers = count()
        self._announcing = OutageLog(
            logger,
            f"{client.name} stores events but may not announce them, so other processes find them by audits",
            f"{client.name} announces events again",
        )
        self.pending: dict[bytes, PendingPush] = {}
        self.held: dict[str, int] = {}

    def new_push(self, event: Event, done: Done) -> PendingPush:
        """Return a push that has a nonce and a deadline from now on."""
        nonce = b"%b%x" % (self._origin, next(self._numbers))
        names, partition = self._commands.names_of(event)
        push = PendingPush(event, nonce, names, partition, time.monotonic() + self._timeout, done)
        self.pending[nonce] = push
        return push

    def prepare(self, connection: PipelinedConnection, pushes: Sequence[PendingPush]) -> PushAttempt:
        """Return an attempt, ready to be sent over this connection."""
        chunks = self._calls(pushes)
        commands = [self._commands.encode(chunk, connection.ahead) for chunk in chunks]
        left = min([push.deadline for push in pushes]) - time.monotonic()
        if self._min_replicas:
            bound = max(1, int(min(REPLICA_TIMEOUT, left / 2) * 1000))
            commands.append(pack(b"WAIT", b"%d" % self._min_replicas, b"%d" % bound))
        return PushAttempt(connection, pushes, chunks, commands, min(left, ATTEMPT_TIMEOUT))

    def _calls(self, pushes: Sequence[PendingPush]) -> Sequence[Sequence[PendingPush]]:
        """Divide pushes into calls of the script.

        All pushes to one user are in one call, because a later call may succeed where an earlier one must be repeated.
        So the call of a user who gets more than EVENTS_PER_CALL at once is longer.
        """
        is_cluster = self._client.is_cluster
        if len(pushes) <= EVENTS_PER_CALL and not is_cluster:
            return [pushes]
        calls: list[list[PendingPush]] = []
        open_calls: dict[int, list[PendingPush]] = {}  # the latest call, of each partition in a cluster
        by_user: dict[str, list[PendingPush]] = {}
        for push in pushes:
            call = by_user.get(push.event.user)
            if call is None:
                part = push.partition if is_cluster else 0
                call = open_calls.get(part)
                if call is None or len(call) >= EVENTS_PER_CALL:
                    call = open_calls[part] = []
                    calls.append(call)
                by_user[push.event.user] = call
            call.append(push)
        return calls

    def hold(self, pushes: Iterable[PendingPush]) -> None:
        """Note that these are sent, or handed to `_retry`: later pushes to their users have to wait."""
        held = self.held
        for push in pushes:
            user = push.event.user
            push.is_held = True
            held[user] = held.get(user, 0) + 1

    # -- what the replies mean -----------------------------------------------------------------------------------

    def settle(self, attempt: PushAttempt, replies: list[Any] | Exception) -> list[PendingPush]:
        """Resolve the pushes that this attempt decided; return those that need another one."""
        if isinstance(replies, Exception):
            for push in attempt.pushes:
                push.failure = replies
                if isinstance(replies, NoAnswerError):  # pragma: no branch - else the connection has just changed
                    push.unknown_since = push.unknown_since or attempt.sent_at
            return list(attempt.pushes)
        confirmed = not self._min_replicas or (isinstance(replies[-1], int) and replies[-1] >= self._min_replicas)
        undecided: list[PendingPush] = []
        for chunk, reply in zip(attempt.chunks, replies, strict=False):  # without the reply of WAIT
            undecided += self._settle_call(attempt, chunk, reply, confirmed)
        return undecided

    def _settle_call(
        self, attempt: PushAttempt, chunk: Sequence[PendingPush], reply: Any, confirmed: bool
    ) -> list[PendingPush]:
        """Resolve the pushes that one call of the script decided; return the others."""
        if isinstance(reply, ResponseError):
            disposition = disposition_of(reply)
            for push in chunk:
                push.failure = reply
                if disposition is Disposition.UNKNOWN:
                    push.unknown_since = push.unknown_since or attempt.sent_at
                elif disposition is Disposition.GIVE_UP:
                    self._give_up(push)
            return [push for push in chunk if push.outcome is None]
        server_ms, *results = reply
        attempt.connection.calibrate(server_ms)
        if len(results) > len(chunk):
            self._announcing.failed(phrase(results.pop().decode(errors="replace")))
        elif results and self._announcing.is_failing:
            self._announcing.recovered()
        if not results:
            for push in chunk:
                push.failure = NoAnswerError("the deadline had passed when the server executed the script")
            return list(chunk)
        return [
            push for push, result in zip(chunk, results, strict=True) if not self._settle_one(push, result, confirmed)
        ]

    def _settle_one(self, push: PendingPush, result: bytes, confirmed: bool) -> bool:
        """Take the script's result for one push (see push.lua); return False where it needs another attempt."""
        if result[:1] in b"!?":
            push.failure = ResponseError(result[1:].decode(errors="replace"))
            if result[:1] == b"?":
                self.resolve(push, uncertain(push.failure, self._client.name))
            elif disposition_of(push.failure) in (Disposition.GIVE_UP, Disposition.UNKNOWN):
                self._give_up(push)
            return push.outcome is not None
        if not confirmed:
            text = f"stored, but fewer than {self._min_replicas} replicas confirmed it in time"
            self.resolve(push, PushUncertainError(text, backend=self._client.name))
            return True
        fields = result.split(b" ", 2)
        if len(fields) > 2:  # appended earlier: by an idempotency key, or by another attempt
            self.resolve(push, decode(fields[2], fields[0].decode(), fields[1].decode()))
            return True
        id_, prev = fields[0].decode(), fields[1].decode()
        stored = push.announced
        if stored is None or (stored.id, stored.prev) != (id_, prev):  # else a retry has appended it again since
            stored = push.event.stored(id_, prev)
        self.resolve(push, stored)
        return True

    # -- outcomes ------------------------------------------------------------------------------------------------

    def resolve(self, push: PendingPush, outcome: Outcome) -> None:
        """Report the outcome, once."""
        if push.outcome is None:
            push.outcome = outcome
            del self.pending[push.nonce]
            if push.is_held:
                self._release(push.event.user)
            push.done(outcome)

    def _release(self, user: str) -> None:
        count = self.held[user]
        if count > 1:
            self.held[user] = count - 1
        else:
            del self.held[user]

    def is_over(self, push: PendingPush, delay: float) -> bool:
        """Return whether a push has its outcome; it gets one if no time is left for another attempt after `delay`.

        A refusal (login, database, rights) ends it at once, unless an earlier attempt may have stored it.
        """
        is_refused = push.unknown_since is None and isinstance(push.failure, RefusedError)
        if push.outcome is None and (is_refused or time.monotonic() + delay + MIN_TIMEOUT >= push.deadline):
            self._give_up(push)
        return push.outcome is not None

    def _give_up(self, push: PendingPush) -> None:
        failure = push.failure or NoAnswerError("the store was closed")
        error = rejected if push.unknown_since is None else uncertain
        self.resolve(push, error(failure, self._client.name))

    def reject(self, pushes: Iterable[PendingPush], connection: PipelinedConnection) -> None:
        """Give up pushes that were never sent, because their master has been unreachable for too long."""
        for push in pushes:
            text = f"no connection for {connection.down_for():.1f} s: {connection.failure}"
            push.failure = push.failure or NotSentError(text)
            self._give_up(push)

    def abandon(self, pushes: Iterable[PendingPush], *, sent: bool = False) -> None:
        """Resolve pushes that will not be attempted again because the store closes."""
        for push in pushes:
            if sent or push.unknown_since is not None:
                text = "the store was closed before the reply arrived; the event may be stored"
                self.resolve(push, PushUncertainError(text, backend=self._client.name))
            else:
                text = "the store was closed; nothing was sent"
                self.resolve(push, PushRejectedError(text, backend=self._client.name))
