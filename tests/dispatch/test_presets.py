"""The types, defaults and settings of the systems that docs/features.md compares with this library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from notify import UsageError
from notify.dispatch import Dispatcher, TypeRegistry
from notify.dispatch._decisions import Hold, Join, Send, Skip
from notify.dispatch._layers import Layers
from notify.dispatch._plan import Look, plan_recipient
from notify.dispatch._preferences import Preferences
from notify.dispatch._presets import preset
from notify.dispatch._quiet_hours import QuietHours
from notify.dispatch._reasons import Reason
from notify.dispatch._settings import settings_of_gh, settings_of_tp
from notify.dispatch._type_parts import Fallback
from notify.dispatch._types import IN_APP, NotificationType, Recipient
from notify.dispatch.channels import LogChannel
from notify_memory import MemoryDispatchStore
from tests.dispatch.values import CHANNELS, NOW, endpoint, utc

GH, TP = preset("gh"), preset("tp")
DEVICES = [endpoint("push"), endpoint("email"), endpoint("sms")]
FOUR = ("in_app", "push", "email", "sms")
HOUR = 3600.0


def reached(type: NotificationType, layers: Layers) -> list[str]:
    """The channels over which a notification is sent, the inbox only with an alert."""
    plan = plan_recipient(type, Recipient("alice"), layers, DEVICES, CHANNELS, now=NOW, expires_at=None)
    return [each.channel for each in plan.decisions if isinstance(each, Send) and not each.silent]


def test_presets_are_there() -> None:
    """Four of them, each a registry of its own that the application can add to."""
    assert [len(preset(name)) for name in ("sk", "tp", "fl", "gh")] == [3, 7, 2, 27]
    own = preset("tp")
    own.add(NotificationType("order.shipped", channels=["in_app"]))
    assert (len(own), len(preset("tp"))) == (8, 7)
    with pytest.raises(UsageError, match="preset must be one of 'sk', 'tp', 'fl', 'gh', not 'xx'"):
        preset("xx")  # type: ignore[arg-type]
    for name in ("sk", "tp", "fl", "gh"):
        preset(name).check_channels(FOUR)
        assert preset(name).resolve("anything.else").channels == (IN_APP,)


GH_TABLE = """
booking_confirmed transactional high P,E,I 72
payment_failed transactional critical P,E,S,I 48
document_approved transactional normal P,E,I 24
chat_message transactional high P,I 12
password_changed system critical E,I 168
security_alert system critical P,E,S,I 168
app_update system normal P,I 168
policy_update system normal E,I 720
promotion_generic marketing normal P,E,I 120 2/7 promotions
discount_offer marketing high P,E,S,I 72 1/3 promotions
win_back marketing normal E,I 336 1/2 promotions
upsell_suggestion marketing normal P,I 72 3/10 promotions
onboarding_nudge marketing normal P,E,I 168 1/3 onboarding
visit_reminder transactional high P,S,I 24
property_recommendation marketing normal P,E,I 72 3/10 property_updates
daily_digest marketing normal E,I 48 1/7 digest
flatmate_new_message transactional high P,I 12
flatmate_new_match transactional high P,I 24
flatmate_listing_approved transactional normal P,E,I 72
flatmate_listing_rejected transactional high P,E,I 168
flatmate_account_suspended system critical P,E,I 168
flatmate_account_warned system high P,E,I 168
flatmate_report_actioned system normal P,I 168
flatmate_report_dismissed system normal P,I 168
flatmate_visit_scheduled transactional high P,S,I 24
flatmate_visit_confirmed transactional high P,S,I 24
admin_broadcast system normal P,I 168
"""


def test_the_types_of_the_marketplace() -> None:
    """All 27, with category, priority, channels, time to live, caps and consent as they are there."""
    letters = {"P": "push", "E": "email", "S": "sms", "I": "in_app"}
    rows = [row.split() for row in GH_TABLE.strip().splitlines()]
    assert [each.key for each in GH] == [row[0] for row in rows]
    for key, category, priority, channels, hours, *limits in rows:
        each = GH[key]
        assert (each.category, each.priority) == (category, priority)
        assert each.channels == tuple(letters[letter] for letter in channels.split(","))
        assert each.ttl == int(hours) * HOUR
        caps = [(cap.limit, cap.per) for cap in each.caps]
        if limits:
            (per_day, per_week), consent = limits[0].split("/"), limits[1]
            assert (caps, each.opt_in) == ([(int(per_day), "day"), (int(per_week), "week")], consent)
        else:
            assert (caps, each.opt_in) == ([], None)


def test_every_marketing_type_has_caps_and_a_consent() -> None:
    """The rule that the marketplace's tests assert holds here for any type, since others are refused."""
    marketing = [each for each in GH if each.category == "marketing"]
    assert len(marketing) == 7
    assert all(each.caps and each.opt_in for each in marketing)


