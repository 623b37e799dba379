"""Arrays and frames for the relevance section, from the statistics of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML, display

from crane_lib.files import read_json
from crane_lib.output.figures import token_relevance_html
from crane_lib.relevance import Statistics
from crane_lib.selection import kurtosis_z, row_sites
from crane_lib.stages.relevance import load_statistics

Example = tuple[str, list[str], list[float]]
ByLanguage = dict[str, Statistics]


def load(folder: Path, seeds: Sequence[str], languages: Sequence[str]) -> dict[str, ByLanguage]:
    """Statistics of every seed and language."""
    return {seed: load_statistics(folder, seed, list(languages)) for seed in seeds}


def corpus_table(statistics: ByLanguage) -> pd.DataFrame:
    """Documents and tokens that the statistics of each language are made of."""
    return pd.DataFrame(
        {"language": language, "documents": item.documents, "tokens": item.tokens}
        for language, item in statistics.items()
    )


def magnitudes(statistics: ByLanguage) -> dict[str, dict[str, np.ndarray]]:
    """Mean absolute value over documents of every site's units.  language -> site -> (L, units)"""
    return {
        language: {
            site: item.moments[site].mean_absolute.numpy() for site in ("neuron", *row_sites(item.moments))
        }
        for language, item in statistics.items()
    }


def mean_relevance(statistics: ByLanguage) -> dict[str, np.ndarray]:
    """Mean relevance of every neuron.  language -> (L, I)"""
    return {language: item.moments["neuron"].mean.numpy() for language, item in statistics.items()}


def kurtosis_scores(statistics: ByLanguage) -> dict[str, np.ndarray]:
    """z-score of the kurtosis of every row, over all matrices and layers.  language -> (rows,)"""
    kurtosis = {
        language: {site: item.moments[site].excess_kurtosis().numpy() for site in row_sites(item.moments)}
        for language, item in statistics.items()
    }
    return {
        language: np.concatenate([array.ravel() for array in sites.values()])
        for language, sites in kurtosis_z(kurtosis).items()
    }


def token_examples(folder: Path) -> list[Example]:
    """Example documents with the relevance of each token."""
    return [(item["language"], item["tokens"], item["relevance"]) for item in read_json(folder / "tokens.json")]


def show_tokens(examples: Sequence[Example]) -> None:
    """Show example documents with their tokens shaded, as HTML (every script is drawn by the browser)."""
    display(HTML(token_relevance_html(examples)))
