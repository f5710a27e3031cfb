"""Plans: what is to be done for one recipient, why, and that it is the same however it is asked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify import UsageError
from notify.dispatch._decisions import Hold, Join, Plan, Send, Skip, from_json, skip_all, to_json
from notify.dispatch._layers import Layers
from notify.dispatch._plan import STOPPED, SUPPRESSED, Look, plan_recipient, usable
from notify.dispatch._preferences import Preferences
from notify.dispatch._reasons import Reason
from notify.dispatch._type_parts import Digest, Fallback, FrequencyCap
from notify.dispatch._types import NotificationType, Recipient
from notify.dispatch.abc import Endpoint
from tests.dispatch.values import CHANNELS, COMMENT, NOW, OFFER, Way, endpoint, utc

BERLIN = "Europe/Berlin"
NIGHT = {"quiet_hours": [{"start": "22:00", "end": "07:00"}]}
EVENING, MORNING = utc("2027-01-05 23:00"), utc("2027-01-06 06:00")
DEVICES = [endpoint("push"), endpoint("email"), endpoint("sms")]
MINUTE = timedelta(minutes=1)


def plan(
    type: NotificationType = COMMENT,
    user: dict[str, Any] | None = None,
    *,
    now: datetime = NOW,
    tz: str = BERLIN,
    endpoints: Sequence[Endpoint] = DEVICES,
    look: Look | None = None,
    **layers: dict[str, Any],
) -> Plan:
    """The plan for alice, who has one endpoint of each kind and lives in Berlin."""
    given_ = {name: Preferences.from_json(each) for name, each in {"user": user or {}, **layers}.items()}
    return plan_recipient(
        type,
        Recipient("alice", tz),
        Layers(**given_),
        endpoints,
        CHANNELS,
        now=now,
        expires_at=type.expires_at(NOW if look else now),
        look=look,
    )


def test_what_nothing_is_against_is_sent() -> None:
    """One decision for each channel of the type, in its order, at once, to the endpoints that there are."""
    assert plan() == Plan(
        "comment.created",
        "alice",
        (
            Send(channel="in_app", reason=Reason.ALLOWED, layer="type", at=NOW),
            Send(channel="push", reason=Reason.ALLOWED, layer="type", at=NOW, endpoints=("push",)),
            Send(channel="email", reason=Reason.ALLOWED, layer="type", at=NOW, endpoints=("email",)),
        ),
    )


def test_a_plan_by_channel() -> None:
    """A decision is found by its channel; what the type does not use is not in it."""
    assert plan()["push"].channel == "push"
    with pytest.raises(KeyError):
        plan()["sms"]


def test_preferences_decide() -> None:
    """What is off is skipped, with the layer and the entry; the inbox lists it without an alert."""
    found = plan(user={"channels": {"push": False}}, default={"types": {"comment.created": {"email": False}}})
    assert found["push"] == Skip(channel="push", reason=Reason.OPTED_OUT, layer="user", rule="channels/push")
    assert found["email"] == Skip(
        channel="email", reason=Reason.OPTED_OUT, layer="default", rule="types/comment.created/email"
    )
    silent = plan(user={"all": False})["in_app"]
    assert silent == Send(channel="in_app", reason=Reason.LISTED_ONLY, layer="user", rule="all", at=NOW, silent=True)


def test_consent() -> None:
    """Without the consent nothing is sent, and nothing listed; with it everything is."""
    missing = plan(OFFER)
    assert {type(each) for each in missing.decisions} == {Skip}
    assert missing["in_app"] == Skip(channel="in_app", reason=Reason.NOT_OPTED_IN, layer="type")
    taken_back = plan(OFFER, {"opt_in": {"promotions": False}}, default={"opt_in": {"promotions": True}})
    assert taken_back["email"] == Skip(
        channel="email", reason=Reason.NOT_OPTED_IN, layer="user", rule="opt_in/promotions"
    )
    assert {type(each) for each in plan(OFFER, {"opt_in": {"promotions": True}}).decisions} == {Send}


def test_mandatory() -> None:
    """Preferences do not stop it, a missing address does; quiet hours hold it."""
    security = NotificationType("security", channels=["in_app", "email", "push"], mandatory=True)
    found = plan(security, {"all": False, **NIGHT}, endpoints=DEVICES[1:], now=EVENING)
    assert found["in_app"] == Send(channel="in_app", reason=Reason.MANDATORY, layer="mandatory", at=EVENING)
    assert found["email"] == Hold(
        channel="email", reason=Reason.QUIET_HOURS, layer="user", rule="quiet_hours/0", until=MORNING
    )
    assert found["push"] == Skip(channel="push", reason=Reason.NO_ENDPOINT, layer="endpoints")


def test_channels_that_are_not_installed() -> None:
    """They are skipped; the others are not concerned."""
    found = plan_recipient(COMMENT, Recipient("alice"), Layers(), DEVICES, {"push": Way()}, now=NOW, expires_at=None)
    assert [each.reason for each in found.decisions] == [Reason.NOT_INSTALLED, Reason.ALLOWED, Reason.NOT_INSTALLED]
    assert found["email"].layer == "dispatcher"


def test_endpoints() -> None:
    """Only those in use count, sorted; a channel without endpoints needs none."""
    gone = endpoint("push", "p0", retired_at=NOW, reason="gone")
    found = plan(endpoints=[endpoint("push", "p2"), gone, endpoint("push", "p1")])
    assert isinstance(found["push"], Send)
    assert found["push"].endpoints == ("p1", "p2")
    assert found["email"] == Skip(channel="email", reason=Reason.NO_ENDPOINT, layer="endpoints")
    assert plan(endpoints=[gone])["push"].reason is Reason.NO_ENDPOINT
    assert isinstance(plan(endpoints=[])["in_app"], Send)


@pytest.mark.parametrize(
    ("reason", "is_mandatory", "decision"),
    [
        (SUPPRESSED, False, Skip),
        (SUPPRESSED, True, Send),
        (STOPPED, False, Skip),
        (STOPPED, True, Skip),
        ("gone", True, Skip),
    ],
)
def test_suppressed_addresses(reason: str, is_mandatory: bool, decision: type) -> None:
    """An address that bounced is tried for what is mandatory; one that its owner stopped never is."""
    security = NotificationType("security", channels=["email"], mandatory=is_mandatory)
    address = endpoint("email", retired_at=NOW, reason=reason)
    found = plan(security, endpoints=[address])["email"]
    assert isinstance(found, decision)
    if decision is Skip:
        assert found.reason is (Reason.NO_ENDPOINT if reason == "gone" else Reason.SUPPRESSED)
    assert bool(usable(security, "email", [address])) == (decision is Send)


def test_expired() -> None:
    """What has expired is not sent, nor what would be held until then; the inbox included."""
    short = NotificationType("a", channels=["in_app", "push"], ttl=3600)
    assert [each.reason for each in plan(short, now=NOW + 60 * MINUTE, look=Look(channel="in_app")).decisions] == [
        Reason.EXPIRED
    ]
    assert isinstance(plan(short, now=NOW + 59 * MINUTE, look=Look(channel="in_app"))["in_app"], Send)
    found = plan(short, NIGHT, now=EVENING)
    assert isinstance(found["in_app"], Send)
    assert found["push"] == Skip(channel="push", reason=Reason.EXPIRED, layer="user", rule="quiet_hours/0")
    until_morning = NotificationType("a", channels=["push"], ttl=7 * 3600)
    assert plan(until_morning, NIGHT, now=EVENING)["push"].reason is Reason.EXPIRED, "it expires when the night ends"


QUIET: dict[str, tuple[dict[str, Any], NotificationType, datetime, type, datetime | None]] = {
    "it is held until the end": ({}, COMMENT, EVENING, Hold, MORNING),
    "by day it is not": ({}, COMMENT, NOW, Send, None),
    "dropped": ({"action": "drop"}, COMMENT, EVENING, Skip, None),
    "collected": ({"action": "digest"}, COMMENT, EVENING, Join, MORNING),
    "critical ones pass": ({}, NotificationType("a", channels=["push"], priority="critical"), EVENING, Send, None),
    "unless the rule says so": (
        {"bypass": None},
        NotificationType("a", channels=["push"], priority="critical"),
        EVENING,
        Hold,
        MORNING,
    ),
    "and they are never collected": (
        {"bypass": None, "action": "digest"},
        NotificationType("a", channels=["push"], priority="critical"),
        EVENING,
        Hold,
        MORNING,
    ),
    "high ones pass if the rule says so": (
        {"bypass": "high"},
        NotificationType("a", channels=["push"], priority="high"),
        EVENING,
        Send,
        None,
    ),
    "types may ignore it": ({}, NotificationType("a", channels=["push"], quiet_hours="ignore"), EVENING, Send, None),
    "other channels are not concerned": ({"channels": ["sms"]}, COMMENT, EVENING, Send, None),
}


@pytest.mark.parametrize("case", QUIET)
def test_quiet_hours(case: str) -> None:
    """At night it is held, collected or dropped, as the rule says."""
    fields, type, now, decision, until = QUIET[case]
    found = plan(type, {"quiet_hours": [{"start": "22:00", "end": "07:00", **fields}]}, now=now)["push"]
    assert isinstance(found, decision)
    assert getattr(found, "until", None) == until
    if not isinstance(found, Send):
        assert (found.reason, found.layer, found.rule) == (Reason.QUIET_HOURS, "user", "quiet_hours/0")


def test_the_inbox_is_quiet_only_if_named() -> None:
    """A rule without channels concerns all but the inbox."""
    assert isinstance(plan(user=NIGHT, now=EVENING)["in_app"], Send)
    named = {"quiet_hours": [{"start": "22:00", "end": "07:00", "channels": ["in_app"]}]}
    assert isinstance(plan(user=named, now=EVENING)["in_app"], Hold)


def test_the_strictest_rule_decides() -> None:
    """Of several rules in force, dropping is stronger than collecting, and that than holding; the chain is one."""
    rules = [{"start": "22:00", "end": "07:00"}, {"start": "23:00", "end": "08:00", "action": "digest"}]
    found = plan(user={"quiet_hours": rules}, now=EVENING)["push"]
    assert isinstance(found, Join)
    assert (found.until, found.rule) == (MORNING + 60 * MINUTE, "quiet_hours/1")
    rules.append({"start": "23:30", "end": "00:30", "action": "drop"})
    assert isinstance(plan(user={"quiet_hours": rules}, now=EVENING)["push"], Skip)
    assert isinstance(plan(user={"quiet_hours": rules}, now=EVENING + 45 * MINUTE)["push"], Join)


ZONES = [
    ("device, account", "Asia/Tokyo", BERLIN, {}, "2027-01-05 22:00"),
    ("account", "", BERLIN, {}, "2027-01-06 06:00"),
    ("device says nonsense", "Mars/Phobos", BERLIN, {}, "2027-01-06 06:00"),
    ("preferences, account", "", BERLIN, {"user": {"tz": "UTC", **NIGHT}}, "2027-01-06 07:00"),
    ("account, default", "", BERLIN, {"default": {"tz": "UTC"}}, "2027-01-06 06:00"),
    ("default", "", "", {"default": {"tz": "UTC"}}, "2027-01-06 07:00"),
    ("nothing", "", "", {}, "2027-01-06 05:00"),
]


@pytest.mark.parametrize(("who", "device", "account", "layers", "until"), ZONES, ids=[each[0] for each in ZONES])
def test_whose_zone(who: str, device: str, account: str, layers: dict[str, Any], until: str) -> None:
    """The device's zone, else that of the preferences, the account, the defaults, and of the dispatcher."""
    now = utc("2027-01-05 21:30")
    meta = {"tz": device} if device else {}
    found = plan_recipient(
        NotificationType("a", channels=["push"]),
        Recipient("alice", account),
        Layers(**{name: Preferences.from_json(each) for name, each in {"user": NIGHT, **layers}.items()}),
        [endpoint("push", meta=meta)],
        CHANNELS,
        now=now if not who.startswith("device,") else utc("2027-01-05 14:00"),
        expires_at=None,
        tz="Africa/Cairo",
    )["push"]
    if who in ("preferences, account", "default"):
        assert isinstance(found, Send), "it is 21:30 in UTC"
    else:
        assert isinstance(found, Hold)
        assert found.until == utc(until)


