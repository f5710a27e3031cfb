"""A store from a URL: schemes, options in the query, who closes what."""

from __future__ import annotations

import ast
import asyncio
import gc
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from notify import ClosedError, Notifier, StreamStore, UsageError, open_store
from notify._open import OURS
from notify.adapters import StoreFactory, store_factory
from notify_memory import MemoryStreamStore
from notify_pg import PostgresStreamStore
from notify_redis import RedisStreamStore
from notify_sqlite import SQLiteStreamStore
from tests.servers import postgres, redis

if TYPE_CHECKING:
    from decimal import Decimal

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", MemoryStreamStore),
        ("MEMORY://", MemoryStreamStore),
        ("sqlite:///notify.db", SQLiteStreamStore),
        ("sqlite:////tmp/b%20b.db?max_len=3", SQLiteStreamStore),
        ("redis://", RedisStreamStore),
        ("redis://127.0.0.1/3?prefix=shop", RedisStreamStore),
        ("rediss://u:p@127.0.0.1:6380", RedisStreamStore),
        ("unix:///run/redis.sock?db=2&max_len=5", RedisStreamStore),
        ("redis+sentinel://a:1,b:2/main/0", RedisStreamStore),
        ("rediss+sentinel://a:1,b:2/main/0?exact=yes", RedisStreamStore),
        ("redis+cluster://a:1,b:2", RedisStreamStore),
        ("rediss+cluster://a:1,b:2?inline=0", RedisStreamStore),
        ("postgresql://u:p@127.0.0.1/app?schema=notify&sslmode=prefer", PostgresStreamStore),
        ("postgres://127.0.0.1/app?max_age=none", PostgresStreamStore),
    ],
)
async def test_each_scheme_opens_its_store(url: str, kind: type) -> None:
    """Every scheme of the library's own backends leads to its stream store, which is lazy: nothing is connected."""
    store = open_store(url)
    assert type(store) is kind
    await store.aclose()


class Recorder:
    """Records what it was made with."""

    def __init__(self, address: str, *, max_len: int = 5, max_age: float | None = 7.0, exact: bool = False,
                 mode: Literal["fast", "safe"] = "safe", name: str = "", loud=1, amount: Decimal | None = None,
                 clock: Callable[[], float] | None = None) -> None:  # fmt: skip
        self.given = {key: value for key, value in locals().items() if key != "self"}


class Further(Recorder):
    """Hands what it does not know upwards."""

    def __init__(self, address: str, *, extra: float = 0.5, **options: Any) -> None:
        super().__init__(address, **options)
        self.given["extra"] = extra


class Unrelated(Further):
    """Keeps its constructor."""


def factory(url: str, **options: Any) -> Any:
    """What an entry point calls; made in the test, because collecting the tests is not measured."""
    return StoreFactory(Unrelated)(url, **options)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("max_len=12", {"max_len": 12}),
        ("max_age=1.5&exact=true", {"max_age": 1.5, "exact": True}),
        ("max_age=none&exact=OFF", {"max_age": None, "exact": False}),
        ("max_age=", {"max_age": None}),
        ("mode=fast&name=a%26b+c", {"mode": "fast", "name": "a&b+c"}),
        ("&extra=2e-3&&max_len=-4", {"extra": 0.002, "max_len": -4}),
        ("loud=text", {"loud": "text"}),
        ("name=", {"name": ""}),
    ],
)
def test_options_of_the_query_have_their_types(query: str, expected: dict[str, Any]) -> None:
    """A keyword of the constructor, inherited ones too, is converted to the annotated type."""
    made = factory(f"x://host/path?{query}")
    assert {name: made.given[name] for name in expected} == expected
    assert [type(made.given[name]) for name in expected] == [type(value) for value in expected.values()]
    assert made.given["address"] == "x://host/path"


def test_other_parts_of_the_query_stay_for_the_driver() -> None:
    """What is not an option of the store is left as it was written, in its order."""
    assert factory(" x://h?db=3&max_len=1&ssl=%20a&&n=\n").given["address"] == "x://h?db=3&ssl=%20a&n="
    assert factory("x://h?max_len=1").given["address"] == "x://h"


