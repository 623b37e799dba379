"""Tables, shaded texts and pictures as HTML, for the cells of a notebook and for its widgets, light or dark."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from crane_lib.neurons import NeuronSet
from crane_run.inspect.ranks import ROW_METHODS, Neuron
from crane_run.inspect.texts import Piece, Reading, top_documents, top_pieces
from crane_study.figures.panels import by_layer, legend_below
from crane_study.figures.relevance import token_style
from crane_study.figures.style import drawing, language_colours
from crane_study.labels import MODEL_LABELS, language_name, method_label, ordered_languages
from crane_study.publish import MISSING, table_words

PIECES = 10  # tokens in the table below the texts
_TOP = 4  # documents shown of the chosen language
_MOST_BARS = 20  # values of a text column that are drawn
_MOST_COLUMNS = 1024  # of a heat map; in wider arrays only the largest of neighbours is shown
_HISTOGRAM: dict[str, Any] = {"bins": 60, "color": "#4477AA"}
# The colours of JupyterLab's theme where it is there, so that tables are readable in dark mode.
_STYLE = """<style>
.crane-inspect {font-family: sans-serif; font-size: 14px; line-height: 1.45; max-width: 72em}
.crane-inspect table {border-collapse: collapse; margin: .3em 0 .9em; font-variant-numeric: tabular-nums}
.crane-inspect th, .crane-inspect td {padding: .25em .8em; text-align: right; background: transparent;
  border-bottom: 1px solid var(--jp-border-color2, #ccc)}
.crane-inspect th:first-child, .crane-inspect td:first-child {text-align: left}
.crane-inspect caption {text-align: left; padding: .2em 0 .4em; color: inherit}
.crane-inspect h4 {margin: .9em 0 .2em; font-size: 15px}
.crane-inspect p {margin: .3em 0}
.crane-inspect p.crane-text {line-height: 2.1; white-space: pre-wrap; font-size: 15px; overflow-wrap: anywhere;
  font-family: sans-serif, "Noto Sans CJK SC", "Noto Sans SC", "PingFang SC", "Microsoft YaHei"}
.crane-inspect span.piece {padding: 2px 0; border-radius: 2px}
.crane-inspect span.fires {box-shadow: inset 0 -3px 0 0 #1a1a1a}
.crane-inspect span.special {font-size: 75%; padding: 2px 3px; margin-right: 3px; font-family: monospace}
.crane-inspect .legend span {padding: 1px 8px}
.crane-inspect .note {opacity: .8}
.crane-inspect .error {color: var(--jp-error-color1, #b00020); font-weight: bold}
</style>"""


def page(*parts: str) -> str:
    """Join parts into one piece of HTML with a common style."""
    return f'{_STYLE}<div class="crane-inspect">{"".join(parts)}</div>'


def heading(text: str) -> str:
    """Small heading."""
    return f"<h4>{escape(text)}</h4>"


def note(text: str, *, error: bool = False) -> str:
    """Sentence of explanation, or an error in one line."""
    kind = 'class="error" role="alert"' if error else 'class="note"'
    return f"<p {kind}>{escape(text)}</p>"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> str:
    """Table of texts."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in headers)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{told}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def frame_table(frame: pd.DataFrame, *, caption: str = "") -> str:
    """Frame as a table: numbers with four digits, codes and names of columns in words."""
    numbers = {name: frame[name].map(number) for name in frame.select_dtypes("float")}
    words = table_words(frame.assign(**numbers))
    return table(words.headings, words.rows, caption=caption)


def raw_table(frame: pd.DataFrame, *, caption: str) -> str:
    """Frame of a file as a table with long texts cut."""
    cells = frame.map(lambda value: number(value) if isinstance(value, float) else _cut(str(value), 80))
    return table(list(map(str, frame.columns)), cells.to_numpy().tolist(), caption=caption)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def number(value: float) -> str:
    """Four significant digits; a dash for a missing value."""
    return MISSING if np.isnan(value) else f"{value:.4g}"


def neuron_title(neuron: Neuron) -> str:
    """Name of a neuron in words."""
    return f"{MODEL_LABELS.get(neuron.model, neuron.model)}, layer {neuron.layer}, neuron {neuron.index}"


def cost_table(cost: pd.DataFrame) -> str:
    """Cost of masking the neuron, one row per language (`masking_cost`)."""
    shown = {
        "language": cost["language"],
        "NLL": cost["nll"].map("{:.4f}".format),
        "NLL, masked": cost["nll_masked"].map("{:.4f}".format),
        "Change": cost["change"].map("{:+.5f}".format),
        "95 % interval": [f"{low:+.5f} to {high:+.5f}" for low, high in zip(cost["low"], cost["high"], strict=True)],
        **{name: cost[name].map("{:,}".format) for name in ("documents", "tokens")},
    }
    told = "NLL in nats per token on held-out texts, unmasked and with the neuron zeroed."
    return frame_table(pd.DataFrame(shown), caption=told)


def facts_html(neuron: Neuron, facts: pd.DataFrame, ranks: pd.DataFrame) -> str:
    """Values and ranks of a neuron (`neuron_facts`, `neuron_ranks`)."""
    objectives = {name: name.removeprefix("relevance_").replace("_", " ") for name in facts}
    headings = {name: f"Relevance ({told})" for name, told in objectives.items() if name.startswith("relevance_")}
    headings |= {"abs_relevance": "|Relevance|", "share": "Relevance / total |relevance|", "firing_rate": "Fires at"}
    shown = facts.assign(firing_rate=facts["firing_rate"].map("{:.2%} of tokens".format)).rename(columns=headings)
    told = "Means over the documents that relevance was measured on."
    return heading(neuron_title(neuron)) + frame_table(shown, caption=told) + ranks_table(ranks)


def ranks_table(ranks: pd.DataFrame) -> str:
    """Ranks of a neuron, one row per method and one column per language (`neuron_ranks`)."""
    rows = []
    for method, part in ranks.groupby("method", sort=False):
        sets = part["sets"].map(lambda budgets: " ●" if budgets else "")
        cells = part["rank"].map(lambda rank: f"{rank:,}" if rank else MISSING) + sets
        site = ROW_METHODS.get(str(method))
        name = f"{method_label('kurtosis')}, its {site} row" if site else method_label(str(method))
        rows.append([name, *cells, f"{int(part['of'].iloc[0]):,} {'rows' if site else 'neurons'}"])
    caption = "Rank under every method (1: the first that it selects). ● The neuron is in a set that the study masks."
    return table(["Method", *map(language_name, ranks["language"].unique()), "Of"], rows, caption=caption)


def _piece(piece: Piece, largest: float) -> str:
    if not piece.tokens:
        return escape(piece.text)
    kinds = "piece" + " fires" * piece.fires + " special" * piece.special
    told = f"relevance {piece.relevance:.4g}, activation {piece.activation:.4g}" + ", fires" * piece.fires
    style = token_style(piece.relevance / largest if largest > 0 else 0.0)
    text = escape(piece.text).replace("\n", "↵\n")
    return f'<span class="{kinds}" style="{style}" title="{told}">{text}</span>'


def readings_html(readings: Sequence[Reading]) -> str:
    """Texts with shaded tokens below a legend, each with the neuron's contribution and how often the neuron fires."""
    meanings = ((-1, "lowers"), (-0.5, ""), (0, "nothing"), (0.5, ""), (1, "raises"))
    shades = "".join(f'<span style="{token_style(value)}">{text}</span>' for value, text in meanings)
    fires = f'<span class="fires" style="{token_style(0)}">fires</span>'
    told = (
        "The shade is the neuron’s relevance at a token for the predictions of its text, on one scale for the texts "
        "shown; underlined where it fires. Numbers appear under the pointer."
    )
    blocks = [f'<p class="legend">{shades} &ensp;{fires}</p>', note(told)]
    largest = max((abs(piece.relevance) for reading in readings for piece in reading.pieces), default=0.0)
    for reading in readings:
        told = (
            f"{language_name(reading.language)}, document {reading.number}: relevance {reading.relevance:.4g}, fires "
            f"at {reading.firing_tokens} of {reading.tokens} tokens"
        )
        text = "".join(_piece(piece, largest) for piece in reading.pieces)
        blocks.append(f'{note(told)}<p class="crane-text" lang="{escape(reading.language)}">{text}</p>')
    return "".join(blocks)


def texts_html(readings: Sequence[Reading]) -> str:
    """Top documents and tokens of a neuron in one language."""
    told = f"Top documents of {len(readings)} read in {language_name(readings[0].language)}"
    caption = "Tokens at which the neuron contributes most, summed over all texts read."
    pieces = top_pieces(readings, count=PIECES)
    rates = pieces["fires"].map("{:.0%}".format)
    names = {"piece": "Token", "fires": "Fires at", "relevance": "Relevance, summed"}
    below = frame_table(pieces.assign(fires=rates).rename(columns=names), caption=caption)
    return heading(told) + readings_html(top_documents(readings, count=_TOP)) + below


def picture(draw: Callable[..., str], data: Any, **options: Any) -> tuple[bytes, str]:
    """Draw a figure; returns PNG and caption."""
    with TemporaryDirectory(prefix="crane-") as folder:
        caption = draw(data, Path(folder, "figure"), **options)
        return Path(folder, "figure.png").read_bytes(), caption


def picture_html(png: bytes, caption: str) -> str:
    """Embed a picture with its caption."""
    encoded = b64encode(png).decode("ascii")
    source = f"data:image/png;base64,{encoded}"
    shown = f'<img src="{source}" alt="{escape(caption)}" style="max-width:100%;background:white">'
    return f"<figure style='margin:.4em 0'>{shown}<figcaption>{escape(caption)}</figcaption></figure>"


def cost_figure(cost: pd.DataFrame, path: Path) -> str:
    """Change of the NLL in every language when the neuron is masked (`masking_cost`)."""
    languages = ordered_languages(cost["language"])
    rows = cost.set_index("language").loc[languages]
    names = [language_name(code) for code in languages]
    colours = list(language_colours(languages).values())
    with drawing(path, width=5.2, height=0.8 + 0.32 * len(languages)) as figure:
        axes = figure.subplots()
        sns.barplot(x=rows["change"].to_numpy(), y=names, hue=names, palette=colours, saturation=1, width=0.6, ax=axes)
        axes.hlines(range(len(rows)), rows["low"], rows["high"], color="black", linewidth=1.1)
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set(xlabel="Change of NLL (nats per token)", ylabel="")
        axes.grid(axis="x")
    return (
        "Change of the NLL on held-out texts when this one neuron is masked; lines: 95 % intervals from the paired "
        "bootstrap over documents."
    )


def array_figure(array: np.ndarray, path: Path, *, name: str) -> str:
    """Heat map (layers or rows below one another) and histogram of an array; more than two axes are flattened."""
    values = np.asarray(array, dtype=float)
    rows = values.reshape(1, -1) if values.ndim < 2 else values.reshape(-1, values.shape[-1])
    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max(initial=0.0)) or 1.0
    signed = bool((finite < 0).any())
    shown = _thinned(_thinned(rows).T).T
    steps = [-(-before // after) for before, after in zip(rows.shape, shown.shape, strict=True)]
    places = [[str(number * step) for number in range(count)] for count, step in zip(shown.shape, steps, strict=True)]
    with drawing(path, width=7.0, height=2.6) as figure:
        heat, histogram = figure.subplots(1, 2, width_ratios=[3, 2])
        scale = {"vmin": -largest if signed else 0.0, "vmax": largest, "cmap": "PuOr_r" if signed else "viridis"}
        sns.heatmap(pd.DataFrame(shown, *places), ax=heat, rasterized=True, **scale)
        heat.set(xlabel="Unit", ylabel="Layer or row", title=name)
        sns.histplot(x=finite, ax=histogram, **_HISTOGRAM)
        histogram.set(xlabel="Value", ylabel="Units", title="Histogram", yscale="log")
        histogram.locator_params(axis="x", nbins=4)
    missing = f"; {values.size - finite.size:,} values are not finite" if finite.size < values.size else ""
    size = " × ".join(f"{length:,}" for length in values.shape) or "1"
    thinned = "; neighbours share a place, which shows the largest in size" if shown.size < rows.size else ""
    return f"{name} ({size}), all values and their histogram with a logarithmic axis{thinned}{missing}."


def _thinned(rows: np.ndarray) -> np.ndarray:
    """Reduce the columns to those that a picture has room for, keeping the largest in size of neighbours."""
    step = -(-rows.shape[1] // _MOST_COLUMNS)
    if step <= 1:
        return rows
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % step)), mode="edge").reshape(len(rows), -1, step)
    places = np.abs(np.nan_to_num(padded)).argmax(axis=-1)
    return np.take_along_axis(padded, places[..., None], axis=-1)[..., 0]


def column_figure(values: pd.Series, path: Path) -> str:
    """Histogram of a column of numbers, or the frequencies of the most frequent texts of a column."""
    name = str(values.name).replace("$", r"\$")  # a dollar sign would begin a formula
    if is_numeric_dtype(values) and not is_bool_dtype(values):
        finite = values.to_numpy(dtype=float, na_value=np.nan)
        with drawing(path, width=5.6, height=2.6) as figure:
            axes = figure.subplots()
            sns.histplot(x=finite[np.isfinite(finite)], ax=axes, **_HISTOGRAM)
            axes.set(xlabel=name, ylabel="Rows")
        return f"Column {name}: histogram over {len(values):,} rows."
    counts = values.astype(str).value_counts()
    most = counts.head(_MOST_BARS)
    texts = [_cut(text, 40).replace("$", r"\$") for text in most.index]
    with drawing(path, width=5.6, height=0.9 + 0.2 * len(most)) as figure:
        axes = figure.subplots()
        sns.barplot(x=most.to_numpy(), y=texts, color=_HISTOGRAM["color"], ax=axes)
        axes.set(xlabel="Rows", ylabel="")
    more = f"the {_MOST_BARS} most frequent of {len(counts):,}" if len(most) == _MOST_BARS else "all"
    return f"Column {name}: rows with each value ({more})."


def sets_figure(sets: list[NeuronSet], path: Path) -> str:
    """Units of neuron sets by layer, one panel per site; for random draws their mean."""
    sites = [site for site in sets[0].sites if any(len(layer) for item in sets for layer in item.sites[site])]
    languages = ordered_languages(item.language for item in sets)
    with drawing(path, width=max(3.6, 2.2 * len(sites)), height=2.5) as figure:
        panels = figure.subplots(1, max(len(sites), 1), squeeze=False, sharey=True)[0]
        for panel, site in zip(panels, sites, strict=False):
            counts = [(item.language, [len(layer) for layer in item.sites[site]]) for item in sets]
            by_layer(panel, {code: np.mean([own for of, own in counts if of == code], axis=0) for code in languages})
            panel.set_title(site)
        panels[0].set_ylabel("Units")
        legend_below(figure, panels[0])
    return f"Units that {sets[0].method} at {sets[0].budget} selects in each layer."
