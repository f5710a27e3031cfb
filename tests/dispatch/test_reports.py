"""Reading what providers report: Twilio's callbacks, signed JSON, mails about deliveries and complaints."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
import standardwebhooks

from notify import UsageError
from notify.dispatch import Report, State
from notify.dispatch.reports import JsonReports, TwilioReports, mail_reports
from notify.dispatch.reports._twilio import signature
from notify.web import Request
from notify.webhook import sign

ID = "0123456789abcdef0123456789abcdef"
URL = "https://example.com/callbacks/twilio"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_800_000_000.0


def request(query: str = "", **headers: str) -> Request:
    """A request as the application passes it."""
    named = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    return Request({"type": "http", "method": "POST", "query_string": query.encode(), "headers": named})


# -- Twilio ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            [
                *(("CallSid", "CA1234567890ABCDE"), ("Caller", "+14158675309"), ("Digits", "1234")),
                *(("From", "+14158675309"), ("To", "+18005551212")),
            ],
            "RSOYDt4T1cUTdK1PDd93/VVr8B8=",
        ),
        (
            [("Sid", "CA123"), ("SidAccount", "AC123"), ("Digits", "5678"), ("Digits", "1234"), ("Digits", "1234")],
            "IK+Dwps556ElfBT0I3Rgjkr1wJU=",
        ),
    ],
)
def test_the_vectors_of_twilio(fields: list[tuple[str, str]], expected: str) -> None:
    """Those of its documentation and of its libraries, in any order of the fields."""
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    assert signature(b"12345", url, fields) == signature(b"12345", url, fields[::-1]) == expected.encode()


def twilio(fields: dict[str, str], *, token: str = "token", query: str = f"delivery={ID}", url: str = URL) -> Any:
    """What is read from a callback with these fields, signed with a token for a URL."""
    given = signature(token.encode(), f"{url}?{query}" if query else url, fields.items()).decode()
    read = TwilioReports(["token", "old token"], URL)
    return read(request(query, x_twilio_signature=given), urlencode(fields).encode())


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("queued", "", Report(ID, State.ACCEPTED, provider_id="SM1")),
        ("sent", "", Report(ID, State.ACCEPTED, provider_id="SM1")),
        ("delivered", "", Report(ID, State.DELIVERED, provider_id="SM1")),
        ("read", "", Report(ID, State.DELIVERED, provider_id="SM1")),
        ("undelivered", "30003", Report(ID, State.FAILED, "30003", "SM1", is_unclear=True)),
        ("undelivered", "30005", Report(ID, State.FAILED, "30005", "SM1", retire="gone")),
        ("undelivered", "30006", Report(ID, State.FAILED, "30006", "SM1", is_unclear=True)),
        ("undelivered", "30007", Report(ID, State.FAILED, "30007", "SM1")),
        ("failed", "21610", Report(ID, State.FAILED, "21610", "SM1", retire="stopped")),
        ("failed", "21211", Report(ID, State.FAILED, "21211", "SM1", retire="gone")),
        ("failed", "20003", Report(ID, State.FAILED, "20003", "SM1")),
        ("failed", "+436601234567", Report(ID, State.FAILED, "", "SM1")),
        ("canceled", "", Report(ID, State.FAILED, provider_id="SM1")),
    ],
)
def test_each_status_of_twilio(status: str, code: str, expected: Report) -> None:
    """Its code says whether the number is at fault; what is not a code is not kept."""
    fields = {"MessageSid": "SM1", "MessageStatus": status, "To": "+436601234567", "From": "+1500"}
    assert twilio(fields | ({"ErrorCode": code} if code else {})) == [expected]
    assert twilio({"SmsSid": "SM1", "SmsStatus": status} | ({"ErrorCode": code} if code else {})) == [expected]


def test_what_twilio_did_not_sign() -> None:
    """Another token, another URL, another delivery, a changed or added field, no signature: nothing is read."""
    fields = {"MessageSid": "SM1", "MessageStatus": "delivered", "To": "ä+&= "}
    assert twilio(fields) == twilio(fields, token="old token") == [Report(ID, State.DELIVERED, provider_id="SM1")]
    assert twilio(fields, token="another") is None
    assert twilio(fields, url="https://example.com/callbacks/other") is None
    read, good = TwilioReports("token", URL), signature(b"token", f"{URL}?delivery={ID}", fields.items()).decode()
    body = urlencode(fields).encode()
    for query, sent, given in (
        (f"delivery={ID[::-1]}", body, good),
        (f"delivery={ID}&delivery={ID[::-1]}", body, good),
        (f"delivery={ID}", body + b"&ErrorCode=21610", good),
        (f"delivery={ID}", body.replace(b"delivered", b"failed"), good),
        (f"delivery={ID}", b"", good),
        (f"delivery={ID}", body, ""),
        (f"delivery={ID}", body, "\xff"),
    ):
        assert read(request(query, x_twilio_signature=given), sent) is None
    with pytest.raises(ValueError, match="bad query field"):
        read(request(f"delivery={ID}", x_twilio_signature=good), b"no form")


def test_a_message_of_another_system() -> None:
    """Signed by Twilio, but without a delivery, or with a status that is not known: nothing to report."""
    assert twilio({"MessageSid": "SM1", "MessageStatus": "delivered"}, query="") == ()
    assert twilio({"MessageSid": "SM1", "MessageStatus": "delivered"}, query="delivery=1%27") == ()
    assert twilio({"MessageSid": "SM1", "MessageStatus": "unheard-of"}) == ()


def test_settings_are_checked() -> None:
    """A token and a public URL are needed; no error and no repr shows a secret."""
    for token, url in (("", URL), ([], URL), ("hush", "/callbacks"), ("hush", "")):
        with pytest.raises(UsageError) as caught:
            TwilioReports(token, url)
        assert "hush" not in str(caught.value)
    with pytest.raises(UsageError):
        JsonReports("???")
    assert "hush" not in repr(TwilioReports("hush", URL))
    assert SECRET not in repr(JsonReports(SECRET))
    for fields in ({"state": State.WAITING}, {"state": State.BOUNCED, "retire": "removed"}):
        with pytest.raises(UsageError, match="Report"):
            Report(ID, **fields)  # type: ignore[arg-type]


# -- JSON ------------------------------------------------------------------------------------------------------------


def signed(value: Any, *, at: float = NOW) -> Any:
    """What is read from signed JSON."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    headers = {"webhook_id": "msg_1", "webhook_timestamp": str(int(at))}
    read = JsonReports(["b3RoZXI=", SECRET], wall_clock=lambda: NOW)
    return read(request(**headers, webhook_signature=sign(SECRET, "msg_1", int(at), body)), body)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("accepted", Report(ID, State.ACCEPTED, "250")),
        ("delivered", Report(ID, State.DELIVERED, "250")),
        ("failed", Report(ID, State.FAILED, "250")),
        ("soft_bounce", Report(ID, State.BOUNCED, "250", is_unclear=True)),
        ("hard_bounce", Report(ID, State.BOUNCED, "250", retire="suppressed")),
        ("gone", Report(ID, State.BOUNCED, "250", retire="gone")),
        ("complaint", Report(ID, State.DELIVERED, "250", retire="suppressed")),
        ("stopped", Report(ID, State.BOUNCED, "250", retire="stopped")),
    ],
)
def test_each_event(event: str, expected: Report) -> None:
    """One object, or a list; what else is in it is ignored, and so are events that are not known."""
    given = {"id": ID, "event": event, "code": "250", "to": "bob@example.com"}
    assert signed(given) == [expected]
    assert signed([given, {"id": ID, "event": "unheard-of"}, given]) == [expected, expected]


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"{", b"\xff", 7, None, [7], {}, {"id": ID}, {"event": "delivered"}, {"id": "1", "event": "delivered"}),
        {"id": ID, "event": "delivered", "code": "two\nlines"},
        {"id": ID, "event": "delivered", "code": "x" * 65},
        {"id": ID, "event": "delivered", "provider_id": 7},
        [{"id": ID, "event": "delivered"}] * 1001,
    ],
)
def test_json_that_is_not_understood(value: Any) -> None:
    """A ValueError, which the application answers with 400."""
    with pytest.raises(ValueError):  # noqa: PT011 - the message is for no one
        signed(value)


