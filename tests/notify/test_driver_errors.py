"""The error table that adapters get: what each exception of a driver becomes."""

from __future__ import annotations

import pytest

from notify.adapters import DriverErrors
from notify.errors import BackendUnavailableError, ClosedError, PushRejectedError, PushUncertainError

ERRORS = DriverErrors("MyStore", rejected=(ValueError,))


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [(ValueError("too long"), PushRejectedError), (OSError("reset"), PushUncertainError)],
)
def test_what_a_save_raises(raised: Exception, becomes: type[PushRejectedError | PushUncertainError]) -> None:
    """A listed exception means "not stored", any other "unknown"; the driver's is the cause, and the part is named."""
    with pytest.raises(becomes, match="MyStore") as caught, ERRORS.saving():
        raise raised
    assert (caught.value.__cause__, caught.value.backend) == (raised, "MyStore")


def test_what_a_read_raises() -> None:
    """Every exception of the driver means that the backend is not available."""
    raised = ValueError("nonsense")
    with pytest.raises(BackendUnavailableError, match="MyStore") as caught, ERRORS.reading():
        raise raised
    assert caught.value.__cause__ is raised


def test_what_passes() -> None:
    """The library's own errors, cancellation and success pass unchanged."""
    for context in (ERRORS.saving, ERRORS.reading):
        with context():
            pass
        with pytest.raises(ClosedError), context():
            raise ClosedError("closed")
        with pytest.raises(KeyboardInterrupt), context():
            raise KeyboardInterrupt
