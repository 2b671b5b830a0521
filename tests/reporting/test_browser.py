"""The report in a real browser: nothing is loaded, nothing runs, everything is shown, on any screen."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from t2ipal.reporting.page import write_report

pytestmark = pytest.mark.slow

# What a browser gets for each thing that is waited for: it shares two cores with the tests of the workflow.
WAIT_MILLISECONDS = 120_000
HOSTILE = "</figcaption><script>document.title='owned'</script><img src=x onerror=alert(2)>"
LOADED = "[...document.images].filter(image => image.complete && image.naturalWidth > 0).length"
# Contrast of text and ground by WCAG 2, of what is given as computed colours.
CONTRAST = """selector => {
  const light = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  return Math.min(...[...document.querySelectorAll(selector)].map(element => {
    const text = light(getComputedStyle(element).color);
    return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
  }));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium of this machine."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


class Visit:
    """A page opened in the browser, with all that went wrong on it."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page.set_default_timeout(WAIT_MILLISECONDS)
        self.faults: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(path.as_uri())

    def scroll(self) -> None:
        """Down to the end, so that pictures that are loaded late are loaded; what is folded is opened."""
        self.page.evaluate("document.querySelectorAll('details').forEach(found => found.open = true)")
        for element in self.page.locator("img").all():
            element.scroll_into_view_if_needed()
        self.page.wait_for_function(f"{LOADED} === document.images.length")


@pytest.fixture
def report(finished, tmp_path: Path) -> Path:
    write_report(finished.config, tmp_path / "report.html")
    return tmp_path / "report.html"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light")])
def test_every_picture_is_shown_and_nothing_complains_or_is_loaded(browser, report, width, scheme):
    visit = Visit(browser, report, width, scheme)
    visit.scroll()
    assert visit.faults == []
    assert {url.partition(":")[0] for url in visit.requested} <= {"file", "data"}
    assert len([url for url in visit.requested if url.startswith("file")]) == 1
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser, report, scheme):
    visit = Visit(browser, report, scheme=scheme)
    assert visit.page.evaluate(CONTRAST, "p, td, th, figcaption, a, caption, h1, h2, .labels, .note") >= 4.5
    ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


def test_a_hostile_caption_stays_text(browser, run, tmp_path: Path):
    run.write_shard(run.sample("a", HOSTILE, ["cat"]))
    write_report(run.config, tmp_path / "report.html")
    visit = Visit(browser, tmp_path / "report.html")
    visit.scroll()
    assert visit.faults == []
    assert visit.page.title().startswith("t2ipal report")
    assert HOSTILE in visit.page.locator("#synthetic").inner_text()
    assert visit.page.locator("script").count() == 0


def test_the_keyboard_reaches_the_results_and_every_table_that_scrolls(browser, report):
    visit = Visit(browser, report)
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.className") == "skip"
    visit.page.keyboard.press("Enter")
    # The page hears of its new address some time after the key.
    visit.page.wait_for_url(re.compile("#content$"))
    assert visit.page.locator(".scroll").count() == visit.page.locator(".scroll[tabindex='0'][aria-label]").count() > 3


def test_a_screen_reader_finds_headings_in_order_and_a_text_for_each_picture(browser, report):
    visit = Visit(browser, report)
    levels = visit.page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert visit.page.locator("img:not([alt]), img[alt='']").count() == 0
    assert visit.page.locator("section:not([aria-labelledby])").count() == 0
    assert visit.page.get_by_role("navigation").get_by_role("link").count() == visit.page.locator("section").count()
