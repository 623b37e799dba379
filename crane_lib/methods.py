"""The registry of selection methods: what each one scores, and how it looks in tables and figures.

Steps, tables, figures, controls and the inspection panel read `METHODS`. To add a method, write a function from
`UnitScores` to scores and register one entry before the study is opened:

    register(Method("mine", "My method", "#AA7744", scores=lambda units: normalized_contrast(units.absolute)))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crane_lib import rivals
from crane_lib.errors import CraneError
from crane_lib.selection import (
    Chosen,
    Scores,
    lape_scores,
    normalized_contrast,
    select_kurtosis,
    select_lape,
    select_rows_killing,
    select_top,
    top,
)

if TYPE_CHECKING:  # torch, which figures and the command line do without
    from crane_lib.scores import UnitScores

PUBLISHED = "published"  # the budget of sets selected by the thresholds of a method's authors
_FIRING = ("lape", "activation_contrast", "firing", "lape_threshold", "njunlp")  # what attention heads do not do
TOP_ROWS = "rows-0.01"  # the budget of one in a hundred rows by kurtosis, the paper's second setting in open answers
_EACH = "activations"  # of each document
_CRANE = "Le and Li 2026, arXiv 2601.04664"
_LAPE = "Tang et al. 2024, arXiv 2402.16438"
_NJUNLP = "Zhang et al. 2025, arXiv 2505.21505"
_KOJIMA = "Kojima et al. 2024, arXiv 2404.02431"
_RELP = "Rezaei Jafari et al. 2025, arXiv 2508.21258"
_IG = "Sundararajan et al. 2017, arXiv 1703.01365"
_PLND = "Zhao et al. 2024, arXiv 2402.18815"


@dataclass(frozen=True)
class PublishedRules:
    """Thresholds of the published forms: kurtosis z (released code), quantile and share of neurons (LAPE)."""

    kurtosis_threshold: float = 1.0
    lape_threshold_quantile: float = 0.95
    lape_share: float = 0.01


@dataclass(frozen=True)
class Method:
    """One selection method.

    Attributes
    ----------
    name : in result rows and file names
    label, colour : in tables and figures
    scores : scores of a model's units by language, the largest of which are selected at a budget: arrays (layers,
        width) for neurons; arrays (layers, rows) by site for rows
    unit : ``neuron`` or ``row``
    published : selection by the thresholds of the method's authors; None if there are none
    needs : values of single documents beside the statistics, see `UnitScores.document_values`
    reference : where the method comes from
    """

    name: str
    label: str
    colour: str
    scores: Callable[[UnitScores], Any]
    unit: Literal["neuron", "row"] = "neuron"
    published: Callable[[UnitScores, PublishedRules], dict[str, Chosen]] | None = None
    needs: str = ""
    reference: str = ""

    def select(self, units: UnitScores, *, budget: float) -> dict[str, Chosen]:
        """Select the units with the largest scores per language; `budget` is the share of neurons that are killed."""
        return self.choose(self.scores(units), budget=budget, site=units.site)

    def choose(self, scores: Any, *, budget: float, site: str = "neuron") -> dict[str, Chosen]:
        """Select neurons (or heads) by scores that are computed already; a row of gate or up kills its neuron."""
        if self.unit == "neuron":
            return select_top(scores, budget=budget, site=site)
        return {language: select_rows_killing(sites, budget=budget) for language, sites in scores.items()}

    @property
    def of_heads(self) -> bool:
        """Return whether attention heads have what the method reads: no firing, rows, or values of single documents."""
        return self.unit == "neuron" and not self.needs and self.name not in _FIRING

    @property
    def code(self) -> str:
        """Source code of a user's method, by which a study notices changes; empty for a method of the library."""
        functions = [function for function in (self.scores, self.published) if function is not None]
        if all(function.__module__.startswith("crane_lib.") for function in functions):
            return ""
        try:
            return "\n".join(map(inspect.getsource, functions))
        except OSError:  # typed at a prompt
            return ""


METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Add a method to the registry.

    Raises
    ------
    CraneError : another method has that name
    """
    if method.name in METHODS:
        raise CraneError(f"method {method.name!r} is already registered; choose another name")
    METHODS[method.name] = method
    return method


def _kurtosis(units: UnitScores, rules: PublishedRules) -> dict[str, Chosen]:
    return select_kurtosis(units.kurtosis, threshold=rules.kurtosis_threshold)


def _lape(units: UnitScores, rules: PublishedRules) -> dict[str, Chosen]:
    return select_lape(units.firing, threshold_quantile=rules.lape_threshold_quantile, share=rules.lape_share)


def _penalized(units: UnitScores) -> dict[str, Any]:
    """Geometric mean of |relevance| and output, less twice the largest other language (docs/selector.md)."""
    both = {language: np.sqrt(values * units.output[language]) for language, values in units.absolute.items()}
    return normalized_contrast(both, penalty=2.0)


def _penalized_gates(units: UnitScores) -> dict[str, Any]:
    """Learned gates, after the .2 % of neurons that `penalized` puts first: some languages need no more."""
    closed, best = units.document_values("closed", kind="gates"), _penalized(units)
    return {k: np.where(top(own, round(0.002 * own.size)), 2.0 + own, closed[k]) for k, own in best.items()}


for _method in (
    Method("contrast", "Relevance contrast", "#332288", lambda units: normalized_contrast(units.neuron)),
    Method("contrast_mean", "Relevance contrast (mean)", "#8778D2", lambda u: normalized_contrast(u.neuron, "mean")),
    Method("contrast_abs", "|Relevance| contrast", "#691E5A", lambda units: normalized_contrast(units.absolute)),
    Method(
        "kurtosis", "Relevance kurtosis", "#AA4499", lambda units: units.kurtosis, "row", _kurtosis, reference=_CRANE
    ),
    Method("lape", "LAPE", "#DDCC77", lambda units: lape_scores(units.firing), "neuron", _lape, reference=_LAPE),
    Method("activation_contrast", "Activation contrast", "#88CCEE", lambda units: normalized_contrast(units.firing)),
    Method("gradient_contrast", "Gradient contrast", "#117733", lambda units: normalized_contrast(units.gradient)),
    Method("magnitude_contrast", "Magnitude contrast", "#EA1273", lambda units: normalized_contrast(units.magnitude)),
    Method("output_contrast", "Output contrast", "#0207FB", lambda units: normalized_contrast(units.output)),
    Method("penalized", "Penalized relevance", "#CC4741", _penalized),
    Method("output_penalized", "Penalized output", "#EA0CFA", lambda u: normalized_contrast(u.output, penalty=2.0)),
    # The same statistics of one language by itself, compared with no other.
    Method("relevance", "Relevance", "#2B4023", lambda units: units.neuron),
    Method("relevance_abs", "|Relevance|", "#8796A8", lambda units: units.absolute),
    Method("gradient", "Gradient x activation", "#61A0CA", lambda units: units.gradient),
    Method("firing", "Firing", "#66BDFE", lambda units: units.firing),
    Method("magnitude", "Magnitude", "#6555BE", lambda units: units.magnitude),
    Method("output", "Output", "#2B32B6", lambda units: units.output),
    # Methods of other authors, and common ones; the functions say how they were read.
    Method("lape_threshold", "LAPE with threshold", "#B5AD02", rivals.lape_with_threshold, reference=_LAPE),
    Method("njunlp", "NJUNLP", "#E5E76B", rivals.njunlp, "neuron", rivals.njunlp_published, reference=_NJUNLP),
    Method(
        "average_precision", "Average precision", "#9AF204", rivals.average_precisions, needs=_EACH, reference=_KOJIMA
    ),
    Method("average_precision_size", "Average precision (size)", "#91F9BD", rivals.precisions_of_size, needs=_EACH),
    Method("plnd", "PLND", "#8B7001", rivals.smallest_output, needs=_EACH, reference=_PLND),
    Method("relp", "RelP", "#644508", rivals.relevance_of_difference, needs="slopes", reference=_RELP),
    Method(
        "integrated_gradients", "Integrated gradients", "#752782", rivals.integrated, needs="integrated", reference=_IG
    ),
    Method("probe", "Linear probe", "#6275FF", rivals.probe_weights, needs=_EACH),
    Method("mean_difference", "Difference of means", "#A6ECF3", rivals.differences_of_means, needs=_EACH),
    Method("gates", "Learned gates", "#1006C2", lambda u: u.document_values("closed", kind="gates"), needs="gates"),
    Method("penalized_gates", "Penalized relevance, then gates", "#07023A", _penalized_gates, needs="gates"),
):
    register(_method)


def neuron_scores(units: UnitScores) -> dict[str, Scores]:
    """Scores of the methods that select neurons and whose values there are: method -> language -> (layers, width)."""
    chosen = [method for method in METHODS.values() if method.unit == "neuron" and units.has(method.needs)]
    return {method.name: method.scores(units) for method in chosen}


def selects_rows(name: str) -> bool:
    """Return whether a method, or a variant of one such as ``kurtosis_z``, selects rows."""
    if name in METHODS:
        return METHODS[name].unit == "row"
    return any(name.startswith(f"{method.name}_") for method in METHODS.values() if method.unit == "row")
