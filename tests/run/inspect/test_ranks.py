import numpy as np
import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.methods import METHODS
from crane_lib.nll import document_nll
from crane_lib.scores import GRADIENT
from crane_run.inspect import Neuron, choose_neuron, highest_ranked, masking_cost, neuron_facts, neuron_ranks
from crane_run.inspect.ranks import method_scores
from crane_study.data.corpora import token_ids

LAYERS, WIDTH = 2, 24


def test_every_rank_is_given_once_and_the_sets_at_the_budget_are_the_highest(run):
    """The sets are files that the run wrote; the released rule selects rows, which are ranked among all rows."""
    places = [(layer, index) for layer in range(LAYERS) for index in range(WIDTH)]
    ranks = [neuron_ranks(run, Neuron("base", *place)).set_index(["method", "language"]) for place in places]
    for method in method_scores(run, "base"):
        for language in run.languages:
            found = sorted(int(frame.loc[(method, language), "rank"]) for frame in ranks)
            assert found == list(range(1, LAYERS * WIDTH + 1))
    checked = 0
    for item in run.sets("base"):
        sites = {"kurtosis_gate": "gate", "kurtosis_up": "up"} if item.method == "kurtosis" else {item.method: "neuron"}
        for method, site in sites.items():
            if item.budget != "0.1" or site not in item.sites:
                continue
            for (layer, index), frame in zip(places, ranks, strict=True):
                row, selected = frame.loc[(method, item.language)], index in item.sites[site][layer]
                assert (0 < int(row["rank"]) <= item.count()) == selected
                assert ("0.1" in row["sets"].split()) == selected
                checked += 1
    ranking = sum(method.unit == "neuron" for method in METHODS.values())
    assert checked == (ranking + 2) * 3 * LAYERS * WIDTH  # methods that rank neurons, kinds of rows; languages


def test_facts_are_the_statistics_own(run):
    facts = neuron_facts(run, Neuron("base", 1, 7)).set_index("language")
    statistics = run.statistics("base")["vi"]
    assert facts.loc["vi", "relevance_gold_logit"] == statistics.moments["neuron"].mean[1, 7]
    assert facts.loc["vi", "abs_relevance"] == statistics.moments["abs_neuron"].mean[1, 7]
    assert facts.loc["vi", "firing_rate"] == pytest.approx(int(statistics.active[1, 7]) / statistics.tokens)
    total = float(statistics.moments["neuron"].mean.abs().sum())
    assert facts.loc["vi", "share"] == pytest.approx(facts.loc["vi", "relevance_gold_logit"] / total)
    other = run.statistics("base", "log_probability")["vi"]
    assert facts.loc["vi", "relevance_log_probability"] == other.moments["neuron"].mean[1, 7]
    assert facts.loc["vi", "gradient"] == run.statistics("base", GRADIENT)["vi"].moments["neuron"].mean[1, 7]


def test_the_default_is_the_first_of_contrast_and_any_rank_can_be_chosen(run):
    chosen, language = choose_neuron(run)
    scores = method_scores(run, "base")["contrast"]["vi"]
    assert language == "vi"
    assert scores[chosen.place] == scores.max()
    of_layer, _ = choose_neuron(run, layer=1, language="en")
    english = method_scores(run, "base")["contrast"]["en"]
    assert of_layer == Neuron("base", 1, int(np.argmax(english[1])))
    assert choose_neuron(run, layer=1, index=3) == (Neuron("base", 1, 3), "vi")
    scores = method_scores(run, "base")["lape"]["en"]
    places = [highest_ranked(run, "base", "en", method="lape", rank=rank).place for rank in (1, 2, LAYERS * WIDTH)]
    assert scores[places[0]] >= scores[places[1]] >= scores[places[2]] == scores.min()


WRONG = {
    "layer 2: the base model has the layers 0 to 1": {"layer": 2},
    "neuron 24: a layer of the base model has the neurons 0 to 23": {"layer": 0, "index": 24},
    "language 'fr': this run has en, vi, zh": {"language": "fr"},
    "model 'chat': this run has base": {"model": "chat"},
}


def test_what_the_run_lacks(run):
    for message, arguments in WRONG.items():
        with pytest.raises(CraneError, match=f"^{message}$"):
            choose_neuron(run, **arguments)
    for method, rank, message in (("kurtosis", 1, "method 'kurtosis'"), ("lape", 0, "rank 0"), ("lape", 49, "rank 49")):
        with pytest.raises(CraneError, match=message):
            highest_ranked(run, "base", "en", method=method, rank=rank)
    with pytest.raises(CraneError, match="neuron 24: a layer of the base model has the neurons 0 to 23"):
        masking_cost(run, Neuron("base", 0, 24), count=2)


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
