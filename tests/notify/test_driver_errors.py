"""The error table that adapters get: what each exception of a driver becomes."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from notify.adapters import DriverErrors, is_bug, report_bug
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


class DriverError(ValueError):
    """An exception that a driver derives from one of Python's own."""


def caught(function: Any, *args: Any) -> Exception:
    """Return what a call raises, with its traceback."""
    try:
        function(*args)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def lookup() -> None:
    empty: dict[str, int] = {}
    empty["key"]


def raises(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("function", "args", "bug"),
    [
        (lookup, (), True),
        (json.loads, ("{",), False),  # JSONDecodeError is not one of Python's own classes
        (json.dumps, (object(),), True),  # raised inside the standard library, called by us
        (raises, (AttributeError("no attribute"),), True),
        (raises, (DriverError("refused"),), False),
        (raises, (ConnectionResetError("gone"),), False),
        (raises, (TimeoutError(),), False),
    ],
)
def test_a_mistake_is_told_from_an_outage(function: Any, args: Any, bug: bool) -> None:
    """Python's own exceptions are mistakes of the code that raised them; others are failures."""
    assert is_bug(caught(function, *args), "asyncpg") is bug


def test_the_mistake_of_a_driver_is_not_the_adapters() -> None:
    """Where the innermost frame outside the standard library is the driver's, the adapter is not to blame."""
    module = __name__.partition(".")[0]
    assert is_bug(caught(lookup), "another")
    assert not is_bug(caught(lookup), module)
    assert not is_bug(caught(json.dumps, object()), module)


def test_a_mistake_is_logged_once_and_named(caplog: pytest.LogCaptureFixture) -> None:
    """Its traceback is logged once for each place; the caller's error says that it is a bug and no outage."""
    errors = DriverErrors("MyStore", driver="mydriver")
    for _ in range(3):
        with pytest.raises(PushUncertainError, match=r"may be stored: a bug in MyStore.*KeyError"), errors.saving():
            lookup()
        with pytest.raises(BackendUnavailableError, match=r"a bug in MyStore.*KeyError"), errors.reading():
            lookup()
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "please report it" in report_bug(caught(raises, TypeError("wrong")), "MyStore", logging.getLogger("other"))
    assert caplog.records[-1].name == "other"
    with pytest.raises(PushUncertainError, match="failed while saving"), errors.saving():
        raise OSError("reset")