def test_devices_in_two_zones() -> None:
    """As soon as it is not quiet for one device, the delivery is split; each part is looked at by itself."""
    tokyo, berlin = (endpoint("push", tz, meta={"tz": tz}) for tz in ("Asia/Tokyo", BERLIN))
    push = NotificationType("a", channels=["push"])
    now = utc("2027-01-05 21:30")  # 06:30 in Tokyo, 22:30 in Berlin
    assert plan(push, NIGHT, now=now, endpoints=[tokyo, berlin])["push"] == Hold(
        channel="push",
        reason=Reason.QUIET_HOURS,
        layer="user",
        rule="quiet_hours/0",
        until=utc("2027-01-05 22:00"),
    )
    now = utc("2027-01-05 22:00")
    assert isinstance(plan(push, NIGHT, now=now, endpoints=[tokyo, berlin])["push"], Send)
    alone = plan(push, NIGHT, now=now, endpoints=[berlin], look=Look(channel="push"))["push"]
    assert isinstance(alone, Hold)
    assert alone.until == MORNING


AWAY = NotificationType(
    "message",
    channels=["email", "push", "in_app"],
    fallback={"push": Fallback("away", 5), "email": Fallback("unread", 900)},
)


def test_fallbacks_wait_for_the_inbox() -> None:
    """They wait for the inbox to accept, and for their time after it; the order of the channels does not matter."""
    found = plan(AWAY)
    assert [each.channel for each in found.decisions] == ["email", "push", "in_app"]
    assert found["email"] == Hold(
        channel="email", reason=Reason.FALLBACK, layer="type", until=None, after="in_app", delay=900
    )
    assert found["push"] == Hold(channel="push", reason=Reason.FALLBACK, layer="type", after="in_app", delay=5)


