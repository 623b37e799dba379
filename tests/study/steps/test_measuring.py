"""Relevance, selection and masking on a random model and a user's own texts, stage after stage."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kurtosis

from crane_lib import selection
from crane_lib.errors import CraneError
from crane_lib.files import read_json
from crane_lib.interventions import masked
from crane_lib.methods import METHODS, PUBLISHED, TOP_ROWS
from crane_lib.neurons import read_all_sets, read_neuron_sets
from crane_lib.nll import document_nll
from crane_lib.relevance import document_relevance
from crane_lib.scores import check_same_model, load_statistics, unit_means
from crane_study.data.corpora import make_local_corpus, tokenized
from crane_study.frames import read_frame
from crane_study.loading.models import load_model
from crane_study.measure.rows import COLUMNS
from crane_study.options import MaskChoice
from crane_study.steps.masks import make_nlu, make_perplexity, make_unmasked_nlu
from crane_study.steps.relevance import concentration, make_relevance, readable_tokens
from crane_study.steps.selection import EQUAL, make_selection, sets_file
from crane_study.uncertainty.overlap import as_neurons
from tests import small
from tests.small import LANGUAGES, ON_DOCUMENTS, ON_QUESTIONS, PASSES, QUESTIONS, TEXTS, write_lines, write_model

ALWAYS = [name for name, method in METHODS.items() if not method.needs]  # the statistics are enough for them
SELECTION = {"languages": LANGUAGES, "objective": "gold_logit", "methods": ALWAYS, "random_seed": 3}
SELECTION |= {"options": {"budget": 0.25, "lape": {"share": 0.05}}}


def relevance(folder, corpus, model, **changes):
    folder.mkdir()
    make_relevance(folder, corpus=corpus, model=model, options=replace(PASSES, **changes))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folders of all stages."""
    root = tmp_path_factory.mktemp("stages")
    write_model(root / "model")
    (root / "corpus").mkdir()
    texts = {k: str(write_lines(root / f"{k}.jsonl", [{"text": t} for t in v])) for k, v in TEXTS.items()}
    questions = {k: str(write_lines(root / f"q.{k}.jsonl", v)) for k, v in QUESTIONS.items()}
    sizes = {"relevance_documents": 10, "perplexity_documents": 4}
    make_local_corpus(root / "corpus", texts=texts, questions=questions, **sizes, random_seed=0)
    relevance(root / "relevance", root / "corpus", root / "model")
    (root / "selection").mkdir()
    make_selection(root / "selection", relevance=root / "relevance", **SELECTION)
    return root


def documents(root, split):
    model, tokenizer = load_model(root / "model", device="cpu", dtype="float64")
    frame = pd.read_parquet(root / "corpus" / "documents.parquet")
    return model, {
        language: tokenized(frame, tokenizer, split=split, language=language, max_length=40) for language in LANGUAGES
    }


@pytest.mark.parametrize(
    ("name", "objective", "rule"),
    [
        ("gold_logit", "gold_logit", "attnlrp"),
        ("log_probability", "log_probability", "attnlrp"),
        ("gradient", "gold_logit", "gradient"),
    ],
)
def test_statistics_are_those_of_single_documents(root, name, objective, rule):
    model, texts = documents(root, "relevance")
    statistics = load_statistics(root / "relevance", name, LANGUAGES)
    for language, tokens in texts.items():
        item = statistics[language]
        single = [document_relevance(model, torch.from_numpy(d)[None], objective=objective, rule=rule) for d in tokens]
        assert (item.documents, item.tokens) == (10, sum(map(len, tokens)))
        expected = torch.cat([found.neuron for found in single]).double().mean(0)
        torch.testing.assert_close(item.moments["neuron"].mean, expected, rtol=1e-9, atol=1e-12)
        rows = torch.cat([found.down for found in single]).double().numpy()
        seen = item.moments["down"].excess_kurtosis().numpy()
        np.testing.assert_allclose(seen, kurtosis(rows, axis=0, bias=False), rtol=1e-7, atol=1e-9)
        assert torch.equal(item.active, sum(found.active[0] for found in single))
        assert item.labels == {"language": language}
        assert (item.provenance["objective"], item.provenance["rule"]) == (objective, rule)


