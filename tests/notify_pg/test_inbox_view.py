"""The view of docs/howto/inbox-tables.md, as the page has it, on the tables of a store."""

from __future__ import annotations

import asyncpg
import pytest

from notify import Notifier
from notify.inbox import Inbox
from notify_pg import PostgresStreamStore
from tests.test_docs import ROOT, snippets

pytestmark = pytest.mark.anyio

(VIEW,) = (
    block.source
    for block in snippets(ROOT / "docs" / "howto" / "inbox-tables.md", "text")
    if block.source.startswith("CREATE VIEW")
)


async def test_the_view_shows_items(live: PostgresStreamStore, schema: str, sql: asyncpg.Connection) -> None:
    """Each item is one row of the view: its id, its payload, its times; what has expired is not there."""
    async with Notifier(live) as notifier:
        inbox = Inbox(notifier)
        sent = await inbox.send("alice", "comment.created", {"post": 7}, group="post:7", ttl=3600)
        assert sent is not None
        await inbox.mark_read("alice", sent.id)
        await inbox.follow("alice", "news")
        await inbox.publish("news", "story")
        (story, _) = (await inbox.list("alice")).items
        await sql.execute(f"SET search_path TO {schema}; {VIEW}")
        rows = {row["item_id"]: row for row in await sql.fetch("SELECT * FROM inbox_items WHERE user_id = 'alice'")}
        assert set(rows) == {sent.id, story.id}
        row = rows[sent.id]
        assert (row["type"], row["group_name"], row["payload"]) == ("comment.created", "post:7", '{"post": 7}')
        assert row["sent_at"] == sent.timestamp
        assert row["read_at"] is not None
        assert row["dismissed_at"] is None
        assert rows[story.id]["log"] == "news"
        await sql.execute(f"UPDATE {schema}.notify_items SET expires_at = 1 WHERE user_id = 'alice' AND log = ''")
        assert await sql.fetchval("SELECT count(*) FROM inbox_items WHERE user_id = 'alice'") == 1
