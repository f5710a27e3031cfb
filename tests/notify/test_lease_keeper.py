"""`LeaseKeeper` over a backend in memory that notes what is asked of it: counts, batches, healing, outages, ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify import BackendUnavailableError, ClosedError, InvalidEventError, RoutingInfo, UsageError
from notify._presence import _lease_keeper
from notify.adapters import LeaseKeeper, LeaseRegistration
from tests.parts import until

pytestmark = pytest.mark.anyio

A, B, A2 = RoutingInfo("a", {"host": "1"}), RoutingInfo("b", {"host": "2"}), RoutingInfo("a", {"host": "3"})


class Recorder:
    """A backend with one lease, and gates: what is `held` waits, what is in `failing` raises."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.stored: dict[str, list[RoutingInfo]] = {}
        self.elsewhere: dict[str, list[RoutingInfo]] = {}
        self.failing: dict[str, BaseException] = {}
        self.held: set[str] = set()
        self.go = anyio.Event()
        self.is_complete = True
        self.at_once = 0

    async def write(self, changes: Mapping[str, Sequence[RoutingInfo]]) -> None:
        await self.enter("write", {user: [*locations] for user, locations in changes.items()})
        for user, locations in changes.items():
            if locations:
                self.stored[user] = [*locations]
            else:
                self.stored.pop(user, None)

    async def renew(self, locations: int | None) -> bool:
        await self.enter("renew", locations)
        is_complete, self.is_complete = self.is_complete, True
        return is_complete

    async def fetch(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        await anyio.lowlevel.checkpoint()
        self.fail("fetch")
        return self.elsewhere

    async def release(self, users: Sequence[str]) -> None:
        await self.enter("release", [*users])
        self.stored.clear()

    async def enter(self, call: str, argument: Any) -> None:
        assert not self.at_once, "two calls at the same time"
        self.at_once += 1
        try:
            self.calls.append((call, argument))
            await anyio.lowlevel.checkpoint()
            if call in self.held:
                await self.go.wait()
            self.fail(call)
        finally:
            self.at_once -= 1

    def fail(self, call: str) -> None:
        if call in self.failing:
            raise self.failing[call]

    def of(self, call: str) -> list[Any]:
        """The arguments of every call of one kind."""
        return [argument for name, argument in self.calls if name == call]


@pytest.fixture
def backend() -> Recorder:
    return Recorder()


def made(backend: Recorder, **options: Any) -> LeaseKeeper:
    return LeaseKeeper(backend, owner="Tracker", **{"ttl": 30.0, **options})


# -- counts and locations --------------------------------------------------------------------------------------------


async def test_a_registration_is_written_when_register_returns(backend: Recorder) -> None:
    """One registration costs one call, and `register` returns after it; so does its end."""
    keeper = made(backend)
    registration = await keeper.register("alice", A)
    assert backend.stored == {"alice": [A]}
    assert await keeper.locate(["alice"]) == {"alice": [A]}
    await registration.aclose()
    assert backend.stored == {}
    assert backend.calls == [("write", {"alice": [A]}), ("write", {"alice": []})]
    await keeper.aclose()


async def test_only_the_first_and_the_last_registration_of_a_location_are_written(backend: Recorder) -> None:
    """Ten registrations at one instance are one location: the nine in between cost no call, in any order of ends."""
    keeper = made(backend)
    registrations = [await keeper.register("alice", A) for _ in range(10)]
    for registration in (*registrations[5:], *registrations[:4]):
        await registration.aclose()
    assert len(backend.calls) == 1
    for _ in range(2):
        await registrations[4].aclose()
        registrations[4].release()
    assert backend.of("write") == [{"alice": [A]}, {"alice": []}]
    await keeper.aclose()


async def test_the_latest_metadata_of_an_instance_count(backend: Recorder) -> None:
    """Where registrations of one instance differ, the latest that lasts says what the location is."""
    keeper = made(backend)
    first, second = await keeper.register("alice", A), await keeper.register("alice", A2)
    assert backend.stored == {"alice": [A2]} == await keeper.locate(["alice"])
    await first.aclose()
    assert len(backend.calls) == 2
    first = await keeper.register("alice", A)
    assert backend.stored == {"alice": [A]}
    await first.aclose()
    assert backend.stored == {"alice": [A2]}
    await second.aclose()
    assert backend.stored == {}
    await keeper.aclose()


async def test_instances_are_locations_of_their_own(backend: Recorder) -> None:
    """Registrations at two instances, and one without routing, are three locations in the order in which they came."""
    keeper = made(backend)
    at_a = await keeper.register("alice", A)
    await keeper.register("alice")
    await keeper.register("alice", B)
    assert backend.stored["alice"] == [A, RoutingInfo(), B]
    await at_a.aclose()
    assert backend.stored["alice"] == [RoutingInfo(), B]
    await keeper.aclose()


async def test_locations_of_this_process_and_of_others(backend: Recorder) -> None:
    """`locate` keeps the order asked and joins both; of one instance this process knows better."""
    keeper = made(backend)
    backend.elsewhere = {"alice": [A, B], "bob": [B], "carol": []}
    await keeper.register("alice", A2)
    located = await keeper.locate(["carol", "dave", "bob", "alice"])
    assert [*located.items()] == [("bob", [B]), ("alice", [A2, B])]
    assert await keeper.locate([]) == {}
    await keeper.aclose()


async def test_a_release_is_seen_at_once_in_this_process(backend: Recorder) -> None:
    """After `release` this process does not locate the user, though the backend does not know yet."""
    keeper = made(backend)
    registration = await keeper.register("alice", A)
    backend.held.add("write")
    registration.release()
    assert keeper.locations("alice") == []
    assert await keeper.locate(["alice"]) == {}
    await until(lambda: len(backend.calls) == 2)
    assert backend.stored
    backend.go.set()
    await until(lambda: not backend.stored)
    await keeper.aclose()


async def test_users_and_times_to_live_are_checked(backend: Recorder) -> None:
    """A user id that is none, and a time to live that cannot work, are refused before anything is asked."""
    for ttl in (0, -1.0, 0.05, float("nan"), float("inf"), 86_401):
        with pytest.raises(UsageError, match="ttl must be from"):
            made(backend, ttl=ttl)
    keeper = made(backend)
    with pytest.raises(InvalidEventError):
        await keeper.register("")
    assert not backend.calls
    await keeper.aclose()


# -- one task --------------------------------------------------------------------------------------------------------


async def test_a_thousand_registrations_are_one_task(backend: Recorder) -> None:
    """A thousand users take one further task, few writes of bounded size, and one renewal for all of them."""
    keeper = made(backend, ttl=3.0, batch_size=400)
    before = len(anyio.get_running_tasks())
    async with anyio.create_task_group() as tasks:
        for number in range(1000):
            tasks.start_soon(keeper.register, f"user{number}", A)
    assert len(anyio.get_running_tasks()) == before + 1
    assert len(backend.stored) == 1000
    writes = backend.of("write")
    assert max(len(changes) for changes in writes) == 400
    assert sum(len(changes) for changes in writes) == 1000
    assert len(writes) <= 5
    await until(lambda: backend.of("renew"))
    assert backend.of("renew")[0] == 1000
    assert backend.of("write") == writes
    await keeper.aclose()


async def test_what_changes_during_a_write_goes_together(backend: Recorder) -> None:
    """While one write is under way changes collect; the next write takes them all, as they are by then."""
    keeper = made(backend)
    backend.held.add("write")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.register, "alice", A)
        await until(lambda: backend.calls)
        for user in ("bob", "carol"):
            tasks.start_soon(keeper.register, user, A)
        tasks.start_soon(keeper.register, "alice", B)
        await until(lambda: keeper.locations("carol"))
        tasks.start_soon(keeper.register, "brief", A)
        await until(lambda: keeper.locations("brief"))
        for registration in [*keeper._registrations._users["brief"]["a"]]:
            registration.release()  # type: ignore[attr-defined]
        backend.go.set()
    assert backend.of("write") == [{"alice": [A]}, {"bob": [A], "carol": [A], "alice": [A, B], "brief": []}]
    await keeper.aclose()


