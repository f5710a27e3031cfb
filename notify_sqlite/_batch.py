"""Changes of inboxes: what they affect is found, applied and appended in one transaction, in turn with saves."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from notify import Event, NotifyError, UsageError, ids
from notify.inbox.abc import MAX_IDS, Change

from ._append import append
from ._apply import MARKS, mark
from ._box import InboxWriter
from ._follow import apply, complete, pull
from ._items import InboxLimits, counts, id_of
from ._record import Limits

Outcome: TypeAlias = Event | Change | NotifyError


@dataclass(frozen=True, slots=True)
class ChangeDraft:
    """A change that is not stored if it changes nothing, other than an event that has the type of a change."""

    event: Event


def append_all(
    db: sqlite3.Connection, sql: Mapping[str, str], drafts: Sequence[Event | ChangeDraft], limits: Limits
) -> list[Outcome]:
    """Append events and changes in order, inside a transaction, and return their outcomes."""
    outcomes: list[Outcome] = []
    events: list[Event] = []
    for draft in drafts:
        if isinstance(draft, ChangeDraft):
            outcomes += append(db, sql, events, limits)
            events.clear()
            outcomes.append(change(db, sql, draft.event, limits))
        else:
            events.append(draft)
    return outcomes + append(db, sql, events, limits)


def change(db: sqlite3.Connection, sql: Mapping[str, str], draft: Event, limits: Limits) -> Change | UsageError:
    """Apply a change and append it, inside a transaction, if it changes anything."""
    inbox = InboxLimits.at(limits.now >> ids.SEQUENCE_BITS, limits.inbox)
    user, changed, event = draft.user, [], None
    repeated = draft.key is not None and db.execute(sql["event_of_key"], (user, draft.key, limits.key_horizon))
    if not repeated or repeated.fetchone() is None:
        writer = InboxWriter(db, sql, inbox)
        pull(writer, user)
        if draft.type in MARKS:
            changed = mark(writer, draft)
            wanted = draft if changed else None
        else:
            try:
                wanted = complete(writer, draft)
            except UsageError as error:
                writer.flush()
                return error
        if wanted is not None:
            (event,) = append(db, sql, [wanted], limits, applied=True)
            if draft.type not in MARKS:
                apply(writer, event)
        writer.flush()
    found, _ = counts(db, sql, user, inbox, pulled=True)
    return Change(tuple(id_of(row[0], row[1]) for row in changed[:MAX_IDS]), found, event)