def test_json_that_is_not_signed() -> None:
    """Another secret, another body, or a time of long ago, as of a request that was recorded."""
    body = json.dumps({"id": ID, "event": "delivered"}).encode()
    assert signed(body, at=NOW - 299) == [Report(ID, State.DELIVERED)]
    assert signed(body, at=NOW - 301) is None
    read = JsonReports(SECRET, wall_clock=lambda: NOW)
    for secret, sent in ((SECRET, body + b" "), ("b3RoZXI=", body)):
        header = sign(secret, "msg_1", int(NOW), body)
        headers = {"webhook_id": "msg_1", "webhook_timestamp": str(int(NOW))}
        assert read(request(**headers, webhook_signature=header), sent) is None
    assert read(request(), body) is None


def test_another_library_signs() -> None:
    """What the library of the standard has signed is accepted."""
    from datetime import UTC, datetime

    body = json.dumps({"id": ID, "event": "delivered"})
    header = standardwebhooks.Webhook(SECRET).sign("msg_1", datetime.fromtimestamp(NOW, UTC), body)
    headers = {"webhook_id": "msg_1", "webhook_timestamp": str(int(NOW)), "webhook_signature": header}
    assert JsonReports(SECRET, wall_clock=lambda: NOW)(request(**headers), body.encode()) == [
        Report(ID, State.DELIVERED)
    ]


