"""The verdict of `Notifier.check`: every part is tried once, each within a bound."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio

from ..abc import HasOutbox, Liveness, StreamStore
from ..errors import BackendUnavailableError
from ._background import Background
from ._results import Health

MAX_WAIT: Final = 60.0
"""Seconds for which an event may wait in an outbox."""

QUIET: Final = "outbox"
"""The part that is named only if something is wrong with it: most applications do not use it."""


async def examine(
    parts: Mapping[str, Callable[[], Awaitable[object]]], *, timeout: float, background: Background
) -> Health:
    """Try one part after the other and return the verdict; `live` is not tried where `store` has failed.

    Args:
        parts: what tries each part, by its name in the verdict.
        timeout: seconds for each part.
        background: whose tasks try, so that a part that ignores cancellation holds up nothing.
    """
    verdict: dict[str, str] = {}
    for name, attempt in parts.items():
        if name != "live" or verdict["store"] == "ok":
            verdict[name] = await _outcome(attempt, timeout, background)
    if verdict.get(QUIET) == "ok":
        del verdict[QUIET]
    return Health(all(outcome == "ok" for outcome in verdict.values()), verdict)


async def _outcome(attempt: Callable[[], Awaitable[object]], timeout: float, background: Background) -> str:
    async def bounded() -> None:
        with anyio.fail_after(timeout):
            await attempt()

    try:
        await background.run(bounded)
    except TimeoutError:
        return f"no answer within {timeout} s"
    except Exception as error:
        return repr(error)
    return "ok"


async def until_receiving(store: StreamStore, liveness: Liveness, user: str, within: float) -> None:
    """Keep a stream of this user open until the store receives what other processes save.

    Raises:
        BackendUnavailableError: it did not within `within` seconds.
    """
    with anyio.move_on_after(within):
        async with store.subscribe(user):
            while not liveness.is_receiving:  # noqa: ASYNC110 - a property cannot be awaited
                await anyio.sleep(0.01)
            return
    message = "new events are not received, so each arrives late, by an audit"
    raise BackendUnavailableError(message, backend=type(store).__name__)


async def until_relayed(store: HasOutbox) -> None:
    """Look whether the outbox of a store is moved.

    Raises:
        BackendUnavailableError: events have waited for too long, or were set aside.
    """
    backlog = await store.backlog()
    if backlog.age > MAX_WAIT:
        message = (
            f"{backlog.waiting} events wait in the outbox, the oldest for {backlog.age:.0f} s: no relay moves them"
        )
    elif backlog.dead:
        message = f"{backlog.dead} events of the outbox were set aside, because no log may hold them"
    else:
        return
    raise BackendUnavailableError(message, backend=type(store).__name__)
