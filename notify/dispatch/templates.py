"""Texts from Jinja templates in files, by type, channel and language. Needs the extra `templates`.

```text
templates/
  comment.created/
    email.txt           blocks: title, body, short, url, icon, image, tag
    email.html          the same text as HTML: one document, escaped
    email.de.txt        for recipients whose locale is de, de-AT, ...
    email.digest.txt    for a digest of several: `items`, `count`
    default.txt         for every channel that has no file
```
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from gettext import GNUTranslations, NullTranslations, find, translation
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from notify import NotifyError, UsageError

from ._channel import Content
from ._content import Rendering
from ._content import TemplateLimitError as TemplateLimitError

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_LOCALE: Final = re.compile("[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,4}")

_MAX_LOCALES: Final = 64
"""How many locales have their compiled templates kept."""

_MAX_FOUND: Final = 10_000
"""How many names of files are kept. The locales in them are what users say."""

_TEXTS: Final = ("title", "body", "short", "url", "icon", "image", "tag")


class TemplateMissingError(NotifyError):
    """There is no template for this type and channel. The deliveries are parked until they are released."""


class JinjaTemplates:
    """Renders templates of a directory, whose files are named as the beginning of this module shows.

    The first file that exists is used: one for the channel before `default`, and one in the recipient's locale
    (`de-AT`, then `de`) before one without a language. A name that the data does not have is an error, rather than a
    gap in a sentence. In HTML every value is escaped, in text none is.

    Args:
        directory: the directory.
        domain: the domain of gettext catalogues, for `{% trans %}` and `_()` in the files; None: there are none.
        localedir: the directory of the catalogues, as for `gettext.translation`.
        is_sandboxed: use Jinja's sandbox, for files that customers edit. If the templates of a message take more than
            100,000 loop iterations and calls, or render more than a million characters, `render` raises
            `TemplateLimitError`, and the deliveries are parked. Single operations, such as `"x" * n` or a wide
            `format`, are not limited.
        filters: further filters, by name.

    Raises:
        UsageError: the extra `templates` is not installed, or the directory does not exist.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        domain: str | None = None,
        localedir: Path | str | None = None,
        is_sandboxed: bool = False,
        filters: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self._directory = Path(directory)
        if not self._directory.is_dir():
            raise UsageError(f"JinjaTemplates expects a directory of templates; {str(directory)!r} is not one")
        self._is_sandboxed = is_sandboxed
        self._domain = domain
        self._localedir = localedir
        self._make = partial(_environment, self._directory, is_sandboxed, {**_babel_filters(), **(filters or {})})
        self._make()  # so that a missing extra is told here
        self._by_locale: dict[str, Environment] = {}
        self._found: dict[tuple[str, str, str, str, bool], str | None] = {}

    def render(self, rendering: Rendering) -> Content:
        """See `Templates.render`."""
        environment = self._environment(rendering.locale)
        is_digest = bool(rendering.items)
        name = self._find(rendering, "txt", is_digest)
        if name is None and is_digest:
            name = self._find(rendering, "txt", False)
        if name is None:
            raise TemplateMissingError(
                f"no template for {rendering.type!r} over {rendering.channel!r}: create "
                f"{self._directory.name}/{rendering.type}/{rendering.channel}.txt or default.txt there"
            )
        values = {
            **rendering.data,
            "data": rendering.data,
            "items": rendering.items,
            "count": max(rendering.count, len(rendering.items)),
            "user": rendering.user,
            "locale": rendering.locale,
            "tz": rendering.tz,
            "unsubscribe_url": rendering.unsubscribe_url,
        }
        page = self._find(rendering, "html", is_digest)
        with self._limits() as write:
            texts: dict[str, Any] = _blocks(environment.get_template(name), values, write)
            html = "" if page is None else "".join(map(write, environment.get_template(page).generate(values)))
        return Content(html=html, **texts)

    @contextmanager
    def _limits(self) -> Iterator[Callable[[str], str]]:
        """Yield a function that counts each piece of text."""
        if not self._is_sandboxed:
            yield str
            return
        from ._template_limits import budget

        with budget() as left:
            yield left.write

    def _find(self, rendering: Rendering, kind: str, is_digest: bool) -> str | None:
        """Return the name of the first file that exists for this type, channel and locale."""
        key = (rendering.type, rendering.channel, rendering.locale, kind, is_digest)
        if key not in self._found:
            if len(self._found) >= _MAX_FOUND:
                self._found.clear()
            names = _names(rendering, kind, is_digest)
            self._found[key] = next((name for name in names if (self._directory / name).is_file()), None)
        return self._found[key]

    def _environment(self, locale: str) -> Environment:
        """Return the environment whose texts are translated to this locale."""
        found = self._by_locale.get(locale)
        if found is None:
            if len(self._by_locale) >= _MAX_LOCALES:  # a locale is what a user says it is
                self._by_locale.clear()
            found = self._by_locale[locale] = self._make()
            install: Any = found
            install.install_gettext_translations(self._translations(locale), newstyle=True)
        return found

    def _translations(self, locale: str) -> NullTranslations | GNUTranslations:
        if self._domain is None or not locale:
            return NullTranslations()
        names = [each.replace("-", "_") for each in _fallbacks(locale)]
        if find(self._domain, self._localedir and str(self._localedir), names) is None:
            return NullTranslations()
        return translation(self._domain, self._localedir and str(self._localedir), names)


