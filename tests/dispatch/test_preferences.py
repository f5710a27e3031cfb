"""Preferences: which entry decides, whose preferences count, and what is refused when they are saved."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify import UsageError
from notify.dispatch._layers import Effective, Layers
from notify.dispatch._preferences import ENTRIES, PRECEDENCE, Preferences, check_patch
from notify.dispatch._quiet import QuietRule
from notify.dispatch._quiet_hours import QuietHours
from notify.dispatch._type_parts import FrequencyCap
from notify.dispatch._types import NotificationType
from notify.dispatch.abc import merge_patch
from tests.dispatch.values import COMMENT, OFFER

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "preferences.md"
ON_OFF = [None, True, False]


def table() -> list[tuple[str, frozenset[bool]]]:
    """The rows of the table of the page: entry, and the values with which it decides."""
    rows = re.findall(r"^\| (\d) \| `(\S+)` \| ([a-z ]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == [*range(1, len(rows) + 1)]
    values = {"on or off": frozenset({True, False}), "on": frozenset({True}), "off": frozenset({False})}
    return [(entry, values[if_it_is]) for _, entry, if_it_is in rows]


def stated(values: dict[str, bool | None]) -> Preferences:
    """Preferences in which the entries have these values, for the type `comment.created` on `email`."""
    document: dict[str, Any] = {"types": {COMMENT.key: {}}, "categories": {COMMENT.category: {}}, "channels": {}}
    for entry, value in values.items():
        if value is not None:
            *path, name = entry.format(type=COMMENT.key, category=COMMENT.category, channel="email").split("/")
            place = document
            for each in path:
                place = place[each]
            place[name] = value
    return Preferences.from_json(document)


def by_the_table(values: dict[str, bool | None]) -> tuple[bool, str]:
    """What the page says: the first row whose entry is there with such a value decides."""
    for written, deciding in table():
        entry = written.replace("<", "{").replace(">", "}")
        if values.get(entry) in deciding:
            return bool(values[entry]), entry.format(type=COMMENT.key, category=COMMENT.category, channel="email")
    return True, ""


def test_the_page_has_the_table() -> None:
    """The page and the code have the same table."""
    assert [(entry.replace("<", "{").replace(">", "}"), values) for entry, values in table()] == list(PRECEDENCE)
    assert {entry for entry, _ in PRECEDENCE} == {*ENTRIES}


def test_which_entry_decides() -> None:
    """In all combinations of all entries, the first row of the page's table decides, and is named."""
    combinations = [*itertools.product(ON_OFF, repeat=len(ENTRIES))]
    assert len(combinations) == 729
    for each in combinations:
        values = dict(zip(ENTRIES, each, strict=True))
        on, rule = by_the_table(values)
        expected = Effective(on, "user" if rule else "type", rule)
        assert Layers(user=stated(values)).effective(COMMENT, "email") == expected, values


def test_other_types_and_channels_are_not_concerned() -> None:
    """An entry decides about what it names, and nothing else."""
    user = Preferences.from_json({"types": {"a": {"email": False}}, "categories": {"system": {"*": False}}})
    assert Layers(user=user).effective(COMMENT, "email") == (True, "type", "")
    user = Preferences.from_json({"channels": {"email": False}, "types": {COMMENT.key: {"email": False}}})
    assert Layers(user=user).effective(COMMENT, "push") == (True, "type", "")


