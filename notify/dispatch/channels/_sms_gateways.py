"""Two gateways for SMS: JSON with a bearer key, and the API of Twilio, which other providers imitate."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any
from urllib.parse import quote, urlencode

from notify.http import HttpAnswer

from .._channel import Job
from .._outcomes import Accepted, EndpointGone, Misconfigured, Outcome, Rejected, Throttled, Transient
from ._sms import SmsRequest

_GONE = frozenset({21211, 21214, 21217, 21407, 21421, 21614})
"""Twilio: the number does not exist, or cannot receive SMS."""

_STOPPED = frozenset({21610})
"""Twilio: the recipient has answered STOP."""

_OURS = frozenset({20003, 20404, 20005, 21212, 21603, 21606, 21659, 21660, 21701, 21703, 21704, 21705})
"""Twilio: the account, its key, or the sender is wrong."""

_THROTTLED = frozenset({14107, 20429, 21611, 63038})
"""Twilio: too many messages; 21611 is a full queue of the sender."""


class HttpSmsGateway:
    """Posts JSON to a URL: `to`, `message`, `sender`, `id` (the delivery's, also as `Idempotency-Key`), `metadata`.

    2xx is accepted; a member `id` of the answer is kept. 410 retires the number; 401, 403 and 404 are a wrong
    configuration.

    Args:
        url: where to post; None: not configured, so each message ends as `Misconfigured`.
        key: sent as a bearer token; None: none.
        sender: the number or name that the gateway shows; None: its default.
    """

    def __init__(self, url: str | None, key: str | None = None, *, sender: str | None = None) -> None:
        self._url = url
        self._key = key
        self._sender = sender

    def request(self, job: Job, number: str, text: str) -> SmsRequest | Misconfigured:
        """See `SmsGateway.request`."""
        if not self._url:
            return Misconfigured("SMS is not configured: pass url= to HttpSmsGateway")
        fields: dict[str, Any] = {"to": number, "message": text, "id": job.id, "metadata": {"type": job.type}}
        if self._sender is not None:
            fields["sender"] = self._sender
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Idempotency-Key": job.id}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        return SmsRequest(self._url, headers, json.dumps(fields).encode())

    def outcome(self, answer: HttpAnswer, now: float) -> Outcome:
        """See `SmsGateway.outcome`."""
        status, code, found = answer.status, str(answer.status), _json(answer)
        if 200 <= status < 300:
            return Accepted(str(found.get("id") or found.get("message_id") or ""))
        if status in {401, 403, 404}:
            return Misconfigured(f"the SMS gateway answered {code}: compare url= and key=")
        if status == 410:
            return EndpointGone(code)
        return _rest(answer, now)

    def __repr__(self) -> str:
        return "<HttpSmsGateway>"


class TwilioSmsGateway:
    """Posts a form to the Messages resource of Twilio's API, version 2010-04-01.

    Args:
        account: the account's SID; None: not configured.
        token: the auth token, or the secret of `key`; None: not configured.
        key: the SID of an API key; None: `token` is the account's.
        sender: a number, a short code or a name; or the SID of a messaging service (`MG...`).
        status_callback: the URL to which Twilio reports what became of each message: that of `TwilioReports`. The id of
            the delivery is added to its query.
        base: another server with the same API.
    """

    def __init__(
        self,
        account: str | None,
        token: str | None,
        *,
        sender: str,
        key: str | None = None,
        status_callback: str | None = None,
        base: str = "https://api.twilio.com",
    ) -> None:
        self._account = account
        self._token = token
        self._key = key
        self._sender = sender
        self._status_callback = status_callback
        self._base = base.rstrip("/")

    def request(self, job: Job, number: str, text: str) -> SmsRequest | Misconfigured:
        """See `SmsGateway.request`."""
        if not self._account or not self._token:
            return Misconfigured("SMS is not configured: pass account= and token= to TwilioSmsGateway")
        fields = {
            "To": number,
            "Body": text,
            "MessagingServiceSid" if self._sender.startswith("MG") else "From": self._sender,
        }
        if self._status_callback is not None:
            mark = "&" if "?" in self._status_callback else "?"
            fields["StatusCallback"] = f"{self._status_callback}{mark}delivery={job.id}"
        if job.expires_at is not None:
            left = (job.expires_at - job.now).total_seconds()
            fields["ValidityPeriod"] = str(int(min(max(1.0, left), 36_000.0)))
        login = b64encode(f"{self._key or self._account}:{self._token}".encode()).decode()
        headers = {
            "Authorization": f"Basic {login}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        url = f"{self._base}/2010-04-01/Accounts/{quote(self._account, safe='')}/Messages.json"
        return SmsRequest(url, headers, urlencode(fields, errors="replace").encode())

    def outcome(self, answer: HttpAnswer, now: float) -> Outcome:
        """See `SmsGateway.outcome`. Twilio's own code decides, where there is one."""
        found = _json(answer)
        if 200 <= answer.status < 300:
            return Accepted(str(found.get("sid") or ""))
        code = found.get("code")
        number = code if isinstance(code, int) else None
        if answer.status in {401, 403}:
            return self._refused(answer, number)
        if number in _GONE:
            return EndpointGone(str(number))
        if number in _STOPPED:
            return Rejected(str(number), stop=True, error="the recipient has stopped messages")
        if number in _OURS or answer.status == 404:
            return self._refused(answer, number)
        if number in _THROTTLED:
            return Throttled(answer.retry_after(now))
        if number is not None and answer.status < 500 and answer.status != 429:
            return Rejected(str(number))
        return _rest(answer, now)

    @staticmethod
    def _refused(answer: HttpAnswer, number: int | None) -> Misconfigured:
        return Misconfigured(f"Twilio answered {answer.status} ({number}): compare account=, token= and sender=")

    def __repr__(self) -> str:
        return "<TwilioSmsGateway>"


def _rest(answer: HttpAnswer, now: float) -> Outcome:
    """Return what the status alone says."""
    code, wait = str(answer.status), answer.retry_after(now)
    if answer.status == 429:
        return Throttled(wait)
    if answer.status >= 500 or answer.status in {408, 425}:
        return Transient(code, wait)
    return Rejected(code)


def _json(answer: HttpAnswer) -> dict[str, Any]:
    """Return the JSON object in the body; an empty one if there is none."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
