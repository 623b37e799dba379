"""Masks where matrices are fused, transposed or without a gate; weights zeroed by hand are the measure."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from crane_lib.errors import CraneError
from crane_lib.interventions import export_masked, masked
from crane_lib.neurons import NeuronSet
from crane_lib.relevance import parts_of
from tests.lib.relevance.tiny import documents, tiny_model

WIDTH = 20  # of the MLP


def _zeroed(weight, site, indices, *, inputs=0, first=0):
    """Zero rows (or, for neurons, columns) of a matrix whose input dimension is `inputs`."""
    for index in indices:
        if site == "neuron":
            weight.select(inputs, index).zero_()
        else:
            weight.select(1 - inputs, first + index).zero_()


PHI3 = {"gate": ("gate_up_proj", 0), "up": ("gate_up_proj", WIDTH), "down": ("down_proj", 0)}
NEOX = {"up": ("dense_h_to_4h", 0), "down": ("dense_4h_to_h", 0)}
MATRICES = {
    "phi3": (PHI3, 1),
    "gemma2": ({"gate": ("gate_proj", 0), "up": ("up_proj", 0), "down": ("down_proj", 0)}, 1),
    "gpt2": ({"up": ("c_fc", 0), "down": ("c_proj", 0)}, 0),
    "bloom": (NEOX, 1),
    "gpt_neox": (NEOX, 1),
}


def layers_of(model):
    backbone = model.get_submodule(model.base_model_prefix)
    return backbone.h if hasattr(backbone, "h") else backbone.layers


def sets(model, site):
    width = parts_of(model).widths[site]
    generator = np.random.default_rng(3)
    layers = [np.flatnonzero(generator.random(width) < 0.3) for _layer in range(2)]
    return NeuronSet(sites={site: layers}, widths={site: width})


@torch.no_grad()
def by_hand(model, neurons):
    copied = copy.deepcopy(model)
    matrices, inputs = MATRICES[model.config.model_type]
    for site, layers in neurons.sites.items():
        name, first = matrices["down" if site == "neuron" else site]
        for layer, indices in zip(layers_of(copied), layers, strict=True):
            matrix = getattr(layer.mlp, name)
            _zeroed(matrix.weight, site, indices.tolist(), inputs=inputs, first=first)
    return copied


@pytest.mark.parametrize("site", ["neuron", "gate", "up", "down"])
@pytest.mark.parametrize("kind", MATRICES)
@torch.no_grad()
def test_a_mask_and_its_export_are_zeroed_weights(kind, site, tmp_path):
    model = tiny_model(kind, dtype=torch.float32)
    if site not in parts_of(model).widths:
        wrong = NeuronSet(sites={site: [[0], []]}, widths={site: WIDTH})
        with pytest.raises(CraneError, match="has units at gate, the model's MLP has none"), masked(model, wrong):
            pass
        return
    ids = documents([11])[0][None]
    neurons = sets(model, site)
    before = model(ids).logits
    expected = by_hand(model, neurons)(ids).logits
    with masked(model, neurons):
        seen = model(ids).logits
    torch.testing.assert_close(seen, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(seen, before, atol=1e-3)

    class Silent:
        def save_pretrained(self, folder):
            """A checkpoint's tokenizer does not matter here."""

    export_masked(model, Silent(), neurons, tmp_path / "masked")
    assert torch.equal(model(ids).logits, before)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "masked", attn_implementation="eager").eval()
    torch.testing.assert_close(loaded(ids).logits, expected, rtol=1e-5, atol=1e-5)