# -- mail ------------------------------------------------------------------------------------------------------------

BOUNCE = """\
Return-Path: <>
Delivered-To: {to}
From: MAILER-DAEMON@mx.example.net (Mail Delivery System)
To: {to}
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="=b"

This is a MIME-encapsulated message.

--=b
Content-Type: text/plain; charset=us-ascii

I'm sorry to have to inform you that your message could not be delivered.

--=b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net
Arrival-Date: Tue,  5 Jan 2027 12:00:00 +0000 (UTC)

Final-Recipient: rfc822; bob@example.org
Original-Recipient: rfc822;bob@example.org
Action: {action}
Status: {status}
Remote-MTA: dns; mx.example.org
Diagnostic-Code: smtp; 550 5.1.1 <bob@example.org>: user unknown

--=b
Content-Type: {kind}

From: no-reply@example.com
To: bob@example.org
Subject: hello
Message-ID: <{message}@example.com>

--=b--
"""

FIELDS = {
    "to": "bounces@example.com",
    "action": "failed",
    "status": "5.1.1",
    "kind": "message/rfc822",
    "message": ID,
}

COMPLAINT = """\
From: <abusedesk@example.net>
To: <fbl@example.com>
Subject: FW: Earn money
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="part1"

--part1
Content-Type: text/plain; charset="US-ASCII"

This is an email abuse report.

--part1
Content-Type: message/feedback-report

Feedback-Type: {kind}
User-Agent: SomeGenerator/1.0
Version: 1
Original-Mail-From: <{sender}>
Original-Rcpt-To: <user@example.net>

--part1
Content-Type: {returned}

From: <somespammer@example.net>
Message-ID: <{message}@example.com>
Subject: Earn money

--part1--
"""


def bounce(**fields: str) -> bytes:
    """A report of a delivery, with line ends as in SMTP."""
    return BOUNCE.format(**FIELDS | fields).replace("\n", "\r\n").encode()


