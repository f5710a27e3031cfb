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
"""The part that is reported only if it fails: most applications have no outbox."""


async def examine(
    parts: Mapping[str, Callable[[], Awaitable[object]]], *, timeout: float, background: Background
) -> Health:
    """Try all parts at once and return the verdict; `live` and `outbox` are left out where `store` has failed.

    Args:
        parts: what tries each part, by its name in the verdict.
        timeout: seconds for all of them.
        background: whose tasks try, so that a part that ignores cancellation holds up nothing.
    """
    verdict = dict.fromkeys(parts, "ok")

    async def attempt(name: str) -> None:
        verdict[name] = await _outcome(parts[name], timeout, background)
        if name == "store" and verdict[name] != "ok":
            live.cancel()

    async def attempt_live() -> None:
        with live:
            await attempt("live")

    live = anyio.CancelScope()
    async with anyio.create_task_group() as tasks:
        for name in parts:
            if name == "live":
                tasks.start_soon(attempt_live)
            else:
                tasks.start_soon(attempt, name)
    store_failed = verdict.get("store", "ok") != "ok"
    if store_failed:
        verdict.pop("live", None)
    if store_failed or verdict.get(QUIET) == "ok":
        verdict.pop(QUIET, None)
    return Health(all(outcome == "ok" for outcome in verdict.values()), verdict)


async def _outcome(attempt: Callable[[], Awaitable[object]], timeout: float, background: Background) -> str:
    async def bounded() -> None:
        with anyio.move_on_after(timeout):  # if it is abandoned, it still ends
            await attempt()
            done.append(True)

    done: list[bool] = []
    try:
        with anyio.move_on_after(timeout):
            await background.run(bounded)
    except Exception as error:
        return repr(error)
    return "ok" if done else f"no answer within {timeout:g} s"


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
    """Check whether a relay moves the outbox of a store.

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
