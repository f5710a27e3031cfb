"""Digests whose first notification is sent at once, from submit to what is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from notify.dispatch import Content, DataTemplates, Digest, NotificationType, Rendering, _looking
from tests.dispatch.world import World

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World(
        [
            NotificationType("first", channels=["email"], digest=Digest(window=600, key="post", leading="first")),
            NotificationType(
                "back", channels=["email"], digest=Digest(window=600, leading="look_back", look_back=1800)
            ),
        ]
    )
    yield made
    await made.notifier.aclose()
    await made.store.aclose()


async def titles(world: World, key: str, *steps: tuple[str, str], post: int = 1) -> list[str]:
    """Submit after each span of time, and return the titles of what was sent, those of digests joined."""
    for span, title in steps:
        await world.pass_time(span)
        if title:
            await world.submit(key, title=title, post=post)
            await world.settle()
    return [job.content.title + job.content.body.replace("\n", ",") for job in world.email.jobs]


async def test_the_first_is_sent_at_once(world: World) -> None:
    """The others of the window are one digest, also those that come when the place of the first is free again."""
    sent = await titles(world, "first", ("0s", "a"), ("1m", "b"), ("9m 30s", "c"), ("20s", ""))
    assert len(sent) == 1
    assert sent[0].startswith("a")
    sent = await titles(world, "first", ("1m", ""))
    assert len(sent) == 2
    assert "b" in sent[1]
    assert "c" in sent[1]
    sent = await titles(world, "first", ("1h", "d"))
    assert len(sent) == 3
    assert sent[2].startswith("d")


async def test_nothing_more_is_sent_if_nothing_follows(world: World) -> None:
    """One notification is one message."""
    assert len(await titles(world, "first", ("0s", "a"), ("1h", ""))) == 1


async def test_each_key_has_its_first(world: World) -> None:
    """What is kept apart leads apart."""
    await titles(world, "first", ("0s", "a"), post=1)
    assert len(await titles(world, "first", ("0s", "b"), post=2)) == 2


async def test_a_digest_counts_for_looking_back(world: World) -> None:
    """After a digest has been sent, the next one is collected for as long as after a single notification."""
    sent = await titles(world, "back", ("0s", "a"), ("1m", "b"), ("15m", ""))
    assert len(sent) == 2
    sent = await titles(world, "back", ("20m", "c"))  # 36 minutes after a, 25 after the digest
    assert len(sent) == 2
    sent = await titles(world, "back", ("15m", ""), ("2h", "d"))
    assert len(sent) == 4
    assert sent[3].startswith("d")


async def test_a_digest_counts_all_and_shows_the_newest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read page by page: all that are worth sending are counted, and the newest are in the text."""
    monkeypatch.setattr(_looking, "_DIGEST_PAGE", 4)
    monkeypatch.setattr(_looking, "_DIGEST_SHOWN", 3)
    rendered: list[Rendering] = []
    render = DataTemplates.render

    def remember(templates: DataTemplates, rendering: Rendering) -> Content:
        rendered.append(rendering)
        return render(templates, rendering)

    monkeypatch.setattr(DataTemplates, "render", remember)
    for number in range(9):  # the first is sent by itself; eight are two whole pages
        await titles(world, "first", ("1s", f"t{number}"))
    await world.pass_time("1h")
    assert [each.count for each in rendered[:2]] == [1, 8]
    assert rendered[0].items == ()
    assert [each["title"] for each in rendered[1].items] == ["t6", "t7", "t8"]
