"""<notify-preferences> in a real browser, over a real DispatchApp."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from playwright.sync_api import APIResponse, Browser, BrowserContext, Locator, Page, Route, expect

from tests.dispatch.browser.site import Site
from tests.web.pages import CLIENT, PATIENCE, screenshot

ELEMENT = "notify-preferences"

pytestmark = pytest.mark.slow


def opened(context: BrowserContext, site: Site, path: str = "/settings") -> Page:
    """The page of settings, loaded."""
    page = context.new_page()
    page.goto(f"{site.url}{path}")
    expect(page.get_by_role("switch").first).to_be_visible()
    return page


def switch(page: Page, name: str) -> Locator:
    return page.get_by_role("switch", name=name, exact=True)


def stored(site: Site, user: str = "alice") -> dict[str, Any]:
    found: dict[str, Any] = site.ask("/notifications/preferences", user)["preferences"]
    return found


def saved(page: Page) -> None:
    """Wait until everything is saved."""
    expect(page.locator(f"{ELEMENT} [part=status]")).to_have_text("Saved")


def test_each_type_and_channel_has_a_switch(context: BrowserContext, site: Site) -> None:
    """In a table with headings, by category; a change is saved, and a page that is loaded later shows it."""
    page = opened(context, site)
    assert page.get_by_role("columnheader").all_inner_texts() == ["Notification", "In the app", "Push", "E-mail"]
    headings = page.locator(f"{ELEMENT} [part=category]")
    assert headings.all_inner_texts() == ["Transactional", "System", "Marketing"]
    assert page.get_by_role("rowheader").filter(has_text="Comment created").count() == 1
    push = switch(page, "Comment created: Push")
    expect(push).to_be_checked()
    push.click()
    expect(push).not_to_be_checked()
    saved(page)
    assert stored(site) == {"types": {"comment.created": {"web_push": False}}}
    page.reload()
    expect(switch(page, "Comment created: Push")).not_to_be_checked()
    expect(switch(page, "Comment created: E-mail")).to_be_checked()


def test_a_change_while_the_settings_are_read_again(context: BrowserContext, site: Site) -> None:
    """An answer that was made before the change does not take it back."""
    page = opened(context, site)
    held: list[tuple[Route, APIResponse]] = []
    patches: list[Route] = []

    def on(route: Route) -> None:
        if route.request.method == "GET" and not held:
            held.append((route, route.fetch()))
        elif route.request.method == "PATCH" and not is_over:
            patches.append(route)
        else:
            route.continue_()

    is_over = False
    page.route("**/notifications/preferences", on)
    with page.expect_request(lambda request: request.url.endswith("/preferences") and request.method == "GET"):
        page.evaluate(f"() => void (window.loading = document.querySelector('{ELEMENT}').load())")
    push = switch(page, "Comment created: Push")
    push.click()
    page.evaluate("() => fetch('/notifications/openapi.json').then(() => 0)")  # a PATCH before it would be here by now
    is_over = True
    for route in patches:
        with page.expect_response(lambda response: response.request.method == "PATCH"):
            route.continue_()
        saved(page)
    (reading, answer), *_ = held
    reading.fulfill(response=answer)
    page.evaluate("() => window.loading")
    expect(push).not_to_be_checked()
    saved(page)
    assert stored(site) == {"types": {"comment.created": {"web_push": False}}}


def test_what_is_mandatory_has_no_switch(context: BrowserContext, site: Site) -> None:
    """It says that it is always on; where a type does not use a channel, there is nothing."""
    page = opened(context, site)
    row = page.get_by_role("row").filter(has_text="Sign in")
    expect(row).to_contain_text("Always on")
    assert row.get_by_role("switch").count() == 1
    expect(switch(page, "Sign in: E-mail")).to_have_count(0)
    expect(switch(page, "Sign in: Push")).to_have_count(0)


def test_a_type_that_needs_an_agreement(context: BrowserContext, site: Site) -> None:
    """Its switches are off and locked until the user agrees, and then as they were."""
    page = opened(context, site)
    consent, offers = switch(page, "Offers: I agree to receive these"), switch(page, "Offers: Push")
    expect(consent).not_to_be_checked()
    expect(offers).to_be_disabled()
    expect(offers).not_to_be_checked()
    expect(page.get_by_text("needs your agreement")).to_be_visible()
    consent.click()
    expect(offers).to_be_enabled()
    expect(offers).to_be_checked()
    expect(page.get_by_text("needs your agreement")).to_be_hidden()
    saved(page)
    assert stored(site) == {"opt_in": {"offers": True}}


def test_a_channel_as_a_whole(context: BrowserContext, site: Site) -> None:
    """Off is off for each type, those that were switched on one by one included; on brings them back."""
    site.ask("/notifications/preferences", types={"comment.created": {"email": True}}, opt_in={"offers": True})
    page = opened(context, site)
    email = switch(page, "E-mail")
    email.click()
    for name in ("Comment created: E-mail", "Offers: E-mail"):
        expect(switch(page, name)).not_to_be_checked()
    expect(switch(page, "Comment created: Push")).to_be_checked()
    saved(page)
    assert stored(site) == {"channels": {"email": False}, "types": {"comment.created": {}}, "opt_in": {"offers": True}}
    switch(page, "Comment created: E-mail").click()
    expect(switch(page, "Offers: E-mail")).not_to_be_checked()
    saved(page)
    email.click()
    expect(switch(page, "Offers: E-mail")).to_be_checked()
    saved(page)
    assert stored(site)["types"] == {"comment.created": {"email": True}}


def test_what_the_user_has_unsubscribed_from(context: BrowserContext, site: Site) -> None:
    """It says so where the category is, with a button that subscribes again; the same for everything at once."""
    site.ask("/notifications/preferences", categories={"marketing": {"email": False}}, opt_in={"offers": True})
    page = opened(context, site)
    expect(switch(page, "Offers: E-mail")).not_to_be_checked()
    notice = page.get_by_text("You have unsubscribed: Marketing, E-mail.")
    expect(notice).to_be_visible()
    page.get_by_role("button", name="Subscribe again").click()
    expect(notice).to_have_count(0)
    expect(switch(page, "Offers: E-mail")).to_be_checked()
    saved(page)
    assert stored(site)["categories"] == {"marketing": {}}
    site.ask("/notifications/preferences", all=False)
    page.reload()
    expect(page.get_by_text("All notifications are switched off.")).to_be_visible()
    expect(switch(page, "Note: Push")).not_to_be_checked()
    page.get_by_role("button", name="Switch on").click()
    expect(switch(page, "Note: Push")).to_be_checked()
    saved(page)
    assert "all" not in stored(site)


def test_changes_show_at_once_and_are_saved_in_order(context: BrowserContext, site: Site) -> None:
    """While the server has not answered, what was clicked is shown; the answers do not undo later clicks."""
    page = opened(context, site)
    site.gate.clear()
    names = ["Note: Push", "Comment created: Push", "Comment created: E-mail"]
    for name in names:
        switch(page, name).click()
        expect(switch(page, name)).not_to_be_checked()
    switch(page, "Note: Push").click()
    expect(switch(page, "Note: Push")).to_be_checked()
    expect(page.locator(f"{ELEMENT} [part=status]")).to_have_text("Saving")
    site.gate.set()
    saved(page)
    expect(switch(page, "Note: Push")).to_be_checked()
    assert stored(site)["types"] == {"note": {"web_push": True}, "comment.created": {"web_push": False, "email": False}}
    patches = [each.body for each in site.sent if each.method == "PATCH"]
    assert [next(iter(each["types"])) for each in patches] == ["note", "comment.created", "comment.created", "note"]


def test_what_the_server_refuses_is_taken_back(context: BrowserContext, site: Site) -> None:
    """That change alone, and an alert says so; the focus stays where it is."""
    page = opened(context, site)
    site.failures["PATCH preferences"] = [503]
    site.gate.clear()
    push = switch(page, "Note: Push")
    switch(page, "Comment created: E-mail").click()
    push.focus()
    page.keyboard.press("Space")
    expect(push).not_to_be_checked()
    site.gate.set()
    expect(page.get_by_role("alert")).to_have_text("The change was not saved")
    expect(switch(page, "Comment created: E-mail")).to_be_checked()
    expect(push).not_to_be_checked()
    assert page.evaluate(FOCUSED) == "type note web_push"
    saved(page)
    assert stored(site) == {"types": {"note": {"web_push": False}}}
    switch(page, "Comment created: Push").click()
    expect(page.get_by_role("alert")).to_have_text("")
    saved(page)


def test_loading_and_errors(context: BrowserContext, site: Site) -> None:
    """It says that it is loading, then that this did not work; a button tries again."""
    site.gate.clear()
    site.failures["GET preferences"] = [503]
    page = context.new_page()
    page.goto(f"{site.url}/settings")
    group = page.get_by_role("group", name="Notification settings")
    expect(group).to_contain_text("Loading")
    expect(group).to_have_attribute("aria-busy", "true")
    site.gate.set()
    expect(group).to_contain_text("The settings could not be loaded")
    expect(group).to_have_attribute("aria-busy", "false")
    screenshot(page, "preferences-error")
    page.get_by_role("button", name="Try again").click()
    expect(switch(page, "Note: Push")).to_be_checked()


@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_an_answer_that_is_a_page(context: BrowserContext, site: Site, method: str) -> None:
    """A login page, to which an expired session may lead, is an error instead of settings."""
    page = context.new_page()
    login = [method]

    def answer(route: Route) -> None:
        if route.request.method in login:
            login.clear()
            route.fulfill(body="<!doctype html><title>Log in</title>", content_type="text/html")
        else:
            route.continue_()

    page.route("**/notifications/preferences", answer)
    page.goto(f"{site.url}/settings")
    if method == "GET":
        page.get_by_role("button", name="Try again").click()
    push = switch(page, "Comment created: Push")
    push.click()
    if method == "PATCH":
        expect(page.locator(f"{ELEMENT} [part=alert]")).to_have_text("The change was not saved")
        expect(push).to_be_checked()
        push.click()
    saved(page)
    assert stored(site) == {"types": {"comment.created": {"web_push": False}}}


def test_a_change_of_what_another_page_has_changed(context: BrowserContext, site: Site) -> None:
    """Two pages subscribe again at once: the slower one still saves its later changes."""
    site.ask("/notifications/preferences", categories={"marketing": {"email": False}})
    page = opened(context, site)
    site.gate.clear()
    switch(page, "Comment created: Push").click()
    page.get_by_role("button", name="Subscribe again").click()
    with ThreadPoolExecutor(1) as thread:
        patch = {"categories": {"marketing": {"email": None}}}
        other = thread.submit(site.ask, "/notifications/preferences", **patch)
        switch(page, "Comment created: E-mail").click()
        site.gate.set()
        other.result()
    saved(page)
    assert stored(site)["types"] == {"comment.created": {"web_push": False, "email": False}}


def test_quiet_hours(context: BrowserContext, site: Site) -> None:
    """Added in the zone of the browser, changed, limited to days, for whole days, and removed."""
    page = opened(context, site)
    expect(page.get_by_label("Time zone")).to_have_value("Europe/Berlin")  # that of the dispatcher
    page.get_by_role("button", name="Add quiet hours").click()
    expect(page.get_by_label("From")).to_have_value("22:00")
    saved(page)
    zone = page.evaluate("Intl.DateTimeFormat().resolvedOptions().timeZone")
    assert stored(site) == {"quiet_hours": [{"start": "22:00", "end": "07:00"}], "tz": zone}
    page.get_by_label("To", exact=True).fill("06:30")
    page.get_by_label("To", exact=True).blur()
    saved(page)
    assert stored(site)["quiet_hours"] == [{"start": "22:00", "end": "06:30"}]
    for day in ("Saturday", "Sunday"):
        page.get_by_role("button", name=day).click()
        expect(page.get_by_role("button", name=day)).to_have_attribute("aria-pressed", "false")
    saved(page)
    assert stored(site)["quiet_hours"][0]["days"] == ["mon", "tue", "wed", "thu", "fri"]
    page.get_by_label("Time zone").select_option("Asia/Tokyo")
    page.get_by_role("button", name="Add quiet hours").click()
    page.get_by_role("button", name="Monday").nth(1).click()
    switch(page, "All day").nth(1).click()
    expect(page.get_by_label("From")).to_have_count(1)
    saved(page)
    assert stored(site)["tz"] == "Asia/Tokyo"
    assert stored(site)["quiet_hours"][1] == {"all_day": True, "days": ["tue", "wed", "thu", "fri", "sat", "sun"]}
    page.get_by_role("button", name="Remove").first.click()
    expect(page.get_by_role("button", name="Remove")).to_have_count(1)
    saved(page)
    assert [each.get("all_day") for each in stored(site)["quiet_hours"]] == [True]


def in_zone(chromium: Browser, site: Site, zone: str, width: int = 860) -> BrowserContext:
    """A profile of alice on a device in a time zone."""
    context = chromium.new_context(timezone_id=zone, viewport={"width": width, "height": 900})
    context.set_default_timeout(PATIENCE)
    context.add_cookies([{"name": "user", "value": "alice", "url": site.url}])
    return context


def test_the_zone_of_quiet_hours(chromium: Browser, site: Site) -> None:
    """The page says which zone will be stored, and later that the device is in another one, with a choice."""
    with in_zone(chromium, site, "America/New_York") as context:
        page = opened(context, site)
        expect(page.get_by_label("Time zone")).to_have_value("Europe/Berlin")
        expect(page.get_by_text("Quiet hours will be in this device's time zone, America/New York")).to_be_visible()
        page.get_by_role("button", name="Add quiet hours").click()
        expect(page.get_by_label("Time zone")).to_have_value("America/New_York")
        expect(page.get_by_text("this device's")).to_be_hidden()
        saved(page)
    with in_zone(chromium, site, "Asia/Tokyo") as context:
        page = opened(context, site)
        expect(page.get_by_label("Time zone")).to_have_value("America/New_York")
        expect(page.get_by_text("This device's time zone is Asia/Tokyo.")).to_be_visible()
        page.get_by_text("Quiet hours", exact=True).scroll_into_view_if_needed()
        screenshot(page, "preferences-zone")
        assert stored(site)["tz"] == "America/New_York"
        page.get_by_role("button", name="Use Asia/Tokyo").click()
        expect(page.get_by_label("Time zone")).to_have_value("Asia/Tokyo")
        expect(page.get_by_text("this device's")).to_be_hidden()
        assert page.evaluate(FOCUSED) == "tz"
        saved(page)
        assert stored(site)["tz"] == "Asia/Tokyo"
        page.get_by_label("Time zone").select_option("Asia/Seoul")  # whose clocks show the same
        expect(page.get_by_text("this device's")).to_be_hidden()
        page.get_by_label("Time zone").select_option("Europe/Paris")
        expect(page.get_by_text("This device's time zone is Asia/Tokyo.")).to_be_visible()


@pytest.mark.parametrize("width", [860, 375])
def test_double_clicks_on_quiet_hours(chromium: Browser, site: Site, width: int) -> None:
    """The second click of one that adds or removes hours has no effect on what has moved under the pointer."""
    with in_zone(chromium, site, "Europe/Berlin", width) as context:
        page = opened(context, site)
        add, remove = (page.get_by_role("button", name=name) for name in ("Add quiet hours", "Remove"))
        rules = page.locator(f"{ELEMENT} [part=rule]")
        for number in (1, 2):
            add.dblclick()
            expect(rules).to_have_count(number)
        saved(page)
        assert stored(site)["quiet_hours"] == [{"start": "22:00", "end": "07:00"}] * 2
        for number in (1, 0):
            remove.first.dblclick()
            expect(rules).to_have_count(number)
            saved(page)
            assert len(stored(site)["quiet_hours"]) == number


def test_the_channels_have_a_heading_where_it_is_narrow(chromium: Browser, site: Site) -> None:
    """Where the rows are stacked, the switches of whole channels stand under a heading too."""
    with in_zone(chromium, site, "Europe/Berlin", 375) as context:
        page = opened(context, site)
        heading = page.get_by_role("columnheader", name="All notifications")
        expect(heading).to_be_visible()
        screenshot(page, "preferences-375")
        boxes = [
            each.bounding_box() for each in (heading, switch(page, "In the app"), switch(page, "Note: In the app"))
        ]
        assert [each["y"] for each in boxes if each] == sorted(each["y"] for each in boxes if each)
        page.set_viewport_size({"width": 860, "height": 900})
        expect(heading).to_have_count(0)


def test_quiet_hours_that_cannot_be(context: BrowserContext, site: Site) -> None:
    """An end that is the beginning is refused in the page, the whole week by the server; both are taken back."""
    rules = [{"start": "22:00", "end": "07:00", "channels": ["email"], "bypass": "high"}]
    site.ask("/notifications/preferences", quiet_hours=rules)
    page = opened(context, site)
    expect(page.get_by_text("Only: E-mail")).to_be_visible()
    page.get_by_label("From").fill("07:00")
    page.get_by_label("From").blur()
    expect(page.get_by_role("alert")).to_have_text("The end must differ from the start")
    expect(page.get_by_label("From")).to_have_value("22:00")
    switch(page, "All day").click()
    expect(page.get_by_role("alert")).to_contain_text("The change was not saved: ")
    expect(page.get_by_role("alert")).to_contain_text("cover the whole week")
    expect(switch(page, "All day")).not_to_be_checked()
    assert stored(site)["quiet_hours"] == rules
    page.get_by_label("From").fill("21:00")
    page.get_by_label("From").blur()
    saved(page)
    assert stored(site)["quiet_hours"] == [{**rules[0], "start": "21:00"}]


def test_by_keyboard_alone(context: BrowserContext, site: Site) -> None:
    """Each control is reached by Tab, switches by Space; where a row goes, the focus goes to what is left."""
    page = opened(context, site)
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "channel in_app"
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "type note in_app"
    page.keyboard.press("Space")
    expect(switch(page, "Note: In the app")).not_to_be_checked()
    page.get_by_role("button", name="Add quiet hours").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("From")).to_be_visible()
    assert page.evaluate(FOCUSED) == "add"
    page.keyboard.press("Shift+Tab")  # to the time zone
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(FOCUSED) == "rule 0 remove"
    page.keyboard.press("Enter")
    expect(page.get_by_label("From")).to_have_count(0)
    assert page.evaluate(FOCUSED) == "channel in_app"
    saved(page)


FOCUSED = f"document.querySelector('{ELEMENT}').shadowRoot.activeElement?.dataset.key"


def test_texts_and_credentials(context: BrowserContext, site: Site) -> None:
    """Labels by attribute and by property, days in the language of the page, hostile names as text; a token."""
    context.clear_cookies()
    site.pages["/de"] = (
        "text/html",
        """<!doctype html><html lang="de"><meta charset="utf-8"><notify-preferences url="/notifications"
        label="Benachrichtigungen" label-type="Art" label-channel-email="<b>E-Mail</b>" label-type-note="Notiz"
        label-add="Ruhezeit"></notify-preferences><script type="module">
        import "/notifications/preferences.js";
        const element = document.querySelector("notify-preferences");
        element.texts = { always: "Immer", "category-system": "Sicherheit", "type-note": "unbenutzt" };
        element.auth = (renew) => (renew ? { "X-User": "bob" } : {});
        </script>""",
    )
    page = opened(context, site, "/de")
    expect(page.get_by_role("group", name="Benachrichtigungen")).to_contain_text("<b>E-Mail</b>")
    expect(page.locator(f"{ELEMENT} [part=category]").nth(1)).to_have_text("Sicherheit")
    expect(page.get_by_text("Immer")).to_be_visible()
    switch(page, "Notiz: Web push").click()
    page.get_by_role("button", name="Ruhezeit").click()
    expect(page.get_by_role("button", name="Montag")).to_have_text("Mo")
    saved(page)
    assert stored(site, "bob")["types"] == {"note": {"web_push": False}}


def test_a_careful_page(context: BrowserContext, site: Site) -> None:
    """It works with a Content-Security-Policy without unsafe-inline, and with trusted types."""
    policy = "default-src 'none'; script-src 'self'; connect-src 'self'; require-trusted-types-for 'script'"
    site.pages["/strict"] = (
        "text/html",
        f'<!doctype html><meta http-equiv="Content-Security-Policy" content="{policy}"><notify-preferences>'
        '</notify-preferences><script type="module" src="/notifications/preferences.js"></script>',
    )
    page = opened(context, site, "/strict")
    switch(page, "Note: Email").first.wait_for(state="detached")
    panel = page.locator(f"{ELEMENT} [part=panel]")
    assert panel.evaluate("(node) => getComputedStyle(node).borderRadius") == "12px"
    page.get_by_role("button", name="Add quiet hours").click()
    saved(page)


@pytest.mark.parametrize(
    ("name", "width", "options", "attributes"),
    [
        ("light", 940, {}, ""),
        ("dark", 940, {"color_scheme": "dark"}, ""),
        ("narrow", 340, {}, ""),
        ("narrow-dark", 340, {"color_scheme": "dark"}, ""),
        ("rtl", 940, {}, 'dir="rtl"'),
        ("contrast", 940, {"forced_colors": "active"}, ""),
    ],
)
def test_looks(chromium: Browser, site: Site, name: str, width: int, options: dict[str, Any], attributes: str) -> None:
    """Nothing is wider than the window, in each direction, colour scheme and width; pictures are kept."""
    rules = [{"start": "22:00", "end": "07:00"}, {"all_day": True, "days": ["sat", "sun"], "channels": ["email"]}]
    patch = {"types": {"note": {"web_push": False}}, "opt_in": {"offers": True}, "quiet_hours": rules}
    site.ask("/notifications/preferences", **patch, categories={"marketing": {"email": False}})
    site.pages["/settings"] = ("text/html", site.pages["/settings"][1].replace('dir="ltr"', attributes))
    context = chromium.new_context(viewport={"width": width, "height": 1180 if width < 500 else 860}, **options)
    context.set_default_timeout(PATIENCE)
    context.add_cookies([{"name": "user", "value": "alice", "url": site.url}])
    page = opened(context, site)
    switch(page, "Comment created: Push").click()
    saved(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.locator(f"{ELEMENT} input, {ELEMENT} select, {ELEMENT} button").evaluate_all(
        "all => all.map((node) => node.getBoundingClientRect()).map(({left, right}) => [left, right])"
    )
    assert all(left >= 0 and right <= width for left, right in boxes)
    page.evaluate("Promise.all(document.getAnimations({subtree: true}).map((each) => each.finished))")
    screenshot(page, f"preferences-{name}")
    context.close()


@pytest.mark.parametrize(
    ("name", "limit"),
    [("push.js", 3328), ("service-worker.js", 3072), ("request.js", 768), ("preferences.js", 8 * 1024)],
)
def test_the_files_are_small(name: str, limit: int) -> None:
    """What a page loads, compressed as it is served."""
    assert len(gzip.compress((CLIENT / name).read_bytes(), 9, mtime=0)) <= limit