async def test_a_second_registration_waits_for_the_write_under_way(backend: Recorder) -> None:
    """A registration at a location that is being written waits for that write, and causes none."""
    keeper = made(backend)
    backend.held.add("write")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.register, "alice", A)
        await until(lambda: backend.calls)
        with anyio.move_on_after(0.02) as scope:
            await keeper.register("alice", A)
        assert scope.cancelled_caught
        tasks.start_soon(keeper.register, "alice", A)
        await anyio.lowlevel.checkpoint()
        backend.go.set()
    assert backend.of("write") == [{"alice": [A]}]
    await keeper.aclose()


async def test_nothing_registered_costs_nothing(backend: Recorder) -> None:
    """The lease is renewed while anything is registered and not after; the next registration grants it again."""
    keeper = made(backend, ttl=0.1)
    registration = await keeper.register("alice", A)
    await until(lambda: len(backend.of("renew")) >= 3)
    await registration.aclose()
    count = len(backend.calls)
    await anyio.sleep(0.15)
    assert len(backend.calls) == count
    await keeper.register("alice", A)
    assert backend.calls[count:] == [("write", {"alice": [A]})]
    await until(lambda: len(backend.calls) > count + 1)
    assert backend.calls[count + 1] == ("renew", 1)
    await keeper.aclose()


