"""Checks the arguments of stores' methods before anything is read or written, in the same way for every store.

Some values fail only in the database: a NUL character, half of a surrogate pair, a name that is too long for an index,
a number that is too large. A store in memory would accept them. `checked` makes every store refuse them up front.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar

from notify.errors import UsageError

from ._records import CapWindow, Endpoint, Move, State, Submission
from ._steps import check_count, check_moment, check_name, check_seconds, check_text

T = TypeVar("T")


_METHODS: Final = (
    *("submit", "claim", "advance", "resolve", "cancel", "record", "delivery", "stuck", "hurry", "purge", "track"),
    *("forget", "close_digests", "digest_items", "preferences", "patch", "consents", "register", "endpoints"),
    *("session_endpoints", "endpoint", "retire", "observe", "admit", "refund", "close_gate", "gates"),
)


def _check_bytes(what: str, value: object) -> None:
    if not isinstance(value, bytes):
        raise UsageError(f"{what} must be bytes, got {value!r:.80}")


def _check_flag(what: str, value: object) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"{what} must be a bool, got {value!r:.80}")


def _check_state(what: str, value: object) -> None:
    if not isinstance(value, State):
        raise UsageError(f"{what} must be a State, got {value!r:.80}")


def _one_of(*choices: str) -> Callable[[str, object], None]:
    def check(what: str, value: object) -> None:
        if not isinstance(value, str) or value not in choices:
            raise UsageError(f"{what} must be {' or '.join(map(repr, choices))}, got {value!r:.80}")

    return check


def _all(check: Callable[[str, object], None]) -> Callable[[str, object], None]:
    def each(what: str, value: object) -> None:
        if isinstance(value, str | bytes) or not isinstance(value, Collection):
            raise UsageError(f"{what} must be a list, got {value!r:.80}")
        for member in value:
            check(f"a member of {what}", member)

    return each


def _of(kind: type) -> Callable[[str, object], None]:
    def check(what: str, value: object) -> None:
        if not isinstance(value, kind):
            raise UsageError(f"{what} must be a {kind.__name__}, got {value!r:.80}")

    return check


def _check_window(what: str, value: object) -> None:
    _of(CapWindow)(what, value)
    window: Any = value
    check_name(f"bucket of {what}", window.bucket)
    check_count(f"limit of {what}", window.limit)
    check_moment(f"expires_at of {what}", window.expires_at)


def _check_endpoint(what: str, value: object) -> None:
    _of(Endpoint)(what, value)
    endpoint: Any = value
    for name in ("user", "channel", "kind", "session"):
        check_name(f"{name} of {what}", getattr(endpoint, name))
    check_text(f"address of {what}", endpoint.address)
    meta = endpoint.meta
    is_text = isinstance(meta, Mapping) and all(isinstance(each, str) for pair in meta.items() for each in pair)
    if not is_text:
        raise UsageError(f"meta of {what} must map str to str, got {meta!r:.80}")


_CHECKS: Final[Mapping[str, Callable[[str, object], None]]] = {
    **dict.fromkeys(("id", "notification", "user", "session", "channel", "digest", "gate"), check_name),
    **dict.fromkeys(("reason", "provider_id", "by", "source"), check_text),
    **dict.fromkeys(("now", "before", "until"), check_moment),
    **dict.fromkeys(("users", "channels"), _all(check_name)),
    **dict.fromkeys(("limit", "generation"), check_count),
    **dict.fromkeys(("ok", "retired"), _check_flag),
    "act": _one_of("opened", "clicked"),
    "mode": _one_of("check", "record"),
    "endpoint": _check_endpoint,
    "lease": check_seconds,
    "moves": _all(_of(Move)),
    "patch": _check_bytes,
    "states": _all(_check_state),
    "submission": _of(Submission),
    "to": _check_state,
    "windows": _all(_check_window),
}
"""The check of each argument, by its name in the interfaces."""


def checked(store: type[T]) -> type[T]:
    """Decorate a store class, so that its methods raise UsageError for arguments that the interfaces do not allow.

    The rows of submissions and moves are checked by `check_submission` and `check_move`.
    """
    for name in _METHODS:
        if (method := getattr(store, name, None)) is not None:
            setattr(store, name, _checked(method))
    return store


def _checked(method: Any) -> Any:
    name = method.__name__
    parameters = list(inspect.signature(method).parameters.values())[1:]
    order = [each.name for each in parameters]
    optional = {each.name for each in parameters if each.default is None}
    checks = {**_CHECKS, "after": check_name if name == "stuck" else check_count}

    @functools.wraps(method)
    async def call(self: Any, *args: Any, **options: Any) -> Any:
        for key, value in (*zip(order, args, strict=False), *options.items()):
            check = checks.get(key)
            if check is not None and not (value is None and key in optional):
                check(f"{name}: {key}", value)
        return await method(self, *args, **options)

    return call
