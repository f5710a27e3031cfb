"""Turns the exceptions of a driver into the library's, at the driver's edge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import BackendUnavailableError, NotifyError, PushRejectedError, PushUncertainError


class DriverErrors:
    """The error table of a backend whose driver says by exception classes what became of a statement.

    ```python
    errors = DriverErrors("MyStore", rejected=(IntegrityError, DataError))
    with errors.saving():
        await connection.execute(INSERT, ...)
    ```

    Args:
        backend: the part's name, for messages and `BackendError.backend`.
        rejected: exceptions after which certainly nothing was stored.
    """

    def __init__(self, backend: str, *, rejected: tuple[type[Exception], ...] = ()) -> None:
        self._backend = backend
        self._rejected = rejected

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
            raise BackendUnavailableError(message, backend=self._backend) from error
