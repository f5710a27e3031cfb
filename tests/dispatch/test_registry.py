"""The registry: types by key, from Python and from TOML."""

from __future__ import annotations

import re
from datetime import time

import pytest

from notify import UsageError
from notify.dispatch import _registry
from notify.dispatch._preferences import Preferences
from notify.dispatch._registry import TypeRegistry, duration
from notify.dispatch._type_parts import Digest, Fallback, FrequencyCap
from notify.dispatch._types import NotificationType
from tests.dispatch.values import COMMENT, OFFER


def example() -> str:
    """The TOML in the docstring of the module."""
    found = re.search(r"```toml\n(.*?)```", _registry.__doc__ or "", re.DOTALL)
    assert found
    return found[1]


def test_types_by_key() -> None:
    """A registry finds its types by their keys, and yields them in the order in which they came."""
    types = TypeRegistry([OFFER])
    types.add(COMMENT)
    assert types["offers"] is OFFER
    assert types.resolve("comment.created") is COMMENT
    assert [*types] == [OFFER, COMMENT]
    assert (len(types), "offers" in types, "news" in types) == (2, True, False)
    with pytest.raises(KeyError):
        types["news"]


def test_unknown_types() -> None:
    """A key that is not registered is an error, or a type that reaches the inbox only: it never gets more channels."""
    with pytest.raises(
        UsageError, match=r"the type 'news' is not registered; add it .* which has comment.created, offers"
    ):
        TypeRegistry([COMMENT, OFFER]).resolve("news")
    with pytest.raises(UsageError, match="which has none"):
        TypeRegistry().resolve("news")
    many = TypeRegistry([NotificationType(f"t{number}", channels=["in_app"]) for number in range(9)])
    with pytest.raises(UsageError, match=r"t7, \.\.\."):
        many.resolve("news")
    news = TypeRegistry([OFFER], unknown="in_app").resolve("news")
    assert (news.key, news.channels, news.category) == ("news", ("in_app",), "transactional")
    with pytest.raises(UsageError, match=r"NotificationType.key must be a name"):
        TypeRegistry(unknown="in_app").resolve("no such name")


def test_all_or_none_are_added() -> None:
    """A refused type leaves the registry as it was."""
    types = TypeRegistry([OFFER])
    with pytest.raises(UsageError, match="the type 'offers' is registered already; choose another key"):
        types.add(COMMENT, OFFER)
    with pytest.raises(UsageError, match="is registered already"):
        types.add(COMMENT, COMMENT)
    with pytest.raises(UsageError, match=r"a registry takes NotificationType\(\.\.\.\), not 'news'"):
        types.add(COMMENT, "news")  # type: ignore[arg-type]
    assert [*types] == [OFFER]
    with pytest.raises(UsageError, match=r"TypeRegistry\.unknown must be one of 'error', 'in_app'"):
        TypeRegistry(unknown="push")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"TypeRegistry\.defaults must be Preferences"):
        TypeRegistry(defaults={"all": False})  # type: ignore[arg-type]


def test_channels_that_are_not_installed() -> None:
    """A channel that a type needs and that is not there is found at the start, and a default without effect."""
    TypeRegistry([COMMENT]).check_channels(["in_app", "push", "email", "sms"])
    with pytest.raises(UsageError, match=r"'comment.created' uses push, and the dispatcher has only email, in_app"):
        TypeRegistry([COMMENT]).check_channels(["in_app", "email"])
    with pytest.raises(UsageError, match="has only none"):
        TypeRegistry([COMMENT]).check_channels([])
    defaults = Preferences(types={"coment.created": {"email": False}})
    with pytest.raises(UsageError, match=r"coment.created is not the name of a type; there are comment.created"):
        TypeRegistry([COMMENT], defaults=defaults).check_channels(["in_app", "push", "email"])
    defaults = Preferences(channels={"fax": False})
    with pytest.raises(UsageError, match="fax is not the name of a channel"):
        TypeRegistry([COMMENT], defaults=defaults).check_channels(["in_app", "push", "email"])


def test_toml() -> None:
    """A file says what Python says."""
    types = TypeRegistry.from_toml(example())
    assert types.unknown == "in_app"
    assert types.defaults == Preferences(channels={"sms": False})
    assert types["comment.created"] == NotificationType(
        "comment.created",
        channels=["in_app", "web_push", "email"],
        ttl=259_200,
        fallback={"email": Fallback("unread", 900)},
    )
    assert types["offers"] == NotificationType(
        "offers",
        category="marketing",
        channels=["in_app", "email"],
        opt_in="promotions",
        caps=[FrequencyCap(2, "day"), FrequencyCap(5, "week")],
        digest=Digest(every="week", days=["mon"], at=time(8)),
    )


