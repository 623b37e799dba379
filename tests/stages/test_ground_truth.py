"""The stage of single-neuron effects, on a random model."""

import numpy as np
import pytest

from crane_lib.evaluation.perplexity import document_nll
from crane_lib.files import read_frame
from crane_lib.ground_truth import Effects
from crane_lib.masking import masked
from crane_lib.models.loading import load_model
from crane_lib.neurons import NeuronSet
from crane_lib.stages.ground_truth import make_ground_truth, neuron_sets
from crane_lib.stages.selection import make_selection
from crane_lib.stages.texts import sampled_documents
from tests.stages.test_measuring import LANGUAGES, LOADING, SEEDS, root  # noqa: F401  (a fixture)

WIDTH, LAYERS, DOCUMENTS = 24, 2, 2


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("made")
    (folder / "selection").mkdir()
    make_selection(
        folder / "selection",
        relevance=root / "relevance",
        languages=LANGUAGES,
        seed=SEEDS[0],
        budget=0.25,
        kurtosis_threshold=1.0,
        lape_threshold_quantile=0.95,
        lape_share=0.1,
        random_draws=5,
        random_seed=0,
    )
    (folder / "truth").mkdir()
    make_ground_truth(
        folder / "truth",
        corpus=root / "corpus",
        model=root / "model",
        selection=folder / "selection",
        profile="test",
        model_name="base",
        languages=LANGUAGES,
        budget="0.25",
        documents=DOCUMENTS,
        token_budget=256,
        max_length=64,
        random_seed=0,
        **LOADING,
    )
    return folder


def test_effects_are_those_of_masking_one_neuron(made, root):  # noqa: F811
    effects = Effects.load(made / "truth" / "effects.safetensors")
    model, tokenizer = load_model(root / "model", **LOADING)
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
    assert "kurtosis" not in {item.method for item in sets}
    documents = read_frame(made / "truth" / "documents.parquet")
    effects = Effects.load(made / "truth" / "effects.safetensors")
    assert set(documents["method"]) == {item.method for item in sets} | {"none"}
    for language, part in documents[documents["method"] == "none"].groupby("evaluation_language"):
        assert part["tokens"].tolist() == effects.tokens[language].tolist()
