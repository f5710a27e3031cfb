"""Status callbacks of Twilio, and of providers that imitate its API."""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import parse_qs, parse_qsl, urlsplit

from notify import UsageError
from notify._asgi import Request

from .._plan import STOPPED
from .._report import GONE, Report
from ..abc import State

DELIVERY: Final = "delivery"
"""The field of the query string that carries the id of the delivery: what Twilio signs with the URL."""

_ID: Final = re.compile("[0-9a-f]{32}", re.ASCII)
_CODE: Final = re.compile("[0-9]{1,9}", re.ASCII)

_STATES: Final = {
    **dict.fromkeys(("accepted", "scheduled", "queued", "sending", "sent"), State.ACCEPTED),
    **dict.fromkeys(("delivered", "read"), State.DELIVERED),
    **dict.fromkeys(("undelivered", "failed", "canceled"), State.FAILED),
}

_RETIRED: Final = {"21610": STOPPED, **dict.fromkeys(("21211", "21614", "30005"), GONE)}
"""Codes that say it all: the recipient has answered STOP; the number does not exist, or cannot receive SMS."""

_UNCLEAR: Final = frozenset({"30003", "30004", "30006"})
"""Switched off or out of reach; blocked; a landline, or a carrier that cannot be reached."""


class TwilioReports:
    """Reads the callbacks that `TwilioSmsGateway(status_callback=url)` asks for.

    The gateway adds the id of the delivery to the URL, and Twilio signs the URL with the form, so neither the form nor
    the id can be invented. Statuses that are not final change nothing but a delivery whose outcome was unknown.

    Args:
        token: the auth token of the account; several while it is being replaced. An API key's secret signs nothing.
        url: the public URL of the callback, as given to the gateway: behind a proxy, requests do not show it.

    Raises:
        UsageError: an argument is not valid. The message does not show the token.
    """

    def __init__(self, token: str | Iterable[str], url: str) -> None:
        tokens = [token] if isinstance(token, str) else [*token]
        if not tokens or not all(tokens):
            raise UsageError("TwilioReports: token must be the auth token of the account")
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.netloc:
            raise UsageError(f"TwilioReports: url must be the public URL of the callback, not {url!r:.80}")
        self._tokens = [each.encode() for each in tokens]
        self._url = url.partition("?")[0]

    def __call__(self, request: Request, body: bytes) -> Sequence[Report] | None:
        """Return the report of a request; None: its signature is not valid."""
        query = bytes(request.scope.get("query_string", b"")).decode("latin-1")
        fields = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=200)
        url = f"{self._url}?{query}" if query else self._url
        given = request.headers.get("x-twilio-signature", "").encode("latin-1")
        if not any([hmac.compare_digest(signature(token, url, fields), given) for token in self._tokens]):
            return None
        found = dict(fields)
        ids = [each for each in parse_qs(query).get(DELIVERY, ()) if _ID.fullmatch(each)]
        state = _STATES.get(found.get("MessageStatus") or found.get("SmsStatus") or "")
        if not ids or state is None:  # a message that was not sent by a dispatcher, or a status that is new
            return ()
        error = found.get("ErrorCode", "")
        code = error if state is State.FAILED and _CODE.fullmatch(error) else ""
        sid = found.get("MessageSid") or found.get("SmsSid") or ""
        return [Report(ids[-1], state, code, sid[:64], retire=_RETIRED.get(code, ""), is_unclear=code in _UNCLEAR)]

    def __repr__(self) -> str:
        return "<TwilioReports>"


def signature(token: bytes, url: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """Return what Twilio sends as `X-Twilio-Signature`: of the URL and the sorted fields of the form."""
    signed = url + "".join(name + value for name, value in sorted(set(fields)))
    return b64encode(hmac.digest(token, signed.encode(), "sha1"))
