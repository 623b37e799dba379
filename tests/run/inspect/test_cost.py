import numpy as np
import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.nll import document_nll
from crane_run.inspect import Neuron, masking_cost
from crane_study.data.corpora import token_ids


def test_the_cost_is_that_of_a_model_without_the_neuron(run):
    """Against the plain way: the column of down_proj set to zero by hand."""
    cost = masking_cost(run, Neuron("base", 1, 7), count=99).set_index("language")
    model, tokenizer = run.model("base")
    weight = model.model.layers[1].mlp.down_proj.weight
    before = weight.clone()
    for language in run.languages:
        documents = token_ids(run.sample("perplexity", language, count=99).tolist(), tokenizer, max_length=96)
        nll, tokens = document_nll(model, documents, token_budget=512)
        assert cost.loc[language, "nll"] == pytest.approx(nll.sum() / tokens.sum(), rel=1e-6)
        try:
            with torch.no_grad():
                weight[:, 7] = 0
            masked, _ = document_nll(model, documents, token_budget=512)
        finally:
            with torch.no_grad():
                weight.copy_(before)
        assert cost.loc[language, "nll_masked"] == pytest.approx(masked.sum() / tokens.sum(), rel=1e-6)
        assert cost.loc[language, "change"] == pytest.approx((masked - nll).sum() / tokens.sum(), rel=1e-3, abs=1e-7)
    assert (cost["low"] <= cost["change"]).all()
    assert (cost["change"] <= cost["high"]).all()
    assert np.abs(cost["change"]).max() > 1e-4  # it was masked
    assert list(cost["documents"]) == [4, 4, 4]


def test_a_neuron_that_is_not_there(run):
    with pytest.raises(CraneError, match="neuron 24: a layer of the base model has the neurons 0 to 23"):
        masking_cost(run, Neuron("base", 0, 24), count=2)
