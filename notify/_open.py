"""Opens a store by its URL. The scheme selects an entry point, so backends of other authors work like ours.

An entry point of the group `notify.stores` is named by a scheme and leads to a factory, `factory(url, **options)`,
which returns a `StreamStore`. The installed distributions are searched when a store is opened, never at import, and a
backend with its driver is imported only when its scheme is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from .abc import StreamStore
from .errors import UsageError

GROUP: Final = "notify.stores"
"""The group of entry points that provide stores."""

OURS: Final = {
    "memory": "notify_memory._open:open_store",
    "sqlite": "notify_sqlite._open:open_store",
    **dict.fromkeys(("postgresql", "postgres"), "notify_pg._open:open_store"),
    **dict.fromkeys(
        ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
        "notify_redis._open:open_store",
    ),
}
"""Our own entry points, for where the packages were copied without the metadata that names them: an archive, a vendored
copy, a container's layer."""

DISPATCH_GROUP: Final = "notify.dispatch_stores"
"""The group of entry points that provide stores of deliveries, for `notify init --dispatch`."""

OUR_DISPATCH: Final = {
    "sqlite": "notify_sqlite._open:open_dispatch_store",
    **dict.fromkeys(("postgresql", "postgres"), "notify_pg._open:open_dispatch_store"),
}
"""As `OURS`, for stores of deliveries."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")


def open_store(url: str, **options: Any) -> StreamStore:
    """Return the store at a URL. It is lazy: nothing is connected or created before the first use.

    | URL | Store |
    |---|---|
    | `sqlite:///FILE`, `sqlite:////DIRECTORY/FILE` | a file, relative or absolute |
    | `redis://`, `rediss://`, `unix://` | a Redis server; with TLS; on a Unix socket |
    | `redis+sentinel://`, `rediss+sentinel://` | a Redis master behind Sentinel |
    | `redis+cluster://`, `rediss+cluster://` | a Redis Cluster |
    | `postgresql://`, `postgres://` | PostgreSQL |
    | `memory://`, `memory://NAME` | the memory of this process |

    Further schemes come from installed distributions with an entry point in the group `notify.stores`.

    Args:
        url: the address. Its query may name options of the store, for example `?max_len=50&max_age=none`.
        options: options of the store: the keywords of its constructor. They replace those of the query.

    Raises:
        UsageError: not a store URL, or an option is unknown or has a wrong value.
        ModuleNotFoundError: the driver of the backend is not installed; the message names the extra to install.
    """
    factory = store_factory(url)
    store = factory(url, **options)
    if isinstance(store, type) or not isinstance(store, StreamStore):
        raise UsageError(f"the entry point for {scheme_of(url)}:// must return a StreamStore, not {store!r:.80}")
    return store


def store_factory(url: str, group: str = GROUP) -> Callable[..., Any]:
    """Return the factory that is installed for the scheme of a URL.

    Args:
        url: the address.
        group: of entry points; see `DISPATCH_GROUP`.

    Raises:
        UsageError: not a store URL, or not exactly one distribution provides its scheme.
        ModuleNotFoundError: the driver of the backend is not installed.
    """
    scheme = scheme_of(url)
    ours = OURS if group == GROUP else OUR_DISPATCH
    found = {each.value: each for each in entry_points(group=group, name=scheme)}
    if not found and scheme in ours:
        found[ours[scheme]] = EntryPoint(scheme, ours[scheme], group)
    if not found:
        raise UsageError(_unknown(scheme, group, ours))
    if len(found) > 1:
        names = " and ".join(sorted(_origin(each) for each in found.values()))
        raise UsageError(f"{scheme}:// is provided more than once, by {names}: uninstall all but one")
    (entry,) = found.values()
    factory: Callable[..., Any] = entry.load()
    return factory


def scheme_of(url: object) -> str:
    """Return the scheme in lower case. No message shows more of a URL than its scheme: the rest may be a password.

    Raises:
        UsageError: not a store URL.
    """
    found = _SCHEME.match(url.strip()) if isinstance(url, str) else None
    if found is None:
        given = "" if isinstance(url, str) else f", not {type(url).__name__}"
        scheme, colon, _ = url.strip().partition(":") if isinstance(url, str) else ("", "", "")
        if colon and scheme.lower() in OURS:  # any other word may be a user name: not shown
            given = f"; it begins with {scheme.lower()}://, not with {scheme.lower()}: alone"
        raise UsageError(f"not a store URL: expected a str like sqlite:///notify.db or redis://localhost{given}")
    return found[1].lower()


def _unknown(scheme: str, group: str, ours: Mapping[str, str]) -> str:
    known = sorted({*ours, *(each.name for each in entry_points(group=group))})
    base, plus, driver = scheme.partition("+")
    what = "store" if group == GROUP else "store of deliveries"
    if plus and base in known:
        return f"no {what} is known for {scheme}://: write {base}:// without +{driver}"
    return f"no {what} is known for {scheme}://; supported schemes: {', '.join(f'{name}://' for name in known)}"


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name if entry.dist else 'an unknown distribution'} ({entry.value})"
