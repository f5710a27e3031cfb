"""Suites for what is kept of users: preferences and endpoints."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import anyio.lowlevel
import pytest

from notify import ClosedError, UsageError
from notify.dispatch.abc import (
    DispatchRecords,
    Endpoint,
    EndpointStore,
    PreferenceStore,
    SessionEndpoints,
    endpoint_id,
)

from ._dispatch_base import START, at
from ._dispatch_strange import STRANGE_NAMES, STRANGE_NUMBERS, STRANGE_TEXTS, STRANGE_TIMES, refused
from ._suite import Suite
from ._waits import together

_MERGES: tuple[tuple[Any, Any, Any], ...] = (
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ({"a": 1}, {}, {"a": 1}),
    ({"ü": "𝄞\u2028"}, {"n": {"x": [None]}}, {"ü": "𝄞\u2028", "n": {"x": [None]}}),
)
"""Documents, patches and results, most of them of RFC 7386."""


class PreferenceStoreSuite(Suite[PreferenceStore]):
    """Every store of preferences passes these tests."""

    @pytest.fixture
    async def store(self, anyio_backend: object) -> AsyncIterator[PreferenceStore]:
        """Make a store for one test, and close it."""
        async with self.fresh() as store:
            yield store

    async def set(self, store: PreferenceStore, user: str, value: Any, seconds: float = 0.0) -> Any:
        """Apply a patch and return the result."""
        return json.loads(await store.patch(user, json.dumps(value).encode(), by="b", source="s", now=at(seconds)))

    async def test_merging(self, store: PreferenceStore) -> None:
        """A patch is merged as RFC 7386 says, and the result is stored and returned."""
        for number, (document, patch, result) in enumerate(_MERGES):
            user = f"user {number}"
            await store.patch(user, json.dumps({"z": document}).encode(), by="b", source="s", now=START)
            kept = (await store.preferences([user]))[user]
            before = json.loads(kept)["z"]
            merged = await self.set(store, user, {"z": patch})
            assert merged == json.loads((await store.preferences([user]))[user])
            assert before == {name: value for name, value in document.items() if value is not None}
            assert merged["z"] == {name: value for name, value in result.items() if value is not None}

    async def test_those_who_have_any(self, store: PreferenceStore) -> None:
        """Users without preferences are not among the answers, and one user's are not another's."""
        assert await store.preferences(["alice"]) == {}
        await self.set(store, "alice", {"a": 1})
        await self.set(store, "bob", {"a": 2})
        assert await store.preferences(["bob", "carol", "alice"]) == {"alice": b'{"a":1}', "bob": b'{"a":2}'}
        assert await store.preferences(["alice", "alice"]) == {"alice": b'{"a":1}'}
        assert await store.preferences([]) == {}

    async def test_what_is_not_an_object(self, store: PreferenceStore) -> None:
        """A patch that is not a JSON object is refused, and changes and records nothing."""
        await self.set(store, "alice", {"a": 1})
        strange = (b'{"a":NaN}', b'{"a":1e999}', b'{"a":"\\ud800"}', b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
        for bad in (b"", b"[]", b"null", b"1", b'"x"', b"{", b"\xff", *strange):
            with pytest.raises(UsageError, match="patch must be"):
                await store.patch("alice", bad, by="b", source="s", now=START)
        assert await store.preferences(["alice"]) == {"alice": b'{"a":1}'}
        assert len(await store.consents("alice")) == 1

    async def test_who_changed_what(self, store: PreferenceStore) -> None:
        """Every change is recorded: when, by whom, from where, what; oldest first."""
        patches = [b'{"a": 1}', b'{ "a": null }', b'{"b":"\\u00fc"}']
        for number, patch in enumerate(patches):
            await store.patch("alice", patch, by=f"by {number}", source=f"ü {number}", now=at(number + 0.0005))
        await store.patch("bob", b"{}", by="x", source="y", now=START)
        expected = [(at(number), f"by {number}", f"ü {number}", patch) for number, patch in enumerate(patches)]
        assert [*await store.consents("alice")] == expected
        assert [*await store.consents("carol")] == []

    async def test_patches_at_the_same_time(self, store: PreferenceStore) -> None:
        """No patch is lost among concurrent ones, the first of a user included."""

        async def act(writer: int) -> None:
            for number in range(10):
                await self.set(store, "alice", {f"{writer}.{number}": True, "last": writer})
                await anyio.lowlevel.checkpoint()

        await together(*(partial(act, writer) for writer in range(5)))
        kept = json.loads((await store.preferences(["alice"]))["alice"])
        assert len(kept) == 51
        assert len(await store.consents("alice")) == 50

    async def test_arguments_for_preferences_that_no_store_takes(self, store: PreferenceStore) -> None:
        """Text that some databases cannot store, names too long to index, and values of wrong types are refused."""
        for bad in STRANGE_NAMES:
            await refused(partial(store.patch, bad, b"{}", by="", source="", now=at(0)), "user")
            await refused(partial(store.preferences, ["alice", bad]), "users")
            await refused(partial(store.consents, bad), "user")
        for text in STRANGE_TEXTS:
            await refused(partial(store.patch, "alice", b"{}", by=text, source="", now=at(0)), "by")
            await refused(partial(store.patch, "alice", b"{}", by="", source=text, now=at(0)), "source")
        for moment in STRANGE_TIMES:
            await refused(partial(store.patch, "alice", b"{}", by="", source="", now=moment), "aware")
        word: Any = "{}"
        await refused(partial(store.patch, "alice", word, by="", source="", now=at(0)), "bytes")
        await refused(partial(store.preferences, "alice"), "users")
        assert await store.preferences(["alice"]) == {}
        assert await store.consents("alice") == []

    async def test_a_closed_store_has_no_preferences(self, store: PreferenceStore) -> None:
        """After `aclose`, every method raises ClosedError."""
        await self.close(store)
        for call in (
            partial(store.preferences, ["alice"]),
            partial(store.patch, "alice", b"{}", by="b", source="s", now=START),
            partial(store.consents, "alice"),
        ):
            with pytest.raises(ClosedError):
                await call()


class EndpointStoreSuite(Suite[EndpointStore]):
    """Every store of endpoints passes these tests."""

    @pytest.fixture
    async def store(self, anyio_backend: object) -> AsyncIterator[EndpointStore]:
        """Make a store for one test, and close it."""
        async with self.fresh() as store:
            yield store

    async def test_registering(self, store: EndpointStore) -> None:
        """What is registered has an id that hides its address, a generation, and times; all else is kept as given."""
        given = Endpoint("alice", "push", "https://push.example/ü", "token", {"p256dh": "k", "a": "ü"}, "session")
        stored = await store.register(given, at(0.0005))
        id = endpoint_id("push", "token", given.address)
        assert stored == replace(given, id=id, generation=1, created_at=START, last_seen_at=START)
        assert await store.endpoint(id) == stored
        assert await store.endpoints(["alice"]) == {"alice": [stored]}
        others = [replace(given, kind="topic"), replace(given, channel="fcm"), replace(given, address="x")]
        assert len({(await store.register(each, START)).id for each in others} | {id}) == 4
        assert await store.endpoint("unknown") is None

    async def test_registering_again(self, store: EndpointStore) -> None:
        """The same device is one endpoint: it is renewed, in use again, and of the last user who registered it."""
        given = Endpoint("alice", "push", "address", meta={"a": "1"})
        first = await store.register(given, START)
        await store.observe(first.id, 1, at(1), ok=True)
        await store.observe(first.id, 1, at(2), ok=False)
        assert await store.retire(first.id, 1, "gone", at(3))
        renewed = await store.register(replace(given, user="bob", meta={"b": "2"}, session="s"), at(4))
        expected = replace(first, user="bob", meta={"b": "2"}, session="s", generation=2, last_seen_at=at(4))
        assert renewed == replace(expected, last_success_at=at(1))
        assert await store.endpoints(["alice", "bob"], retired=True) == {"bob": [renewed]}

    async def test_what_registering_ignores(self, store: EndpointStore) -> None:
        """Health and generation are the store's business: they are not taken from the endpoint that is given."""
        odd = Endpoint(
            *("alice", "push", "address"), id="mine", generation=7, created_at=at(-9), last_seen_at=at(-9),
            last_success_at=at(-9), failures=3, failing_since=at(-9), retired_at=at(-9), reason="r",
        )  # fmt: skip
        stored = await store.register(odd, START)
        assert stored == await store.register(Endpoint("alice", "push", "address"), START) or stored.generation == 1
        plain = replace(Endpoint("alice", "push", "address"), id=stored.id, created_at=START, last_seen_at=START)
        assert stored == replace(plain, generation=1)

    async def test_the_endpoints_of_users(self, store: EndpointStore) -> None:
        """Those in use, sorted by channel, then id; retired ones only if wanted; users without any are left out."""
        stored = [
            await store.register(Endpoint(user, channel, f"{user} {channel} {number}"), START)
            for number in range(2)
            for channel in ("push", "email")
            for user in ("alice", "bob")
        ]
        out = next(each for each in stored if each.user == "alice")
        assert await store.retire(out.id, 0, "gone", at(5))
        for user in ("alice", "bob"):
            mine = sorted((each for each in stored if each.user == user), key=lambda each: (each.channel, each.id))
            used = [each for each in mine if each.id != out.id]
            assert await store.endpoints([user]) == {user: used}
            found = (await store.endpoints([user], retired=True))[user]
            assert [each.id for each in found] == [each.id for each in mine]
        assert [*(await store.endpoints(["carol", "bob", "alice", "bob"]))].count("bob") == 1
        assert {*(await store.endpoints(["carol", "bob", "alice"]))} == {"alice", "bob"}
        assert await store.endpoints([]) == {}

    async def test_the_endpoints_of_a_session(self, store: EndpointStore) -> None:
        """Those in use that belong to no user yet; not those of other sessions, and none any more after login."""
        if not isinstance(store, SessionEndpoints):
            return
        stored = [
            await store.register(Endpoint("", channel, f"{session} {channel}", session=session), START)
            for channel in ("push", "email")
            for session in ("one", "two")
        ]
        await store.register(Endpoint("alice", "push", "hers", session="one"), START)
        await store.register(Endpoint("", "push", "of no session"), START)
        mine = sorted((each for each in stored if each.session == "one"), key=lambda each: (each.channel, each.id))
        assert [*await store.session_endpoints("one")] == mine
        await store.retire(mine[0].id, 0, "gone", at(5))
        assert [*await store.session_endpoints("one")] == mine[1:]
        await store.register(replace(mine[1], user="alice"), at(6))
        assert [*await store.session_endpoints("one")] == []
        two = await store.session_endpoints("two")
        assert len(two) == 2
        if isinstance(store, DispatchRecords):
            await store.register(two[0], at(7))
            await store.purge(at(7))
            assert [each.id for each in await store.session_endpoints("two")] == [two[0].id]
            assert {*await store.endpoints(["alice", ""])} == {"alice", ""}
            assert [each.session for each in (await store.endpoints([""]))[""]] == ["two", ""]

    async def test_retiring(self, store: EndpointStore) -> None:
        """An endpoint is retired once, if it is still of that generation; 0 means any."""
        stored = await store.register(Endpoint("alice", "push", "address"), START)
        await store.register(stored, at(1))
        assert not await store.retire(stored.id, 1, "old answer", at(2))
        assert await store.endpoints(["alice"]) != {}
        assert not await store.retire("unknown", 0, "gone", at(2))
        assert await store.retire(stored.id, 2, "gone", at(3))
        assert not await store.retire(stored.id, 2, "again", at(4))
        assert not await store.retire(stored.id, 0, "again", at(4))
        found = await store.endpoint(stored.id)
        assert found is not None
        assert (found.retired_at, found.reason, found.generation) == (at(3), "gone", 2)
        assert await store.endpoints(["alice"]) == {}
        await store.register(stored, at(5))
        assert await store.retire(stored.id, 0, "by hand", at(6))

    async def test_observing(self, store: EndpointStore) -> None:
        """Refusals in a row are counted from the first one on; a success ends the row; old generations do not count."""
        stored = await store.register(Endpoint("alice", "push", "address"), START)
        for number in (1, 2, 3):
            found = await store.observe(stored.id, 1, at(number), ok=False)
            assert found == replace(stored, failures=number, failing_since=at(1))
        assert await store.observe(stored.id, 2, at(4), ok=True) is None
        assert await store.observe("unknown", 1, at(4), ok=True) is None
        good = await store.observe(stored.id, 1, at(5), ok=True)
        assert good == replace(stored, last_success_at=at(5))
        again = await store.observe(stored.id, 1, at(6), ok=False)
        assert again == replace(stored, last_success_at=at(5), failures=1, failing_since=at(6))
        assert await store.endpoint(stored.id) == again

    async def test_registrations_at_the_same_time(self, store: EndpointStore) -> None:
        """Each of several concurrent registrations of one device has a generation of its own."""
        generations: list[int] = []

        async def act() -> None:
            for _ in range(5):
                generations.append((await store.register(Endpoint("alice", "push", "address"), START)).generation)
                await anyio.lowlevel.checkpoint()

        await together(*[act] * 6)
        assert sorted(generations) == [*range(1, 31)]

    async def test_arguments_for_endpoints_that_no_store_takes(self, store: EndpointStore) -> None:
        """Text that some databases cannot store, names too long to index, and values of wrong types are refused."""
        good, number_of, word = Endpoint("alice", "push", "a"), {"a": 1}, "a"
        strange: Any = (number_of, word)
        for bad in STRANGE_NAMES:
            for name in ("user", "channel", "kind", "session"):
                await refused(partial(store.register, replace(good, **{name: bad}), at(0)), name)
            await refused(partial(store.endpoints, ["alice", bad]), "users")
            await refused(partial(store.endpoint, bad), "id")
            await refused(partial(store.retire, bad, 0, "gone", at(0)), "id")
            await refused(partial(store.observe, bad, 0, at(0), ok=True), "id")
        for text in STRANGE_TEXTS:
            await refused(partial(store.register, replace(good, address=text), at(0)), "address")
            await refused(partial(store.retire, "id", 0, text, at(0)), "reason")
        for moment in STRANGE_TIMES:
            await refused(partial(store.register, good, moment), "aware")
            await refused(partial(store.retire, "id", 0, "gone", moment), "aware")
            await refused(partial(store.observe, "id", 0, moment, ok=True), "aware")
        for number in STRANGE_NUMBERS:
            await refused(partial(store.retire, "id", number, "gone", at(0)), "generation")
            await refused(partial(store.observe, "id", number, at(0), ok=True), "generation")
        for each in strange:
            await refused(partial(store.register, each, at(0)), "endpoint")
            await refused(partial(store.register, replace(good, meta=each), at(0)), "meta")
            await refused(partial(store.observe, "id", 0, at(0), ok=each), "ok")
        assert await store.endpoints(["alice"], retired=True) == {}

    async def test_a_closed_store_has_no_endpoints(self, store: EndpointStore) -> None:
        """After `aclose`, every method raises ClosedError."""
        await self.close(store)
        calls: list[Callable[[], Awaitable[object]]] = [
            partial(store.register, Endpoint("alice", "push", "address"), START),
            partial(store.endpoints, ["alice"]),
            partial(store.endpoint, "id"),
            partial(store.retire, "id", 1, "gone", START),
            partial(store.observe, "id", 1, START, ok=True),
        ]
        if isinstance(store, SessionEndpoints):
            calls.append(partial(store.session_endpoints, "session"))
        for call in calls:
            with pytest.raises(ClosedError):
                await call()
