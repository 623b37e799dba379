"""Verdicts on claims as a file and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json
from crane_study.labels import METRIC_LABELS, method_label
from crane_study.paper.claims import NOT_RUN

SCHEMA = "crane.claims/2"


def write_claims(path: Path, verdicts: Sequence[Mapping[str, Any]], *, profile: str) -> None:
    """Write verdicts to a JSON file; numbers that could not be computed are null."""
    write_json(path, {"schema": SCHEMA, "profile": profile, "verdicts": [_finite(item) for item in verdicts]})


def _finite(value: Any) -> Any:
    """The same value with None for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def read_claims(path: Path) -> list[dict[str, Any]]:
    """Verdicts written by `write_claims`."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise CraneError(f"{path}: is not a file of verdicts (expected schema {SCHEMA!r})")
    return value["verdicts"]


def case_label(item: Mapping[str, Any], separator: str) -> str:
    """Method and measure of a verdict."""
    measure = METRIC_LABELS.get(item["measure"], item["measure"]).lower()
    return method_label(item["method"], item["budget"]) + (separator + measure if measure else "")


def verdict_table(verdicts: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Verdicts with one row per claim and one column per method and measure.

    A claim without a measure has its one verdict per method in that method's first column.
    """
    headings = {(item["method"], item["measure"]): case_label(item, ": ") for item in verdicts if item["measure"]}
    first = dict(reversed(headings))
    found = {
        (item["id"], item["method"], item["measure"] or first.get(item["method"], "")): item["verdict"]
        for item in verdicts
    }
    table: dict[str, list[str]] = {
        "claim": list(dict.fromkeys(item["id"] for item in verdicts)),
        "statement": list(dict.fromkeys(item["title"] for item in verdicts)),
    }
    for (method, measure), heading in headings.items():
        table[heading] = [found.get((claim, method, measure), "") for claim in table["claim"]]
    return pd.DataFrame(table)


def not_run(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line with the reason for every verdict that could not be reached."""
    missing = [item for item in verdicts if item["verdict"] == NOT_RUN]
    return [f"{item['id']}, {case_label(item, ', ')}: {item['detail']}" for item in missing]
