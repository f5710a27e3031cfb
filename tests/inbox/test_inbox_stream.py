"""`Inbox.subscribe`: what every stream of a notifier does, the logs that follow the user's log, and counts."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import ref

import anyio
import anyio.lowlevel
import pytest

from notify import (
    BackendUnavailableError,
    ClosedError,
    DisconnectedError,
    Event,
    InvalidEventError,
    InvalidEventIdError,
    Notifier,
    Page,
    SlowConsumerError,
    UsageError,
)
from notify.abc import Interruptible, MergedStream
from notify.inbox import Follow, Inbox, InboxStream
from notify.inbox._following import FollowSet
from notify_memory import MemoryPresence, MemoryStore, MemoryStreamStore
from tests.inbox.parts import KINDS, PlainInboxStore, inbox_on, read, read_until, unread
from tests.parts import until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=KINDS)
async def inbox(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Inbox]:
    async with inbox_on(request.param, tmp_path) as inbox:
        yield inbox
        await until(lambda: inbox.notifier.statistics().open_streams == 0)


async def send(inbox: Inbox, user: str = "alice", payload: Any = None, **options: Any) -> Event:
    event = await inbox.send(user, "app.item", payload, **options)
    assert event is not None
    return event


async def entered(inbox: Inbox, last_id: Any = None, **options: Any) -> InboxStream:
    return await inbox.subscribe("alice", last_id, **options).__aenter__()


# -- as every stream ------------------------------------------------------------------------------------------------


async def test_replay_then_live(inbox: Inbox) -> None:
    """What is in the log after the position, then live, in order, each once; the token resumes exactly."""
    events = [await send(inbox, payload=number) for number in range(3)]
    async with inbox.subscribe("alice", "0") as stream:
        assert isinstance(stream, MergedStream)
        assert isinstance(stream, Interruptible)
        assert (stream.user, stream.users, stream.gaps, stream.dropped) == ("alice", ("alice",), (), 0)
        assert await read(stream, 3) == events
        live = await send(inbox)
        change = await inbox.dismiss("alice", live.id)
        assert await read(stream, 2) == [live, change.event]
        assert stream.last_id == (change.event and change.event.id)
        assert "alice" in repr(stream)
    async with inbox.subscribe("alice", events[0].id) as stream:
        assert await read(stream, 2) == events[1:]
    with pytest.raises(ClosedError):
        await stream.next()


async def test_from_now_on(inbox: Inbox) -> None:
    """Without a position: what comes after the stream is entered, or after its first `next`."""
    await send(inbox)
    async with inbox.subscribe("alice") as stream:
        event = await send(inbox)
        assert await read(stream, 1) == [event]
    bare = inbox.subscribe("alice", "")
    assert bare.last_id == ""
    with pytest.raises(TimeoutError):
        await bare.next(0.1)
    event = await send(inbox)
    assert await read(bare, 1) == [event]
    await bare.aclose()


async def test_next_with_timeout_zero_finds_what_is_stored() -> None:
    """On a store that answers at once."""
    async with Notifier(MemoryStore()) as notifier:
        inbox = Inbox(notifier)
        event = await send(inbox)
        stream = inbox.subscribe("alice", "0")
        assert await stream.next(0) == event
        with pytest.raises(TimeoutError):
            await stream.next(0)
        assert stream.next_nowait() is None
        event = await send(inbox)
        assert await stream.next(0) == event
        await stream.aclose()
        async with inbox.subscribe("alice") as stream:
            with pytest.raises(TimeoutError):
                await stream.next(0.01)
            event = await send(inbox)
            assert [stream.next_nowait(), stream.next_nowait()] == [event, None]
        signalling = inbox.subscribe("alice", event.id, signals=True)
        assert (await signalling.next(5)).type == "notify.sync"
        await signalling.aclose()


async def test_break_releases(inbox: Inbox) -> None:
    """Leaving a bare loop, and dropping a stream, leaves nothing open."""
    await send(inbox)
    async for _ in inbox.subscribe("alice", "0"):
        break
    gc.collect()
    assert inbox.notifier.statistics().open_streams == 0
    stream: Any = inbox.subscribe("alice", "0")
    await stream.next(5)
    del stream
    gc.collect()
    assert inbox.notifier.statistics().open_streams == 0


async def test_cancellation_loses_nothing(inbox: Inbox) -> None:
    """However often `next` is cancelled, at the opening and later, every event is yielded once, in order."""
    events = [await send(inbox, payload=number) for number in range(5)]
    stream = inbox.subscribe("alice", "0", signals=True)
    seen: list[Event] = []

    async def take() -> None:
        event = await stream.next()
        if event.id and event.type == "app.item":
            seen.append(event)

    with anyio.fail_after(10):
        for attempt in range(10_000):
            async with anyio.create_task_group() as group:
                group.start_soon(take)
                for _ in range(attempt % 7):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            if len(seen) == 5:
                break
    assert seen == events
    await stream.aclose()
    assert inbox.notifier.statistics().open_streams == 0


async def test_a_cancelled_bare_reader_is_released(inbox: Inbox) -> None:
    """Its stream detaches, and attaches again where it was."""
    stream = inbox.subscribe("alice")
    with anyio.move_on_after(0.2):
        await stream.next()
    await until(lambda: inbox.notifier.statistics().open_streams == 0)
    event = await send(inbox)
    assert await read(stream, 1) == [event]
    await stream.aclose()


async def test_closing_wakes(inbox: Inbox) -> None:
    """`aclose` of the stream and of the notifier end a waiting `next` at once, and a loop just ends."""
    for close_all in (False, True):
        stream = await entered(inbox)
        ended: list[str] = []

        async def wait(stream: InboxStream = stream, ended: list[str] = ended) -> None:
            with pytest.raises(ClosedError):
                await stream.next()
            ended.append("next")

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(UsageError, match="another task"):
                await stream.next()
            with pytest.raises(UsageError, match="another task"):
                stream.next_nowait()
            with anyio.fail_after(5):
                await (inbox.notifier.aclose() if close_all else stream.aclose())
        assert ended == ["next"]
        assert [event async for event in stream] == []
        await stream.aclose()
    with pytest.raises(ClosedError):
        inbox.subscribe("alice")


async def test_it_ends_as_every_stream() -> None:
    """`disconnect`, `expires_at`, `max_lag` and `disconnected_since` do what they do for other streams."""
    async with Notifier(MemoryStreamStore()) as notifier:
        inbox = Inbox(notifier)
        stream = await entered(inbox)
        moment = await notifier.moment()
        await notifier.disconnect("alice", "out")
        with pytest.raises(DisconnectedError, match="out"):
            await stream.next()
        assert [event async for event in stream] == []
        with pytest.raises(DisconnectedError, match="out"):
            await inbox.subscribe("alice", disconnected_since=moment).next()
        expiring = await entered(inbox, expires_at=datetime.now(UTC) + timedelta(seconds=0.05))
        with pytest.raises(DisconnectedError, match="expired"):
            await expiring.next(5)
        lagging = await entered(inbox, max_lag=1)
        for number in range(3):
            await send(inbox, payload=number)
        with pytest.raises(SlowConsumerError):
            async for _ in lagging:
                pass


@pytest.mark.parametrize("signals", [True, False])
async def test_interrupting(inbox: Inbox, signals: bool) -> None:
    """A waiting `next` raises TimeoutError, or the following one does; nothing is lost, also if counts come too."""
    stream = await entered(inbox, signals=signals)
    for number in range(3):

        async def wait() -> None:
            with anyio.fail_after(5), pytest.raises(TimeoutError, match="interrupted"):
                await read(stream, 1000)

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            stream.interrupt()
        event = await send(inbox, payload=number)
        assert await read(stream, 1) == [event]
        stream.interrupt()
        with pytest.raises(TimeoutError):
            await stream.next(5)
    if signals:
        assert unread((await read_until(stream, lambda event: unread(event) == 3))[-1]) == 3
    await stream.aclose()


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("",), {}, InvalidEventError),
        (("alice", "nonsense"), {}, InvalidEventIdError),
        (("alice",), {"session": "\x00"}, InvalidEventError),
        (("alice",), {"addresses": "page"}, UsageError),
        (("alice",), {"addresses": [""]}, InvalidEventError),
        (("alice",), {"addresses": 5}, UsageError),
        (("alice",), {"addresses": [str(number) for number in range(100)]}, UsageError),
        (("alice",), {"expires_at": 5}, UsageError),
        (("alice",), {"max_lag": "5"}, UsageError),
        (("alice",), {"max_lag": -1}, UsageError),
        (("alice",), {"disconnected_since": "1-1"}, UsageError),
    ],
)
async def test_arguments_are_checked_at_once(arguments: Any, options: Any, error: type[Exception]) -> None:
    """By `subscribe` itself, before the stream is opened."""
    async with Notifier(MemoryStore()) as notifier:
        with pytest.raises(error):
            Inbox(notifier).subscribe(*arguments, **options)


async def test_a_user_may_have_any_name(inbox: Inbox) -> None:
    """Also that of a log of the library, alone, as a further log and as a topic."""
    for name in ("notify.inbox", "notify.inbox."):
        async with inbox.subscribe(name) as own, inbox.subscribe("alice", addresses=[name]) as beside:
            await inbox.follow("alice", name)
            sent = await inbox.send(name, "t")
            assert (await read(own, 1))[-1] == sent
            assert (await read(beside, 2))[-1] == sent
            await beside.remove(name)
            assert name in beside.users
            await inbox.unfollow("alice", name)


# -- further logs ---------------------------------------------------------------------------------------------------


async def test_session_and_addresses(inbox: Inbox) -> None:
    """They are read beside the user's own log, and are not the inbox: no counts for what they get."""
    stream = await entered(inbox, session="session", addresses=["page", "alice"], signals=True)
    assert stream.users == ("alice", "session", "page")
    assert unread(await stream.next(5)) == 0
    one = await send(inbox, "session")
    two = await inbox.notifier.push("page", "t")
    three = await send(inbox)
    seen = await read_until(stream, lambda event: event.type == "notify.counts")
    assert seen[:3] == [one, two, three]
    assert [unread(event) for event in seen[3:]] == [1]
    await stream.aclose()
    resumed = await entered(inbox, stream.last_id, session="session", addresses=["page"])
    four = await send(inbox, "session")
    assert await read(resumed, 1) == [four]
    await resumed.aclose()