def test_keywords_replace_those_of_the_query() -> None:
    """An option of the call replaces that of the URL."""
    assert factory("x://h?max_len=1&extra=9", max_len=2).given["max_len"] == 2


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("max_len=x", "max_len='x': expected a whole number"),
        ("max_len=1.0", "expected a whole number"),
        ("max_len=1_000", "expected a whole number"),
        ("max_len=%D9%A1", "expected a whole number"),
        ("max_len=" + "9" * 5000, "expected a whole number"),
        ("max_len=", "expected a whole number"),
        ("max_len", "gives max_len without a value: write max_len="),
        ("max_len=none", "expected a whole number"),
        ("max_len=1&max_len=1", "gives max_len twice"),
        ("max_age=nan", "expected a number or none"),
        ("max_age=inf", "expected a number or none"),
        ("max_age=soon", "expected a number or none"),
        ("exact=2", "expected true or false"),
        ("mode=slow", "expected fast or safe"),
        ("max_lenn=1", "has no option max_lenn: did you mean max_len?"),
        ("Max_Age=1", "has no option Max_Age: did you mean max_age?"),
        ("max-len=1", "has no option max-len: did you mean max_len?"),
        ("clock=now", "clock cannot be given in a URL"),
        ("amount=1", "amount cannot be given in a URL"),
    ],
)
def test_wrong_options_are_refused_by_name(query: str, words: str) -> None:
    """A value of another type, a repeated option and one that a URL cannot express: the error names the option."""
    with pytest.raises(UsageError) as raised:
        factory(f"x://user:geheim@h?{query}")
    assert words in str(raised.value)
    assert "geheim" not in str(raised.value)


def test_unknown_keywords_are_refused_by_name() -> None:
    """A keyword that the store does not have: the error names it and those that there are."""
    with pytest.raises(UsageError, match="Unrelated has no option colour; its options are amount, clock, exact,"):
        factory("x://h", colour="red")
    with pytest.raises(UsageError, match="SQLiteStreamStore has no option colour"):
        open_store("sqlite:///a.db", colour="red")
    with pytest.raises(UsageError, match="SQLiteStreamStore has no option colour, mode"):
        open_store("sqlite:///a.db?colour=red&mode=ro")


def test_a_function_can_be_made_a_factory() -> None:
    """Any callable: its keyword-only parameters are the options."""

    def make(address: str, *, size: int) -> tuple[str, int]:
        return address, size

    assert StoreFactory(make)("x://h?size=3") == ("x://h", 3)
    assert StoreFactory(make).options == {"size"}

    class Loose:
        def __init__(self, address: str, **options: Any) -> None: ...

    assert StoreFactory(Loose).options == set()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "not a store URL"),
        ("notify.db", "not a store URL"),
        ("sqlite:notify.db", "redis://localhost; it begins with sqlite://, not with sqlite: alone"),
        ("Redis:geheim@localhost", "it begins with redis://, not with redis: alone"),
        ("geheim:x@localhost", "not a store URL"),
        ("://h", "not a store URL"),
        (Path("notify.db"), "not PosixPath"),
        (None, "not NoneType"),
        ("mysql://u:geheim@h/db", "no store is known for mysql://; supported schemes: memory://, postgres://,"),
        ("postgresql+asyncpg://u:geheim@h/db", "write postgresql:// without +asyncpg"),
        ("sqlite+aiosqlite:///notify.db", "write sqlite:// without +aiosqlite"),
        ("memory://shop/x", "memory:// or memory://NAME"),
        ("memory://shop:80", "memory:// or memory://NAME"),
        ("memory://a,b", "memory:// or memory://NAME"),
        ("memory://u@shop", "memory:// or memory://NAME"),
        ("memory://?colour=red", "no option colour"),
        ("sqlite://", "sqlite:///FILE"),
        ("sqlite:///", "sqlite:///FILE"),
        ("sqlite://notify.db", "sqlite:///FILE"),
        ("sqlite:///folder/", "sqlite:///FILE"),
        ("sqlite://u@/a.db", "sqlite:///FILE"),
        ("sqlite:///a#b.db", "malformed"),
        ("redis://u:geheim@h:port", "malformed"),
        ("postgresql://u:geheim@h:port/db", "malformed"),
    ],
)
def test_what_is_not_a_store_url_is_refused(url: Any, words: str) -> None:
    """The error names the scheme and the remedy, and shows no password."""
    with pytest.raises(UsageError) as raised:
        open_store(url)
    assert words in str(raised.value)
    assert "geheim" not in str(raised.value)


async def test_two_unnamed_memory_stores_are_two_worlds() -> None:
    """Each `memory://` is a world of its own."""
    async with Notifier.from_url("memory://") as one, Notifier.from_url("memory://") as other:
        await one.push("alice", "a")
        async with other.subscribe("alice", "0", signals=True) as stream:
            assert (await stream.next(10)).type == "notify.sync"


