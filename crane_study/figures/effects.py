"""Figures of what masks do: the cost for each language, LangSpec-F1, its course over budgets, transfer to chat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from crane_lib.errors import CraneError
from crane_study.figures.alt_text import tell
from crane_study.figures.panels import (
    MEAN,
    WIDTH,
    dodged,
    grid,
    grid_height,
    interval_bars,
    label_outside,
    language_bars,
    language_matrices,
    legend_below,
    name_panel,
    reference_line,
)
from crane_study.figures.style import NEUTRAL, drawing, language_colours, method_colour
from crane_study.labels import METRIC_LABELS, MODEL_LABELS, language_name, method_label, ordered_languages, ordered_sets
from crane_study.measure.rows import EVERYTHING, SET, effects, over_draws, pick, tidy

_CHANGE = {
    "nll": ("NLL rise (nats per token)", "Rise of the NLL of held-out documents (nats per token)", 1),
    "accuracy": ("Accuracy lost", "Accuracy lost on four-way questions (share of the questions)", -1),
    "token_probability": ("Token probability lost", "Loss of the mean token probability exp(-NLL)", -1),
}
PARTS_TOLD = "P and R: mean precision and recall."
TRIVIAL_TOLD = " Dotted line: mean with every neuron silenced, whatever the language."
_SCORES = {"mean": "LangSpec-F1", "precision": "Precision", "recall": "Recall"}
_CELL = ["method", "budget", "masked_language", "evaluation_language"]


def _nothing(what: str) -> CraneError:
    return CraneError(f"figure: the rows have no {what}; run the sections that evaluate first")


def delta_matrices(
    rows: pd.DataFrame,
    path: Path,
    *,
    metric: str = "nll",
    model: str = "base",
    selected_on: str | None = None,
    intervals: pd.DataFrame | None = None,
) -> str:
    """Heat maps of what each mask costs each language, one per method and budget, all on one colour scale.

    `metric` is nll (its rise), accuracy or token_probability (its drop); the sets were chosen on the masked model
    unless `selected_on` names another. Cells of masks that were not drawn take their limits from `drop_intervals`.
    """
    label, sentence, sign = _CHANGE[metric]
    selected_on = selected_on or model
    found = pick(effects(rows, metric=metric), model=model, selected_on=selected_on)
    found = found[found["method"] != EVERYTHING]  # on its scale all others would be pale
    if found.empty:
        raise _nothing(f"masked {metric} for {model}")
    cells = over_draws(found.assign(cost=sign * found["change"]), by=_CELL, value="cost")
    if intervals is not None:
        known = tidy(intervals, needed=[*_CELL, "low", "high"])
        known = pick(known, metric=metric, selected_on=selected_on, random_seed=-1).set_index(_CELL)
        bounds = sign * known[["low", "high"]]
        cells = cells.set_index(_CELL)
        cells.update(pd.DataFrame({"lowest": bounds.min(axis=1), "highest": bounds.max(axis=1)}))
        cells = cells.reset_index()
    cells = cells.rename(columns={"masked_language": "row", "evaluation_language": "column", "mean": "value"})
    cells["text"] = [
        f"{row.value:z.3f}" + ("" if row.lowest == row.highest else f"\n{row.lowest:z.3f}\nto {row.highest:z.3f}")
        for row in cells.itertuples()
    ]
    language_matrices(cells, path, label)
    draws = int(cells["draws"].max())
    spread = f" Random sets: mean over {draws} draws, below it their lowest to highest." if draws > 1 else ""
    spread += "" if intervals is None else " Other sets: below it the 95 % interval of a paired bootstrap over items."
    source = "" if selected_on == model else f", units selected on the {MODEL_LABELS[selected_on].lower()}"
    return (
        f"{sentence} when a language's units are masked (rows), evaluated on each language (columns); "
        f"{MODEL_LABELS[model].lower()}{source}. One colour scale for all panels.{spread}"
    )


def langspec_bars(
    langspec: pd.DataFrame,
    path: Path,
    *,
    model: str = "base",
    selected_on: str | None = None,
    intervals: pd.DataFrame | None = None,
) -> str:
    """LangSpec-F1 of every method and budget: a bar per language and one for the mean, a dot for each random draw.

    The bars of the languages have their intervals if `intervals`, rows of `langspec_intervals`, are given.
    """
    selected_on = selected_on or model
    frame = tidy(langspec, needed=[*SET, "masked_language", "metric", "langspec_f1", "random_seed"])
    frame = pick(frame, model=model, selected_on=selected_on)
    if frame.empty:
        raise _nothing(f"LangSpec-F1 for {model}")
    metrics = [metric for metric in METRIC_LABELS if metric in set(frame["metric"])]
    trivial = _trivial(frame, "langspec_f1")
    frame = frame[frame["method"] != EVERYTHING]
    by = ["metric", "method", "budget", "random_seed"]
    bars = frame[[*by, "masked_language", "langspec_f1", "precision", "recall"]].assign(low=np.nan, high=np.nan)
    if intervals is not None:
        known = pick(intervals, random_seed=-1)[[*by, "masked_language", "low", "high"]]
        bars = bars.drop(columns=["low", "high"]).merge(known, on=[*by, "masked_language"], how="left")
    means = bars.groupby(by, as_index=False)["langspec_f1"].mean().assign(masked_language=MEAN)
    draws = int(frame.groupby([*by[:3], "masked_language"]).size().max())
    bars = pd.concat([bars, means], ignore_index=True)
    bars = bars.rename(columns={"metric": "panel", "masked_language": "language", "langspec_f1": "value"})
    titles = {metric: (f"By {METRIC_LABELS[metric].lower()}", "LangSpec-F1 (0 to 1)") for metric in metrics}
    language_bars(bars, path, titles, lines=trivial)
    dots = f" Random sets: bars are means over {draws} draws, each draw a dot." if draws > 1 else ""
    dots += "" if intervals is None else " Lines: 95 % intervals of a paired bootstrap over items."
    return (
        f"LangSpec-F1 of each method's masks, per language and on average; {MODEL_LABELS[model].lower()}, "
        f"judged by {' and by '.join(METRIC_LABELS[metric].lower() for metric in metrics)}.{dots} {PARTS_TOLD}"
        f"{TRIVIAL_TOLD if trivial else ''}"
    )


def _trivial(frame: pd.DataFrame, value: str) -> dict[str, float]:
    """Mean of a column over the masks of all neurons, by metric; empty if there are none."""
    means: dict[str, float] = frame[frame["method"] == EVERYTHING].groupby("metric")[value].mean().to_dict()
    return means


def dose_response(curves: pd.DataFrame, path: Path) -> str:
    """LangSpec-F1 over the budget (rows of `dose_curves`), a line per method with its band; a panel per metric.

    Panels below have precision and recall.
    """
    if curves.empty:
        raise CraneError("figure: no dose-response rows; run the section on controls first")
    metrics = [metric for metric in METRIC_LABELS if metric in set(curves["metric"])]
    trivial = {score: _trivial(curves, score) for score in _SCORES}
    curves = curves[curves["method"] != EVERYTHING]
    methods = [method for method, _budget in ordered_sets((method, "") for method in curves["method"])]
    curves = curves.assign(share=100 * curves["share"]).sort_values("share")
    places = [(score, metric) for score in _SCORES for metric in metrics]
    with drawing(path, width=7.0, height=8.2) as figure:
        panels = grid(figure, len(places), columns=len(metrics), sharey=True)
        for panel, (score, metric) in zip(panels, places, strict=True):
            for method in methods:
                part = curves[(curves["metric"] == metric) & (curves["method"] == method)]
                if len(part):
                    _dose_curve(panel, part, method, score=score)
            ticks = sorted(set(curves.loc[curves["metric"] == metric, "share"]))
            panel.set(xscale="log", xlabel="", ylabel=_SCORES[score] if metric == metrics[0] else "")
            panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            panel.minorticks_off()
            panel.grid(axis="y")
            if metric in trivial[score]:
                reference_line(panel, method_label(EVERYTHING), trivial[score][metric])
        for panel, metric in zip(panels, metrics, strict=False):
            panel.set_title(f"By {METRIC_LABELS[metric].lower()}")
        for panel in panels[-len(metrics) :]:
            panel.set_xlabel("Budget (% of the units, log scale)")
        panels[0].set_ylim(0, 1)
        legend_below(figure, panels[0], columns=3)
    return (
        "LangSpec-F1, precision and recall, means over languages, of every method over the share of units that it "
        "masks. Bands of LangSpec-F1: 95 % bootstrap intervals over the sampled documents or questions; for random "
        "masks (dashed) the lowest to highest draw. A mask that destroys all languages alike scores up to two thirds, "
        "which is where random masks end." + (TRIVIAL_TOLD if trivial["mean"] else "")
    )


def _dose_curve(panel: Axes, part: pd.DataFrame, method: str, *, score: str) -> None:
    """One method's curve; that of LangSpec-F1 with its band: intervals, or the range over draws of random masks."""
    drawn, colour = method.startswith("random"), method_colour(method)
    low, high = (part["lowest"], part["highest"]) if drawn else (part["low"], part["high"])
    if score != "mean":
        low = high = np.full(len(part), np.nan)
    line: dict[str, Any] = {"linestyle": "--"} if drawn else {"marker": "o", "markersize": 3.5, "markeredgewidth": 0}
    panel.fill_between(part["share"], low, high, color=colour, alpha=0.18, linewidth=0)
    label = method_label(method)
    sns.lineplot(x=part["share"], y=part[score], ax=panel, color=colour, label=label, legend=False, **line)
    tell(panel, label, part["share"], part[score], low=low, high=high)


