"""The pages that people read, in a real browser: no error, no request to anywhere, and the parts that react do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Checkout

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1200,1000"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs Debian's chromium and chromium-driver; the pages were not tested"
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
    return [address for address in asked if address != page.as_uri() and not address.startswith("data:")]


@needs_browser
@pytest.mark.parametrize("name", ["report.html", "validation.html"])
def test_a_page_is_whole_by_itself(browser: Chrome, released: Checkout, name: str) -> None:
    page = released.path / "reports" / name
    assert opened(browser, page) == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.find_elements("css selector", "h1")[0].text
    for image in browser.find_elements("css selector", "img"):
        assert image.get_attribute("alt")
    spent = browser.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert spent < 2000
    for width in (400, 1200):
        browser.set_window_size(width, 1000)
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth"), width


@needs_browser
def test_the_report_shows_examples_of_a_cell_and_sorts_classes(browser: Chrome, released: Checkout) -> None:
    opened(browser, released.path / "reports/report.html")
    cells = browser.find_elements("css selector", "button[data-cell]")
    wrong = next(cell for cell in cells if cell.text not in ("", "0"))
    browser.execute_script("arguments[0].click()", wrong)
    assert wrong.get_attribute("aria-pressed") == "true"
    assert browser.find_elements("css selector", "#cell img")

    def column() -> list[str]:
        rows = browser.find_elements("css selector", "section[aria-labelledby=classes] tbody tr")
        return [row.find_element("css selector", "th").text for row in rows]

    before = column()
    browser.execute_script("arguments[0].click()", browser.find_elements("css selector", "button[data-sort]")[1])
    assert sorted(column()) == sorted(before)
    assert column() != before
