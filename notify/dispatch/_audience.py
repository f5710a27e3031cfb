"""Audiences: many recipients, read in batches, however many they are."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterable
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import anyio.lowlevel

from notify import UsageError

from ._planning import recipient_of
from ._types import Recipient

_AT_ONCE: Final = 10_000
"""Members of an audience that are looked at before other tasks may run."""

Audience: TypeAlias = (
    Iterable[str | Recipient] | AsyncIterable[str | Recipient] | Callable[[str], AsyncIterable[str | Recipient]]
)
"""Many recipients: an iterable, or a function that takes the last id that was submitted (empty at first), and yields
those after it, sorted. With a function, an interrupted submission goes on where it stopped."""


async def audience_mark(audience: Audience) -> str:
    """Return what tells one audience from another one: its members in any order, as far as they are known beforehand.

    A function or an iterator is read as it is submitted, so nothing of it is known.
    """
    if callable(audience) or not isinstance(audience, Collection) or isinstance(audience, str | bytes):
        return ""
    total = 0
    for number, each in enumerate(audience):
        member = each.id if isinstance(each, Recipient) else each
        hashed = hashlib.blake2b(str(member).encode("utf-8", "surrogatepass"), digest_size=16)
        total += int.from_bytes(hashed.digest(), "big")
        if number % _AT_ONCE == 0:
            await anyio.lowlevel.checkpoint()
    return f"{len(audience)} {total:x}"


async def batches(
    audience: Audience, after: str, size: int
) -> AsyncGenerator[tuple[list[str], dict[str, Recipient], str]]:
    """Yield the recipients of an audience in batches: ids, those that were given whole, the last id.

    Raises:
        UsageError: the audience is a single user, or one of its members is not a recipient.
    """
    if isinstance(audience, str | bytes | Recipient):
        raise UsageError(f"an audience is an iterable of recipients, got a single {audience!r:.80}: use submit()")
    source: Any = audience(after) if callable(audience) else audience
    users: list[str] = []
    given: dict[str, Recipient] = {}
    async with aclosing(_each(source)) as members:
        async for each in members:
            if not isinstance(each, Recipient) and (not isinstance(each, str) or not each):
                raise UsageError(f"an audience has user ids and Recipients, not {each!r:.80}")
            user, whole = recipient_of(each)
            users.append(user)
            given |= whole
            if len(users) == size:
                yield users, given, users[-1]
                users, given = [], {}
    if users:
        yield users, given, users[-1]


async def _each(source: Any) -> AsyncGenerator[Any]:
    """Yield what a source has; one that can be closed is, also where its end is not reached."""
    if hasattr(source, "__aiter__"):
        try:
            async for each in source:
                yield each
        finally:
            if hasattr(source, "aclose"):
                await source.aclose()
    elif isinstance(source, Iterable):
        for each in source:
            yield each
    else:
        raise UsageError(f"an audience is an iterable of recipients, not {source!r:.80}")