def transfer_figure(table: pd.DataFrame, path: Path, *, metric: str = "token_probability") -> str:
    """Cost of masking sets chosen on the base model, for both models: `transfer_table`, with its intervals if any."""
    found = pick(tidy(table), selected_on="base")
    found = found[~found["method"].str.startswith("random") & found["model"].isin(["base", "chat"])]
    found = found[found.groupby(["method", "budget"])["model"].transform("nunique") == 2]
    if found.empty:
        raise _nothing("sets chosen on the base model that were masked in both models")
    measured = "own_low" in found
    shares = [f"{of}_{value}" for of in ("own", "worst_other") for value in ("drop", "low", "high")]
    found = found.assign(**(100 * found.reindex(columns=shares).astype(float)))
    sets = ordered_sets(zip(found["method"], found["budget"], strict=True))
    languages = ordered_languages(found["masked_language"])
    with drawing(path, width=7.0, height=grid_height(len(sets), panel=1.85, rest=0.6)) as figure:
        panels = grid(figure, len(sets), sharey=True)
        for panel, (method, budget) in zip(panels, sets, strict=True):
            _transfer_panel(panel, pick(found, method=method, budget=budget), languages)
            name_panel(panel, method, budget)
        label_outside(panels, up="Share lost (%)")
        (diamond,) = panels[0].plot([], [], "D", color="black", markersize=3.4, label="Worst other language")
        bars = [
            Patch(facecolor=NEUTRAL, label="Base model, on the masked language"),
            Patch(facecolor=NEUTRAL, edgecolor="white", hatch="////", label="Chat model, the same"),
        ]
        legend_below(figure, handles=[*bars, diamond])
    lines = " Lines: 95 % intervals of a paired bootstrap over items." if measured else ""
    return (
        f"Share of the unmasked {METRIC_LABELS[metric].lower()} that is lost when the units of a language (horizontal "
        f"axis), selected on the base model, are masked in the base and in the chat model. Diamonds: the other "
        f"language that loses most.{lines}"
    )