async def test_a_plain_id_is_a_position_in_the_own_log() -> None:
    """A client whose stream read one log comes back with more of them: the own log is resumed exactly."""
    store = MemoryStreamStore()
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)
        first = await send(inbox)
        second = await send(inbox)
        await store.trim(second.id)
        async with inbox.subscribe("alice", first.id, session="session") as stream:
            assert await read(stream, 1) == [second]
            assert stream.gaps == ()
        third = await send(inbox)
        await store.trim(third.id)
        async with inbox.subscribe("alice", first.id, session="session") as stream:
            assert await read(stream, 1) == [third]
            assert [gap.reason for gap in stream.gaps] == ["trimmed"]


async def test_logs_may_be_added_by_hand(inbox: Inbox) -> None:
    """As to every stream of several logs; what the user follows stays, and what was added stays beside an unfollow."""
    stream = await entered(inbox)
    await stream.add("page")
    await stream.add("topic")
    await inbox.follow("alice", "topic")
    await inbox.unfollow("alice", "topic")
    one, two = await inbox.notifier.push("page", "t"), await inbox.notifier.push("topic", "t")
    seen = await read(stream, 4)
    assert {event.id for event in seen} >= {one.id, two.id}
    await inbox.follow("alice", "topic")
    await read(stream, 1)
    await stream.remove("topic")
    await stream.remove("page")
    assert stream.users == ("alice", "topic")
    with pytest.raises(UsageError, match="log of this inbox"):
        await stream.remove("alice")
    await stream.aclose()


