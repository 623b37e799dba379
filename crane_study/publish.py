"""Tables and figures of a section, kept under its number with their captions and shown in its notebook.

A table is written as CSV at full precision. What a reader sees (Markdown, LaTeX, and the HTML of the report) is made
by `table_words`, so all of them show the same words and digits.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from IPython.display import Markdown, display
from pandas.api.types import is_float_dtype, is_numeric_dtype

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json, write_text
from crane_study.frames import read_frame, write_frame
from crane_study.labels import (
    METRIC_LABELS,
    MODEL_LABELS,
    budget_label,
    first_sentence,
    is_named,
    language_name,
    method_label,
)
from crane_study.locks import locked

CAPTIONS = "captions.json"  # stem of a table or figure -> caption
NOT_RUN_FILE = "not_run.json"  # number of a section -> what was not run -> why
COLUMNS = "columns.json"  # in a folder of tables: decimals and text columns of each, which CSV cannot say
LOCK = ".captions.json.lock"  # guards these files, because sections run at the same time
REHEARSAL = "REHEARSAL (random model, made-up data; not a result)"
MISSING = "–"

_HEADERS = {
    "roc_auc": "ROC AUC",
    "largest": "Largest neurons",
    "relevance_first": "|R| at first token",
    "relevance_largest": "|R| of largest",
    "activation_first": "|h| at first token",
    "activation_largest": "|h| of largest",
    "paper_method": "Method in the paper",
    "own_published": "Its score: published",
    "own_ours": "Its score: ours",
    "most_published": "Loses most: published",
    "most_ours": "Loses most: ours",
    "expected_jaccard": "Jaccard by chance",
    "jaccard_low": "By chance, low",
    "jaccard_high": "By chance, high",
    "selected_on": "Selected on",
    "masked_share": "Share masked",
    "nll": "NLL (nats/token)",
    "delta_nll": "NLL rise",
    "langspec_f1": "LangSpec-F1",
    "own_drop": "Lost on it",
    "worst_other": "Worst other",
    "worst_other_drop": "Lost on worst other",
    "share_of_a": "Share of A",
    "expected_share_of_a": "By chance",
    "chance_low": "Chance, low",
    "chance_high": "Chance, high",
    "p_value": "p",
    "p_holm": "p (Holm)",
    "low": "95 % low",
    "high": "95 % high",
    "share_en": "Share, en",
    "share_zh": "Share, zh",
    "share_vi": "Share, vi",
    "language_a": "A",
    "language_b": "B",
    "count_a": "Units of A",
    "count_b": "Units of B",
    "own_rise": "Rise on it",
    "worst_other_rise": "Rise on worst other",
    "specific_rise": "Difference",
    "damage": "Damage (nats/token)",
    "dose": "Share silenced",
    "killed": "Neurons silenced",
    "worst": "Rise on worst other",
    "mean_other": "Rise on mean other",
    "reached": "Resamples that reach it",
    "best_rule": "Best relevance rule",
    "matched": "Rise on worst other per nat",
    "C1": "By the rule of C1",
    "n": "n",
}
_INTERVALS = {"own": "On it", "worst_other": "On worst other", "langspec": "LangSpec-F1", "mean": "Mean"}
_INTERVALS |= {"worst": "Rise on worst other", "mean_other": "Rise on mean other", "dose": "Share silenced"}
_INTERVALS["matched"] = "Per nat"
_HEADERS |= {f"{key}_{end}": f"{words}, 95 % {end}" for key, words in _INTERVALS.items() for end in ("low", "high")}
_WORDS: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(("method", "method_a", "method_b", "best_rule"), method_label),
    **dict.fromkeys(("budget", "budget_a", "budget_b"), budget_label),
    **dict.fromkeys(("model", "selected_on"), lambda name: MODEL_LABELS.get(name, name)),
    "metric": lambda name: METRIC_LABELS.get(name, name),
}
_LANGUAGES = re.compile(r".*language|language_[ab]|worst_other")  # columns of language codes
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "–": "--",
        "−": "$-$",
        "×": r"$\times$",
        "Δ": r"$\Delta$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "±": r"$\pm$",
        **{character: "\\" + character for character in "&%$#_{}"},
    }
)


# A terminal obeys the first, a reader's eye the second: texts of models and users may hold both.
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _one_line(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text)


def plain(text: str) -> str:
    """Return text with escapes for control characters, and for those that turn the direction of what follows."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def escape_latex(text: str) -> str:
    """Return text on one line with every special character of LaTeX escaped."""
    return _one_line(text).translate(_LATEX)


