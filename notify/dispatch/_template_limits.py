"""Jinja's sandbox with limits on loops, calls and the length of texts, for templates that customers edit.

Jinja's own sandbox protects the application's objects and bounds `range`, but nested loops can still run practically
without end. Rendering in a thread with a timeout would not help, since Python cannot stop a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from jinja2 import nodes
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ._content import TemplateLimitError

MAX_STEPS: Final = 100_000
"""The most loop iterations and calls, including those of macros, in the texts of one message."""

MAX_TEXT: Final = 1_000_000
"""The most characters in the texts of one message."""

_COUNTED: Final = "notify_counted"


class Budget:
    """The steps and characters that one message has left."""

    def __init__(self) -> None:
        self._steps = MAX_STEPS
        self._characters = MAX_TEXT

    def step(self) -> None:
        """Count a loop iteration or a call.

        Raises:
            TemplateLimitError: there were too many.
        """
        self._steps -= 1
        if self._steps < 0:
            raise TemplateLimitError(f"the templates of a message take more than {MAX_STEPS} loop iterations and calls")

    def write(self, text: str) -> str:
        """Count the characters of a text, and return it.

        Raises:
            TemplateLimitError: there were too many.
        """
        self._characters -= len(text)
        if self._characters < 0:
            raise TemplateLimitError(f"the templates of a message render more than {MAX_TEXT} characters")
        return text


_budget: ContextVar[Budget] = ContextVar("notify_template_budget")


@contextmanager
def budget() -> Iterator[Budget]:
    """Limit what the block renders, the texts of one message, to one budget."""
    left = Budget()
    token = _budget.set(left)
    try:
        yield left
    finally:
        _budget.reset(token)


def _counted(iterable: Iterable[Any]) -> Iterator[Any]:
    for each in iterable:
        _budget.get().step()
        yield each


class LimitedSandbox(ImmutableSandboxedEnvironment):
    """The sandbox, with limits."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters[_COUNTED] = _counted

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        """Make every loop count its iterations."""
        for each in list(source.find_all(nodes.For)):
            each.iter = nodes.Filter(each.iter, _COUNTED, [], [], None, None, lineno=each.lineno)
        return super()._generate(source, *args, **options)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Count the call."""
        _budget.get().step()
        if isinstance(obj, LoopContext) and args:  # the items of the next level of a recursive loop
            args = (_counted(args[0]), *args[1:])
        return super().call(context, obj, *args, **kwargs)
