"""The library does what a plain list would, on every real backend: the machine, model and judge of the memory ones."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, run_state_machine_as_test

from tests.parts import until
from tests.servers.postgres import Server as PostgresServer
from tests.servers.postgres import postgres as postgres
from tests.servers.redis import single

from . import real
from .loop import Stuck
from .machine import Machine
from .mutations import MUTATIONS, applied
from .real import RealBackend
from .world import World

EXAMPLES = max(25, settings().max_examples // 25)
STEPS = 30

BACKENDS: tuple[type[RealBackend], ...] = (
    real.SQLite,
    real.SQLiteStreaming,
    real.Redis,
    real.RedisStreaming,
    real.RedisByXread,
    real.Postgres,
    real.PostgresStreaming,
)


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with single() as server:
        yield server.url


@pytest.fixture(autouse=True)
def servers(postgres: PostgresServer, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real.Postgres, "where", postgres.dsn)
    monkeypatch.setattr(real.Redis, "where", redis_url)


def machine_on(kind: type[RealBackend]) -> type[Machine]:
    """The machine on one backend."""

    class On(Machine):
        backend = kind

    return On


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.__name__)
def test_a_real_backend_does_what_a_list_would(backend: type[RealBackend]) -> None:
    """Pushes, replays, cancellations, trims and lost, late and doubled routes, between two stores on the same logs."""
    phases = [Phase.explicit, Phase.reuse, Phase.generate]  # in real time no failure can be made smaller
    wanted = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, phases=phases)
    run_state_machine_as_test(machine_on(backend), settings=wanted)


# -- not blind -------------------------------------------------------------------------------------------------------

_HUNT = settings(
    max_examples=500,  # far more than the rarer of the faults below takes
    stateful_step_count=40,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

FAULTS = (
    "a gap is crossed without a word",
    "a closed stream is never taken off the books",
)
MUTATION = {mutation.name: mutation for mutation in MUTATIONS}


def small_machine_on(kind: type[RealBackend]) -> type[Machine]:
    """The machine on one backend in its smallest world, where the rarer of the faults takes a few examples."""

    class Small(Machine):
        backend = kind

        @initialize(seed=st.integers(0, 2**32 - 1), buffer_size=st.just(1), max_len=st.just(2), page=st.just(1))
        def begin(self, seed: int, buffer_size: int, max_len: int, page: int) -> None:
            super().begin(seed, buffer_size, max_len, page)

    return Small


def is_found(backend: type[RealBackend]) -> bool:
    """Whether the machine fails on a backend that is known to be broken."""
    try:
        run_state_machine_as_test(small_machine_on(backend), settings=_HUNT)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | pytest.exit.Exception):
            raise
        return True
    finally:
        gc.collect()  # what the fault left behind, while it still explains it
    return False


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.__name__)
def test_a_fault_in_the_core_is_found(backend: type[RealBackend], fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine fails here too with this fault in the core."""
    monkeypatch.setattr(backend, "patience", 2.0)
    with applied(MUTATION[fault]):
        assert is_found(backend), f"nothing noticed that {fault}"


EARS = (
    (real.SQLiteStreaming, "notify_sqlite._listen.SQLiteWatcher._notice"),
    (real.RedisStreaming, "notify_redis._stream_store.RedisStreamStore._on_message"),
    (real.RedisByXread, "notify_redis._stream_store.RedisStreamStore._on_message"),
    (real.PostgresStreaming, "notify_pg._stream_store.PostgresStreamStore._on_wake"),
)


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize(("backend", "ear"), EARS, ids=[backend.__name__ for backend, _ in EARS])
def test_a_stream_store_that_hears_nothing_is_found(
    backend: type[RealBackend], ear: str, deaf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other process stores must arrive by itself: a world whose store sleeps through it does not rest."""
    if deaf:
        monkeypatch.setattr(backend, "patience", 4.0)
        monkeypatch.setattr(ear, lambda *_args: None)
    world = World(backend, seed=0, buffer_size=64, max_len=1000)
    try:
        world.run(world.begin_next(world.subscribe("B", "{b}:*", "now", "", None, signals=False)))
        world.run(until(lambda: world.backend.store_of("B").is_receiving))  # before that, the store looks by itself
        reader = world.subscribe("B", "alice", "now", "", None, signals=False)
        world.run(world.begin_next(reader))
        assert reader.task is not None
        with pytest.raises(Stuck) if deaf else nullcontext():
            world.run(push(world))
    finally:
        world.finish()


async def push(world: World) -> None:
    world.start_push("A", "alice", world.new_value())
