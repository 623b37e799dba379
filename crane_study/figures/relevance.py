"""Figures of relevance: where it lies, how heavy its tails are, how two objectives agree, what tokens carry it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import bidirectional

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_hex
from matplotlib.patches import Rectangle
from scipy.stats import norm

from crane_lib.errors import CraneError
from crane_lib.files import write_text
from crane_study.figures.alt_text import tell, tell_line, tell_text
from crane_study.figures.panels import SITE_NAMES, by_layer, grid, language_handles, legend_below, site_map
from crane_study.figures.style import LATIN, NEUTRAL, drawable, drawing, ink_on, language_colours
from crane_study.labels import language_name, ordered_languages

Relevance = Mapping[str, np.ndarray] | Mapping[str, Mapping[str, np.ndarray]]
Example = tuple[str, Sequence[str], Sequence[float]]  # language, tokens, relevance of each token
_SMALLEST = 0.02  # of a standard deviation; below it lies no tail
_TOKEN_COLOURS, _TOKEN_SCALE = matplotlib.colormaps["PuOr_r"], Normalize(-1.2, 1.2)


def relevance_by_layer(mean_abs: Relevance, path: Path) -> str:
    """Share of the total absolute relevance in each layer, per language; a panel per site.

    `mean_abs` has the mean absolute relevance of every neuron (L, I) by language, or such arrays by language and site.
    """
    by_site: dict[str, dict[str, np.ndarray]] = {}
    for language in ordered_languages(mean_abs):
        given = mean_abs[language]
        for site, array in (given if isinstance(given, Mapping) else {"neuron": given}).items():
            layers = np.abs(np.asarray(array, dtype=float)).sum(axis=1)  # (L,)
            if not layers.sum() > 0:
                raise CraneError(f"relevance by layer: {site} of {language!r} sums to {layers.sum()}; was it measured?")
            by_site.setdefault(site, {})[language] = 100 * layers / layers.sum()
    with drawing(path, width=max(3.6, 1.8 * len(by_site)), height=2.4) as figure:
        panels = grid(figure, len(by_site), columns=len(by_site), sharey=True)
        for panel, (site, values) in zip(panels, by_site.items(), strict=True):
            by_layer(panel, values)
            panel.set_title(SITE_NAMES.get(site, site).capitalize())
        panels[0].set_ylabel("Share of |relevance| (%)")
        legend_below(figure, handles=language_handles(ordered_languages(mean_abs)))
    return "Share of the summed absolute relevance that lies in each layer, per language; each site adds up to 100 %."


def relevance_map(shares: Mapping[str, Mapping[tuple[str, str], np.ndarray]], path: Path) -> str:
    """Share of the absolute relevance by layer, site and language (`relevance_shares`): neurons above weight rows."""
    panels = {name: values for name, values in shares.items() if values}
    titles = {"neurons": "MLP neurons (activation × gradient)", "rows": "Weight rows (summed weight gradient)"}
    heights = [len(values) for values in panels.values()]
    with drawing(path, width=5.8, height=1.2 + 0.2 * sum(heights)) as figure:
        axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
        for panel, (name, values) in zip(axes, panels.items(), strict=True):
            image = site_map(panel, values, numbered_layers=panel is axes[-1])
            panel.set_title(titles.get(name, name))
            bar = figure.colorbar(image, ax=panel, label="Share (%)", aspect=30 * len(values) / sum(heights))
            bar.outline.set_visible(False)
        axes[-1].set_xlabel("Layer")
    return (
        "Share (%) of a language's summed absolute relevance that lies in each layer and site. Neurons add up to 100 % "
        "per language, and so do the rows of the three matrices together; means over documents, one scale per panel."
    )


def _survival(axes: Axes, values: np.ndarray, label: str, colour: str) -> None:
    """Draw the share of values that lie above each value."""
    sns.ecdfplot(x=values, complementary=True, ax=axes, color=colour, label=label)
    ordered = np.sort(values)
    tell(axes, f"{label}, share above", ordered, 1 - np.arange(len(ordered)) / len(ordered))


def _normal(axes: Axes, x: np.ndarray, above: np.ndarray) -> None:
    """Draw the same of a normal distribution, dotted."""
    label = "Normal distribution"
    sns.lineplot(x=x, y=above, ax=axes, color=NEUTRAL, linestyle=":", label=label, legend=False, estimator=None)
    tell(axes, label, x, above)


def heavy_tails(z_scores: Mapping[str, np.ndarray], path: Path, *, threshold: float = 1.0) -> str:
    """Survival curves of the kurtosis z-scores of all rows (NaN: never varied), with the released rule's threshold."""
    known: dict[str, np.ndarray] = {}
    left_out = 0
    for language in ordered_languages(z_scores):
        z = np.ravel(z_scores[language])
        left_out += int(np.isnan(z).sum())
        known[language] = z[np.isfinite(z)]
        if not len(known[language]):
            raise CraneError(f"heavy tails: {language!r} has no finite z-score; it needs four documents or more")
    highest = max(threshold, *(float(z.max()) for z in known.values()))
    smallest = min(1 / len(z) for z in known.values())
    with drawing(path, width=5.4, height=3.0) as figure:
        axes = figure.subplots()
        for language, colour in language_colours(known).items():
            share = 100 * float((known[language] > threshold).mean())
            _survival(axes, known[language], f"{language_name(language)} ({share:.1f} % selected)", colour)
        x = np.linspace(-2, 8, 400)
        _normal(axes, x, norm.sf(x))
        label = f"Threshold z = {threshold:g}"
        axes.axvline(threshold, color="black", linewidth=0.9, linestyle="--", label=label)
        tell_line(axes, label, threshold, vertical=True)
        axes.set_yscale("log")
        axes.set_xscale("symlog", linthresh=2, linscale=1.2)
        ticks = [-2, -1, 0, 1, 2, *(tick for tick in (5, 10, 20, 50, 100, 200, 500) if tick <= highest)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set(xlim=(-2, highest * 1.15), ylim=(0.7 * smallest, 1.6))
        axes.set(xlabel="z-score of the excess kurtosis over documents", ylabel="Share of rows above")
        axes.grid()
        axes.legend(loc="lower left")
    constant = f" {left_out:,} rows whose statistic never varied are left out." if left_out else ""
    return (
        "Share of weight-matrix rows whose kurtosis z-score lies above a value, per language (horizontal axis linear "
        "below 2, logarithmic above; vertical axis logarithmic). The released rule selects the rows right of the "
        f"dashed line.{constant}"
    )


def value_tails(values: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> str:
    """Survival curves of the size of all units' mean values and of a normal distribution, a panel per site."""
    languages = ordered_languages(values)
    sites = [site for site in SITE_NAMES if site in values[languages[0]]]
    highest = 1.0
    with drawing(path, width=0.7 + 1.6 * len(sites), height=2.8) as figure:
        panels = grid(figure, len(sites), columns=len(sites), sharey=True, sharex=True)
        for panel, site in zip(panels, sites, strict=True):
            for language, colour in language_colours(languages).items():
                array = np.asarray(values[language][site], dtype=float)
                deviation = float(array.std())
                if not deviation > 0:
                    raise CraneError(f"tails: mean values of {language!r} at {site} do not vary; were they measured?")
                sizes = np.abs(array - array.mean()) / deviation
                _survival(panel, sizes, language_name(language), colour)
                highest = max(highest, float(sizes.max()))
            x = np.geomspace(_SMALLEST, 6, 300)
            _normal(panel, x, 2 * norm.sf(x))
            panel.set(title=SITE_NAMES[site].capitalize(), xlabel="Standard deviations")
            panel.grid()
        smallest = min(1 / len(values[language][site]) for language in languages for site in sites)
        panels[0].set(xscale="log", yscale="log", xlim=(_SMALLEST, 1.3 * highest), ylim=(0.7 * smallest, 1.4))
        panels[0].set_xticks([0.1, 1, 10, *([100] if highest > 100 else [])], labels=None)
        panels[0].xaxis.set_major_formatter("{x:g}")
        panels[0].set_ylabel("Share of units beyond")
        legend_below(figure, panels[0])
    return (
        "How far the units' mean relevance (neurons) or mean row statistic lies from the mean over units: the share of "
        "units beyond a distance, both axes logarithmic. A curve right of the dotted one has heavier tails than a "
        "normal distribution; every unit of the model is counted once, so there is no sampling error over units."
    )


def objective_agreement(correlations: pd.DataFrame, path: Path) -> str:
    """Rank correlation of neuron relevance under the two objectives of the relevance pass."""
    languages = ordered_languages(correlations["language"])
    names = [language_name(code) for code in languages]
    totals = correlations[correlations["layer"] == -1].set_index("language")["rank_correlation"].reindex(languages)
    layers = correlations[correlations["layer"] >= 0].set_index("language")["rank_correlation"]
    with drawing(path, width=3.2, height=2.3) as figure:
        axes = figure.subplots()
        colours = list(language_colours(languages).values())
        sns.barplot(x=names, y=totals.to_numpy(), hue=names, palette=colours, saturation=1, width=0.6, ax=axes)
        tell(axes, "All neurons", names, totals)
        for place, (language, name) in enumerate(zip(languages, names, strict=True)):
            part = layers.loc[[language]].to_numpy()
            spots = place + (np.linspace(-0.2, 0.2, len(part)) if len(part) > 1 else np.zeros(len(part)))
            sns.scatterplot(x=spots, y=part, ax=axes, color="white", edgecolor="black", linewidth=0.6, s=10, zorder=3)
            tell(axes, f"{name}, layers", range(len(part)), part)
        axes.axhline(0, color="black", linewidth=0.6)
        lowest = min(0.0, float(correlations["rank_correlation"].min()) - 0.05)
        axes.set(xlabel="", ylabel="Rank correlation", ylim=(lowest, 1.02))
        axes.grid(axis="y")
    return (
        "Spearman rank correlation, over neurons, of the mean relevance from the gold-logit objective and from the "
        "log-probability objective. Bars: all neurons; dots: each layer by itself, from the first on the left."
    )


def _scaled(relevances: Sequence[float]) -> np.ndarray:
    """Relevances divided by the largest absolute one, in [-1, 1]."""
    values = np.asarray(relevances, dtype=float)
    largest = np.abs(values).max(initial=0.0)
    return values / largest if largest > 0 else values


def token_relevance(examples: Sequence[Example], path: Path) -> str:
    """Tokens shaded by their relevance, or their numbers where no font draws them; in full as ``path.html``."""
    for language, tokens, relevances in examples:
        if len(tokens) != len(relevances) or not len(tokens):
            raise CraneError(f"token relevance: {language!r} has {len(tokens)} tokens and {len(relevances)} relevances")
    missing = sum(not drawable(token) for _, tokens, _ in examples for token in tokens)
    width, line = 7.0, 0.27
    with drawing(path, width=width, height=0.5, placed_by_hand=True) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        height = _write_tokens(axes, examples, width=width, line=line)
        figure.set_size_inches(width, height)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
    write_text(path.with_name(f"{path.name}.html"), token_relevance_html(examples))
    unseen = f" {missing} tokens that no font here can draw are given by number; `{path.name}.html` shows them."
    return (
        "Relevance of each token for the summed gold logits of its document: orange raises them, purple lowers them; "
        f"each document is scaled to its largest absolute relevance.{unseen if missing else ''}"
    )


class _Token(NamedTuple):
    """A token to be drawn; gap before it and room in inches."""

    text: str
    direction: int
    gap: float
    room: float
    colour: Any


def _direction(text: str) -> int:
    """-1 for a text read from right to left, 1 for one read from left to right, 0 for signs alone."""
    kinds = {bidirectional(character) for character in text}
    return -1 if kinds & {"R", "AL"} else 1 if kinds & {"L", "EN", "AN"} else 0


def _in_reading_order(tokens: Sequence[_Token], *, leftward: bool) -> list[_Token]:
    """Tokens of a line from the left; runs of the other direction are turned around. Matplotlib turns letters."""
    base = -1 if leftward else 1
    ordered: list[_Token] = []
    for other, run in groupby(tokens, key=lambda token: token.direction == -base):
        ordered += list(run)[:: -1 if other else 1]
    return ordered[::base]


def _write_tokens(axes: Axes, examples: Sequence[Example], *, width: float, line: float) -> float:
    """Set the tokens of all examples in lines and return their height; everything in inches from the top left."""
    y = 0.1
    for language, tokens, relevances in examples:
        axes.text(0.05, y + line / 2, language_name(language), va="center", family=LATIN, fontweight="bold", fontsize=9)
        shades = _scaled(relevances)
        lines: list[list[_Token]] = [[]]
        for number, (token, value) in enumerate(zip(tokens, shades, strict=True)):
            text = (token.strip() or "·") if drawable(token) else f"#{number}"
            # Full-width characters take about twice the room of Latin ones.
            room = 0.07 + sum(0.135 if ord(character) > 0x2E80 else 0.078 for character in text)
            gap = 0.05 if token[:1].isspace() and lines[-1] else 0.0  # a word begins; its pieces stand close together
            if sum(one.gap + one.room for one in lines[-1]) + gap + room > width - 0.1:
                lines.append([])
                gap = 0.0
            lines[-1].append(_Token(text, _direction(token), gap, room, _TOKEN_COLOURS(_TOKEN_SCALE(value))))
        leftward = sum(_direction(token) for token in tokens) < 0
        for one_line in lines:
            y += line
            x = width - 0.05 - sum(one.gap + one.room for one in one_line) if leftward else 0.05
            for one in _in_reading_order(one_line, leftward=leftward):
                x += 0.0 if leftward else one.gap
                axes.add_patch(Rectangle((x, y + 0.02), one.room - 0.02, line - 0.04, color=one.colour, linewidth=0))
                centred: dict[str, Any] = {"ha": "center", "va": "center", "color": ink_on(one.colour)}
                axes.text(x + one.room / 2 - 0.01, y + line / 2, one.text, fontsize=8.5, **centred)
                x += one.room + (one.gap if leftward else 0.0)
        told = (f"{token.strip() or '·'} {value:+z.2f}" for token, value in zip(tokens, shades, strict=True))
        tell_text(axes, f"{language_name(language)}: {'; '.join(told)}")
        y += line + 0.12
    return y


def token_style(shade: float) -> str:
    """CSS colours of a token with a relevance in [-1, 1], on the scale of the picture."""
    colour = _TOKEN_COLOURS(_TOKEN_SCALE(shade))
    return f"background:{to_hex(colour)};color:{ink_on(colour)}"


def token_relevance_html(examples: Sequence[Example]) -> str:
    """The shaded tokens as an HTML page, for which the browser brings the fonts."""
    blocks = []
    for language, tokens, relevances in examples:
        spans = []
        for token, value, shade in zip(tokens, relevances, _scaled(relevances), strict=True):
            style = f"{token_style(shade)};padding:1px 2px;border-radius:2px"
            spans.append(f'<span style="{style}" title="{value:.4g}">{escape(token)}</span>')
        text = f'<p lang="{escape(language)}" style="line-height:1.9;white-space:pre-wrap">{"".join(spans)}</p>'
        blocks += [f"<h2>{escape(language_name(language))}</h2>", text]
    head = '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Token relevance</title>'
    body = '<body style="font-family:sans-serif;max-width:60em;margin:2em auto">'
    return "\n".join([head, body, *blocks, "</body>\n</html>\n"])
