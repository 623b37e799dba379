"""One table, three files: CSV at full precision, Markdown and LaTeX rounded and in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_float_dtype, is_numeric_dtype

from crane_lib.files import atomic, write_text
from crane_lib.output.style import METRIC_LABELS, MODEL_LABELS, budget_label, language_name, method_label

MISSING = "–"

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


def _alignment(frame: pd.DataFrame) -> list[bool]:
    """For every column whether it is set to the right."""
    return [bool(is_numeric_dtype(frame[name])) for name in frame.columns]


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
    texts, right = shown(frame, digits=digits), _alignment(frame)
    table = markdown(texts, right=right)
    write_text(path.with_name(f"{path.name}.md"), f"{escape_markdown(caption)}\n\n{table}")
    label = re.sub(r"[^A-Za-z0-9]+", "-", path.name).strip("-")
    write_text(path.with_name(f"{path.name}.tex"), latex(texts, right=right, caption=caption, label=label))
    return caption