# -- healing ---------------------------------------------------------------------------------------------------------


async def test_a_lost_lease_has_everything_written_again(backend: Recorder) -> None:
    """Once `renew` says that something is lost, all users are written again, without those who have left."""
    keeper = made(backend, ttl=0.2, batch_size=2)
    for user in ("alice", "bob", "carol"):
        await keeper.register(user, A)
    backend.stored.clear()
    backend.is_complete = False
    await until(lambda: len(backend.stored) == 3)
    assert backend.of("write")[3:] == [{"alice": [A], "bob": [A]}, {"carol": [A]}]
    await keeper.aclose()


async def test_new_registrations_do_not_wait_behind_everything(backend: Recorder) -> None:
    """A user who registers while everything has to be written again is in the first of those writes."""
    keeper = made(backend, ttl=0.2, batch_size=2)
    for number in range(6):
        await keeper.register(f"user{number}", A)
    backend.held.add("renew")
    backend.is_complete = False
    await until(lambda: backend.of("renew"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.register, "late", A)
        await until(lambda: keeper.locations("late"))
        backend.go.set()
    assert "late" in backend.of("write")[6]
    await until(lambda: sum(len(changes) for changes in backend.of("write")) == 13)
    await keeper.aclose()


# -- outages ---------------------------------------------------------------------------------------------------------


async def test_register_raises_while_the_backend_fails(backend: Recorder) -> None:
    """Every failure reaches `register` as BackendUnavailableError with its cause, and leaves no registration."""
    keeper = made(backend)
    backend.failing["write"] = OSError("no route")
    with pytest.raises(BackendUnavailableError, match="no route") as caught:
        await keeper.register("alice", A)
    assert caught.value.backend == "Tracker"
    assert isinstance(caught.value.__cause__, OSError)
    assert keeper.locations("alice") == []
    backend.failing["fetch"] = ValueError("garbage")
    with pytest.raises(BackendUnavailableError, match="Tracker did not answer: ValueError"):
        await keeper.locate(["alice"])
    backend.failing = {"write": BackendUnavailableError("said so", backend="Other")}
    with pytest.raises(BackendUnavailableError) as caught:
        await keeper.register("alice", A)
    assert caught.value is backend.failing["write"]
    await keeper.aclose()


async def test_a_call_during_an_outage_is_tried_at_once(backend: Recorder) -> None:
    """A registration during an outage waits for no delay, and the first that succeeds ends the outage."""
    keeper = made(backend, ttl=3600.0)
    keeper._delays = lambda: repeat(3600.0)  # type: ignore[method-assign,assignment]
    backend.failing["write"] = OSError()
    for _ in range(8):
        with pytest.raises(BackendUnavailableError):
            await keeper.register("alice", A)
    failed = len(backend.calls)
    del backend.failing["write"]
    with anyio.fail_after(20):
        await keeper.register("bob", A)
    assert len(backend.calls) == failed + 1
    assert backend.stored == {"bob": [A]}
    await keeper.aclose()


async def test_a_call_during_an_attempt_that_fails_is_tried_next(backend: Recorder) -> None:
    """A registration during an attempt that fails waits for no delay after it, though delays have grown long."""
    keeper = made(backend, ttl=3600.0)
    keeper._delays = lambda: repeat(3600.0)  # type: ignore[method-assign,assignment]
    backend.failing["write"] = OSError()

    async def fail(user: str) -> None:
        with pytest.raises(BackendUnavailableError):
            await keeper.register(user, A)

    for _ in range(8):
        await fail("alice")
    backend.held.add("write")
    count = len(backend.calls)

    async def fail_last() -> None:
        await fail("bob")
        backend.failing.clear()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail_last)
            await until(lambda: len(backend.calls) > count)
            tasks.start_soon(keeper.register, "late", A)
            await until(lambda: keeper.locations("late"))
            backend.go.set()
    await until(lambda: backend.stored == {"late": [A]})
    await keeper.aclose()


