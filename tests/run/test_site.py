"""The documentation as a site: it is built without warnings, is whole, and asks no other server for anything."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag

import pytest

import crane_lib
from crane_study import ROOT
from tools.site_pages import OUTSIDE, OneLineEntries, on_page_markdown

DOCS = ROOT / "docs"


class Page(HTMLParser):
    """Anchors, links and loaded files of a page."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif tag == "link" and given.get("rel") not in ("next", "prev", "canonical"):
            self.loaded.add(given["href"])
        elif "src" in given:
            self.loaded.add(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    settings = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT), "no_proxy": "*"}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def read(site):
    return {path.relative_to(site).as_posix(): Page(path.read_text("utf-8")) for path in site.rglob("*.html")}


def test_every_document_is_a_page(read):
    documents = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | set(OUTSIDE.values())
    assert set(read) == {name.replace(".md", ".html") for name in documents} | {"404.html"}
    assert "api.html" in read
    assert read["api.html"].anchors >= {f"crane_lib.{name}" for name in crane_lib.__all__}
    assert any("selectivity.png" in name for name in read["index.html"].loaded)


def test_no_page_loads_from_another_server(site, read):
    for name, page in read.items():
        assert [place for place in page.loaded if re.match(r"\w+:|//", place)] == [], name
    for path in site.rglob("*.css"):
        outside = re.findall(r"(?:url\(|@import )[\"']?(?:https?:|//)[^\"')]*", path.read_text("utf-8"))
        assert outside == [], path.name


def test_every_link_has_its_end(site, read):
    for name, page in read.items():
        if name == "404.html":  # its links begin at the server's root
            continue
        for link in page.links | page.loaded:
            place, anchor = urldefrag(unquote(link))
            if re.match(r"\w+:", place):
                continue
            target = ((site / name).parent / place).resolve() if place else site / name
            assert target.exists(), (name, link)
            if anchor and target.suffix == ".html":
                assert anchor in read[target.relative_to(site.resolve()).as_posix()].anchors | {""}, (name, link)


def test_links_are_changed_from_the_repository_to_the_site():
    def changed(source, text):
        file = type("File", (), {"src_uri": source})
        return on_page_markdown(text, page=type("Page", (), {"file": file}))

    assert changed("index.md", "![a](docs/x.png) [b](docs/y.md#z)") == "![a](x.png) [b](y.md#z)"
    assert changed("tutorials/a.md", "[c](../../CONTRIBUTING.md)") == "[c](../repository/contributing.md)"
    assert changed("repository/contributing.md", "[d](docs/map.md), [e](#f)") == "[d](../map.md), [e](#f)"
    assert changed("study.md", "[g](https://a.org/b.md)") == "[g](https://a.org/b.md)"


def test_one_line_entries_of_docstrings_become_names_with_descriptions():
    from griffe import Docstring, Function

    text = "Do.\n\nParameters\n----------\na, b : two\n    things\n\nReturns\n-------\nwhat it is\nand more\n"
    function = Function("f", docstring=Docstring(text))
    OneLineEntries().on_object(obj=function)
    expected = "Do.\n\nParameters\n----------\na, b\n    two\n    things\n\n"
    assert function.docstring.value == expected + "Returns\n-------\n:\n    what it is\n    and more"