GH_CASES: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "defaults: all but SMS": ({}, "payment_failed", ["push", "email", "in_app"]),
    "SMS on": ({"sms": True}, "payment_failed", ["push", "email", "sms", "in_app"]),
    "push off": ({"push": False}, "payment_failed", ["email", "in_app"]),
    "push off, in the other spelling": ({"push_notifications": False}, "payment_failed", ["email", "in_app"]),
    "off in one spelling is off": ({"push": True, "push_notifications": False}, "payment_failed", ["email", "in_app"]),
    "e-mail off": ({"email_notifications": False, "sms": True}, "payment_failed", ["push", "sms", "in_app"]),
    "defaults: promotions by push": ({}, "promotion_generic", ["push", "in_app"]),
    "promotional e-mail on": ({"promotional_emails": True}, "promotion_generic", ["push", "email", "in_app"]),
    "but e-mail off": ({"promotional_emails": True, "email": False}, "promotion_generic", ["push", "in_app"]),
    "e-mail on says nothing of promotions": ({"email": True}, "promotion_generic", ["push", "in_app"]),
    "promotional push off": ({"promotional_push": False}, "promotion_generic", ["in_app"]),
    "promotions off, at the top": ({"promotions": False, "promotional_emails": True}, "promotion_generic", []),
    "promotions off, as a category": ({"categories": {"promotions": False}}, "promotion_generic", []),
    "the top counts before the category": (
        {"promotions": True, "categories": {"promotions": False}},
        "promotion_generic",
        ["push", "in_app"],
    ),
    "onboarding is not a promotion": ({}, "onboarding_nudge", ["push", "email", "in_app"]),
    "no promotional e-mail is no marketing by e-mail": (
        {"promotional_emails": False},
        "onboarding_nudge",
        ["push", "in_app"],
    ),
    "onboarding off": ({"onboarding": False}, "onboarding_nudge", []),
    "property updates off": ({"categories": {"property_updates": False}}, "property_recommendation", []),
    "digest off": ({"digest": False}, "daily_digest", []),
    "nothing stops what is transactional": (
        {"promotions": False, "promotional_emails": False, "promotional_push": False, "onboarding": False},
        "booking_confirmed",
        ["push", "email", "in_app"],
    ),
    "null says nothing": ({"push": None, "promotional_emails": None, "categories": None}, "win_back", ["in_app"]),
}


@pytest.mark.parametrize("case", GH_CASES)
def test_settings_of_the_marketplace(case: str) -> None:
    """Where several settings concern one thing, off wins, for each channel by itself."""
    settings, key, channels = GH_CASES[case]
    user = settings_of_gh(settings, GH)
    assert reached(GH[key], Layers(user=user, default=GH.defaults)) == channels
    assert Preferences.from_json(user.to_json()) == user


def test_settings_of_the_marketplace_keep_the_rest() -> None:
    """What is not understood is kept; quiet hours hold."""
    user = settings_of_gh(
        {
            "push": True,
            "visit_reminders": True,
            "frequency": "daily",
            "categories": {"promotions": True, "alerts": False},
            "quiet_hours": {"start": "22:00", "end": "07:00", "timezone": "Asia/Kolkata"},
        },
        GH,
    )
    assert user.extra == {
        "visit_reminders": True,
        "frequency": "daily",
        "categories": {"promotions": True, "alerts": False},
    }
    plan = plan_recipient(
        GH["booking_confirmed"],
        Recipient("alice"),
        Layers(user=user, default=GH.defaults),
        DEVICES,
        CHANNELS,
        now=utc("2027-01-05 18:00"),
        expires_at=None,
    )
    assert isinstance(plan["push"], Hold)
    assert plan["push"].until == utc("2027-01-06 01:30")


