"""Two of a kind side by side: files of neuron sets, results of crane evaluate, folders of runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from crane_lib.errors import CraneError
from crane_run.references import Reference, reference_of
from crane_run.verify import whole_manifest
from crane_study.frames import read_frame
from crane_study.own.measure import effect_table
from crane_study.own.sets import overlap_table, read_sets

_TABLES = (".parquet", ".csv")
_SET = ["method", "budget", "draw"]
_PLACE = ["masked_language", "task", "language", "metric"]
Compared = dict[str, pd.DataFrame]  # frames by name, the largest differences first


def compare_paths(first: Path, second: Path) -> Compared:
    """Compare two paths of one kind: ``overlaps`` of sets, ``effects`` of results, ``differences`` of runs.

    Paths of different kinds, or with nothing in common, are a CraneError.
    """
    for path in (first, second):
        if not path.exists():
            raise CraneError(f"{path}: no such file or folder")
    if first.is_dir() and second.is_dir():
        return compare_runs(*(reference_of(path, whole_manifest(path)) for path in (first, second)))
    if first.is_file() and second.is_file():
        tables = [path.suffix in _TABLES for path in (first, second)]
        if all(tables):
            return {"effects": compare_results(first, second)}
        if not any(tables):
            return {"overlaps": overlap_table(read_sets(first), read_sets(second))}
    raise CraneError(
        f"{first} and {second}: give two files of neuron sets, two results of crane evaluate, or two folders of runs"
    )


def _effects(path: Path) -> pd.DataFrame:
    found = read_frame(path, texts=["budget"])
    if lacking := {*_SET, *_PLACE, "item", "value", "weight"} - set(found):
        raise CraneError(f"{path}: is not a result of crane evaluate (has no column {sorted(lacking)[0]!r})")
    return effect_table(found)


def compare_results(first: Path, second: Path) -> pd.DataFrame:
    """Rises under equal sets, or under the only set of each file by language, with the difference second - first."""
    one, other = _effects(first), _effects(second)
    keys = [*_SET, *_PLACE]
    if one.merge(other, on=keys).empty and all(len(table[_SET].drop_duplicates()) == 1 for table in (one, other)):
        keys = _PLACE
    table = one.merge(other, on=keys, suffixes=("_first", "_second"))
    if table.empty:
        raise CraneError(f"{first} and {second}: have no set, task and language in common")
    table["difference"] = table["rise_second"] - table["rise_first"]
    columns = [f"{name}_{which}" for which in ("first", "second") for name in ("rise", "low", "high")]
    ordered = table.iloc[table["difference"].abs().argsort(kind="stable")[::-1]]
    return ordered[[*keys, *columns, "difference"]].reset_index(drop=True)


def compare_runs(first: Reference, second: Reference) -> Compared:
    """Compare the numbers of all tables, and the verdicts, that two runs have in common.

    `size` is the difference divided by the largest value of its column in both runs, which puts tables of different
    units in one order.
    """
    rows = []
    for name in first.tables.keys() & second.tables.keys():
        one, other = (pd.DataFrame.from_dict(run.tables[name].rows, orient="index") for run in (first, second))
        one.columns, other.columns = first.tables[name].columns, second.tables[name].columns
        for column in [column for column in one if column in other]:
            both = pd.DataFrame({"first": one[column], "second": other[column]}).loc[
                one.index.intersection(other.index)
            ]
            both = both.apply(pd.to_numeric, errors="coerce").dropna()
            difference, largest = both["second"] - both["first"], both.abs().to_numpy().max(initial=0)
            size = difference.abs() / (largest or 1)
            place = {"table": name, "row": both.index, "column": column}
            rows.append(pd.DataFrame({**place, **both, "difference": difference, "size": size}))
    if not rows:
        raise CraneError("the two runs have no table in common")
    table = pd.concat(rows, ignore_index=True).sort_values(["size", "table", "row"], ascending=[False, True, True])
    cases = [case for case in first.verdicts if first.verdicts[case] != second.verdicts.get(case, "not there")]
    verdicts = [(case, first.verdicts[case], second.verdicts.get(case, "not there")) for case in cases]
    return {
        "differences": table.reset_index(drop=True),
        "verdicts": pd.DataFrame(verdicts, columns=["case", "first", "second"]),
    }