def test_a_fallback_of_what_is_skipped_is_used_at_once() -> None:
    """If the other channel is not used, there is nothing to wait for."""
    found = plan_recipient(
        AWAY, Recipient("alice"), Layers(), DEVICES, {"push": Way(), "email": Way()}, now=NOW, expires_at=None
    )
    assert [type(each) for each in found.decisions] == [Send, Send, Skip]
    failed = NotificationType("a", channels=["push", "sms"], fallback={"sms": Fallback("failed", 60, of="push")})
    assert isinstance(plan(failed)["sms"], Hold)
    assert isinstance(plan(failed, endpoints=[endpoint("sms")])["sms"], Send)
    assert isinstance(plan(failed, {"channels": {"push": False}})["sms"], Send)


def test_away_without_an_inbox() -> None:
    """A type without an inbox waits for the time alone."""
    push = NotificationType("a", channels=["push"], fallback={"push": Fallback("away", 60)})
    assert plan(push)["push"] == Hold(channel="push", reason=Reason.FALLBACK, layer="type", until=NOW + MINUTE)
    at_once = NotificationType("a", channels=["push"], fallback={"push": Fallback("away")})
    assert isinstance(plan(at_once)["push"], Send)


def test_a_fallback_that_would_come_too_late() -> None:
    """A fallback whose time comes after the end is not kept waiting."""
    late = NotificationType("a", channels=["in_app", "push"], ttl=60, fallback={"push": Fallback("away", 30)})
    found = plan_recipient(late, Recipient("alice"), Layers(), DEVICES, CHANNELS, now=NOW, expires_at=NOW + MINUTE / 2)
    assert found["push"] == Skip(channel="push", reason=Reason.EXPIRED, layer="type")


