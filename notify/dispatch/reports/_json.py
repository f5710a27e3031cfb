"""Reports as JSON, signed by the Standard Webhooks specification: for gateways and mailers of your own."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from notify._asgi import Request
from notify.webhook import WebhookVerificationError, verify

from .._plan import STOPPED, SUPPRESSED
from .._report import GONE, Report
from ..abc import State

MAX_REPORTS: Final = 1000

_ID: Final = re.compile("[0-9a-f]{32}", re.ASCII)
_CODE: Final = re.compile(r"[!-~][ -~]{0,63}", re.ASCII)

_EVENTS: Final[Mapping[str, tuple[State, str, bool]]] = {
    "accepted": (State.ACCEPTED, "", False),
    "delivered": (State.DELIVERED, "", False),
    "failed": (State.FAILED, "", False),
    "soft_bounce": (State.BOUNCED, "", True),
    "hard_bounce": (State.BOUNCED, SUPPRESSED, False),
    "gone": (State.BOUNCED, GONE, False),
    "complaint": (State.DELIVERED, SUPPRESSED, False),
    "stopped": (State.BOUNCED, STOPPED, False),
}


class JsonReports:
    """Reads an object, or a list of them, with these members; others are ignored, and so are events that are not known.

    | member | is |
    |---|---|
    | `id` | the id of the delivery, which `HttpSmsGateway` posts as `id` |
    | `event` | `accepted`, `delivered`, `failed`, `soft_bounce`, `hard_bounce`, `gone`, `complaint` or `stopped` |
    | `code` | the reason, which `explain` shows: a code, without addresses; it may be absent |
    | `provider_id` | what the provider calls the message; it may be absent |

    The headers are those of [webhooks](https://www.standardwebhooks.com): `webhook-id`, `webhook-timestamp` and
    `webhook-signature`. What was signed more than five minutes ago is refused.

    Args:
        secret: what the provider signs with; several while it is being replaced.
        wall_clock: returns the seconds since 1970.

    Raises:
        UsageError: the secret is not base64. The message does not show it.
    """

    def __init__(self, secret: str | bytes | Iterable[str | bytes], *, wall_clock: Callable[[], float] = time.time):
        self._secrets = (secret,) if isinstance(secret, str | bytes) else tuple(secret)
        self._clock = wall_clock
        self._is_signed({}, b"")  # checks the secrets

    def __call__(self, request: Request, body: bytes) -> Sequence[Report] | None:
        """Return the reports of a request; None: its signature is not valid.

        Raises:
            ValueError: the body is not such JSON.
        """
        if not self._is_signed(request.headers, body):
            return None
        found = json.loads(body)
        events = found if isinstance(found, list) else [found]
        if len(events) > MAX_REPORTS:
            raise ValueError("too many reports in one request")
        return [report for report in map(_report, events) if report is not None]

    def _is_signed(self, headers: Mapping[str, str], body: bytes) -> bool:
        try:
            verify(self._secrets, headers, body, now=self._clock())
        except WebhookVerificationError:
            return False
        return True

    def __repr__(self) -> str:
        return "<JsonReports>"


def _report(event: Any) -> Report | None:
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise ValueError("a report must be an object with the members id and event")  # noqa: TRY004 - of what was received
    id, meaning = event.get("id"), _EVENTS.get(event["event"])
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise ValueError("id must be that of a delivery")
    if meaning is None:
        return None
    state, retire, is_unclear = meaning
    code, provider_id = (event.get(name) or "" for name in ("code", "provider_id"))
    if not all(not each or (isinstance(each, str) and _CODE.fullmatch(each)) for each in (code, provider_id)):
        raise ValueError("code and provider_id must be ASCII of at most 64 characters")
    return Report(id, state, code or ("complaint" if event["event"] == "complaint" else ""), provider_id, retire,
                  is_unclear)  # fmt: skip
