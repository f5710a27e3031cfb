"""Types of notifications: what they say, and which contradictions are refused when they are made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from notify import UsageError
from notify.dispatch._types import Digest, Fallback, FrequencyCap, NotificationType, Recipient
from notify.dispatch.abc import Endpoint
from tests.dispatch.values import COMMENT, OFFER

HOUR = 3600.0


def made(**fields: Any) -> NotificationType:
    return NotificationType(**{"key": "a.b", "channels": ["in_app", "push", "email"], **fields})


def test_a_type_has_defaults_that_send() -> None:
    """Key and channels are enough: transactional, of normal priority, without limits."""
    assert COMMENT.channels == ("in_app", "push", "email")
    assert (COMMENT.category, COMMENT.priority, COMMENT.ttl, COMMENT.caps) == ("transactional", "normal", None, ())
    assert COMMENT.expires_at(datetime(2027, 1, 1, tzinfo=UTC)) is None
    assert not COMMENT.is_mandatory("push")
    assert COMMENT.collected == frozenset()


def test_a_type_is_a_value() -> None:
    """It cannot be changed, neither by its fields nor by what it was made from; equal ones are equal."""
    channels, fallback = ["in_app", "email"], {"email": Fallback("unread", 60)}
    one = NotificationType("a", channels=channels, fallback=fallback)
    channels.append("sms")
    fallback.clear()
    assert (one.channels, one.fallback) == (("in_app", "email"), {"email": Fallback("unread", 60)})
    assert one == NotificationType("a", channels=("in_app", "email"), fallback={"email": Fallback("unread", 60)})
    assert hash(one) == hash(NotificationType("a", channels=("in_app", "email"), fallback=one.fallback))
    with pytest.raises(FrozenInstanceError):
        one.key = "b"  # type: ignore[misc]
    with pytest.raises(TypeError):
        one.fallback["sms"] = Fallback("unread")  # type: ignore[index]


def test_what_a_type_says() -> None:
    """Its time to live, the channels on which it is mandatory, and those that collect it."""
    submitted = datetime(2027, 1, 1, tzinfo=UTC)
    assert made(ttl=60).expires_at(submitted) == submitted + timedelta(minutes=1)
    some = made(mandatory=["email"])
    assert (some.is_mandatory("email"), some.is_mandatory("push")) == (True, False)
    assert made(mandatory=True).is_mandatory("push")
    assert made(digest=Digest(window=60)).collected == {"push", "email"}
    assert made(digest=Digest(window=60, channels=["in_app"])).collected == {"in_app"}
    assert Digest(window=60, ceiling=HOUR).longest == HOUR
    assert [Digest(every=each).longest / HOUR for each in ("day", "week", "month")] == [24, 168, 744]  # type: ignore[arg-type]


MARKETING = {"category": "marketing", "caps": OFFER.caps, "opt_in": "promotions"}
REFUSED: Mapping[str, dict[str, Any]] = {
    "NotificationType.key must be a name of": {"key": "comment created"},
    "NotificationType.key must be a name of 1 to 128 letters, digits and . : _ -, not 7": {"key": 7},
    "channels must name at least one channel": {"channels": []},
    "channels must be a list of names, not 'push'": {"channels": "push"},
    "channels names something twice: push, push": {"channels": ["push", "push"]},
    "category must be one of 'transactional', 'system', 'marketing', not 'promo'": {"category": "promo"},
    "priority must be one of 'low', 'normal', 'high', 'critical', not 3": {"priority": 3},
    "over_cap must be one of": {"over_cap": "drop"},
    "quiet_hours must be one of 'obey', 'ignore', not True": {"quiet_hours": True},
    "ttl must be a number of seconds greater than 0, not 0": {"ttl": 0},
    "ttl must be a number of seconds greater than 0, not nan": {"ttl": float("nan")},
    "ttl must be a number of seconds greater than 0, not inf": {"ttl": float("inf")},
    "ttl must be a number of seconds greater than 0, not '1h'": {"ttl": "1h"},
    "ttl must be a number of seconds greater than 0, not True": {"ttl": True},
    "opt_in must be a name": {"opt_in": ""},
    "schema must be callable with the data": {"schema": {"type": "object"}},
    "caps must be a list of FrequencyCap, not FrequencyCap(limit=1": {"caps": FrequencyCap(1)},
    "caps must consist of FrequencyCap, not 3": {"caps": [3]},
    "mandatory: sms must be among the channels in_app, push, email": {"mandatory": ["sms"]},
    "digest must be a Digest, not 3600": {"digest": 3600},
    "Digest.channels: sms must be among the channels": {"digest": Digest(window=1, channels=["sms"])},
    "fallback must map channels to Fallback(...)": {"fallback": ["email"]},
    "fallback must consist of Fallback, not 'unread'": {"fallback": {"email": "unread"}},
    "fallback: sms must be among the channels": {"fallback": {"sms": Fallback("unread")}},
    "email cannot be a fallback of email": {"fallback": {"email": Fallback("failed", of="email")}},
    "email cannot be a fallback of push, which is one itself": {
        "fallback": {"push": Fallback("away"), "email": Fallback("failed", of="push")}
    },
    "Fallback.of: in_app must be among the channels email": {
        "channels": ["email"],
        "fallback": {"email": Fallback("unread")},
    },
    "email waits 60 s, and ttl=60 is over by then": {"ttl": 60, "fallback": {"email": Fallback("unread", 60)}},
    "is marketing: give it caps=, and opt_in=": {"category": "marketing", "caps": [FrequencyCap(1)]},
    "the type 'a.b' is marketing: give it caps=": {"category": "marketing", "opt_in": "promotions"},
    "cannot be mandatory, critical or ignore quiet hours": {**MARKETING, "mandatory": True},
    "is marketing, so it cannot be mandatory": {**MARKETING, "mandatory": ["email"]},
    "is marketing, so it cannot be": {**MARKETING, "priority": "critical"},
    "is marketing, so it": {**MARKETING, "quiet_hours": "ignore"},
    "is mandatory, and needs the consent 'terms'": {"mandatory": True, "opt_in": "terms"},
    "over_cap='hold' has no effect without caps=": {"over_cap": "hold"},
    "over_cap: in_app must be among": {"channels": ["push"], "caps": [FrequencyCap(1)], "over_cap": "in_app"},
    "is critical, which is never collected": {"priority": "critical", "digest": Digest(window=60)},
    "digest= has no channel that collects": {"channels": ["in_app"], "digest": Digest(window=60)},
    "email takes part in a fallback, and is collected": {
        "digest": Digest(window=60),
        "fallback": {"email": Fallback("unread")},
    },
    "in_app takes part in a fallback, and is collected": {
        "digest": Digest(window=60, channels=["in_app"]),
        "fallback": {"email": Fallback("unread")},
    },
    "ttl=3600 is over before its digest ends, which takes up to 86400.0 s": {
        "ttl": 3600,
        "digest": Digest(every="day"),
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_contradictions_are_refused(message: str) -> None:
    """The error names the type and the argument, what was given, and what to do."""
    with pytest.raises(UsageError, match=re.escape(message)):
        made(**REFUSED[message])


PARTS: Mapping[str, tuple[type[Any], dict[str, Any]]] = {
    "Fallback.use must be one of 'away', 'unread', 'failed', not 'always'": (Fallback, {"use": "always"}),
    "Fallback.after must be a number of seconds of at least 0, not -1": (Fallback, {"use": "away", "after": -1}),
    "Fallback.of: name the channel for which this one steps in": (Fallback, {"use": "failed"}),
    "Fallback.of is 'push', but only of 'in_app'": (Fallback, {"use": "unread", "of": "push"}),
    "Fallback.of must be a name": (Fallback, {"use": "failed", "of": "a b"}),
    "FrequencyCap.limit must be a whole number of at least 1, not 0": (FrequencyCap, {"limit": 0}),
    "FrequencyCap.limit must be a whole number of at least 1, not True": (FrequencyCap, {"limit": True}),
    "'day', 'week', 'month' or a number of seconds, not 'hour'": (FrequencyCap, {"limit": 1, "per": "hour"}),
    "FrequencyCap.per must be a number of seconds greater than 0": (FrequencyCap, {"limit": 1, "per": 0}),
    "FrequencyCap.scope must be one of": (FrequencyCap, {"limit": 1, "scope": "all"}),
    "Digest needs one end: window= in seconds, or every=": (Digest, {}),
    "Digest needs one end": (Digest, {"window": 60, "every": "day"}),
    "Digest.window must be a number of seconds": (Digest, {"window": -1}),
    "Digest.every must be one of 'day', 'week', 'month', not 'hour'": (Digest, {"every": "hour"}),
    "Digest.ceiling must be a number": (Digest, {"window": 60, "ceiling": "1h"}),
    "Digest.ceiling must be greater than window=60, not 60": (Digest, {"window": 60, "ceiling": 60}),
    "Digest.ceiling must be greater than window=None": (Digest, {"every": "day", "ceiling": 60}),
    "Digest.at must be a time without a zone": (Digest, {"every": "day", "at": "09:00"}),
    "Digest.at must be a time": (Digest, {"every": "day", "at": time(9, tzinfo=UTC)}),
    "Digest.days must be some of mon, tue": (Digest, {"every": "week", "days": ["monday"]}),
    "Digest.day must be a whole number from 1 to 31, not 32": (Digest, {"every": "month", "day": 32}),
    "Digest.limit must be a whole number of at least 2": (Digest, {"window": 60, "limit": 1}),
    "Digest.channels must be a list": (Digest, {"window": 60, "channels": "email"}),
    "Digest.leading must be one of": (Digest, {"window": 60, "leading": "last"}),
    "Digest.look_back= and leading='look_back' belong together": (Digest, {"window": 60, "leading": "look_back"}),
    "Digest.look_back= and leading=": (Digest, {"window": 60, "look_back": 60}),
    "Digest.look_back must be a number": (Digest, {"window": 60, "leading": "look_back", "look_back": 0}),
    "Digest.leading='first' needs a window=": (Digest, {"every": "day", "leading": "first"}),
    "Recipient.id must be text that is not empty, not ''": (Recipient, {"id": ""}),
    "Recipient.tz of 'bob': the time zone 'Mars/Phobos' is unknown": (Recipient, {"id": "bob", "tz": "Mars/Phobos"}),
    "Recipient.locale must be text": (Recipient, {"id": "bob", "locale": None}),
    "Recipient.endpoints must consist of Endpoint": (Recipient, {"id": "bob", "endpoints": ["bob@example.net"]}),
}


@pytest.mark.parametrize("message", PARTS)
def test_bad_parts_are_refused(message: str) -> None:
    """What a type and a recipient consist of is checked by itself, with the same kind of message."""
    kind, fields = PARTS[message]
    with pytest.raises(UsageError, match=re.escape(message)):
        kind(**fields)


def test_a_recipient_without_an_account() -> None:
    """Endpoints may be given with the recipient."""
    address = Endpoint("", "email", "a@example.net")
    assert Recipient("guest", "Europe/Berlin", "de-AT", [address]).endpoints == (address,)


def test_allowed_combinations() -> None:
    """What resembles a contradiction and is none."""
    made(**MARKETING, priority="high", over_cap="in_app", digest=Digest(every="day"))
    made(channels=["push"], fallback={"push": Fallback("away", 60)})
    made(digest=Digest(window=60, channels=["push"]), fallback={"email": Fallback("unread")})
    made(ttl=86_400, digest=Digest(every="day"), mandatory=["email"])
