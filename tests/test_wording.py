"""Everything that is read, from docstrings to notebooks, is in plain technical English."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crane_study import ROOT

BANNED = (
    r"parted by",  # separated by
    r"reckon(s|ed|ing)?",  # estimated, computed
    r"seldom",  # rarely
    r"anew",  # again
    r"(held|holds?|holding) (\w+ ){0,4}against",  # compared with
    r"(stands?|stood|standing) (beside|next to)",  # is beside
    r"dealt out",  # distributed
)
COUNTED = (  # a noun, not the verb of "Draw a figure": "one row per claim"
    r"(rows?|lines?|files?|figures?|documents?|columns?|questions?|tables?|bars?|panels?|curves?|colou?rs?|entry"
    r"|entries|one|set|mask|score|value|pass|process|number|draw|time|task)"
    r" an? (claim|language|method|row|time|model|section|document|neuron|layer|token|seed|process|mask|budget|set|site"
    r"|figure|table|test|topic|name|value|GPU|machine|core|family|stage|batch|shard|prompt|answer|question|word)"
)
STARTS = re.compile(r"(What|Whether|Where|Which|How|When|Who)\b")
PATTERN = re.compile(rf"\b((?i:{'|'.join(BANNED)})|{COUNTED})\b".replace(" ", r"\s+"))
ENDINGS = (".py", ".md", ".ipynb", ".yaml", ".yml", ".toml", ".sh", ".jinja", "Dockerfile")
EXEMPT = ("CHANGELOG.md", "tests/test_wording.py", "crane_study/data/wordings.yaml")


def texts() -> list[Path]:
    """Files of the repository that hold text, but for those exempt."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs a git repository")
    names = sorted(name for name in listed.stdout.split("\0") if name.endswith(ENDINGS) and name not in EXEMPT)
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def source(path: Path) -> str:
    """The text of a file; of a notebook its cells, without outputs."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Yield line number and text of every docstring."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            if doc:
                yield getattr(node, "lineno", 1), doc


def problems(path: Path) -> list[str]:
    """List the banned phrases of a file as ``file:line: phrase``."""
    text, name = source(path), path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    found = []
    joined = re.sub(r"\n[ \t#>*]*", lambda match: " " * len(match[0]), text)  # a phrase may go on in the next line
    for match in PATTERN.finditer(joined):
        found.append(f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {' '.join(match[0].split())!r}")
    if path.suffix == ".py":
        found += [
            f"{name}:{line}: docstring starts with {doc.split()[0]!r}"
            for line, doc in docstrings(text)
            if STARTS.match(doc)
        ]
    return found


def test_text_is_plain_english() -> None:
    found = [problem for path in texts() for problem in problems(path)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ('"""Rows, reckoned."""', "reckoned"),
        ("x = 1  # a value is held\n# against another", "held against"),
        ('"""One row a claim."""', "row a claim"),
        ('def f():\n    """Whether it is there."""', "Whether"),
    ],
)
def test_a_banned_phrase_is_found(tmp_path: Path, text: str, phrase: str) -> None:
    (tmp_path / "code.py").write_text(text + "\n")
    (problem,) = problems(tmp_path / "code.py")
    assert phrase in problem


def test_ordinary_sentences_pass(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text('"""Return whether a row per claim stands in the file."""\n')
    assert problems(tmp_path / "code.py") == []
