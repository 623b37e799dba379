"""Tables and shaded texts as HTML: for the cells of a notebook and for its widgets alike, light or dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize, to_hex

from crane_lib.inspection.pieces import Piece
from crane_lib.inspection.ranks import ROW_METHODS
from crane_lib.inspection.tokens import Reading
from crane_lib.output.style import ink_on, language_name, method_label
from crane_lib.output.writing import MISSING, header_text

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
        seed = column.removeprefix("relevance_")
        words = f"Relevance ({seed.replace('_', ' ')})" if seed != column else header_text(column)
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
