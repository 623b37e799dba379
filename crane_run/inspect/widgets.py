"""Panel of controls: choose model, language, layer and neuron, and see its values, texts, cost and files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets
from IPython.display import display

from crane_lib.errors import CraneError
from crane_run.inspect import html
from crane_run.inspect.ranks import Neuron, highest_ranked, masking_cost, method_scores, neuron_facts, neuron_ranks
from crane_run.inspect.run import FinishedRun
from crane_run.inspect.stage_files import describe_file, draw_file, list_files, load_file
from crane_run.inspect.texts import read_documents, read_sentence
from crane_study.labels import MODEL_LABELS, language_name, method_label

_WITHOUT_KERNEL = "The panel of controls needs a running kernel: ./run_all.sh --lab opens this notebook with one."
_WIDTH = "15em"
_STYLE = {"description_width": "initial"}


class Inspector:
    """Widgets on one run; `panel` is what is shown.

    A change of model, layer, neuron or language is shown at once; a change of method or rank moves to the neuron of
    that rank in the language. Errors appear in `status`, those of files in `file`, in one line.
    """

    def __init__(self, run: FinishedRun, neuron: Neuron, language: str, *, documents: int) -> None:
        self._run = run
        self._documents = documents
        self._moving = False  # while several controls are set together
        models = [(MODEL_LABELS.get(name, name), name) for name in run.models]
        languages = [(language_name(code), code) for code in run.languages]
        methods = [(method_label(name), name) for name in method_scores(run, neuron.model)]
        self.model = _dropdown("Model", models, value=neuron.model)
        self.language = _dropdown("Language", languages, value=language)
        self.layer = _number("Layer", neuron.layer)
        self.neuron = _number("Neuron", neuron.index)
        self.method = _dropdown("Go to rank of", methods, value="contrast")
        self.rank = _number("Rank", 1)
        self.status, self.facts, self.texts, self.sentence, self.cost, self.file = (ipywidgets.HTML() for _ in range(6))
        self.text = ipywidgets.Textarea(placeholder="A text of your own", layout={"width": "95%", "height": "5em"})
        self.measure = ipywidgets.Button(description="Mask it and measure", layout={"width": _WIDTH})
        self.read = ipywidgets.Button(description="Read this text", layout={"width": _WIDTH})
        self.name = _dropdown("File", list_files(run), width="40em")
        self.part = _dropdown("Part", [], width="24em")
        self.panel = self._laid_out()
        self._watch()
        self._refresh()
        self._open_file()

    def _laid_out(self) -> ipywidgets.VBox:
        pages = {
            "Values and ranks": self.facts,
            "Texts": self.texts,
            "Your own text": ipywidgets.VBox([self.text, self.read, self.sentence]),
            "Masking": ipywidgets.VBox([self.measure, self.cost]),
            "Files": ipywidgets.VBox([_in_a_row(self.name, self.part), self.file]),
        }
        tabs = ipywidgets.Tab(children=list(pages.values()), titles=list(pages))
        chosen = _in_a_row(self.model, self.language, self.layer, self.neuron)
        return ipywidgets.VBox([chosen, _in_a_row(self.method, self.rank), self.status, tabs])

    def _watch(self) -> None:
        for control in (self.model, self.layer, self.neuron, self.language):
            control.observe(lambda _: self._refresh(), "value")
        for control in (self.method, self.rank):
            control.observe(lambda _: self._go_to_rank(), "value")
        self.name.observe(lambda _: self._open_file(), "value")
        self.part.observe(lambda _: self._draw_file(), "value")
        self.measure.on_click(lambda _: self._fill(self.cost, self._cost_html))
        self.read.on_click(lambda _: self._fill(self.sentence, self._sentence_html))

    @property
    def chosen(self) -> Neuron:
        """Neuron that the controls name."""
        return Neuron(self.model.value, self.layer.value, self.neuron.value)

    def _fill(self, place: ipywidgets.HTML, make: Callable[[], str]) -> None:
        """Put the result of `make` into a place; an error goes into the status, and the place is emptied."""
        shown = ""
        self.status.value = html.page(html.note("Computing …"))
        with _error_in(self.status):
            shown = html.page(make())
            told = f"{html.neuron_title(self.chosen)}; {language_name(self.language.value)}"
            self.status.value = html.page(html.note(told))
        place.value = shown

    def _refresh(self) -> None:
        if self._moving:
            return
        self.cost.value = self.sentence.value = ""  # they were of another neuron
        self._fill(self.facts, self._facts_html)
        if self.facts.value:
            self._fill(self.texts, self._texts_html)
        else:
            self.texts.value = ""

    def _go_to_rank(self) -> None:
        model, language, method = self.model.value, self.language.value, self.method.value
        with _error_in(self.status):
            found = highest_ranked(self._run, model, language, method=method, rank=self.rank.value)
            with self._together():
                self.layer.value, self.neuron.value = found.place
            self._refresh()

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Set several controls in the block without computing anything in between."""
        self._moving = True
        try:
            yield
        finally:
            self._moving = False

    def _facts_html(self) -> str:
        return html.facts_html(self.chosen, neuron_facts(self._run, self.chosen), neuron_ranks(self._run, self.chosen))

    def _texts_html(self) -> str:
        return html.texts_html(read_documents(self._run, self.chosen, self.language.value, count=self._documents))

    def _sentence_html(self) -> str:
        return html.readings_html([read_sentence(self._run, self.chosen, self.language.value, self.text.value)])

    def _cost_html(self) -> str:
        cost = masking_cost(self._run, self.chosen, count=self._documents)
        return html.cost_table(cost) + html.picture_html(*html.picture(html.cost_figure, cost))

    def _open_file(self) -> None:
        if self.name.value is not None:
            with _error_in(self.file):
                with self._together():
                    self.part.options = load_file(self._run, self.name.value).parts  # chooses the first
                self._draw_file()

    def _draw_file(self) -> None:
        if not self._moving:
            with _error_in(self.file):
                loaded = load_file(self._run, self.name.value)
                drawn = draw_file(loaded, self.part.value or "")
                self.file.value = html.page(html.picture_html(*drawn) if drawn else "", describe_file(loaded))


@contextmanager
def _error_in(place: ipywidgets.HTML) -> Iterator[None]:
    """Show an error of the block in a place."""
    try:
        yield
    except CraneError as error:
        place.value = html.page(html.note(str(error), error=True))


def _in_a_row(*controls: ipywidgets.Widget) -> ipywidgets.HBox:
    return ipywidgets.HBox(controls, layout={"flex_flow": "row wrap"})


def _dropdown(name: str, options: Any, *, width: str = _WIDTH, **value: str) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(description=name, options=options, style=_STYLE, layout={"width": width}, **value)


def _number(name: str, value: int) -> ipywidgets.IntText:
    return ipywidgets.IntText(description=name, value=value, style=_STYLE, layout={"width": "10em"})


def show_panel(run: FinishedRun, neuron: Neuron, language: str, *, documents: int) -> Inspector:
    """Show the panel; a reader of the notebook without a kernel sees a note instead."""
    inspector = Inspector(run, neuron, language, documents=documents)
    bundle = inspector.panel._repr_mimebundle_()
    display({**bundle, "text/plain": _WITHOUT_KERNEL}, raw=True)
    return inspector
