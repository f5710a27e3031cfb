"""Turns the exceptions of a driver into the library's, and tells mistakes in code from outages."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final

from ..errors import BackendUnavailableError, NotifyError, PushRejectedError, PushUncertainError

logger = logging.getLogger("notify")

_MISTAKES: Final = (
    TypeError,
    AttributeError,
    NameError,
    LookupError,
    ValueError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    NotImplementedError,
)

_reported: set[tuple[type[BaseException], str, int]] = set()


def is_bug(error: BaseException, driver: str = "") -> bool:
    """Return whether an exception comes from a mistake in the adapter's own code, not from the driver or the server.

    Such an exception is one of Python's own (`TypeError`, `AttributeError`, `KeyError` ...), and the innermost frame
    outside the standard library does not belong to the driver.

    Args:
        error: as it was caught.
        driver: the driver's top-level package, for example `"asyncpg"`.
    """
    if type(error).__module__ != "builtins" or not isinstance(error, _MISTAKES):
        return False
    owner = ""
    for module, _ in _frames(error.__traceback__):
        if module not in sys.stdlib_module_names:
            owner = module
    return not driver or owner != driver


def report_bug(error: BaseException, backend: str, logger: logging.Logger = logger) -> str:
    """Log the traceback, once for each place that it comes from, and return what an error for the caller says.

    Args:
        error: as it was caught.
        backend: the part's name.
        logger: where the traceback goes.
    """
    _, place = [("", ("", 0)), *_frames(error.__traceback__)][-1]
    if (type(error), *place) not in _reported:
        _reported.add((type(error), *place))
        logger.error("a bug in %s, please report it with this traceback", backend, exc_info=error)
    return f"a bug in {backend}, not a failure of the server: {error!r}; its traceback is logged once, please report it"


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield the top-level package, and file and line, of each frame, the innermost last."""
    while traceback is not None:
        frame = traceback.tb_frame
        top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        yield top, (frame.f_code.co_filename, traceback.tb_lineno)
        traceback = traceback.tb_next


class DriverErrors:
    """The error table of a backend whose driver says by exception classes what became of a statement.

    ```python
    errors = DriverErrors("MyStore", rejected=(IntegrityError, DataError), driver="mydriver")
    with errors.saving():
        await connection.execute(INSERT, ...)
    ```

    Args:
        backend: the part's name, for messages and `BackendError.backend`.
        rejected: exceptions after which certainly nothing was stored.
        driver: the driver's top-level package. If it is given, a `TypeError`, `KeyError` and the like that is not
            raised inside the driver is reported as a bug of the part (`report_bug`), not as an outage.
    """

    def __init__(self, backend: str, *, rejected: tuple[type[Exception], ...] = (), driver: str = "") -> None:
        self._backend = backend
        self._rejected = rejected
        self._driver = driver

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Translate what a save raises; the library's own errors and cancellation pass unchanged.

        Raises:
            PushRejectedError: for one of the `rejected` exceptions.
            PushUncertainError: for any other.
        """
        try:
            yield
        except NotifyError:
            raise
        except self._rejected as error:
            raise PushRejectedError(f"{self._backend} refused the event: {error!r}", backend=self._backend) from error
        except Exception as error:
            message = f"{self._backend} failed while saving, so the event may be stored: {error!r}"
            if self._is_bug(error):
                message = f"the event may be stored: {report_bug(error, self._backend)}"
            raise PushUncertainError(message, backend=self._backend) from error

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Translate what anything but a save raises; the library's own errors and cancellation pass unchanged.

        Raises:
            BackendUnavailableError: for any exception of the driver.
        """
        try:
            yield
        except NotifyError:
            raise
        except Exception as error:
            message = f"{self._backend} did not answer: {error!r}"
            if self._is_bug(error):
                message = report_bug(error, self._backend)
            raise BackendUnavailableError(message, backend=self._backend) from error

    def _is_bug(self, error: Exception) -> bool:
        return bool(self._driver) and is_bug(error, self._driver)
