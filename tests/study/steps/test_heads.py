"""Attention heads beside neurons, on a random model: scores, doses of equal weights, masks, tables and figures."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.interventions import masked
from crane_lib.methods import METHODS
from crane_lib.neurons import NeuronSet
from crane_lib.nll import document_nll
from crane_lib.relevance.modules import parts_of
from crane_lib.scores import UnitScores, load_statistics
from crane_study import figures
from crane_study.data.corpora import make_local_corpus, tokenized
from crane_study.loading.models import load_model
from crane_study.steps.heads import counts_of_doses, make_heads, unit_shares
from crane_study.steps.relevance import make_relevance
from crane_study.tables import heads as tables
from tests.lib.relevance.tiny import tiny_model
from tests.small import LANGUAGES, ON_DOCUMENTS, PASSES, TEXTS, write_lines, write_model

OPTIONS = replace(ON_DOCUMENTS, documents=6)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    write_model(root / "model")
    for name in ("corpus", "relevance", "heads"):
        (root / name).mkdir()
    texts = {k: str(write_lines(root / f"{k}.jsonl", [{"text": t} for t in v])) for k, v in TEXTS.items()}
    sizes = {"relevance_documents": 8, "perplexity_documents": 8}
    make_local_corpus(root / "corpus", texts=texts, questions=None, **sizes, random_seed=0)
    passes = replace(PASSES, objectives=PASSES.objectives[:1])
    make_relevance(root / "relevance", corpus=root / "corpus", model=root / "model", options=passes)
    given = {"corpus": root / "corpus", "model": root / "model", "relevance": root / "relevance"}
    make_heads(root / "heads", **given, objective="gold_logit", draws=2, options=OPTIONS)
    return root


def scores(root, site):
    return UnitScores.read(root / "relevance", objective="gold_logit", languages=LANGUAGES, site=site)


def test_magnitudes_are_mean_lengths_and_outputs_those_times_the_size_of_the_columns(root):
    model, tokenizer = load_model(root / "model", device="cpu", dtype="float64")
    frame = pd.read_parquet(root / "corpus" / "documents.parquet")
    documents = tokenized(frame, tokenizer, split="relevance", language="vi", max_length=40)
    found, seen = scores(root, "head"), [[], []]
    for layer, kept in zip(parts_of(model).layers, seen, strict=True):
        layer.output.module.register_forward_pre_hook(lambda _m, args, kept=kept: kept.append(args[0][0].detach()))
    for ids in documents:
        model(input_ids=torch.from_numpy(ids)[None])
    for layer, head in np.ndindex(2, 2):
        slices = [token[8 * head : 8 * head + 8] for document in seen[layer] for token in document]
        length = sum(float((part**2).sum()) ** 0.5 for part in slices) / len(slices)
        assert found.magnitude["vi"][layer, head] == pytest.approx(length, rel=1e-9)
        columns = parts_of(model).layers[layer].output.weight()[:, 8 * head : 8 * head + 8]
        size = (sum(float((columns[:, i] ** 2).sum()) for i in range(8)) / 8) ** 0.5
        assert found.output["vi"][layer, head] == pytest.approx(length * size, rel=1e-9)


def test_methods_that_read_firing_rows_or_single_documents_are_not_of_heads(root):
    units = scores(root, "head")
    for method in METHODS.values():
        if method.of_heads:
            assert {k: v.shape for k, v in method.scores(units).items()} == dict.fromkeys(LANGUAGES, (2, 2)), method
            chosen = method.select(units, budget=0.5)
            assert {(site, sum(map(len, layers))) for k in chosen for site, layers in chosen[k].items()} == {
                ("head", 2)
            }
        elif units.has(method.needs):
            with pytest.raises(CraneError, match="attention heads neither fire nor have rows"):
                method.select(units, budget=0.5)
    assert {"contrast", "penalized", "gradient", "output"} < {m.name for m in METHODS.values() if m.of_heads}


@pytest.mark.parametrize("kind", ["llama", "phi3", "gpt2", "gemma3_text"])
def test_doses_of_neurons_and_heads_have_equal_weights(kind):
    """Counted parameter by parameter: everything in the layers but biases and norms belongs to a neuron or a head."""
    model = tiny_model(kind)
    shares, parts = unit_shares(model), parts_of(model)
    attention, mlp = (
        sum(
            p.numel()
            for layer in parts.layers
            for name, p in layer.module.named_parameters()
            if p.ndim == 2 and ("mlp" not in name) == of_attention
        )
        for of_attention in (True, False)
    )
    units = {unit: 2 * parts.widths[unit] for unit in ("neuron", "head")}
    assert shares["head"] == pytest.approx(attention / units["head"] / (attention + mlp))
    assert units["neuron"] * shares["neuron"] + units["head"] * shares["head"] == pytest.approx(1)
    counts = counts_of_doses(shares, units["head"])
    assert list(counts["neuron"]) == list(counts["head"])
    assert list(counts["head"].values()) == [1, 2, 4, 6]  # of 8
    for dose in counts["head"]:
        assert counts["head"][dose] * shares["head"] == pytest.approx(float(dose), rel=1e-3)
        assert counts["neuron"][dose] * shares["neuron"] == pytest.approx(float(dose), abs=shares["neuron"])


def test_every_mask_is_that_of_its_units_and_the_tables_say_what_it_did(root):
    model, tokenizer = load_model(root / "model", device="cpu", dtype="float64")
    frame = pd.read_parquet(root / "corpus" / "documents.parquet")
    texts = {k: tokenized(frame, tokenizer, split="perplexity", language=k, max_length=40) for k in LANGUAGES}
    units = tables.MaskedUnits.read(root / "heads", random_seed=0)
    rises = tables.unit_rises(units)
    assert set(rises["killed"][rises["unit"] == "head"]) == {1, 2, 3}
    for unit in ("neuron", "head"):
        values, (largest,) = (
            METHODS["contrast"].scores(scores(root, unit))["vi"],
            [sorted(rises["budget"], key=float)[-1]],
        )
        row = rises[(rises["unit"] == unit) & (rises["method"] == "contrast") & (rises["budget"] == largest)]
        row = row[row["masked_language"] == "vi"].set_index("evaluation_language")
        count = int(row["killed"].iloc[0])
        chosen = np.argsort(-values.ravel(), kind="stable")[:count]
        sites = [np.sort(chosen[chosen // values.shape[1] == layer] % values.shape[1]) for layer in range(2)]
        documents = pd.read_parquet(root / "heads" / unit / "documents.parquet")
        for language in LANGUAGES:
            bare = documents[(documents["method"] == "none") & (documents["evaluation_language"] == language)]
            sample = [texts[language][number] for number in bare["document"]]
            with masked(model, NeuronSet({unit: sites}, {unit: values.shape[1]})):
                nll, tokens = document_nll(model, sample, token_budget=256)
            rise = (nll.sum() - bare["nll"].sum()) / tokens.sum()
            assert row.loc[language, "rise"] == pytest.approx(rise, rel=1e-9)
            assert row.loc[language, "low"] <= rise <= row.loc[language, "high"]
        random = rises[(rises["unit"] == unit) & (rises["method"] == "random_global")]
        assert set(random["masked_language"]) == {""}
    damage = tables.unit_damage_table(units)
    assert set(damage["unit"]) == {"neuron", "head"}
    assert set(damage["method"]) == {"contrast", "penalized", "random_global"}
    assert (damage["dose"].dropna() < 0.5).all()


def test_shares_by_layer_add_up_and_are_those_of_single_units(root):
    statistics = load_statistics(root / "relevance", "gold_logit", LANGUAGES)
    table = tables.where_table(statistics).set_index(["language", "unit", "layer"])
    for language in LANGUAGES:
        values = {unit: statistics[language].moments[unit].mean.tolist() for unit in ("neuron", "head")}
        total = sum(max(v, 0.0) for unit in values for layer in values[unit] for v in layer)
        size = {k: sum(float(statistics[k].moments[u].mean.abs().sum()) for u in values) for k in LANGUAGES}
        (other,) = set(LANGUAGES) - {language}
        beyond = {
            unit: statistics[language].moments[unit].mean / size[language]
            - statistics[other].moments[unit].mean / size[other]
            for unit in values
        }
        sums = sum(float(v.clamp(min=0).sum()) for v in beyond.values())
        for unit, layer in [("neuron", 0), ("neuron", 1), ("head", 0), ("head", 1)]:
            found = table.loc[language, unit, layer]
            assert found["relevance"] == pytest.approx(sum(max(v, 0.0) for v in values[unit][layer]) / total)
            assert found["contrast"] == pytest.approx(float(beyond[unit][layer].clamp(min=0).sum()) / sums)
    np.testing.assert_allclose(table.groupby("language").sum(), 1.0)


def test_the_figures_tell_both_units(root, tmp_path):
    statistics = load_statistics(root / "relevance", "gold_logit", LANGUAGES)
    figures.where_language_lives(tables.where_table(statistics), tmp_path / "where")
    rises = tables.unit_rises(tables.MaskedUnits.read(root / "heads", random_seed=0))
    figures.unit_damage(rises, tmp_path / "rise")
    for name in ("where", "rise"):
        words = (tmp_path / f"{name}.txt").read_text()
        assert words.count("Attention heads, ") == words.count("MLP neurons, ") == 2 * (2 if name == "where" else 3)
