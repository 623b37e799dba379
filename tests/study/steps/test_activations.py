"""Activations of single documents, against one pass after the other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.methods import METHODS, neuron_scores
from crane_lib.relevance import document_relevance
from crane_lib.scores import UnitScores
from crane_study.loading.models import load_model
from crane_study.steps.activations import (
    document_activations,
    document_slopes,
    integrated_gradients,
    make_activations,
)
from tests.small import LANGUAGES, PASSES
from tests.study.steps.test_measuring import documents, root  # noqa: F401  (a fixture)


@pytest.mark.parametrize(("token_budget", "skip"), [(1, 0), (100, 2)])
def test_means_and_sizes_are_those_of_single_documents(root, token_budget, skip):  # noqa: F811
    model, texts = documents(root, "relevance")
    found = document_activations(model, texts["vi"], token_budget=token_budget, skip=skip)
    for place, document in enumerate(texts["vi"]):
        entered = []
        hooks = [
            layer.mlp.down_proj.register_forward_pre_hook(lambda _m, args, to=entered: to.append(args[0][0, skip:]))
            for layer in model.model.layers
        ]
        with torch.no_grad():
            model(torch.from_numpy(np.asarray(document, dtype=np.int64))[None])
        for hook in hooks:
            hook.remove()
        for layer, hidden in enumerate(entered):
            mean, size = hidden.mean(0), (hidden**2).mean(0).sqrt()
            np.testing.assert_allclose(found["mean"][place, layer], mean, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(found["size"][place, layer], size, rtol=1e-5, atol=1e-6)


def test_slopes_are_gradients_of_the_objective_under_the_rules(root):  # noqa: F811
    model, texts = documents(root, "relevance")
    chosen = texts["en"][:2]
    found = document_slopes(model, chosen, replace(PASSES, rule="gradient"))
    for place, document in enumerate(chosen):
        leaves = []

        def leaf(_module, args, leaves=leaves):
            leaves.append(args[0].detach().requires_grad_())
            return (leaves[-1] + args[0] - args[0].detach(),)

        hooks = [layer.mlp.down_proj.register_forward_pre_hook(leaf) for layer in model.model.layers]
        ids = torch.from_numpy(np.asarray(document, dtype=np.int64))
        logits = model(ids[None]).logits[0]
        for hook in hooks:
            hook.remove()
        score = (logits[torch.arange(len(ids) - 1), ids[1:]].sum() + logits[-1].max()) / len(ids)
        for layer, (hidden, slope) in enumerate(zip(leaves, torch.autograd.grad(score, leaves), strict=True)):
            np.testing.assert_allclose(found["slope"][place, layer], slope[0].sum(0), rtol=1e-4, atol=1e-6)
            relevance = (hidden * slope)[0].sum(0).detach()
            np.testing.assert_allclose(found["relevance"][place, layer], relevance, rtol=1e-4, atol=1e-6)
    lrp = document_slopes(model, chosen, PASSES)
    expected = document_relevance(model, torch.from_numpy(np.asarray(chosen[0], dtype=np.int64))[None])
    np.testing.assert_allclose(lrp["relevance"][0], expected.neuron[0], rtol=1e-5, atol=1e-7)


def test_integrated_gradients_add_up_to_what_a_layer_does(root):  # noqa: F811
    model, texts = documents(root, "relevance")
    document = texts["vi"][0]
    found = integrated_gradients(model, [document], PASSES, steps=60)["integrated"][0]
    ids = torch.from_numpy(np.asarray(document, dtype=np.int64))[None]
    whole = float(document_relevance(model, ids).target)
    for number, layer in enumerate(model.model.layers):
        hook = layer.mlp.down_proj.register_forward_pre_hook(lambda _module, args: (args[0] * 0,))
        without = float(document_relevance(model, ids).target)
        hook.remove()
        assert found[number].sum() == pytest.approx(whole - without, rel=0.02)


def test_methods_read_what_the_step_wrote(root, tmp_path):  # noqa: F811
    folders = {"corpus": root / "corpus", "model": root / "model"}
    kinds, gates = ["gates", "integrated", "slopes"], {"steps": 3, "documents": 2, "tokens": 5}
    make_activations(tmp_path, **folders, options=PASSES, documents=6, kinds=kinds, gates=gates)
    given = {"objective": "gold_logit", "languages": LANGUAGES}
    units = UnitScores.read(root / "relevance", documents=tmp_path, **given)
    assert {k: len(values) for k, values in units.document_values("mean").items()} == {"en": 6, "vi": 6}
    model, _tokenizer = load_model(root / "model", device="cpu", dtype="float64")
    columns = model.model.layers[1].mlp.down_proj.weight.detach().numpy().T
    np.testing.assert_allclose(units.norms[1], [np.sqrt((column**2).sum()) for column in columns])
    np.testing.assert_allclose(units.output["vi"], units.magnitude["vi"] * units.norms)
    of_neurons = {name for name, method in METHODS.items() if method.unit == "neuron"}
    assert set(neuron_scores(units)) == of_neurons
    without = UnitScores.read(root / "relevance", **given)
    assert set(neuron_scores(without)) == {name for name in of_neurons if not METHODS[name].needs}
    with pytest.raises(CraneError, match="activations of single documents are missing"):
        METHODS["probe"].scores(without)
