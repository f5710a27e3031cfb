"""The conformance suite for routers: subclass it, say how to make yours, and run pytest.

```python
class TestMyRouter(RouterSuite):
    async def make(self) -> Router:
        return MyRouter()
```

A router that does not listen by itself (no `receive`) also says in `connect` how it finds the notifiers. One that
goes between processes says in `another` how the next process gets its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import anyio
import pytest

from notify import Event, Notifier, Router, RoutingInfo, Store, Stream

from ._parts import ListStore
from ._samples import HOSTILE_DATA, HOSTILE_META, HOSTILE_NAMES
from ._suite import Suite, interrupted, numbers, take, together

__all__ = ["RouterSuite"]


class RouterSuite(Suite[Router]):
    """Every router passes these tests."""

    async def another(self, router: Router) -> Router:
        """Return a second router to the same instances, as another process would have it: the same one by default."""
        return router

    def connect(self, router: Router, notifier: Notifier) -> None:
        """Make the router bring events to this notifier: nothing to do where it implements `receive`."""

    @pytest.fixture
    async def router(self, anyio_backend: object) -> AsyncIterator[Router]:
        """Make a router for one test, and close it."""
        async with self.fresh() as router:
            yield router

    @asynccontextmanager
    async def instance(self, router: Router, name: str, store: Store | None = None) -> AsyncIterator[Notifier]:
        """Run a notifier that hears of other instances' events by its router alone."""
        own = await self.another(router)
        notifier = Notifier(
            store, router=own, instance_id=name, buffer_size=1000, poll_interval=3600, audit_interval=3600
        )
        self.connect(own, notifier)
        async with notifier:
            yield notifier
        if own is not router:
            await self.close(own)

    @asynccontextmanager
    async def instances(
        self, router: Router, *names: str, user: str = "alice", store: Store | None = None
    ) -> AsyncIterator[tuple[dict[str, Notifier], dict[str, Stream]]]:
        """Run several instances, each with an open stream of the user."""
        async with AsyncExitStack() as stack:
            notifiers = {name: await stack.enter_async_context(self.instance(router, name, store)) for name in names}
            streams = {name: await stack.enter_async_context(n.subscribe(user)) for name, n in notifiers.items()}
            yield notifiers, streams

    async def test_an_event_reaches_the_instance_it_is_routed_to(self, router: Router) -> None:
        """What is routed to an instance arrives there, once, and at no other."""
        async with self.instances(router, "a", "b", "c") as (_, streams):
            for number in range(10):
                for name in streams:
                    to = RoutingInfo(name, {"host": "example", "port": "1"})
                    await router.route(Event("alice", "t", [name, number]), to)
            for name, stream in streams.items():
                payloads = numbers(await take(stream, 10, self.patience))
                assert sorted(payloads) == [[name, number] for number in range(10)]
            await self.assert_nothing_else(router, streams)

    async def test_an_event_for_everybody_reaches_every_instance(self, router: Router) -> None:
        """What is routed to nobody in particular arrives at every instance, the sender's own included."""
        async with self.instances(router, "a", "b", "c") as (_, streams):
            for number in range(10):
                await router.route(Event("alice", "t", number), None)
            for stream in streams.values():
                assert sorted(numbers(await take(stream, 10, self.patience))) == [*range(10)]
            await self.assert_nothing_else(router, streams)

    async def test_instances_with_similar_names_are_told_apart(self, router: Router) -> None:
        """However odd or alike the names of instances are, each hears what is routed to it, and no more."""
        names = ("a", "A", "a:b", "b", "a*", "*", "?", "{a}", "[a]", "a/b", "..", "é", "😀")
        async with self.instances(router, *names) as (_, streams):
            for name in names:
                await router.route(Event("alice", "t", name), RoutingInfo(name))
            for name, stream in streams.items():
                assert (await stream.next(self.patience)).payload == name
            await self.assert_nothing_else(router, streams)

    async def test_users_with_similar_names_are_told_apart(self, router: Router) -> None:
        """Events of users with hostile names reach the streams of those users, and no others."""
        async with self.instance(router, "a") as notifier, AsyncExitStack() as stack:
            users = HOSTILE_NAMES
            streams = [await stack.enter_async_context(notifier.subscribe(user)) for user in users]
            for user in users:
                await router.route(Event(user, "t", user), RoutingInfo("a"))
            for user, stream in zip(users, streams, strict=True):
                assert (await stream.next(self.patience)).payload == user
            await self.assert_nothing_else(router, dict(zip(users, streams, strict=True)))

    async def test_every_field_arrives(self, router: Router) -> None:
        """An event arrives with every field and byte it was routed with, up to 64 KiB of payload."""
        moment = datetime(2001, 2, 3, 4, 5, 6, 123_457, tzinfo=UTC)
        async with self.instances(router, "a") as (_, streams):
            for number, data in enumerate(HOSTILE_DATA, 1):
                text = HOSTILE_NAMES[-number]
                draft = Event("alice", "t", data=data, timestamp=moment, key=text, group=text, meta=HOSTILE_META)
                for event in (draft, draft.stored(f"{number}-{1 << 19}", f"{number - 1}-{(1 << 20) - 1}")):
                    await router.route(event, RoutingInfo("a"))
                    assert await streams["a"].next(self.patience) == event

    async def test_nobody_there_does_no_harm(self, router: Router) -> None:
        """Routing to an unknown instance, for a user without streams, or while nobody listens raises nothing."""
        event = Event("alice", "t").stored("1-1", "0")
        await router.route(event, None)
        await router.route(event, RoutingInfo("nobody"))
        async with self.instances(router, "a") as (_, streams):
            await router.route(event, RoutingInfo("nobody"))
            await router.route(Event("bob", "t"), None)
            await self.assert_nothing_else(router, streams)

    async def test_an_instance_that_closed_does_no_harm(self, router: Router) -> None:
        """After an instance closed, routing to it raises nothing, and the others still hear."""
        async with self.instances(router, "a") as (_, streams):
            async with self.instance(router, "b"):
                pass
            await router.route(Event("alice", "t"), RoutingInfo("b"))
            await self.assert_nothing_else(router, streams)

    async def test_an_instance_hears_from_its_start(self, router: Router) -> None:
        """An instance that starts later hears what is routed from then on, also under a name that was used before."""
        async with self.instances(router, "a"):
            for round_ in range(3):
                async with self.instances(router, "b") as (_, streams):
                    event = Event("alice", "t", round_)
                    await router.route(event, RoutingInfo("b"))
                    assert await streams["b"].next(self.patience) == event

    async def test_routes_may_run_at_once(self, router: Router) -> None:
        """A hundred routes at once all arrive."""
        async with self.instances(router, "a", "b") as (_, streams):
            events = [Event("alice", "t", number) for number in range(100)]
            targets = [RoutingInfo("a") if event.payload % 2 else None for event in events]
            await together(*(partial(router.route, *pair) for pair in zip(events, targets, strict=True)))
            assert sorted(numbers(await take(streams["a"], 100, self.patience))) == [*range(100)]
            assert sorted(numbers(await take(streams["b"], 50, self.patience))) == [*range(0, 100, 2)]

    async def test_a_cancelled_route_does_no_harm(self, router: Router) -> None:
        """Routes that are cancelled at any time leave the router working."""
        async with self.instances(router, "a") as (_, streams):
            for attempt in range(20):
                await interrupted(partial(router.route, Event("alice", "maybe"), RoutingInfo("a")), attempt)
            with anyio.fail_after(self.patience):
                await router.route(Event("alice", "surely"), RoutingInfo("a"))
            types = ["maybe"]
            while types[-1] == "maybe":
                types.append((await streams["a"].next(self.patience)).type)
            assert len(types) <= 22

    async def test_a_push_arrives_at_the_other_instance(self, router: Router) -> None:
        """With one log and no polling, a push at one instance is yielded at every other promptly, once, as stored."""
        store = ListStore()
        async with self.instances(router, "a", "b", "c", store=store) as (notifiers, streams):
            for name in (*"abcabc", *"aabb"):
                event = await notifiers[name].push("alice", "t", name, meta={"from": name})
                for stream in streams.values():
                    assert await stream.next(self.prompt) == event

    async def test_what_arrives_again_or_in_disorder_does_no_harm(self, router: Router) -> None:
        """Events that are routed late, twice or in the wrong order are yielded once and in log order."""
        store = ListStore()
        async with self.instances(router, "a", "b", store=store) as (notifiers, streams):
            for _ in range(3):
                events = [await store.save(Event("alice", "t", number)) for number in range(4)]
                for index in (3, 1, 0, 3, 2, 2, 0):
                    await router.route(events[index], None)
                for stream in streams.values():
                    assert await take(stream, 4, self.patience) == events
                await router.route(events[1], None)
                sentinel = await notifiers["a"].push("alice", "sentinel")
                for stream in streams.values():
                    assert await stream.next(self.patience) == sentinel

    async def test_an_ephemeral_push_is_seen_once(self, router: Router) -> None:
        """An event that is in no log is yielded once at every instance, though the router may bring it back."""
        async with self.instances(router, "a", "b", store=ListStore()) as (notifiers, streams):
            for number in range(10):
                await notifiers["a"].push("alice", "t", number, ephemeral=True)
            for stream in streams.values():
                assert sorted(numbers(await take(stream, 10, self.patience))) == [*range(10)]
            sentinel = await notifiers["a"].push("alice", "sentinel")
            for stream in streams.values():
                assert await stream.next(self.patience) == sentinel

    async def test_a_broadcast_is_seen_once_by_everybody(self, router: Router) -> None:
        """A broadcast is yielded once by every stream of every instance."""
        async with self.instances(router, "a", "b") as (notifiers, streams), notifiers["b"].subscribe("bob") as bob:
            await notifiers["a"].broadcast("t", "hello")
            for stream in (*streams.values(), bob):
                assert (await stream.next(self.patience)).payload == "hello"
            await self.assert_nothing_else(router, streams)

    async def test_the_verdict_on_a_working_router(self, router: Router) -> None:
        """`check` finds nothing wrong with a router that works, on every instance."""
        async with self.instances(router, "a", "b") as (notifiers, _):
            for notifier in notifiers.values():
                health = await notifier.check()
                assert (health.ok, health.parts) == (True, {"router": "ok"})

    async def assert_nothing_else(self, router: Router, streams: dict[str, Stream]) -> None:
        """Assert that the next event for everybody is the next one that each stream yields."""
        for stream in streams.values():
            event = Event(stream.user, "sentinel")
            await router.route(event, None)
            assert (await stream.next(self.patience)).type == "sentinel"