# -- topics ---------------------------------------------------------------------------------------------------------


async def publish(inbox: Inbox, topic: str = "topic") -> Event:
    event = await inbox.publish(topic, "app.news")
    assert event is not None
    return event


async def test_a_follow_takes_effect_in_order(inbox: Inbox) -> None:
    """After it the topic's events come, and after the unfollow they do not; a second follow begins there."""
    stream = await entered(inbox)
    await publish(inbox)
    follow = await inbox.follow("alice", "topic")
    one = await publish(inbox)
    assert await read(stream, 2) == [follow.event, one]
    assert stream.users == ("alice", "topic")
    unfollow = await inbox.unfollow("alice", "topic")
    assert await read(stream, 1) == [unfollow.event]
    assert stream.users == ("alice",)
    await publish(inbox)
    again = await inbox.follow("alice", "topic")
    two = await publish(inbox)
    assert await read(stream, 2) == [again.event, two]
    await stream.aclose()


async def test_resuming_with_topics(inbox: Inbox) -> None:
    """The token resumes each topic; a topic that it does not have begins at its follow; nothing comes twice."""
    await inbox.follow("alice", "one")
    async with inbox.subscribe("alice") as stream:
        first = await publish(inbox, "one")
        assert await read(stream, 1) == [first]
    token = stream.last_id
    missed = [await publish(inbox, "one")]
    follow = await inbox.follow("alice", "two")
    missed += [await publish(inbox, "two"), await publish(inbox, "one")]
    async with inbox.subscribe("alice", token) as stream:
        seen = await read(stream, 4)
        assert sorted(event.id + event.user for event in seen) == sorted(
            event.id + event.user for event in [*missed, follow.event] if event is not None
        )
        live = await publish(inbox, "two")
        assert await read(stream, 1) == [live]
        assert stream.gaps == ()


