"""The engine on an NVIDIA GPU, against the same on the CPU; skipped where there is none."""

import numpy as np
import pytest
import torch

from crane_lib.ablation import ablation_effects
from crane_lib.interventions import masked
from crane_lib.neurons import NeuronSet
from crane_lib.nll import document_nll
from crane_lib.relevance import document_relevance
from crane_lib.relevance.corpus import stream_statistics
from tests.lib.relevance.tiny import FAMILY_KINDS, documents, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine"),
]
CORPUS = [row.tolist() for row in documents([9, 4, 12, 9, 7])]


def _on_both(kind):
    return tiny_model(kind).double(), tiny_model(kind).double().to("cuda")


@pytest.mark.parametrize("rule", ["attnlrp", "cplrp", "gradient"])
@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_relevance_of_every_family_is_that_of_the_cpu(kind, rule):
    ids = torch.tensor([CORPUS[0], CORPUS[3]])
    expected, found = (document_relevance(model, ids, rule=rule) for model in _on_both(kind))
    assert found.neuron.is_cuda
    for site, values in expected.sites.items():
        torch.testing.assert_close(found.sites[site].cpu(), values, rtol=1e-5, atol=1e-5 * values.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_come_to_the_cpu_and_equal_those_made_there(dtype):
    expected = stream_statistics(tiny_model("gemma3_text").double(), CORPUS, token_budget=24)
    found = stream_statistics(tiny_model("gemma3_text").to("cuda", dtype), CORPUS, token_budget=24)
    mean, near = expected.moments["neuron"].mean, 1e-4 if dtype == torch.float32 else 0.1
    assert not found.moments["neuron"].mean.is_cuda
    torch.testing.assert_close(found.moments["neuron"].mean, mean, rtol=near, atol=near * mean.abs().max().item())


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "bloom"])
def test_masks_and_single_neurons_cost_what_they_cost_on_the_cpu(kind):
    cpu, gpu = _on_both(kind)
    width = ablation_effects(cpu, CORPUS, token_budget=100).shape[-1]
    index = [np.arange(0, width, 3, dtype=np.int64)] * cpu.config.num_hidden_layers
    neurons = NeuronSet(sites={"neuron": index}, widths={"neuron": width})
    values = []
    for model in (cpu, gpu):
        with masked(model, neurons):
            values.append(document_nll(model, CORPUS, token_budget=24)[0])
    np.testing.assert_allclose(values[1], values[0], rtol=1e-5)
    effects = [ablation_effects(model, CORPUS, token_budget=100) for model in (cpu, gpu)]
    np.testing.assert_allclose(effects[1], effects[0], rtol=1e-4, atol=1e-5)


def test_a_batch_that_does_not_fit_into_the_memory_of_the_gpu_is_halved():
    model = tiny_model("llama").to("cuda")
    corpus = [CORPUS[2]] * 4096
    expected = stream_statistics(model, corpus, token_budget=1 << 12).moments["neuron"].mean
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (48 << 20)) / total)
    try:
        with pytest.warns(UserWarning, match="memory ran out"):
            found = stream_statistics(model, corpus, token_budget=1 << 20).moments["neuron"].mean
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
