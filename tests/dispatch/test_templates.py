"""Texts from files and from data."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo

from notify import UsageError
from notify.dispatch._content import DataTemplates, Rendering
from notify.dispatch.templates import JinjaTemplates, TemplateLimitError, TemplateMissingError
from tests.parts import untraced

COMMENT = "comment.created"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a directory with templates of one type."""
    folder = tmp_path / COMMENT
    folder.mkdir()
    texts = {
        "email.txt": "{% block title %}{{ who }} answered{% endblock %}{% block body %}{{ text }}\n{% endblock %}",
        "email.html": "<p>{{ text }}</p>",
        "email.de.txt": "{% block title %}{{ who }} hat geantwortet{% endblock %}",
        "email.digest.txt": "{% block title %}{{ count }} answers{% endblock %}"
        "{% block body %}{% for each in items %}{{ each.who }};{% endfor %}{% endblock %}",
        "default.txt": "{% block title %}An answer{% endblock %}{% block url %}/posts/{{ post }}{% endblock %}",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return tmp_path


def rendering(channel: str, locale: str = "", **data: object) -> Rendering:
    """Return one to render."""
    return Rendering(COMMENT, channel, "alice", locale, "Europe/Berlin", data)


def test_text_and_html_of_a_channel(files: Path) -> None:
    """Values are escaped in HTML and nowhere else; space around a block is removed."""
    content = JinjaTemplates(files).render(rendering("email", who="Bob & Co", text="1 < 2"))
    assert (content.title, content.body, content.html) == ("Bob & Co answered", "1 < 2", "<p>1 &lt; 2</p>")


@pytest.mark.parametrize(
    ("locale", "title"),
    [
        ("de", "Bob hat geantwortet"),
        ("de-AT", "Bob hat geantwortet"),
        ("de_CH", "Bob hat geantwortet"),
        ("fr", "Bob answered"),
        ("", "Bob answered"),
        ("../../etc", "Bob answered"),
    ],
)
def test_locale_falls_back_to_its_language_then_to_none(files: Path, locale: str, title: str) -> None:
    """`de-AT` takes the file of `de`; what is not a locale takes the file without one."""
    assert JinjaTemplates(files).render(rendering("email", locale, who="Bob", text="")).title == title


def test_channel_without_a_file_takes_the_default(files: Path) -> None:
    """`default.txt` is for every channel that has no file."""
    content = JinjaTemplates(files).render(rendering("sms", post=7))
    assert (content.title, content.url, content.html) == ("An answer", "/posts/7", "")


def test_missing_template_names_the_file(tmp_path: Path) -> None:
    """The error says which file to create."""
    with pytest.raises(TemplateMissingError, match=r"comment\.created/sms\.txt"):
        JinjaTemplates(tmp_path).render(rendering("sms"))


def test_missing_value_is_an_error(files: Path) -> None:
    """A gap in a sentence would be sent to people."""
    with pytest.raises(jinja2.UndefinedError, match="'who' is undefined"):
        JinjaTemplates(files).render(rendering("email", text=""))


def test_digest_has_its_own_file_or_that_of_one(files: Path) -> None:
    """A digest sees `items` and `count`; without a file of its own it takes the channel's."""
    items = [{"who": "Bob"}, {"who": "Eve"}]
    digest = Rendering(COMMENT, "email", data=items[-1], items=items, count=9)
    content = JinjaTemplates(files).render(digest)
    assert (content.title, content.body) == ("9 answers", "Bob;Eve;")
    push = Rendering(COMMENT, "web_push", data={"post": 1}, items=items)
    assert JinjaTemplates(files).render(push).title == "An answer"


def test_sandbox_refuses_what_customers_must_not_do(files: Path) -> None:
    """In the sandbox a template cannot reach the interpreter through its values."""
    (files / COMMENT / "sms.txt").write_text("{% block title %}{{ ''.__class__.__mro__ }}{% endblock %}")
    with pytest.raises(jinja2.exceptions.SecurityError):
        JinjaTemplates(files, is_sandboxed=True).render(rendering("sms"))


ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in xs %}{% for b in xs %}{% for c in xs %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for a in xs recursive %}{% if loop.depth < 20 %}{{ loop(xs) }}{{ loop(xs) }}{% endif %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
)


