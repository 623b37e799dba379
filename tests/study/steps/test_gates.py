"""Gates learned jointly: their slopes, and which neurons they close."""

import numpy as np
import pytest
import torch

from crane_lib.interventions import masked
from crane_lib.neurons import NeuronSet
from crane_lib.nll import document_nll
from crane_lib.selection import marked_indices, top
from crane_study.steps.gates import GateOptions, gate_slopes, gated, learned_gates
from tests.lib.relevance.tiny import FAMILY_KINDS, documents, hook_count, tiny_model

CORPUS = [row.tolist() for row in documents([9, 4, 12, 9, 7])]


def _width(model):
    with torch.no_grad(), gated(model, torch.ones(2, 1)):
        return learned_gates(model, {"a": CORPUS}, options=GateOptions(steps=1), token_budget=50)["a"].shape


@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_slopes_are_finite_differences_of_the_nll(kind):
    model = tiny_model(kind).double()
    gates = torch.rand(_width(model), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nll, slopes = gate_slopes(model, CORPUS[:3], gates)
    with gated(model, gates):
        sums, tokens = document_nll(model, CORPUS[:3], token_budget=1000)
    assert nll == pytest.approx(sums.sum() / tokens.sum(), rel=1e-6)
    for layer, neuron in [(0, 0), (0, 3), (1, 5)]:
        found = []
        for step in (1e-2, -1e-2):
            moved = gates.clone()
            moved[layer, neuron] += step
            with gated(model, moved):
                found.append(document_nll(model, CORPUS[:3], token_budget=1000)[0].sum() / tokens.sum())
        assert slopes[layer, neuron].item() == pytest.approx((found[0] - found[1]) / 2e-2, rel=1e-3, abs=1e-5)
    assert hook_count(model) == 0


def test_closed_gates_cost_their_language_and_spare_the_other():
    model = tiny_model("llama").double()
    texts = {"low": [[1, 5, 2, 7, 3, 6, 4] * 2] * 6, "high": [[21, 28, 23, 27, 22, 26, 24] * 2] * 6}
    steps = []
    options = GateOptions(steps=30, rate=0.07, documents=4, tokens=12, penalty=3.0)
    found = learned_gates(model, texts, options=options, token_budget=50, advance=lambda: steps.append(1))
    assert len(steps) == 60
    assert all(values.min() >= 0 and values.max() <= 1.001 for values in found.values())
    before = {k: document_nll(model, own, token_budget=50)[0].sum() for k, own in texts.items()}
    for language, closed in found.items():
        neurons = NeuronSet(sites={"neuron": marked_indices(top(closed, 6))}, widths={"neuron": closed.shape[1]})
        with masked(model, neurons):
            rise = {k: document_nll(model, own, token_budget=50)[0].sum() - before[k] for k, own in texts.items()}
        other = next(k for k in texts if k != language)
        assert rise[language] > 1
        assert rise[other] < 0.2 * rise[language]
    again = learned_gates(model, texts, options=options, token_budget=50)
    assert all(np.array_equal(again[k], found[k]) for k in texts)