TP_DEFAULTS = {
    "info": ["in_app"],
    "success": ["in_app"],
    "warning": ["in_app", "push"],
    "error": ["in_app", "push", "email"],
    "mention": ["in_app", "push"],
    "message": ["in_app", "push"],
    "system": ["in_app", "push", "email"],
}


def test_the_seven_types() -> None:
    """Which channels are on by default, SMS nowhere; without quiet hours, in UTC."""
    layers = Layers(default=TP.defaults)
    assert {each.key: reached(each, layers) for each in TP} == TP_DEFAULTS
    assert layers.quiet_hours() == ("", None)
    assert layers.zone("", "Asia/Tokyo") == "UTC"


def test_settings_of_the_seven_types() -> None:
    """A listed type uses the channels that its entry switches on; one that is not listed reaches the inbox only."""
    mention = {"inApp": True, "push": False, "email": True, "sms": True}
    user = settings_of_tp({"channels": {"mention": mention, "error": {"push": True}}, "theme": "dark"})
    layers = Layers(user=user, default=TP.defaults)
    assert reached(TP["mention"], layers) == ["in_app", "email", "sms"]
    assert reached(TP["error"], layers) == ["push"], "listed without an alert, since inApp is missing"
    assert reached(TP["system"], layers) == ["in_app"]
    assert reached(TP.resolve("order.shipped"), layers) == ["in_app"]
    assert user.extra == {"theme": "dark"}
    assert {each.key: reached(each, Layers(user=settings_of_tp({}), default=TP.defaults)) for each in TP} == TP_DEFAULTS


def test_the_item_is_listed_whatever_is_off() -> None:
    """The inbox lists it without an alert."""
    user = settings_of_tp({"channels": {"info": {"inApp": False}}})
    plan = plan_recipient(
        TP["info"], Recipient("alice"), Layers(user=user), DEVICES, CHANNELS, now=NOW, expires_at=None
    )
    assert isinstance(plan["in_app"], Send)
    assert plan["in_app"].silent


@pytest.mark.parametrize(("action", "kind"), [("hold", Hold), ("drop", Skip)])
def test_quiet_hours_of_the_seven_types(action: Any, kind: type) -> None:
    """They concern push and SMS, in the user's zone, and cross midnight; start included, end not."""
    settings = {
        "channels": {"error": dict.fromkeys(("inApp", "push", "email", "sms"), True)},
        "quietHours": {"enabled": True, "start": "22:00", "end": "07:00"},
        "timezone": "Europe/Berlin",
    }
    layers = Layers(user=settings_of_tp(settings, action=action), default=TP.defaults)
    for instant, is_quiet in (("20:59", False), ("21:00", True), ("05:59", True), ("06:00", False)):
        plan = plan_recipient(
            TP["error"],
            Recipient("alice"),
            layers,
            DEVICES,
            CHANNELS,
            now=utc(f"2027-01-05 {instant}"),
            expires_at=None,
        )
        kinds = {each.channel: type(each) for each in plan.decisions}
        night = kind if is_quiet else Send
        assert kinds == {"in_app": Send, "push": night, "email": Send, "sms": night}


@pytest.mark.parametrize(
    "quiet",
    [
        {"enabled": False, "start": "22:00", "end": "07:00"},
        {"enabled": True, "start": "22:00", "end": "22:00"},
        {"enabled": True},
    ],
)
def test_no_quiet_hours(quiet: dict[str, Any]) -> None:
    """Disabled ones, and those that begin when they end, are none."""
    assert settings_of_tp({"quietHours": quiet}).quiet_hours == QuietHours()


REFUSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "settings: channels must be an object, not 1": (settings_of_tp, {"channels": 1}),
    "settings: channels.info must be an object, not True": (settings_of_tp, {"channels": {"info": True}}),
    "settings: channels.info.push must be true or false, not 'yes'": (
        settings_of_tp,
        {"channels": {"info": {"push": "yes"}}},
    ),
    "settings: quietHours must be an object": (settings_of_tp, {"quietHours": "night"}),
    "quietHours.start must be a time such as '22:00', not '10pm'": (
        settings_of_tp,
        {"quietHours": {"start": "10pm", "end": "07:00"}},
    ),
    "preferences: tz: the time zone 'CETX' is unknown": (settings_of_tp, {"timezone": "CETX"}),
    "settings: push must be true or false, not 1": (settings_of_gh, {"push": 1}),
    "settings: promotional_emails must be true or false, not 'no'": (settings_of_gh, {"promotional_emails": "no"}),
    "settings: promotions must be true or false, not 0": (settings_of_gh, {"categories": {"promotions": 0}}),
    "settings: categories must be an object": (settings_of_gh, {"categories": ["promotions"]}),
    "quiet_hours.end must be a time": (settings_of_gh, {"quiet_hours": {"start": "22:00"}}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_settings_are_refused(message: str) -> None:
    """The error names the setting and what it is."""
    read, settings = REFUSED[message]
    with pytest.raises(UsageError, match=message):
        read(settings, GH) if read is settings_of_gh else read(settings)


def test_toasts_of_the_framework() -> None:
    """Push messages for those who are not connected, always, or never; any other type reaches the inbox."""
    types = preset("sk")
    assert types["generic"].fallback == {"push": Fallback("away")}
    for connected, decision in ((True, Skip), (False, Send)):
        look = Look(channel="push", is_connected=connected)
        for key, expected in (("generic", decision), ("generic.push", Send)):
            plan = plan_recipient(
                types[key], Recipient("a"), Layers(), DEVICES, CHANNELS, now=NOW, expires_at=None, look=look
            )
            assert isinstance(plan["push"], expected)
            assert expected is Send or plan["push"].reason is Reason.CONNECTED
    assert types["generic.quiet"].channels == (IN_APP,)
    assert not any(isinstance(each, Join) for each in plan.decisions)


def test_values_of_the_tutorial() -> None:
    """They are shown in the page only."""
    assert {each.key: each.channels for each in preset("fl")} == {
        "unread_message_count": (IN_APP,),
        "task_progress": (IN_APP,),
    }


@pytest.mark.anyio
async def test_a_dispatcher_with_a_preset() -> None:
    """A registry brings its defaults along, and what would have no effect is refused when preferences are changed."""

    async def recipients(ids: Sequence[str]) -> list[Recipient]:
        return [Recipient(user, endpoints=DEVICES) for user in ids]

    store = MemoryDispatchStore()
    names = ("push", "email", "sms", "in_app")
    dispatcher = Dispatcher(None, store, preset("gh"), dict.fromkeys(names, LogChannel()), recipients=recipients)
    plan = await dispatcher.plan("discount_offer", "alice", {})
    assert {each.channel: type(each) for each in plan.decisions} == {
        "push": Send,
        "email": Skip,
        "sms": Skip,
        "in_app": Send,
    }
    await dispatcher.set_preferences("alice", {"types": {"discount_offer": {"email": True}}, "channels": {"sms": True}})
    plan = await dispatcher.plan("discount_offer", "alice", {})
    assert {type(each) for each in plan.decisions} == {Send}
    with pytest.raises(UsageError, match="fax is not the name of a channel"):
        await dispatcher.set_preferences("alice", {"channels": {"fax": True}})
    strict = Dispatcher(
        None, store, TypeRegistry([*preset("gh")]), dict.fromkeys(names, LogChannel()), recipients=recipients
    )
    with pytest.raises(UsageError, match="discount_ofer is not the name of a type"):
        await strict.set_preferences("alice", {"types": {"discount_ofer": {"email": True}}})
    assert (await dispatcher.preferences("alice")).channels == {"sms": True}
    await store.aclose()
