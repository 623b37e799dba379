"""Experts of a mixture as neurons; `test_families_exact.py` compares their relevance with the slow pass."""

import copy

import numpy as np
import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.interventions import export_masked, masked
from crane_lib.neurons import NeuronSet
from crane_lib.relevance import Family, document_relevance, parts_of, stream_statistics
from crane_lib.relevance.families import FAMILIES
from crane_lib.relevance.hooks import HookSet
from crane_study.loading.models import load_model
from tests.lib.relevance.tiny import distance, documents, hook_count, padded, tiny_model
from tests.small import small_tokenizer

EXPERTS, WIDTH = 4, 3
BATCH, MASK = padded(documents([9, 5, 12]))


def units(**sites):
    """The same units in both layers."""
    widths = {"neuron": EXPERTS * WIDTH, "gate": EXPERTS * WIDTH, "up": EXPERTS * WIDTH, "down": 16}
    chosen = {site: [np.array(indices)] * 2 for site, indices in sites.items()}
    return NeuronSet(sites=chosen, widths={site: widths[site] for site in sites})


@torch.no_grad()
def without(model, neurons):
    """A copy with the weights of the units set to zero, one by one."""
    copied = copy.deepcopy(model)
    for site, by_layer in neurons.sites.items():
        for layer, indices in zip(copied.model.layers, by_layer, strict=True):
            both, down = layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj
            for index in indices.tolist():
                expert, place = divmod(index, WIDTH)
                if site == "neuron":
                    down[expert, :, place] = 0
                elif site == "down":
                    down[:, index] = 0
                else:
                    both[expert, place + (WIDTH if site == "up" else 0)] = 0
    return copied


@torch.no_grad()
def logits(model):
    return model(input_ids=BATCH, attention_mask=MASK).logits


@pytest.mark.parametrize(
    "neurons",
    [units(neuron=[0, 7, 11]), units(gate=[3, 6], up=[6, 11]), units(down=[2, 15])],
    ids=lambda n: str(n.sites.keys()),
)
def test_a_mask_is_zeroed_weights_also_in_a_checkpoint(neurons, tmp_path):
    model, tokenizer = tiny_model("qwen3_moe"), small_tokenizer(vocabulary=300)
    before, weights = logits(model), copy.deepcopy(model.state_dict())
    expected = logits(without(model, neurons))
    with masked(model, neurons):
        assert distance(logits(model), expected) < 1e-14
    assert not torch.allclose(before, expected, atol=1e-3)
    export_masked(model, tokenizer, neurons, tmp_path / "masked")
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    exported = type(model).from_pretrained(tmp_path / "masked", dtype="auto", **eager)
    assert torch.equal(logits(exported.eval()), expected)
    assert torch.equal(logits(model), before)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert hook_count(model) == 0


def test_neurons_of_experts_that_no_token_is_routed_to_are_silent_and_the_others_are_each_expert_s():
    model, (ids,) = tiny_model("qwen3_moe"), documents([14])
    with torch.no_grad():
        model.model.layers[1].mlp.gate.weight[2] = 0
        model.model.layers[1].mlp.gate.weight[[0, 1, 3]] *= 0.01
        model.model.layers[1].post_attention_layernorm.weight.copy_(torch.ones(16))
    seen, layer = {}, model.model.layers[1]
    with HookSet() as hooks:
        hooks.before(layer.mlp.experts, lambda _module, args: seen.update(x=args[0].detach(), index=args[1]))
        hooks.before(parts_of(model).layers[1].down, lambda _module, args: seen.update(h=args[0]))
        model(ids[None])
    expected = torch.zeros(14, EXPERTS, WIDTH, dtype=torch.float64)
    for token, chosen in enumerate(seen["index"].tolist()):
        for expert in chosen:
            gate, up = (layer.mlp.experts.gate_up_proj[expert].detach() @ seen["x"][token]).chunk(2)
            expected[token, expert] = gate * torch.sigmoid(gate) * up
    assert distance(seen["h"][0].detach(), expected.flatten(1)) < 1e-14
    silent = (expected == 0).all(-1).flatten(0)
    assert silent.any()
    routed = torch.bincount(seen["index"].flatten(), minlength=EXPERTS)
    found = document_relevance(model, ids[None])
    by_expert = found.active[0, 1].view(EXPERTS, WIDTH)
    assert (by_expert <= routed[:, None]).all()
    assert (found.abs_neuron[0, 1].view(EXPERTS, WIDTH).sum(1).bool() == routed.bool()).all()


def test_the_kernel_of_the_experts_does_not_matter_beyond_rounding():
    sizes = {"hidden_size": 16, "moe_intermediate_size": 8, "dtype": torch.float32}
    model = tiny_model("qwen3_moe", **sizes)
    expected = document_relevance(model, BATCH, MASK)
    for kernel in ("grouped_mm", "batched_mm"):
        model.set_experts_implementation(kernel)
        assert distance(logits(model), logits(tiny_model("qwen3_moe", **sizes))) < 1e-5
        found = document_relevance(model, BATCH, MASK)
        for site, values in expected.sites.items():
            assert distance(found.sites[site], values) < 1e-5


def test_statistics_have_the_column_norms_of_every_expert():
    model = tiny_model("qwen3_moe")
    found = stream_statistics(model, [row.numpy() for row in documents([9, 5, 12])])
    norms = torch.stack([layer.mlp.experts.down_proj.norm(dim=1).flatten() for layer in model.model.layers])
    assert torch.equal(found.norms, norms)
    assert found.moments["neuron"].shape == found.active.shape == (2, EXPERTS * WIDTH)
    assert found.moments["down"].shape == (2, 16)


def test_a_mixture_is_loaded_in_float64_and_dense_layers_are_named(tmp_path):
    tokenizer = small_tokenizer()
    model = tiny_model("qwen3_moe", vocab_size=len(tokenizer), dtype=torch.float32, bos_token_id=0, eos_token_id=1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, _tokenizer = load_model(tmp_path, device="cpu", dtype="float64")
    assert document_relevance(loaded, BATCH, MASK).neuron.dtype == torch.float64
    for dense in ({"mlp_only_layers": [1]}, {"decoder_sparse_step": 2}):
        with pytest.raises(CraneError, match=r"^layer [01] has no experts \(mlp_only_layers, decoder_sparse_step\)"):
            parts_of(tiny_model("qwen3_moe", **dense))


def test_experts_stored_in_another_way_are_refused(monkeypatch):
    model = tiny_model("qwen3_moe")
    model.model.layers[1].mlp.experts.is_transposed = True
    with pytest.raises(CraneError, match=r"Qwen3MoeExperts: experts other than act\(gate\) \* up"):
        parts_of(model)
    monkeypatch.setitem(FAMILIES, "qwen3", Family(experts="mlp.experts"))
    with pytest.raises(CraneError, match="layer 0 has no experts"):
        parts_of(tiny_model("qwen3"))
