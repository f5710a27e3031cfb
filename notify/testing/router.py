"""The conformance suite for routers: subclass it, define how to make yours, and run pytest.

```python
class TestMyRouter(RouterSuite[MyRouter]):
    async def make(self) -> MyRouter:
        return MyRouter()
```

A router that is made once for each instance returns a new one from `another`, one without `receive` is introduced to
the notifiers in `connect`, and one that sends to addresses returns them from `metadata`. `route` has to work on any
router of the test, also on one whose `receive` does not run. `RouterOutageSuite` tests a server that goes away.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial

import anyio

from notify import Event, RoutingInfo
from notify.abc import ReceivingRouter

from ._router_base import RouterTests
from ._samples import HOSTILE_DATA, HOSTILE_META, HOSTILE_NAMES
from ._suite import declared
from ._types import RouterT
from ._waits import interrupted, numbers, one, take, together

__all__ = ["RouterSuite"]


class RouterSuite(RouterTests[RouterT]):
    """Every router passes these tests."""

    async def test_nothing_goes_untested(self, router: RouterT) -> None:
        """The router declares its guarantees; the test class has the hooks by which they and `receive` are tested."""
        guarantees = declared(router, "shared")
        name = type(self).__name__
        is_own = type(self).another is not RouterTests.another
        assert is_own or not guarantees.shared, (
            f"add another() to {name}: a router that is shared by several processes is tested with several objects"
        )
        has_garbage = type(self).garbage is not RouterTests.garbage
        assert has_garbage or not isinstance(router, ReceivingRouter), (
            f"add garbage() to {name}: it puts bytes that are not an event where receive() gets its events"
        )

    async def test_garbage_does_no_harm(self, router: RouterT) -> None:
        """After bytes that are not an event, instances receive as before."""
        async with self.instances(router, "a") as (_, streams):
            for number in range(3):
                await self.garbage(router)
                for to in (None, self.to("a")):
                    event = Event("alice", "t", number)
                    await router.route(event, to)
                    assert await one(streams["a"], self.patience) == event

    async def test_an_event_reaches_the_instance_it_is_routed_to(self, router: RouterT) -> None:
        """What is routed to an instance arrives there, once, and at no other."""
        async with self.instances(router, "a", "b", "c") as (_, streams):
            for number in range(10):
                for name in streams:
                    await router.route(Event("alice", "t", [name, number]), self.to(name))
            for name, stream in streams.items():
                payloads = numbers(await take(stream, 10, self.patience))
                assert sorted(payloads) == [[name, number] for number in range(10)]
            await self.assert_nothing_else(router, streams)

    async def test_an_event_for_every_instance_reaches_all(self, router: RouterT) -> None:
        """What is routed to no instance in particular arrives at every one, the sender's own included."""
        async with self.instances(router, "a", "b", "c") as (_, streams):
            for number in range(10):
                await router.route(Event("alice", "t", number), None)
            for stream in streams.values():
                assert sorted(numbers(await take(stream, 10, self.patience))) == [*range(10)]
            await self.assert_nothing_else(router, streams)

    async def test_instances_with_similar_names_are_told_apart(self, router: RouterT) -> None:
        """However odd or alike the names of instances are, each receives what is routed to it, and no more."""
        names = ("a", "A", "a:b", "b", "a*", "*", "?", "{a}", "[a]", "a/b", "..", "é", "😀")
        async with self.instances(router, *names) as (_, streams):
            for name in names:
                await router.route(Event("alice", "t", name), self.to(name))
            for name, stream in streams.items():
                assert (await one(stream, self.patience)).payload == name
            await self.assert_nothing_else(router, streams)

    async def test_users_with_similar_names_are_told_apart(self, router: RouterT) -> None:
        """Events of users with hostile names reach the streams of those users, and no others."""
        async with self.instance(router, "a") as notifier, AsyncExitStack() as stack:
            users = HOSTILE_NAMES
            streams = [await stack.enter_async_context(notifier.subscribe(user)) for user in users]
            for user in users:
                await router.route(Event(user, "t", user), self.to("a"))
            for user, stream in zip(users, streams, strict=True):
                assert (await one(stream, self.patience)).payload == user
            await self.assert_nothing_else(router, dict(zip(users, streams, strict=True)))

    async def test_every_field_arrives(self, router: RouterT) -> None:
        """An event arrives with every field and byte it was routed with, up to 64 KiB of payload."""
        moment = datetime(2001, 2, 3, 4, 5, 6, 123_457, tzinfo=UTC)
        async with self.instances(router, "a") as (_, streams):
            for number, data in enumerate(HOSTILE_DATA, 1):
                text = HOSTILE_NAMES[-number]
                draft = Event("alice", "t", data=data, timestamp=moment, key=text, group=text, meta=HOSTILE_META)
                for event in (draft, draft.stored(f"{number}-{1 << 19}", f"{number - 1}-{(1 << 20) - 1}")):
                    await router.route(event, self.to("a"))
                    assert await one(streams["a"], self.patience) == event

    async def test_an_unknown_instance_does_no_harm(self, router: RouterT) -> None:
        """Routing to an unknown instance, for a user without streams, or while no instance listens raises nothing."""
        event = Event("alice", "t").stored("1-1", "0")
        await router.route(event, None)
        await router.route(event, RoutingInfo("unknown"))
        async with self.instances(router, "a") as (_, streams):
            await router.route(event, RoutingInfo("unknown"))
            await router.route(Event("bob", "t"), None)
            await self.assert_nothing_else(router, streams)

    async def test_an_instance_that_closed_does_no_harm(self, router: RouterT) -> None:
        """After an instance closed, routing to it raises nothing, and the others still receive."""
        async with self.instances(router, "a") as (_, streams):
            async with self.instance(router, "b"):
                pass
            await router.route(Event("alice", "t"), self.to("b"))
            await self.assert_nothing_else(router, streams)

    async def test_an_instance_receives_from_its_start(self, router: RouterT) -> None:
        """An instance that starts later receives what is routed from then on, also under a name used before."""
        async with self.instances(router, "a"):
            for round_ in range(3):
                async with self.instances(router, "b") as (_, streams):
                    event = Event("alice", "t", round_)
                    await router.route(event, self.to("b"))
                    assert await one(streams["b"], self.patience) == event

    async def test_routes_may_run_at_once(self, router: RouterT) -> None:
        """A hundred routes at once all arrive."""
        async with self.instances(router, "a", "b") as (_, streams):
            events = [Event("alice", "t", number) for number in range(100)]
            targets = [self.to("a") if event.payload % 2 else None for event in events]
            await together(*(partial(router.route, *pair) for pair in zip(events, targets, strict=True)))
            assert sorted(numbers(await take(streams["a"], 100, self.patience))) == [*range(100)]
            assert sorted(numbers(await take(streams["b"], 50, self.patience))) == [*range(0, 100, 2)]

    async def test_a_cancelled_route_does_no_harm(self, router: RouterT) -> None:
        """Routes that are cancelled at any time leave the router working."""
        async with self.instances(router, "a") as (_, streams):
            for attempt in range(20):
                await interrupted(partial(router.route, Event("alice", "maybe"), self.to("a")), attempt)
            with anyio.fail_after(self.patience):
                await router.route(Event("alice", "surely"), self.to("a"))
            types = ["maybe"]
            while types[-1] == "maybe":
                types.append((await one(streams["a"], self.patience)).type)
            assert len(types) <= 22

    async def test_a_push_arrives_at_the_other_instance(self, router: RouterT) -> None:
        """With one log and no polling, a push at one instance is yielded at every other promptly, once, as stored."""
        store = self.store()
        async with self.instances(router, "a", "b", "c", store=store) as (notifiers, streams):
            for name in (*"abcabc", *"aabb"):
                event = await notifiers[name].push("alice", "t", name, meta={"from": name})
                for stream in streams.values():
                    assert await one(stream, self.prompt) == event

    async def test_what_arrives_again_or_in_disorder_does_no_harm(self, router: RouterT) -> None:
        """Events that are routed late, twice or in the wrong order are yielded once and in log order."""
        store = self.store()
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
                    assert await one(stream, self.patience) == sentinel

    async def test_an_ephemeral_push_is_seen_once(self, router: RouterT) -> None:
        """An event that is in no log is yielded once at every instance, though the router may bring it back."""
        async with self.instances(router, "a", "b", store=self.store()) as (notifiers, streams):
            for number in range(10):
                await notifiers["a"].push("alice", "t", number, ephemeral=True)
            for stream in streams.values():
                assert sorted(numbers(await take(stream, 10, self.patience))) == [*range(10)]
            sentinel = await notifiers["a"].push("alice", "sentinel")
            for stream in streams.values():
                assert await one(stream, self.patience) == sentinel

    async def test_a_broadcast_is_seen_once_by_every_stream(self, router: RouterT) -> None:
        """A broadcast is yielded once by every stream of every instance."""
        async with self.instances(router, "a", "b") as (notifiers, streams), notifiers["b"].subscribe("bob") as bob:
            await notifiers["a"].broadcast("t", "hello")
            for stream in (*streams.values(), bob):
                assert (await one(stream, self.patience)).payload == "hello"
            await self.assert_nothing_else(router, streams)

    async def test_the_verdict_on_a_working_router(self, router: RouterT) -> None:
        """`check` finds nothing wrong with a router that works, on every instance."""
        async with self.instances(router, "a", "b") as (notifiers, _):
            for notifier in notifiers.values():
                health = await notifier.check()
                assert (health.ok, health.parts) == (True, {"router": "ok"})
