"""What follows from a provider's report: the delivery's state, and what becomes of its endpoint."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeAlias

from notify import ClosedError, UsageError

from ._channel_log import place_of
from ._endpoint_health import count_bounce, retire_endpoint
from ._parts import DispatchParts
from ._plan import SUPPRESSED
from ._planning import given_at_submit, known
from ._report import GONE, Report
from ._settle import storable
from .abc import Claim, Delivery, Endpoint, State, exact

logger = logging.getLogger("notify")

OnReport: TypeAlias = Callable[[Delivery, Report], Awaitable[None]]
"""Told of each report that changed something."""


async def note(parts: DispatchParts, report: Report, on_report: OnReport | None) -> bool:
    """Note a report; return whether there is such a delivery.

    Raises:
        BackendError: the store failed; safe to repeat.
    """
    now = parts.clock()
    try:
        claim = await parts.records.delivery(report.delivery)
    except ClosedError:
        raise
    except UsageError:  # no store has such an id
        return False
    if claim is None:
        return False
    before, after = claim.delivery, await _resolved(parts, report, now)
    if after is None:
        return False
    has_moved = after.state is not before.state and after.updated_at == exact(now)
    if has_moved:
        await parts.events.tell(claim, after.state, after.reason)
    is_retired = await _affected(parts, claim, report, now, has_moved=has_moved)
    if on_report is not None and (has_moved or is_retired):
        try:
            await on_report(after, report)
        except Exception as error:
            logger.error("on_report= of the Dispatcher failed: %s", place_of(error))  # noqa: TRY400 - not its message
    return True


async def _resolved(parts: DispatchParts, report: Report, now: datetime) -> Delivery | None:
    """Return the delivery after the step, if it is possible. A provider may fail after it has accepted: a bounce."""
    values = {"reason": storable(report.reason), "provider_id": storable(report.provider_id)}
    after = await parts.store.resolve(report.delivery, report.state, now, **values)
    if after is not None and after.state is State.ACCEPTED and report.state is State.FAILED:
        after = await parts.store.resolve(report.delivery, State.BOUNCED, now, **values)
    return after


async def _affected(parts: DispatchParts, claim: Claim, report: Report, now: datetime, *, has_moved: bool) -> bool:
    """Do what a report says to the endpoint; return whether it was retired by that.

    What is counted counts once, however often it is reported.
    """
    is_counted = has_moved and (report.is_unclear or report.state is State.DELIVERED)
    if not claim.delivery.endpoint or not (report.retire or is_counted):
        return False
    endpoints = parts.endpoints
    endpoint = await endpoints.endpoint(claim.delivery.endpoint)
    if endpoint is None and report.retire:
        endpoint = await _given(parts, claim)
    if endpoint is None or _is_newer(endpoint, claim.delivery, report):
        return False
    if report.retire:
        return await retire_endpoint(endpoints, endpoint, report.retire, now)
    if report.state is not State.DELIVERED:
        return await count_bounce(endpoints, endpoint, now)
    await endpoints.observe(endpoint.id, endpoint.generation, now, ok=True)
    return False


def _is_newer(endpoint: Endpoint, delivery: Delivery, report: Report) -> bool:
    """Return whether the address was registered again after what this bounce is about, which it survives.

    What the recipient said, as by STOP or a complaint, counts in any case.
    """
    is_about_address = report.state is not State.DELIVERED and report.retire in ("", GONE, SUPPRESSED)
    seen, since = endpoint.last_seen_at, delivery.updated_at
    return is_about_address and seen is not None and since is not None and seen > since


async def _given(parts: DispatchParts, claim: Claim) -> Endpoint | None:
    """Return an endpoint that is not stored, since it came with the recipient; None: it does not come any more."""
    user = claim.delivery.user
    try:
        given = given_at_submit(claim.recipient)
        found = (await known(parts, [user], () if given is None else [user]))[user]
    except UsageError:  # the recipient's values are refused
        return None
    endpoints = (found if given is None else found.of(given)).endpoints
    return next((each for each in endpoints if each.id == claim.delivery.endpoint), None)