async def test_one_failure_ends_every_wait_of_its_time(backend: Recorder) -> None:
    """Calls that wait when a write fails raise, in whichever batch they were; those that came later are tried."""
    keeper = made(backend, batch_size=2)
    outcomes: dict[str, str] = {}

    async def register(user: str) -> None:
        try:
            await keeper.register(user, A)
            outcomes[user] = "registered"
        except BackendUnavailableError:
            outcomes[user] = "unavailable"

    backend.held.add("write")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(register, "first")
        await until(lambda: backend.calls)
        for user in ("second", "third", "fourth"):
            tasks.start_soon(register, user)
        await until(lambda: keeper.locations("fourth"))
        go, backend.go = backend.go, anyio.Event()
        go.set()
        await until(lambda: len(backend.calls) == 2)
        tasks.start_soon(register, "late")
        await until(lambda: keeper.locations("late"))
        backend.failing["write"] = OSError()
        go, backend.go = backend.go, anyio.Event()
        go.set()
        await until(lambda: len(outcomes) == 4)
        backend.failing.clear()
        backend.go.set()
    assert outcomes.pop("first") == outcomes.pop("late") == "registered"
    assert set(outcomes.values()) == {"unavailable"}
    await until(lambda: [*backend.stored] == ["first", "late"])
    await keeper.aclose()


