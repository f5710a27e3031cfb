"""Legal and illegal uses of the values and rules of `notify.dispatch`, type-checked and never run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time
from typing import Any, assert_type

from notify.dispatch import (
    Channel,
    Decision,
    Digest,
    Fallback,
    FrequencyCap,
    Hold,
    Join,
    Layers,
    NotificationType,
    Plan,
    Preferences,
    QuietHours,
    QuietRule,
    Reason,
    Recipient,
    RetrySchedule,
    Send,
    Skip,
    TypeRegistry,
    check_patch,
    plan_recipient,
    preset,
    settings_of_gh,
    settings_of_tp,
)


def types() -> None:
    NotificationType("a", channels=["in_app"])
    NotificationType(
        "a.b",
        channels=("in_app", "email"),
        category="marketing",
        priority="high",
        ttl=60,
        caps=[FrequencyCap(2), FrequencyCap(5, "week", "category"), FrequencyCap(1, 3600)],
        over_cap="in_app",
        opt_in="news",
        digest=Digest(every="week", days=["mon"], at=time(8), channels=["email"]),
        schema=dict,
    )
    NotificationType(
        "a", channels=["in_app", "email"], mandatory=["email"], fallback={"email": Fallback("unread", 900)}
    )
    NotificationType("a")  # type: ignore[call-arg]
    NotificationType("a", ["in_app"])  # type: ignore[call-arg]
    NotificationType("a", channels=["in_app"], priority="urgent")  # type: ignore[arg-type]
    Fallback("always")  # type: ignore[arg-type]
    FrequencyCap(2, "hour")  # type: ignore[arg-type]
    Digest(3600)  # type: ignore[call-arg]


def registries(toml: str, key: str) -> None:
    registry = TypeRegistry.from_toml(toml)
    assert_type(registry.resolve(key), NotificationType)
    assert_type(registry.defaults, Preferences)
    assert_type(preset("gh"), TypeRegistry)
    assert_type(settings_of_gh({"push": True}, preset("gh")), Preferences)
    assert_type(settings_of_tp({}, action="drop"), Preferences)
    preset("other")  # type: ignore[arg-type]
    for each in registry:
        assert_type(each, NotificationType)


def preferences(body: bytes, stored: Mapping[str, Any]) -> None:
    assert_type(check_patch(body, types=preset("tp"), channels=["push"]), bytes)
    user = Preferences.from_json(stored)
    layers = Layers(user=user, default=Preferences(channels={"sms": False}))
    assert_type(layers.effective(preset("tp")["info"], "push").on, bool)
    Layers(user)  # type: ignore[call-arg]
    QuietRule(start=time(22), end=time(7), bypass=None, action="digest")
    QuietRule(action="wait")  # type: ignore[arg-type]
    assert_type(QuietHours(QuietRule(all_day=True, days=["sun"])).rules, tuple[QuietRule, ...])
    RetrySchedule(attempts=3, delays=(5, 60))


def plans(type: NotificationType, channels: Mapping[str, Channel]) -> Sequence[Decision]:
    now = datetime.now(UTC)
    plan = plan_recipient(type, Recipient("alice"), Layers(), [], channels, now=now, expires_at=type.expires_at(now))
    assert_type(plan, Plan)
    for decision in plan.decisions:
        assert_type(decision.reason, Reason)
        match decision:
            case Send(at=at):
                assert_type(at, datetime)
            case Hold(until=until):
                assert_type(until, datetime | None)
            case Join(closes_at=closes_at):
                assert_type(closes_at, datetime)
            case Skip(layer=layer):
                assert_type(layer, str)
    plan_recipient(type, Recipient("alice"), Layers(), [], channels)  # type: ignore[call-arg]
    return plan.decisions
