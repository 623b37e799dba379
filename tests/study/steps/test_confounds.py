"""Masks of parts of one language, and other values in the place of zeros, on a random model."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from crane_lib.files import read_json
from crane_lib.interventions import masked
from crane_lib.nll import document_nll
from crane_lib.relevance.hooks import HookSet
from crane_lib.relevance.modules import parts_of
from crane_study.data.corpora import make_local_corpus, tokenized
from crane_study.data.partitions import make_partitions
from crane_study.loading.models import load_model
from crane_study.steps.confounds import (
    GUESSING,
    Compared,
    make_confounds,
    make_null,
    mean_ablated,
    resampled,
    sampled_activations,
)
from crane_study.steps.relevance import make_relevance
from crane_study.tables import confounds as tables
from crane_study.uncertainty.overlap import as_neurons
from tests.small import LANGUAGES, ON_DOCUMENTS, PASSES, TEXTS, write_lines, write_model

SETS = [("contrast", "0.25"), ("kurtosis", "published")]
COMPARED = Compared(sets=SETS, selection={"budget": 0.25}, objective="gold_logit")
OPTIONS = replace(ON_DOCUMENTS, documents=12)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("confounds")
    write_model(root / "model")
    for name in ("corpus", "relevance"):
        (root / name).mkdir()
    # Longer and shorter documents, so that kurtosis varies.
    several = {k: [*v, *(f"{t} {t}" for t in v), *(f"{t} {v[0]}" for t in v[1:])] for k, v in TEXTS.items()}
    texts = {k: str(write_lines(root / f"{k}.jsonl", [{"text": t} for t in v])) for k, v in several.items()}
    sizes = {"relevance_documents": 48, "perplexity_documents": 36}
    make_local_corpus(root / "corpus", texts=texts, questions=None, **sizes, random_seed=0)
    make_relevance(root / "relevance", corpus=root / "corpus", model=root / "model", options=PASSES)
    make_partitions(root / "partitions", corpus=root / "corpus", random_seed=0)
    return root


@pytest.fixture(scope="module")
def model(root):
    network, tokenizer = load_model(root / "model", device="cpu", dtype="float64")
    frame = pd.read_parquet(root / "corpus" / "documents.parquet")
    return network, tokenized(frame, tokenizer, split="relevance", language="vi", max_length=40)[:3]


def inputs_of_down(network, ids):
    seen = []
    with HookSet() as hooks:
        for layer in parts_of(network).layers:
            hooks.before(layer.down, lambda _module, args: seen.append(args[0].detach()[0]))
        network(input_ids=torch.from_numpy(ids)[None])
    return seen


def test_means_are_over_tokens_and_drawn_activations_are_of_tokens(model):
    network, documents = model
    mean, bank = sampled_activations(network, documents, each=5, skip=1)
    by_document = [torch.stack(inputs_of_down(network, ids)) for ids in documents]
    together = torch.cat([h[:, 1:] for h in by_document], dim=1)
    torch.testing.assert_close(mean, together.mean(1))
    assert bank.shape == (2, 15, 24)
    for number in range(15):
        own = by_document[number // 5][:, 1:]  # the same token in all layers
        assert (own == bank[:, number, None]).all(dim=2).all(dim=0).any()


@pytest.mark.parametrize("method", ["contrast", "kurtosis"])
def test_ablated_neurons_have_the_mean_or_a_random_tokens_activations(root, model, method):
    network, documents = model
    neurons = next(s for s in COMPARED.select(root / "relevance", LANGUAGES) if s.method == method)
    chosen, ids = as_neurons(neurons).sites["neuron"], documents[0]
    mean, bank = sampled_activations(network, documents, each=5)
    plain, kept = inputs_of_down(network, ids), np.ones(24, dtype=bool)

    def changed(intervene):
        # Our hooks see what the mask lets through: they are registered after its own.
        with intervene(network, neurons):
            return inputs_of_down(network, ids)

    found = changed(partial(mean_ablated, mean))
    for layer, indices in enumerate(chosen):
        np.testing.assert_array_equal(found[layer][:, indices], mean[layer][indices].expand(len(ids), -1))
    kept[chosen[0]] = False
    np.testing.assert_array_equal(found[0][:, kept], plain[0][:, kept])  # nothing is changed before the first layer
    drawn = changed(partial(resampled, bank, 0))
    for layer, indices in enumerate(chosen):
        rows = (drawn[layer][:, None, indices] == bank[layer][None, :, indices]).all(dim=2)  # (T, bank)
        assert rows.any(dim=1).all()
        assert len({int(row.int().argmax()) for row in rows}) > 3
    for again, other in zip(drawn, changed(partial(resampled, bank, 0)), strict=True):
        assert torch.equal(again, other)
    assert not torch.equal(drawn[0], changed(partial(resampled, bank, 1))[0])


@pytest.fixture(scope="module")
def made(root):
    given = {"model": root / "model", "relevance": root / "relevance", "compared": COMPARED, "options": OPTIONS}
    make_confounds(root / "confounds", corpus=root / "corpus", passes=PASSES, **given)
    make_null(root / "null", partitions=root / "partitions", **given)
    return [tables.resample_folders(root / name, random_seed=0) for name in ("confounds", "null")]


def test_every_condition_has_its_documents_and_its_masks(root, made):
    conditions, _null = made
    assert set(conditions) == set(tables.CONDITIONS)
    frames = {name: pd.read_parquet(root / "confounds" / name / "documents.parquet") for name in conditions}
    bare = {name: frame[frame["method"] == "none"].set_index(["evaluation_language", "document"])["nll"]
            for name, frame in frames.items()}  # fmt: skip
    for name in ("mean", "resampled", "not_parallel"):
        pd.testing.assert_series_equal(bare[name], bare["zero"])
    pd.testing.assert_series_equal(bare["romanised"]["en"], bare["zero"]["en"])
    assert (bare["romanised"]["vi"] != bare["zero"]["vi"]).all()
    assert (bare["shuffled"] != bare["zero"]).all()
    network, tokenizer = load_model(root / "model", device="cpu", dtype="float64")
    corpus = pd.read_parquet(root / "corpus" / "documents.parquet")
    tokens = tokenized(corpus, tokenizer, split="perplexity", language="vi", max_length=40)
    thirds = COMPARED.select(root / "relevance" / "thirds", ["en-1", "vi-2"])
    sets = {"zero": COMPARED.select(root / "relevance", LANGUAGES), "not_parallel": thirds}
    for name, found in sets.items():
        frame = frames[name]
        mine = frame[(frame["method"] == "contrast") & (frame["masked_language"] == "vi")]
        mine = mine[mine["evaluation_language"] == "vi"]
        (neurons,) = (s for s in found if s.method == "contrast" and s.language.startswith("vi"))
        with masked(network, neurons):
            nll, _tokens = document_nll(network, [tokens[n] for n in mine["document"]], token_budget=256)
        np.testing.assert_allclose(mine["nll"], nll, rtol=1e-9)
    assert read_json(root / "confounds" / GUESSING) == pytest.approx(np.log(network.config.vocab_size))


def test_a_third_has_half_of_its_masks_effect_and_there_are_no_subjects_without_facts(made):
    conditions, null = made
    assert set(null) == {"thirds.en", "thirds.vi"}
    table = tables.null_table(null, conditions["zero"]).set_index(["kind", "language", "method"])
    assert len(table) == 3 * len(SETS)
    # A mask may lower the NLL of a random model; it does so in all thirds alike. Larger effects weigh more.
    hit, rest = [], []
    for _probability, nll in null.values():
        rise = (nll.measured - nll.unmasked) * np.sign((nll.measured - nll.unmasked).mean(axis=1, keepdims=True))
        own = np.array([nll.languages.index(code) for code in nll.masks["masked_language"]])
        hit += list(rise[np.arange(len(own)), own])
        rest += list((rise.sum(axis=1) - rise[np.arange(len(own)), own]) / 2)
    assert 0.4 < sum(hit) / (sum(hit) + sum(rest)) < 0.6
    one = null["thirds.en"][1]
    places = [place for place in one.masks.index if one.masks["method"][place] == "contrast"]
    own = [one.measured[p, k] - one.unmasked[k] for k, p in enumerate(places)]
    worst = [max(np.delete(one.measured[p] - one.unmasked, k)) for k, p in enumerate(places)]
    assert table.loc[("random thirds", "en", "contrast"), "matched"] == pytest.approx(sum(worst) / sum(own))