def test_examples_show_the_relevance_of_each_token(root):
    examples = read_json(root / "relevance" / "tokens.json")
    assert [example["language"] for example in examples] == ["en", "en", "vi", "vi"]
    model, texts = documents(root, "relevance")
    first = document_relevance(model, torch.from_numpy(texts["en"][0])[None])
    np.testing.assert_allclose(examples[0]["relevance"], first.token[0].tolist(), rtol=1e-9, atol=1e-12)
    corpus = pd.read_parquet(root / "corpus" / "documents.parquet").query("split == 'relevance' and language == 'en'")
    assert "".join(examples[0]["tokens"][1:]) == corpus["text"].iloc[0]
    assert all(len(example["tokens"]) == len(example["relevance"]) for example in examples)


def test_tokens_that_are_parts_of_a_character_are_shown_together():
    tokenizer = small.small_tokenizer(TEXTS["en"])
    ids = tokenizer("an 日 x", add_special_tokens=False)["input_ids"]
    shown, relevance = readable_tokens(tokenizer, ids, [float(2**place) for place in range(len(ids))])
    assert "".join(shown) == "an 日 x"
    assert len(shown) < len(ids)
    assert sum(relevance) == 2 ** len(ids) - 1
    (place,) = [number for number, text in enumerate(shown) if "日" in text]
    parts = [place for place, token in enumerate(ids) if "\ufffd" in tokenizer.decode([token])]
    assert relevance[place] == sum(2.0**part for part in parts)
    cut = tokenizer("日", add_special_tokens=False)["input_ids"][:-1]
    shown, relevance = readable_tokens(tokenizer, cut, [1.0] * len(cut))
    assert (len(shown), relevance) == (1, [float(len(cut))])


def test_statistics_of_two_models_do_not_go_together(root, tmp_path):
    write_model(tmp_path / "other", random_seed=9)
    relevance(tmp_path / "relevance", root / "corpus", tmp_path / "other", objectives=["gold_logit"])
    mine = load_statistics(root / "relevance", "gold_logit", LANGUAGES)
    theirs = load_statistics(tmp_path / "relevance", "gold_logit", LANGUAGES)
    assert check_same_model(mine) == mine["en"].provenance["model"]
    with pytest.raises(CraneError, match="the statistics come from several models"):
        check_same_model({"en": mine["en"], "vi": theirs["vi"]})


AT_BUDGET = [*ALWAYS, "random_like_contrast"]
SETS = [(method, "0.25") for method in AT_BUDGET] + [("kurtosis", TOP_ROWS)]
SETS += [
    (method, PUBLISHED) for method in ("kurtosis", "lape", "njunlp", "random_like_kurtosis", "random_like_released")
]
SETS += [("lape", EQUAL), ("random_like_lape", PUBLISHED), ("random_like_lape", "0.25")]


def layers(sites):
    return {site: [indices.tolist() for indices in by_layer] for site, by_layer in sites.items()}


def test_every_method_has_its_file_and_every_language_its_set(root):
    files = {path.name for path in (root / "selection").iterdir()}
    assert files == {f"{method}@{level}.json" for method, level in SETS}
    model, _tokenizer = load_model(root / "model", device="cpu")
    for method, level in SETS:
        sets = read_neuron_sets(sets_file(root / "selection", method, level))
        draws = range(5) if method.startswith("random") else [-1]
        assert [(item.language, item.random_seed) for item in sets] == [(k, d) for d in draws for k in LANGUAGES]
        for item in sets:
            item.check(model)
            assert (item.method, item.budget) == (method, level)
            assert item.model == load_statistics(root / "relevance", "gold_logit", ["en"])["en"].provenance["model"]


