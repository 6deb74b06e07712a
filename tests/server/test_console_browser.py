"""The console in a real browser: its script, its themes, its keyboard.  Skipped where there is none.

pip install playwright; apt-get install chromium
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from pydistdb_server.console.site import PAGES

from tests.server.test_node import Process

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("browser")).start()
    with process.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        connection.execute("INSERT INTO t SELECT g, repeat('x', 50) FROM generate_series(1, 500) g")
        connection.execute("SELECT proddb.split_at('t', '0')")
    yield process
    process.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, node: Process) -> Iterator[Any]:
    """A page that fails the test for anything that goes wrong in it, or is loaded from elsewhere."""
    base = f"http://127.0.0.1:{node.http_port}"
    context = browser.new_context(base_url=base, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(base) else None)
    yield page
    context.close()
    assert not wrong


@pytest.mark.parametrize("path", PAGES)
def test_every_page_fits_and_is_named(page: Any, path: str) -> None:
    page.goto(f"/console{path}")
    assert page.locator("h1").count() == page.locator("main").count() == 1
    unnamed = """() => [...document.querySelectorAll('a, button, input:not([type=hidden]), select')].filter(e =>
        !(e.innerText || e.getAttribute('aria-label') || (e.labels && e.labels.length))).map(e => e.outerHTML)"""
    assert page.evaluate(unnamed) == []
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_both_themes(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto("/console")
    contrast = """selector => {
        const parse = text => text.match(/[\\d.]+/g).map(Number);
        const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
        const element = document.querySelector(selector);
        let behind = element;
        while (parse(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
        const [a, b] = [light(parse(getComputedStyle(element).color)), light(parse(getComputedStyle(behind).backgroundColor))];
        return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    }"""
    for selector in ("h1", "nav a:not([aria-current])", ".tile dt", ".tile dd", ".health", "th", "td a", ".legend"):
        assert page.evaluate(contrast, selector) >= 4.5, selector


def test_the_page_renews_itself_unless_somebody_works_in_it(page: Any, node: Process) -> None:
    page.goto("/console/sessions")
    page.evaluate("main.dataset.mark = 'same page'")
    with node.connect(application_name="newcomer"):
        page.wait_for_selector("td:has-text('newcomer')", timeout=15_000)
        assert page.evaluate("main.dataset.mark") == "same page"
    page.goto("/console/ranges")
    page.fill("input[name=find]", "abc")
    page.evaluate("renew()")
    assert page.input_value("input[name=find]") == "abc"
    page.click("#live")
    assert page.get_attribute("#live", "aria-pressed") == "false"


def test_with_the_keyboard_alone(page: Any) -> None:
    page.goto("/console")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.goto("/console/sign-in")
    page.keyboard.type("postgres")
    page.keyboard.press("Enter")
    page.wait_for_selector("button:has-text('Sign out')")


def test_the_heat_map_tells_what_lies_under_the_pointer(page: Any) -> None:
    page.goto("/console/keys")
    box = page.locator("#heatmap").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 20)
    assert "requests/s" in page.inner_text("#tip")
    page.mouse.move(5, 5)
    assert page.is_hidden("#tip")


def test_a_range_is_split_after_a_question(page: Any) -> None:
    page.goto("/console/sign-in")
    page.fill("input[name=user]", "postgres")
    page.click("main button")
    page.wait_for_selector("button:has-text('Sign out')")
    page.goto("/console/ranges?find=t%2F0")
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.click("button:has-text('Split')")
    assert "Split range" in asked[0] and page.locator(".health.ok").count() == 0
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("button:has-text('Split')")
    page.wait_for_selector(".health.ok:has-text('was split')")