@pytest.mark.parametrize("text", ENDLESS)
@pytest.mark.parametrize("kind", ["txt", "html"])
def test_sandbox_ends_what_would_not_end(files: Path, text: str, kind: str) -> None:
    """Loops in loops, also without any text, recursion of loops and of macros."""
    (files / COMMENT / "sms.txt").write_text("{% block title %}x{% endblock %}")
    (files / COMMENT / f"sms.{kind}").write_text(f"{{% block title %}}{text}{{% endblock %}}")
    is_measured = kind == "txt"  # the other kind runs the same lines
    with (
        nullcontext() if is_measured else untraced(),
        pytest.raises(TemplateLimitError, match="100000 loop iterations and calls"),
    ):
        JinjaTemplates(files, is_sandboxed=True).render(rendering("sms", xs=[*range(1000)]))


@pytest.mark.parametrize("kind", ["txt", "html"])
def test_sandbox_bounds_the_text(files: Path, kind: str) -> None:
    """A template cannot make a text that fills the memory, in pieces; what it may make is made."""
    (files / COMMENT / "sms.txt").write_text("{% block title %}x{% endblock %}")
    (files / COMMENT / f"sms.{kind}").write_text(
        "{% block title %}{% for a in range(n) %}{{ s }}{% endfor %}{% endblock %}"
    )
    templates = JinjaTemplates(files, is_sandboxed=True)
    content = templates.render(rendering("sms", n=900, s="y" * 1000))
    assert len(content.title + content.html) >= 900_000
    with pytest.raises(TemplateLimitError, match="1000000 characters"):
        templates.render(rendering("sms", n=1100, s="y" * 1000))


def test_loops_of_the_sandbox_are_those_of_jinja(files: Path) -> None:
    """Counting changes nothing of what a loop knows of itself; and each message has a budget of its own."""
    text = (
        "{% for a in xs if a != 2 %}{{ loop.index }}/{{ loop.length }}{{ '' if loop.last else ',' }}"
        "{% else %}none{% endfor %} {% for k, v in m.items() %}{{ k }}{{ v }}{% endfor %}"
        "{% for a in [] %}{% else %}none{% endfor %} {% for a in xs recursive %}{{ a }}{% endfor %}"
    )
    (files / COMMENT / "sms.txt").write_text(f"{{% block title %}}{text}{{% endblock %}}")
    values = {"xs": [1, 2, 3], "m": {"k": 7}}
    plain = JinjaTemplates(files).render(rendering("sms", **values)).title
    assert plain == "1/2,2/2 k7none 123"
    assert JinjaTemplates(files, is_sandboxed=True).render(rendering("sms", **values)).title == plain
    (files / COMMENT / "sms.txt").write_text("{% block title %}{% for a in range(60000) %}{% endfor %}x{% endblock %}")
    templates = JinjaTemplates(files, is_sandboxed=True)
    assert [templates.render(rendering("sms")).title for _ in range(3)] == ["x"] * 3


def test_values_are_written_as_in_the_recipients_country(files: Path) -> None:
    """Numbers and times follow locale and zone."""
    (files / COMMENT / "sms.txt").write_text("{% block body %}{{ n | number }}, {{ at | time }}{% endblock %}")
    at = datetime(2027, 1, 5, 18, tzinfo=UTC)
    content = JinjaTemplates(files).render(rendering("sms", "de-AT", n=1234.5, at=at))
    assert "1\u202f234,5" in content.body or "1.234,5" in content.body or "1\xa0234,5" in content.body
    assert "19:00" in content.body