@pytest.mark.parametrize(
    ("action", "status", "expected"),
    [
        ("failed", "5.1.1", [Report(ID, State.BOUNCED, "5.1.1", retire="suppressed")]),
        ("Failed", "5.1.2 (bad domain)", [Report(ID, State.BOUNCED, "5.1.2", retire="suppressed")]),
        ("failed", "5.1.10", [Report(ID, State.BOUNCED, "5.1.10", retire="suppressed")]),
        ("failed", "5.2.1", [Report(ID, State.BOUNCED, "5.2.1", retire="suppressed")]),
        ("failed", "5.2.2", [Report(ID, State.BOUNCED, "5.2.2", is_unclear=True)]),
        ("failed", "5.1.8", [Report(ID, State.BOUNCED, "5.1.8", is_unclear=True)]),
        ("failed", "5.7.1", [Report(ID, State.BOUNCED, "5.7.1", is_unclear=True)]),
        ("failed", "4.4.7", [Report(ID, State.BOUNCED, "4.4.7", is_unclear=True)]),
        ("failed", "gibberish bob@example.org", [Report(ID, State.BOUNCED, is_unclear=True)]),
        ("delivered", "2.0.0", [Report(ID, State.DELIVERED, "2.0.0")]),
        ("delayed", "4.4.1", []),
        ("relayed", "2.0.0", []),
        ("expanded", "2.0.0", []),
    ],
)
def test_reports_of_deliveries(action: str, status: str, expected: list[Report]) -> None:
    """RFC 3464: what failed, for good or perhaps, and what arrived."""
    assert list(mail_reports(bounce(action=action, status=status))) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "text/rfc822-headers"},
        {"kind": "message/global-headers"},
        {"kind": "message/rfc822", "message": "other", "to": f"bounces+{ID}@example.com"},
        {"kind": "text/plain", "to": f'"Bounces" <bounces={ID}@example.com>'},
    ],
)
def test_the_delivery_of_a_bounce(fields: dict[str, str]) -> None:
    """By the message that came back, whole or only its headers, or by the address to which it was returned."""
    assert list(mail_reports(bounce(**fields))) == [Report(ID, State.BOUNCED, "5.1.1", retire="suppressed")]
    text = bounce(**fields).replace(b"message/delivery-status", b"message/global-delivery-status")
    assert list(mail_reports(text)) == [Report(ID, State.BOUNCED, "5.1.1", retire="suppressed")]


@pytest.mark.parametrize("sender", ["bounces@example.com", f"bounces+{ID}@example.com"])
@pytest.mark.parametrize("returned", ["message/rfc822", "text/rfc822-headers"])
@pytest.mark.parametrize("kind", ["abuse", "fraud", "virus", "other", "not-spam", "opt-out"])
def test_complaints(kind: str, returned: str, sender: str) -> None:
    """RFC 5965: what is called spam was delivered, and its address gets nothing more; what is not spam says nothing."""
    text = COMPLAINT.format(kind=kind, sender=sender, returned=returned, message=ID)
    expected = Report(ID, State.DELIVERED, f"complaint: {kind}", retire="suppressed")
    assert list(mail_reports(text.encode())) == ([] if kind in ("not-spam", "opt-out") else [expected])


def test_mail_that_is_not_a_report() -> None:
    """An answer of a person or a robot, a report about another system's message, rubbish, a mail that nests deeply."""
    nested = b"".join(b'Content-Type: multipart/report; boundary="%d"\n\n--%d\n' % (n, n) for n in range(500))
    for raw in (
        b"",
        b"\xff\xfe\x00",
        b"From: bob@example.org\nTo: bounces@example.com\nSubject: Re: hello\n\nthank you",
        bounce(message="1234"),
        bounce(kind="text/plain"),
        bounce().replace(b"multipart/report", b"multipart/mixed"),
        bounce().replace(b"Action", b"X-Action"),
        bounce().partition(b"Reporting-MTA")[0],
        nested,
        b'Content-Type: multipart/report; boundary="x"\n\n--x\nContent-Type: message/delivery-status\n\n\xff: \xff\n',
    ):
        assert list(mail_reports(raw)) == []
    many = bounce().replace(b"\r\n\r\nFinal-Recipient", b"\r\n\r\nAction: failed\r\n\r\nFinal-Recipient" * 100)
    assert len(mail_reports(many)) == 20


def test_a_mail_in_a_mail_in_a_mail() -> None:
    """What is nested more deeply than any mail is not a report, and no error."""
    nested = b"Content-Type: message/rfc822\r\n\r\n" * 3000
    head = b'Content-Type: multipart/report; boundary="b"\r\n\r\n--b\r\n'
    assert mail_reports(head + nested + b"\r\n--b--\r\n") == ()


def test_every_cut_of_a_report_is_read_without_an_error() -> None:
    """A mail may end anywhere."""
    for raw in (
        bounce(),
        COMPLAINT.format(kind="abuse", sender="a@b.c", returned="message/rfc822", message=ID).encode(),
    ):
        for end in range(0, len(raw), 7):
            assert len(mail_reports(raw[:end])) <= 1
