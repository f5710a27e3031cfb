"""Pure: rules that every store of deliveries follows, written once. `notify.dispatch.abc` exports them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from notify.errors import UsageError

from ._records import Delivery, DigestJoin, Move, RecipientRecord, State, Submission

_NUL: Final = re.compile("\0")
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")

MAX_NAME: Final = 1024
"""The most bytes of a name in UTF-8. Stores index names, at most two of them in one index."""

_LARGEST: Final = 2**31 - 1

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

MILLISECOND: Final = timedelta(milliseconds=1)

BY_CLAIM: Final[Mapping[State, frozenset[State]]] = {
    State.CLAIMED: frozenset(
        {
            State.SENDING,
            State.WAITING,
            State.SKIPPED,
            State.EXPIRED,
            State.EXPANDED,
            State.JOINED,
            State.PARKED,
            State.CANCELLED,
            State.UNKNOWN,
        }
    ),
    State.SENDING: frozenset(
        {
            State.SENDING,
            State.ACCEPTED,
            State.DELIVERED,
            State.WAITING,
            State.FAILED,
            State.GONE,
            State.EXPIRED,
            State.PARKED,
            State.UNKNOWN,
        }
    ),
}
"""The states to which the holder of the latest claim can move a delivery. SENDING to SENDING: only a later claim."""

_BY_CLAIM: Final = frozenset().union(*BY_CLAIM.values())

LATER: Final[Mapping[State, frozenset[State]]] = {
    State.SENDING: frozenset({State.ACCEPTED, State.DELIVERED, State.BOUNCED, State.FAILED}),
    State.ACCEPTED: frozenset({State.DELIVERED, State.BOUNCED}),
    State.UNKNOWN: frozenset({State.ACCEPTED, State.DELIVERED, State.BOUNCED, State.FAILED}),
    State.PARKED: frozenset({State.WAITING, State.CANCELLED}),
}
"""The steps of `resolve`. A provider's report may come before the worker's own."""

OUTCOMES: Final = BY_CLAIM[State.SENDING] - {State.SENDING}
"""What a worker may report of an attempt."""

PROMISING: Final = frozenset({State.ACCEPTED, State.DELIVERED, State.UNKNOWN})
"""After these, a delivery that waits for the channel is due after its delay: the message has perhaps arrived."""

STOPPABLE: Final = frozenset({State.WAITING, State.CLAIMED, State.PARKED})
"""The states that can be cancelled: nothing is being sent."""

IN_DOUBT: Final = "ambiguous"
"""The reason of a delivery that waits, or is claimed or parked, after an attempt that may have arrived."""


def judge(move: Move, state: State, fence: int, begun: int, *, has_lease: bool) -> tuple[bool, bool]:
    """Return whether a move is made, and whether it is the outcome of an attempt, which is listed in any case.

    Args:
        move: what a worker wants.
        state: of the delivery.
        fence: of its latest claim.
        begun: of the claim that began to send it last; 0: none has.
        has_lease: whether the lease of the latest claim has not ended.
    """
    is_made = fence == move.fence and move.to in BY_CLAIM.get(state, ())
    if move.to is State.SENDING:
        is_made = is_made and has_lease and begun < fence
    is_outcome = state is State.SENDING if is_made else begun >= move.fence and not move.before_sending
    return is_made, is_outcome and move.to in OUTCOMES


def runs(moves: Sequence[Move]) -> Iterator[Sequence[Move]]:
    """Divide moves, in order, into runs in which no delivery occurs twice."""
    run: list[Move] = []
    seen: set[str] = set()
    for move in moves:
        if move.id in seen:
            yield run
            run, seen = [], set()
        run.append(move)
        seen.add(move.id)
    if run:
        yield run


def is_later(to: State, state: State, reason: str) -> bool:
    """Return whether `resolve` makes a step: `LATER` has it, of a delivery in doubt for SENDING as well.

    Args:
        to: the state that is reported.
        state: of the delivery.
        reason: of the delivery.
    """
    is_in_doubt = reason == IN_DOUBT and state in STOPPABLE
    return to in LATER.get(state, ()) or (is_in_doubt and to in LATER[State.SENDING])


def cancelled(reason: str) -> State:
    """Return the state of a cancelled delivery, by the reason that it had before."""
    return State.UNKNOWN if reason == IN_DOUBT else State.CANCELLED


def due_after(states: Collection[State], due_at: int | None, delay: float, now: int) -> int | None:
    """Return when a delivery that waits for a channel is due, in milliseconds.

    Args:
        states: of all deliveries over that channel.
        due_at: when it is due so far.
        delay: its own, in seconds.
        now: the present time.
    """
    if any(state in PROMISING for state in states):
        return now + span(delay) if due_at is None else due_at
    if any(state.is_open or state is State.PARKED for state in states):
        return due_at
    return now if due_at is None else min(due_at, now)


def millis(moment: datetime) -> int:
    """Return an instant in milliseconds since 1970, rounded down.

    Raises:
        UsageError: the datetime is naive.
    """
    if moment.tzinfo is None:
        raise UsageError(f"instants are aware datetimes, and {moment!r} is naive: add tzinfo=datetime.UTC")
    return (moment - EPOCH) // MILLISECOND


def instant(milliseconds: int) -> datetime:
    """Return the instant of a number of milliseconds since 1970, in UTC."""
    return EPOCH + milliseconds * MILLISECOND


def exact(moment: datetime) -> datetime:
    """Return an instant as stores keep it: in UTC, rounded down to the millisecond."""
    return instant(millis(moment))


def exact_or_none(moment: datetime | None) -> datetime | None:
    """Return an optional instant as stores keep it."""
    return None if moment is None else exact(moment)


def span(seconds: float) -> int:
    """Return a duration in milliseconds."""
    return round(seconds * 1000)


def delivery_id(notification: str, user: str, channel: str, endpoint: str = "") -> str:
    """Return the id of a delivery: 32 characters that providers accept as a message id, a topic and a collapse key."""
    return _digest(notification, user, channel, endpoint)


def endpoint_id(channel: str, kind: str, address: str) -> str:
    """Return the id of an endpoint, from which its address cannot be read."""
    return _digest(channel, kind, address)


def cap_prefix(user: str) -> str:
    """Return the prefix of the buckets of a user (`CapWindow.bucket`), and of no other user's."""
    return f"{user.replace('%', '%25').replace('/', '%2F')}/"


