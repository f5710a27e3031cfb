"""Jinja's sandbox with limits, for templates that customers edit: how often loops turn, and how long a text becomes.

Jinja's own sandbox keeps a template from the application's objects, and bounds `range`; a loop in a loop still never
ends. A thread with a time limit would not end it either, since Python cannot stop a thread.
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
"""Turns of loops and calls, of macros too, in the texts of one message."""

MAX_TEXT: Final = 1_000_000
"""Characters of the texts of one message."""

_COUNTED: Final = "notify_counted"


class Budget:
    """What one message has left."""

    def __init__(self) -> None:
        self._steps = MAX_STEPS
        self._characters = MAX_TEXT

    def step(self) -> None:
        """Take a turn of a loop, or a call.

        Raises:
            TemplateLimitError: there were too many.
        """
        self._steps -= 1
        if self._steps < 0:
            raise TemplateLimitError(f"a template may take {MAX_STEPS} turns of loops and calls, and takes more")

    def write(self, text: str) -> str:
        """Take characters, and return them.

        Raises:
            TemplateLimitError: there were too many.
        """
        self._characters -= len(text)
        if self._characters < 0:
            raise TemplateLimitError(f"a template may make {MAX_TEXT} characters of text, and makes more")
        return text


_budget: ContextVar[Budget | None] = ContextVar("notify_template_budget", default=None)


@contextmanager
def budget() -> Iterator[Budget]:
    """Make the texts of one message within one budget."""
    token = _budget.set(Budget())
    try:
        yield _budget.get() or Budget()
    finally:
        _budget.reset(token)


def _step() -> None:
    found = _budget.get()
    if found is not None:
        found.step()


def _counted(iterable: Iterable[Any]) -> Iterator[Any]:
    for each in iterable:
        _step()
        yield each


class LimitedSandbox(ImmutableSandboxedEnvironment):
    """The sandbox, with limits."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters[_COUNTED] = _counted

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        """Let every loop count its turns."""
        for each in list(source.find_all(nodes.For)):
            each.iter = nodes.Filter(each.iter, _COUNTED, [], [], None, None, lineno=each.lineno)
        return super()._generate(source, *args, **options)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Count the call."""
        _step()
        if isinstance(obj, LoopContext) and args:  # a recursive loop goes on with these
            args = (_counted(args[0]), *args[1:])
        return super().call(context, obj, *args, **kwargs)
