"""Pages of the documentation site beside docs/: a hook of mkdocs.yml, and docstrings as griffe reads them.

README.md is the first page of the site; other documents of the repository that pages link to lie in its folder
`repository/`. Links between all of them are written for the repository and changed here for the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from textwrap import indent
from typing import Any

from griffe import Docstring, Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {"README.md": "index.md"} | {  # document of the repository -> page
    name: f"repository/{name.replace('/', '-').lower()}"
    for name in (
        "ARTIFACT-APPENDIX.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "benchmarks/README.md",
        "expected/README.md",
    )
}
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
_SECTION = re.compile(r"^(Attributes|Parameters|Raises|Returns)\n-+\n((?:.+(?:\n|\Z))+)", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents outside docs/ to the pages."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_rest: Any) -> str:
    """Change the links of a page from places in the repository to places in the site."""
    own: str = page.file.src_uri
    source = {page: source for source, page in OUTSIDE.items()}.get(own, f"docs/{own}")

    def changed(link: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        place = OUTSIDE.get(place, place.removeprefix("docs/"))
        return f"]({posixpath.relpath(place, posixpath.dirname(own) or '.')}"

    return _LINK.sub(changed, markdown)


class OneLineEntries(Extension):
    """Docstrings whose entries are ``name : description``, where numpydoc has a type and the description below."""

    def on_object(self, *, obj: Object, **_rest: Any) -> None:
        """Put the descriptions where griffe looks for them; it takes types from the signature."""
        if isinstance(obj.docstring, Docstring):
            obj.docstring.value = _SECTION.sub(_with_descriptions_below, obj.docstring.value)


def _with_descriptions_below(section: re.Match[str]) -> str:
    colon = " :" if section[1] == "Returns" else ""
    entries = re.sub(r"^(\w[\w, ]*?) : (.*)$", rf"\1{colon}\n    \2", section[2], flags=re.MULTILINE)
    if colon and entries == section[2]:  # a description without a name
        entries = ":\n" + indent(entries, "    ")
    return f"{section[1]}\n{'-' * len(section[1])}\n{entries}"