async def test_a_name_is_shared_in_one_process() -> None:
    """What `memory://NAME` holds is one world for all that open it, broadcasts too; the last to close ends it."""
    one, other = Notifier.from_url("memory://shop"), Notifier.from_url("MEMORY://shop")
    async with other.subscribe("alice") as stream:
        first = await one.push("alice", "a")
        await one.broadcast("maintenance")
        assert [(await stream.next(10)).type for _ in range(2)] == ["a", "maintenance"]
        await one.aclose()
        await one.aclose()
        with pytest.raises(ClosedError):
            await one.push("alice", "b")
        second = await other.push("alice", "c")
        assert (await stream.next(10)) == second
        assert second.prev == first.id
    third = open_store("memory://shop")
    assert await third.head("alice") == second.id
    await other.aclose()
    assert await third.head("alice") == second.id
    assert await open_store("memory://bazaar").head("alice") == "0"
    await third.aclose()
    await third.aclose()
    with pytest.raises(ClosedError):
        await third.head("alice")
    async with open_store("memory://shop") as again:  # type: ignore[attr-defined]
        assert await again.head("alice") == "0"


def test_a_name_belongs_to_one_event_loop_and_has_one_set_of_options() -> None:
    """Sharing across event loops is refused, as for one object; so are different options. A store that was dropped
    without being closed keeps no name."""

    async def use(store: StreamStore) -> str:
        return await store.head("alice")

    one, other = open_store("memory://shop"), open_store("memory://shop")
    assert asyncio.run(use(one)) == "0"
    with pytest.raises(UsageError, match="another event loop"):
        asyncio.run(use(other))
    with pytest.raises(UsageError, match="memory://shop is open with other options"):
        open_store("memory://shop?max_len=3")
    del one, other
    gc.collect()
    assert asyncio.run(use(open_store("memory://shop?max_len=3"))) == "0"


# -- the notifier of a URL ---------------------------------------------------------------------------------------


async def test_a_notifier_closes_the_store_that_it_opened(tmp_path: Path) -> None:
    """`from_url` owns its store: closing closes it; a store that was passed in stays open."""
    notifier = Notifier.from_url(f"sqlite:///{tmp_path}/a.db?max_len=7", offline="store", buffer_size=3)
    event = await notifier.push("alice", "a")
    await notifier.aclose()
    store = open_store(f"sqlite:///{tmp_path}/a.db")
    async with Notifier(store):
        pass
    assert event is not None
    assert await store.head("alice") == event.id
    await store.aclose()
    with pytest.raises(ClosedError):
        await store.head("alice")
    opened = notifier._opened
    assert isinstance(opened, StreamStore)
    with pytest.raises(ClosedError):
        await opened.head("alice")


async def test_options_go_where_they_belong() -> None:
    """Options of the notifier go to it, others to the store; `timeout` is the notifier's, the store's is in the URL."""
    notifier = Notifier.from_url("memory://", max_len=1, max_payload=10)
    first = await notifier.push("alice", "a")
    assert first is not None
    await notifier.push("alice", "b")
    async with notifier.subscribe("alice", "0") as stream:
        assert (await stream.next(10)).type == "b"
    with pytest.raises(UsageError):
        await notifier.push("alice", "c", "x" * 20)
    await notifier.aclose()
    with pytest.raises(UsageError, match="timeout must be greater than 0, not 0"):
        Notifier.from_url("sqlite:///a.db", timeout=0)
    with pytest.raises(UsageError, match=r"timeout must be greater than 0, not 0\.0"):
        Notifier.from_url("sqlite:///a.db?timeout=0")
    with pytest.raises(UsageError, match="has no option colour"):
        Notifier.from_url("memory://", colour="red")
    with pytest.raises(UsageError, match="store= cannot be given"):
        Notifier.from_url("memory://", store=MemoryStreamStore())


async def test_a_server_that_is_away_does_not_prevent_the_start() -> None:
    """`from_url` connects to nothing: a notifier can be made and entered while the server is down."""
    async with Notifier.from_url("redis://127.0.0.1:1"), Notifier.from_url("postgresql://u@127.0.0.1:1/x") as notifier:
        assert not (await notifier.check()).ok


@pytest.mark.slow
async def test_servers_by_url(tmp_path: Path) -> None:
    """Options of the URL reach a real server: prefix, schema and length."""
    with redis.single() as server:
        async with Notifier.from_url(f"{server.url}?prefix=shop&max_len=2&exact=true") as notifier:
            for number in range(5):
                await notifier.push("alice", "n", number)
        store = RedisStreamStore(server.url, prefix="shop")
        assert [event.payload for event in (await store.read("alice", "0", 9)).events] == [3, 4]
        await store.aclose()
    with postgres.running() as database:
        mark = "&" if "?" in database.dsn else "?"
        async with Notifier.from_url(f"{database.dsn}{mark}schema=shop&table_prefix=x_") as notifier:
            await notifier.push("alice", "n")
        other = PostgresStreamStore(database.dsn, schema="shop", table_prefix="x_")
        assert len((await other.read("alice", "0", 9)).events) == 1
        await other.aclose()