def test_every_field_in_toml() -> None:
    """Each field of a type but the schema can stand in a file; times may be TOML's own."""
    types = TypeRegistry.from_toml(
        """
        [types.a]
        channels = ["in_app", "push", "email"]
        category = "system"
        priority = "high"
        ttl = 86400
        caps = [{ limit = 3, per = "1h30m", scope = "category" }]
        over_cap = "in_app"
        mandatory = ["email"]
        quiet_hours = "ignore"
        fallback.email = { use = "failed", of = "push", after = 5 }

        [types.b]
        channels = ["email"]
        opt_in = "b"
        mandatory = false

        [types.b.digest]
        window = "10m"
        ceiling = "1h"
        limit = 20
        key = "post.id"
        leading = "look_back"
        look_back = "2h"
        channels = ["email"]
        drop_read = true

        [types.c]
        channels = ["email"]
        digest = { every = "month", day = 31, at = 08:30:00 }
        """
    )
    assert types["a"] == NotificationType(
        "a",
        channels=["in_app", "push", "email"],
        category="system",
        priority="high",
        ttl=86_400,
        caps=[FrequencyCap(3, 5400, "category")],
        over_cap="in_app",
        mandatory=["email"],
        quiet_hours="ignore",
        fallback={"email": Fallback("failed", 5, "push")},
    )
    assert types["b"].digest == Digest(
        window=600,
        ceiling=3600,
        limit=20,
        key="post.id",
        leading="look_back",
        look_back=7200,
        channels=["email"],
        drop_read=True,
    )
    assert types["c"].digest == Digest(every="month", day=31, at=time(8, 30))
    assert (types.unknown, types.defaults) == ("error", Preferences())


REFUSED = {
    "the types are not TOML: ": "[types",
    "a TOML file of types has [types.<key>], [defaults] and unknown, not type": "[type.a]\nchannels = ['in_app']",
    "types must be a table for each type": "types = 1",
    "the type 'a' must have only caps, category, channels": "[types.a]\nchanels = ['in_app']",
    "not chanels": "[types.a]\nchanels = ['in_app']",
    "quiet_hours, ttl, not schema": "[types.a]\nchannels = ['in_app']\nschema = 'x'",
    "the type 'a' must have only": "[types]\na = 1",
    "the type 'a' needs channels; it has ttl": "[types.a]\nttl = 1",
    "the type 'a': channels must name at least one channel": "[types.a]\nchannels = []",
    "the type 'a': ttl must be seconds or text such as '90s', '15m', '9h' or '3d', not '3 days'": (
        "[types.a]\nchannels = ['in_app']\nttl = '3 days'"
    ),
    "the type 'a': caps must be a list such as [{ limit = 2, per = 'day' }], not 2": (
        "[types.a]\nchannels = ['in_app']\ncaps = 2"
    ),
    "the type 'a': caps must have only limit, per, scope, not 2": "[types.a]\nchannels = ['in_app']\ncaps = [2]",
    "the type 'a': fallback must be a table for each channel, not 'email'": (
        "[types.a]\nchannels = ['in_app']\nfallback = 'email'"
    ),
    "the type 'a': fallback.email must have only after, of, use, not when": (
        "[types.a]\nchannels = ['in_app', 'email']\nfallback.email = { when = 'unread' }"
    ),
    "the type 'a': digest must have only": "[types.a]\nchannels = ['email']\ndigest = '1h'",
    "the type 'a': digest: Digest.limit must be": (
        "[types.a]\nchannels = ['email']\ndigest = { window = 1, limit = 1 }"
    ),
    "the type 'a': digest: at must be a time such as '22:00', not '8'": (
        "[types.a]\nchannels = ['email']\ndigest = { every = 'day', at = '8' }"
    ),
    "TypeRegistry.unknown must be one of": "unknown = 'push'",
    "b is not the name of a type; there are a": (
        "defaults.types.b = { email = false }\n[types.a]\nchannels = ['in_app']"
    ),
    "preferences have no chanels": "defaults.chanels = { sms = false }",
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_toml_is_refused(message: str) -> None:
    """The error names the type and the field, what was given, and what to do."""
    with pytest.raises(UsageError, match=re.escape(message)):
        TypeRegistry.from_toml(REFUSED[message])


def test_missing_fields_are_named() -> None:
    """What Python would refuse for want of an argument is refused with a message for the file."""
    for text in ("caps = [{ per = 'day' }]", "fallback.email = { after = 5 }"):
        with pytest.raises(UsageError, match=r"the type 'a': \S+ needs (limit|use); it has (per|after)"):
            TypeRegistry.from_toml(f"[types.a]\nchannels = ['in_app', 'email']\n{text}")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("9h", 32_400), ("3d", 259_200), ("1h30m", 5400), ("0.5s", 0.5), (7, 7), (0, 0)],
)
def test_durations(text: object, seconds: float) -> None:
    """Durations are seconds, or text with units."""
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "9", "9 h", "h", "-9h", "9h ", "1w", "9H", -1, None, True, float("nan")])
def test_bad_durations(text: object) -> None:
    """Anything else is refused."""
    with pytest.raises(UsageError, match="a duration must be"):
        duration(text)
