"""A page as it is laid out for A4 paper, in headless Chromium."""

from contextlib import contextmanager

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
WIDTH = round((210 - 2 * 14) / 25.4 * 96)  # CSS pixels within margins of 14 mm
_WIDER = """edge => [...document.querySelectorAll('table, td, th, img')].filter(e =>
    e.getBoundingClientRect().right > edge + 1).map(e => e.outerHTML.slice(0, 80))"""


@contextmanager
def on_paper(browser, address):
    """The page under print media, as wide as the paper less its margins."""
    context = browser.new_context(viewport={"width": WIDTH, "height": 1016})
    page = context.new_page()
    page.goto(address)
    page.emulate_media(media="print", color_scheme="dark")
    yield page
    context.close()


def wider_than_paper(page):
    """List what reaches beyond the edge of the paper: the page itself, tables, their cells, pictures."""
    whole = page.evaluate("document.documentElement.scrollWidth")
    return [f"the page: {whole}"] * (whole > WIDTH) + page.evaluate(_WIDER, WIDTH)