async def test_a_follow_that_was_ended_is_not_replayed(inbox: Inbox) -> None:
    """An old follow in the replay does not bring a topic back, and an old unfollow does not end a present one."""
    await inbox.follow("alice", "gone")
    await publish(inbox, "gone")
    await inbox.unfollow("alice", "gone")
    await inbox.follow("alice", "topic")
    await inbox.unfollow("alice", "topic")
    await inbox.follow("alice", "topic")
    news = await publish(inbox)
    async with inbox.subscribe("alice", "0") as stream:
        seen = await read(stream, 6)
        assert [event.user for event in seen] == ["alice"] * 5 + ["topic"] or news in seen
        assert stream.users == ("alice", "topic")
        later = await publish(inbox)
        assert await read(stream, 1) == [later]


@pytest.mark.parametrize("since", ["before", "after"])
async def test_a_time_and_topics(inbox: Inbox, since: str) -> None:
    """A topic is read from the time, or from the follow if that is later."""
    early = await publish(inbox)
    if since == "before":
        await inbox.follow("alice", "topic")
    await anyio.sleep(0.01)
    moment = datetime.now(UTC)
    await anyio.sleep(0.01)
    if since == "after":
        await publish(inbox)
        await inbox.follow("alice", "topic")
    late = await publish(inbox)
    async with inbox.subscribe("alice", moment) as stream:
        seen = await read(stream, 1 if since == "before" else 2)
        assert late in seen
        assert early not in seen


async def test_topics_without_a_position_beside_a_new_start(inbox: Inbox) -> None:
    """From now on means that for topics too; everything retained, for a topic, begins at the follow."""
    await publish(inbox)
    await inbox.follow("alice", "topic")
    old = await publish(inbox)
    async with inbox.subscribe("alice") as stream:
        new = await publish(inbox)
        assert await read(stream, 1) == [new]
    async with inbox.subscribe("alice", "0") as stream:
        seen = await read(stream, 3)
        assert [event for event in seen if event.user == "topic"] == [old, new]


async def test_a_merge_brings_topics(inbox: Inbox) -> None:
    """The topics of a merged session are live in the streams of the user."""
    await inbox.follow("session", "topic")
    stream = await entered(inbox)
    await inbox.merge("session", into="alice")
    assert [event.type for event in await read(stream, 1)] == ["notify.merged"]
    await until(lambda: "topic" in stream.users)
    news = await publish(inbox)
    assert await read(stream, 1) == [news]
    await stream.aclose()


async def test_a_gap_makes_it_ask_again() -> None:
    """If the events that follow and unfollow are gone, what the store says counts; the gap is yielded as a signal."""
    store = MemoryStreamStore(max_len=5)
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)
        await inbox.follow("alice", "old")
        async with inbox.subscribe("alice", signals=True) as stream:
            await read_until(stream, lambda event: event.type == "notify.sync")
            await inbox.unfollow("alice", "old")
            await inbox.follow("alice", "new")
            news = await publish(inbox, "new")
            for number in range(100):
                await notifier.push("alice", "t", number)
            seen = await read_until(stream, lambda event: event.payload == 99)
            assert "notify.gap" in {event.type for event in seen}
            await until(lambda: stream.users == ("alice", "new"))
            if news not in seen:
                assert await read(stream, 1) == [news]
            live = await publish(inbox, "new")
            assert await read(stream, 1) == [live]


