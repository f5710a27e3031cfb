"""The functions in the database: one that a release has created is not changed without a new name."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from notify_pg._dispatch_schema import SCRIPTS as DISPATCH_SCRIPTS
from notify_pg._names import DISPATCH_FUNCTIONS, FUNCTIONS, PostgresNames
from notify_pg._schema import SCRIPTS

FUNCTION: Final = re.compile(
    r'^CREATE OR REPLACE FUNCTION "s"\."p_(\w+)"\s*\([^$]*(\$\w*\$).*?\2[^;]*;', re.DOTALL | re.MULTILINE
)
COMMENT: Final = re.compile(r"--[^\n]*")

DIGESTS: Final = {
    "save_1": "54e9575f2756",
    "relay_1": "7a0af2166fa8",
    "inbox_due_1": "e72ac7768119",
    "inbox_trim_1": "e9d2f1c93aa2",
    "inbox_items_1": "db82de0f27ef",
    "inbox_item_1": "da971858c03b",
    "inbox_mark_1": "4f4031f93a5e",
    "inbox_counts_1": "f22fd1153926",
    "inbox_page_1": "5643d94acfd7",
    "inbox_named_1": "ad28676a2d88",
    "inbox_pull_1": "c5264a5a33c5",
    "inbox_unfollow_1": "6a1573978ef3",
    "inbox_merge_1": "ee5d8ac209c7",
    "inbox_apply_1": "34ae0fb9a0c8",
    "save_inbox_1": "1958c5d24cfb",
    "change_inbox_1": "b88958051515",
    "pull_inbox_1": "8f167310558a",
    "sweep_inboxes_1": "1249b14d3335",
    "leave_topic_1": "241625f128cf",
    "close_digest_1": "5ca2d9be3424",
    "join_digest_1": "0d3a00e2b880",
    "close_digests_1": "a13d9ac8d1e3",
    "leave_digests_1": "e1745020aba2",
    "claim_deliveries_1": "12be9eff0868",
    "settle_deliveries_1": "fa804cf1e863",
    "submit_notification_1": "cba62ee5a833",
    "advance_deliveries_1": "400d596783f2",
    "resolve_delivery_1": "a8bdee571f6a",
    "cancel_deliveries_1": "b7bb6e82167a",
    "purge_notification_1": "5405debd8bcb",
    "admit_notification_1": "b50d525939ab",
    "refund_notification_1": "3ff2d05e6766",
    "forget_recipient_1": "e2f4ef4bb65c",
}
"""Of the text of each function, without comments and line breaks."""


def digests() -> dict[str, str]:
    """Return the digests of the functions that the scripts create now."""
    names = PostgresNames("s", "p_")
    script = "\n".join(names.sql(each, version=0) for each in (*SCRIPTS, *DISPATCH_SCRIPTS))
    found = {}
    for each in FUNCTION.finditer(script):
        text = " ".join(COMMENT.sub("", each[0]).split())
        found[each[1]] = blake2b(text.encode(), digest_size=6).hexdigest()
    return found


def test_a_changed_function_has_a_new_name() -> None:
    """A function that a database already has is not replaced, so that processes of two releases can work side by side.

    If a release has the function, give it the next number in `notify_pg/_names.py`, for example `save_2`. Its callers
    in SQL change with it, so they get new names too. Then put the new digest here; before the first release, this is
    the only step.
    """
    found = digests()
    assert {*found} == {*FUNCTIONS.values(), *DISPATCH_FUNCTIONS.values()}
    changed = {name: digest for name, digest in found.items() if DIGESTS.get(name) != digest}
    assert not changed, "databases that have these functions would keep the old text"
    assert {*DIGESTS} == {*found}
