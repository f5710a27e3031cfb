"""One attempt to append pushes: the command that is sent, and what its replies mean.

It is longer than other modules, because the two can only be understood together.

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
from collections.abc import Iterable, Sequence, Set
from itertools import count
from typing import Any, Final

from redis.exceptions import ResponseError

from notify import Event
from notify.adapters import OutageLog
from notify.errors import CodecError, PushRejectedError, PushUncertainError

from ._client import RedisClient
from ._commands import Done as Done
from ._commands import Outcome as Outcome
from ._commands import PendingPush as PendingPush
from ._commands import PushCommands
from ._connection import pack
from ._errors import (
    Disposition,
    NoAnswerError,
    NotSentError,
    RefusedError,
    bug,
    disposition_of,
    phrase,
    rejected,
    uncertain,
)
from ._pipeline import MIN_TIMEOUT, PipelinedConnection
from ._record import decode

logger = logging.getLogger("notify.redis")

EVENTS_PER_CALL: Final = 32
"""Events appended by one call of the script: half a millisecond in which the server does nothing else."""

ATTEMPT_TIMEOUT: Final = 2.0
"""Seconds after which a reply is given up and the push is tried again."""

REPLICA_TIMEOUT: Final = 1.0
"""Seconds for `min_replicas` to confirm."""


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

    def new_push(self, event: Event, done: Done, effect: bytes | None = None) -> PendingPush:
        """Return a push that has a nonce and a deadline from now on; `effect`: how it changes an inbox, if asked to."""
        nonce = b"%b%x" % (self._origin, next(self._numbers))
        names, partition = self._commands.names_of(event)
        push = PendingPush(event, nonce, names, partition, time.monotonic() + self._timeout, done)
        if effect is not None:
            push.effect = effect
        self.pending[nonce] = push
        return push

    def prepare(self, connection: PipelinedConnection, pushes: Sequence[PendingPush]) -> PushAttempt:
        """Return an attempt, ready to be sent over this connection."""
        effects = {push.event.user for push in pushes if push.effect is not None}
        chunks = self._calls(pushes) if not effects else self._calls_with_effects(pushes, effects)
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

    def _calls_with_effects(self, pushes: Sequence[PendingPush], users: Set[str]) -> Sequence[Sequence[PendingPush]]:
        """Divide pushes into calls of two scripts: all pushes to these users are applied to their inboxes as well."""
        others = [push for push in pushes if push.event.user not in users]
        applied = self._calls([push for push in pushes if push.event.user in users])
        return [*applied, *self._calls(others)] if others else applied

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
            self._note_refusal(results.pop().decode(errors="replace"))
        elif results and self._announcing.is_failing:
            self._announcing.recovered()
        if not results:
            for push in chunk:
                push.failure = NoAnswerError("the deadline had passed when the server executed the script")
            return list(chunk)
        return [
            push for push, result in zip(chunk, results, strict=True) if not self._settle_one(push, result, confirmed)
        ]

    def _note_refusal(self, text: str) -> None:
        """Note that the server refuses to publish, which matters where the wake stream does not carry the event."""
        if self._commands.wakes.always:
            self._commands.wakes.stop_publishing()
        elif text:
            self._announcing.failed(phrase(text))

    def _settle_one(self, push: PendingPush, result: Any, confirmed: bool) -> bool:
        """Take the script's result for one push (see push.lua); return False where it needs another attempt."""
        if result.__class__ is list:
            return self._settle_change(push, result, confirmed)
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
            try:
                self.resolve(push, decode(fields[2], fields[0].decode(), fields[1].decode()))
            except CodecError as error:
                self.resolve(push, uncertain(error, self._client.name))
            return True
        id_, prev = fields[0].decode(), fields[1].decode()
        stored = push.announced
        if stored is None or (stored.id, stored.prev) != (id_, prev):  # else a retry has appended it again since
            stored = push.event.stored(id_, prev)
        self.resolve(push, stored)
        return True

    def _settle_change(self, push: PendingPush, answer: list[Any], confirmed: bool) -> bool:
        """Take the script's answer for a change of an inbox (`_lua/effect.lua`); the draft where nothing was stored."""
        push.answer = answer
        if b" " not in answer[0]:
            self.resolve(push, push.event)
            return True
        return self._settle_one(push, answer[0], confirmed)

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
            text = f"no connection for {connection.down_for():.1f} s: {phrase(connection.cause)}"
            push.failure = push.failure or NotSentError(text)
            self._give_up(push)

    def fail(self, pushes: Iterable[PendingPush], error: Exception, *, sent: bool) -> None:
        """Give up pushes after an unexpected exception.

        Args:
            pushes: the pushes; those that have an outcome keep it.
            error: the exception.
            sent: whether the current attempt may have been executed.
        """
        failure = bug(error, self._client.name)
        for push in pushes:
            push.failure = failure
            if sent:
                push.unknown_since = push.unknown_since or 0.0
            self._give_up(push)

    def give_up(self, pushes: Iterable[PendingPush]) -> None:
        """Resolve pushes by their latest failure."""
        for push in pushes:
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
