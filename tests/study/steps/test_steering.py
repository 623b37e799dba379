"""The steering step: its answers are those of the steered model, and what they are worth is found again by hand."""

import numpy as np
import pandas as pd
import pytest
import yaml

from crane_lib.methods import METHODS
from crane_lib.scores import UnitScores
from crane_lib.steering import difference_of_means, mean_activations, pushed, steered
from crane_study.data.corpora import tokenized
from crane_study.frames import read_frame
from crane_study.loading.models import load_model
from crane_study.measure.generation import greedy_answers
from crane_study.measure.steering import ASKED, GAIN, MEAN, NONE, PUSH, RIVAL, chance_corrected, retrieved
from crane_study.steps.steering import RANDOM, first_sentence_of
from crane_study.study import Study
from tests.small import write_study

SETTINGS = {"prompts": 4, "methods": ["contrast"], "budget": 0.2, "gains": [6.0], "additions": [8.0], "pushes": [9.0]}
SETTINGS |= {"depths": [0.5], "documents": 5, "max_new_tokens": 5, "candidates": 3, "prompt_tokens": 9}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study of a random base model, its steered answers, the model and its tokenizer."""
    root = tmp_path_factory.mktemp("study")
    path = write_study(root, questions=False, relevance_documents=10, perplexity_documents=6)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"steering": SETTINGS}))
    study = Study.open(str(path), artifacts=root / "artifacts", say=lambda _line: None)
    answers = read_frame(study.steering() / "answers.parquet")
    return study, answers, *load_model(root / "model", device="cpu")


def test_every_way_answers_every_prompt_of_the_other_language(done):
    _study, answers, _model, _tokenizer = done
    assert set(answers["measure"]) == {"retrieval"}
    counts = answers.groupby(["method", "how"]).size().to_dict()
    ways = [("contrast", GAIN), ("contrast", MEAN), (RANDOM, GAIN), (RANDOM, MEAN), (RIVAL, PUSH)]
    assert counts == dict.fromkeys([(NONE, ""), (ASKED, ""), *ways], 2 * 4)
    same = answers["prompt_language"] == answers["wanted_language"]
    assert (same == (answers["method"] == ASKED)).all()
    assert (answers["forced"] == (answers["language"] == answers["wanted_language"])).all()


def test_prompts_took_no_part_in_the_selection(done):
    study, answers, _model, _tokenizer = done
    documents = pd.read_parquet(study.corpus / "documents.parquet")
    for language, own in answers.groupby("prompt_language"):
        texts = documents[documents["language"] == language].groupby("split")["text"].agg("\n".join)
        for text in own["text"].unique():
            assert text in texts["perplexity"]
            assert text not in texts["relevance"]


def test_answers_are_those_of_the_steered_model(done):
    study, answers, model, tokenizer = done
    documents = pd.read_parquet(study.corpus / "documents.parquet")
    means = {}
    for language in study.languages:
        given = {"split": "relevance", "language": language, "max_length": 96}
        means[language] = mean_activations(model, tokenized(documents, tokenizer, **given)[:5])
    scores = UnitScores.read(study.relevance("base").folder, objective=study.objectives[0], languages=study.languages)
    sets = scores.sets("contrast", "0.2", METHODS["contrast"].select(scores, budget=0.2))
    (own,) = [item for item in sets if item.language == "vi"]
    blocks = {
        ("contrast", GAIN): steered(model, own, gain=6.0),
        ("contrast", MEAN): steered(model, own, add=means["vi"].neurons, strength=8.0),
        (RIVAL, PUSH): pushed(model, {1: difference_of_means(means)["vi"][1]}, strength=9.0),
    }
    found = set()
    for (method, how), block in blocks.items():
        part = answers[(answers["method"] == method) & (answers["how"] == how) & (answers["wanted_language"] == "vi")]
        prompts = [tokenizer(text)["input_ids"][:9] for text in part["text"]]
        with block:
            expected = [answer.text for answer in greedy_answers(model, tokenizer, prompts, max_new_tokens=5)]
        assert part["answer"].tolist() == expected
        found.add(tuple(expected))
    assert len(found) == 3


def test_relevance_is_retrieval_among_prompts_of_the_same_language(done):
    """The texts of a local source need not be parallel: prompts are read in their own language."""
    _study, answers, model, tokenizer = done
    part = answers[(answers["method"] == NONE) & (answers["wanted_language"] == "vi")]
    prompts = [tokenizer(text)["input_ids"][:9] for text in part["text"]]
    ids = [answer.ids for answer in greedy_answers(model, tokenizer, prompts, max_new_tokens=5)]
    candidates = [[prompts[(n + step) % 4] for step in range(3)] for n in range(4)]
    expected = chance_corrected(retrieved(model, ids, candidates, token_budget=512), 3)
    np.testing.assert_allclose(part["relevance"], np.where(part["answer"] == "", 0.0, expected))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Dr. 3.5 km away. Then on.", "Dr."),
        ("It is 3.5 km long! Then on.", "It is 3.5 km long!"),
        ("河流很长。然后。", "河流很长。"),
        (" no end", "no end"),
    ],
)
def test_first_sentences(text, sentence):
    assert first_sentence_of(text) == sentence
