"""Figures of neuron sets: where their units lie, how much the languages share, and how far the methods agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from crane_lib.errors import CraneError
from crane_study.figures.alt_text import tell
from crane_study.figures.panels import (
    COLUMNS,
    SHARE_COLOURS,
    SITE_NAMES,
    by_layer,
    grid,
    grid_height,
    heat_map,
    interval_bars,
    label_outside,
    language_handles,
    language_matrices,
    legend_below,
    name_panel,
    paint_languages,
    site_map,
    square,
)
from crane_study.figures.style import LATIN, NEUTRAL, drawing, language_colours, method_colour
from crane_study.labels import language_name, method_label, ordered_languages, ordered_sets
from crane_study.measure.rows import pick, tidy

SIGNIFICANCE = 0.01
_MOST_COMBINATIONS = 12  # of languages, in one panel
_WIDE = 9  # rules; with more of them the panels are one below the other


def _of_model(frame: pd.DataFrame, model: str | None) -> pd.DataFrame:
    """Sets of one model that are not random draws; `model` None takes the only one there is, or "base"."""
    frame = tidy(frame, needed=["model", "method", "budget"])
    models = sorted(set(frame["model"]))
    chosen = model if model is not None else (models[0] if len(models) == 1 else "base")
    frame = frame[(frame["model"] == chosen) & ~frame["method"].str.startswith("random")]
    if frame.empty:
        raise CraneError(f"figure: no sets of model {chosen!r}; there are {', '.join(models) or 'none'}")
    return frame


def set_counts_figure(counts: pd.DataFrame, path: Path, *, model: str | None = None) -> str:
    """Units of each set by layer (`set_counts`), a panel per method and budget."""
    frame = _of_model(counts, model)
    sets = ordered_sets(zip(frame["method"], frame["budget"], strict=True))
    languages = ordered_languages(frame["language"])
    with drawing(path, width=7.0, height=grid_height(len(sets), panel=1.65, rest=0.6)) as figure:
        panels = grid(figure, len(sets))
        for panel, (method, budget) in zip(panels, sets, strict=True):
            part = pick(frame, method=method, budget=budget)
            table = part.pivot_table(index="layer", columns="language", values="count", aggfunc="sum")
            by_layer(panel, {code: table[code].to_numpy() for code in languages if code in table})
            name_panel(panel, method, budget, note=f"({', '.join(dict.fromkeys(part['site']))})")
            panel.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        label_outside(panels, across="Layer", up="Units")
        legend_below(figure, handles=language_handles(languages))
    return (
        "Number of units in each language's set, by layer. The sites a method selects from stand in brackets; where "
        "there are several their counts are added."
    )


def set_sites_figure(counts: pd.DataFrame, path: Path) -> str:
    """Share of the units of every layer and site that each set takes, a panel per rule.

    `counts` is the frame of `set_counts`, of one model, without random draws.
    """
    sets = ordered_sets(zip(counts["method"], counts["budget"], strict=True))
    languages = ordered_languages(counts["language"])
    tables: dict[tuple[str, str], dict[tuple[str, str], np.ndarray]] = {}
    for method, budget in sets:
        found = pick(counts, method=method, budget=budget)
        shares = 100 * found.pivot_table(index=["site", "language"], columns="layer", values="share", aggfunc="mean")
        keys = [(site, language) for site in SITE_NAMES for language in languages]
        tables[method, budget] = {key: shares.loc[key].to_numpy() for key in keys if key in shares.index}
    # Rules on several sites need tall panels, two per line; the others three.
    tall = [key for key in sets if len(tables[key]) > len(languages)]
    flat = [key for key in sets if key not in tall]
    lines = [(keys[at : at + n], n) for keys, n in ((tall, 2), (flat, 3)) for at in range(0, len(keys), n)]
    heights = [0.62 + 0.16 * max(len(tables[key]) for key in line) for line, _columns in lines]
    heights[-1] += 0.2  # the label of the axis
    with drawing(path, width=7.0, height=sum(heights)) as figure:
        parts = figure.subfigures(len(lines), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, (line, columns) in zip(parts, lines, strict=True):
            panels = part.subplots(1, columns, squeeze=False)[0]
            for spare in panels[len(line) :]:
                spare.set_visible(False)
            for panel, key in zip(panels, line, strict=False):
                site_map(panel, tables[key])
                name_panel(panel, *key)
                panel.set_xlabel("Layer" if part is parts[-1] else "", fontsize=8)
    return (
        "Share (%) of the units of each layer and site that a language's set takes, by rule; every panel has its own "
        "scale, from white (none) to the panel's largest share. Counts of one selection: no uncertainty."
    )


def overlap_matrix(overlaps: pd.DataFrame, path: Path, *, model: str | None = None) -> str:
    """Share of each language's set that is also in another's, with the share expected by chance (`overlaps`)."""
    frame = _of_model(overlaps, model)
    cells = frame.rename(columns={"language_a": "row", "language_b": "column"})
    cells = cells[cells["row"] != cells["column"]].assign(value=100 * cells["share_of_a"])
    cells["text"] = [
        f"{row.value:.1f}{'*' if row.p_value < SIGNIFICANCE else ''}\n"
        f"({100 * row.chance_low:.1f}–{100 * row.chance_high:.1f})"
        for row in cells.itertuples()
    ]
    bar, across = "Share of the row's set (%)", "that are also units of"
    language_matrices(cells, path, bar, across=across, up="Units of", signed=False)
    return (
        "Share (%) of each language's set (rows) that is also in the other language's (columns). In brackets the "
        "range that holds 95 % of the shares of sets placed at random with their counts kept in every layer and site "
        f"(exact); a star marks more than chance at p < {SIGNIFICANCE}."
    )


def jaccard_forest(overlaps: pd.DataFrame, path: Path) -> str:
    """Jaccard index of every pair of languages with the 95 % range of chance, a row per rule and pair.

    `overlaps` are of one model, without random draws.
    """
    sets = ordered_sets(zip(overlaps["method"], overlaps["budget"], strict=True))
    languages = ordered_languages(overlaps["language_a"])
    pairs = [(a, b) for number, a in enumerate(languages) for b in languages[number + 1 :]]
    rows = {(*one, *pair): s * (len(pairs) + 1) + p for s, one in enumerate(sets) for p, pair in enumerate(pairs)}
    keys = list(zip(*(overlaps[name] for name in ("method", "budget", "language_a", "language_b")), strict=True))
    frame = overlaps.assign(place=[rows.get(key, np.nan) for key in keys]).dropna(subset="place").sort_values("place")
    names = [f"{a}–{b}" for a, b in zip(frame["language_a"], frame["language_b"], strict=True)]
    rules = map(method_label, frame["method"], frame["budget"])
    told = [f"{rule}, {name}" for rule, name in zip(rules, names, strict=True)]
    with drawing(path, width=6.2, height=0.75 + 0.15 * len(sets) * (len(pairs) + 1)) as figure:
        axes = figure.subplots()
        chance: dict[str, Any] = {"across": True, "ecolor": "#BDBDBD", "elinewidth": 5, "capsize": 0, "zorder": 1}
        interval_bars(axes, frame["place"], frame["jaccard_low"], frame["jaccard_high"], **chance)
        axes.plot(frame["expected_jaccard"], frame["place"], "|", color="#5F5F5F", markersize=6, zorder=2)
        sns.scatterplot(
            frame, x="jaccard", y="place", hue="method", palette={m: method_colour(m) for m, _budget in sets}, ax=axes,
            s=18, edgecolor="black", linewidth=0.4, zorder=3, legend=False,
        )  # fmt: skip
        tell(axes, "Jaccard index", told, frame["jaccard"])
        limits = {"low": frame["jaccard_low"], "high": frame["jaccard_high"]}
        tell(axes, "Chance, mean and 95 % range", told, frame["expected_jaccard"], **limits)
        for number, one in enumerate(sets):
            middle = number * (len(pairs) + 1) + (len(pairs) - 1) / 2
            axes.annotate(
                method_label(*one), (0, middle), xytext=(-6 - 4.4 * max(map(len, names)), 0), ha="right", va="center",
                xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8,
            )  # fmt: skip
        axes.set_yticks(frame["place"], names, fontsize=6.5)
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel="Jaccard index", ylabel="", ylim=(len(sets) * (len(pairs) + 1) - 0.7, -0.8))
        axes.set_xlim(left=-0.004)
        axes.grid(axis="x")
    return (
        "Jaccard index of the sets of two languages (dots), by rule. Grey: the range that holds 95 % of the overlaps "
        "of sets placed at random with their counts kept in every layer and site (exact); its tick is the mean."
    )


def upset(intersections: Mapping[tuple[str, str], pd.DataFrame], path: Path) -> str:
    """Number of units in exactly the sets of some languages, a panel per method and budget (`intersections`)."""
    keys = [key for key in ordered_sets(intersections) if len(intersections[key])]
    cut = any(len(intersections[key]) > _MOST_COMBINATIONS for key in keys)
    with drawing(path, width=7.0, height=grid_height(len(keys), panel=1.75)) as figure:
        parts = figure.subfigures(-(-len(keys) // COLUMNS), min(COLUMNS, len(keys)), squeeze=False).ravel()
        for part, key in zip(parts, keys, strict=False):
            frame = intersections[key].nlargest(_MOST_COMBINATIONS, "count") if cut else intersections[key]
            _upset_panel(part, frame.sort_values("degree", kind="stable"), key)
    return (
        "Units that lie in exactly the sets marked below a bar, and in no other language's, by rule. A black dash is "
        "the mean number when the sets are placed at random with their counts kept in every layer and site; exact 95 % "
        "intervals of what two sets share stand in the figure of the pairs."
        + (f" The {_MOST_COMBINATIONS} largest combinations of a rule are shown." if cut else "")
    )


def _upset_panel(part: Figure, frame: pd.DataFrame, key: tuple[str, str]) -> None:
    """Bars of counts above a matrix of dots."""
    combinations = [text.split("+") for text in frame["languages"]]
    languages = ordered_languages(code for combination in combinations for code in combination)
    colours = language_colours(languages)
    places, names = np.arange(len(frame)), [" and ".join(combination) for combination in combinations]
    bars, dots = part.subplots(2, 1, height_ratios=[3, 0.5 + 0.42 * len(languages)], sharex=True)
    fills = {name: colours[c[0]] if len(c) == 1 else "#8A8A8A" for name, c in zip(names, combinations, strict=True)}
    sns.barplot(x=names, y=frame["count"].to_numpy(), hue=names, palette=fills, saturation=1, width=0.62, ax=bars)
    bars.hlines(frame["expected"], places - 0.42, places + 0.42, color="black", linewidth=1.3)
    highest = frame[["count", "expected"]].max(axis=1)
    for place, count, top in zip(places, frame["count"], highest, strict=True):
        bars.annotate(f"{count:,}", (place, top), (0, 2), textcoords="offset points", ha="center", fontsize=6)
    tell(bars, "Units", names, frame["count"])
    tell(bars, "Expected by chance", names, frame["expected"])
    bars.set(ylabel="", ylim=(0, 1.15 * highest.max()))
    bars.spines[["bottom", "left"]].set_visible(False)
    bars.tick_params(bottom=False, left=False, labelleft=False)
    name_panel(bars, *key)
    inside = [(x, y, code) for x, c in enumerate(combinations) for y, code in enumerate(languages) if code in c]
    column, row, code = zip(*inside, strict=True)
    x, y = np.meshgrid(places, range(len(languages)))
    common: dict[str, Any] = {"ax": dots, "s": 22, "linewidth": 0, "legend": False}
    sns.scatterplot(x=x.ravel(), y=y.ravel(), color="#E3E3E3", zorder=1, **common)
    sns.scatterplot(x=column, y=row, hue=code, palette=colours, zorder=3, **common)
    ends = pd.DataFrame({"place": column, "row": row}).groupby("place")["row"].agg(["min", "max"])
    dots.vlines(ends.index, ends["min"], ends["max"], color="#555555", linewidth=1.2, zorder=2)
    dots.set_yticks(range(len(languages)), languages)
    paint_languages(dots.get_yticklabels(), languages)
    dots.set(xlim=(-0.6, len(frame) - 0.4), ylim=(len(languages) - 0.5, -0.5))
    dots.tick_params(left=False, bottom=False, labelbottom=False)
    dots.spines[:].set_visible(False)


def rule_matrix(agreement: pd.DataFrame, path: Path) -> str:
    """Share of one rule's set that another rule also takes (`agreement`), a panel per language."""
    rules = ordered_sets(zip(agreement["method_a"], agreement["budget_a"], strict=True))
    languages = ordered_languages(agreement["language"])
    names = [method_label(*rule) for rule in rules]
    cells = agreement.assign(
        row=list(map(method_label, agreement["method_a"], agreement["budget_a"])),
        column=list(map(method_label, agreement["method_b"], agreement["budget_b"])),
        value=100 * agreement["share_of_a"],
    )
    crowded = len(rules) > _WIDE
    inside = cells["share_of_a"].between(cells["chance_low"], cells["chance_high"])
    cells["text"] = [
        f"{value:.0f}{'' if usual else '*'}" + ("" if crowded else f"\n({100 * expected:.0f})")
        for value, usual, expected in zip(cells["value"], inside, cells["expected_share_of_a"], strict=True)
    ]
    side, columns = (0.27 if crowded else 0.36) * len(rules), 1 if crowded else len(languages)
    rows = -(-len(languages) // columns)
    # The matrices are square: what a figure is too high for its width becomes gaps between them.
    rest = {"width": 2.8, "height": 1.7 + 0.2 * rows} if crowded else {"width": 1.7, "height": 1.75}
    with drawing(path, width=side * columns + rest["width"], height=side * rows + rest["height"]) as figure:
        panels = grid(figure, len(languages), columns=columns, sharex=True, sharey=True)
        for panel, (language, colour) in zip(panels, language_colours(languages).items(), strict=True):
            values, texts = square(cells[cells["language"] == language], names)
            scale: dict[str, Any] = {"vmin": 0, "vmax": 100, "cmap": SHARE_COLOURS, "square": True}
            image = heat_map(panel, values, texts=texts, size=6, **scale)
            panel.set_title(language_name(language), color=colour, family=LATIN, fontweight="bold")
            ticks = np.arange(len(rules)) + 0.5
            panel.set_xticks(ticks, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=6.5)
            panel.set_yticks(ticks, names, fontsize=6.5)
            panel.tick_params(length=0)
        panels[0].set_ylabel("Units of")
        figure.supxlabel("that are also units of", fontsize=8)
        figure.colorbar(image, ax=panels, shrink=0.6, label="Share of the row's set (%)").outline.set_visible(False)
    by_chance = "" if crowded else "; in brackets by chance"
    return (
        f"Share (%) of a rule's set (rows) that another rule takes for the same language (columns){by_chance}. A star "
        "marks a share outside the 95 % range of chance, the counts kept in every layer and site. Where one of two "
        "sets is of neurons, rows count as the neuron whose gate or up row they are; down rows are left out."
    )


def reliability_figure(table: pd.DataFrame, path: Path) -> str:
    """Share of a set beyond chance that is found again on other documents (`reliability_table`), by share of these."""
    languages = ordered_languages(table["language"])
    sets = ordered_sets(zip(table["method"], table["budget"], strict=True))
    names = [method_label(*one) for one in sets]
    colours = dict(zip(names, (method_colour(method) for method, _budget in sets), strict=True))
    frame = table.assign(set=list(map(method_label, table["method"], table["budget"])))
    with drawing(path, width=7.0, height=2.6 + 0.16 * -(-len(sets) // COLUMNS)) as figure:
        panels = grid(figure, len(languages), sharey=True)
        for panel, language in zip(panels, languages, strict=True):
            part = frame[frame["language"] == language]
            common: dict[str, Any] = {"x": "documents_share", "y": "above_chance", "hue": "set", "hue_order": names}
            common |= {"style": "set", "style_order": names, "palette": colours, "markers": True, "markersize": 5}
            sns.lineplot(part, ax=panel, **common, errorbar=None, legend="full" if panel is panels[0] else False)
            panel.axhline(0, color=NEUTRAL, linewidth=1)
            panel.set_xscale("log", base=2)
            shares = sorted(set(frame["documents_share"]))
            panel.set_xticks(shares, [f"1/{round(1 / share)}" for share in shares])
            panel.set_title(language_name(language))
            panel.grid(axis="y")
            for name in names:
                line = part[part["set"] == name]
                tell(panel, name, line["documents_share"], line["above_chance"])
        label_outside(panels, across="Share of the documents", up="Found again, beyond chance")
        handles, legend = panels[0].get_legend_handles_labels()[0], panels[0].get_legend()
        if legend is not None:
            legend.remove()
        legend_below(figure, handles=handles, columns=COLUMNS)
    return (
        "Share of a set that the same rule finds again on disjoint documents, beyond chance: 1 for equal sets, 0 (grey "
        "line) for sets with the same numbers of neurons in every layer placed at random. Sets of rows are compared as "
        "the neurons they kill."
    )
