"""Store URLs: whatever a password holds, it is read rightly or refused, and no piece of it is shown."""

from __future__ import annotations

from traceback import format_exception
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from notify.adapters import StoreUrl
from notify.errors import UsageError

TEMPLATES = {
    "redis://{}@redis.example:6380/3": ((("redis.example", 6380),), "3", {}),
    "rediss://{}@[2001:db8::1]:6380/3?db=4": ((("2001:db8::1", 6380),), "3", {"db": "4"}),
    "redis+sentinel://{}@a:1, b:2/main/0?client_name=x": ((("a", 1), ("b", 2)), "main/0", {"client_name": "x"}),
    "redis+cluster://{}@a,b:2": ((("a", None), ("b", 2)), "", {}),
    "postgresql://{}@db.example/app?sslmode=require": ((("db.example", None),), "app", {"sslmode": "require"}),
    "unix://{}@/run/redis.sock?db=1": ((), "run/redis.sock", {"db": "1"}),
}

PASSWORDS = st.text(min_size=1, max_size=30) | st.text("ab1:/?#[]@!$&'()*+,;=% \"\\.-_~|^{}<>`\n\u00e9", min_size=1)


def shown(error: BaseException) -> str:
    """Everything that anybody prints of an error, its causes included."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return "".join([*format_exception(error), *map(str, chain), *map(repr, chain)])


def parsed(url: str) -> StoreUrl | UsageError:
    try:
        return StoreUrl.parse(url)
    except UsageError as error:
        return error


def reveals(text: str, secret: str) -> bool:
    """Whether three characters of a secret in a row are in a text."""
    return any(secret[start : start + 3] in text for start in range(len(secret) - 2))


@pytest.mark.parametrize("template", TEMPLATES)
@given(password=PASSWORDS)
@example("57#Wc903z")
@example("s3cr/et")
@example("s3cr?et")
@example("s3cr?db=1&x=y")
@example("s3cr@et")
@example("s3cr%et")
@example("s3cr%80et")
@example("s3cr:et")
@example("s3cr et")
@example("[::1]")
def test_passwords_as_they_are(template: str, password: str) -> None:
    """A raw password is the password, or the URL is refused with the remedy; the rest is never taken for another."""
    secret = f"QQQ{password}ZZZ"
    hosts, path, options = TEMPLATES[template]
    parts = parsed(template.format(f"app:{secret}"))
    if isinstance(parts, UsageError):
        assert "percent-encode" in str(parts)
        assert "QQQ" not in shown(parts)
        assert "ZZZ" not in shown(parts)
    else:
        assert (parts.username, parts.hosts, parts.path, dict(parts.options)) == ("app", hosts, path, options)
        assert parts.password is not None
        assert quote(parts.password) == quote(secret) or "%" in secret
        assert "QQQ" not in repr(parts)


@pytest.mark.parametrize("template", TEMPLATES)
@given(username=PASSWORDS, password=PASSWORDS)
def test_passwords_that_are_encoded(template: str, username: str, password: str) -> None:
    """A percent-encoded user name and password are read back, whatever they hold."""
    try:
        login = f"{quote(username, safe='')}:{quote(password, safe='')}"
    except UnicodeEncodeError:  # a lone surrogate is not text
        return
    hosts, path, options = TEMPLATES[template]
    parts = StoreUrl.parse(template.format(login))
    assert (parts.username, parts.password) == (username, password)
    assert (parts.hosts, parts.path, dict(parts.options)) == (hosts, path, options)
    without = repr(StoreUrl.parse(template.format("").replace("@", "")))
    assert not reveals(repr(parts), password) or reveals(template, password) or reveals(without, password)


@given(text=st.text())
def test_any_text(text: str) -> None:
    """Whatever a URL is, it is read or refused by UsageError."""
    for url in (text, f"redis://{text}", f"postgresql://{text}", f"sqlite:///{text}"):
        assert isinstance(parsed(url), StoreUrl | UsageError)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("redis://", ()),
        ("redis:///0", ()),
        ("redis://:secret@/0", ()),
        ("redis://a", (("a", None),)),
        ("redis://a:/0", (("a", None),)),
        ("redis+cluster://a:1,b:2", (("a", 1), ("b", 2))),
        ("redis+cluster://a:1, b:2 , c", (("a", 1), ("b", 2), ("c", None))),
        ("redis+cluster://[::1]:1,[fe80::1%eth0],b", (("::1", 1), ("fe80::1%eth0", None), ("b", None))),
        ("redis://r\u00e9dis.example:1", (("r\u00e9dis.example", 1),)),
        ("redis://my_host-1.internal.", (("my_host-1.internal.", None),)),
        ("postgresql://%2Frun%2Fpostgresql/app", (("/run/postgresql", None),)),
        ("  REDIS://a:1\n", (("a", 1),)),
    ],
)
def test_hosts(url: str, hosts: object) -> None:
    """Hosts are read as people write them."""
    assert StoreUrl.parse(url).hosts == hosts


@pytest.mark.parametrize(
    "url",
    [
        "redis://a:1,,b:2",
        "redis://a:1,",
        "redis://,a",
        "redis://::1:6379",
        "redis://[::1",
        "redis://a:port",
        "redis://a:-1",
        "redis://a:0",
        "redis://a:65536",
        "redis://a:1:2",
        "redis://a b",
        "redis://a\tb",
        "redis://%zz",
        "redis://%ff:x@a",
        "redis://a?x=%ff",
        "redis://a?flag",
        "redis://a?x=1&x=2",
        "redis://a?=1",
        "redis://a?x=1 2",
        "redis://a#fragment",
        "redis://a/0#",
        "a:1",
        "",
        "//a",
        "redis:/a",
        "sqlite:///a#b",
    ],
)
def test_what_is_refused(url: str) -> None:
    """A URL that is not one, or could mean something else, is refused."""
    with pytest.raises(UsageError, match="URL"):
        StoreUrl.parse(url)


@pytest.mark.parametrize(
    ("url", "path", "options"),
    [
        ("sqlite:///notify.db", "notify.db", {}),
        ("sqlite:////var/lib/notify.db", "/var/lib/notify.db", {}),
        ("sqlite:///a%20b%3F%23.db", "a b?#.db", {}),
        ("sqlite:///a@b.db", "a@b.db", {}),
        ("sqlite:///my notes.db", "my notes.db", {}),
        ("unix:///run/redis.sock?db=1", "run/redis.sock", {"db": "1"}),
        ("redis://a/0/", "0/", {}),
        ("redis://a?", "", {}),
        ("redis://a?&x=1&&y=&", "", {"x": "1", "y": ""}),
        ("redis://a?x=a%26b%3Dc+d=e", "", {"x": "a&b=c+d=e"}),
        ("memory://", "", {}),
    ],
)
def test_paths_and_options(url: str, path: str, options: dict[str, str]) -> None:
    """Paths and options are percent-decoded once; plus is plus, and empty parts are nothing."""
    parts = StoreUrl.parse(url)
    assert (parts.path, dict(parts.options)) == (path, options)


def test_options_are_refused_by_name() -> None:
    """An option that is given twice, or without a value, is named; its value is not."""
    with pytest.raises(UsageError, match="gives client_name twice") as twice:
        StoreUrl.parse("redis://a?client_name=QQQ&client_name=ZZZ")
    with pytest.raises(UsageError, match="client_name without a value"):
        StoreUrl.parse("redis://a?client_name")
    assert "QQQ" not in str(twice.value)
