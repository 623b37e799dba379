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
from crane_study.labels import MODEL_LABELS, language_name

_TOP = 4  # documents shown of the chosen language
_OTHERS = 2  # and of each other one
_PIECES = 10


def neuron_title(neuron: Neuron) -> str:
    """Name of a neuron in words."""
    return f"{MODEL_LABELS.get(neuron.model, neuron.model)}, layer {neuron.layer}, neuron {neuron.index}"


def _display(page: str, plain: str) -> None:
    display({"text/html": page, "text/plain": plain}, raw=True)


def _plain(frame: pd.DataFrame) -> str:
    return frame.to_string(index=False, float_format="{:.4g}".format)


def _display_picture(png: bytes, caption: str) -> None:
    encoded = b64encode(png).decode("ascii")
    both = {"image/png": encoded, "text/plain": caption}
    display(both, raw=True, metadata={"image/png": {"alt": caption}})
    _display(html.page(html.note(caption)), caption)


def facts_html(run: FinishedRun, neuron: Neuron) -> str:
    """Values and ranks of a neuron."""
    facts, ranks = neuron_facts(run, neuron), neuron_ranks(run, neuron)
    return html.heading(neuron_title(neuron)) + html.facts_table(facts) + html.ranks_table(ranks)


def show_facts(run: FinishedRun, neuron: Neuron) -> None:
    """Show the values and ranks of a neuron."""
    plain = [neuron_title(neuron), _plain(neuron_facts(run, neuron)), _plain(neuron_ranks(run, neuron))]
    _display(html.page(facts_html(run, neuron)), "\n\n".join(plain))


def texts_html(readings: Sequence[Reading]) -> str:
    """Top documents and tokens of a neuron in one language."""
    top = top_documents(readings, count=_TOP)
    told = f"Top documents of {len(readings)} read in {language_name(readings[0].language)}"
    return html.heading(told) + html.readings_html(top) + html.pieces_table(top_pieces(readings, count=_PIECES))


def show_texts(readings: Sequence[Reading]) -> None:
    """Show the top documents and tokens of a neuron in one language."""
    _display(html.page(texts_html(readings)), _plain(top_pieces(readings, count=_PIECES)))


def show_other_texts(readings: Sequence[Sequence[Reading]]) -> None:
    """Show the top documents of several languages side by side, shaded on one scale."""
    shown = [reading for of_language in readings for reading in top_documents(of_language, count=_OTHERS)]
    summary = readings_summary(readings)
    _display(html.page(html.summary_table(summary), html.readings_html(shown)), _plain(summary))


def readings_summary(readings: Sequence[Sequence[Reading]]) -> pd.DataFrame:
    """Summarise the activity of a neuron in each language over the texts read.

    Returns
    -------
    frame with language, documents, tokens, firing_rate (share of tokens) and relevance (mean over documents)
    """
    return pd.DataFrame(
        {
            "language": of_language[0].language,
            "documents": len(of_language),
            "tokens": sum(reading.tokens for reading in of_language),
            "firing_rate": sum(r.firing_tokens for r in of_language) / sum(r.tokens for r in of_language),
            "relevance": sum(reading.relevance for reading in of_language) / len(of_language),
        }
        for of_language in readings
    )


def show_cost(run: FinishedRun, neuron: Neuron, *, count: int) -> None:
    """Show the cost of masking a neuron in every language, on `count` held-out texts of each."""
    cost = masking_cost(run, neuron, count=count)
    _display(html.page(html.cost_table(cost)), _plain(cost))
    _display_picture(*html.picture(html.cost_figure, cost))


def show_file(run: FinishedRun, name: str, part: str = "") -> None:
    """Show an intermediate file of a run, and draw it or one part of it (a tensor, a column)."""
    loaded = load_file(run, name)
    _display(html.page(html.heading(name), describe_file(loaded)), f"{name}: {loaded.kind}")
    if (drawn := draw_file(loaded, part)) is not None:
        _display_picture(*drawn)
