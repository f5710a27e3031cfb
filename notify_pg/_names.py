"""Names of tables, functions and channels, and the SQL texts: the only module that puts a name into SQL.

Values are always bound as parameters. Names cannot be, so they are checked against a strict pattern and quoted here.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from functools import lru_cache
from hashlib import blake2b
from importlib.resources import files
from typing import Final

from notify.dispatch.abc import DELIVERY_COLUMNS, ENDPOINT_COLUMNS, NOTIFICATION_COLUMNS, RECIPIENT_COLUMNS
from notify.errors import UsageError

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")
_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")
_SQL: Final = files(__package__) / "_sql"  # may be in a zip file
_MAX_BYTES: Final = 63
"""Of an identifier. The server truncates longer ones silently, so two of them could collide."""

INBOX_TABLES: Final = ("items", "inboxes", "follows")

TABLES: Final = (
    "meta",
    "heads",
    "events",
    "events_default",
    "keys",
    "nonces",
    "outbox",
    "outbox_dead",
    *INBOX_TABLES,
    "trackers",
    "presence",
)
USER_TABLES: Final = ("outbox", "outbox_dead", "heads", "events", "keys", *INBOX_TABLES, "presence")
"""Those with a column `user_id`, in the order in which a user is erased."""

INBOX_FUNCTIONS: Final = (
    "inbox_due",
    "inbox_trim",
    "inbox_items",
    "inbox_item",
    "inbox_mark",
    "inbox_pull",
    "inbox_unfollow",
    "inbox_merge",
    "inbox_apply",
    "inbox_counts",
    "inbox_page",
    "inbox_named",
    "save_inbox",
    "change_inbox",
    "pull_inbox",
    "sweep_inboxes",
    "leave_topic",
)
FUNCTIONS: Final = {"save": "save_1", "relay": "relay_1"} | {name: f"{name}_1" for name in INBOX_FUNCTIONS}

INDEXES: Final = {
    "presence_index": "presence_tracker_idx",
    "items_group_index": "items_group_idx",
    "items_expiry_index": "items_expiry_idx",
    "inboxes_oldest_index": "inboxes_oldest_idx",
    "inboxes_expiry_index": "inboxes_expiry_idx",
    "follows_topic_index": "follows_topic_idx",
}


DISPATCH_TABLES: Final = (
    "dispatch_meta",
    "notifications",
    "recipients",
    "deliveries",
    "attempts",
    "requests",
    "digests",
    "digest_items",
    "preferences",
    "consents",
    "endpoints",
    "cap_counts",
    "cap_verdicts",
    "gates",
)
"""Of the store of deliveries, which exist only where one is used."""

DISPATCH_FUNCTIONS: Final = {
    name: f"{name}_1"
    for name in (
        "close_digest",
        "join_digest",
        "close_digests",
        "leave_digests",
        "claim_deliveries",
        "settle_deliveries",
        "submit_notification",
        "advance_deliveries",
        "resolve_delivery",
        "cancel_deliveries",
        "purge_notification",
        "admit_notification",
        "refund_notification",
        "forget_recipient",
    )
}

DISPATCH_INDEXES: Final = {
    "notifications_age_index": "notifications_age_idx",
    "deliveries_channel_index": "deliveries_channel_idx",
    "deliveries_recipient_index": "deliveries_recipient_idx",
    "deliveries_user_index": "deliveries_user_idx",
    "deliveries_after_index": "deliveries_after_idx",
    "deliveries_stuck_index": "deliveries_stuck_idx",
    "deliveries_parked_index": "deliveries_parked_idx",
    "requests_index": "requests_idx",
    "digests_open_index": "digests_open_idx",
    "digests_due_index": "digests_due_idx",
    "digests_user_index": "digests_user_idx",
    "digest_items_index": "digest_items_idx",
    "consents_index": "consents_idx",
    "endpoints_index": "endpoints_idx",
    "endpoints_session_index": "endpoints_session_idx",
    "endpoints_retired_index": "endpoints_retired_idx",
    "cap_counts_index": "cap_counts_idx",
    "cap_verdicts_index": "cap_verdicts_idx",
    "gates_index": "gates_idx",
}


def _delivery_columns(row: str = "") -> str:
    """Return the columns of a `Delivery`; `due_at` of a row that a worker holds is the end of its lease."""
    due_at = f"CASE WHEN {row}state IN (1, 2) THEN {row}lease_until ELSE {row}due_at END"
    return ", ".join(due_at if name == "due_at" else f"{row}{name}" for name in DELIVERY_COLUMNS)


COLUMNS: Final = {
    "delivery_columns": _delivery_columns(),
    "endpoint_columns": ", ".join(ENDPOINT_COLUMNS),
    "d_delivery_columns": _delivery_columns("d."),
    "n_notification_columns": ", ".join(f"n.{name}" for name in NOTIFICATION_COLUMNS),
    "r_recipient_columns": ", ".join(f"r.{name}" for name in RECIPIENT_COLUMNS),
}


@lru_cache
def _text(operation: str) -> str:
    return (_SQL / f"{operation}.sql").read_text(encoding="utf-8")


@lru_cache(maxsize=65_536)
def short_key(text: str) -> str:
    """Return eight characters that stand for a user or an instance in a notification.

    Short, so that one payload names hundreds of users, and not the id itself, so that a role that may only listen does
    not learn who gets events. Two users with the same key are both read, and told apart then.
    """
    return urlsafe_b64encode(blake2b(text.encode(), digest_size=6).digest()).decode()


class PostgresNames:
    """What the tables, functions and channels of one schema and prefix are called.

    Attributes:
        wake_channel: carries the short keys of users with new events.
        route_channel: carries the events of routers.

    Raises:
        UsageError: `schema` or `table_prefix` does not match `[a-z][a-z0-9_]{0,30}`, or they are too long together.
    """

    def __init__(self, schema: str, table_prefix: str) -> None:
        for option, name in (("schema", schema), ("table_prefix", table_prefix)):
            if not _NAME.fullmatch(name):
                raise UsageError(f"{option} must match [a-z][a-z0-9_]{{0,30}}, got {name!r:.80}")
        self.schema = schema
        self.prefix = table_prefix
        self.wake_channel = self._channel("wake")
        self.route_channel = self._channel("route")
        names = {name: name for name in (*TABLES, *DISPATCH_TABLES)} | FUNCTIONS | DISPATCH_FUNCTIONS
        self._quoted = {key: self._qualified(name) for key, name in names.items()} | {
            "schema": f'"{schema}"',
            "schema_name": schema,
            "prefix": table_prefix,
        }
        self._quoted |= {
            key: f'"{table_prefix}{name}"' for key, name in {**INDEXES, **DISPATCH_INDEXES}.items()
        } | COLUMNS
        self._texts: dict[str, str] = {}

    @property
    def lock(self) -> int:
        """The number of the advisory lock under which the schema is changed."""
        return self._number("schema")

    @property
    def relay_lock(self) -> int:
        """The number of the advisory lock that the active relay holds."""
        return self._number("relay")

    @property
    def tables(self) -> list[str]:
        """The names of all our tables, without the schema."""
        return [f"{self.prefix}{name}" for name in TABLES]

    @property
    def functions(self) -> list[str]:
        """The names of all our functions, without the schema."""
        return [f"{self.prefix}{name}" for name in FUNCTIONS.values()]

    def function(self, name: str) -> str:
        """Return the quoted, qualified name of one of our functions."""
        return self._quoted[name]

    def table(self, name: str) -> str:
        """Return the quoted, qualified name of one of our tables or partitions."""
        return self._qualified(name)

    def sql(self, operation: str, **more: int | str) -> str:
        """Return the text of `_sql/<operation>.sql` with our names, these integers and further tables filled in."""
        if not more and operation in self._texts:  # each read asks
            return self._texts[operation]
        values = self._quoted | {
            key: str(value) if isinstance(value, int) else self._qualified(value) for key, value in more.items()
        }
        text = _PLACEHOLDER.sub(lambda found: values[found[1]], _text(operation))
        if not more:
            self._texts[operation] = text
        return text

    def _number(self, purpose: str) -> int:
        digest = blake2b(f"{self.schema}.{self.prefix} {purpose}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)

    def _qualified(self, name: str) -> str:
        whole = f"{self.prefix}{name}"
        assert re.fullmatch(r"[a-z][a-z0-9_]*", whole)
        assert len(whole) <= _MAX_BYTES
        return f'"{self.schema}"."{whole}"'

    def _channel(self, name: str) -> str:
        channel = f"{self.schema}.{self.prefix}{name}"
        if len(channel) > _MAX_BYTES:
            raise UsageError(
                f"schema and table_prefix are too long together: the channel {channel!r} is over {_MAX_BYTES} bytes"
            )
        return channel
