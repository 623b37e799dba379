import numpy as np
import pytest

from crane_lib.errors import CraneError
from crane_lib.scores import GRADIENT
from crane_run.inspect import Neuron, choose_neuron, highest_ranked, neuron_facts, neuron_ranks
from crane_run.inspect.ranks import method_scores

LAYERS, WIDTH = 2, 24


@pytest.fixture(scope="module")
def all_ranks(run):
    """The ranks of every neuron: (layer, index) -> frame indexed by method and language."""
    return {
        (layer, index): neuron_ranks(run, Neuron("base", layer, index)).set_index(["method", "language"])
        for layer in range(LAYERS)
        for index in range(WIDTH)
    }


def test_every_rank_is_given_once(run, all_ranks):
    for method in method_scores(run, "base"):
        for language in run.languages:
            ranks = [int(frame.loc[(method, language), "rank"]) for frame in all_ranks.values()]
            assert sorted(ranks) == list(range(1, LAYERS * WIDTH + 1))


def test_the_sets_at_the_budget_are_the_highest_ranks(run, all_ranks):
    """Score by score the selection's own: its sets are files that the run wrote."""
    checked = 0
    for item in run.sets("base"):
        if item.budget != "0.1" or "neuron" not in item.sites:
            continue
        for (layer, index), frame in all_ranks.items():
            row = frame.loc[(item.method, item.language)]
            assert (int(row["rank"]) <= item.count()) == (index in item.sites["neuron"][layer])
            assert ("0.1" in row["sets"].split()) == (index in item.sites["neuron"][layer])
            checked += 1
    assert checked == 6 * 3 * LAYERS * WIDTH  # methods that rank neurons, languages


def test_rows_are_ranked_as_the_released_rule_ranks_them(run, all_ranks):
    for item in run.sets("base"):
        if (item.method, item.budget) != ("kurtosis", "0.1"):
            continue
        for (layer, index), frame in all_ranks.items():
            for site in ("gate", "up"):
                row = frame.loc[(f"kurtosis_{site}", item.language)]
                selected = index in item.sites[site][layer]
                assert (0 < int(row["rank"]) <= item.count()) == selected
                assert ("0.1" in row["sets"].split()) == selected


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


def test_the_default_is_the_first_of_contrast_for_vietnamese(run):
    chosen, language = choose_neuron(run)
    scores = method_scores(run, "base")["contrast"]["vi"]
    assert language == "vi"
    assert scores[chosen.place] == scores.max()
    of_layer, _ = choose_neuron(run, layer=1, language="en")
    english = method_scores(run, "base")["contrast"]["en"]
    assert of_layer == Neuron("base", 1, int(np.argmax(english[1])))
    assert choose_neuron(run, layer=1, index=3) == (Neuron("base", 1, 3), "vi")


def test_ranks_are_gone_to(run):
    scores = method_scores(run, "base")["lape"]["en"]
    places = [highest_ranked(run, "base", "en", method="lape", rank=rank).place for rank in (1, 2, LAYERS * WIDTH)]
    assert scores[places[0]] >= scores[places[1]] >= scores[places[2]] == scores.min()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 2}, "layer 2: the base model has the layers 0 to 1"),
        ({"layer": 0, "index": 24}, "neuron 24: a layer of the base model has the neurons 0 to 23"),
        ({"language": "fr"}, "language 'fr': this run has en, vi, zh"),
        ({"model": "chat"}, "model 'chat': this run has base"),
    ],
)
def test_what_the_run_lacks(run, arguments, message):
    with pytest.raises(CraneError) as error:
        choose_neuron(run, **arguments)
    assert str(error.value) == message


@pytest.mark.parametrize(("method", "rank"), [("kurtosis", 1), ("contrast", 0), ("contrast", 49)])
def test_no_such_rank(run, method, rank):
    with pytest.raises(CraneError, match=f"method '{method}'" if rank == 1 else f"rank {rank}"):
        highest_ranked(run, "base", "en", method=method, rank=rank)