async def test_what_could_not_be_written_is_written_later(backend: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """During an outage ends take effect and do not raise; everything is written afterwards; two lines are logged."""
    caplog.set_level(logging.WARNING, "notify")
    keeper = made(backend, ttl=0.4)
    await keeper.register("alice", A)
    gone, released = await keeper.register("bob", A), await keeper.register("carol", A)
    backend.failing = {"write": OSError("no route"), "renew": OSError("no route")}
    await gone.aclose()
    released.release()
    failed = len(backend.calls)
    await until(lambda: len(backend.calls) >= failed + 5)
    assert keeper.locations("bob") == keeper.locations("carol") == []
    backend.failing.clear()
    await until(lambda: [*backend.stored] == ["alice"])
    await until(lambda: len(caplog.records) == 2)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("Tracker cannot write or renew its registrations, and keeps trying: Tracker did not")
    assert lines[1] == "Tracker writes and renews its registrations again"
    await keeper.aclose()


async def test_a_renewal_that_fails_is_tried_again_soon(backend: Recorder) -> None:
    """One failed renewal does not cost the lease: the next attempt comes long before it ends."""
    keeper = made(backend, ttl=6.0)
    await keeper.register("alice", A)
    backend.failing["renew"] = OSError()
    await until(lambda: backend.of("renew"))
    began = anyio.current_time()
    await until(lambda: len(backend.of("renew")) == 3)
    assert anyio.current_time() - began < 3  # two further renewals would have come after four seconds
    await keeper.aclose()


async def test_counts_that_are_not_certain_are_not_compared(backend: Recorder) -> None:
    """After a write that failed, and may have been executed, `renew` is given no count until all is written again."""
    keeper = made(backend, ttl=0.3)
    for routing in (A, B):
        await keeper.register("alice", routing)
    await until(lambda: backend.of("renew"))
    backend.failing["write"] = OSError()
    with pytest.raises(BackendUnavailableError):
        await keeper.register("bob", A)
    await until(lambda: None in backend.of("renew"))
    backend.failing.clear()
    await until(lambda: backend.of("renew")[-1] == 2)
    assert {*backend.of("renew")} == {2, None}
    await keeper.aclose()


@pytest.mark.parametrize("call", ["write", "renew"])
async def test_a_driver_that_cancels_itself_has_failed(
    backend: Recorder, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    """A CancelledError of the driver's own is an outage: one line, retries, and `register` raises until it is over."""
    keeper = made(backend, ttl=0.4)
    kept = await keeper.register("kept", A)
    backend.failing = dict.fromkeys(("write", call), asyncio.CancelledError())
    await until(lambda: call == "write" or len(backend.of("renew")) >= 3)
    for _ in range(2):
        with anyio.fail_after(20), pytest.raises(BackendUnavailableError, match="was cancelled from inside") as caught:
            await keeper.register("alice", A)
    assert isinstance(caught.value.__cause__, RuntimeError)
    await kept.aclose()
    backend.failing.clear()
    await until(lambda: not backend.stored)
    await keeper.register("bob", A)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage()[:20] for record in warnings] == ["Tracker cannot write", "Tracker writes and r"]
    await keeper.aclose()


async def test_a_fetch_and_a_release_that_cancel_themselves(
    backend: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """`locate` raises BackendUnavailableError, and closing logs that the lease expires."""
    keeper = made(backend)
    await keeper.register("alice", A)
    backend.failing = dict.fromkeys(("fetch", "release"), asyncio.CancelledError())
    with pytest.raises(BackendUnavailableError, match="fetch was cancelled from inside"):
        await keeper.locate(["alice"])
    await keeper.aclose()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "cannot release presence" in line


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_is_cancelled_from_outside(backend: Recorder) -> None:
    """After the keeper's task was ended, waiting calls raise, and the next call starts another, which writes all."""
    keeper = made(backend)
    backend.held.add("write")
    async with anyio.create_task_group() as tasks:

        async def register(user: str) -> None:
            with pytest.raises(BackendUnavailableError, match="the task of the Tracker was ended"):
                await keeper.register(user, A)

        tasks.start_soon(register, "alice")
        await until(lambda: backend.calls)
        tasks.start_soon(register, "bob")
        await until(lambda: keeper.locations("bob"))
        (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "notify: Tracker _run"]
        task.cancel()
    backend.held.clear()
    await keeper.register("carol", A)
    assert backend.of("write")[1:] == [{"alice": [], "bob": [], "carol": [A]}]
    await keeper.aclose()
    assert backend.of("release") == [["carol"]]


# -- cancellation, finalisers, other threads ------------------------------------------------------------------------


async def test_a_cancelled_registration_is_taken_back(backend: Recorder) -> None:
    """A `register` that is cancelled while it is written leaves no registration, here and in the backend."""
    keeper = made(backend)
    backend.held.add("write")
    with anyio.move_on_after(0.02) as scope:
        await keeper.register("alice", A)
    assert scope.cancelled_caught
    assert keeper.locations("alice") == []
    backend.go.set()
    await until(lambda: backend.of("write") == [{"alice": [A]}, {"alice": []}])
    await until(lambda: not backend.stored)
    await keeper.aclose()


async def test_ends_take_effect_while_cancelled(backend: Recorder) -> None:
    """`release` and `aclose` of a registration work in a task that is cancelled."""
    keeper = made(backend)
    registrations = [await keeper.register(user, A) for user in ("alice", "bob")]
    with anyio.CancelScope() as scope:
        scope.cancel()
        registrations[0].release()
        await registrations[1].aclose()
    assert scope.cancelled_caught
    await until(lambda: not backend.stored)
    await keeper.aclose()


class Holder:
    """Ends its registration in its finaliser, as an unclosed stream does."""

    def __init__(self, registration: LeaseRegistration) -> None:
        self.registration = registration
        self.cycle = self

    def __del__(self) -> None:
        self.registration.release()


async def test_a_finaliser_ends_a_registration(backend: Recorder) -> None:
    """A registration that the garbage collector ends leaves the backend too."""
    keeper = made(backend)
    holder = Holder(await keeper.register("alice", A))
    del holder
    gc.collect()
    assert keeper.locations("alice") == []
    await until(lambda: not backend.stored)
    await keeper.aclose()


def test_a_registration_that_outlives_its_event_loop(
    backend: Recorder, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the event loop has ended without closing, releasing and closing neither raise nor hang."""
    monkeypatch.setattr(_lease_keeper, "_GRACE", 3600.0)
    keeper = made(backend)
    kept: list[LeaseRegistration] = []

    async def main() -> None:
        kept.extend([await keeper.register("alice", A), await keeper.register("bob", A)])

    anyio.run(main, backend=anyio_backend)
    kept[0].release()
    assert keeper.locations("alice") == []

    async def later() -> None:
        with pytest.raises(UsageError):
            await keeper.register("carol", A)
        with anyio.fail_after(20):
            await keeper.aclose()
            await kept[1].aclose()

    anyio.run(later, backend=anyio_backend)


def test_an_event_loop_that_is_closed_under_a_waiting_task(backend: Recorder) -> None:
    """A loop that was closed without cancelling its tasks does not keep `release` from ending a registration."""
    keeper = made(backend)
    loop = asyncio.new_event_loop()
    registration = loop.run_until_complete(keeper.register("alice", A))
    loop.run_until_complete(asyncio.sleep(0))
    (task,) = asyncio.all_tasks(loop)
    loop._ready.clear()  # type: ignore[attr-defined]
    loop.close()
    registration.release()
    assert keeper.locations("alice") == []
    task._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_another_thread_ends_a_registration(backend: Recorder) -> None:
    """A finaliser may run in any thread: the registration ends, and the loop writes that without delay."""
    keeper = made(backend)
    registration = await keeper.register("alice", A)
    thread = threading.Thread(target=registration.release)
    thread.start()
    await until(lambda: not backend.stored, 5)  # the next renewal is due after 10 s
    thread.join()
    await keeper.aclose()


# -- the end ---------------------------------------------------------------------------------------------------------


async def test_closing_releases_everything(backend: Recorder) -> None:
    """Closing releases every user once; afterwards calls raise ClosedError, and ends do nothing."""
    keeper = made(backend)
    registrations = [await keeper.register(user, A) for user in ("alice", "bob", "carol")]
    await registrations[2].aclose()
    for _ in range(2):
        await keeper.aclose()
    assert backend.calls[-1] == ("release", ["alice", "bob"])
    assert len(backend.of("release")) == 1
    for call in (partial(keeper.register, "alice"), partial(keeper.locate, ["alice"]), partial(keeper.locate, [])):
        with pytest.raises(ClosedError, match="Tracker is closed"):
            await call()
    registrations[0].release()
    await registrations[1].aclose()
    assert len(backend.of("release")) == 1


async def test_closing_what_was_never_used_asks_nothing(backend: Recorder) -> None:
    """A keeper that nothing was registered with has no lease to release."""
    keeper = made(backend)
    assert await keeper.locate(["alice"]) == {}
    await keeper.aclose()
    assert not backend.calls


async def test_closing_before_the_first_write(backend: Recorder) -> None:
    """A keeper that is closed before its task has run writes nothing, or releases what it wrote."""
    keeper = made(backend)

    async def register() -> None:
        with pytest.raises(ClosedError):
            await keeper.register("alice", A)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(register)
        tasks.start_soon(keeper.aclose)
    assert [call for call, _ in backend.calls] in ([], ["write", "release"])


async def test_closing_lets_the_write_under_way_end_first(backend: Recorder) -> None:
    """A write that is under way cannot come after the release; waiting calls raise at once."""
    keeper = made(backend, batch_size=1)
    backend.held.add("write")
    async with anyio.create_task_group() as tasks:

        async def register(user: str) -> None:
            with pytest.raises(ClosedError):
                await keeper.register(user, A)
            backend.go.set()

        tasks.start_soon(register, "alice")
        tasks.start_soon(register, "bob")
        await until(lambda: backend.calls and keeper.locations("bob"))
        tasks.start_soon(keeper.aclose)
    assert [call for call, _ in backend.calls] == ["write", "release"]
    assert not backend.stored


@pytest.mark.parametrize("held", ["write", "release"])
async def test_closing_is_bounded_while_the_backend_hangs(backend: Recorder, held: str) -> None:
    """With a backend that hangs, closing takes about a second, also while cancelled, and leaves no task."""
    before = len(anyio.get_running_tasks())
    keeper = made(backend)
    registration = await keeper.register("alice", A)
    backend.held = {held}
    registration.release()
    await until(lambda: len(backend.of("write")) == 2)
    began = anyio.current_time()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await keeper.aclose()
    assert 0.9 < anyio.current_time() - began < 5  # the backend never answers
    assert len(anyio.get_running_tasks()) == before


async def test_every_call_of_aclose_waits_for_the_release(backend: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call during another one returns after the release too, also while cancelled, and nothing is released twice."""
    monkeypatch.setattr(_lease_keeper, "_GRACE", 3600.0)
    keeper = made(backend)
    await keeper.register("alice", A)
    backend.held.add("release")
    left: list[bool] = []

    async def close() -> None:
        await keeper.aclose()
        left.append(bool(backend.stored))

    async def close_cancelled() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await close()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close)
            await until(lambda: backend.of("release"))
            tasks.start_soon(close)
            tasks.start_soon(close_cancelled)
            await anyio.sleep(0.02)
            assert not left
            backend.go.set()
    assert left == [False] * 3
    assert len(backend.of("release")) == 1


async def test_every_call_of_aclose_is_bounded(backend: Recorder) -> None:
    """With a release that hangs, several calls at the same time take about a second together."""
    before = len(anyio.get_running_tasks())
    keeper = made(backend)
    await keeper.register("alice", A)
    backend.held.add("release")
    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.aclose)
        await until(lambda: backend.of("release"))
        for _ in range(7):
            tasks.start_soon(keeper.aclose)
    await keeper.aclose()
    assert 0.9 < anyio.current_time() - began < 4  # one after the other they would take nine seconds
    assert len(anyio.get_running_tasks()) == before


async def test_a_release_that_fails_is_logged(backend: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """Closing while the backend fails says that the registrations are left to their lease."""
    keeper = made(backend, ttl=20.0)
    await keeper.register("alice", A)
    backend.failing["release"] = OSError("no route")
    await keeper.aclose()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("Tracker cannot release presence, so its registrations expire within 20.0 s: ")
    assert "no route" in line


async def test_release_is_given_what_may_have_been_written(backend: Recorder) -> None:
    """Users whose write failed are among those to release: it may have been executed all the same."""
    keeper = made(backend)
    await keeper.register("alice", A)
    backend.failing["write"] = OSError()
    with pytest.raises(BackendUnavailableError):
        await keeper.register("bob", A)
    await keeper.aclose()
    assert backend.of("release") == [["alice", "bob"]]


async def test_abandoning_is_like_being_killed(backend: Recorder) -> None:
    """After `abandon` nothing is released or renewed, and waiting calls raise ClosedError."""
    keeper = made(backend, ttl=0.1)
    await keeper.register("alice", A)
    backend.held.add("write")
    async with anyio.create_task_group() as tasks:

        async def register() -> None:
            with pytest.raises(ClosedError):
                await keeper.register("bob", A)

        tasks.start_soon(register)
        await until(lambda: len(backend.of("write")) == 2)
        await keeper.abandon()
    count = len(backend.calls)
    await anyio.sleep(0.1)
    await keeper.aclose()
    assert len(backend.calls) == count
    assert backend.stored == {"alice": [A]}


def test_a_fork_closes_without_waiting(backend: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a forked process, where the keeper's task is not, closing returns at once and releases nothing."""

    async def main() -> None:
        keeper = made(backend)
        await keeper.register("alice", A)
        with monkeypatch.context() as patch:
            patch.setattr(_lease_keeper, "_GRACE", 3600.0)
            patch.setattr("notify._runtime._loop_guard._forks", 1_000_000)
            with pytest.raises(UsageError, match="fork"):
                await keeper.locate(["alice"])
            with anyio.fail_after(20):
                await keeper.aclose()
        assert not backend.of("release")
        await keeper._background.aclose(1.0)

    asyncio.run(main())


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_drivers_that_need_asyncio(backend: Recorder) -> None:
    """A keeper whose driver runs on asyncio only refuses trio."""
    with pytest.raises(UsageError, match="asyncio only"):
        await made(backend, asyncio_only=True).register("alice")


async def test_outages_go_to_the_given_log(backend: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """A backend's package has its own logger."""
    keeper = made(backend, logger=logging.getLogger("notify.elsewhere"))
    backend.failing = {"write": OSError(), "release": OSError()}
    with pytest.raises(BackendUnavailableError):
        await keeper.register("alice", A)
    await keeper.aclose()
    assert {record.name for record in caplog.records} == {"notify.elsewhere"}
