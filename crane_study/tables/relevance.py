"""Tables and arrays of relevance, from the statistics of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML, display
from scipy.stats import kurtosis, spearmanr

from crane_lib.errors import CraneError
from crane_lib.files import read_json
from crane_lib.relevance import Statistics
from crane_lib.scores import load_statistics, row_kurtosis, unit_means
from crane_lib.selection import kurtosis_z, row_sites
from crane_study.figures.relevance import token_relevance_html
from crane_study.labels import ordered_languages

Example = tuple[str, list[str], list[float]]
ByLanguage = dict[str, Statistics]


def load(folder: Path, objectives: Sequence[str], languages: Sequence[str]) -> dict[str, ByLanguage]:
    """Statistics of every objective and language."""
    return {objective: load_statistics(folder, objective, list(languages)) for objective in objectives}


def corpus_table(statistics: ByLanguage) -> pd.DataFrame:
    """Number of documents and tokens behind the statistics of each language."""
    return pd.DataFrame(
        {"language": language, "documents": item.documents, "tokens": item.tokens}
        for language, item in statistics.items()
    )


def magnitudes(statistics: ByLanguage) -> dict[str, dict[str, np.ndarray]]:
    """Mean absolute value over documents of every site's units.  language -> site -> (L, units)"""
    return {
        language: {site: item.moments[site].mean_absolute.numpy() for site in ("neuron", *row_sites(item.moments))}
        for language, item in statistics.items()
    }


def relevance_shares(statistics: ByLanguage) -> dict[str, dict[tuple[str, str], np.ndarray]]:
    """Share (%) of a language's absolute relevance in each layer (L,), by site and language.

    The rows of gate, up and down have one statistic and add up to 100 % together; the neurons have another, and add up
    to 100 % by themselves.
    """
    sums = {
        language: {site: np.abs(values).sum(axis=1) for site, values in sites.items()}
        for language, sites in magnitudes(statistics).items()
    }
    rows = [site for site in next(iter(sums.values())) if site != "neuron"]
    shares: dict[str, dict[tuple[str, str], np.ndarray]] = {"neurons": {}, "rows": {}}
    for name, sites in (("neurons", ["neuron"]), ("rows", rows)):
        for site in sites:
            for language, of_site in sums.items():
                total = sum(float(of_site[one].sum()) for one in sites)
                if not total > 0:
                    raise CraneError(f"relevance of {language!r}: {name} sum to {total}; was it measured?")
                shares[name][site, language] = 100 * of_site[site] / total
    return shares


def mean_values(statistics: ByLanguage) -> dict[str, dict[str, np.ndarray]]:
    """Mean value over documents of every unit.  language -> site -> (units of all layers,)"""
    return {
        language: {site: item.moments[site].mean.numpy().ravel() for site in ("neuron", *row_sites(item.moments))}
        for language, item in statistics.items()
    }


def tails_table(statistics: ByLanguage) -> pd.DataFrame:
    """Excess kurtosis of the mean values over units and, of the median unit, over documents (0: normal distribution).

    top_1_percent is the share of the summed |mean| in the largest 1 % of the units.
    """
    records = []
    for language, sites in mean_values(statistics).items():
        for site, values in sites.items():
            over_documents = statistics[language].moments[site].excess_kurtosis().numpy()
            sizes = np.sort(np.abs(values))[::-1]
            total = float(sizes.sum())
            top = float(sizes[: max(1, round(0.01 * len(sizes)))].sum())
            over_units, share = float(kurtosis(values, bias=False)), top / total if total > 0 else float("nan")
            records.append((language, site, len(values), over_units, share, float(np.nanmedian(over_documents))))
    columns = ["language", "site", "units", "kurtosis_over_units", "top_1_percent", "median_kurtosis_over_documents"]
    return pd.DataFrame(records, columns=columns)


def concentration_table(folder: Path) -> pd.DataFrame:
    """Shares of relevance and activation at the first token and in the largest neurons (`steps.relevance`)."""
    return pd.DataFrame(read_json(folder / "concentration.json"))


def mean_relevance(statistics: ByLanguage) -> dict[str, np.ndarray]:
    """Mean relevance of every neuron.  language -> (L, I)"""
    return unit_means(statistics, "neuron")


def objective_correlations(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Spearman correlation of the neurons' mean relevance (L, I) of two objectives; layer -1 is all layers together."""
    records = []
    for language in ordered_languages(set(first) & set(second)):
        one, other = np.asarray(first[language]), np.asarray(second[language])
        pairs = [(-1, one.ravel(), other.ravel()), *((layer, one[layer], other[layer]) for layer in range(len(one)))]
        records += [(language, layer, float(spearmanr(a, b).statistic)) for layer, a, b in pairs]
    return pd.DataFrame(records, columns=["language", "layer", "rank_correlation"])


def kurtosis_scores(statistics: ByLanguage) -> dict[str, np.ndarray]:
    """z-score of the kurtosis of every row, over all matrices and layers.  language -> (rows,)"""
    return {
        language: np.concatenate([array.ravel() for array in sites.values()])
        for language, sites in kurtosis_z(row_kurtosis(statistics)).items()
    }


def token_examples(folder: Path) -> list[Example]:
    """Example documents with the relevance of each token."""
    return [(item["language"], item["tokens"], item["relevance"]) for item in read_json(folder / "tokens.json")]


def show_tokens(examples: Sequence[Example]) -> None:
    """Show example documents with their tokens shaded, as HTML (the browser draws every script)."""
    display(HTML(token_relevance_html(examples)))
