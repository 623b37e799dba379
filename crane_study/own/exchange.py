"""Neuron sets and steering vectors in the formats of other tools.

Sets: LAPE's lists, kinit's dictionary, IA3 adapters of PEFT. Vectors: lm-eval's model ``steered``, control vectors of
llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from crane_lib.errors import CraneError
from crane_lib.files import atomic, write_json
from crane_lib.neurons import NEURON, NeuronSet
from crane_lib.relevance.experts import ExpertsPart
from crane_lib.relevance.modules import family_of, parts_of
from crane_study.paper.lape_list import load_tensors, read_lape_list
from crane_study.uncertainty.overlap import as_neurons

_IA3 = "adapter_model.safetensors"
_DAMAGED = (ArithmeticError, RuntimeError, ValueError, LookupError, TypeError, AttributeError)


def write_lape_list(path: Path, sets: Sequence[NeuronSet]) -> None:
    """Write sets of neurons as LAPE does: a list over languages of lists over layers of indices (`torch.save`).

    The file does not hold the languages: keep their order. A reader that counts languages by their neurons loses a
    last one without any, so such an order is refused.

    Raises
    ------
    CraneError : a set has rows, or the last one is empty
    """
    for item in sets:
        if set(item.sites) != {NEURON}:
            raise CraneError(
                f"{item.method} {item.language}: has units at {sorted(item.sites)}; LAPE's lists hold neurons"
            )
    if not sets or not sets[-1].count():
        raise CraneError("the last language has no neurons, and readers of LAPE's lists would lose it; put it first")
    lists = [[torch.from_numpy(np.asarray(layer, dtype=np.int64)) for layer in item.sites[NEURON]] for item in sets]
    with atomic(path) as temporary:
        torch.save(lists, temporary)


def read_listed(path: Path, model: PreTrainedModel, languages: Sequence[str]) -> list[NeuronSet]:
    """Read the sets of a model from LAPE's list (its `languages` in order) or, without languages, from kinit's file.

    Raises
    ------
    CraneError : another file, or sets that do not fit the model
    """
    if not languages:
        sets = read_kinit(path)
        for item in sets:
            item.check(model, source=str(path))
        return sets
    parts = parts_of(model)
    return read_lape_list(path, layers=len(parts.layers), width=parts.widths[NEURON], languages=languages)


def read_kinit(path: Path) -> list[NeuronSet]:
    """Read ``lape_selected_neurons.pt`` of kinit: a dictionary with languages and masks of the MLP's neurons.

    Raises
    ------
    CraneError : another file, or one that holds more than tensors and plain values
    """
    try:
        value = load_tensors(path)
        languages, results = list(value["languages"]), value["results"]
        (component,) = [name for name in results if "mlp" in name.lower() or "act" in name.lower()]
        by_language = results[component]["selected_indices_by_language"]
        mask = results[component]["selected_mask"]
        layers, width = (int(size) for size in mask.shape[-2:])
        sets = []
        for place, language in enumerate(languages):
            pairs = by_language[language] if isinstance(by_language, dict) else by_language[place]
            chosen = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
            sites = {NEURON: [np.unique(chosen[chosen[:, 0] == layer, 1]) for layer in range(layers)]}
            sets.append(NeuronSet(sites, {NEURON: width}, method=str(value["method"]), language=str(language)))
    except _DAMAGED as error:
        raise CraneError(
            f"{path}: is not a file of kinit's selected neurons ({type(error).__name__}: {error})"
        ) from error
    return sets


def ia3_values(model: PreTrainedModel, neurons: NeuronSet, gain: float) -> dict[str, torch.Tensor]:
    """Vectors of an IA3 adapter that multiplies the input h of down projections: `gain` at the set, 1 elsewhere."""
    neurons = as_neurons(neurons)
    neurons.check(model)
    names = {module: name for name, module in model.named_modules()}
    values = {}
    for number, layer in enumerate(parts_of(model).layers):
        if layer.down not in names:
            raise CraneError("PEFT has no IA3 adapter for the experts of a mixture; export a checkpoint instead")
        vector = torch.ones(1, neurons.widths[NEURON])
        vector[0, torch.as_tensor(neurons.sites[NEURON][number], dtype=torch.long)] = gain
        values[names[layer.down]] = vector
    return values


def write_ia3(folder: Path, model: PreTrainedModel, neurons: NeuronSet, *, gain: float = 0.0, base: str = "") -> None:
    """Write a set as an IA3 adapter (Liu et al. 2022, arXiv 2205.05638), which PEFT and lm-eval's ``peft=`` load.

    A gain of 0 masks the neurons, exactly as `masked` does; more than 1 amplifies them. Do not unmerge a merged mask:
    PEFT would divide by it.

    Parameters
    ----------
    base : name or directory of the model, which the adapter is loaded with

    Raises
    ------
    CraneError : the set does not fit the model, or the folder is not empty
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CraneError(f"{folder}: is not empty; name a new directory for the adapter")
    values = ia3_values(model, neurons, gain)
    modules = list(values)  # in full, for in GPT-2 attention has a module of the same last name
    config = {
        "peft_type": "IA3",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "target_modules": modules,
        "feedforward_modules": modules,
        "base_model_name_or_path": base or str(model.config._name_or_path),
    }
    with atomic(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / "adapter_config.json", config)
        save_file({f"base_model.model.{k}.ia3_l": v for k, v in values.items()}, temporary / _IA3, {"format": "pt"})


