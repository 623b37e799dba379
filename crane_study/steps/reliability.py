"""Overlap of the sets that a rule selects on disjoint parts of the documents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.numpy import load_file, save_file

from crane_lib.methods import METHODS
from crane_lib.scores import UnitScores, statistics_file
from crane_lib.selection import Chosen
from crane_study.frames import read_frame, write_frame
from crane_study.profile import Selection
from crane_study.steps.relevance import HALVES, half_folder
from crane_study.steps.selection import select_all
from crane_study.uncertainty.overlap import COMPARED, as_neurons, compare

KINDS = ("activations", "slopes")  # learned gates and integrated gradients are too slow to make for every part


def of_documents(methods: Iterable[str]) -> list[str]:
    """Methods whose sets of parts of the documents follow from values of single documents."""
    return [name for name in methods if METHODS[name].needs in KINDS]


def write_part(folder: Path, documents: Path, languages: list[str], part: int, side: str) -> None:
    """Write the values of one of two disjoint parts (``a`` or ``b``) of 1 / `part` of the single documents."""
    for kind in KINDS:
        for language in languages:
            file = statistics_file(documents, kind, language)
            if file.is_file():
                values = load_file(file)
                count = len(next(iter(values.values())))
                start = 0 if side == "a" else count // 2
                chosen = {name: item[start : start + count // part].copy() for name, item in values.items()}
                save_file(chosen, statistics_file(folder, kind, language))


_COLUMNS = ["documents_share", "method", "budget", "language", *COMPARED]
_Side = tuple[UnitScores, dict[tuple[str, str], dict[str, Chosen]]]  # scores of a part, and the sets selected by them


def shared_by(first: _Side, second: _Side, *, share: float) -> pd.DataFrame:
    """Neurons shared by the sets of two parts, one row per method, budget and language."""
    (scores, chosen), (others, found) = first, second
    records = [
        (share, *key, a.language, *compare(as_neurons(a), as_neurons(b)).values())
        for key in chosen
        for a, b in zip(scores.sets(*key, chosen[key]), others.sets(*key, found[key]), strict=True)
    ]
    return pd.DataFrame(records, columns=_COLUMNS)


def make_reliability(
    folder: Path, *, relevance: Path, languages: list[str], objective: str, methods: Iterable[str], options: Any
) -> None:
    """Write reliability.csv: neurons shared by the sets of two disjoint parts of a language's documents, and by chance.

    One row per part of the documents (a half, a quarter, an eighth), method, budget and language. Sets of rows are
    compared as the neurons they kill, because the two rows of a neuron are often selected together. Methods that need
    values of single documents are left out.
    """
    names, selection = [name for name in methods if not METHODS[name].needs], Selection(**options)
    parts = [pd.DataFrame(columns=_COLUMNS)]
    for part in HALVES:
        folders = [half_folder(relevance, part, side) for side in "ab"]
        if all(path.is_dir() for path in folders):
            units = [UnitScores.read(path, objective=objective, languages=languages) for path in folders]
            first, second = ((one, select_all(one, names, selection)) for one in units)
            parts.append(shared_by(first, second, share=1 / part))
    write_frame(folder / "reliability.csv", pd.concat(parts[1:] or parts, ignore_index=True))


def make_document_reliability(
    folder: Path,
    *,
    streamed: Path,
    documents: Path,
    relevance: Path,
    languages: list[str],
    objective: str,
    methods: Iterable[str],
    options: Any,
) -> None:
    """Write reliability.csv: the rows of `streamed`, and those of methods that need values of single documents.

    Their parts are of the documents whose values were kept (selection.documents), halves of these and so on.
    """
    parts, selection = [read_frame(streamed / "reliability.csv")], Selection(**options)
    for part in HALVES:
        folders = {side: half_folder(relevance, part, side) for side in "ab"}
        if not all(path.is_dir() for path in folders.values()):
            continue
        sides = []
        for side, path in folders.items():
            with tempfile.TemporaryDirectory() as name:
                write_part(Path(name), documents, languages, part, side)
                units = UnitScores.read(path, objective=objective, languages=languages, documents=name)
                sides.append((units, select_all(units, of_documents(methods), selection)))
        parts.append(shared_by(*sides, share=1 / part))
    write_frame(folder / "reliability.csv", pd.concat(parts, ignore_index=True))
