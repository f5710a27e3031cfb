"""The suites as an outside author meets them: one class in a test file, and the checkers without pytest."""

from __future__ import annotations

import subprocess
import sys

import pytest

import notify.testing

pytest_plugins = ["pytester"]

STORE = """
    from notify import Guarantees, Store
    from notify.testing import StoreSuite
    from notify_memory import MemoryStore

    class Plain:
        guarantees = Guarantees()

        def __init__(self):
            inner = MemoryStore()
            self.save, self.read, self.head, self.trim = inner.save, inner.read, inner.head, inner.trim
            self.aclose = inner.aclose

    class TestPlain(StoreSuite):
        async def make(self) -> Store:
            return Plain()
"""


@pytest.fixture(autouse=True)
def needed_plugins_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """All a suite needs is AnyIO's plugin; to import those of this project takes most of the time of each process.

    And it runs at full speed: `tests/conformance` measures the suites' coverage.
    """
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


def suite_of(pytester: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    """Run an outside author's test file in a process of its own."""
    pytester.makepyfile(text)
    return pytester.runpytest_subprocess("-q", "-ra", "-p", "anyio", "-W", "error", "--strict-markers", *options)


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
    with pytest.raises(TypeError, match="TestPlain has to define make: see the suites among its bases"):
        type("TestPlain", (notify.testing.StoreSuite,), {})


def test_an_untested_ability_is_told_by_name(pytester: pytest.Pytester) -> None:
    """A part that can more than the class tests fails one test, with the names of the missing suites and values."""
    result = suite_of(pytester, STORE.replace("return Plain()", "return MemoryStore()"))
    result.assert_outcomes(passed=2 * count(notify.testing.StoreSuite) - 2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*add SaveManySuite, ReadManySuite, ForgetSuite, PrepareSuite, ImmediateStoreSuite to the bases of Test*",
            "*assert not ['SaveMany*",
        ]
    )


def test_guarantees_are_asked_for(pytester: pytest.Pytester) -> None:
    """A part without guarantees fails one test, which says what to write; one that cannot have one is told, too."""
    for wrong, message in (
        ("", "*add `guarantees = notify.Guarantees()` to the class Plain, with durable=True, shared=True*"),
        ("guarantees = Guarantees(leased=True)", "*remove leased from Plain.guarantees*"),
    ):
        result = suite_of(pytester, STORE.replace("guarantees = Guarantees()", wrong), "-k", "untested")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines([message])


def test_a_task_left_running_is_named(pytester: pytest.Pytester) -> None:
    """A part that leaves tasks running is told the names of their coroutines, and two ways out."""
    text = STORE.replace("import Guarantees, Store", "import Background, Guarantees, Store").replace(
        "self.aclose = inner.aclose",
        """self.aclose = inner.aclose
            Background("plain").start(self.read_loop)

        async def read_loop(self):
            import anyio
            await anyio.sleep(2)
""",
    )
    result = suite_of(pytester, text, "-k", "head_is")
    result.assert_outcomes(passed=2, errors=2)
    named = (
        "*Plain left tasks running: Background._run (notify: plain read_loop). End them in its aclose(), or override"
    )
    result.stdout.fnmatch_lines([f"{named} close() in TestPlain where*"])


def test_a_driver_that_leaves_its_own_task_is_named(pytester: pytest.Pytester) -> None:
    """A task without a name of its own is told by its coroutine, not as `Task-499`."""
    text = STORE.replace(
        "self.aclose = inner.aclose",
        """self.aclose = inner.aclose
            import asyncio
            self.task = asyncio.create_task(self.read_loop())

        async def read_loop(self):
            import anyio
            await anyio.sleep(2)
""",
    )
    result = suite_of(pytester, text + '            \n        backends = ("asyncio",)\n', "-k", "head_is")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*Plain left tasks running: Plain.read_loop. End them*"])


def test_a_part_that_hangs_fails_in_time(pytester: pytest.Pytester) -> None:
    """A test of a part that hangs ends after its time limit, and the message names the line."""
    text = STORE.replace(
        "self.aclose = inner.aclose",
        """self.aclose = inner.aclose

        async def head(self, user):
            import anyio
            await anyio.sleep_forever()
""",
    ).replace("inner.head", "self.head")
    result = suite_of(pytester, text + "            \n        time_limit = 0.2\n", "-k", "head_is")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*waited 0.2 s for the end of test_the_head_is_the_last_id: it hangs in head, *.py:*"])


ROUTER = """
    import anyio
    from notify import Guarantees
    from notify.testing import RouterSuite

    class Forgetful:
        guarantees = Guarantees()

        async def route(self, event, to):
            pass

        async def receive(self, instance_id, deliver, *, task_status):
            await anyio.sleep_forever()

    class TestForgetful(RouterSuite):
        start_within = 0.2

        async def make(self):
            return Forgetful()
"""


def test_a_router_that_never_receives_fails_in_time(pytester: pytest.Pytester) -> None:
    """A `receive` that never says that it is ready, or that raises, fails with what was waited for."""
    for text, message in (
        (ROUTER, "*receive() has not called task_status.started() within 0.2 s*"),
        (ROUTER.replace("await anyio.sleep_forever()", "raise OSError(7)"), "*receive() raised * ready: OSError(7)*"),
    ):
        result = suite_of(pytester, text, "-k", "every_field")
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines([message])


def test_a_router_is_asked_for_its_hooks(pytester: pytest.Pytester) -> None:
    """A router that receives needs `garbage`, and one that processes share needs `another`."""
    result = suite_of(pytester, ROUTER, "-k", "untested")
    result.stdout.fnmatch_lines(["*add garbage() to TestForgetful*"])
    shared = ROUTER.replace("Guarantees()", "Guarantees(shared=True)")
    result = suite_of(pytester, shared, "-k", "untested")
    result.stdout.fnmatch_lines(["*add another() to TestForgetful*"])


def test_an_outage_needs_an_interface(pytester: pytest.Pytester) -> None:
    """A test class with the hooks of outages and no tests is an error that names the suites."""
    text = """
        from notify.testing import OutageSuite

        class TestNothing(OutageSuite):
            async def make(self): ...
            async def interrupt(self, part): ...
            async def restore(self, part): ...
    """
    result = suite_of(pytester, text)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*TypeError: TestNothing has no tests: add one of StoreOutageSuite, *"])


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