CASES: dict[str, tuple[dict[str, dict[str, Any]], tuple[bool, str]]] = {
    "nothing is said": ({}, (True, "type")),
    "what the user says counts": ({"user": {"all": False}, "default": {"all": True}}, (False, "user")),
    "what is missing is inherited": (
        {"user": {"channels": {"push": False}}, "default": {"all": False}},
        (False, "default"),
    ),
    "all off stays off, however specific the default": (
        {"user": {"all": False}, "default": {"types": {"comment.created": {"email": True}}}},
        (False, "user"),
    ),
    "a channel that is on does not switch on what is off by default": (
        {"user": {"channels": {"email": True}}, "default": {"types": {"comment.created": {"email": False}}}},
        (False, "default"),
    ),
    "nor does a type that is on switch on a channel that is off by default": (
        {"user": {"types": {"comment.created": {"*": True}}}, "default": {"channels": {"email": False}}},
        (False, "default"),
    ),
    "the same entry of a stronger layer replaces it": (
        {"user": {"channels": {"email": True}}, "default": {"channels": {"email": False}}},
        (True, "user"),
    ),
    "an entry that names both decides": (
        {"user": {"types": {"comment.created": {"email": True}}}, "default": {"channels": {"email": False}}},
        (True, "user"),
    ),
    "a member's choice is stronger than the user's": (
        {"member": {"all": False}, "user": {"types": {"comment.created": {"email": True}}}},
        (False, "member"),
    ),
    "but inherits from it": (
        {"member": {"all": True}, "user": {"types": {"comment.created": {"email": False}}}},
        (False, "user"),
    ),
    "a tenant's default is stronger than the application's": (
        {"tenant": {"channels": {"email": False}}, "default": {"channels": {"email": True}}},
        (False, "tenant"),
    ),
    "an operator's decision is final": (
        {"override": {"all": True}, "user": {"types": {"comment.created": {"email": False}}}},
        (True, "override"),
    ),
    "even where the user is more specific": (
        {"override": {"channels": {"email": False}}, "user": {"types": {"comment.created": {"email": True}}}},
        (False, "override"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_whose_preferences_count(case: str) -> None:
    """Stronger layers first; what is missing is inherited; what is off stays off."""
    given_, expected = CASES[case]
    layers = Layers(**{layer: Preferences.from_json(each) for layer, each in given_.items()})
    assert layers.effective(COMMENT, "email")[:2] == expected


PREFERENCES = st.fixed_dictionaries({entry: st.sampled_from(ON_OFF) for entry in ENTRIES})


@given(st.lists(PREFERENCES, min_size=5, max_size=5), st.integers(0, 4))
def test_layers(values: list[dict[str, bool | None]], number: int) -> None:
    """What is off in a layer by itself and not named on by a stronger entry stays off, whatever weaker layers say."""
    names = ("override", "member", "user", "tenant", "default")
    full = Layers(**{name: stated(each) for name, each in zip(names, values, strict=True)})
    upper = Layers(**{name: stated(each) for name, each in list(zip(names, values, strict=True))[: number + 1]})
    if not upper.effective(COMMENT, "email").on:
        assert full.effective(COMMENT, "email") == upper.effective(COMMENT, "email")
    final = Layers(override=full.override).effective(COMMENT, "email")
    if final.layer == "override":
        assert full.effective(COMMENT, "email") == final
    decided = full.effective(COMMENT, "email")
    if decided.layer != "type":
        assert getattr(full, decided.layer) != Preferences()


@given(PREFERENCES, PREFERENCES, st.sampled_from(ENTRIES))
def test_switching_off_never_switches_on(
    user: dict[str, bool | None], default: dict[str, bool | None], entry: str
) -> None:
    """If a user switches an entry off, nothing that was off is on."""
    before = Layers(user=stated(user), default=stated(default)).effective(COMMENT, "email")
    after = Layers(user=stated({**user, entry: False}), default=stated(default)).effective(COMMENT, "email")
    assert before.on or not after.on


def test_mandatory_is_above_all() -> None:
    """Preferences are not asked where a type is mandatory, on the channels on which it is."""
    layers = Layers(override=Preferences(all=False))
    everywhere = NotificationType("security", channels=["in_app", "email", "push"], mandatory=True)
    by_email = NotificationType("security", channels=["in_app", "email", "push"], mandatory=["email"])
    assert layers.effective(everywhere, "push") == (True, "mandatory", "")
    assert layers.effective(by_email, "email") == (True, "mandatory", "")
    assert layers.effective(by_email, "push") == (False, "override", "all")


def test_consents() -> None:
    """A consent that is missing is not given; the strongest layer that says something counts."""
    assert Layers().consent(COMMENT) == (True, "type", "")
    assert Layers(user=Preferences(all=True)).consent(OFFER) == (False, "type", "")
    yes, no = Preferences(opt_in={"promotions": True}), Preferences(opt_in={"promotions": False})
    assert Layers(user=yes).consent(OFFER) == (True, "user", "opt_in/promotions")
    assert Layers(user=no, default=yes).consent(OFFER) == (False, "user", "opt_in/promotions")
    assert Layers(default=yes).consent(OFFER) == (True, "default", "opt_in/promotions")
    assert Layers(user=Preferences(opt_in={"news": True})).consent(OFFER) == (False, "type", "")


def test_quiet_hours_and_zone() -> None:
    """The strongest quiet hours count as a whole, none at all included; the user's zone is before the account's."""
    night, noon = (QuietHours(QuietRule(start=each.start, end=each.end)) for each in (NIGHT, NOON))
    layers = Layers(user=Preferences(quiet_hours=noon), default=Preferences(quiet_hours=night))
    assert layers.quiet_hours() == ("user", noon)
    assert Layers(user=Preferences(quiet_hours=QuietHours()), default=Preferences(quiet_hours=night)).quiet_hours() == (
        "user",
        QuietHours(),
    )
    assert Layers(default=Preferences(quiet_hours=night)).quiet_hours() == ("default", night)
    assert Layers().quiet_hours() == ("", None)
    own, preset = Preferences(tz="Asia/Tokyo"), Preferences(tz="Asia/Kolkata")
    assert Layers(user=own, default=preset).zone("Europe/Berlin", "UTC") == "Asia/Tokyo"
    assert Layers(default=preset).zone("Europe/Berlin", "UTC") == "Europe/Berlin"
    assert Layers(default=preset).zone("", "UTC") == "Asia/Kolkata"
    assert Layers().zone("", "UTC") == "UTC"


NIGHT = QuietRule(start=QuietRule(all_day=True).start.replace(hour=22), end=QuietRule(all_day=True).end.replace(hour=7))
NOON = QuietRule(start=NIGHT.start.replace(hour=12), end=NIGHT.start.replace(hour=13))

FULL = {
    "all": False,
    "channels": {"sms": False, "email": True},
    "categories": {"marketing": {"*": True, "email": False}},
    "types": {"comment.created": {"*": True, "email": False}},
    "opt_in": {"promotions": True},
    "quiet_hours": [
        {"start": "22:00", "end": "07:00"},
        {
            "start": "12:00",
            "end": "13:30:30",
            "tz": "Asia/Tokyo",
            "days": ["mon", "fri"],
            "channels": ["sms"],
            "bypass": None,
            "action": "digest",
        },
        {"all_day": True, "days": ["sun"], "bypass": "high"},
    ],
    "tz": "Europe/Berlin",
    "extra": {"theme": "dark", "list": [1, None]},
}


def test_json() -> None:
    """Preferences are the same after they were stored, and say the same JSON."""
    preferences = Preferences.from_json(json.dumps(FULL))
    assert json.loads(preferences.to_json()) == FULL
    assert Preferences.from_json(preferences.to_json()) == preferences
    assert Preferences().to_json() == b"{}"
    assert Preferences.from_json(b"") == Preferences.from_json("{}") == Preferences()
    assert json.loads(Preferences(quiet_hours=QuietHours()).to_json()) == {"quiet_hours": []}


def test_preferences_are_a_value() -> None:
    """Changing what they were made from does not change them."""
    channels = {"email": False}
    preferences = Preferences(channels=channels)
    channels["email"] = True
    assert preferences.channels == {"email": False}
    with pytest.raises(TypeError):
        preferences.channels["email"] = True  # type: ignore[index]


REFUSED: dict[str, Any] = {
    "preferences must be JSON, not '{'": "{",
    "preferences: preferences must be an object, not []": "[]",
    "preferences: all must be true or false, not 1": {"all": 1},
    "preferences: channels must be an object of true and false, not ['email']": {"channels": ["email"]},
    "preferences: channels/email must be true or false, not 'on'": {"channels": {"email": "on"}},
    "a name in channels must be a name of": {"channels": {"*": False}},
    'preferences: types/offers must be an object; write {"*": false} for all its channels': {
        "types": {"offers": False}
    },
    "categories/marketing must be an object; write": {"categories": {"marketing": True}},
    "types/offers must be an object of true and false": {"types": {"offers": None}},
    "types/offers/email must be true or false, not None": {"types": {"offers": {"email": None}}},
    "types must be an object, not 'offers'": {"types": "offers"},
    "a name in types must be a name of": {"types": {"my offers": {}}},
    "a name in types/offers must be a name of": {"types": {"offers": {"e mail": True}}},
    "opt_in/promotions must be true or false": {"opt_in": {"promotions": "yes"}},
    "quiet_hours must be a list of rules": {"quiet_hours": {"start": "22:00"}},
    "cover the whole week": {"quiet_hours": [{"all_day": True}]},
    "preferences: tz: the time zone 'Berlin' is unknown; give an IANA name": {"tz": "Berlin"},
    "preferences: tz must be the IANA name of a time zone": {"tz": None},
    "preferences: extra must be an object": {"extra": "dark"},
    "preferences have no chanels; they have all, categories, channels": {"chanels": {"email": False}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_preferences_are_refused(message: str) -> None:
    """The error names the entry, what was given, and what to do."""
    with pytest.raises(UsageError, match=re.escape(message)):
        Preferences.from_json(REFUSED[message])


def test_quiet_hours_in_python() -> None:
    """In Python quiet hours are `QuietHours`."""
    with pytest.raises(UsageError, match=r"quiet_hours must be QuietHours\(\.\.\.\)"):
        Preferences(quiet_hours=[{"start": "22:00"}])  # type: ignore[arg-type]


TYPES = [COMMENT, OFFER]


def nested(levels: int) -> Any:
    """Return lists in lists."""
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


PATCHES: dict[str, Any] = {
    "preferences must be JSON": "{",
    "the patch must be an object": "[]",
    "types/offers must be an object": {"types": {"offers": False}},
    "coment.created is not the name of a type; there are comment.created, offers": {"types": {"coment.created": {}}},
    "promo is not the name of a category; there are marketing, system, transactional": {"categories": {"promo": {}}},
    "fax is not the name of a channel; there are *, email, in_app": {"channels": {"fax": True}},
    "fax, telex is not the name of a channel": {"types": {"offers": {"fax": True, "*": True, "telex": False}}},
    "preferences: extra must be JSON": {"extra": {"x": float("nan")}},
    "extra must be JSON": {"extra": {"x": {1, 2}}},
    "QuietRule.tz: the time zone": {"quiet_hours": [{"start": "22:00", "end": "07:00", "tz": "Berlin"}]},
    "preferences have no chanels": {"chanels": {}},
    "extra must be nested less than 32 levels deep": {"extra": {"x": nested(30)}},
}


@pytest.mark.parametrize("message", PATCHES)
def test_bad_patches_are_refused(message: str) -> None:
    """What preferences cannot say is refused before it is stored, and so is what would have no effect."""
    with pytest.raises(UsageError, match=re.escape(message)):
        check_patch(PATCHES[message], types=TYPES, channels=["in_app", "email"])


def test_patches() -> None:
    """A patch is returned encoded; what it removes may have any name; without lists, any name is taken."""
    gone = {"types": {"coment.created": None, "offers": {"fax": None}}, "channels": None, "opt_in": {"x": None}}
    assert json.loads(check_patch(gone, types=TYPES, channels=["in_app", "email"])) == gone
    assert check_patch('{"types": {"any": {"fax": true}}}') == b'{"types":{"any":{"fax":true}}}'
    assert check_patch({"opt_in": {"news": True}}, types=TYPES) == b'{"opt_in":{"news":true}}'
    assert check_patch(FULL, types=TYPES, channels=["in_app", "email", "sms"])
    assert check_patch({"extra": {"x": nested(29)}})


ANY = st.fixed_dictionaries(
    {},
    optional={
        "all": st.none() | st.booleans(),
        "channels": st.none() | st.dictionaries(st.sampled_from("ab"), st.none() | st.booleans()),
        "types": st.none()
        | st.dictionaries(
            st.sampled_from("tu"), st.none() | st.dictionaries(st.sampled_from("ab*"), st.none() | st.booleans())
        ),
        "quiet_hours": st.none() | st.sampled_from([[], [{"start": "22:00", "end": "07:00"}]]),
        "tz": st.none() | st.sampled_from(["UTC", "Europe/Berlin"]),
        "extra": st.none() | st.dictionaries(st.sampled_from("xy"), st.none() | st.booleans() | st.just([1])),
    },
)


@given(st.lists(ANY, max_size=4))
def test_patched_preferences_are_sound(patches: list[dict[str, Any]]) -> None:
    """Whatever patches are applied in whatever order, the result can be read: two devices may change it at once."""
    document = b"{}"
    for each in patches:
        document = merge_patch(document, check_patch(each))
        Preferences.from_json(document)


def test_a_type_that_is_gone() -> None:
    """Preferences about types and channels that do not exist any more are still read."""
    user = Preferences.from_json({"types": {"gone": {"*": False}}, "channels": {"fax": False}})
    assert Layers(user=user).effective(COMMENT, "email").on


def test_a_category_that_is_read() -> None:
    """The category of the type counts, whatever its key is."""
    offer = NotificationType("system", channels=["push"], category="marketing", caps=[FrequencyCap(1)], opt_in="x")
    user = Preferences.from_json({"categories": {"system": {"*": False}, "marketing": {"push": True}}})
    assert Layers(user=user).effective(offer, "push") == (True, "user", "categories/marketing/push")