def digest_id(key: str, generation: int) -> str:
    """Return the id of a digest, which is also the id of its notification."""
    return f"{_digest(key)}:{generation}"


def next_generation(last: int | None, opened_at: int) -> int:
    """Return the generation of a digest that opens at a time in milliseconds, after the last one of its key.

    It grows with the time, so that a number is not used again after the digests before it have been purged.
    """
    return max(opened_at, 1 + (last or 0))


def slid(join: DigestJoin, opened_at: int, closes_at: int, due_at: int) -> tuple[int, int]:
    """Return when an open digest closes, and when it is due, after one more notification; all in milliseconds."""
    if join.slides_until is None:
        return closes_at, due_at
    wanted, ceiling = millis(join.closes_at), opened_at + span(join.slides_until)
    due = millis(join.due_at) if wanted <= ceiling else ceiling
    return max(closes_at, min(wanted, ceiling)), max(due_at, due)


def merge_patch(document: bytes, patch: bytes) -> bytes:
    """Apply a JSON merge patch (RFC 7386) to a JSON object; the result is compact, its keys are sorted.

    Raises:
        UsageError: the patch is not a JSON object.
    """
    try:
        change = json.loads(patch)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"a patch must be JSON: {error}") from error
    if not isinstance(change, dict):
        raise UsageError(f"a patch must be a JSON object, got {type(change).__name__}")
    merged = _merged(json.loads(document or b"{}"), change)
    try:
        return json.dumps(merged, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise UsageError(f"a patch must be JSON in UTF-8: {error}") from error


def check_move(move: Move) -> None:
    """Raise UsageError for a move that no worker can make."""
    if not _is_plain(move.id):
        check_name("id of a move", move.id)
    check_count("fence of a move", move.fence, -_LARGEST)
    if move.to not in _BY_CLAIM:
        raise UsageError(f"a claimed delivery cannot be moved to {getattr(move.to, 'name', move.to)!s:.80}")
    if (move.to is State.JOINED) != (move.join is not None):
        raise UsageError(f"join= belongs to a move to JOINED, and only there: {move.to.name}")
    if move.lease is not None and move.to is not State.SENDING:
        raise UsageError(f"lease= belongs to a move to SENDING, and only there: {move.to.name}")
    if move.lease is not None:
        check_seconds("lease of a move", move.lease)
    _check_moments("due_at of a move", move.due_at)
    if move.join is not None:
        check_join(move.join)
    for child in move.children:
        check_new(child)
    if move.children and move.to is not State.EXPANDED:
        raise UsageError(f"children= belong to a move to EXPANDED, not to {move.to.name}")


def check_submission(submission: Submission) -> None:
    """Raise UsageError for rows of another notification or recipient, and for rows that are not valid."""
    notification = submission.notification
    name, users = notification.id, {record.user for record in submission.recipients}
    rows: list[RecipientRecord | Delivery | DigestJoin] = [*submission.recipients, *submission.deliveries]
    for row in (*rows, *submission.joins):
        if row.notification != name or row.user not in users:
            raise UsageError(
                f"a {type(row).__name__} of a submission is of notification {row.notification!r} to {row.user!r:.80}: "
                f"all rows of a submission belong to its notification, {name!r}, and to its recipients"
            )
    for what, text in (("tenant", submission.tenant), ("key", submission.key), ("notification", name)):
        if text is not None:
            check_name(f"{what} of the submission", text)
    for text in (submission.cursor, submission.fingerprint, notification.type, notification.digest):
        if text is not None:
            check_text("the submission", text)
    for record in submission.recipients:
        check_name("a recipient", record.user)
    _check_moments("created_at of the notification", notification.created_at)
    _check_moments("a time of the submission", notification.expires_at, submission.keep_until)
    for join in submission.joins:
        check_join(join)
    channels = {(delivery.user, delivery.channel) for delivery in submission.deliveries}
    for delivery in submission.deliveries:
        check_new(delivery)
        if delivery.after and (delivery.user, delivery.after) not in channels:
            raise UsageError(
                f"no delivery to {delivery.user!r:.80} is over channel {delivery.after!r}, named by after="
            )


def check_new(delivery: Delivery) -> None:
    """Raise UsageError for a new delivery that would never be due, or whose values are not valid."""
    for text in (delivery.id, delivery.channel, delivery.endpoint, delivery.after):
        check_name("a delivery", text)
    check_texts("a delivery", delivery.reason, delivery.provider_id)
    check_count("priority of a delivery", delivery.priority, -_LARGEST)
    check_seconds("delay of a delivery", delivery.delay)
    _check_moments("a time of a delivery", delivery.due_at, delivery.expires_at)
    if delivery.state is State.WAITING and delivery.due_at is None and not delivery.after:
        raise UsageError(f"a waiting delivery needs due_at= or after=, that of channel {delivery.channel!r} has none")


def check_join(join: DigestJoin) -> None:
    """Raise UsageError for a join whose values are not valid."""
    check_name("key of a join", join.key)
    check_texts("a join", join.type, *join.channels)
    for moment in (join.closes_at, join.due_at):
        check_moment("a time of a join", moment)


def check_name(what: str, value: object) -> None:
    """Raise UsageError unless the value is text that every store can keep and index."""
    check_text(what, value)
    if len(str(value).encode()) > MAX_NAME:
        raise UsageError(f"{what} must have at most {MAX_NAME} bytes in UTF-8, got {value!r:.80}")


def check_text(what: str, value: object) -> None:
    """Raise UsageError unless the value is text that every store can keep."""
    if not isinstance(value, str):
        raise UsageError(f"{what} must be a str, got {value!r:.80}")
    check_texts(what, value)


def check_count(what: str, value: object, least: int = 0) -> None:
    """Raise UsageError unless the value is an integer that every store can keep."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LARGEST:
        raise UsageError(f"{what} must be a whole number from {least} to {_LARGEST}, got {value!r:.80}")


def check_seconds(what: str, value: object) -> None:
    """Raise UsageError unless the value is a duration in seconds."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise UsageError(f"{what} must be a number of seconds from 0 to {_LARGEST}, got {value!r:.80}")


def check_moment(what: str, value: object) -> None:
    """Raise UsageError unless the value is an aware datetime."""
    if not isinstance(value, datetime):
        raise UsageError(f"{what} must be an aware datetime, got {value!r:.80}")
    millis(value)


def check_texts(what: str, *texts: str | None) -> None:
    """Raise UsageError for text that not every store can keep: a NUL character, or half of a surrogate pair.

    Args:
        what: names what has the text, for the message.
        texts: what is checked; None is left out.
    """
    for text in texts:
        if text and (_UNSTORABLE if not text.isascii() else _NUL).search(text):
            raise UsageError(f"{what} must not hold NUL characters or lone surrogates, got {text!r:.80}")


def _check_moments(what: str, *moments: datetime | None) -> None:
    for moment in moments:
        if moment is not None:
            check_moment(what, moment)


def _is_plain(value: object) -> bool:
    """Return whether this is ASCII text that `check_name` accepts: a quick test, which most names pass."""
    return type(value) is str and value.isascii() and len(value) <= MAX_NAME and "\0" not in value


def _digest(*parts: str) -> str:
    """Hash the parts, so that no other division of the same characters has the same result."""
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _merged(document: Any, patch: dict[str, Any]) -> dict[str, Any]:
    """Return an object with a patch applied; neither is changed."""
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value) if isinstance(value, dict) else value
    return result
