"""Neurons that LAPE's authors published for a model, read as neuron sets and compared with our LAPE sets."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from crane_lib.errors import CraneError
from crane_lib.neurons import NEURON, NeuronSet
from crane_study.uncertainty.overlap import COMPARED, compare

if TYPE_CHECKING:
    from crane_study.profile import Paper

PUBLISHED_LIST = "lape_list"  # the method's name in tables
# Language of each entry of a list, by number of entries; the file does not say it, the authors' code does. Lists of
# others have other languages, which the profile names.
LANGUAGES = {7: ("en", "zh", "fr", "es", "vi", "id", "ja"), 6: ("en", "zh", "fr", "es", "vi", "id")}


def load_tensors(path: Path) -> Any:
    """Read a file of torch that holds tensors and plain values; one that would run code is refused.

    Raises
    ------
    CraneError : no such file, or another
    """
    try:
        if zipfile.is_zipfile(path) and zipfile.ZipFile(path).testzip():  # torch does not compare checksums
            raise ValueError
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file breaks the reader anywhere
        what = "tensors that torch reads without running code"
        raise CraneError(f"{path}: is not a file of {what} ({type(error).__name__}); fetch it again") from error


def _by_language(path: Path, languages: Sequence[str], wanted: Sequence[str]) -> dict[str, list[Any]]:
    """Entries of the file per layer, for each language; those `wanted` must be among them."""
    if not path.is_file():
        raise CraneError(f"{path}: no such file; paper.lape_list names the list that LAPE's authors published (.pth)")
    value = load_tensors(path)
    if not isinstance(value, list) or not all(isinstance(entry, list) for entry in value):
        raise CraneError(f"{path}: expected a list over languages of lists over layers, saw {type(value).__name__}")
    names = tuple(languages) or LANGUAGES.get(len(value), ())
    if value and len(value) == len(names) - 1:  # the code that writes lists leaves out a last language without neurons
        value = [*value, [torch.empty(0, dtype=torch.int64)] * len(value[0])]
    if len(value) != len(names) or not names:
        named = f"paper.lape_list_languages names {len(names)}" if languages else "LAPE's lists have 7 or 6"
        raise CraneError(f"{path}: has {len(value)} languages, {named}; name its languages in their order there")
    for language in wanted:
        if language not in names:
            raise CraneError(
                f"{path}: has no {language!r}, only {', '.join(names)}; name its languages or leave it out"
            )
    return dict(zip(names, value, strict=True))


def check_lape_list(paper: Paper, *, wanted: Sequence[str], layers: int | None, width: int | None) -> None:
    """Make sure that a profile's list can be read, has the study's languages, and fits a model of known sizes."""
    assert paper.lape_list is not None
    given: dict[str, Any] = {"languages": paper.lape_list_languages, "wanted": wanted}
    if layers is None or width is None:
        _by_language(paper.lape_list, **given)
    else:
        read_lape_list(paper.lape_list, layers=layers, width=width, **given)


def _layer(tensor: Any, *, place: str, width: int) -> np.ndarray:
    """Sorted indices of one layer, checked."""
    if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.int64 or tensor.ndim != 1:
        tensors = isinstance(tensor, torch.Tensor)
        seen = f"{tensor.dtype} of shape {tuple(tensor.shape)}" if tensors else type(tensor).__name__
        raise CraneError(f"{place}: expected indices (int64, one dimension), saw {seen}; is it a list of LAPE's?")
    indices = tensor.numpy()
    unique = np.unique(indices)
    if len(unique) != len(indices):
        raise CraneError(f"{place}: names a neuron twice; is the file damaged?")
    if len(unique) and (unique[0] < 0 or unique[-1] >= width):
        worst = int(unique[0] if unique[0] < 0 else unique[-1])
        raise CraneError(f"{place}: index {worst} is out of range for a width of {width}; it is of another model")
    return unique


def read_lape_list(
    path: Path,
    *,
    layers: int,
    width: int,
    languages: Sequence[str] = (),
    wanted: Sequence[str] = (),
    model: str = "",
) -> list[NeuronSet]:
    """Read a published list (``.pth``) as one set per language, in its order, or in that of the languages `wanted`.

    `languages` are those of its entries; a last one that it lacks has no neurons. It is refused if it is no such list,
    lacks a language that is wanted, or does not fit the layers and the width of the model's MLPs.
    """
    sets = {}
    for language, by_layer in _by_language(path, languages, wanted).items():
        if len(by_layer) != layers:
            seen = f"{language!r} has {len(by_layer)} layers, the model {layers}"
            raise CraneError(f"{path}: {seen}; it is of another model")
        indices = [_layer(t, place=f"{path}: {language!r}, layer {n}", width=width) for n, t in enumerate(by_layer)]
        sets[language] = NeuronSet({NEURON: indices}, {NEURON: width}, model, PUBLISHED_LIST, "published", language)
    return [sets[language] for language in wanted or sets]


def list_counts(sets: list[NeuronSet]) -> pd.DataFrame:
    """Neurons of each language and of all together (all: the union), and their share of the model's neurons."""
    total = sets[0].widths[NEURON] * sets[0].layers
    counts = {item.language: item.count() for item in sets}
    counts["all"] = len(np.unique(np.concatenate([item.flat() for item in sets])))
    return pd.DataFrame({"set": language, "neurons": n, "share": n / total} for language, n in counts.items())


def compare_with_list(listed: list[NeuronSet], ours: list[NeuronSet]) -> pd.DataFrame:
    """Units that our LAPE sets (a) share with the published list (b), for each language that both have (`compare`)."""
    by_language = {item.language: item for item in listed}
    both = [item for item in ours if item.language in by_language]
    records = [{"language": item.language, **compare(item, by_language[item.language])} for item in both]
    return pd.DataFrame(records, columns=["language", *COMPARED])