def escape_markdown(text: str) -> str:
    """Return text on one line, escaped for a cell of a Markdown table: no tag, link or picture comes of it."""
    return _one_line(text.replace("\\", "\\\\").replace("|", "\\|")).replace("<", "&lt;").replace("](", "]\\(")


def header_text(column: str) -> str:
    """Return the heading of a column: its name in words, or the language whose code it is."""
    if column in _HEADERS:
        return _HEADERS[column]
    if is_named(column) or (re.fullmatch(r"[a-z]{2}", column) and language_name(column) != column):
        return language_name(column)
    words = column.replace("_", " ")
    return words[:1].upper() + words[1:]


def _value_text(column: str, value: Any) -> str:
    """Return a value of a text column in words."""
    if pd.isna(value):
        return MISSING
    if _LANGUAGES.fullmatch(column):
        return language_name(str(value)) if value else "none"
    return plain(_WORDS.get(column, str)(str(value)))


def number_text(value: float, digits: int) -> str:
    """Return a number with `digits` decimals; too small ones in powers of ten, missing ones as a dash."""
    if pd.isna(value):
        return MISSING
    if value != 0 and abs(value) < 0.5 * 10**-digits:
        return f"{value:.0e}"
    return f"{value:z.{digits}f}"


@dataclass(frozen=True)
class TableText:
    """A table as readers see it."""

    headings: list[str]
    right: list[bool]  # for every column, True if it holds numbers and is aligned to the right
    rows: list[list[str]]

    def markdown(self) -> str:
        """Render as a Markdown table, without spaces that would align it: most of a long table would be spaces."""
        rules = ["--:" if flag else ":--" for flag in self.right]
        cells = [[escape_markdown(cell) for cell in row] for row in (self.headings, *self.rows)]
        return "".join(f"| {' | '.join(row)} |\n" for row in (cells[0], rules, *cells[1:]))

    def latex(self, *, caption: str, label: str) -> str:
        """Render as a LaTeX table (package booktabs)."""
        cells = pd.DataFrame(self.rows, columns=self.headings)
        styler = cells.style.hide(axis="index").format(escape_latex).format_index(escape_latex, axis=1)
        rendered: str = styler.to_latex(
            column_format="".join("r" if flag else "l" for flag in self.right),
            caption=escape_latex(caption),
            label=f"tab:{label}",
            position_float="centering",
            hrules=True,
        )
        return rendered


def table_words(frame: pd.DataFrame, *, digits: int = 3) -> TableText:
    """Put a table into words: codes as labels, numbers with `digits` decimals, headings from column names."""
    columns: dict[str, list[str]] = {}
    single = frame["draws"] == 1 if "draws" in frame else pd.Series(False, index=frame.index)
    for name in map(str, frame.columns):
        values = frame[name]
        if is_float_dtype(values):
            texts = values.map(lambda value: number_text(value, digits)).astype(object)
        elif is_numeric_dtype(values):
            texts = values.map(str).astype(object)
        else:
            texts = values.map(partial(_value_text, name))
        if name in ("lowest", "highest"):  # one draw has no range
            texts = texts.mask(single, MISSING)
        elif name == "random_seed":  # a set that is not drawn has none
            texts = texts.mask(values == -1, MISSING)
        columns[header_text(name)] = texts.tolist()
    right = [bool(is_numeric_dtype(frame[name])) for name in frame.columns]
    return TableText(list(columns), right, [list(row) for row in zip(*columns.values(), strict=True)])


def read_table(path: Path) -> TableText:
    """Read the CSV of a table (`path` without suffix) and show it as its Markdown file does."""
    about = read_object(path.with_name(COLUMNS)).get(path.name, {"digits": 3, "texts": []})
    frame = read_frame(path.with_name(f"{path.name}.csv"), texts=about["texts"])
    return table_words(frame, digits=about["digits"])


