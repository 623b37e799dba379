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

PUBLISHED = "published"  # the budget of sets selected by the thresholds of a method's authors


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
    """

    name: str
    label: str
    colour: str
    scores: Callable[[UnitScores], Any]
    unit: Literal["neuron", "row"] = "neuron"
    published: Callable[[UnitScores, PublishedRules], dict[str, Chosen]] | None = None

    def select(self, units: UnitScores, *, budget: float) -> dict[str, Chosen]:
        """Select the units with the largest scores per language; `budget` is their share of all neurons or rows."""
        scores = self.scores(units)
        if self.unit == "neuron":
            return select_top(scores, budget=budget)
        return {language: select_top_rows(sites, share=budget) for language, sites in scores.items()}

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


def selects_rows(name: str) -> bool:
    """Return whether a method, or a variant of one such as ``kurtosis_z``, selects rows."""
    if name in METHODS:
        return METHODS[name].unit == "row"
    return any(name.startswith(f"{method.name}_") for method in METHODS.values() if method.unit == "row")
