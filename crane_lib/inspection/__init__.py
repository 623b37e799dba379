"""Looking at single neurons of a finished run, and at the run's intermediate files: what `inspect.ipynb` calls."""

from crane_lib.inspection.cost import masking_cost
from crane_lib.inspection.files import draw_file, list_files, load_file, read_tensor
from crane_lib.inspection.ranks import Neuron, choose_neuron, highest_ranked, neuron_facts, neuron_ranks
from crane_lib.inspection.run import FinishedRun, open_run
from crane_lib.inspection.show import show_cost, show_facts, show_file, show_other_texts, show_texts
from crane_lib.inspection.tokens import Reading, read_documents, read_sentence, top_documents, top_pieces
from crane_lib.inspection.widgets import show_panel

__all__ = [
    "FinishedRun",
    "Neuron",
    "Reading",
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
