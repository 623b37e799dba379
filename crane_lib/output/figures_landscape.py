"""Figures of where relevance lies by layer, site and language, and of the tails of its distribution over units."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize
from scipy.stats import norm

from crane_lib.errors import CraneError
from crane_lib.output.figures_agreement import SITE_NAMES, site_map
from crane_lib.output.panels import grid, legend_below
from crane_lib.output.style import drawing, language_colours, language_name, ordered_languages

_SMALLEST = 0.02  # of a standard deviation; below it lies no tail


def relevance_map(shares: Mapping[str, Mapping[tuple[str, str], np.ndarray]], path: Path) -> str:
    """Share of the absolute relevance by layer, site and language: neurons beside rows.

    Parameters
    ----------
    shares : of `crane_lib.landscape.relevance_shares`

    Returns
    -------
    the caption
    """
    panels = {name: values for name, values in shares.items() if values}
    titles = {"neurons": "MLP neurons (activation × gradient)", "rows": "Weight rows (summed weight gradient)"}
    heights = [len(values) for values in panels.values()]
    with drawing(path, width=5.8, height=1.2 + 0.2 * sum(heights)) as figure:
        axes = figure.subplots(len(panels), 1, height_ratios=heights, sharex=True, squeeze=False)[:, 0]
        for panel, (name, values) in zip(axes, panels.items(), strict=True):
            highest = max(float(array.max()) for array in values.values())
            image = site_map(panel, values, scale=Normalize(0, highest))
            panel.set_title(titles.get(name, name))
            figure.colorbar(image, ax=panel, label="Share (%)", aspect=30 * len(values) / sum(heights))
        axes[-1].set_xlabel("Layer")
    return (
        "Share (%) of a language's summed absolute relevance that lies in each layer and site. Neurons add up to 100 % "
        "a language, and so do the rows of the three matrices together; means over documents, a scale a panel."
    )


def value_tails(values: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> str:
    """Survival curves of the size of the mean relevance over units, a panel a site, beside a normal distribution.

    Parameters
    ----------
    values : language -> site -> mean value of every unit

    Returns
    -------
    the caption
    """
    languages = ordered_languages(values)
    colours = language_colours(languages)
    sites = [site for site in SITE_NAMES if site in values[languages[0]]]
    highest = 1.0
    with drawing(path, width=0.7 + 1.6 * len(sites), height=2.8) as figure:
        panels = grid(figure, len(sites), columns=len(sites), sharey=True, sharex=True)
        for panel, site in zip(panels, sites, strict=True):
            for language in languages:
                array = np.asarray(values[language][site], dtype=float)
                deviation = float(array.std())
                if not deviation > 0:
                    raise CraneError(
                        f"tails: the mean values of {language!r} at {site} do not vary; were they measured?"
                    )
                sizes = np.sort(np.abs(array - array.mean()) / deviation)
                above = 1 - np.arange(len(sizes)) / len(sizes)
                panel.step(sizes, above, where="pre", color=colours[language], label=language_name(language))
                highest = max(highest, float(sizes[-1]))
            x = np.geomspace(_SMALLEST, 6, 300)
            panel.plot(x, 2 * norm.sf(x), color="#777777", linestyle=":", label="Normal distribution")
            panel.set_title(SITE_NAMES[site].capitalize())
            panel.grid()
            panel.set_xlabel("Standard deviations")
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
