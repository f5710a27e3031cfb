"""The suites as a stranger meets them: one class in a test file, and the checkers where there is no pytest."""

from __future__ import annotations

import subprocess
import sys

import pytest

import notify.testing

pytest_plugins = ["pytester"]

STORE = """
    from notify import Store
    from notify.testing import StoreSuite
    from notify_memory import MemoryStore

    class Plain:
        def __init__(self):
            inner = MemoryStore()
            self.save, self.read, self.head, self.trim = inner.save, inner.read, inner.head, inner.trim
            self.aclose = inner.aclose

    class TestPlain(StoreSuite):
        async def make(self) -> Store:
            return Plain()
"""


def suite_of(pytester: pytest.Pytester, text: str) -> pytest.RunResult:
    """Run a stranger's test file in a process of its own."""
    pytester.makepyfile(text)
    return pytester.runpytest_subprocess("-q", "-ra", "-p", "no:randomly", "-W", "error", "--strict-markers")


def count(suite: type) -> int:
    """Return the number of a suite's tests."""
    return sum(name.startswith("test_") for name in dir(suite))


def test_one_class_with_one_factory_is_enough(pytester: pytest.Pytester) -> None:
    """A test class with nothing but `make` runs every test on both event loops, and skips none."""
    result = suite_of(pytester, STORE)
    result.assert_outcomes(passed=2 * count(notify.testing.StoreSuite))


def test_a_part_may_run_on_one_event_loop_only(pytester: pytest.Pytester) -> None:
    """A class that names its event loops runs on those, whatever the project's own `anyio_backend` says."""
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(params=["asyncio", "trio"])
        def anyio_backend(request):
            return request.param
        """
    )
    result = suite_of(pytester, STORE + '            \n        backends = ("asyncio",)\n')
    result.assert_outcomes(passed=count(notify.testing.StoreSuite))
    assert "trio" not in result.stdout.str()


def test_a_missing_hook_is_told_by_name(pytester: pytest.Pytester) -> None:
    """A suite that needs to know more than the class says is an error that names what is missing."""
    text = STORE.replace("import StoreSuite", "import DurableStoreSuite, StoreSuite")
    result = suite_of(pytester, text.replace("(StoreSuite)", "(StoreSuite, DurableStoreSuite)"))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*TypeError: TestPlain has to define reopen*"])


def test_an_untested_ability_is_told_by_name(pytester: pytest.Pytester) -> None:
    """A part that can more than the class tests fails one test, with the names of the missing suites and values."""
    result = suite_of(pytester, STORE.replace("return Plain()", "return MemoryStore()"))
    result.assert_outcomes(passed=2 * count(notify.testing.StoreSuite) - 2, failed=2)
    result.stdout.fnmatch_lines(
        ["*add SaveManySuite, ReadManySuite, ImmediateStoreSuite to the bases of TestPlain*", "*assert not ['SaveMany*"]
    )


def test_the_checkers_need_no_pytest() -> None:
    """Without pytest installed, the history checker and the fault proxy work; a suite says what it needs."""
    program = """
import sys
sys.modules["pytest"] = sys.modules["_pytest"] = None
from notify.testing import FaultProxy, Faults, History, Verdict

history = History()
with history.pushing("alice", 1) as attempt:
    attempt.ok("1-1")
reader = history.reader("alice", start="0")
reader.saw("1-1", "0", 1)
assert isinstance(history.assert_ok(), Verdict)
assert FaultProxy("127.0.0.1", 1) and Faults()
try:
    from notify.testing import StoreSuite
except ImportError as error:
    print("pytest" in str(error))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "True\n", "")


def test_every_public_name_is_there() -> None:
    """Each name in `__all__` can be had from the package, and others cannot."""
    assert [name for name in notify.testing.__all__ if not hasattr(notify.testing, name)] == []
    with pytest.raises(AttributeError, match="NoSuchSuite"):
        _ = notify.testing.NoSuchSuite
