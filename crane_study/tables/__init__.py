"""The study's tables: from tidy rows to frames that are written as CSV, Markdown and LaTeX, one module per topic.

Languages and methods stay codes, so that a program can read the CSV; `crane_study.publish.write_table` replaces them by
words.
"""

from __future__ import annotations

import pandas as pd

from crane_study.labels import METRIC_LABELS, ordered_languages, ordered_sets


def in_study_order(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Rows sorted by some columns: methods, budgets, metrics and languages in the study's order, the rest by value."""

    def rank(column: pd.Series) -> pd.Series:
        values = list(column)
        if column.name == "method":
            order = [method for method, _ in ordered_sets((value, "") for value in values)]
        elif column.name == "budget":
            order = sorted(set(values), key=lambda budget: (budget != "", budget != "published", budget))
        elif column.name == "metric":
            order = [*METRIC_LABELS, *sorted(set(values) - set(METRIC_LABELS))]
        elif str(column.name).endswith("language"):
            order = ["", *ordered_languages(value for value in values if value)]
        else:
            order = sorted(set(values))
        return column.map({value: number for number, value in enumerate(order)})

    return frame.sort_values(columns, key=rank, kind="stable").reset_index(drop=True)