async def test_forgetting_a_user_ends_follows() -> None:
    """After `forget`, the streams of the user read no topic any more."""
    async with Notifier(MemoryStreamStore()) as notifier:
        inbox = Inbox(notifier)
        await inbox.follow("alice", "topic")
        async with inbox.subscribe("alice", "0") as stream:
            await read(stream, 1)
            await notifier.forget("alice")
            event = await send(inbox)
            assert await read(stream, 1) == [event]
            await until(lambda: stream.users == ("alice",))


async def test_more_topics_than_a_stream_reads(caplog: pytest.LogCaptureFixture) -> None:
    """With further logs, there may be more than 100: the stream says so once, and shows the others."""
    async with Notifier(MemoryStreamStore()) as notifier:
        inbox = Inbox(notifier)
        for number in range(99):
            await inbox.follow("alice", f"topic{number:02}")
        async with inbox.subscribe("alice", addresses=["a", "b", "c"]) as stream:
            assert len(stream.users) == 100
            await inbox.unfollow("alice", "topic00")
            await inbox.follow("alice", "x")
            news = await publish(inbox, "x")
            assert (await read(stream, 3))[-1] == news
    assert len([record for record in caplog.records if "does not show topic" in record.message]) == 1


async def test_presence_counts_topics() -> None:
    """As for every stream of several logs, each of the logs counts as present, unless `track=False`."""
    presence = MemoryPresence()
    async with Notifier(MemoryStreamStore(), presence=presence) as notifier:
        inbox = Inbox(notifier)
        await inbox.follow("alice", "topic")
        async with inbox.subscribe("alice", track=False):
            assert await presence.locate(["alice", "topic"]) == {}
        async with inbox.subscribe("alice"):
            assert set(await presence.locate(["alice", "topic"])) == {"alice", "topic"}


# -- counts ---------------------------------------------------------------------------------------------------------


async def test_counts_follow_items_and_changes(inbox: Inbox) -> None:
    """With signals, and not without: after `notify.sync`, and after each burst, exact for the position they name."""
    await send(inbox)
    stream = await entered(inbox, "0", signals=True)
    (*_, sync) = await read_until(stream, lambda event: event.type == "notify.sync")
    assert sync.payload == {"total": 1, "unseen": 1, "unread": 1, "position": stream.last_id}
    assert (sync.user, sync.id) == ("", stream.last_id)
    event = await send(inbox)
    (*_, counts) = await read_until(stream, lambda event: event.type == "notify.counts")
    assert counts.payload == {"total": 2, "unseen": 2, "unread": 2, "position": event.id}
    assert (counts.user, counts.id) == ("alice", "")
    change = await inbox.mark_read("alice", event.id)
    (*_, counts) = await read_until(stream, lambda event: unread(event) == 1)
    assert change.event is not None
    assert counts.payload["position"] == change.event.id
    await inbox.notifier.push("alice", "t")
    assert (await stream.next(5)).type == "t"
    with pytest.raises(TimeoutError):
        await stream.next(0.1)
    await stream.aclose()


async def test_a_burst_is_counted_once_or_twice() -> None:
    """Not once for each item; and streams of one user share the reads."""
    store = PlainInboxStore()
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)
        streams = [await entered(inbox, signals=True) for _ in range(3)]
        for stream in streams:
            await read_until(stream, lambda event: event.type == "notify.sync")
        await inbox.send_many(["bob"], "t")
        store.calls.clear()
        for number in range(50):
            await send(inbox, payload=number)
        for stream in streams:
            seen = await read_until(stream, lambda event: unread(event) == 50)
            assert len([event for event in seen if event.id]) == 50
        assert store.calls.count("items") <= 4
        for stream in streams:
            await stream.aclose()