# -- entry points -------------------------------------------------------------------------------------------------


def distribution(folder: Path, name: str, value: str, source: str, scheme: str = "lite") -> None:
    """Put a distribution with an entry point on a path, as an installer leaves it."""
    (folder / f"{value.partition(':')[0]}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[notify.stores]\n{scheme} = {value}\n")


MODULE = "from notify_memory import MemoryStreamStore\ndef make(url, **options): return MemoryStreamStore(**options)\n"


def test_backend_of_a_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with an entry point adds a scheme; two that provide the same one are refused with their names."""
    monkeypatch.syspath_prepend(str(tmp_path))
    distribution(tmp_path, "lite_one", "lite_one:make", MODULE)
    assert isinstance(open_store("lite://anything?at=all", max_len=3), MemoryStreamStore)
    assert store_factory("LITE://x").__name__ == "make"
    distribution(tmp_path, "lite_two", "lite_two:make", MODULE)
    with pytest.raises(
        UsageError, match=r"more than once, by lite_one \(lite_one:make\) and lite_two \(lite_two:make\)"
    ):
        open_store("lite://")


def test_factory_that_returns_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a factory returns is checked: a class, or a store that does not stream."""
    monkeypatch.syspath_prepend(str(tmp_path))
    source = "import notify_memory\ndef make(url): return notify_memory.MemoryStore()\n"
    distribution(tmp_path, "odd_one", "odd_one:make", source, scheme="odd")
    with pytest.raises(UsageError, match=r"the entry point for odd:// must return a StreamStore, not <notify_memory"):
        open_store("odd://")


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("url", "driver", "extra"),
    [("sqlite:///a.db", "aiosqlite", "sqlite"), ("redis://h", "redis", "redis"), ("postgres://h/d", "asyncpg", "pg")],
)
def test_missing_driver_names_the_extra(url: str, driver: str, extra: str) -> None:
    """Without the driver the error says what to install, and other backends work."""
    script = (
        f"import sys; sys.modules[{driver!r}] = None\nimport notify\nnotify.open_store('memory://')\n"
        f"try: notify.open_store({url!r})\nexcept ModuleNotFoundError as error: print(error)"
    )
    assert run(script).endswith(f"pip install 'notify-streams[{extra}]'")


def test_entry_points_are_not_looked_up_at_import() -> None:
    """Importing the library reads no metadata of distributions, and loads no backend."""
    script = (
        "import sys, importlib.metadata as m\n"
        "def entry_points(**_): raise AssertionError\n"
        "m.entry_points = entry_points\n"
        "import notify, notify.sync\n"
        "print([name for name in sys.modules if name.startswith(('notify_', 'redis', 'asyncpg', 'aiosqlite'))])"
    )
    assert run(script) == "[]"


def test_stores_do_without_dispatch() -> None:
    """Opening a store imports what all stores have to know about deliveries, and nothing that decides or sends."""
    script = (
        "import sys, notify\n"
        "for url in ('memory://', 'sqlite:///a.db', 'redis://h', 'postgres://h/d'): notify.open_store(url)\n"
        "rooms = ('notify.dispatch.', 'notify.http', 'notify.webhook', 'notify._asgi', 'notify.web')\n"
        "print(sorted(name for name in sys.modules if name.startswith((*rooms, 'jinja2', 'httpcore2'))))"
    )
    expected = ["_abilities", "_arguments", "_columns", "_records", "_steps", "abc"]
    assert ast.literal_eval(run(script)) == [f"notify.dispatch.{name}" for name in expected]


def test_packages_without_metadata_work() -> None:
    """Where the packages were copied without their metadata, our own schemes work; a stranger's is not known."""
    script = (
        "import importlib.metadata as m\n"
        "m.entry_points = lambda **_: ()\n"
        "import notify\n"
        "print(type(notify.open_store('memory://')).__name__)\n"
        "try: notify.open_store('lite://')\nexcept notify.UsageError as error: print(error)"
    )
    assert run(script).startswith("MemoryStreamStore\nno store is known for lite://; supported schemes: memory://")


def test_our_entry_points_are_those_of_the_distribution() -> None:
    """The table for packages without metadata says what pyproject.toml says."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["notify.stores"] == OURS
