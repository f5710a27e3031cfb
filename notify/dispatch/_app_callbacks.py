"""What providers report after sending: delivered, bounced, stopped."""

from __future__ import annotations

from collections.abc import Mapping

from notify import BackendError
from notify._asgi import Reply, Request, WebError, read_body

from ._app_site import DispatchSite, Receive, called, log_failure
from ._report import Report


async def callback(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve POST /callbacks/{name}."""
    name = names["name"]
    read = site.callbacks.get(name)
    if read is None:
        raise WebError(404, "not_found", "there is nothing at this path: callbacks= has no such name")
    body = await read_body(receive, site.max_body, site.timeout)
    try:
        found = await called(read, request, body)
        reports = None if found is None else [_checked(each) for each in found]
    except BackendError:
        raise
    except (ValueError, LookupError):  # also what JSON and UTF-8 are not
        raise WebError(400, "bad_request", "the body of the callback is malformed") from None
    except Exception as error:
        log_failure(f"the callback {name}", error)
        raise WebError(500, "callback_failed", "the application failed to read the callback") from None
    if reports is None:
        raise WebError(403, "forbidden", "the signature of the callback is missing or not valid")
    await site.dispatcher.report(*reports)
    return Reply.json({"reports": len(reports)})  # not which of them are known: that is not the provider's business


def _checked(report: object) -> Report:
    if not isinstance(report, Report):
        raise TypeError(f"a callback returns Reports, not {type(report).__name__}")
    return report
