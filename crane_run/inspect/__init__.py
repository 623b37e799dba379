"""Inspection of single neurons and intermediate files of a finished run, for `inspect.ipynb`."""

from crane_run.inspect.ranks import Neuron, choose_neuron, highest_ranked, masking_cost, neuron_facts, neuron_ranks
from crane_run.inspect.run import open_run
from crane_run.inspect.show import show_cost, show_facts, show_file, show_other_texts, show_texts
from crane_run.inspect.stage_files import draw_file, list_files, load_file, read_tensor
from crane_run.inspect.texts import read_documents, read_sentence, top_documents, top_pieces
from crane_run.inspect.widgets import show_panel

__all__ = [
    "Neuron",
    "choose_neuron",
    "draw_file",
    "highest_ranked",
    "list_files",
    "load_file",
    "masking_cost",
    "neuron_facts",
    "neuron_ranks",
    "open_run",
    "read_documents",
    "read_sentence",
    "read_tensor",
    "show_cost",
    "show_facts",
    "show_file",
    "show_other_texts",
    "show_panel",
    "show_texts",
    "top_documents",
    "top_pieces",
]