LOOKS = {
    "unread": ("email", {}, None),
    "read": ("email", {"is_read": True}, Reason.READ_ALREADY),
    "connected, but unread": ("email", {"is_connected": True}, None),
    "away": ("push", {}, None),
    "connected": ("push", {"is_connected": True}, Reason.CONNECTED),
    "away, and read": ("push", {"is_read": True}, Reason.READ_ALREADY),
}


@pytest.mark.parametrize("case", LOOKS)
def test_whether_a_fallback_is_needed(case: str) -> None:
    """When its time has come, it is sent unless the recipient has read it, or is there."""
    channel, known, reason = LOOKS[case]
    found = plan(AWAY, look=Look(channel=channel, **known))
    assert len(found.decisions) == 1
    assert isinstance(found[channel], Send) == (reason is None)
    assert reason is None or found[channel].reason is reason


def test_a_fallback_for_failures() -> None:
    """It is not needed where the other channel was accepted, whatever is known beside that."""
    failed = NotificationType("a", channels=["push", "sms"], fallback={"sms": Fallback("failed", of="push")})
    assert isinstance(plan(failed, look=Look(channel="sms", is_read=True, is_connected=True))["sms"], Send)
    assert plan(failed, look=Look(channel="sms", is_reached=True))["sms"].reason is Reason.REACHED_ALREADY


