"""Tests of submitting, and of reading what was submitted."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from notify import UsageError
from notify.dispatch.abc import RecipientRecord, State, Submitted

from ._dispatch_base import (
    START,
    DeliveryStore,
    DeliveryStoreT,
    DispatchTests,
    at,
    channels,
    joining,
    note,
    submission,
    to,
)

_MICROSECONDS = timedelta(microseconds=999)


class DispatchSubmitTests(DispatchTests[DeliveryStoreT]):
    """Submitting."""

    async def test_what_is_submitted_is_read(self, store: DeliveryStore) -> None:
        """Every field of every row is kept as given; instants to the millisecond, in UTC."""
        notification = note(
            data='{"text":"\\u0000 ü 𝄞"}'.encode(), created_at=START + _MICROSECONDS, expires_at=at(60), meta=b'{"a":1}'
        )
        elsewhere = at(5).astimezone(timezone(timedelta(hours=5, minutes=45))) + _MICROSECONDS
        later = replace(to("alice", "sms", seconds=None), after="email", delay=0.5, priority=-3, reason="fallback")
        rows = [
            replace(to("alice", "email"), due_at=elsewhere, expires_at=at(9) + _MICROSECONDS, priority=2),
            later,
            to("alice", "push", endpoint="b"),
            to("alice", "push", endpoint="a"),
            to("bob ü", "email"),
        ]
        records = [RecipientRecord("n", "alice", b"[1]", b'{"tz":"Asia/Kathmandu"}'), RecipientRecord("n", "bob ü")]
        answer = await store.submit(submission(*rows, notification=notification, recipients=records))
        assert answer == Submitted("n", False)
        found = await store.record("n", "alice")
        assert found is not None
        assert found[0] == replace(notification, created_at=START)
        assert (found[1], found[3]) == (records[0], [])
        stored = replace(rows[0], due_at=at(5), expires_at=at(9), updated_at=START)
        assert found[2] == [stored, *(replace(row, updated_at=START) for row in (rows[3], rows[2], rows[1]))]
        assert found[2][0].due_at is not None
        assert found[2][0].due_at.utcoffset() == timedelta(0)
        assert await store.record("n", "bob ü") is not None
        assert await store.record("n", "carol") is None
        assert await store.record("m", "alice") is None
        single = await store.delivery(rows[0].id)
        assert single is not None
        assert (single.delivery, single.notification, single.recipient) == (stored, found[0], found[1])
        assert not single.is_ambiguous
        assert await store.delivery("unknown") is None

    async def test_a_recipient_is_submitted_once(self, store: DeliveryStore) -> None:
        """Who has a record is skipped with all that is new; others are added; the notification stays the first one."""
        await store.submit(submission(to("alice")))
        again = submission(to("alice", "sms"), joining(), to("bob"), notification=note(data=b"2"))
        assert await store.submit(again) == Submitted("n", False)
        assert [each.channel for each in (await self.record_of(store))[0]] == ["email"]
        assert await store.close_digests(at(7200)) == 0
        found = await store.record("n", "bob")
        assert found is not None
        assert found[0] == note()
        twice = submission(to("carol"), to("carol"), notification=note())
        await store.submit(replace(twice, recipients=[*twice.recipients] * 2))
        assert len((await self.record_of(store, "carol"))[0]) == 1
        assert len(await self.take(store)) == 3

    async def test_a_repeated_key_stores_nothing(self, store: DeliveryStore) -> None:
        """The same request under a key is answered with the first notification; another request is refused."""
        first = submission(to("alice"), key="k", fingerprint="f", keep_until=at(60))
        assert await store.submit(first) == Submitted("n", False)
        assert await store.submit(first) == Submitted("n", True)
        other = submission(to("alice", notification="m"), key="k", fingerprint="f", keep_until=at(60))
        assert await store.submit(other) == Submitted("n", True)
        assert await store.record("m", "alice") is None
        with pytest.raises(UsageError, match="used for another request"):
            await store.submit(replace(other, fingerprint="g"))
        assert await store.record("m", "alice") is None
        assert await store.submit(replace(other, tenant="t", fingerprint="g")) == Submitted("m", False)
        unlimited = submission(to("alice", notification="o"), key="u", fingerprint="f")
        assert await store.submit(unlimited) == Submitted("o", False)
        assert await store.submit(unlimited) == Submitted("o", True)

    async def test_a_key_is_forgotten_in_time(self, store: DeliveryStore) -> None:
        """A key counts for notifications that were created before its time is over."""
        first = submission(to("alice"), key="k", fingerprint="f", keep_until=at(60))
        await store.submit(first)
        for seconds, name, answer in (
            (59.999, "late", Submitted("n", True)),
            (60.0, "new", Submitted("new", False)),
            (61.0, "next", Submitted("new", True)),
        ):
            notification = note(name, created_at=at(seconds))
            rows = submission(to("alice", notification=name), notification=notification)
            later = replace(rows, key="k", fingerprint="f" if name == "late" else "g", keep_until=at(120))
            assert await store.submit(later) == answer

    async def test_a_refused_submission_leaves_no_key(self, store: DeliveryStore) -> None:
        """What cannot be stored is refused as a whole, with its key: it can be submitted again."""
        good = submission(to("alice"), key="k", fingerprint="f")
        for bad in (
            replace(good, deliveries=[to("bob")]),
            replace(good, deliveries=[to("alice", notification="m")]),
            replace(good, joins=[joining("bob")]),
            replace(good, recipients=[RecipientRecord("m", "alice")]),
            replace(good, deliveries=[to("alice", seconds=None)]),
            replace(good, deliveries=[to("alice", seconds=None, after="sms")]),
            replace(good, deliveries=[replace(to("alice"), due_at=datetime(2027, 1, 5))]),
            replace(good, notification=note(created_at=datetime(2027, 1, 5))),
        ):
            with pytest.raises(UsageError):
                await store.submit(bad)
            assert await store.record("n", "alice") is None
        with pytest.raises(UsageError):
            await store.submit(good, connection=object())
        assert await store.submit(good) == Submitted("n", False)

    async def test_texts_that_not_every_store_can_keep(self, store: DeliveryStore) -> None:
        """A NUL character or half of a surrogate pair is refused wherever there is text, before anything is stored."""
        good = submission(to("alice"), joining(), key="k", fingerprint="f")
        for bad in ("a\0", "\ud800", "ü\udfff"):
            strange = to(bad)
            for wrong in (
                replace(good, key=bad),
                replace(good, tenant=bad),
                replace(good, cursor=bad),
                replace(good, notification=note(type=bad)),
                submission(strange),
                submission(to("alice", notification=bad)),
                replace(good, deliveries=[replace(to("alice"), channel=bad)]),
                replace(good, deliveries=[replace(to("alice"), reason=bad)]),
                replace(good, joins=[joining(key=bad)]),
                replace(good, joins=[joining(channels=["email", bad])]),
            ):
                with pytest.raises(UsageError, match="NUL characters or lone surrogates"):
                    await store.submit(wrong)
        assert await store.stuck([*State]) == []
        assert await store.submit(good) == Submitted("n", False)

    async def test_an_audience_in_parts(self, store: DeliveryStore) -> None:
        """Parts repeat the key, with the first notification; a later start learns how far it has come."""
        first = submission(to("alice"), key="k", fingerprint="f", cursor="a")
        assert await store.submit(first) == Submitted("n", False, "a")
        second = submission(to("bob"), key="k", fingerprint="f", cursor="b")
        assert await store.submit(second) == Submitted("n", False, "b")
        again = submission(to("alice", notification="m"), key="k", fingerprint="f", cursor="a")
        assert await store.submit(again) == Submitted("n", True, "b")
        with pytest.raises(UsageError):
            await store.submit(replace(second, fingerprint="g"))
        last = submission(to("bob"), to("carol"), key="k", fingerprint="f", cursor="")
        assert await store.submit(last) == Submitted("n", False, "")
        assert len(await self.take(store)) == 3
        keyless = submission(to("alice", notification="o"), cursor="x")
        assert await store.submit(keyless) == Submitted("o", False, "x")

    async def test_a_recipient_without_deliveries(self, store: DeliveryStore) -> None:
        """Decisions are kept for a recipient to whom nothing is sent."""
        await store.submit(submission(recipients=[RecipientRecord("n", "alice", b'[{"skip":"OPTED_OUT"}]')]))
        found = await store.record("n", "alice")
        assert found is not None
        assert (found[1].decisions, [*found[2]], [*found[3]]) == (b'[{"skip":"OPTED_OUT"}]', [], [])

    async def test_a_final_delivery_is_kept(self, store: DeliveryStore) -> None:
        """A delivery may be submitted in a final state, for the record; it is never claimed."""
        row = replace(to("alice", "sms", seconds=None), state=State.SKIPPED, reason="OPTED_OUT")
        await store.submit(submission(row, to("alice")))
        assert channels(await self.take(store)) == ["email"]
        assert (await self.look(store, row.id)).reason == "OPTED_OUT"

    async def test_many_recipients(self, store: DeliveryStore) -> None:
        """A thousand recipients are one submission."""
        rows = [to(f"user{number}", channel) for number in range(1000) for channel in ("email", "push")]
        await store.submit(submission(*rows))
        claims = await self.take(store, limit=5000)
        assert {claim.delivery.id for claim in claims} == {row.id for row in rows}
        assert all(claim.recipient.user == claim.delivery.user for claim in claims)
        assert datetime.now(UTC) - START < timedelta(days=1)
