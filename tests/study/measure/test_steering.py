"""The language of an answer, retrieval of its prompt, and the fact that it names."""

import numpy as np
import pytest
import torch

from crane_lib.errors import CraneError
from crane_study.measure.judge_offline import KnowledgeBase
from crane_study.measure.steering import chance_corrected, fact_value, language_detector, retrieved
from tests.lib.relevance.tiny import tiny_model


def test_languages_are_those_of_the_study_or_none():
    detect = language_detector(["en", "zh", "vi_Latn"])
    texts = ["The river runs past the old mill.", "河流经过古老的磨坊。", "Con sông chảy qua cối xay cũ.", "", "12 + 3"]
    assert list(map(detect, texts)) == ["en", "zh", "vi_Latn", "", ""]
    assert language_detector(["en", "zh"])("Con sông chảy qua cối xay cũ.") in ("en", "")


@pytest.mark.parametrize(("codes", "words"), [(["en", "qqq"], "'qqq'"), (["vi", "vi_Latn"], "two different languages")])
def test_languages_that_cannot_be_told_apart_are_refused(codes, words):
    with pytest.raises(CraneError, match=words):
        language_detector(codes)


def test_a_prompt_is_retrieved_if_it_makes_the_answer_likeliest():
    model, generator = tiny_model(), np.random.default_rng(0)
    prompts = [generator.integers(3, 50, size=length).tolist() for length in (5, 7, 6, 4)]
    answers = [generator.integers(3, 50, size=length).tolist() for length in (3, 1, 4, 2)]

    def slow(prompt, answer):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        return sum(float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(answer))

    candidates = [[prompts[(n + step) % 4] for step in range(3)] for n in range(4)]
    expected = [float(np.argmax([slow(p, a) for p in own]) == 0) for own, a in zip(candidates, answers, strict=True)]
    assert retrieved(model, answers, candidates, token_budget=64).tolist() == expected
    assert set(expected) == {0.0, 1.0}
    same = [[prompts[0], prompts[0]]]  # a tie is no hit
    assert retrieved(model, answers[:1], same, token_budget=64).tolist() == [0.0]


def test_guessing_is_worth_nothing():
    for count in (2, 4, 7):
        hits = np.array([1.0] + [0.0] * (count - 1))
        assert chance_corrected(hits, count).mean() == pytest.approx(0.0)
        assert chance_corrected(np.ones(1), count) == pytest.approx(1.0)


def test_a_fact_counts_in_any_language_and_half_beside_others():
    named = [("hanoi", "en", "Hanoi"), ("hanoi", "vi", "Hà Nội"), ("paris", "en", "Paris"), ("paris", "vi", "Pa-ri")]
    knowledge = KnowledgeBase(
        {"subject": "capital", "answer_key": key, "language": k, "names": [name]} for key, k, name in named
    )
    asked = {"subject": "capital", "answer_key": "hanoi", "language": "en"}
    texts = ["It is Hanoi.", "Đó là Hà Nội.", "Hanoi or Paris", "Paris", ""]
    assert [fact_value(knowledge, text, asked) for text in texts] == [1.0, 1.0, 0.5, 0.0, 0.0]
