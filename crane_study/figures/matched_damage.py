"""Figure of selectivity at matched damage: cost for the other languages against damage to the masked one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from crane_lib.errors import CraneError
from crane_study.figures.alt_text import tell, tell_line
from crane_study.figures.panels import grid, grid_height, label_outside, legend_below
from crane_study.figures.style import drawing, method_colour
from crane_study.labels import language_name, method_label, ordered_languages, ordered_sets
from crane_study.measure.rows import EVERYTHING, pick
from crane_study.uncertainty.matched_damage import DAMAGES, Response, limits, match

_OTHERS = "Other methods"
_SMALLEST = 0.05  # nats per token: damage at the left end
_LINEAR = 0.02  # nats per token below which the vertical axis is linear
_POINTS = 25  # of a curve
_PANELS = 12  # most languages that are drawn
_COLOURED = 7  # most selective methods in their colours, and with them
_JUDGED = ("contrast", "kurtosis", "lape")  # those that the claims are about


def collateral_curves(found: Sequence[Response], path: Path, *, everything: pd.DataFrame) -> str:
    """Rise on the worst other language against damage: a curve per method, a panel per language.

    Of many languages the first twelve are drawn. `everything` has the damage and the rise with all neurons silenced
    (`everything_off`).
    """
    if not found:
        raise CraneError("figure: no dose-response of the NLL; run the section on controls first")
    everywhere = ordered_languages(one.language for one in found)
    languages = everywhere[:_PANELS]
    methods = [method for method, _budget in ordered_sets((one.method, "") for one in found)]
    by_key = {(one.method, one.language): one for one in found}
    coloured = _coloured(found, methods)
    grey = set(methods) - coloured
    legend = 0.6 + 0.05 * len(coloured)
    with drawing(path, width=7.2, height=grid_height(len(languages), panel=2.9, rest=legend)) as figure:
        panels = grid(figure, len(languages), sharex=True, sharey=True)
        for panel, language in zip(panels, languages, strict=True):
            for damage in DAMAGES:
                panel.axvline(damage, color="#BBBBBB", linewidth=0.7, linestyle=":", zorder=0)
            for method in sorted(methods, key=lambda name: name in coloured):  # grey curves lie below
                _curve(panel, by_key[method, language], grey=method in grey)
            _references(panel, pick(everything, masked_language=language))
            panel.set_title(f"{language_name(language)} masked")
        _scale(panels[0], everything)
        label_outside(panels, across="Rise on the masked language", up="Rise on the worst other")
        handles, labels = panels[0].get_legend_handles_labels()
        known = dict(zip(labels, handles, strict=True))
        order = [name for name in (*map(method_label, methods), _OTHERS, method_label(EVERYTHING)) if name in known]
        legend_below(figure, handles=[known[name] for name in order], columns=4 if len(coloured) > 9 else 3)
    return (
        "Rise of the NLL on the other language that suffers most, once the masked language has lost so much: a low "
        "curve is a selective method. Both in nats per token, linear in the damage between neighbouring doses; bands "
        "are 95 % bootstrap intervals over documents. A curve ends at the method's largest dose. Grey line: both lose "
        "alike. Cross: every neuron silenced. Dotted: the damages of the tables."
        + (f" The first {_PANELS} of {len(everywhere)} languages." if len(everywhere) > _PANELS else "")
        + (f" Thin grey: all but the {_COLOURED} most selective at 0.5 nats and the claims'." if grey else "")
    )


def _coloured(found: Sequence[Response], methods: Sequence[str]) -> set[str]:
    """Methods that are drawn in their colours: the most selective at 0.5 nats, the claims', and random masks."""
    costs = {method: [match(one, DAMAGES[:1]).worst[0] for one in found if one.method == method] for method in methods}
    ranked = sorted(methods, key=lambda name: np.nan_to_num(np.mean(costs[name]), nan=np.inf))
    return {*ranked[:_COLOURED], *(name for name in methods if name in _JUDGED or name.startswith("random"))}


def _curve(panel: Axes, one: Response, *, grey: bool) -> None:
    """One method's curve with its band, thin and without one if `grey`; random masks are dashed."""
    largest = float(one.measured[:, one.own].max())
    targets = np.geomspace(_SMALLEST, largest, _POINTS) if largest > _SMALLEST else np.array([_SMALLEST])
    found, label, colour = match(one, targets), method_label(one.method), method_colour(one.method)
    low, high = limits(found.worst_draws, found.worst)
    style: dict[str, Any] = {"linestyle": "--"} if one.method.startswith("random") else {}
    if grey:
        style |= {"linewidth": 0.8, "zorder": 1.5}
    else:
        panel.fill_between(targets, low, high, color=colour, alpha=0.08, linewidth=0)
    style |= {"color": "#AFAFAF" if grey else colour, "label": _OTHERS if grey else label}
    sns.lineplot(x=targets, y=found.worst, ax=panel, legend=False, **style)
    at = match(one)
    low, high = limits(at.worst_draws, at.worst)
    tell(panel, label, DAMAGES, at.worst, low=low, high=high)


def _references(panel: Axes, off: pd.DataFrame) -> None:
    """Line of equal losses, and the mask of all neurons."""
    equal = np.geomspace(_SMALLEST, 100.0, _POINTS)
    panel.plot(equal, equal, color="#AAAAAA", linewidth=0.9, zorder=0)
    label = method_label(EVERYTHING)
    cross: dict[str, Any] = {"marker": "X", "color": method_colour(EVERYTHING), "s": 36, "zorder": 4}
    sns.scatterplot(x=off["damage"], y=off["worst"], ax=panel, label=label, legend=False, **cross)
    tell(panel, label, off["damage"], off["worst"])
    for damage in DAMAGES:
        tell_line(panel, "damage of the tables", damage, vertical=True)


def _scale(panel: Axes, everything: pd.DataFrame) -> None:
    """Logarithmic axes with plain numbers, linear near 0 upwards, up to the mask of all neurons."""
    top = 1.4 * max(float(everything[["damage", "worst"]].max().max()), max(DAMAGES))
    panel.set(xscale="log", xlim=(_SMALLEST, top))
    panel.set_yscale("symlog", linthresh=_LINEAR)
    panel.set_ylim(-0.4 * _LINEAR, top)
    ticks = [tick for tick in (0.1, 0.5, 1, 2, 5, 10, 20) if tick < top]
    panel.set_xticks(ticks)
    panel.set_yticks([0, _LINEAR, *ticks])
    panel.minorticks_off()
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
