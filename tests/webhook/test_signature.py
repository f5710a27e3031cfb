"""Signatures, judged by the specification's own library in both directions and by its published vector."""

from __future__ import annotations

import base64
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from notify import UsageError
from notify.webhook import WebhookVerificationError, sign, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"another key of 24 bytes!").decode()
NOW = 1_700_000_000.0


def headers(secret: Any, body: bytes, *, id: str = "msg_1", timestamp: int = int(NOW)) -> dict[str, str]:
    signature = sign(secret, id, timestamp, body)
    return {"webhook-id": id, "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def test_the_published_vector() -> None:
    """The example of the specification has the signature that it gives."""
    body = b'{"test": 2432232314}'
    assert sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@given(st.binary(min_size=1, max_size=64), st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1), st.text())
def test_the_specifications_library_agrees(key: bytes, id: str, text: str) -> None:
    """What we sign it verifies, and what it signs we verify."""
    secret, body = "whsec_" + base64.b64encode(key).decode(), text.encode("utf-8", "replace")
    theirs = standardwebhooks.Webhook(secret)
    now = datetime.now(UTC)
    ours = headers(secret, body, id=id, timestamp=int(now.timestamp()))
    assert theirs.verify(body, ours, json_parse=False) is None
    signature = theirs.sign(id, now, body.decode())
    received = {"Webhook-Id": id, "Webhook-Timestamp": ours["webhook-timestamp"], "Webhook-Signature": signature}
    assert verify(secret, received, body, now=now.timestamp()) == id
    assert signature == ours["webhook-signature"]


@pytest.mark.parametrize(
    "secret", [SECRET, SECRET.removeprefix("whsec_"), base64.b64decode(SECRET[6:]), [OTHER, SECRET]]
)
def test_a_secret_may_be_given_in_several_ways(secret: Any) -> None:
    """With its prefix, as base64 alone, as bytes, or among others."""
    assert verify(secret, headers(SECRET, b"{}"), b"{}", now=NOW) == "msg_1"
    assert verify(SECRET, headers(secret, b"{}"), b"{}", now=NOW) == "msg_1"


def test_a_secret_is_replaced_without_a_break() -> None:
    """While both secrets sign, receivers with either verify; a signature of an unknown version is passed over."""
    both = headers([OTHER, SECRET], b"{}")
    assert verify(SECRET, both, b"{}", now=NOW) == verify(OTHER, both, b"{}", now=NOW) == "msg_1"
    both["webhook-signature"] = "v1a,abc v2,xyz " + both["webhook-signature"]
    assert verify(SECRET, both, b"{}", now=NOW) == "msg_1"


@pytest.mark.parametrize(
    ("change", "body"),
    [
        ({}, b"{} "),
        ({"webhook-id": "msg_2"}, b"{}"),
        ({"webhook-id": ""}, b"{}"),
        ({"webhook-timestamp": str(int(NOW) + 1)}, b"{}"),
        ({"webhook-timestamp": ""}, b"{}"),
        ({"webhook-timestamp": f" {int(NOW)}"}, b"{}"),
        ({"webhook-timestamp": f"{NOW}"}, b"{}"),
        ({"webhook-timestamp": f"+{int(NOW)}"}, b"{}"),
        ({"webhook-timestamp": "\u0661" * 10}, b"{}"),
        ({"webhook-timestamp": "9" * 30}, b"{}"),
        ({"webhook-signature": ""}, b"{}"),
        ({"webhook-signature": "v1,"}, b"{}"),
        ({"webhook-signature": "v1"}, b"{}"),
        ({"webhook-signature": "v1,ä"}, b"{}"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, str], body: bytes) -> None:
    """Another body, id or time, and headers that are malformed."""
    with pytest.raises(WebhookVerificationError):
        verify(SECRET, headers(SECRET, b"{}") | change, body, now=NOW)


@pytest.mark.parametrize("prefix", ["", "v2,", "sha256=", "v1,,", "V1,", "v1;", "1234567"])
def test_the_prefix_of_a_signature_counts(prefix: str) -> None:
    """The right digest behind any other prefix does not verify."""
    given_ = headers(SECRET, b"{}")
    given_["webhook-signature"] = prefix + given_["webhook-signature"].removeprefix("v1,")
    with pytest.raises(WebhookVerificationError, match="no signature fits"):
        verify(SECRET, given_, b"{}", now=NOW)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_named(name: str) -> None:
    """Each of the three headers is required."""
    given_ = headers(SECRET, b"{}")
    del given_[name]
    with pytest.raises(WebhookVerificationError, match=name):
        verify(SECRET, given_, b"{}", now=NOW)


def test_the_wrong_key_is_refused() -> None:
    """A message that was signed with another secret does not verify."""
    with pytest.raises(WebhookVerificationError, match="no signature fits"):
        verify(OTHER, headers(SECRET, b"{}"), b"{}", now=NOW)


@pytest.mark.parametrize("age", [-301, 301, -600, 600, timedelta(days=365 * 317).total_seconds()])
def test_a_time_that_is_too_far_away_is_refused(age: float) -> None:
    """Old and early messages fail, also those that are centuries away; without a tolerance they pass."""
    given_ = headers(SECRET, b"{}", timestamp=max(0, int(NOW + age)))
    with pytest.raises(WebhookVerificationError, match="too old or too early"):
        verify(SECRET, given_, b"{}", now=NOW)
    assert verify(SECRET, given_, b"{}", now=NOW, tolerance=0) == "msg_1"
    near = headers(SECRET, b"{}", timestamp=int(NOW) - 299)
    assert verify(SECRET, near, b"{}", now=NOW) == "msg_1"


@pytest.mark.parametrize(
    "secret", ["", "whsec_", b"", [], "whsec_!!!", "not base64 at all", "whsec_ä", 5, [SECRET, None]]
)
def test_a_secret_that_is_none_is_refused(secret: Any) -> None:
    """An empty or malformed secret is a usage error, whose text does not show it."""
    with pytest.raises(UsageError) as caught:
        sign(secret, "msg_1", 1, b"{}")
    assert "!!!" not in str(caught.value)
    assert "not base64 at all" not in str(caught.value)
    with pytest.raises(UsageError):
        verify(secret, headers(SECRET, b"{}"), b"{}", now=NOW)


def test_random_signatures_do_not_verify() -> None:
    """Of a thousand random signatures none fits."""
    given_ = headers(SECRET, b"{}")
    fits = 0
    for _ in range(1000):
        given_["webhook-signature"] = "v1," + base64.b64encode(secrets.token_bytes(32)).decode()
        try:
            verify(SECRET, given_, b"{}", now=NOW)
        except WebhookVerificationError:
            continue
        fits += 1
    assert fits == 0
