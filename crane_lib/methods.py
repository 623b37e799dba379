"""The registry of selection methods: what each scores, how it looks in figures, and how it selects neurons.

Steps, tables, figures, controls and the inspection panel read `METHODS`. To add a method, write a function from
`UnitScores` to scores and register one entry:

    register(Method("mine", "My method", "#AA7744", scores=lambda units: normalized_contrast(units.absolute)))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from crane_lib.errors import CraneError
from crane_lib.selection import (
    Chosen,
    Scores,
    lape_scores,
    normalized_contrast,
    select_kurtosis,
    select_lape,
    select_top,
    select_top_rows,
)

if TYPE_CHECKING:  # torch, which figures and the command line do without
    from crane_lib.scores import UnitScores

PUBLISHED = "published"


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
    unit : ``neuron``: scores are arrays (layers, width) per language; ``row``: one such array per language and site
    scores : of one model's units, per language; the largest are selected at a budget
    published : selection with the thresholds of the method's authors, None where there is none
    """

    name: str
    label: str
    colour: str
    scores: Callable[[UnitScores], Any]
    unit: Literal["neuron", "row"] = "neuron"
    published: Callable[[UnitScores, PublishedRules], dict[str, Chosen]] | None = None

    def select(self, units: UnitScores, *, budget: float) -> dict[str, Chosen]:
        """Sets with the largest scores, `budget` being the share of the units of the method's kind."""
        scores = self.scores(units)
        if self.unit == "neuron":
            return select_top(scores, budget=budget)
        return {language: select_top_rows(sites, share=budget) for language, sites in scores.items()}


METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Add a method to the registry.

    Raises
    ------
    CraneError : another method has that name
    """
    if method.name in METHODS:
        raise CraneError(f"method {method.name!r} is registered already; choose another name")
    METHODS[method.name] = method
    return method


register(Method("contrast", "Relevance contrast", "#332288", lambda units: normalized_contrast(units.neuron)))
register(
    Method(
        "contrast_mean",
        "Relevance contrast (mean)",
        "#8778D2",
        lambda units: normalized_contrast(units.neuron, against="mean"),
    )
)
register(Method("contrast_abs", "|Relevance| contrast", "#691E5A", lambda units: normalized_contrast(units.absolute)))
register(
    Method(
        "kurtosis",
        "Relevance kurtosis",
        "#AA4499",
        lambda units: units.kurtosis,
        unit="row",
        published=lambda units, rules: select_kurtosis(units.kurtosis, threshold=rules.kurtosis_threshold),
    )
)
register(
    Method(
        "lape",
        "LAPE",
        "#DDCC77",
        lambda units: lape_scores(units.firing),
        published=lambda units, rules: select_lape(
            units.firing, threshold_quantile=rules.lape_threshold_quantile, share=rules.lape_share
        ),
    )
)
register(
    Method("activation_contrast", "Activation contrast", "#88CCEE", lambda units: normalized_contrast(units.firing))
)
register(Method("gradient_contrast", "Gradient contrast", "#117733", lambda units: normalized_contrast(units.gradient)))


def neuron_scores(units: UnitScores) -> dict[str, Scores]:
    """Scores of every method that selects neurons: method -> language -> (layers, width)."""
    return {name: method.scores(units) for name, method in METHODS.items() if method.unit == "neuron"}
