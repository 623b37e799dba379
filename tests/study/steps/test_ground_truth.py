"""The stage of single-neuron effects, on a random model."""

from dataclasses import replace

import numpy as np
import pytest

from crane_lib.ablation import ablation_effects
from crane_lib.interventions import masked
from crane_lib.neurons import NeuronSet
from crane_lib.nll import document_nll
from crane_study.data.corpora import sampled_documents
from crane_study.frames import read_frame
from crane_study.steps import ground_truth as stage
from crane_study.steps.ground_truth import make_ablation, make_neuron_sample, make_whole_sets, neuron_sets
from crane_study.steps.selection import make_selection
from crane_study.uncertainty.ground_truth import Effects
from crane_study.uncertainty.neuron_sample import NeuronSample
from tests.small import LANGUAGES, LOADING, OBJECTIVES, ON_DOCUMENTS
from tests.study.steps.test_measuring import ALWAYS, root  # noqa: F401  (a fixture)

WIDTH, LAYERS, DOCUMENTS = 24, 2, 2
OPTIONS = replace(ON_DOCUMENTS, documents=DOCUMENTS, max_length=64)


def sample_of(root):  # noqa: F811
    return {"corpus": root / "corpus", "model": root / "model", "options": OPTIONS}


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("made")
    (folder / "selection").mkdir()
    inputs = {"relevance": root / "relevance", "languages": LANGUAGES, "objective": OBJECTIVES[0], "methods": ALWAYS}
    options = {"budget": 0.25, "lape": {"share": 0.1}}
    make_selection(folder / "selection", **inputs, options=options, random_seed=0)
    (folder / "truth").mkdir()
    make_ablation(folder / "truth", scratch=tmp_path_factory.mktemp("scratch"), **sample_of(root))
    make_whole_sets(folder / "truth", selection=folder / "selection", budget="0.25", **sample_of(root))
    return folder


def test_effects_are_those_of_masking_one_neuron(made, root):  # noqa: F811
    effects = Effects.load(made / "truth" / "effects.safetensors")
    model, tokenizer = LOADING.load(root / "model")
    tokens, _numbers = sampled_documents(
        root / "corpus", tokenizer, languages=LANGUAGES, documents=DOCUMENTS, max_length=64, random_seed=0
    )
    layer, neuron = 1, 7
    sites = {"neuron": [np.array([neuron] if n == layer else [], dtype=np.int64) for n in range(LAYERS)]}
    one = NeuronSet(sites=sites, widths={"neuron": WIDTH})
    for language in LANGUAGES:
        assert effects.rise[language].shape == (DOCUMENTS, LAYERS, WIDTH)
        assert effects.tokens[language].tolist() == [len(document) - 1 for document in tokens[language]]
        before = document_nll(model, tokens[language], token_budget=256)[0]
        with masked(model, one):
            after = document_nll(model, tokens[language], token_budget=256)[0]
        np.testing.assert_allclose(effects.rise[language][:, layer, neuron], after - before, atol=2e-3)


def test_whole_sets_are_measured_on_the_same_documents(made):
    sets = neuron_sets(made / "selection", budget="0.25")
    assert {item.method for item in sets} >= {"contrast", "lape", "gradient_contrast", "random_like_contrast"}
    assert all(set(item.sites) == {"neuron"} for item in sets)
    assert {item.budget for item in sets if item.method == "kurtosis"} == {"published"}
    documents = read_frame(made / "truth" / "documents.parquet")
    effects = Effects.load(made / "truth" / "effects.safetensors")
    selected = {item.method for item in sets if not item.method.startswith("random")}
    assert set(documents["method"]) == selected | {"none"}
    for language, part in documents[documents["method"] == "none"].groupby("evaluation_language"):
        assert part["tokens"].tolist() == effects.tokens[language].tolist()


def test_a_sample_is_drawn_from_relevance_and_sets_and_only_it_is_ablated(made, root, tmp_path):  # noqa: F811
    given = {"relevance": root / "relevance", "selection": made / "selection", "objective": OBJECTIVES[0]}
    given |= {"languages": LANGUAGES, "budget": "0.25", "options": {"sample": 12, "random_seed": 0}}
    (tmp_path / "sample").mkdir()
    make_neuron_sample(tmp_path / "sample", **given)
    (tmp_path / "scratch").mkdir()
    make_ablation(tmp_path, scratch=tmp_path / "scratch", sample=tmp_path / "sample", **sample_of(root))
    sample = NeuronSample.load(tmp_path / "sample" / "sample.safetensors")
    effects = Effects.load(tmp_path / "effects.safetensors")
    full = Effects.load(made / "truth" / "effects.safetensors")
    drawn = sample.draws > 0
    assert 4 < drawn.sum() < LAYERS * WIDTH / 2
    np.testing.assert_array_equal(effects.neurons, np.flatnonzero(drawn))
    for language in LANGUAGES:
        assert np.isnan(effects.rise[language][:, ~drawn]).all()
        np.testing.assert_allclose(effects.rise[language][:, drawn], full.rise[language][:, drawn], atol=1e-9)
        np.testing.assert_allclose(effects.per_token()[language], full.per_token()[language][drawn.ravel()], atol=1e-9)


def test_a_killed_ablation_goes_on_with_the_languages_that_are_left(made, root, tmp_path, monkeypatch):  # noqa: F811
    scratch, done = tmp_path / "scratch", []
    scratch.mkdir()

    def interrupted(model, documents, **options):
        if done:
            raise KeyboardInterrupt
        done.append(len(documents))
        return ablation_effects(model, documents, **options)

    monkeypatch.setattr(stage, "ablation_effects", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_ablation(tmp_path, scratch=scratch, **sample_of(root))
    assert not (tmp_path / "effects.safetensors").exists()
    done.clear()
    monkeypatch.setattr(stage, "ablation_effects", lambda *a, **o: done.append(1) or ablation_effects(*a, **o))
    make_ablation(tmp_path, scratch=scratch, **sample_of(root))
    assert len(done) == len(LANGUAGES) - 1
    name = "effects.safetensors"
    assert (tmp_path / name).read_bytes() == (made / "truth" / name).read_bytes()