def test_a_look_at_a_channel_that_is_always_used() -> None:
    """Reading and being there matter for fallbacks only."""
    look = Look(channel="push", is_read=True, is_connected=True, is_reached=True)
    assert isinstance(plan(look=look)["push"], Send)


def test_a_channel_that_the_type_no_longer_has() -> None:
    """A delivery that waited while the type changed is skipped."""
    assert plan(look=Look(channel="sms")).decisions == (
        Skip(channel="sms", reason=Reason.CHANNEL_NOT_ALLOWED, layer="type"),
    )


def test_collected() -> None:
    """What is collected joins; a digest itself does not, and is held by quiet hours that collect."""
    daily = NotificationType("a", channels=["in_app", "email"], digest=Digest(every="day"))
    assert plan(daily)["email"] == Join(
        channel="email",
        reason=Reason.DIGEST,
        layer="type",
        closes_at=utc("2027-01-06 08:00"),
        until=utc("2027-01-06 08:00"),
    )
    assert isinstance(plan(daily)["in_app"], Send)
    assert isinstance(plan(daily, look=Look(channel="email", is_digest=True))["email"], Send)
    collecting = {"quiet_hours": [{"start": "22:00", "end": "07:00", "action": "digest"}]}
    held = plan(daily, collecting, now=EVENING, look=Look(channel="email", is_digest=True))["email"]
    assert isinstance(held, Hold)


def test_wrong_arguments() -> None:
    """A time without a zone, and a zone that does not exist, are refused."""
    with pytest.raises(UsageError, match="now must be an aware datetime"):
        plan(now=datetime(2027, 1, 5))
    with pytest.raises(UsageError, match="tz: the time zone 'Berlin' is unknown"):
        plan_recipient(COMMENT, Recipient("a"), Layers(), [], CHANNELS, now=NOW, expires_at=None, tz="Berlin")


def test_rules_without_an_end_for_this_recipient() -> None:
    """Rules of two zones may cover the week for recipients of one zone only: nothing is held without end."""
    rules = [{"start": "00:00", "end": "12:00"}, {"start": "12:00", "end": "00:00", "tz": "Asia/Tokyo"}]
    push = NotificationType("a", channels=["push"])
    daily = NotificationType("a", channels=["push"], digest=Digest(window=60))
    held = plan(push, {"quiet_hours": rules}, tz="UTC")["push"]
    assert isinstance(held, Hold)
    assert held.until == utc("2027-01-05 15:00")
    assert plan(push, {"quiet_hours": rules}, tz="Asia/Tokyo")["push"] == Skip(
        channel="push", reason=Reason.QUIET_HOURS, layer="user", rule="quiet_hours/1"
    )
    joined = plan(daily, {"quiet_hours": rules}, tz="Asia/Tokyo")["push"]
    assert isinstance(joined, Join)
    assert joined.until == joined.closes_at == NOW + MINUTE


# -- properties -----------------------------------------------------------------------------------------------------

