"""The page of a made-up run in headless Chromium: nothing fetched, nothing cut off, readable by everybody."""

import shutil
from itertools import pairwise

import pandas as pd
import pytest

from crane_lib.files import read_json, write_json
from crane_run.report import write_reports
from crane_study.publish import write_table
from tests.study.outputs.paper import FLAGS, on_paper, wider_than_paper

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")

# Contrast of every text that is shown, against the nearest colour behind it (WCAG 2.2, relative luminance).
CONTRAST = """() => {
  const part = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.body.querySelectorAll('*')) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    const [a, b] = [light(numbers(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([ratio, element.tagName + ': ' + element.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""
OPEN = "document.querySelectorAll('details').forEach(d => d.open = true)"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(made):
    write_reports(made)
    return (made / "report.html").as_uri()


@pytest.fixture(params=[(360, "light"), (360, "dark"), (1280, "light"), (1280, "dark")], ids=lambda p: f"{p[0]}-{p[1]}")
def page(browser, address, request):
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 740}, color_scheme=scheme)
    opened = context.new_page()
    opened.said, opened.asked = [], []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda asked: opened.asked.append(asked.url))
    opened.goto(address)
    yield opened
    context.close()


def test_it_loads_alone_without_complaint_and_does_not_scroll_sideways(page, address):
    assert page.said == []
    assert [asked for asked in page.asked if not asked.startswith("data:")] == [address]
    page.evaluate(OPEN)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    cut = page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .skip') &&
        e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert cut == []


def test_every_text_has_contrast_and_figures_stay_on_white(page):
    page.evaluate(OPEN)
    found = page.evaluate(CONTRAST)
    assert len(found) > 100
    assert [entry for entry in found if entry[0] < 4.5] == []
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
    assert page.evaluate("getComputedStyle(document.querySelector('img')).backgroundColor") == "rgb(255, 255, 255)"


def test_structure_for_those_who_listen(page, made):
    levels = [int(tag[1]) for tag in page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => h.tagName)")]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for landmark in ("header", "nav[aria-label]", "main", "footer"):
        assert page.locator(landmark).count() == 1
    assert page.get_attribute("html", "lang") == "en"
    for every, holds in (
        ("table", "e.caption && e.caption.textContent.trim()"),
        ("th", "e.scope"),
        (".scroll[tabindex]", "e.getAttribute('aria-label')"),
        ("img", "e.complete && e.naturalWidth && e.alt.length > 10 && e.closest('figure')"),
    ):
        assert page.locator(every).count()
        assert page.evaluate(f"[...document.querySelectorAll('{every}')].every(e => {holds})")
    headings = page.locator("h3").all_inner_texts()
    for item in read_json(made / "claims.json")["verdicts"]:
        assert f"{item['id']}. {item['title']}" in headings


def test_the_keyboard_reaches_the_content(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "To the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.fixture(scope="module")
def paper(browser, made, tmp_path_factory):
    """The page on A4 paper, with a table as wide as the widest of the study."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("paper") / "mini")
    columns = [
        *("method", "budget", "random_seed", "language_a", "language_b"),
        *(f"expected_share_{n}" for n in range(11)),
    ]
    wide = pd.DataFrame({name: ["activation_contrast", "en"] if name in columns[:5] else 0.123456 for name in columns})
    write_table(wide, folder / "tables" / "02_wide", caption="Wide.")
    write_json(folder / "captions.json", {**read_json(folder / "captions.json"), "tables/02_wide": "Wide."})
    write_reports(folder)
    with on_paper(browser, (folder / "report.html").as_uri()) as page:
        yield page


def test_print_is_black_on_white_without_navigation_and_fits(paper):
    assert paper.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert paper.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert paper.locator("table").count() > 5
    assert wider_than_paper(paper) == []


def test_what_is_folded_up_is_printed(paper):
    hidden = """() => [...document.querySelectorAll('details > :not(summary), details td, details dd')]
        .filter(e => e.textContent.trim() && !(e.checkVisibility() && e.getBoundingClientRect().height))
        .map(e => e.outerHTML.slice(0, 80))"""
    assert paper.locator("details:not([open]) td").count() > 100
    assert paper.evaluate(hidden) == []
    pages = paper.pdf(format="A4").count(b"/Type /Page\n")
    paper.evaluate("document.querySelectorAll('details').forEach(d => d.remove())")
    assert pages > paper.pdf(format="A4").count(b"/Type /Page\n") > 0
    paper.reload()
    paper.emulate_media(media="screen")
    assert len(paper.evaluate(hidden)) > 100  # on a screen it stays folded up
    paper.emulate_media(media="print")