def write_table(frame: pd.DataFrame, path: Path, *, caption: str, digits: int = 3) -> str:
    """Write a table as ``path.csv`` (every digit), ``path.md`` and ``path.tex`` (rounded), and return its caption."""
    write_frame(path.with_name(f"{path.name}.csv"), frame)
    words = table_words(frame, digits=digits)
    texts = [str(name) for name, number in zip(frame.columns, words.right, strict=True) if not number]
    with _changing(path.with_name(COLUMNS)) as columns:
        columns[path.name] = {"digits": digits, "texts": texts}
    write_text(path.with_name(f"{path.name}.md"), f"{escape_markdown(caption)}\n\n{words.markdown()}")
    label = re.sub(r"[^A-Za-z0-9]+", "-", path.name).strip("-")
    write_text(path.with_name(f"{path.name}.tex"), words.latex(caption=caption, label=label))
    return caption


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if there is no such file."""
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise CraneError(f"{path}: expected an object; delete it and run again")
    return value


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, Any]]:
    """Lock and change a JSON object that sections share; it is deleted when nothing is left in it."""
    with locked(path.with_name(LOCK)):
        entries = read_object(path)
        yield entries
        if entries:
            write_json(path, dict(sorted(entries.items())))
        else:
            path.unlink(missing_ok=True)


def read_not_run(folder: Path) -> dict[str, dict[str, str]]:
    """Return what each section of a run could not do and why, by its number; empty if everything ran."""
    entries = read_object(folder / NOT_RUN_FILE)
    if not all(isinstance(reasons, dict) for reasons in entries.values()):
        raise CraneError(f"{folder / NOT_RUN_FILE}: expected an object of objects; delete it and run again")
    return entries


def keep_not_run(folder: Path, section: str, *, what: str, reason: str) -> None:
    """Record what a section, given by its number, could not do."""
    with _changing(folder / NOT_RUN_FILE) as entries:
        entries.setdefault(section, {})[what] = reason


def forget_not_run(folder: Path, section: str) -> None:
    """Remove what a section recorded earlier."""
    if section in read_not_run(folder):
        with _changing(folder / NOT_RUN_FILE) as entries:
            entries.pop(section, None)


class Publisher:
    """Tables and figures of one section, written into a run's folder and shown in the notebook.

    Create it at the beginning of the section: earlier records of what the section could not run are removed.
    """

    def __init__(self, folder: Path, section: str) -> None:
        self.folder = folder
        self.section = section
        profile = folder / "profile.yaml"
        rehearses = profile.is_file() and (yaml.safe_load(profile.read_text(encoding="utf-8")) or {}).get("rehearsal")
        self._mark = f"{REHEARSAL}: " if rehearses else ""
        forget_not_run(folder, section)

    def not_run(self, what: str, reason: str) -> None:
        """Print why a part of the section is not run, and record it for the reports."""
        keep_not_run(self.folder, self.section, what=what, reason=reason)
        print(f"NOT RUN: {reason}")

    def _keep_caption(self, stem: str, caption: str) -> None:
        with _changing(self.folder / CAPTIONS) as captions:
            captions[stem] = caption

    def table(self, name: str, frame: pd.DataFrame, caption: str, *, digits: int = 3) -> None:
        """Write a table as CSV, Markdown and LaTeX, and show it."""
        stem = f"tables/{self.section}_{name}"
        self._keep_caption(stem, write_table(frame, self.folder / stem, caption=self._mark + caption, digits=digits))
        display(Markdown((self.folder / f"{stem}.md").read_text(encoding="utf-8")))

    def figure(self, name: str, draw: Callable[..., str], data: Any, **options: Any) -> None:
        """Draw a figure as PNG and PDF, and show it with its alt text and caption."""
        from crane_study.figures.style import marked  # the runner imports this module, and has no use for seaborn

        stem = f"figures/{self.section}_{name}"
        with marked(self._mark.removesuffix(": ")):
            caption = self._mark + draw(data, self.folder / stem, **options)
        self._keep_caption(stem, caption)
        picture = (self.folder / f"{stem}.png").read_bytes()
        words = (self.folder / f"{stem}.txt").read_text(encoding="utf-8")
        both = {"image/png": b64encode(picture).decode("ascii"), "text/plain": words}
        display(both, raw=True, metadata={"image/png": {"alt": first_sentence(caption)}})
        display(Markdown(caption))