def _transfer_panel(panel: Axes, part: pd.DataFrame, languages: list[str]) -> None:
    """Bars of the loss on the masked language, hatched for the chat model, and diamonds of the worst other one."""
    names, models = [language_name(code) for code in languages], ["base", "chat"]
    part = part.assign(language=part["masked_language"].map(language_name))
    sns.barplot(
        part, x="language", y="own_drop", hue="model", order=names, hue_order=models, ax=panel, width=WIDTH,
        palette=[NEUTRAL, NEUTRAL], errorbar=None, legend=False,
    )  # fmt: skip
    colours = list(language_colours(languages).values())
    for container, model in zip(panel.containers, models, strict=True):
        for patch in container:
            place = round(patch.get_x() + patch.get_width() / 2)
            patch.set(facecolor=colours[place], edgecolor="white", hatch="////" if model == "chat" else "")
    for model, offset in zip(models, dodged(len(models)), strict=True):
        cells = part[part["model"] == model].set_index("language").reindex(names)
        places = np.arange(len(names)) + offset
        # Left of the bar's middle its own interval, right of it the diamond with its own.
        interval_bars(panel, places - 0.09, cells["own_low"], cells["own_high"])
        interval_bars(panel, places + 0.09, cells["worst_other_low"], cells["worst_other_high"])
        diamonds: dict[str, Any] = {"marker": "D", "color": "black", "s": 14, "zorder": 3}
        sns.scatterplot(x=places + 0.09, y=cells["worst_other_drop"].to_numpy(), ax=panel, **diamonds)
        for of, name in (("own", "on the masked language"), ("worst_other", "worst other language")):
            ends = {"low": cells[f"{of}_low"], "high": cells[f"{of}_high"]}
            tell(panel, f"{MODEL_LABELS[model]}, {name}", names, cells[f"{of}_drop"], **ends)
    panel.axhline(0, color="black", linewidth=0.6)
    panel.grid(axis="y")
