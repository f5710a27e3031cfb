"""The `notify` command: push, follow and inspect notifications from a terminal."""

from ._main import main as main

__all__ = ["main"]