def test_the_sets_are_the_rules_on_the_statistics(root):
    statistics = load_statistics(root / "relevance", "gold_logit", LANGUAGES)
    gradient = load_statistics(root / "relevance", "gradient", LANGUAGES)
    firing = {k: item.active.numpy() / item.tokens for k, item in statistics.items()}
    rows = {
        k: {site: item.moments[site].excess_kurtosis().numpy() for site in ("gate", "up", "down")}
        for k, item in statistics.items()
    }
    expected = {
        ("kurtosis", PUBLISHED): selection.select_kurtosis(rows, threshold=1.0),
        ("kurtosis", TOP_ROWS): {k: selection.select_top_rows(sites, share=0.01) for k, sites in rows.items()},
        ("kurtosis", "0.25"): {k: selection.select_rows_killing(sites, budget=0.25) for k, sites in rows.items()},
        ("lape", PUBLISHED): selection.select_lape(firing, threshold_quantile=0.95, share=0.05),
    }
    means = unit_means(statistics, "neuron")
    scores = {
        "contrast": selection.normalized_contrast(means),
        "contrast_mean": selection.normalized_contrast(means, against="mean"),
        "contrast_abs": selection.normalized_contrast(unit_means(statistics, "abs_neuron")),
        "gradient_contrast": selection.normalized_contrast(unit_means(gradient, "neuron")),
        "activation_contrast": selection.normalized_contrast(firing),
        "magnitude": {k: item.magnitude.numpy() for k, item in statistics.items()},
        "lape": selection.lape_scores(firing),
    }
    expected |= {(method, "0.25"): selection.select_top(values, budget=0.25) for method, values in scores.items()}
    for (method, level), chosen in expected.items():
        for item in read_neuron_sets(sets_file(root / "selection", method, level)):
            assert layers(item.sites) == layers(chosen[item.language])
    sizes = {method: read_neuron_sets(sets_file(root / "selection", method, "0.25"))[0].count() for method in AT_BUDGET}
    del sizes["kurtosis"]
    assert set(sizes.values()) == {0.25 * 2 * 24}
    for item in read_neuron_sets(sets_file(root / "selection", "kurtosis", "0.25")):  # rows that kill as many neurons
        assert as_neurons(item).count() == 0.25 * 2 * 24


RANDOM_LIKE = [("kurtosis", PUBLISHED), ("contrast", "0.25"), ("lape", PUBLISHED), ("lape", "0.25")]


@pytest.mark.parametrize(("like", "level"), RANDOM_LIKE)
def test_random_sets_match_layer_by_layer_and_differ(root, like, level):
    shape = {i.language: i for i in read_neuron_sets(sets_file(root / "selection", like, level))}
    draws = read_neuron_sets(sets_file(root / "selection", f"random_like_{like}", level))
    for draw in draws:
        counts, expected = (
            {site: list(map(len, by_layer)) for site, by_layer in item.sites.items()}
            for item in (draw, shape[draw.language])
        )
        assert counts == expected
    distinct = {str(layers(draw.sites)) for draw in draws}
    assert len(distinct) > len(draws) / 2


def test_lape_has_a_set_that_kills_as_many_neurons_as_kurtosis(root):
    rows = read_neuron_sets(sets_file(root / "selection", "kurtosis", PUBLISHED))
    for own, lape in zip(rows, read_neuron_sets(sets_file(root / "selection", "lape", EQUAL)), strict=True):
        both = [set(gate) | set(up) for gate, up in zip(own.sites["gate"], own.sites["up"], strict=True)]
        assert (lape.language, lape.count()) == (own.language, sum(map(len, both)))


def test_selection_is_deterministic_and_random_draws_have_their_seed(root, tmp_path):
    for name, seed in (("same", 3), ("other", 4)):
        (tmp_path / name).mkdir()
        make_selection(tmp_path / name, relevance=root / "relevance", **SELECTION | {"random_seed": seed})
    for path in (root / "selection").iterdir():
        content = path.read_bytes()
        assert (tmp_path / "same" / path.name).read_bytes() == content
        same_as_other = (tmp_path / "other" / path.name).read_bytes() == content
        assert same_as_other != path.name.startswith("random")


def perplexity(root, folder, *, methods=None, **inputs):
    folder.mkdir()
    options = replace(ON_DOCUMENTS, masks=MaskChoice(methods=methods, everything=methods is None))
    make_perplexity(folder, corpus=root / "corpus", model=root / "model", options=options, **inputs)
    return read_frame(folder / "rows.csv"), pd.read_parquet(folder / "documents.parquet")


@pytest.fixture(scope="module")
def measured(root):
    return perplexity(root, root / "perplexity", selected_on_base=root / "selection")


MASK = ["selected_on", "method", "budget", "masked_language", "random_seed"]


