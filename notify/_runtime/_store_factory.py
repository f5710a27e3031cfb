"""Makes a store from a URL: options in the query are constructor keywords, and each is converted to its type."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import UsageError
from ._urls import StoreUrl

_TRUTH: Final = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
_NEAR: Final = 0.8
"""How much a misspelt option resembles the right one."""

_WORDS: Final = {int: "a whole number", float: "a number", bool: "true or false"}
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")


class StoreFactory:
    """A factory for the entry-point group `notify.stores`: called with a URL and options, it returns a store.

    `sqlite:///file?max_len=50` is the store of `sqlite:///file` with the keyword `max_len=50`. Parts of the query that
    are not keywords of the store stay in the URL, for the driver. A keyword that is given in the call replaces one in
    the query.

    Args:
        store: the class; its keyword-only parameters are the options, with the type that is annotated.
        arguments: turns the rest of the URL into the positional arguments of the class.
    """

    def __init__(
        self, store: Callable[..., Any], arguments: Callable[[str], tuple[Any, ...]] = lambda url: (url,)
    ) -> None:
        self._store = store
        self._arguments = arguments
        self._types = _keywords(store)

    @property
    def options(self) -> frozenset[str]:
        """The names of the options."""
        return frozenset(self._types)

    def __call__(self, url: str, **options: Any) -> Any:
        """Return the store.

        Raises:
            UsageError: the URL is malformed, or an option is unknown or has a wrong value.
        """
        for name in options:
            if name not in self._types:
                raise UsageError(f"{self._name} has no option {name}; its options are {', '.join(sorted(self._types))}")
        address, named = self._split(url)
        return self._store(*self._arguments(address), **{**named, **options})

    @property
    def _name(self) -> str:
        return getattr(self._store, "__name__", str(self._store))

    def _split(self, url: str) -> tuple[str, dict[str, Any]]:
        """Take the options out of the query. No message shows the URL, which may hold a password."""
        texts = StoreUrl.parse(url).options
        named = {name: _convert(name, text, self._types[name]) for name, text in texts.items() if name in self._types}
        for name in texts.keys() - named.keys():  # to a driver it may be a setting of the server, refused much later
            for near in get_close_matches(name.lower(), self._types, 1, _NEAR):
                raise UsageError(f"{self._name} has no option {name}: did you mean {near}?")
        address, _, query = url.strip().partition("?")
        rest = [part for part in query.split("&") if part and part.partition("=")[0] not in named]
        return "?".join([address, *filter(None, ["&".join(rest)])]), named


def _keywords(store: Callable[..., Any]) -> dict[str, Any]:
    """Return the keyword-only parameters and their types, including those that `**options` passes to a base class."""
    found: dict[str, Any] = {}
    for function in [vars(each).get("__init__") for each in store.__mro__] if isinstance(store, type) else [store]:
        if function is None:
            continue
        parameters = inspect.signature(function).parameters.values()
        for each in parameters:
            if each.kind is each.KEYWORD_ONLY and each.name not in found:
                found[each.name] = _type_of(each.annotation, function)
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return found


def _type_of(annotation: Any, function: Any) -> Any:
    """Return the type that an annotation means; without one, text. None if it is not known at run time."""
    if annotation is inspect.Parameter.empty:
        return str
    holder = type("Keyword", (), {"__annotations__": {"keyword": annotation}})
    try:
        return get_type_hints(holder, function.__globals__)["keyword"]
    except NameError:
        return None


def _convert(name: str, text: str, type_: Any) -> Any:
    """Convert the text of an option.

    Raises:
        UsageError: the text is not of the type, or a URL cannot express the type.
    """
    choices = get_args(type_) if get_origin(type_) in (Union, UnionType) else (type_,)
    if NoneType in choices and text.lower() in ("none", ""):
        return None
    expected = []
    for choice in choices:
        if choice is str or choice is Any:
            return text
        if get_origin(choice) is Literal:
            expected += [str(each) for each in get_args(choice)]
            if text in get_args(choice):
                return text
        elif choice in _WORDS:
            expected.append(_WORDS[choice])
            value = _number(text, choice)
            if value is not None:
                return value
    if not expected:
        raise UsageError(f"{name} cannot be given in a URL: pass it to open_store() as a keyword")
    if NoneType in choices:
        expected.append("none")
    raise UsageError(f"the store URL gives {name}={text!r:.80}: expected {' or '.join(expected)}")


def _number(text: str, type_: type) -> int | float | bool | None:
    """Return the number or truth value that a text stands for; None if it does not."""
    if type_ is bool:
        return _TRUTH.get(text.lower())
    if type_ is int:
        return int(text) if _INTEGER.fullmatch(text) else None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
