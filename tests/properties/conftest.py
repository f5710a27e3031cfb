"""Hypothesis profiles, chosen by NOTIFY_HYPOTHESIS_PROFILE: `ci` (the default) and `nightly`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

_COMMON: dict[str, Any] = {
    "deadline": None,
    "print_blob": True,
    "phases": [phase for phase in Phase if phase is not Phase.explain],
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
}

settings.register_profile("ci", max_examples=50, stateful_step_count=40, **_COMMON)
settings.register_profile("nightly", max_examples=5000, stateful_step_count=60, **_COMMON)
settings.load_profile(os.environ.get("NOTIFY_HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep thousands of expected warnings out of the report."""
    logger = logging.getLogger("notify")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)