def test_rows_of_every_mask_are_those_of_the_masked_model(root, measured):
    rows, per_document = measured
    assert list(rows) == list(COLUMNS)
    sets = read_all_sets(root / "selection")
    assert len(rows) == (1 + len(sets) + len(LANGUAGES)) * len(LANGUAGES) * 3  # unmasked, every set, everything off
    assert not rows.duplicated([*MASK, "evaluation_language", "metric"]).any()
    assert (rows["profile"] == "small").all()
    assert (rows["model"] == "base").all()
    by_mask = per_document.groupby(MASK)[["evaluation_language", "document", "tokens"]]  # on the same documents
    assert len({tuple(map(tuple, part.to_numpy().tolist())) for _mask, part in by_mask}) == 1
    # Perplexity under each mask is that of the masked model.
    model, texts = documents(root, "perplexity")
    nll_rows = rows[rows["metric"] == "nll"]
    for item in [None, *read_all_sets(root / "selection")[::7]]:
        name, share = ("", "none", "", "", -1), 0.0
        if item is not None:
            name, share = ("base", item.method, item.budget, item.language, item.random_seed), item.share()
        with masked(model, item) if item is not None else nullcontext():
            found = {k: document_nll(model, tokens, token_budget=256) for k, tokens in texts.items()}
        for language, (nll, tokens) in found.items():
            key, columns = [*name, language], [*MASK, "evaluation_language"]
            row = nll_rows[(nll_rows[columns] == key).all(axis=1)].squeeze()
            assert row["value"] == pytest.approx(nll.sum() / tokens.sum(), rel=1e-6)
            assert row["n"] == tokens.sum()
            assert row["masked_share"] == pytest.approx(share, rel=1e-12)
            mine = per_document[(per_document[columns] == key).all(axis=1)]
            np.testing.assert_allclose(mine["nll"], nll, rtol=1e-6)
            assert mine["tokens"].tolist() == tokens.tolist()


def test_only_the_methods_asked_for_are_masked(root, tmp_path):
    sets = {"selected_on_base": root / "selection", "selected_on_chat": root / "selection"}
    methods = {"base": ["lape", "random_like_contrast"], "chat": ["contrast"]}
    rows, _documents = perplexity(root, tmp_path / "p", methods=methods, **sets)
    found = set(zip(rows["selected_on"], rows["method"], strict=True))
    assert found == {("", "none"), ("base", "lape"), ("base", "random_like_contrast"), ("chat", "contrast")}


def test_questions_under_masks(root, tmp_path):
    for name in ("nlu", "unmasked"):
        (tmp_path / name).mkdir()
    read = {"corpus": root / "corpus", "model": root / "model"}
    options = replace(ON_QUESTIONS, masks=MaskChoice(methods={"base": ["contrast"]}, everything=False))
    make_nlu(tmp_path / "nlu", selected_on_base=root / "selection", options=options, **read)
    make_unmasked_nlu(tmp_path / "unmasked", options=ON_QUESTIONS, **read)
    rows, items = read_frame(tmp_path / "nlu" / "rows.csv"), pd.read_parquet(tmp_path / "nlu" / "items.parquet")
    assert list(rows) == list(COLUMNS)
    assert len(rows) == 3 * 2
    assert len(items) == 3 * 2 * 8
    by_mask = items.groupby(["method", "masked_language", "language"])["correct"].agg(["mean", "size"])
    for row in rows.itertuples():
        found = by_mask.loc[(row.method, row.masked_language, row.evaluation_language)]
        assert (row.value, row.n) == tuple(found)
    unmasked = read_frame(tmp_path / "unmasked" / "rows.csv")
    pd.testing.assert_frame_equal(unmasked, rows[rows["method"] == "none"].reset_index(drop=True))
    assert {path.name for path in (tmp_path / "nlu").iterdir()} == {"rows.csv", "items.parquet"}
    assert rows["value"].notna().all()


def test_shares_of_the_first_token_and_of_the_largest_neurons_add_up_from_every_neuron(root):
    model, texts = documents(root, "relevance")
    found = read_json(root / "relevance" / "concentration.json")
    assert [item["language"] for item in found] == LANGUAGES
    sample = texts["en"][:8]
    assert (found[0]["documents"], found[0]["tokens"]) == (len(sample), sum(map(len, sample)))
    sample = sample[:2]
    seen = concentration(model, sample, PASSES)
    layers, width = model.config.num_hidden_layers, model.config.intermediate_size
    sizes = {"relevance": np.zeros((2, layers * width)), "activation": np.zeros((2, layers * width))}
    for place in range(layers * width):
        for ids in sample:
            one = document_relevance(model, torch.from_numpy(ids)[None], watch=divmod(place, width)).watched
            for name, values in sizes.items():
                every = getattr(one, name)[0].abs().numpy()
                values[:, place] += every.sum(), every[0]
    assert seen["largest"] == max(1, layers * width // 100)
    for name, (every, first) in sizes.items():
        assert seen[f"{name}_first"] == pytest.approx(first.sum() / every.sum(), rel=1e-9)
        assert seen[f"{name}_largest"] == pytest.approx(
            np.sort(every)[-seen["largest"] :].sum() / every.sum(), rel=1e-9
        )
