"""Gemma 3 270M as fetched: shapes, tokens, relevance compared with the slow pass, a mask, the start of a study."""

import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from crane_lib import document_relevance, masked
from crane_lib.neurons import read_neuron_sets
from crane_lib.nll import document_nll
from crane_lib.relevance import parts_of
from crane_run.cli import app
from crane_study.data.xquad import read_language
from crane_study.fetch import fetched_directory
from crane_study.loading.models import load_model
from crane_study.profile import CONFIGS
from crane_study.study import Study
from tests.lib.relevance.slow import slow_pass
from tests.lib.relevance.tiny import distance

pytestmark = [pytest.mark.real, pytest.mark.slow]
LANGUAGES = ["en", "zh", "vi"]
KNOWN = {  # of the published tokenizer
    "Hello world": [2, 9259, 1902],
    "<start_of_turn>user\nHi<end_of_turn>": [2, 105, 2364, 107, 10979, 106],
}


@pytest.fixture(scope="module")
def directory():
    done = CliRunner().invoke(app, ["fetch", "gemma3-270m", "--accept-terms", "gemma"])
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    return fetched_directory("gemma3-270m")


@pytest.fixture(scope="module")
def paragraphs(shared):
    return {k: read_language(shared / "data" / f"xquad.{k}.json").paragraphs for k in LANGUAGES}


def test_shape_and_tokens(directory, paragraphs):
    model, tokenizer = load_model(directory, device="cpu")
    parts = parts_of(model)
    assert (len(parts.layers), parts.widths["neuron"], model.config.vocab_size) == (18, 2048, 262144)
    assert model.num_parameters() == 268_098_176
    for text, ids in KNOWN.items():
        assert tokenizer(text)["input_ids"] == ids
    for texts in paragraphs.values():
        for text in texts[:40]:
            assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    nll, tokens = document_nll(model, [tokenizer(paragraphs["en"][200])["input_ids"][:256]], token_budget=256)
    assert 2.0 < float(nll[0] / tokens[0]) < 4.0


def test_relevance_is_that_of_the_slow_pass(directory, paragraphs):
    model, tokenizer = load_model(directory, device="cpu", dtype="float64")
    for language in ("en", "vi"):
        ids = torch.tensor(tokenizer(paragraphs[language][0])["input_ids"][:16])
        found, expected = document_relevance(model, ids[None]), slow_pass(model, ids)
        for field in ("target", "token", "neuron", "abs_neuron", "gate", "up", "down"):
            assert distance(getattr(found, field)[0].double(), expected[field]) < 1e-5, (language, field)


def test_a_study_begins_and_its_mask_hurts(directory, shared, tmp_path):
    settings = yaml.safe_load((CONFIGS / "gemma3-270m.yaml").read_text())
    settings["source"] |= {"relevance_documents": 8, "perplexity_documents": 4}
    settings["source"]["xquad"] |= {"path": str(shared / "data"), "questions": 2, "knowledge_questions": 2}
    settings["relevance"] |= {"max_length": 48, "token_budget": 512}
    profile = tmp_path / "short.yaml"
    profile.write_text(yaml.safe_dump(settings | {"name": "short"}))
    study = Study.open(str(profile), artifacts=tmp_path / "artifacts")
    sets = read_neuron_sets(study.selection("base") / "contrast@0.01.json")
    chosen = next(one for one in sets if one.language == "zh")
    assert chosen.count() == 369
    model, tokenizer = load_model(directory, device="cpu")
    frame = pd.read_parquet(study.corpus / "documents.parquet")
    held_out = frame[(frame["split"] == "perplexity") & (frame["language"] == "zh")]["text"]
    ids = [tokenizer(text)["input_ids"][:64] for text in held_out]
    before = document_nll(model, ids, token_budget=512)[0].sum()
    with masked(model, chosen):
        assert document_nll(model, ids, token_budget=512)[0].sum() > before + sum(map(len, ids))
