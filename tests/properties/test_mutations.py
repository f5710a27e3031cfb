"""Every fault that is put into the core on purpose is found, by a fixed number of examples and seeds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from . import test_every_step as every_step
from . import test_interleavings as interleavings
from . import test_machine as machines
from .loop import run
from .machine import Machine
from .mutations import MUTATIONS, Mutation, applied
from .scenarios import KINDS

EXAMPLES = 60
SEEDS = 20
STEPS = 16

_SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

SCHEDULES = (
    interleavings.joined_read,
    interleavings.offered_meanwhile,
    interleavings.shared_head,
    interleavings.hidden_read,
    interleavings.idle_beside_waiting,
    interleavings.cancelled_beside_idle,
    interleavings.long_absence,
    interleavings.page_in_hand,
    interleavings.cancelled_opening,
)

MACHINES: tuple[type[Machine], ...] = (
    machines.ImmediateMachine,
    machines.SlowMachine,
    machines.BatchingMachine,
    machines.StreamingMachine,
)


def hunters(examples: int = EXAMPLES) -> Iterator[Callable[[], object]]:
    """Return what looks for faults, the quickest first; each machine tries so many examples."""
    for schedule in SCHEDULES:
        yield partial(run, schedule)
    for kind in KINDS:
        for step in range(1, STEPS):
            yield partial(every_step.cancel_push_at, kind, step, many=False)
            yield partial(every_step.cancel_next_at, kind, step, "task")
    for seed in range(SEEDS):
        for kind in KINDS:
            yield partial(interleavings.replay_then_live, kind, seed)
    for machine in MACHINES:
        yield partial(run_state_machine_as_test, machine, settings=settings(_SETTINGS, max_examples=examples))


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_fault_is_found(mutation: Mutation) -> None:
    """The machine or the interleavings fail with this fault in the core."""
    found = False
    with applied(mutation):
        for hunt in hunters():
            try:
                hunt()
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | pytest.exit.Exception):
                    raise
                found = True
                break
        gc.collect()  # what the fault left behind, while it still explains it
    assert found, f"nothing noticed that {mutation.name}"


@pytest.mark.timeout(240)
def test_nothing_is_found_where_there_is_no_fault() -> None:
    """The same hunt finds nothing in the core as it is; the machines run briefly, and longer in `test_machine.py`."""
    for hunt in hunters(examples=10):
        hunt()
