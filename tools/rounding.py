"""Table of how far runs with equal weights differ by rounding, in Markdown, one row per tolerance.

    python -m tools.rounding artifacts/mini OTHER/mini ...

The first run is the reference, the others are the same run with other instruction sets or numbers of threads. The
table gives for each rule of `rounding` in expected/tolerances.yaml how many numbers it covers, how many of them differ
in a run, and the largest differences. docs/verification.md shows it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd

from crane_run.manifest import read_manifest
from crane_run.verify import Reference, reference_of
from crane_study.paper.tolerances import load_tolerances


def differences(ours: Reference, theirs: Reference) -> pd.DataFrame:
    """Every number that both have: place, rule, both values.  One row per number."""
    rules = load_tolerances().reproduction.of_profile(str(theirs.profile["name"])).of_equal_weights()
    rows = []
    for name, table in theirs.tables.items():
        metric_at = table.key.index("metric") if "metric" in table.key else None
        for row, cells in table.rows.items():
            metric = "" if metric_at is None else row.split(" / ")[metric_at]
            found = dict(zip(ours.tables[name].columns, ours.tables[name].rows[row], strict=True))
            for column, reference in zip(table.columns, cells, strict=True):
                value = found[column]
                if isinstance(value, int | float) and isinstance(reference, int | float):
                    rule = rules.rule(table=name, column=column, metric=metric)
                    if rule.compared:
                        rows.append((name, row, column, rule.why, value, reference))
    return pd.DataFrame(rows, columns=["table", "row", "column", "rule", "value", "reference"])


def summary(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Largest differences by rule and run."""
    table: dict[str, dict[str, object]] = defaultdict(dict)
    for run, frame in frames.items():
        off = (frame["value"] - frame["reference"]).abs()
        frame = frame.assign(off=off, relative=off / frame["reference"].abs().clip(lower=1e-3))
        for rule, part in frame.groupby("rule", sort=False):
            worst = part.loc[part["off"].idxmax()]
            table[str(rule)]["numbers"] = len(part)
            table[str(rule)][f"{run}: differ"] = int((part["off"] > 0).sum())
            table[str(rule)][f"{run}: largest"] = f"{worst['off']:.2g} ({worst['reference']:.4g})"
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("tolerance").reset_index()


def main() -> None:
    """Compare the runs named on the command line with the first of them."""
    folders = [Path(name) for name in sys.argv[1:]]
    if len(folders) < 2:
        raise SystemExit("tools.rounding: give two or more folders of finished runs, the reference first")
    first, *others = [reference_of(folder, read_manifest(folder)) for folder in folders]
    frames = {
        str(folder.parent.name): differences(other, first) for folder, other in zip(folders[1:], others, strict=True)
    }
    print(summary(frames).to_markdown(index=False))
    for run, frame in frames.items():
        off = (frame["value"] - frame["reference"]).abs()
        worst = frame.assign(off=off).sort_values("off", ascending=False).head(25)
        print(f"\n{run}: the largest\n", worst.to_string(index=False, max_colwidth=80), sep="")


if __name__ == "__main__":
    main()
