"""What a section shows it also keeps: tables and figures under its number, with their captions."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from IPython.display import Markdown, display
from pandas.api.types import is_float_dtype, is_numeric_dtype

from crane_lib.errors import CraneError
from crane_lib.files import atomic, read_json, write_json, write_text
from crane_study.figures.style import marked
from crane_study.labels import METRIC_LABELS, MODEL_LABELS, budget_label, first_sentence, language_name, method_label
from crane_study.locks import locked

NAME = "not_run.json"
LOCK = ".captions.json.lock"  # stands for all files that sections share, which may run at once
Entries = dict[str, dict[str, str]]  # number of a section -> what was not run -> why


def read_not_run(folder: Path) -> Entries:
    """What every section of a run could not do, by its number; empty where all was run.

    Raises
    ------
    CraneError : the file is there but is none of these
    """
    path = folder / NAME
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict) or not all(isinstance(entries, dict) for entries in value.values()):
        raise CraneError(f"{path}: expected an object of objects; delete it and run again")
    return value


def keep_not_run(folder: Path, section: str, *, what: str, reason: str) -> None:
    """Add what a section, named by its number, could not do."""
    with locked(folder / LOCK):
        entries = read_not_run(folder)
        entries.setdefault(section, {})[what] = reason
        write_json(folder / NAME, dict(sorted(entries.items())))


def forget_not_run(folder: Path, section: str) -> None:
    """Take away what a section said earlier; a file that says nothing any more goes, too."""
    if not (folder / NAME).is_file():
        return
    with locked(folder / LOCK):
        entries = read_not_run(folder)
        if entries.pop(section, None) is None:
            return
        if entries:
            write_json(folder / NAME, entries)
        else:
            (folder / NAME).unlink()


MISSING = "–"
COLUMNS = "columns.json"  # in a folder of tables: decimals and text columns of each, which CSV cannot say

_HEADERS = {
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
    "own_low": "On it, 95 % low",
    "own_high": "On it, 95 % high",
    "worst_other_low": "On worst other, 95 % low",
    "worst_other_high": "On worst other, 95 % high",
    "langspec_low": "LangSpec-F1, 95 % low",
    "langspec_high": "LangSpec-F1, 95 % high",
    "share_of_a": "Share of A",
    "expected_share_of_a": "By chance",
    "chance_low": "Chance, low",
    "chance_high": "Chance, high",
    "p_value": "p",
    "p_holm": "p (Holm)",
    "mean_low": "Mean, 95 % low",
    "mean_high": "Mean, 95 % high",
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
    "n": "n",
}
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
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
}


def escape_latex(text: str) -> str:
    """Text in one line in which every character that LaTeX gives a meaning to stands for itself."""
    text = re.sub(r"\s*\n\s*", " ", text)
    return "".join(_LATEX.get(character, character) for character in text)


def escape_markdown(text: str) -> str:
    """Text that stays in one cell of a Markdown table."""
    return re.sub(r"\s*\n\s*", " ", text.replace("\\", "\\\\").replace("|", "\\|")).replace("<", "&lt;")


def header_text(column: str) -> str:
    """Heading of a column: its name in words, or the language whose code it is."""
    if column in _HEADERS:
        return _HEADERS[column]
    if re.fullmatch(r"[a-z]{2}", column) and language_name(column) != column:
        return language_name(column)
    words = column.replace("_", " ")
    return words[:1].upper() + words[1:]


def _in_words(column: str) -> Callable[[str], str]:
    """How the values of a text column are shown."""
    if column in ("method", "method_a", "method_b"):
        return method_label
    if column in ("budget", "budget_a", "budget_b"):
        return budget_label
    if column == "metric":
        return lambda metric: METRIC_LABELS.get(metric, metric)
    if column in ("model", "selected_on"):
        return lambda model: MODEL_LABELS.get(model, model)
    if column.endswith("language") or column in ("language_a", "language_b", "worst_other"):
        return lambda code: language_name(code) if code else "none"
    return str


def number_text(value: float, digits: int) -> str:
    """A number with so many decimals; one that would vanish is given in powers of ten, a missing one as a dash."""
    if pd.isna(value):
        return MISSING
    if value != 0 and abs(value) < 0.5 * 10**-digits:
        return f"{value:.0e}"
    return f"{value:z.{digits}f}"


def shown(frame: pd.DataFrame, *, digits: int | Mapping[str, int] = 3) -> pd.DataFrame:
    """The frame as a reader sees it: every cell a text, headings in words."""
    columns: dict[str, list[str]] = {}
    # One draw has no range, and a set that is not drawn has no random seed.
    single = (frame["draws"] == 1).tolist() if "draws" in frame else [False] * len(frame)
    for name in map(str, frame.columns):
        values = frame[name]
        places = digits.get(name, 3) if isinstance(digits, Mapping) else digits
        if is_float_dtype(values):
            cells = [number_text(value, places) for value in values]
            if name in ("lowest", "highest"):
                cells = [MISSING if one else cell for one, cell in zip(single, cells, strict=True)]
        elif name == "random_seed":
            cells = [MISSING if value == -1 else str(value) for value in values]
        elif is_numeric_dtype(values):
            cells = [str(value) for value in values]
        else:
            words = _in_words(name)
            cells = [MISSING if pd.isna(value) else words(str(value)) for value in values]
        columns[header_text(name)] = cells
    return pd.DataFrame(columns)


def numeric_columns(frame: pd.DataFrame) -> list[bool]:
    """For every column whether it holds numbers, which tables set to the right."""
    return [bool(is_numeric_dtype(frame[name])) for name in frame.columns]


@dataclass(frozen=True)
class TableText:
    """A table as a reader sees it: headings, for each column whether it is set to the right, rows of texts."""

    headings: list[str]
    right: list[bool]
    rows: list[list[str]]


def read_table(path: Path) -> TableText:
    """Read the CSV file of a table as the Markdown file beside it shows it.

    Parameters
    ----------
    path : without suffix, as `write_table` takes it

    Raises
    ------
    CraneError : the file is missing
    """
    columns = path.with_name(COLUMNS)
    about = read_json(columns).get(path.name, {}) if columns.is_file() else {}
    file = path.with_name(f"{path.name}.csv")
    if not file.is_file():
        raise CraneError(f"{file}: no such file; run the section that makes it first")
    texts = dict.fromkeys(about.get("texts", []), "str")
    frame = pd.read_csv(file, keep_default_na=False, na_values=["NaN"], dtype=texts)
    cells = shown(frame, digits=about.get("digits", 3))
    return TableText(list(cells.columns), numeric_columns(frame), cells.to_numpy().tolist())


def markdown(texts: pd.DataFrame, *, right: list[bool]) -> str:
    """A Markdown table of texts."""
    lines = [
        [escape_markdown(name) for name in texts.columns],
        ["--:" if flag else ":--" for flag in right],
        *([escape_markdown(cell) for cell in row] for row in texts.itertuples(index=False)),
    ]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def latex(texts: pd.DataFrame, *, right: list[bool], caption: str, label: str) -> str:
    """A LaTeX table (package booktabs) of texts."""

    def line(cells: Any) -> str:
        return " & ".join(escape_latex(cell) for cell in cells) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(caption)}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{''.join('r' if flag else 'l' for flag in right)}}}",
            r"\toprule",
            line(texts.columns),
            r"\midrule",
            *(line(row) for row in texts.itertuples(index=False)),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def write_table(frame: pd.DataFrame, path: Path, *, caption: str, digits: int | Mapping[str, int] = 3) -> str:
    """Write a table as ``path.csv``, ``path.md`` and ``path.tex``.

    Parameters
    ----------
    path : without suffix; its last part is the label in LaTeX
    digits : decimals in Markdown and LaTeX, one number or one a column; the CSV keeps every digit

    Returns
    -------
    the caption
    """
    path = Path(path)
    with atomic(path.with_name(f"{path.name}.csv")) as temporary:
        frame.to_csv(temporary, index=False, na_rep="NaN")
    texts, right = shown(frame, digits=digits), numeric_columns(frame)
    named = [str(name) for name, number in zip(frame.columns, right, strict=True) if not number]
    with locked(path.with_name(f".{COLUMNS}.lock")):
        columns = path.with_name(COLUMNS)
        known = read_json(columns) if columns.is_file() else {}
        write_json(columns, dict(sorted({**known, path.name: {"digits": digits, "texts": named}}.items())))
    table = markdown(texts, right=right)
    write_text(path.with_name(f"{path.name}.md"), f"{escape_markdown(caption)}\n\n{table}")
    label = re.sub(r"[^A-Za-z0-9]+", "-", path.name).strip("-")
    write_text(path.with_name(f"{path.name}.tex"), latex(texts, right=right, caption=caption, label=label))
    return caption


CAPTIONS = "captions.json"
REHEARSAL = "REHEARSAL (random model, made-up data; not a result)"


def _is_rehearsal(folder: Path) -> bool:
    """Whether the run in a folder only rehearses, as its resolved profile says."""
    try:
        profile = yaml.safe_load((folder / "profile.yaml").read_text(encoding="utf-8"))
    except OSError:
        return False
    return isinstance(profile, dict) and bool(profile.get("rehearsal"))


class Publisher:
    """Tables and figures of one section, written below a run's folder and shown in the notebook.

    Made at the section's beginning: what the section said earlier that it could not run is forgotten.
    """

    def __init__(self, folder: Path, section: str) -> None:
        self.folder = folder
        self.section = section
        self._mark = REHEARSAL if _is_rehearsal(folder) else ""
        forget_not_run(folder, section)

    def _caption(self, name: str, caption: str) -> None:
        path = self.folder / CAPTIONS
        with locked(self.folder / LOCK):
            try:
                captions = read_json(path)
            except CraneError:
                captions = {}
            write_json(path, dict(sorted({**captions, name: caption}.items())))

    def not_run(self, what: str, reason: str) -> None:
        """Say why a part of the section is not run, and keep it for the reports."""
        keep_not_run(self.folder, self.section, what=what, reason=reason)
        print(f"NOT RUN: {reason}")

    def table(self, name: str, frame: pd.DataFrame, caption: str, *, digits: int | Mapping[str, int] = 3) -> None:
        """Write a table as CSV, Markdown and LaTeX, and show it."""
        stem = f"tables/{self.section}_{name}"
        caption = f"{self._mark}: {caption}" if self._mark else caption
        text = write_table(frame, self.folder / stem, caption=caption, digits=digits)
        self._caption(stem, text)
        display(Markdown((self.folder / f"{stem}.md").read_text(encoding="utf-8")))

    def figure(self, name: str, draw: Callable[..., str], data: Any, **options: Any) -> None:
        """Draw a figure as PNG and PDF, and show it with its caption; its text is what it shows, in words."""
        stem = f"figures/{self.section}_{name}"
        with marked(self._mark):
            caption = draw(data, self.folder / stem, **options)
        caption = f"{self._mark}: {caption}" if self._mark else caption
        self._caption(stem, caption)
        picture = (self.folder / f"{stem}.png").read_bytes()
        words = (self.folder / f"{stem}.txt").read_text(encoding="utf-8")
        both = {"image/png": b64encode(picture).decode("ascii"), "text/plain": words}
        display(both, raw=True, metadata={"image/png": {"alt": first_sentence(caption)}})
        display(Markdown(caption))