@pytest.mark.parametrize(
    ("locale", "number"),
    [("pt_BR", "1.234,5"), ("xx-YY", "1,234.5"), ("../../etc", "1,234.5"), ("de-XX", "1.234,5"), ("", "1,234.5")],
)
def test_locale_is_what_a_user_says(files: Path, locale: str, number: str) -> None:
    """Both ways of writing it are understood; one that does not exist costs no user the message."""
    (files / COMMENT / "sms.txt").write_text("{% block body %}{{ n | number }}{% endblock %}")
    assert JinjaTemplates(files).render(rendering("sms", locale, n=1234.5)).body == number


def test_amounts_and_days(files: Path) -> None:
    """The filters for money and days follow the locale, too."""
    (files / COMMENT / "sms.txt").write_text("{% block body %}{{ n | currency('EUR') }} {{ at | date }}{% endblock %}")
    content = JinjaTemplates(files).render(rendering("sms", "de", n=9.5, at=datetime(2027, 1, 5, tzinfo=UTC)))
    assert content.body == "9,50\xa0€ 05.01.2027"


def test_many_locales_are_not_kept_for_ever(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users can say any locale, so what is kept for each of them is bounded."""
    monkeypatch.setattr("notify.dispatch.templates._MAX_LOCALES", 2)
    monkeypatch.setattr("notify.dispatch.templates._MAX_FOUND", 2)
    templates = JinjaTemplates(files)
    for number in range(6):
        assert templates.render(rendering("email", f"x{'abcdef'[number]}", who="Bob", text="1")).title == "Bob answered"
    assert len(templates._by_locale) <= 2
    assert len(templates._found) <= 2


def test_missing_extras(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Jinja the error names the extra; without Babel there are no filters, and everything else works."""
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "babel", None)
        assert JinjaTemplates(files).render(rendering("email", who="Bob", text="1")).title == "Bob answered"
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match=r"notify-streams\[templates\]"):
        JinjaTemplates(files)


def test_directory_has_to_exist(tmp_path: Path) -> None:
    """A wrong path is told at once, not at the first message."""
    with pytest.raises(UsageError, match="directory"):
        JinjaTemplates(tmp_path / "none")


def test_data_is_the_text_without_templates() -> None:
    """Only text is taken; the type's key stands for a missing title."""
    content = DataTemplates().render(rendering("sms", message="hello", action_url="/x", icon=7, silent=True))
    assert (content.title, content.body, content.url, content.icon, content.silent) == (
        COMMENT,
        "hello",
        "/x",
        "",
        True,
    )


def test_digest_of_data_lists_titles_newest_first() -> None:
    """At most ten titles are listed, and the number of the rest."""
    items = [{"title": f"t{number}", "url": f"/{number}"} for number in range(12)]
    content = DataTemplates().render(Rendering(COMMENT, "email", items=items, count=30))
    assert content.title == "t11 (+ 29)"
    assert content.body.splitlines() == [*(f"t{number}" for number in range(11, 1, -1)), "+ 20"]
    assert content.url == "/11"


def test_translations_of_gettext(files: Path, tmp_path: Path) -> None:
    """`{% trans %}` takes the catalogue of the recipient's language, with its plural forms."""
    catalog = Catalog(locale="de", domain="app")
    catalog.add(("%(count)s answer", "%(count)s answers"), ("%(count)s Antwort", "%(count)s Antworten"))
    folder = tmp_path / "locale" / "de" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    with (folder / "app.mo").open("wb") as file:
        write_mo(file, catalog)
    text = "{% trans count=n %}{{ count }} answer{% pluralize %}{{ count }} answers{% endtrans %}"
    (files / COMMENT / "sms.txt").write_text(f"{{% block body %}}{text}{{% endblock %}}")
    templates = JinjaTemplates(files, domain="app", localedir=tmp_path / "locale")
    found = [templates.render(rendering("sms", locale, n=n)).body for locale in ("de-AT", "fr") for n in (1, 2)]
    assert found == ["1 Antwort", "2 Antworten", "1 answer", "2 answers"]
