"""The pages that people read, in a real browser: no error, no request to anywhere, and the parts that react do."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Second

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

FLAGS = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--window-size=1200,1000",
    ),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="needs Debian's chromium and chromium-driver; the pages were not tested",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def opened(browser: Chrome, page: Path) -> list[str]:
    """Open a page; returns every address that it asked for beside itself and what it carries."""
    assert page.is_file()
    browser.get_log("performance")
    browser.get(page.as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    asked = [each["request"]["url"] for each in sent if each["documentURL"] == page.as_uri()]
    return [
        address for address in asked if address != page.as_uri() and not address.startswith("data:")
    ]


@pytest.fixture
def pages(second: Second) -> Path:
    """The reports of a second run, whose model another one was compared with."""
    return (second.checkout.path / second.summary["report"]).parent


@needs_browser
@pytest.mark.parametrize("name", ["report.html", "gate.html", "validation.html"])
def test_a_page_is_whole_by_itself(browser: Chrome, pages: Path, name: str) -> None:
    page = pages / name
    assert opened(browser, page) == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.find_elements("css selector", "h1")[0].text
    for image in browser.find_elements("css selector", "img"):
        assert image.get_attribute("alt")
    spent = browser.execute_script(
        "return performance.getEntriesByType('navigation')[0].loadEventEnd"
    )
    assert spent < 2000
    for width in (400, 1200):
        browser.set_window_size(width, 1000)
        assert browser.execute_script(
            "return document.documentElement.scrollWidth <= window.innerWidth"
        ), width


@needs_browser
def test_the_report_shows_examples_of_a_cell_and_sorts_classes(
    browser: Chrome, pages: Path
) -> None:
    opened(browser, pages / "report.html")
    cells = browser.find_elements("css selector", "button[data-cell]")
    wrong = next(cell for cell in cells if cell.text not in ("", "0"))
    browser.execute_script("arguments[0].click()", wrong)
    assert wrong.get_attribute("aria-pressed") == "true"
    assert browser.find_elements("css selector", "#cell img")

    def column() -> list[str]:
        rows = browser.find_elements("css selector", "section[aria-labelledby=classes] tbody tr")
        return [row.find_element("css selector", "th").text for row in rows]

    before = column()
    browser.execute_script(
        "arguments[0].click()", browser.find_elements("css selector", "button[data-sort]")[1]
    )
    assert sorted(column()) == sorted(before)
    assert column() != before


@needs_browser
def test_the_gate_shows_what_only_one_of_both_had_right(browser: Chrome, pages: Path) -> None:
    opened(browser, pages / "gate.html")
    figures = browser.find_elements("css selector", "figure[data-kind]")
    assert figures
    assert all(figure.find_elements("css selector", "img") for figure in figures)
    for kind in ("lost", "won", ""):
        button = browser.find_element("css selector", f"button[data-show='{kind}']")
        browser.execute_script("arguments[0].click()", button)
        assert button.get_attribute("aria-pressed") == "true"
        shown = {figure.get_attribute("data-kind") for figure in figures if figure.is_displayed()}
        assert shown <= ({kind} if kind else {"lost", "won"})
        assert (
            len(browser.find_elements("css selector", "button[data-show][aria-pressed=true]")) == 1
        )


@needs_browser
@pytest.mark.parametrize("name", ["report.html", "gate.html"])
def test_the_keyboard_reaches_everything_that_reacts(
    browser: Chrome, pages: Path, name: str
) -> None:
    from selenium.webdriver import ActionChains, Keys

    opened(browser, pages / name)
    browser.set_window_size(1200, 1000)
    reacting = browser.find_elements("css selector", "a[href], button, [tabindex='0']")
    reached = []
    for _ in reacting:
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.switch_to.active_element)
        if len(reached) < 9:  # of each kind; to look at all takes long
            outline = "return getComputedStyle(document.activeElement).outlineStyle"
            assert browser.execute_script(outline) != "none"
    assert reached == reacting
    sort = browser.find_elements("css selector", "button[data-sort]")[1]
    sort.send_keys(Keys.ENTER)
    header = sort.find_element("xpath", "..")
    assert header.get_attribute("aria-sort") == "descending"
    sort.send_keys(Keys.SPACE)
    assert header.get_attribute("aria-sort") == "ascending"
    toggle = browser.find_elements("css selector", "button[aria-pressed]")[1]
    toggle.send_keys(Keys.SPACE)
    assert toggle.get_attribute("aria-pressed") == "true"


@needs_browser
@pytest.mark.parametrize("name", ["report.html", "gate.html"])
def test_a_screen_reader_finds_its_way(browser: Chrome, pages: Path, name: str) -> None:
    opened(browser, pages / name)
    assert browser.find_element("css selector", "html").get_attribute("lang") == "en"
    assert len(browser.find_elements("css selector", "main")) == 1
    named = browser.find_elements(
        "css selector", "button:not([data-cell]), a[href], nav, section, [role], svg"
    )
    for each in [*named, *browser.find_elements("css selector", "button[data-cell]")[:3]]:
        assert each.accessible_name, each.get_attribute("outerHTML")
    levels = [int(each.tag_name[1]) for each in browser.find_elements("css selector", "h1, h2, h3")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert not browser.find_elements("css selector", "th:not([scope])")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report.html", "gate.html"])
def test_words_stand_out_in_light_and_dark(
    browser: Chrome, pages: Path, name: str, scheme: str
) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    opened(browser, pages / name)
    page = luminance(
        browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    )
    assert (page > 0.5) == (scheme == "light")
    for selector in ("h1", "header p", "h2 + p", "a", "td", "figcaption"):
        words = luminance(
            browser.execute_script(
                f"return getComputedStyle(document.querySelector('{selector}')).color"
            )
        )
        assert (max(page, words) + 0.05) / (min(page, words) + 0.05) >= 4.5, selector


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
