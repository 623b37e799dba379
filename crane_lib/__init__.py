"""Language-specific neurons: relevance, selection methods, neuron sets, masks, and LangSpec-F1.

    from crane_lib import METHODS, NeuronSet, document_relevance, masked, stream_statistics

Names load their module when they are first used: `import crane_lib` imports neither torch nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crane_lib.version import VERSION

if TYPE_CHECKING:
    from crane_lib.errors import CraneError
    from crane_lib.interventions import export_masked, masked
    from crane_lib.methods import METHODS, Method, register
    from crane_lib.neurons import NeuronSet, read_neuron_sets, write_neuron_sets
    from crane_lib.nll import document_nll
    from crane_lib.relevance.corpus import stream_statistics
    from crane_lib.relevance.document import document_relevance
    from crane_lib.relevance.families import register_family
    from crane_lib.relevance.rules import relevance_rules
    from crane_lib.relevance.statistics import Statistics
    from crane_lib.scores import UnitScores
    from crane_lib.selection import normalized_contrast
    from crane_lib.specificity import LangSpec, langspec
    from crane_lib.steering import difference_of_means, mean_activations, pushed, steered

__version__ = VERSION

_HOME = {
    "errors": ["CraneError"],
    "interventions": ["export_masked", "masked"],
    "methods": ["METHODS", "Method", "register"],
    "neurons": ["NeuronSet", "read_neuron_sets", "write_neuron_sets"],
    "nll": ["document_nll"],
    "relevance.corpus": ["stream_statistics"],
    "relevance.document": ["document_relevance"],
    "relevance.families": ["register_family"],
    "relevance.rules": ["relevance_rules"],
    "relevance.statistics": ["Statistics"],
    "scores": ["UnitScores"],
    "selection": ["normalized_contrast"],
    "specificity": ["LangSpec", "langspec"],
    "steering": ["difference_of_means", "mean_activations", "pushed", "steered"],
}

__all__ = [
    "METHODS",
    "CraneError",
    "LangSpec",
    "Method",
    "NeuronSet",
    "Statistics",
    "UnitScores",
    "difference_of_means",
    "document_nll",
    "document_relevance",
    "export_masked",
    "langspec",
    "masked",
    "mean_activations",
    "normalized_contrast",
    "pushed",
    "read_neuron_sets",
    "register",
    "register_family",
    "relevance_rules",
    "steered",
    "stream_statistics",
    "write_neuron_sets",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"crane_lib.{module}"), name)
    raise AttributeError(f"crane_lib has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