SWITCH = st.sampled_from([True, False])
NAMES = st.sampled_from(["in_app", "push", "email", "sms"])
RULE = st.fixed_dictionaries(
    {"start": st.sampled_from(["22:00", "12:00", "00:30"]), "end": st.sampled_from(["07:00", "13:00"])},
    optional={
        "action": st.sampled_from(["hold", "drop", "digest"]),
        "channels": st.lists(NAMES, unique=True),
        "bypass": st.sampled_from([None, "high"]),
        "tz": st.sampled_from(["Asia/Tokyo", "UTC"]),
    },
)
STATED = st.fixed_dictionaries(
    {},
    optional={
        "all": SWITCH,
        "channels": st.dictionaries(NAMES, SWITCH, max_size=2),
        "categories": st.fixed_dictionaries({"marketing": st.dictionaries(NAMES | st.just("*"), SWITCH, max_size=2)}),
        "types": st.fixed_dictionaries({"t": st.dictionaries(NAMES | st.just("*"), SWITCH, max_size=2)}),
        "opt_in": st.fixed_dictionaries({"promotions": SWITCH}),
        "quiet_hours": st.lists(RULE, max_size=2),
        "tz": st.sampled_from(["Asia/Tokyo", "America/New_York"]),
    },
)
TYPES = [
    NotificationType("t", channels=["in_app", "push", "email", "sms"]),
    NotificationType("t", channels=["push", "in_app"], priority="critical", mandatory=["push"], ttl=7200),
    NotificationType("t", channels=["sms", "in_app", "email"], fallback={"email": Fallback("unread", 900)}, ttl=36_000),
    NotificationType(
        "t", channels=["push", "sms"], fallback={"sms": Fallback("failed", 9, of="push")}, priority="high"
    ),
    NotificationType("t", channels=["in_app", "email"], digest=Digest(window=600, ceiling=900)),
    NotificationType("t", channels=["email", "push"], digest=Digest(every="day", channels=["email"])),
    NotificationType("t", channels=["email"], digest=Digest(window=600, leading="first")),
    NotificationType(
        "t", channels=["push", "email"], category="marketing", opt_in="promotions", caps=[FrequencyCap(1)]
    ),
]
ENDPOINTS = st.lists(
    st.builds(
        lambda channel, id, tz, gone: endpoint(
            channel,
            f"{channel}{id}",
            meta={"tz": tz} if tz else {},
            retired_at=NOW if gone else None,
            reason=gone,
        ),
        NAMES.filter(lambda name: name != "in_app"),
        st.integers(0, 2),
        st.sampled_from(["", "Asia/Tokyo", BERLIN, "nonsense"]),
        st.sampled_from(["", "", "gone", SUPPRESSED, STOPPED]),
    ),
    max_size=5,
    unique_by=lambda each: each.id,
)
QUESTIONS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(TYPES),
        "user": STATED,
        "default": STATED,
        "endpoints": ENDPOINTS,
        "tz": st.sampled_from(["", BERLIN, "America/New_York"]),
        "now": st.datetimes(datetime(2027, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),
    }
)


def ask(question: dict[str, Any], **changed: Any) -> Plan:
    asked = {**question, **changed}
    return plan_recipient(
        asked["type"],
        Recipient("alice", asked["tz"]),
        asked.get("layers")
        or Layers(user=Preferences.from_json(asked["user"]), default=Preferences.from_json(asked["default"])),
        asked["endpoints"],
        asked.get("channels", CHANNELS),
        now=asked["now"],
        expires_at=asked["type"].expires_at(question["now"]),
        look=asked.get("look"),
    )


def sound(question: dict[str, Any]) -> bool:
    """Whether the quiet hours of a question are accepted when they are saved."""
    try:
        ask(question)
    except UsageError:  # rules that cover the week
        return False
    return True


@given(QUESTIONS.filter(sound), st.randoms(use_true_random=False))
def test_the_same_however_it_is_asked(question: dict[str, Any], chance: random.Random) -> None:
    """The order of endpoints and channels, the zone of the clock, storing it and asking twice change nothing."""
    found = ask(question)
    assert ask(question) == found
    shuffled = chance.sample(question["endpoints"], len(question["endpoints"]))
    names = chance.sample([*CHANNELS], len(CHANNELS))
    elsewhere = question["now"].astimezone(chance.choice([ZoneInfo("Asia/Tokyo"), timezone(timedelta(hours=-5))]))
    stored = Layers(
        user=Preferences.from_json(Preferences.from_json(question["user"]).to_json()),
        default=Preferences.from_json(Preferences.from_json(question["default"]).to_json()),
    )
    assert ask(question, endpoints=shuffled, channels={name: CHANNELS[name] for name in names}) == found
    assert ask(question, now=elsewhere, layers=stored) == found
    assert Plan.from_json(found.type, found.user, found.to_json()) == found


