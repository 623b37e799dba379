"""Figures of the inspection, as PNG bytes: the cost of a mask, an array, a column of a table, sets by layer."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from crane_lib.neurons import NeuronSet
from crane_lib.output.panels import by_layer, legend_below
from crane_lib.output.style import drawing, language_colours, language_name, ordered_languages

_MOST_BARS = 20  # values of a text column that are drawn
_BINS = 60
_COLUMNS = 1024  # of a heat map; wider arrays are thinned to the largest of neighbours


def picture(draw: Callable[..., str], data: Any, **options: Any) -> tuple[bytes, str]:
    """A figure as PNG, and its caption."""
    with TemporaryDirectory(prefix="crane-") as folder:
        caption = draw(data, Path(folder, "figure"), **options)
        return Path(folder, "figure.png").read_bytes(), caption


def picture_html(png: bytes, caption: str) -> str:
    """A picture and its caption as HTML that holds the picture itself."""
    encoded = b64encode(png).decode("ascii")
    source = f"data:image/png;base64,{encoded}"
    shown = f'<img src="{source}" alt="{escape(caption)}" style="max-width:100%;background:white">'
    return f"<figure style='margin:.4em 0'>{shown}<figcaption>{escape(caption)}</figcaption></figure>"


def cost_figure(cost: pd.DataFrame, path: Path) -> str:
    """Change of the NLL in every language when the neuron is masked (`masking_cost`)."""
    languages = ordered_languages(cost["language"])
    colours = language_colours(languages)
    with drawing(path, width=5.2, height=0.8 + 0.32 * len(languages)) as figure:
        axes = figure.subplots()
        for place, language in enumerate(languages):
            row = cost[cost["language"] == language].iloc[0]
            axes.barh(place, row["change"], 0.6, color=colours[language])
            axes.plot([row["low"], row["high"]], [place, place], color="black", linewidth=1.1)
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_yticks(range(len(languages)), [language_name(code) for code in languages])
        axes.set_ylim(len(languages) - 0.5, -0.5)
        axes.set_xlabel("Change of NLL (nats per token)")
        axes.grid(axis="x")
    return (
        "Change of the NLL on held-out texts when this one neuron is masked; lines: 95 % intervals from the paired "
        "bootstrap over documents."
    )


def array_figure(array: np.ndarray, path: Path, *, name: str) -> str:
    """Heat map (layers or rows below one another) and histogram of an array; more than two axes are laid flat."""
    values = np.asarray(array, dtype=float)
    rows = values.reshape(1, -1) if values.ndim < 2 else values.reshape(-1, values.shape[-1])
    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max(initial=0.0)) or 1.0
    signed = bool((finite < 0).any())
    with drawing(path, width=7.0, height=2.6) as figure:
        heat, histogram = figure.subplots(1, 2, width_ratios=[3, 2])
        shown = _thinned(_thinned(rows).T).T
        extent = (-0.5, rows.shape[1] - 0.5, rows.shape[0] - 0.5, -0.5)
        scale = Normalize(-largest if signed else 0.0, largest)
        colours = "PuOr_r" if signed else "viridis"
        image = heat.imshow(shown, cmap=colours, norm=scale, aspect="auto", extent=extent)
        heat.set(xlabel="Unit", ylabel="Layer or row", title=name)
        heat.yaxis.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=heat)
        histogram.hist(finite, bins=_BINS, color="#4477AA", log=True)
        histogram.set(xlabel="Value", ylabel="Units", title="Histogram")
        histogram.locator_params(axis="x", nbins=4)
    missing = f"; {values.size - finite.size:,} values are not finite" if finite.size < values.size else ""
    size = " × ".join(f"{length:,}" for length in values.shape) or "1"
    thinned = "; neighbours share a place, the largest in size is shown" if shown.size < rows.size else ""
    return f"{name} ({size}), all values and their histogram with a logarithmic axis{thinned}{missing}."


def _thinned(rows: np.ndarray) -> np.ndarray:
    """So many columns that a picture has room for them: of neighbours the largest in size stays."""
    step = -(-rows.shape[1] // _COLUMNS)
    if step <= 1:
        return rows
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % step)), mode="edge").reshape(len(rows), -1, step)
    places = np.abs(np.nan_to_num(padded)).argmax(axis=-1)
    return np.take_along_axis(padded, places[..., None], axis=-1)[..., 0]


def column_figure(values: pd.Series, path: Path) -> str:
    """Histogram of a column of numbers, or how often each text of a column stands there."""
    name = _plain(str(values.name))
    numbers = is_numeric_dtype(values) and not is_bool_dtype(values)
    counts = None if numbers else values.astype(str).value_counts().head(_MOST_BARS)
    height = 2.6 if counts is None else 0.9 + 0.2 * len(counts)
    with drawing(path, width=5.6, height=height) as figure:
        axes = figure.subplots()
        if counts is None:
            finite = values.to_numpy(dtype=float, na_value=np.nan)
            axes.hist(finite[np.isfinite(finite)], bins=_BINS, color="#4477AA")
            axes.set(xlabel=name, ylabel="Rows")
        else:
            labels = [_plain(text if len(text) <= 40 else text[:39] + "…") for text in counts.index]
            axes.barh(range(len(counts)), counts.to_numpy(), 0.7, color="#4477AA")
            axes.set_yticks(range(len(counts)), labels)
            axes.set_ylim(len(counts) - 0.5, -0.5)
            axes.set_xlabel("Rows")
    if counts is None:
        return f"Column {name}: histogram over {len(values):,} rows."
    more = f"the {_MOST_BARS} most frequent of {values.astype(str).nunique():,}" if len(counts) == _MOST_BARS else "all"
    return f"Column {name}: rows with each value ({more})."


def _plain(text: str) -> str:
    """Text in which a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def sets_figure(sets: list[NeuronSet], path: Path) -> str:
    """Units of neuron sets by layer, a panel a site; of random draws the mean."""
    sites = [site for site in sets[0].sites if any(len(layer) for item in sets for layer in item.sites[site])]
    with drawing(path, width=max(3.6, 2.2 * len(sites)), height=2.5) as figure:
        panels = figure.subplots(1, max(len(sites), 1), squeeze=False, sharey=True)[0]
        for panel, site in zip(panels, sites, strict=False):
            languages = ordered_languages(item.language for item in sets)
            counts = {
                language: np.mean(
                    [[len(layer) for layer in item.sites[site]] for item in sets if item.language == language], axis=0
                )
                for language in languages
            }
            by_layer(panel, counts)
            panel.set_title(site)
        panels[0].set_ylabel("Units")
        legend_below(figure, panels[0])
    return f"Units that {sets[0].method} at {sets[0].budget} selects in each layer."
