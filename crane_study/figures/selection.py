"""Figures of neuron sets: where their units lie and how much the languages share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from crane_lib.errors import CraneError
from crane_study.figures.alt_text import KEY
from crane_study.figures.panels import by_layer, grid, grid_height, language_heat_map, legend_below, name_panel
from crane_study.figures.style import LATIN, drawing, ink_on, language_colours, method_colour
from crane_study.labels import language_name, method_label, ordered_languages, ordered_sets
from crane_study.measure.rows import pick, tidy

SIGNIFICANCE = 0.01


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
    """Units of each set by layer, a panel a method and budget.

    Parameters
    ----------
    counts : frame of `crane_study.tables.overlap.set_counts`

    Returns
    -------
    the caption
    """
    frame = _of_model(counts, model)
    sets = ordered_sets(zip(frame["method"], frame["budget"], strict=True))
    languages = ordered_languages(frame["language"])
    with drawing(path, width=7.0, height=grid_height(len(sets), columns=3, panel=1.65, rest=0.6)) as figure:
        panels = grid(figure, len(sets), columns=3)
        for number, (panel, (method, budget)) in enumerate(zip(panels, sets, strict=True)):
            part = pick(frame, method=method, budget=budget)
            table = part.pivot_table(index="layer", columns="language", values="count", aggfunc="sum")
            by_layer(panel, {code: table[code].to_numpy() for code in languages if code in table})
            sites = ", ".join(dict.fromkeys(part["site"]))
            name_panel(panel, method, budget, note=f"({sites})")
            panel.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
            panel.set_ylabel("Units" if number % 3 == 0 else "")
            panel.set_xlabel("Layer" if number + 3 >= len(sets) else "")
        legend_below(figure, panels[0])
    return (
        "Number of units in each language's set, by layer. The sites a method selects from stand in brackets; where "
        "there are several their counts are added."
    )


def overlap_matrix(overlaps: pd.DataFrame, path: Path, *, model: str | None = None) -> str:
    """Share of each language's set that is also in another's, with the share expected by chance.

    Parameters
    ----------
    overlaps : frame of `crane_study.tables.overlap.overlaps`

    Returns
    -------
    the caption
    """
    frame = _of_model(overlaps, model)
    sets = ordered_sets(zip(frame["method"], frame["budget"], strict=True))
    languages = ordered_languages(frame["language_a"])
    scale = Normalize(0, max(100 * float(frame["share_of_a"].max()), 1.0))
    colours, columns = matplotlib.colormaps["Purples"].with_extremes(bad="#EDEDED"), 3
    with drawing(path, width=6.6, height=grid_height(len(sets), columns=columns, panel=2.0)) as figure:
        panels = grid(figure, len(sets), columns=columns)
        for number, (panel, (method, budget)) in enumerate(zip(panels, sets, strict=True)):
            part = pick(frame, method=method, budget=budget)
            values = np.full((len(languages), len(languages)), np.nan)
            texts = [[""] * len(languages) for _ in languages]
            for row in part.itertuples():
                i, j = languages.index(row.language_a), languages.index(row.language_b)
                values[i, j] = 100 * row.share_of_a
                star = "*" if row.p_value < SIGNIFICANCE else ""
                low, high = 100 * row.chance_low, 100 * row.chance_high
                texts[i][j] = f"{values[i, j]:.1f}{star}\n({low:.1f}–{high:.1f})"
            image = language_heat_map(panel, values, texts, languages=languages, colours=colours, scale=scale)
            name_panel(panel, method, budget)
            panel.set_ylabel("Units of" if number % columns == 0 else "")
            panel.set_xlabel("that are also units of" if number + columns >= len(sets) else "")
        figure.colorbar(image, ax=panels, shrink=0.6, label="Share of the row's set (%)")
    return (
        "Share (%) of each language's set (rows) that is also in the other language's (columns). In brackets the "
        "range that holds 95 % of the shares of sets placed at random with their counts kept in every layer and site "
        "(exact); a star marks "
        f"more than chance at p < {SIGNIFICANCE}."
    )


SITE_NAMES = {"neuron": "neurons", "gate": "gate rows", "up": "up rows", "down": "down rows"}
_MOST_NUMBERS = 12  # layers up to which the cells of a map carry numbers
_MOST_COMBINATIONS = 12  # of languages, in one panel
_RANGE: dict[str, Any] = {"color": "#BDBDBD", "linewidth": 5, "zorder": 1, "label": "_95 % range of chance"}
_TICK: dict[str, Any] = {"color": "#5F5F5F", "markersize": 6, "zorder": 2, "label": "_Mean of chance"}
_DOT: dict[str, Any] = {"mec": "black", "mew": 0.4, "ms": 4, "zorder": 3, "label": "_Jaccard index"}


def site_map(
    axes: Axes, shares: Mapping[tuple[str, str], np.ndarray], *, scale: Normalize, label_sites: bool = True
) -> matplotlib.image.AxesImage:
    """Heat map of percentages: layers across, a row a site and language.

    Parameters
    ----------
    shares : (site, language) -> percentage in every layer  (L,)
    """
    values = np.array(list(shares.values()))
    image = axes.imshow(values, cmap="Purples", norm=scale, aspect="auto")
    if values.shape[1] <= _MOST_NUMBERS:
        colours = matplotlib.colormaps["Purples"]
        for row, column in np.ndindex(values.shape):
            ink = ink_on(colours(scale(values[row, column])))
            text = _percentage(float(values[row, column]))
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=6)
        axes.set_xticks(range(values.shape[1]))
    languages = [language for _site, language in shares]
    axes.set_yticks(range(len(shares)), languages)
    axes.tick_params(length=0, pad=2)
    for label, language in zip(axes.get_yticklabels(), languages, strict=True):
        label.set(color=language_colours(languages)[language], family=LATIN, fontweight="bold")
    sites = list(dict.fromkeys(site for site, _language in shares))
    for number, site in enumerate(sites):
        rows = [row for row, (name, _language) in enumerate(shares) if name == site]
        if number:
            axes.axhline(rows[0] - 0.5, color="white", linewidth=2.5)
        if label_sites:
            middle = (rows[0] + rows[-1]) / 2
            name = SITE_NAMES.get(site, site).replace(" ", "\n")
            axes.annotate(
                name, (0, middle), xytext=(-21, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="center", va="center", rotation=90, fontsize=7,
            )  # fmt: skip
    axes.spines[:].set_visible(False)
    axes.set_ylim(len(shares) - 0.5, -0.8)  # room for the line of a title
    return image


def _percentage(value: float) -> str:
    """A percentage in three characters or four."""
    return f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.1f}"


def set_sites_figure(counts: pd.DataFrame, path: Path) -> str:
    """Share of the units of every layer and site that each set takes, a panel a rule.

    Parameters
    ----------
    counts : frame of `crane_study.tables.overlap.set_counts`, of one model, without random draws

    Returns
    -------
    the caption
    """
    sets = ordered_sets(zip(counts["method"], counts["budget"], strict=True))
    languages = ordered_languages(counts["language"])
    tables = {}
    for method, budget in sets:
        part = counts[(counts["method"] == method) & (counts["budget"] == budget)]
        sites = [site for site in SITE_NAMES if site in set(part["site"])]
        found = part.pivot_table(index=["site", "language"], columns="layer", values="share", aggfunc="mean")
        order = [(site, language) for site in sites for language in languages]
        tables[method, budget] = {key: 100 * found.loc[key].to_numpy() for key in order if key in found.index}
    tall = [key for key in sets if len(tables[key]) > len(languages)]
    flat = [key for key in sets if key not in tall]
    rows = [line for keys, columns in ((tall, 2), (flat, 3)) for line in _lines(keys, columns)]
    heights = [0.62 + 0.16 * max(len(tables[key]) for key in line) for line in rows]
    heights[-1] += 0.2  # the label of the axis
    with drawing(path, width=7.0, height=sum(heights)) as figure:
        parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, line in zip(parts, rows, strict=True):
            columns = 2 if line[0] in tall else 3
            for panel, key in zip(
                part.subplots(1, columns, squeeze=False)[0], [*line, *[None] * columns], strict=False
            ):
                if key is None:
                    panel.set_visible(False)
                    continue
                highest = max(float(np.max(list(tables[key].values()))), 1e-9)
                site_map(panel, tables[key], scale=Normalize(0, highest))
                name_panel(panel, *key)
                panel.set_xlabel("Layer" if line is rows[-1] else "", fontsize=8)
    return (
        "Share (%) of the units of each layer and site that a language's set takes, by rule; every panel has its own "
        "scale, from white (none) to the panel's largest share. Counts of one selection: no uncertainty."
    )


def _lines(keys: Sequence[tuple[str, str]], columns: int) -> list[list[tuple[str, str]]]:
    return [list(keys[start : start + columns]) for start in range(0, len(keys), columns)]


def upset(intersections: Mapping[tuple[str, str], pd.DataFrame], path: Path) -> str:
    """How many units lie in exactly which languages' sets, a panel a rule.

    Parameters
    ----------
    intersections : method and budget -> frame of `crane_study.tables.overlap.intersections`

    Returns
    -------
    the caption
    """
    keys = [key for key in ordered_sets(intersections) if len(intersections[key])]
    cut = any(len(intersections[key]) > _MOST_COMBINATIONS for key in keys)
    columns = 3
    with drawing(path, width=7.0, height=grid_height(len(keys), columns=columns, panel=1.75)) as figure:
        parts = figure.subfigures(-(-len(keys) // columns), min(columns, len(keys)), squeeze=False).ravel()
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
    """Bars of counts over a matrix of dots."""
    combinations = [text.split("+") for text in frame["languages"]]
    languages = ordered_languages(code for combination in combinations for code in combination)
    colours = language_colours(languages)
    bars, dots = part.subplots(2, 1, height_ratios=[3, 0.5 + 0.42 * len(languages)], sharex=True)
    places = np.arange(len(frame))
    fills = [colours[c[0]] if len(c) == 1 else "#8A8A8A" for c in combinations]
    bars.bar(places, frame["count"], 0.62, color=fills, label="_Units")
    dashes: dict[str, Any] = {"color": "black", "linewidth": 1.3, "label": "_Expected by chance"}
    bars.hlines(frame["expected"], places - 0.42, places + 0.42, **dashes)
    for place, count, expected in zip(places, frame["count"], frame["expected"], strict=True):
        bars.annotate(
            f"{count:,}", (place, max(count, expected)), (0, 2), textcoords="offset points", ha="center", fontsize=6
        )
    bars.set_ylim(0, 1.15 * max(frame["count"].max(), frame["expected"].max()))
    bars.spines[["bottom", "left"]].set_visible(False)
    bars.tick_params(bottom=False, left=False, labelleft=False)
    name_panel(bars, *key)
    for row, language in enumerate(languages):
        inside = np.array([language in combination for combination in combinations])
        dots.scatter(places, np.full(len(places), row), s=22, color="#E3E3E3", zorder=1)
        dots.scatter(places[inside], np.full(int(inside.sum()), row), s=22, color=colours[language], zorder=3)
    for place, combination in zip(places, combinations, strict=True):
        rows = [languages.index(code) for code in combination]
        dots.vlines(place, min(rows), max(rows), color="#555555", linewidth=1.2, zorder=2)
    dots.set_yticks(range(len(languages)), languages)
    dots.set_label(KEY)  # it says what the names of the bars say
    dots.set_xticks(places, [" and ".join(combination) for combination in combinations])
    dots.set_xlim(-0.6, len(frame) - 0.4)
    dots.set_ylim(len(languages) - 0.5, -0.5)
    dots.tick_params(left=False, bottom=False, labelbottom=False)
    dots.spines[:].set_visible(False)
    for label in dots.get_yticklabels():
        label.set(color=colours[label.get_text()], family=LATIN, fontweight="bold")


def jaccard_forest(overlaps: pd.DataFrame, path: Path) -> str:
    """Jaccard index of every pair of languages with the 95 % range of chance, a row a rule and pair.

    Parameters
    ----------
    overlaps : frame of `crane_study.tables.overlap.overlaps`, of one model, without random draws

    Returns
    -------
    the caption
    """
    sets = ordered_sets(zip(overlaps["method"], overlaps["budget"], strict=True))
    languages = ordered_languages(overlaps["language_a"])
    pairs = [(a, b) for number, a in enumerate(languages) for b in languages[number + 1 :]]
    height = 0.75 + 0.15 * len(sets) * (len(pairs) + 1)
    with drawing(path, width=6.2, height=height) as figure:
        axes = figure.subplots()
        y, ticks = 0.0, []
        for method, budget in sets:
            part = overlaps[(overlaps["method"] == method) & (overlaps["budget"] == budget)]
            top = y
            for a, b in pairs:
                found = part[(part["language_a"] == a) & (part["language_b"] == b)]
                for row in found.itertuples():
                    axes.plot([row.jaccard_low, row.jaccard_high], [y, y], **_RANGE)
                    axes.plot(row.expected_jaccard, y, "|", **_TICK)
                    axes.plot(row.jaccard, y, "o", color=method_colour(method), **_DOT)
                    ticks.append((y, f"{a}–{b}"))
                y += 1
            axes.annotate(
                method_label(method, budget), (0, (top + y - 1) / 2), xytext=(-34, 0), ha="right", va="center",
                xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8,
            )  # fmt: skip
            y += 1
        axes.set_yticks([place for place, _text in ticks], [text for _place, text in ticks], fontsize=6.5)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(y - 0.7, -0.8)
        axes.set_xlim(left=-0.004)
        axes.set_xlabel("Jaccard index")
        axes.grid(axis="x")
    return (
        "Jaccard index of the sets of two languages (dots), by rule. Grey: the range that holds 95 % of what sets "
        "share that are placed at random with their counts kept in every layer and site (exact); its tick is the mean."
    )


def rule_matrix(agreement: pd.DataFrame, path: Path) -> str:
    """Share of one rule's set that another rule also takes, a panel a language.

    Parameters
    ----------
    agreement : frame of `crane_study.tables.overlap.agreement`

    Returns
    -------
    the caption
    """
    rules = ordered_sets(zip(agreement["method_a"], agreement["budget_a"], strict=True))
    languages = ordered_languages(agreement["language"])
    names = [method_label(*rule) for rule in rules]
    scale, colours = Normalize(0, 100), matplotlib.colormaps["Purples"].with_extremes(bad="#EDEDED")
    side = 0.36 * len(rules)
    with drawing(path, width=1.7 + side * len(languages), height=side + 1.75) as figure:
        panels = grid(figure, len(languages), columns=len(languages), sharey=True)
        for panel, language in zip(panels, languages, strict=True):
            values = np.full((len(rules), len(rules)), np.nan)
            for row in agreement[agreement["language"] == language].itertuples():
                i, j = rules.index((row.method_a, row.budget_a)), rules.index((row.method_b, row.budget_b))
                values[i, j] = 100 * row.share_of_a
                star = "" if row.chance_low <= row.share_of_a <= row.chance_high else "*"
                text = f"{values[i, j]:.0f}{star}\n({100 * row.expected_share_of_a:.0f})"
                ink = ink_on(colours(scale(values[i, j])))
                panel.text(j, i, text, ha="center", va="center", fontsize=5.6, linespacing=0.95, color=ink)
            image = panel.imshow(np.ma.masked_invalid(values), cmap=colours, norm=scale)
            colour = language_colours(languages)[language]
            panel.set_title(language_name(language), color=colour, family=LATIN, fontweight="bold")
            panel.set_xticks(range(len(rules)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=6.5)
            panel.set_yticks(range(len(rules)), names, fontsize=6.5)
            panel.tick_params(length=0)
            panel.spines[:].set_visible(False)
        panels[0].set_ylabel("Units of")
        figure.supxlabel("that are also units of", fontsize=8)
        figure.colorbar(image, ax=panels, shrink=0.6, label="Share of the row's set (%)")
    return (
        "Share (%) of a rule's set (rows) that another rule takes for the same language (columns); in brackets by "
        "chance, the counts kept in every layer and site. A star marks a share outside the 95 % range of chance. Where "
        "one of two sets is of neurons, rows count as the neuron whose gate or up row they are; down rows are left out."
    )
