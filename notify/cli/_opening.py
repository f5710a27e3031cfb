"""Opens the store that the command line selects: for commands that only read, without creating anything."""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import anyio

from ..abc import StreamStore
from ..adapters import backoff
from ..errors import BackendUnavailableError
from ._console import report
from ._urls import check_file, file_of, is_missing, open_by, open_dispatch_by


def opened(options: argparse.Namespace) -> StreamStore:
    """Return the selected store, which nothing has used yet."""
    return open_by(options.store, prefix=options.prefix, schema=options.schema, timeout=options.call_timeout)


def opened_dispatch(options: argparse.Namespace) -> Any:
    """Return the store of deliveries at the same place, which nothing has used yet."""
    place = {"prefix": options.prefix, "schema": options.schema}
    return open_dispatch_by(options.store, **place, timeout=options.call_timeout)


async def _enter(stack: AsyncExitStack, options: argparse.Namespace, patience: float) -> StreamStore:
    """Open the store; if it is unavailable, retry for `patience` seconds.

    Raises:
        MissingError: the command only reads, and there is nothing to read.
    """
    deadline = anyio.current_time() + patience
    delays = backoff(random.random, limit=1.0)
    is_unavailable = False
    while True:
        store: Any = opened(options)
        if not options.creates:
            check_file(options.store)
        try:
            if options.creates and hasattr(store, "__aenter__"):
                await stack.enter_async_context(store)
            else:  # entering it would create what is missing
                stack.push_async_callback(store.aclose)
        except BackendUnavailableError as error:
            await store.aclose()
            if not patience:
                raise
            if anyio.current_time() >= deadline:
                text = f"gave up: could not be opened for {patience:g} s: {error}"
                raise BackendUnavailableError(text, backend=error.backend) from error
            if not is_unavailable:
                report(f"the store is unavailable, retrying for {patience:g} s: {error}")
                is_unavailable = True
            await anyio.sleep(next(delays))
        else:
            if is_unavailable:
                report("the store is available again")
            return cast(StreamStore, store)


@asynccontextmanager
async def entered(options: argparse.Namespace, patience: float = 0.0) -> AsyncIterator[StreamStore]:
    """Open the selected store. Report a newly created file: it may be in the wrong directory.

    A server is retried for `patience` seconds; a file is not, because its errors are permanent.
    """
    file = file_of(options.store)
    is_new = options.creates and is_missing(options.store)
    async with AsyncExitStack() as stack:
        store = await _enter(stack, options, patience if file is None else 0.0)
        if is_new:
            report(f"created {os.fspath(file or '')!r}")
        yield store
