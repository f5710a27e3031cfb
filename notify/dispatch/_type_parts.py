"""Pure: what types of notifications consist of: fallbacks, frequency caps, digests; checked when they are made."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import time
from typing import Final, Literal, TypeAlias, get_args

from notify.errors import UsageError

from ._checks import check_choice, check_count, check_days, check_name, check_names, check_seconds, check_wall, keep

Per: TypeAlias = Literal["day", "week", "month"]

IN_APP: Final = "in_app"
"""The name of the inbox's channel, which needs no endpoint, and for which others can step in."""

_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Fallback:
    """The condition for using a channel.

    Attributes:
        use: `"away"`: unless the recipient has an open stream, or has read the item of the inbox. `"unread"`: unless
            the recipient has read or dismissed the item. `"failed"`: unless a message over the channel `of` was
            accepted.
        after: seconds to wait after a message over `of` was accepted. If it fails or is skipped, there is no wait.
        of: the other channel; it is the inbox unless `use` is `"failed"`.

    Raises:
        UsageError: an argument is not valid.
    """

    use: Literal["away", "unread", "failed"]
    after: float = 0.0
    of: str = IN_APP

    def __post_init__(self) -> None:
        check_choice("Fallback.use", self.use, ("away", "unread", "failed"))
        check_seconds("Fallback.after", self.after, zero=True)
        check_name("Fallback.of", self.of)
        if self.use == "failed" and self.of == IN_APP:
            raise UsageError("Fallback.of: name the channel for which this one steps in, such as of='push'")
        if self.use != "failed" and self.of != IN_APP:
            raise UsageError(
                f"Fallback.of is {self.of!r}, but only of {IN_APP!r} it is known what was read; leave it out, or write "
                "use='failed'"
            )


@dataclass(frozen=True, slots=True)
class FrequencyCap:
    """How many notifications a recipient gets in a period.

    Attributes:
        limit: the most notifications.
        per: `"day"`, `"week"` (from Monday) or `"month"` of the recipient's calendar; a number: any interval of that
            many seconds.
        scope: what is counted together: the `"type"` by itself, or all types of its `"category"`, or of the `"user"`,
            that have a cap with the same `per` and `scope`.

    Raises:
        UsageError: an argument is not valid.
    """

    limit: int
    per: Per | float = "day"
    scope: Literal["type", "category", "user"] = "type"

    def __post_init__(self) -> None:
        check_count("FrequencyCap.limit", self.limit)
        if isinstance(self.per, str):
            check_choice("FrequencyCap.per", self.per, get_args(Per), "or a number of seconds")
        else:
            check_seconds("FrequencyCap.per", self.per)
        check_choice("FrequencyCap.scope", self.scope, ("type", "category", "user"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """How notifications are collected and sent together. Give either `window` or `every`.

    Attributes:
        window: seconds from the first notification to the end; with `ceiling`, from the latest one.
        ceiling: the most seconds from the first notification to the end, if each notification moves the end.
        every: the digest ends once a `"day"`, `"week"` or `"month"` of the recipient's calendar.
        at: the local time of that end.
        days: the days of the week, for `every="week"`, such as `("mon", "thu")`.
        day: the day of the month, for `every="month"`; in a shorter month, its last day.
        limit: the number of notifications at which it ends at once; None: no limit.
        key: the field of the data of which each value has a digest of its own, with dots for inner fields; empty: one
            digest for the type.
        leading: `"first"`: a notification is sent at once if none of its key was sent or collected in the `window`
            before, and is not part of the digest. `"look_back"`: the same with the last `look_back` seconds, in which
            a digest that was sent counts, too. Empty: every notification is collected.
        look_back: see `leading`, in seconds.
        channels: the channels that collect; None: all but the inbox.
        drop_read: leave out what the recipient has read in the inbox by then.

    Raises:
        UsageError: an argument is not valid, or two of them contradict each other.
    """

    window: float | None = None
    ceiling: float | None = None
    every: Per | None = None
    at: time = time(9)
    days: Collection[str] = ("mon",)
    day: int = 1
    limit: int | None = None
    key: str = ""
    leading: Literal["", "first", "look_back"] = ""
    look_back: float | None = None
    channels: Collection[str] | None = None
    drop_read: bool = False

    def __post_init__(self) -> None:
        if (self.window is None) == (self.every is None):
            raise UsageError("Digest needs one end: window= in seconds, or every='day', 'week' or 'month'")
        if self.window is not None:
            check_seconds("Digest.window", self.window)
        else:
            check_choice("Digest.every", self.every, get_args(Per))
        if self.ceiling is not None:
            check_seconds("Digest.ceiling", self.ceiling)
            if self.window is None or self.ceiling <= self.window:
                raise UsageError(f"Digest.ceiling must be greater than window={self.window}, not {self.ceiling}")
        check_wall("Digest.at", self.at)
        keep(self, days=check_days("Digest.days", self.days))
        check_count("Digest.day", self.day, most=31)
        if self.limit is not None:
            check_count("Digest.limit", self.limit, least=2)
        if self.channels is not None:
            keep(self, channels=check_names("Digest.channels", self.channels))
        self._check_leading()

    def _check_leading(self) -> None:
        check_choice("Digest.leading", self.leading, ("", "first", "look_back"))
        if (self.look_back is None) == (self.leading == "look_back"):
            raise UsageError("Digest.look_back= and leading='look_back' belong together; give both or neither")
        if self.look_back is not None:
            check_seconds("Digest.look_back", self.look_back)
        if self.leading == "first" and self.window is None:
            raise UsageError("Digest.leading='first' needs a window= in seconds, which begins with the first")

    @property
    def longest(self) -> float:
        """The most seconds that a notification waits in it, not counting quiet hours."""
        nominal = {"day": _DAY, "week": 7 * _DAY, "month": 31 * _DAY}
        return self.ceiling or self.window or nominal[str(self.every)]
