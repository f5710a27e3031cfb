"""Tests of digests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from notify.dispatch.abc import DigestItem, RecipientRecord, State, delivery_id, digest_id

from ._dispatch_base import (
    START,
    DeliveryStore,
    DeliveryStoreT,
    DispatchTests,
    at,
    channels,
    joining,
    move,
    note,
    submission,
    to,
)


class DispatchDigestTests(DispatchTests[DeliveryStoreT]):
    """Opening, joining and closing digests."""

    async def join(self, store: DeliveryStore, name: str, seconds: float = 0.0, **more: Any) -> None:
        """Submit a notification that joins a digest at a time."""
        rows = submission(joining(notification=name, **more), notification=note(name, created_at=at(seconds)))
        await store.submit(rows)

    async def items(self, store: DeliveryStore, digest: str, **more: Any) -> list[str]:
        """Return the ids of what a digest has collected."""
        return [item.notification.id for item in await store.digest_items(digest, **more)]

    async def test_a_digest_is_closed_when_due(self, store: DeliveryStore) -> None:
        """Closing stores a notification with a delivery over each channel, once; later notifications open the next."""
        await self.join(store, "a", channels=("email", "push"), closes=60.0)
        await self.join(store, "b", 5, channels=("email", "push"), closes=65.0)
        await self.join(store, "other", key="other")
        assert await self.take(store, 10**6) == []
        assert await store.close_digests(at(59.999)) == 0
        assert await store.close_digests(at(60)) == 1
        assert await store.close_digests(at(60)) == 0
        assert await self.take(store, 59.999) == []
        claims = await self.take(store, 60)
        assert sorted(channels(claims)) == ["email", "push"]
        digest = claims[0].notification
        base, _, generation = digest.id.rpartition(":")
        assert digest == note(digest.id, data=b"{}", created_at=at(60), digest=digest.id)
        assert digest.id == digest_id("k", int(generation))
        assert all(claim.delivery.id == delivery_id(digest.id, "alice", claim.delivery.channel) for claim in claims)
        assert claims[0].recipient == RecipientRecord(digest.id, "alice")
        assert claims[0].delivery.due_at is not None
        assert await store.digest_items(digest.id) == [
            DigestItem(START, note("a")),
            DigestItem(at(5), note("b", created_at=at(5))),
        ]
        await self.join(store, "c", 61, closes=120.0)
        assert await store.close_digests(at(120)) == 1
        (later,) = await self.take(store, 120)
        assert later.notification.id.rpartition(":")[0] == base
        assert int(later.notification.id.rpartition(":")[2]) > int(generation)
        assert await self.items(store, later.notification.id) == ["c"]
        assert await self.items(store, digest.id) == ["a", "b"]
        assert await store.digest_items("unknown:1") == []

    async def test_two_generations_at_the_same_time(self, store: DeliveryStore) -> None:
        """Digests of a key that open in the same millisecond have different ids."""
        found = set()
        for name in "abc":
            await self.join(store, name, closes=0.0)
            assert await store.close_digests(START) == 1
            found.add((await self.take_one(store)).notification.id)
        assert len(found) == 3

    async def test_joining_twice_changes_nothing(self, store: DeliveryStore) -> None:
        """A notification is in one digest of a key, and is counted once, even if that was closed in between."""
        await self.join(store, "a", closes=60.0)
        await store.submit(submission(to("alice", notification="b")))
        claim = await self.take_one(store)
        repeat = joining(notification="a", closes=600.0, slides_until=9000.0, limit=2)
        assert await store.advance([move(claim, State.JOINED, join=repeat)], at(1)) == [True]
        assert await store.close_digests(at(60)) == 1
        digest = (await self.take_one(store, 60)).notification.id
        assert await self.items(store, digest) == ["a"]
        await store.submit(submission(to("alice", notification="c", seconds=60)))
        claim = await self.take_one(store, 60)
        assert await store.advance([move(claim, State.JOINED, join=repeat)], at(61)) == [True]
        assert await store.close_digests(at(10**6)) == 0

    async def test_a_worker_joins(self, store: DeliveryStore) -> None:
        """A delivery that is JOINED is in the digest, if its move was made."""
        await store.submit(submission(to("alice")))
        old = await self.lapsed(store, begun=False)
        new = await self.take_one(store)
        assert await store.advance([move(old, State.JOINED, join=joining(key="wrong"))], at(7)) == [False]
        assert await store.advance([move(new, State.JOINED, join=joining())], at(7)) == [True]
        assert await store.close_digests(at(3600)) == 1
        digest = (await self.take_one(store, 3600)).notification.id
        assert await store.digest_items(digest) == [DigestItem(at(7), note())]
        assert digest == digest_id("k", int(digest.rpartition(":")[2]))

    async def test_a_fixed_end_stays(self, store: DeliveryStore) -> None:
        """The end is that of the first; the channels and the type are those of the last."""
        await self.join(store, "a", closes=60.0)
        await self.join(store, "b", 1, closes=30.0, type="comment.edited", channels=("sms",))
        await self.join(store, "c", 2, closes=90.0, type="comment.edited", channels=("sms",))
        assert await store.close_digests(at(59.999)) == 0
        assert await store.close_digests(at(60)) == 1
        claim = await self.take_one(store, 60)
        assert (claim.delivery.channel, claim.notification.type) == ("sms", "comment.edited")

    async def test_a_sliding_end(self, store: DeliveryStore) -> None:
        """Each notification moves the end, no further than the ceiling and never back."""
        for seconds, name in ((0, "a"), (50, "b"), (40, "late"), (90, "c"), (140, "d")):
            await self.join(store, name, seconds, closes=seconds + 60.0, slides_until=180.0)
        assert await store.close_digests(at(179.999)) == 0
        assert await store.close_digests(at(180)) == 1
        digest = (await self.take_one(store, 180)).notification.id
        assert await self.items(store, digest) == ["a", "b", "late", "c", "d"]

    async def test_quiet_hours_keep_it_open(self, store: DeliveryStore) -> None:
        """A digest that ends in quiet hours is due after them, and collects until then."""
        await self.join(store, "a", closes=60.0, due_at=at(600))
        await self.join(store, "b", 500, closes=60.0)
        assert await store.close_digests(at(599.999)) == 0
        assert await store.close_digests(at(600)) == 1
        digest = (await self.take_one(store, 600)).notification.id
        assert await self.items(store, digest) == ["a", "b"]
        await self.join(store, "c", 600, closes=660.0, slides_until=100.0, due_at=at(900))
        await self.join(store, "d", 650, closes=710.0, slides_until=100.0, due_at=at(900))
        assert await store.close_digests(at(899.999)) == 0
        assert await store.close_digests(at(900)) == 1

    async def test_the_limit_closes(self, store: DeliveryStore) -> None:
        """The notification that reaches the limit closes the digest in the same step; cancelled ones do not count."""
        await self.join(store, "a", limit=3)
        await self.join(store, "b", 1, limit=3)
        assert await store.cancel("a", at(1)) == 1
        await self.join(store, "c", 2, limit=3)
        assert await self.take(store, 2) == []
        await self.join(store, "d", 3, limit=3)
        await self.join(store, "e", 3, limit=1)
        first, second = sorted(await self.take(store, 3), key=lambda claim: claim.notification.id)
        assert await self.items(store, first.notification.id) == ["b", "c", "d"]
        assert await self.items(store, second.notification.id) == ["e"]
        await store.submit(submission(to("alice", notification="f", seconds=4)))
        claim = await self.take_one(store, 4)
        join = joining(notification="f", limit=1)
        assert await store.advance([move(claim, State.JOINED, join=join)], at(4)) == [True]
        claim = await self.take_one(store, 4)
        assert (claim.notification.created_at, claim.delivery.state) == (at(4), State.CLAIMED)

    async def test_the_address_that_was_given(self, store: DeliveryStore) -> None:
        """A digest goes to the address that was given last."""
        for name, address in (("a", b'"first"'), ("b", b'"second"'), ("c", b"")):
            record = RecipientRecord(name, "alice", address=address)
            await store.submit(submission(joining(notification=name), recipients=[record], notification=note(name)))
        assert await store.close_digests(at(3600)) == 1
        assert (await self.take_one(store, 3600)).recipient.address == b'"second"'

    async def test_closing_in_parts(self, store: DeliveryStore) -> None:
        """No more digests are closed at once than the limit, the earliest first."""
        for number in range(5):
            await self.join(store, f"n{number}", key=f"k{number}", closes=60.0 - number)
        assert await store.close_digests(at(60), limit=2) == 2
        closed = [await self.items(store, claim.notification.id) for claim in await self.take(store, 60)]
        assert sorted(closed) == [["n3"], ["n4"]]
        assert await store.close_digests(at(60), limit=2) == 2
        assert await store.close_digests(at(60), limit=2) == 1

    async def test_a_long_digest_in_pages(self, store: DeliveryStore) -> None:
        """What a digest has collected is read in pages, cancelled items left out."""
        joins = [f"n{number:02}" for number in range(20)]
        for number, name in enumerate(joins):
            await self.join(store, name, number)
        await store.cancel("n07", at(30))
        assert await store.close_digests(at(3600)) == 1
        digest = (await self.take_one(store, 3600)).notification.id
        kept = [name for name in joins if name != "n07"]
        assert await self.items(store, digest) == kept
        assert await self.items(store, digest, limit=5) == kept[:5]
        assert await self.items(store, digest, after=5, limit=5) == kept[5:10]
        assert await self.items(store, digest, after=17) == kept[17:]
        assert await self.items(store, digest, after=19) == []

    async def test_what_a_digest_has_collected_with_the_ids_of_providers(self, store: DeliveryStore) -> None:
        """Each comes with the provider's id of its own delivery to the user over the channel that is asked for."""
        names = ("a", "b", "c")
        for name in names:
            rows = [to(user, "in_app", notification=name) for user in ("alice", "bob")]
            others = [to("alice", "sms", notification=name), to("alice", "in_app", notification=name, endpoint="e")]
            await store.submit(submission(*rows, *others, joining(notification=name), notification=note(name)))
        for claim in await self.take(store, 0, limit=20):
            each = claim.delivery
            if (each.notification, each.user, each.channel, each.endpoint) != ("b", "alice", "in_app", ""):
                given = "/".join((each.notification, each.user, each.channel, each.endpoint))
                moves = [move(claim, State.SENDING), move(claim, State.ACCEPTED, provider_id=given)]
                assert await store.advance(moves, at(0)) == [True, True]
        assert await store.close_digests(at(3600)) == 1
        digest = next(c.notification.id for c in await self.take(store, 3600) if c.notification.digest is not None)
        ids = ["a/alice/in_app/", "", "c/alice/in_app/"]
        found = await store.digest_items(digest, channel="in_app")
        assert list(found) == [DigestItem(START, note(name), id) for name, id in zip(names, ids, strict=True)]
        assert [
            each.provider_id for each in await store.digest_items(digest, channel="in_app", after=1, limit=2)
        ] == ids[1:]
        assert {each.provider_id for each in await store.digest_items(digest, channel="email")} == {""}
        assert {each.provider_id for each in await store.digest_items(digest)} == {""}

    async def test_an_empty_digest_has_its_notification(self, store: DeliveryStore) -> None:
        """A digest of which everything was cancelled is closed as any other; the worker finds nothing in it."""
        await self.join(store, "a")
        await store.cancel("a", at(1))
        assert await store.close_digests(at(3600)) == 1
        claim = await self.take_one(store, 3600)
        assert await store.digest_items(claim.notification.id) == []
        skipped = replace(move(claim, State.SKIPPED), reason="EMPTY")
        assert await store.advance([skipped], at(3600)) == [True]