@given(QUESTIONS.filter(sound))
def test_the_last_look_says_what_the_plan_said(question: dict[str, Any]) -> None:
    """If nothing changed, the decision is the same again, and what was held is sent when it is released."""
    for planned in ask(question).decisions:
        look = Look(channel=planned.channel)
        (at_once,) = ask(question, look=look).decisions
        if isinstance(planned, Hold) and planned.reason is Reason.FALLBACK:
            continue  # until then, it is not known what the other channel does
        assert at_once == planned
        if isinstance(planned, Hold):
            assert planned.until is not None
            (released,) = ask(question, look=look, now=planned.until).decisions
            is_next_device = isinstance(released, Hold) and len(question["endpoints"]) > 1
            assert isinstance(released, Send | Join) or is_next_device


@given(QUESTIONS.filter(sound))
def test_what_no_plan_does(question: dict[str, Any]) -> None:
    """Nothing is sent to a retired endpoint, without consent, against preferences, or held until after its end."""
    type, now = question["type"], question["now"]
    found = ask(question)
    expires_at = type.expires_at(now)
    assert [each.channel for each in found.decisions] == [*type.channels]
    layers = Layers(user=Preferences.from_json(question["user"]), default=Preferences.from_json(question["default"]))
    usable_ids = {each.id for each in question["endpoints"] if each.retired_at is None or each.reason == SUPPRESSED}
    for each in found.decisions:
        if isinstance(each, Skip):
            continue
        assert layers.consent(type).on
        assert type.is_mandatory(each.channel) or each.channel == "in_app" or layers.effective(type, each.channel).on
        if isinstance(each, Send):
            assert {*each.endpoints} <= usable_ids
            assert bool(each.endpoints) == (each.channel != "in_app")
            assert each.silent == (not layers.effective(type, each.channel).on)
        if isinstance(each, Hold | Join) and each.until is not None:
            assert each.until > now
            assert expires_at is None or each.until < expires_at or isinstance(each, Join)


# -- decisions in JSON ----------------------------------------------------------------------------------------------


def test_decisions_in_json() -> None:
    """What is stored has no empty fields, and no address."""
    found = plan(user={"channels": {"email": False}, **NIGHT}, now=EVENING)
    assert found.to_json() == (
        b'[{"do":"send","channel":"in_app","reason":"allowed","layer":"type","at":"2027-01-05T23:00:00+00:00"},'
        b'{"do":"hold","channel":"push","reason":"quiet_hours","layer":"user","rule":"quiet_hours/0",'
        b'"until":"2027-01-06T06:00:00+00:00"},'
        b'{"do":"skip","channel":"email","reason":"opted_out","layer":"user","rule":"channels/email"}]'
    )
    assert b"example.net" not in plan().to_json()
    assert to_json(from_json(to_json(plan()["push"]))) == to_json(plan()["push"])
    with pytest.raises(UsageError, match="a decision must be one of send, hold, join, skip"):
        from_json({"do": "wait"})


def test_unknown_recipients() -> None:
    """Every channel is skipped for the same reason."""
    assert skip_all("a", "ghost", ["in_app", "push"], Reason.UNKNOWN_RECIPIENT, "recipients").decisions == (
        Skip(channel="in_app", reason=Reason.UNKNOWN_RECIPIENT, layer="recipients"),
        Skip(channel="push", reason=Reason.UNKNOWN_RECIPIENT, layer="recipients"),
    )


def test_reasons_are_stable() -> None:
    """Reasons are stored, so their values are their names in lower case, for good."""
    assert all(each.value == each.name.lower() for each in Reason)
    assert len({*Reason}) == len(Reason.__members__)
