"""Activations of single documents, against one pass after the other."""

import numpy as np
import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.methods import METHODS, neuron_scores
from crane_lib.models import load_model
from crane_lib.scores import UnitScores
from crane_study.steps.activations import document_activations, make_activations
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


def test_methods_read_what_the_step_wrote(root, tmp_path):  # noqa: F811
    make_activations(tmp_path, corpus=root / "corpus", model=root / "model", options=PASSES, documents=6)
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
