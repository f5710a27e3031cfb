"""Pure: from a job to a message of FCM's HTTP v1 API, and from an answer to an outcome."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from notify.http import HttpAnswer

from .._channel import Job
from .._outcomes import Accepted, EndpointGone, Misconfigured, Outcome, Rejected, Throttled, Transient

KINDS: Final = ("token", "topic", "fid")
"""The kinds of endpoint. Registration tokens (`token`) are deprecated in favour of installation ids (`fid`)."""

MAX_BYTES: Final = {"token": 4096, "fid": 4096, "topic": 2048}
"""Bytes of text and data at most. FCM's refusal of a larger message looks like that of an invalid token."""

QUOTA_WAIT: Final = 60.0
"""Seconds to wait if a quota is used up and FCM does not say for how long."""

_RESERVED: Final = frozenset({"from", "message_type", "notification", "collapse_key"})
_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_VIOLATION: Final = "type.googleapis.com/google.rpc.BadRequest"


class UnsendableError(ValueError):
    """FCM would refuse the message."""


def fcm_message(job: Job, kind: str, target: str, android_channel: str) -> dict[str, Any]:
    """Return the message.

    With a title or a body it is shown by the system; without, it wakes the application silently. Values of `data` are
    strings, as FCM wants it: others are their JSON. `url` and `id` (of the delivery) are added, and `_meta`: the type,
    channel and priority as JSON.

    Raises:
        UnsendableError: a name in the data is reserved, or the message is too large.
    """
    content = job.content
    is_high = job.priority in {"high", "critical"}
    is_alert = bool(content.title or content.body or content.short)
    data = {name: _text(value) for name, value in {**job.data, **content.data}.items()}
    bad = sorted(name for name in data if name in _RESERVED or name.startswith(("google.", "gcm.")))
    if bad:
        raise UnsendableError(f"data must not have the name {bad[0]!r:.80}, which FCM reserves")
    if content.url:
        data["url"] = content.url
    data["id"] = job.id
    data["_meta"] = _text({"type": job.type, "channel": job.channel, "priority": job.priority})
    android: dict[str, Any] = {"priority": "high" if is_high else "normal"}
    apns: dict[str, str] = {
        "apns-priority": "10" if is_alert else "5",
        "apns-collapse-id": (job.collapse or job.id)[:64],
    }
    webpush: dict[str, str] = {"Urgency": {"low": "low", "normal": "normal"}.get(job.priority, "high")}
    if job.collapse:
        android["collapse_key"] = job.collapse
    if job.expires_at is not None:
        left = max(0, int((job.expires_at - job.now).total_seconds()))
        android["ttl"] = f"{left}s"
        apns["apns-expiration"] = str(int(job.expires_at.timestamp()))
        webpush["TTL"] = str(left)
    aps: dict[str, Any] = {}
    message: dict[str, Any] = {kind: target, "data": data}
    if is_alert:
        shown = {"title": content.title, "body": content.body or content.short, "image": content.image}
        message["notification"] = {name: text for name, text in shown.items() if text}
        android["notification"] = {"tag": content.tag or job.collapse or job.id}
        if is_high:
            android["notification"]["channel_id"] = android_channel
        if not content.silent:
            aps["sound"] = "default"
    else:
        aps["content-available"] = 1
        apns["apns-push-type"] = "background"
    message["android"] = android
    message["apns"] = {"headers": apns, "payload": {"aps": aps}}
    message["webpush"] = {"headers": webpush}
    if content.url.startswith("https://"):
        message["webpush"]["fcm_options"] = {"link": content.url}
    size = len(json.dumps([message.get("notification"), data], ensure_ascii=False).encode("utf-8", "replace"))
    if size > MAX_BYTES[kind]:
        raise UnsendableError(f"text and data have {size} bytes; FCM takes {MAX_BYTES[kind]} for a {kind}")
    return message


def outcome(answer: HttpAnswer, now: float) -> Outcome:
    """Return what an answer of FCM means: the kind of its details decides, not the text of its message.

    A 404 without such details comes from a wrong project or URL, and retires no endpoint.
    """
    status, wait, found = answer.status, answer.retry_after(now), _json(answer)
    if 200 <= status < 300:
        return Accepted(str(found.get("name") or "").rpartition("/")[2])
    error = found.get("error")
    error = error if isinstance(error, Mapping) else {}
    details = [each for each in _list(error.get("details")) if isinstance(each, Mapping)]
    code = next((str(each.get("errorCode")) for each in details if each.get("@type") == _ERROR), "")
    fields = [
        str(violation.get("field"))
        for each in details
        if each.get("@type") == _VIOLATION
        for violation in _list(each.get("fieldViolations"))
        if isinstance(violation, Mapping)
    ]
    name = code or str(error.get("status") or status)
    if code == "UNREGISTERED" and status in {400, 404}:
        return EndpointGone(code)
    if status == 400:
        is_target = all(field in {f"message.{kind}" for kind in KINDS} for field in fields)
        return EndpointGone(name) if code == "INVALID_ARGUMENT" and is_target else Rejected(name)
    if code == "SENDER_ID_MISMATCH":
        return Rejected(code, is_unclear=True, error="the target belongs to another project")
    if code == "THIRD_PARTY_AUTH_ERROR":
        return Misconfigured("FCM has no valid APNs certificate or web push key: set it in the Firebase console")
    if status == 429 or code == "QUOTA_EXCEEDED":
        return Throttled(QUOTA_WAIT if wait is None else wait)
    if status in {401, 403, 404}:
        return Misconfigured(f"FCM answered {status} ({name}): compare project= and credentials=")
    if status >= 500 or status in {408, 425}:
        return Transient(name, wait)
    return Rejected(name)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _json(answer: HttpAnswer) -> Mapping[str, Any]:
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
