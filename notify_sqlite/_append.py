"""Appending events to their users' logs, inside a transaction; what concerns inboxes is applied by the same one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from notify import Event, ids
from notify.adapters import build_event
from notify.event import NO_META
from notify.inbox.abc import CHANGES, ITEM

from ._apply import Listed, apply
from ._connection import MAX_ROWS
from ._items import InboxLimits
from ._record import SEQUENCE_MASK, Limits, Row, first_of_key, insert_many, rows_of_users


class _Head:
    """Where the log of one user ends, while a transaction appends to it."""

    __slots__ = ("id", "kept", "last_id")

    def __init__(self, last_id: int = 0, kept: int = 0) -> None:
        self.last_id, self.kept = last_id, kept
        self.id = ids.unpack(last_id) if last_id else ids.ZERO


def append(
    db: sqlite3.Connection, sql: Mapping[str, str], drafts: Sequence[Event], limits: Limits, applied: bool = False
) -> list[Event]:
    """Append at most `MAX_ROWS` events to their users' logs, inside a transaction, and return them as stored.

    Args:
        db: in a transaction.
        sql: the statements.
        drafts: the events.
        limits: what the retention options allow now.
        applied: whether the inboxes show the effect of these events already.
    """
    execute = db.cursor().execute
    heads = _heads(execute, sql, drafts)
    grown: dict[str, _Head] = {}
    keyed: dict[tuple[str, str], Event] = {}
    rows: list[Row] = []
    plain: list[Row] = []
    stored: list[Event] = []
    listed: list[Listed] = []
    (last,) = execute(sql["last_id"]).fetchone()
    now = limits.now
    same_meta: Mapping[str, str] = NO_META  # most drafts of a batch share one
    text: str | None = None
    for draft in drafts:
        user, key, meta = draft.user, draft.key, draft.meta
        if key is not None:
            first = keyed.get((user, key)) or first_of_key(
                execute(sql["event_of_key"], (user, key, limits.key_horizon)).fetchone(), draft
            )
            if first is not None:
                stored.append(first)
                continue
        head = grown[user] = heads[user]
        last = last + 1 if last >= now else now
        id_ = f"{last >> ids.SEQUENCE_BITS}-{last & SEQUENCE_MASK}"  # unpacked in place: a third of the time
        type_, data, micros, group = draft.type, draft.data, draft.micros, draft.group
        blob = bytearray(data)  # sqlite3 looks up an adapter for each `bytes` and None: a tenth of the time of a push
        event = build_event(id_, head.id, user, type_, data, micros, group, key, meta)
        if meta is not same_meta:
            same_meta = meta
            text = None if not meta else _text_of(meta) if len(meta) > 1 else _plain_text(*next(iter(meta.items())))
        if group is None and key is None and text is None:
            plain.append((user, last, head.last_id, type_, blob, micros))
        else:
            rows.append((user, last, head.last_id, type_, blob, micros, group, key, text))
        if key is not None:
            execute(sql["set_key"], (user, key, last, head.last_id))
            keyed[user, key] = event
        head.last_id, head.id = last, id_
        head.kept += 1
        stored.append(event)
        if type_ in CHANGES or (text is not None and ITEM in meta):
            listed.append((event, last, text or "{}"))
    if grown:
        if plain:
            insert_many(db, sql["insert_plain_event"], plain)
        if rows:
            insert_many(db, sql["insert_event"], rows)
        _bound(execute, sql, grown, limits.max_len)
        insert_many(db, sql["set_head"], [(user, head.last_id, head.kept) for user, head in grown.items()])
        execute(sql["set_last_id"], (last,))
    if listed and not applied:
        apply(db, sql, listed, InboxLimits.at(now >> ids.SEQUENCE_BITS, limits.inbox))
    return stored


def _text_of(meta: Mapping[str, str]) -> str:
    return json.dumps({**meta})


@lru_cache(maxsize=256)
def _plain_text(name: str, value: str) -> str:
    """Return the text of a `meta` of one pair: most items have the same."""
    return _text_of({name: value})


def _heads(execute: Any, sql: Mapping[str, str], drafts: Sequence[Event]) -> dict[str, _Head]:
    """Return where the log of each of these users ends."""
    heads = {draft.user: _Head() for draft in drafts}
    for user, last_id, kept in rows_of_users(execute, sql["head_of"], sql["heads_of"], [*heads]):
        heads[user] = _Head(last_id, kept)
    return heads


def _bound(execute: Any, sql: Mapping[str, str], heads: Mapping[str, _Head], max_len: int) -> None:
    """Remove the oldest events of the logs that are too long: a sixteenth at once, cheaper than one at each push."""
    slack = max_len // 16
    budget = MAX_ROWS
    for user, head in heads.items():
        excess = head.kept - max_len
        if excess > slack and budget > 0:
            removed = execute(sql["delete_oldest"], (user, user, min(excess, budget))).rowcount
            head.kept -= removed
            budget -= removed
