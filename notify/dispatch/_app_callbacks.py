"""What providers report after sending: delivered, bounced, stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from notify import NotifyError
from notify._asgi import Reply, Request, WebError, read_body

from ._app_site import DispatchSite, Receive, Report, awaited, log_failure
from ._plan import STOPPED, SUPPRESSED
from .abc import State

_STATES: Final = frozenset({State.DELIVERED, State.BOUNCED, State.FAILED, State.ACCEPTED})


async def callback(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve POST /callbacks/{name}."""
    name = names["name"]
    read = site.callbacks.get(name)
    if read is None:
        raise WebError(404, "not_found", "there is nothing at this path: callbacks= has no such name")
    body = await read_body(receive, site.max_body, site.timeout)
    try:
        found = await awaited(read(request, body))
        reports = None if found is None else [_checked(each) for each in found]
    except NotifyError:
        raise
    except (ValueError, LookupError):  # also what JSON and UTF-8 are not
        raise WebError(400, "bad_request", "the body of the callback is not understood") from None
    except Exception as error:
        log_failure(f"the callback {name}", error)
        raise WebError(500, "callback_failed", "the application failed to read the callback") from None
    if reports is None:
        raise WebError(401, "unauthenticated", "the signature of the callback is missing or not valid")
    known = [await _resolve(site, each) for each in reports]
    return Reply.json({"known": sum(known), "unknown": len(known) - sum(known)})


async def _resolve(site: DispatchSite, report: Report) -> bool:
    """Note a report; return whether there is such a delivery."""
    parts = site.parts
    now = parts.clock()
    delivery = await parts.store.resolve(
        report.delivery, report.state, now, reason=report.reason, provider_id=report.provider_id
    )
    if delivery is not None and report.retire and delivery.endpoint:
        await parts.endpoints.retire(delivery.endpoint, 0, report.retire, now)
    return delivery is not None


def _checked(report: object) -> Report:
    if not isinstance(report, Report):
        raise TypeError(f"a callback returns Reports, not {type(report).__name__}")
    if report.state not in _STATES or report.retire not in {"", STOPPED, SUPPRESSED}:
        raise TypeError("Report.state must be ACCEPTED, DELIVERED, BOUNCED or FAILED, retire a reason for it")
    return report