async def test_a_topic_is_counted(inbox: Inbox) -> None:
    """An item of a topic that is followed changes the counts, and their position has the topic's."""
    await inbox.follow("alice", "topic")
    stream = await entered(inbox, signals=True)
    await publish(inbox)
    seen = await read_until(stream, lambda event: unread(event) == 1)
    assert seen[-1].payload["position"] == stream.last_id
    await inbox.unfollow("alice", "topic")
    assert unread((await read_until(stream, lambda event: event.type == "notify.counts"))[-1]) == 0
    await stream.aclose()


async def test_expiry_is_counted(inbox: Inbox) -> None:
    """When an item that was yielded expires, the counts come, for each stream; later ones wait for their own time."""
    streams = [await entered(inbox, signals=True) for _ in range(2)]
    for stream in streams:
        assert unread(await stream.next(5)) == 0
    await send(inbox, ttl=60)
    await send(inbox, ttl=1.5)  # it is counted before it expires

    async def watch(stream: InboxStream) -> None:
        await read_until(stream, lambda event: unread(event) == 2)
        assert unread((await read_until(stream, lambda event: event.type == "notify.counts"))[-1]) == 1
        await stream.aclose()

    async with anyio.create_task_group() as group:
        for stream in streams:
            group.start_soon(watch, stream)


async def test_counts_outlive_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """While counts cannot be read, everything else comes, `notify.sync` without counts; afterwards they come."""
    store = PlainInboxStore()
    failing = True

    class Failing(PlainInboxStore):
        async def items(self, user: str, query: Any) -> Any:
            if failing:
                raise OSError("away")
            return await super().items(user, query)

    store = Failing()
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)
        stream = await entered(inbox, signals=True)
        assert (await stream.next(5)).payload == {}
        event = await send(inbox)
        assert await stream.next(5) == event
        failing = False
        assert (await stream.next(5)).payload["unread"] == 1
        await stream.aclose()
    lines = [record.message for record in caplog.records if "the counts of inboxes" in record.message]
    assert len(lines) == 2


async def test_a_closed_inbox_counts_nothing() -> None:
    """Streams that are open go on without counts; none can be opened."""
    async with Notifier(MemoryStreamStore()) as notifier:
        inbox = Inbox(notifier)
        await send(inbox)
        stream = await entered(inbox, signals=True)
        assert (await stream.next(5)).payload["unread"] == 1
        other = await entered(inbox, signals=True)
        await inbox.aclose()
        assert (await other.next(5)).payload == {}
        await notifier.push_event(Event("alice", "notify.merged", {}))
        event = await send(inbox, ttl=60)
        assert [(await other.next(5)).type, await other.next(5)] == ["notify.merged", event]
        with pytest.raises(TimeoutError):
            await other.next(0.05)
        with pytest.raises(ClosedError):
            await inbox.subscribe("alice").next()
        await stream.aclose()
        await other.aclose()


# -- opening --------------------------------------------------------------------------------------------------------


async def test_a_stream_that_cannot_be_opened_says_so() -> None:
    """A bare one can be tried again; one that is entered is closed."""
    store = PlainInboxStore()
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)
        event = await send(inbox)
        store.failure = OSError("away")
        bare = inbox.subscribe("alice", "0")
        with pytest.raises(BackendUnavailableError, match="away"):
            await bare.next(5)
        with pytest.raises(BackendUnavailableError, match="away"):
            await bare.__aenter__()
        with pytest.raises(ClosedError):
            await bare.next()
        again = inbox.subscribe("alice", "0")
        with pytest.raises(BackendUnavailableError):
            await again.next()
        store.failure = None
        assert await again.next(5) == event
        await again.aclose()
        assert notifier.statistics().open_streams == 0