def added_outputs(model: PreTrainedModel, vectors: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Output (H,) that vectors (I,), added to the inputs of down projections, add to the outputs, by layer."""
    layers = parts_of(model).layers
    return {n: layers[n].rows["down"].weight().detach().double().cpu() @ v.double() for n, v in vectors.items()}


def write_vectors(
    path: Path, model: PreTrainedModel, vectors: Mapping[int, torch.Tensor], *, strength: float, of_neurons: bool
) -> str:
    """Write vectors that steer a model, times the strength, in the format of the file's ending; return what it lacks.

    ``.pt`` : for lm-eval, ``--model steered --model_args pretrained=DIR,steer_path=FILE``. It unpickles the file.
    ``.safetensors`` : the same vectors by the names of their modules.
    ``.gguf`` : a control vector of llama.cpp, which adds ``direction.N`` to the output of layer N. It cannot steer
    layer 0, whose vector is left out.

    Parameters
    ----------
    vectors : by layer; of neurons (I,), added to the input of the down projection, else (H,), to the layer's output

    Raises
    ------
    CraneError : another ending; for GGUF also no vector but layer 0's, or vectors of neurons in a family whose layers
        do not add the MLP's output as it is; vectors of neurons of experts
    """
    layers = parts_of(model).layers
    if of_neurons and isinstance(layers[0].down, ExpertsPart):
        raise CraneError(f"{path}: experts' neurons act only at tokens routed to them, so no one vector does the same")
    outputs = added_outputs(model, vectors) if of_neurons else dict(vectors)
    outputs = {number: (strength * vector).float().contiguous() for number, vector in sorted(outputs.items())}
    if path.suffix == ".gguf":
        if of_neurons and not family_of(model).additive:
            raise CraneError(
                f"{path}: layers of {model.config.model_type} are not known to add the MLP's output as it is, so no "
                "vector between layers does what neurons do; write .pt or .safetensors"
            )
        _write_control_vector(path, {n: v for n, v in outputs.items() if n}, hint=str(model.config.model_type))
        return "layer 0 is left out, llama.cpp cannot steer it" if 0 in outputs else ""
    names = {module: name for name, module in model.base_model.named_modules()}
    points = {names[layers[n].down if of_neurons else layers[n].module]: vector for n, vector in outputs.items()}
    with atomic(path) as temporary:
        if path.suffix == ".pt":
            about = {"action": "add", "steering_coefficient": 1.0, "bias": None, "head_index": None}
            torch.save({name: {**about, "steering_vector": vector} for name, vector in points.items()}, temporary)
        elif path.suffix == ".safetensors":
            save_file(points, temporary, {"format": "pt", "action": "add"})
        else:
            raise CraneError(f"{path}: expected a name that ends in .pt (lm-eval), .safetensors or .gguf (llama.cpp)")
    return ""


def _write_control_vector(path: Path, outputs: Mapping[int, torch.Tensor], *, hint: str) -> None:
    from gguf import GGUFWriter

    if not outputs:
        raise CraneError(
            f"{path}: llama.cpp cannot steer layer 0, and no other has a vector; write .pt or .safetensors"
        )
    with atomic(path) as temporary:
        writer = GGUFWriter(str(temporary), "controlvector")
        writer.add_string("controlvector.model_hint", hint)
        writer.add_uint32("controlvector.layer_count", len(outputs))
        for number, vector in outputs.items():
            writer.add_tensor(f"direction.{number}", vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
