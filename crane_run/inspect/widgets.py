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
        self.model = _dropdown("Model", models, self._refresh, value=neuron.model)
        self.language = _dropdown("Language", languages, self._refresh, value=language)
        self.layer = _number("Layer", neuron.layer, self._refresh)
        self.neuron = _number("Neuron", neuron.index, self._refresh)
        self.method = _dropdown("Go to rank of", methods, self._go_to_rank, value="contrast")
        self.rank = _number("Rank", 1, self._go_to_rank)
        self.status, self.facts, self.texts, self.sentence, self.cost, self.file = (ipywidgets.HTML() for _ in range(6))
        self.text = ipywidgets.Textarea(placeholder="A text of your own", layout={"width": "95%", "height": "5em"})
        self.measure = _button("Mask it and measure", lambda: self._fill(self.cost, self._cost_html))
        self.read = _button("Read this text", lambda: self._fill(self.sentence, self._sentence_html))
        self.name = _dropdown("File", list_files(run), self._open_file, width="40em")
        self.part = _dropdown("Part", [], self._draw_file, width="24em")
        pages = {
            "Values and ranks": self.facts,
            "Texts": self.texts,
            "Your own text": ipywidgets.VBox([self.text, self.read, self.sentence]),
            "Masking": ipywidgets.VBox([self.measure, self.cost]),
            "Files": ipywidgets.VBox([_in_a_row(self.name, self.part), self.file]),
        }
        tabs = ipywidgets.Tab(children=list(pages.values()), titles=list(pages))
        chosen = _in_a_row(self.model, self.language, self.layer, self.neuron)
        self.panel = ipywidgets.VBox([chosen, _in_a_row(self.method, self.rank), self.status, tabs])
        self._refresh()
        self._open_file()

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
            self._moving = True
            self.layer.value, self.neuron.value = found.place
            self._moving = False
            self._refresh()

    def _facts_html(self) -> str:
        run, neuron = self._run, self.chosen
        return html.facts_html(neuron, neuron_facts(run, neuron), neuron_ranks(run, neuron))

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
                parts = load_file(self._run, self.name.value).parts
                self._moving = True
                self.part.options = parts  # chooses the first
                self._moving = False
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


def _dropdown(
    name: str, options: Any, act: Callable[[], None], *, width: str = _WIDTH, **value: str
) -> ipywidgets.Dropdown:
    control = ipywidgets.Dropdown(description=name, options=options, style=_STYLE, layout={"width": width}, **value)
    control.observe(lambda _: act(), "value")
    return control


def _number(name: str, value: int, act: Callable[[], None]) -> ipywidgets.IntText:
    control = ipywidgets.IntText(description=name, value=value, style=_STYLE, layout={"width": "10em"})
    control.observe(lambda _: act(), "value")
    return control


def _button(name: str, act: Callable[[], None]) -> ipywidgets.Button:
    control = ipywidgets.Button(description=name, layout={"width": _WIDTH})
    control.on_click(lambda _: act())
    return control


def show_panel(run: FinishedRun, neuron: Neuron, language: str, *, documents: int) -> Inspector:
    """Show the panel; a reader of the notebook without a kernel sees a note instead."""
    inspector = Inspector(run, neuron, language, documents=documents)
    bundle = inspector.panel._repr_mimebundle_()
    display({**bundle, "text/plain": _WITHOUT_KERNEL}, raw=True)
    return inspector