class Gated(PlainInboxStore):
    """Reads what is followed only once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = anyio.Event()

    async def edges(self, **options: Any) -> Any:
        await self.gate.wait()
        return await super().edges(**options)


async def test_ending_and_interrupting_while_it_opens() -> None:
    """A waiting reader is woken at once; what was begun is gone on with; an impatient caller gets on."""
    store = Gated()
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)
        event = await send(inbox)
        stream = inbox.subscribe("alice", "0")
        with pytest.raises(TimeoutError):
            await stream.next(0)
        with pytest.raises(TimeoutError):
            await stream.next(0.01)

        async def wait(error: type[Exception]) -> None:
            with anyio.fail_after(5), pytest.raises(error):
                await stream.next()

        async with anyio.create_task_group() as group:
            group.start_soon(wait, TimeoutError)
            await anyio.wait_all_tasks_blocked()
            stream.interrupt()
        closed = inbox.subscribe("alice")

        async def enter() -> None:
            with anyio.fail_after(5), pytest.raises(ClosedError):
                await closed.__aenter__()

        async with anyio.create_task_group() as group:
            group.start_soon(enter)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(UsageError, match="another task"):
                await closed.next()
            await closed.aclose()
        store.gate.set()
        assert await stream.next(5) == event
        await stream.aclose()


async def test_an_inbox_that_closes_while_a_stream_opens() -> None:
    """The reader is told."""
    store = Gated()
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)

        async def wait() -> None:
            with anyio.fail_after(5), pytest.raises(ClosedError, match="inbox"):
                await inbox.subscribe("alice").next()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await inbox.aclose()


async def test_a_follow_while_it_opens_is_not_missed() -> None:
    """Wherever the follow falls between the first read and the opening, the topic is read."""
    for call in ("head", "edges"):

        class Between(PlainInboxStore):
            async def _enter(self, name: str, call: str = call) -> None:
                await super()._enter(name)
                if name == call and not self.done:
                    self.done = True
                    await self.inner.change(Event("alice", "notify.followed", {"topic": "topic", "since": None}))

            done = False

        store = Between()
        async with Notifier(store, poll_interval=0.05) as notifier:
            inbox = Inbox(notifier)
            async with inbox.subscribe("alice") as stream:
                await until(lambda store=store: store.done)
                news = await publish(inbox)
                seen = await read_until(stream, lambda event: event.user == "topic")
                assert seen[-1] == news


async def test_a_refresh_outlives_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """What is followed is read again until it succeeds, unless the stream is gone."""
    store = PlainInboxStore()
    async with Notifier(store, poll_interval=0.05) as notifier:
        inbox = Inbox(notifier)
        await inbox.follow("session", "topic")
        stream = await entered(inbox)
        failing = PlainInboxStore.edges

        async def away(*_: Any, **__: Any) -> Any:
            raise OSError("away")

        store.edges = away  # type: ignore[method-assign]
        await inbox.merge("session", into="alice")
        assert [event.type for event in await read(stream, 1)] == ["notify.merged"]
        await inbox.notifier.push_event(Event("alice", "notify.merged", {}))
        await read(stream, 1)
        await until(lambda: any("cannot be read" in record.message for record in caplog.records))
        del store.edges  # type: ignore[method-assign]
        assert store.edges.__func__ is failing  # type: ignore[attr-defined]
        await until(lambda: "topic" in stream.users)
        await stream.aclose()


def test_what_the_store_says_and_what_the_log_says() -> None:
    """An answer that is older than an event does not undo it; an event that an answer accounts for changes nothing."""

    def event(id: str, type: str, **payload: Any) -> Event:
        return Event("alice", f"notify.{type}", payload, id=id)

    follows = FollowSet()
    steps = follows.replace([Follow("alice", "a", "0")], "5-0")
    assert (dict(steps.add), list(steps.remove)) == ({"a": "0"}, [])
    assert follows.steer(event("5-0", "unfollowed", topic="a")) == ({}, ())
    assert follows.steer(event("6-0", "followed", topic="a", since="9-0")) == ({}, ())
    assert follows.steer(event("6-1", "followed", topic="b", since="x")) == ({}, ())
    assert follows.steer(event("6-2", "followed", topic=5, since="1-0")) == ({}, ())
    assert follows.steer(event("7-0", "followed", topic="b", since="1-0")) == ({"b": "1-0"}, ())
    assert follows.steer(event("8-0", "unfollowed", topic="a")) == ({}, ("a",))
    assert follows.steer(event("8-1", "unfollowed", topic="a")) == ({}, ())
    steps = follows.replace([Follow("alice", "a", "0"), Follow("alice", "c", "0")], "6-0")
    assert (dict(steps.add), list(steps.remove)) == ({"c": "0"}, [])
    steps = follows.replace([Follow("alice", "d", "3-0")], "9-0")
    assert (dict(steps.add), sorted(steps.remove)) == ({"d": "3-0"}, ["b", "c"])
    assert follows.replace([Follow("alice", "d", "3-0")], "2-0") == ({}, [])
    assert follows.steer(event("8-5", "unfollowed", topic="d")) == ({}, ())


async def test_a_topic_that_comes_back_goes_on_where_it_was() -> None:
    """If an answer of the store removes a topic and another brings it back, nothing of it comes twice."""
    store = MemoryStreamStore()
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)
        await inbox.follow("alice", "topic")
        async with inbox.subscribe("alice") as stream:
            one = await publish(inbox)
            assert await read(stream, 1) == [one]
            stream.follows_read(await store.head("alice"), [])
            assert stream.users == ("alice",)
            stream.follows_read(await store.head("alice"), [Follow("alice", "topic", "0")])
            two = await publish(inbox)
            assert await read(stream, 1) == [two]


async def test_pages_are_read_once_for_the_own_log() -> None:
    """Opening costs two reads beside those of the logs: the end of the own log, and what is followed."""
    store = PlainInboxStore()
    async with Notifier(store, poll_interval=60) as notifier:
        inbox = Inbox(notifier)
        async with inbox.subscribe("alice"):
            assert sorted(store.calls) == ["edges", "head", "read"]
        page: Page = await store.read("alice", "0", 1)
        assert page.events == ()


async def test_only_the_own_log_steers() -> None:
    """A gap in a further log has nothing asked again, and a change in it neither adds a topic nor counts."""
    store = PlainInboxStore(MemoryStore(max_len=5))
    async with Notifier(store, poll_interval=60) as notifier:
        inbox = Inbox(notifier)
        await notifier.push("room", "t", 0)
        async with inbox.subscribe("alice", "0", addresses=["room"]) as stream:
            await read(stream, 1)
            token = stream.last_id
        for number in range(10):
            await notifier.push("room", "t", number)
        await inbox.follow("room", "topic")
        store.calls.clear()
        async with inbox.subscribe("alice", token, addresses=["room"], signals=True) as stream:
            seen = await read_until(stream, lambda event: event.type == "notify.sync")
            assert [(event.type, event.user) for event in seen[::5]] == [
                ("notify.gap", "room"),
                ("notify.followed", "room"),
            ]
            assert stream.users == ("alice", "room")
            await inbox.unfollow("room", "topic")
            assert [event.type for event in await read(stream, 1)] == ["notify.unfollowed"]
            assert stream.next_nowait() is None
            assert stream.users == ("alice", "room")
        assert (store.calls.count("edges"), store.calls.count("items")) == (1, 1)


async def test_follows_that_are_known_before_the_stream_is_open() -> None:
    """A topic that an answer adds and a later one removes has no position yet: if it comes back, nothing is missed."""
    store = MemoryStreamStore()
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)
        await inbox.follow("alice", "topic")
        head, followed = await store.head("alice"), [Follow("alice", "topic", "0")]
        stream = inbox.subscribe("alice")
        for answer in (followed, [], followed):
            stream.follows_read(head, answer)
        news = await publish(inbox)
        assert await read(stream, 1) == [news]
        await stream.aclose()


async def test_an_answer_for_a_stream_that_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    """What is followed may become known after the stream was closed, or when it is not referred to: that is quiet."""
    store = Gated()
    store.gate.set()
    async with Notifier(store, poll_interval=60) as notifier:
        inbox = Inbox(notifier)
        stream = await entered(inbox)
        store.gate = anyio.Event()
        await inbox.follow("session", "topic")
        await inbox.merge("session", into="alice")
        assert [event.type for event in await read(stream, 1)] == ["notify.merged"]
        dropped = inbox.subscribe("bob")
        with pytest.raises(TimeoutError):
            await dropped.next(0.01)
        await anyio.wait_all_tasks_blocked()  # both are reading, even if they got little of that time
        assert inbox._background.running == 2
        await stream.aclose()
        gone = ref(dropped)
        del dropped
        while gone() is not None:  # `gc.collect` does nothing while another thread collects
            gc.collect()
            await anyio.lowlevel.checkpoint()
        store.gate.set()
        await until(lambda: inbox._background.running == 0)
        with pytest.raises(ClosedError):
            await stream.next()
        assert notifier.statistics().open_streams == 0
    assert caplog.records == []
