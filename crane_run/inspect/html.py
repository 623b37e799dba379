"""Tables and shaded texts as HTML: for the cells of a notebook and for its widgets alike, light or dark."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize, to_hex
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from crane_lib.neurons import NeuronSet
from crane_run.inspect.neuron import ROW_METHODS
from crane_run.inspect.texts import Piece, Reading
from crane_study.figures.panels import by_layer, legend_below
from crane_study.figures.style import drawing, ink_on, language_colours
from crane_study.labels import language_name, method_label, ordered_languages
from crane_study.publish import MISSING, header_text

_COLOURS, _SCALE = "PuOr_r", Normalize(-1.2, 1.2)  # as in section 01
# The colours of JupyterLab's theme where it is there, so that tables are readable on dark, too.
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
    """Parts as one piece of HTML with the style that they share."""
    return f'{_STYLE}<div class="crane-inspect">{"".join(parts)}</div>'


def heading(text: str) -> str:
    """A small heading."""
    return f"<h4>{escape(text)}</h4>"


def note(text: str) -> str:
    """A sentence of explanation."""
    return f'<p class="note">{escape(text)}</p>'


def error_note(text: str) -> str:
    """What went wrong, in one line."""
    return f'<p class="error" role="alert">{escape(text)}</p>'


def preformatted(text: str) -> str:
    """Text as it stands, in a box that scrolls."""
    return f'<pre tabindex="0" style="max-height:24em;overflow:auto;color:inherit">{escape(text)}</pre>'


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> str:
    """A table of texts."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in headers)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{told}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def frame_table(frame: pd.DataFrame, *, caption: str = "") -> str:
    """A frame as a table; long texts are cut."""
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return table([str(column) for column in frame.columns], rows, caption=caption)


def _cell(value: object) -> str:
    if isinstance(value, float | np.floating):
        return number(float(value))
    text = str(value)
    return text if len(text) <= 80 else text[:79] + "…"


def number(value: float) -> str:
    """Four significant digits, a dash for what is missing."""
    return MISSING if np.isnan(value) else f"{value:.4g}"


def facts_table(facts: pd.DataFrame) -> str:
    """Values of a neuron, a row a language (`neuron_facts`)."""
    names = {"abs_relevance": "|Relevance|", "share": "Relevance / total |relevance|", "firing_rate": "Fires at"}
    columns = [column for column in facts.columns if column != "language"]
    headers = ["Language"]
    for column in columns:
        objective = column.removeprefix("relevance_")
        words = f"Relevance ({objective.replace('_', ' ')})" if objective != column else header_text(column)
        headers.append(names.get(column, words))
    rows = []
    for record in facts.to_dict("records"):
        cells = [
            f"{100 * record[column]:.2f} % of tokens" if column == "firing_rate" else number(record[column])
            for column in columns
        ]
        rows.append([language_name(record["language"]), *cells])
    return table(headers, rows, caption="Means over the documents that relevance was measured on.")


def ranks_table(ranks: pd.DataFrame) -> str:
    """Ranks of a neuron, a row a method and a column a language (`neuron_ranks`)."""
    languages = list(dict.fromkeys(ranks["language"]))
    rows = []
    for method, part in ranks.groupby("method", sort=False):
        by_language = part.set_index("language")
        cells = []
        for language in languages:
            rank, sets = int(by_language.loc[language, "rank"]), str(by_language.loc[language, "sets"])
            cells.append((f"{rank:,}" if rank else MISSING) + (" ●" if sets else ""))
        site = ROW_METHODS.get(str(method))
        name = f"{method_label('kurtosis')}, its {site} row" if site else method_label(str(method))
        rows.append([name, *cells, f"{int(part['of'].iloc[0]):,} {'rows' if site else 'neurons'}"])
    caption = "Rank under every method (1: the first that it selects). ● The neuron is in a set that the study masks."
    return table(["Method", *map(language_name, languages), "Of"], rows, caption=caption)


