"""Intermediate files of a run: list, load, describe and draw them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from crane_lib.errors import CraneError
from crane_lib.files import read_json
from crane_lib.neurons import SCHEMA as NEURON_SETS
from crane_lib.neurons import read_neuron_sets
from crane_run.inspect.html import array_figure, column_figure, picture, raw_table, sets_figure, table
from crane_run.inspect.run import FinishedRun
from crane_study.frames import read_frame
from crane_study.store import RECORD

ENDINGS = (".safetensors", ".parquet", ".csv", ".json", ".jsonl")
_LONGEST_TEXT = 4000  # characters of a JSON file that are shown
_MOST_ROWS = 8


@dataclass(frozen=True)
class LoadedFile:
    """One loaded file of kind ``tensors``, ``table``, ``sets`` (of neurons) or ``json``.

    `parts` are the names of tensors or columns, each of which can be drawn. `value` is a frame, neuron sets or a JSON
    value; tensors are read one at a time.
    """

    path: Path
    kind: str
    parts: tuple[str, ...]
    value: Any = None


def list_files(run: FinishedRun) -> list[str]:
    """Intermediate files of a run that can be loaded, as paths below its ``stages/``."""
    root = run.folder / "stages"
    found = (path.relative_to(root) for path in root.rglob("*") if path.suffix in ENDINGS and path.is_file())
    return sorted(str(path) for path in found if not any(part.startswith(".") for part in path.parts))


def load_file(run: FinishedRun, name: str) -> LoadedFile:
    """Load a file of a run by its path below ``stages/``; one that is not there or damaged is a CraneError."""
    root = (run.folder / "stages").resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise CraneError(f"{name}: the run has no such file below {root}")
    if path.suffix not in ENDINGS:
        raise CraneError(f"{name}: cannot be drawn; files that can end in {', '.join(ENDINGS)}")
    stage = path.relative_to(root).parts[0]
    if (root / stage / RECORD).is_file():  # else a file that the user has put there
        run.stage(stage)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return LoadedFile(path, "tensors", tuple(sorted(file.keys())))
        if path.suffix == ".json":
            value = read_json(path)
            if isinstance(value, dict) and value.get("schema") == NEURON_SETS:
                return LoadedFile(path, "sets", (), read_neuron_sets(path))
            return LoadedFile(path, "json", (), value)
        frame = pd.read_json(path, lines=True, dtype=False) if path.suffix == ".jsonl" else read_frame(path)
        return LoadedFile(path, "table", tuple(map(str, frame.columns)), frame)
    except (SafetensorError, ValueError, OSError) as error:
        raise CraneError(f"{path}: is damaged ({' '.join(str(error).split())[:120]}); run its section again") from error


def read_tensor(loaded: LoadedFile, name: str) -> np.ndarray:
    """Read one tensor of a file of tensors in float64."""
    if name not in loaded.parts:
        raise CraneError(f"{loaded.path.name}: has no tensor {name!r}; it has {', '.join(loaded.parts[:8])}")
    with safe_open(loaded.path, framework="pt") as file:
        return file.get_tensor(name).double().numpy()


def describe_file(loaded: LoadedFile) -> str:
    """Describe the content of a file as HTML."""
    if loaded.kind == "tensors":
        with safe_open(loaded.path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in loaded.parts}
            rows = [[name, " × ".join(map(str, part.get_shape())), part.get_dtype()] for name, part in slices.items()]
        return table(["Tensor", "Shape", "Type"], rows[:40], caption=f"{len(rows)} tensors")
    if loaded.kind == "table":
        rows, columns = loaded.value.shape
        return raw_table(loaded.value.head(_MOST_ROWS), caption=f"{rows:,} rows, {columns} columns; the first")
    if loaded.kind == "sets":
        rows = [[item.language, str(item.random_seed), f"{item.count():,}"] for item in loaded.value]
        return table(["Language", "Draw (-1: none)", "Units"], rows[:_MOST_ROWS], caption=f"{len(rows)} sets")
    text = json.dumps(loaded.value, ensure_ascii=False, indent=1)
    text = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "\n…"
    return f'<pre tabindex="0" style="max-height:24em;overflow:auto;color:inherit">{escape(text)}</pre>'


def draw_file(loaded: LoadedFile, part: str = "") -> tuple[bytes, str] | None:
    """Draw a file, or one tensor or column of it (the first if none is named), as PNG and caption.

    None if there is nothing to draw (a JSON text, an empty table); a part that the file lacks is a CraneError.
    """
    if loaded.kind == "sets" and loaded.value:
        return picture(sets_figure, loaded.value)
    if not loaded.parts:
        return None
    part = part or loaded.parts[0]
    if loaded.kind == "tensors":
        return picture(array_figure, read_tensor(loaded, part), name=part)
    if part not in loaded.parts:
        raise CraneError(f"{loaded.path.name}: has no column {part!r}; it has {', '.join(loaded.parts)}")
    return picture(column_figure, loaded.value[part]) if len(loaded.value) else None