def _names(rendering: Rendering, kind: str, is_digest: bool) -> Iterator[str]:
    """Yield the names of files, best first: `<type>/<channel>[.digest][.<locale>].<kind>`."""
    digest = ".digest" if is_digest else ""
    for channel in (rendering.channel, "default"):
        for locale in (*_fallbacks(rendering.locale), ""):
            language = f".{locale}" if locale else ""
            yield f"{rendering.type}/{channel}{digest}{language}.{kind}"


def _fallbacks(locale: str) -> Iterator[str]:
    """Yield a locale and those it is a part of: `de-AT`, `de`. Nothing for text that is not a locale."""
    if _LOCALE.fullmatch(locale):
        parts = locale.replace("_", "-").split("-")
        for count in range(len(parts), 0, -1):
            yield "-".join(parts[:count])


def _blocks(template: Template, values: Mapping[str, Any], write: Callable[[str], str]) -> dict[str, Any]:
    """Render the blocks that `Content` has, each without the space around it."""
    context = template.new_context(dict(values))
    names = [name for name in _TEXTS if name in template.blocks]
    return {name: "".join(map(write, template.blocks[name](context))).strip() for name in names}


def _environment(directory: Path, is_sandboxed: bool, filters: Mapping[str, Callable[..., Any]]) -> Environment:
    try:
        import jinja2
    except ImportError as error:
        raise UsageError("JinjaTemplates needs Jinja: pip install 'notify-streams[templates]'") from error
    kind: type[Environment] = jinja2.Environment
    if is_sandboxed:
        from ._template_limits import LimitedSandbox as kind
    environment: Environment = kind(
        loader=jinja2.FileSystemLoader(directory),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.i18n"],
    )
    environment.filters.update(filters)
    return environment


def _babel_filters() -> dict[str, Callable[..., Any]]:
    """Return filters that write numbers and times as the recipient's locale does; none without Babel."""
    try:
        from babel import Locale, UnknownLocaleError, dates, numbers
        from jinja2 import pass_context
    except ImportError:
        return {}

    def locale_of(context: Any) -> Locale:
        for each in _fallbacks(str(context.get("locale"))):  # a user may say one that does not exist
            with suppress(ValueError, UnknownLocaleError):
                return Locale.parse(each, sep="-")
        return Locale("en")

    @pass_context
    def number(context: Any, value: Any) -> str:
        return numbers.format_decimal(value, locale=locale_of(context))

    @pass_context
    def currency(context: Any, value: Any, unit: str) -> str:
        return numbers.format_currency(value, unit, locale=locale_of(context))

    @pass_context
    def date(context: Any, value: Any, form: str = "medium") -> str:
        return dates.format_date(value, form, locale=locale_of(context))

    @pass_context
    def time(context: Any, value: Any, form: str = "short") -> str:
        zone = dates.get_timezone(context.get("tz") or "UTC")
        return dates.format_datetime(value, form, tzinfo=zone, locale=locale_of(context))

    return {"number": number, "currency": currency, "date": date, "time": time}
