"""Output of the cells of the inspection notebook: HTML for readers, and the same as plain text."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

import pandas as pd
from IPython.display import display

from crane_run.inspect import html
from crane_run.inspect.ranks import Neuron, masking_cost, neuron_facts, neuron_ranks
from crane_run.inspect.run import FinishedRun
from crane_run.inspect.stage_files import describe_file, draw_file, load_file
from crane_run.inspect.texts import Reading, top_documents, top_pieces

_OTHERS = 2  # documents shown of each other language


def _display(page: str, *plain: str | pd.DataFrame) -> None:
    """Show HTML, for readers without HTML the plain texts and frames."""
    texts = [
        part.to_string(index=False, float_format="{:.4g}".format) if isinstance(part, pd.DataFrame) else part
        for part in plain
    ]
    display({"text/html": html.page(page), "text/plain": "\n\n".join(texts)}, raw=True)


def _display_picture(png: bytes, caption: str) -> None:
    both = {"image/png": b64encode(png).decode("ascii"), "text/plain": caption}
    display(both, raw=True, metadata={"image/png": {"alt": caption}})
    _display(html.note(caption), caption)


def show_facts(run: FinishedRun, neuron: Neuron) -> None:
    """Show the values and ranks of a neuron."""
    facts, ranks = neuron_facts(run, neuron), neuron_ranks(run, neuron)
    _display(html.facts_html(neuron, facts, ranks), html.neuron_title(neuron), facts, ranks)


def show_texts(readings: Sequence[Reading]) -> None:
    """Show the top documents and tokens of a neuron in one language."""
    _display(html.texts_html(readings), top_pieces(readings, count=html.PIECES))


def show_other_texts(readings: Sequence[Sequence[Reading]]) -> None:
    """Show the activity of a neuron in several languages, and its top documents in each, shaded on one scale."""
    shown = [reading for of_language in readings for reading in top_documents(of_language, count=_OTHERS)]
    summary = pd.DataFrame(
        {
            "language": of_language[0].language,
            "documents": len(of_language),
            "tokens": sum(reading.tokens for reading in of_language),
            "firing_rate": sum(r.firing_tokens for r in of_language) / sum(r.tokens for r in of_language),
            "relevance": sum(reading.relevance for reading in of_language) / len(of_language),
        }
        for of_language in readings
    )
    rates = summary["firing_rate"].map("{:.2%}".format)
    names = {"firing_rate": "Fires at", "relevance": "Relevance of a document"}
    table = html.frame_table(summary.assign(firing_rate=rates).rename(columns=names))
    _display(table + html.readings_html(shown), summary)


def show_cost(run: FinishedRun, neuron: Neuron, *, count: int) -> None:
    """Show the cost of masking a neuron in every language, on `count` held-out texts of each."""
    cost = masking_cost(run, neuron, count=count)
    _display(html.cost_table(cost), cost)
    _display_picture(*html.picture(html.cost_figure, cost))


def show_file(run: FinishedRun, name: str, part: str = "") -> None:
    """Show an intermediate file of a run, and draw it or one part of it (a tensor, a column)."""
    loaded = load_file(run, name)
    _display(html.heading(name) + describe_file(loaded), f"{name}: {loaded.kind}")
    if (drawn := draw_file(loaded, part)) is not None:
        _display_picture(*drawn)
