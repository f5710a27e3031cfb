"""Pure: reports that come by e-mail, of deliveries (RFC 3464) and of complaints (RFC 5965)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from email import message_from_bytes, message_from_string
from email.message import Message
from typing import Any, Final

from .._plan import SUPPRESSED
from .._report import Report
from ..abc import State

MAX_REPORTS: Final = 20
"""Reports of one mail that are read. A delivery has one recipient, so there is one, as a rule."""

_VERP: Final = re.compile(r"[+=-]([0-9a-f]{32})@", re.ASCII)
_MESSAGE_ID: Final = re.compile(r"<([0-9a-f]{32})@", re.ASCII)
_STATUS: Final = re.compile(r"\b([245]\.[0-9]{1,3}\.[0-9]{1,3})\b", re.ASCII)
_ADDRESS: Final = re.compile(r"5\.(?:1\.(?:1|2|3|6|10)|2\.1)", re.ASCII)
"""Status codes of an address that does not exist, or a mailbox that is disabled (RFC 3463, 7505)."""

_RETURNED: Final = frozenset({"message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers"})


def mail_reports(raw: bytes) -> Sequence[Report]:
    """Return what a mail to the return path reports; empty: it is something else, or about another system's message.

    The delivery is found by the return path, where `EmailChannel(return_path="bounces+{id}@...")` has put its id, else
    by the `Message-ID` of the message that came back.

    | the mail says | report |
    |---|---|
    | failed: 5.1.1, 5.1.2, 5.1.3, 5.1.6, 5.1.10, 5.2.1 | bounced; the address is suppressed |
    | failed: another status, such as 5.2.2 or 4.4.7 | bounced; the address may be at fault |
    | delivered | delivered |
    | delayed, relayed, expanded | nothing |
    | a complaint: `abuse`, `fraud`, `virus`, `other` | delivered, `complaint`; the address is suppressed |
    | a complaint: `not-spam` | nothing |

    Such a mail is not signed: anyone who knows the id, as the recipient does, can forge it. It can retire that
    recipient's address, and nothing else.

    Args:
        raw: the mail as it was received.
    """
    try:
        message = message_from_bytes(raw)
        parts = message.get_payload()
        if message.get_content_type() != "multipart/report" or not isinstance(parts, list):
            return ()
        id = _delivery(message, parts)
        found = [each for part in parts for each in _of(part, id)] if id else []
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # the parser's, for malformed mail
        return ()
    return found[:MAX_REPORTS]


def _delivery(message: Any, parts: Sequence[Any]) -> str:
    """Return the id of the delivery that a mail is about; empty: it has none."""
    for name in ("Delivered-To", "X-Original-To", "Envelope-To", "To"):
        for value in message.get_all(name, ()):
            if found := _VERP.search(str(value)):
                return found[1]
    for part in parts:
        if part.get_content_type() not in _RETURNED:
            continue
        for each in _headers(part):
            if found := _MESSAGE_ID.search(str(each.get("Message-ID", ""))):
                return found[1]
    return ""


def _headers(part: Any) -> Iterator[Message]:
    """Yield what has the headers of a message that came back, in whole or without its text."""
    payload = part.get_payload()
    if isinstance(payload, list):
        yield from payload
    else:
        decoded = part.get_payload(decode=True)
        yield message_from_bytes(decoded if isinstance(decoded, bytes) else b"")


def _of(part: Any, id: str) -> Iterator[Report]:
    """Yield the reports of one part."""
    kind = part.get_content_type()
    if kind == "message/feedback-report":
        for fields in _headers(part):
            yield from _complaint(fields, id)
    elif kind == "message/delivery-status":
        for block in part.get_payload():  # that of the mail as a whole has no action
            yield from _status(block, id)
    elif kind == "message/global-delivery-status":  # not known to the parser: it reads the first block only
        for fields in _headers(part):
            for block in re.split(r"\r?\n\s*\r?\n", str(fields.get_payload())):
                yield from _status(message_from_string(block), id)


def _complaint(fields: Message, id: str) -> Iterator[Report]:
    kind = str(fields.get("Feedback-Type", "")).strip().lower()
    if kind in ("abuse", "fraud", "virus", "other"):
        yield Report(id, State.DELIVERED, f"complaint: {kind}", retire=SUPPRESSED)


def _status(fields: Message, id: str) -> Iterator[Report]:
    action = str(fields.get("Action", "")).strip().lower().partition(" ")[0]
    status = _STATUS.search(str(fields.get("Status", "")))
    code = status[1] if status else ""
    if action == "delivered":
        yield Report(id, State.DELIVERED, code)
    elif action == "failed":
        is_address = bool(_ADDRESS.fullmatch(code))
        yield Report(id, State.BOUNCED, code, retire=SUPPRESSED if is_address else "", is_unclear=not is_address)