def cost_table(cost: pd.DataFrame) -> str:
    """What masking the neuron costs, a row a language (`masking_cost`)."""
    rows = [
        [
            language_name(row["language"]),
            f"{row['nll']:.4f}",
            f"{row['nll_masked']:.4f}",
            f"{row['change']:+.5f}",
            f"{row['low']:+.5f} to {row['high']:+.5f}",
            f"{row['documents']:,}",
            f"{row['tokens']:,}",
        ]
        for row in cost.to_dict("records")
    ]
    headers = ["Language", "NLL", "NLL, masked", "Change", "95 % interval", "Documents", "Tokens"]
    return table(headers, rows, caption="NLL in nats a token on held-out texts, with the neuron as it is and zeroed.")


def pieces_table(pieces: pd.DataFrame) -> str:
    """Where a neuron contributes most (`top_pieces`)."""
    rows = [
        [
            record["piece"],
            f"{record['times']:,}",
            f"{100 * record['fires']:.0f} %",
            number(record["relevance"]),
            number(record["mean_activation"]),
        ]
        for record in pieces.to_dict("records")
    ]
    headers = ["Token", "Times", "Fires at", "Relevance, summed", "Mean activation"]
    return table(headers, rows, caption="Tokens at which the neuron contributes most, summed over all texts read.")


def summary_table(summary: pd.DataFrame) -> str:
    """What a neuron does in each language over the texts read (`readings_summary`)."""
    rows = [
        [
            language_name(row["language"]),
            f"{row['documents']:,}",
            f"{row['tokens']:,}",
            f"{100 * row['firing_rate']:.2f} %",
            number(row["relevance"]),
        ]
        for row in summary.to_dict("records")
    ]
    return table(["Language", "Documents", "Tokens", "Fires at", "Relevance of a document"], rows)


def legend() -> str:
    """What the shades mean."""
    shades = "".join(
        f'<span style="{_shade(value)}">{text}</span>'
        for value, text in ((-1, "lowers"), (-0.5, ""), (0, "nothing"), (0.5, ""), (1, "raises"))
    )
    fires = f'<span class="fires" style="{_shade(0)}">fires</span>'
    return (
        f'<p class="legend">{shades} &ensp;{fires}</p>'
        '<p class="note">The shade is the neuron’s relevance at a token for the predictions of its text, on one scale '
        "for the texts shown; underlined where it fires. Numbers appear under the pointer.</p>"
    )


def _shade(value: float) -> str:
    colour = matplotlib.colormaps[_COLOURS](_SCALE(value))
    return f"background:{to_hex(colour)};color:{ink_on(colour)}"


def _piece(piece: Piece, largest: float) -> str:
    if not piece.tokens:
        return escape(piece.text)
    kinds = ["piece", *(["fires"] if piece.fires else []), *(["special"] if piece.special else [])]
    told = f"relevance {piece.relevance:.4g}, activation {piece.activation:.4g}" + (", fires" if piece.fires else "")
    style = _shade(piece.relevance / largest if largest > 0 else 0.0)
    text = escape(piece.text).replace("\n", "↵\n")
    return f'<span class="{" ".join(kinds)}" style="{style}" title="{told}">{text}</span>'


def readings_html(readings: Sequence[Reading]) -> str:
    """Texts with their tokens shaded, each with the neuron's contribution and how often it fires."""
    largest = max((abs(piece.relevance) for reading in readings for piece in reading.pieces), default=0.0)
    blocks = []
    for reading in readings:
        told = (
            f"{language_name(reading.language)}, document {reading.number}: relevance {reading.relevance:.4g}, fires "
            f"at {reading.firing_tokens} of {reading.tokens} tokens"
        )
        text = "".join(_piece(piece, largest) for piece in reading.pieces)
        blocks.append(f'{note(told)}<p class="crane-text" lang="{escape(reading.language)}">{text}</p>')
    return legend() + "".join(blocks)


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
