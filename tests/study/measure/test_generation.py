"""Greedy answers are those of a slow loop without batches, padding or cache."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from crane_lib.interventions import masked
from crane_lib.neurons import NeuronSet
from crane_lib.precision import compute_in_double
from crane_study.measure.generation import answer_nll, chat_prompt, end_tokens, greedy_answers
from crane_study.training import CHAT_TEMPLATE
from tests.lib.relevance.tiny import FAMILY_KINDS, tiny_model
from tests.small import small_model, small_tokenizer

QUESTIONS = [
    "How many mills?",
    "How many old mills are in town number 7, and where does the river run past?",
    "Thị trấn",
    "Ở thị trấn số 3, con sông chảy qua mấy cối xay cũ?",
    "town number 12 the river",
    "grey stone bridge",
]
PENALTY, LENGTH = 1.3, 24


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    """A random model that ends some answers and not others."""
    model = small_model(len(tokenizer), random_seed=3).double()
    with torch.no_grad():  # the end must be likely enough to occur, and its logit positive, so that a penalty lowers it
        model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 1.6
    return model


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [tokenizer(question)["input_ids"] for question in QUESTIONS]


def slow_answer(model, prompt, *, ends, penalty=PENALTY, length=LENGTH):
    ids = list(prompt)
    for _step in range(length):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].tolist()
        for token in set(ids):
            logits[token] = logits[token] * penalty if logits[token] < 0 else logits[token] / penalty
        ids.append(int(np.argmax(logits)))
        if ids[-1] in ends:
            break
    return tuple(ids[len(prompt) :])


def answers(model, tokenizer, prompts, **changes):
    options = {"max_new_tokens": LENGTH, "repetition_penalty": PENALTY, "batch_size": 64} | changes
    return greedy_answers(model, tokenizer, prompts, **options)


def slow_answers(model, tokenizer, prompts, **options):
    return [slow_answer(model, prompt, ends=end_tokens(model, tokenizer), **options) for prompt in prompts]


def test_a_batch_is_answered_as_by_the_slow_loop(model, tokenizer, prompts):
    found = answers(model, tokenizer, prompts)
    expected = slow_answers(model, tokenizer, prompts)
    assert [answer.ids for answer in found] == expected
    assert [answer.finished for answer in found] == [ids[-1] == tokenizer.eos_token_id for ids in expected]
    assert {answer.finished for answer in found} == {True, False}
    for size in (1, 2, 4):
        assert answers(model, tokenizer, prompts, batch_size=size) == found
    for answer in found:  # text is the answer without special tokens
        kept = [token for token in answer.ids if token not in tokenizer.all_special_ids]
        assert answer.text == tokenizer.decode(kept).strip()
        assert "<|end|>" not in answer.text
    plain = answers(model, tokenizer, prompts, repetition_penalty=1.0)
    assert [answer.ids for answer in plain] == slow_answers(model, tokenizer, prompts, penalty=1.0)
    assert plain != found
    nll = [slow_answer_nll(model, prompt, ids) for prompt, ids in zip(prompts, expected, strict=True)]
    for budget in (64, 4096):
        np.testing.assert_allclose(answer_nll(model, prompts, expected, token_budget=budget), nll, rtol=1e-5)


@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_every_family_answers_as_by_the_slow_loop(kind, tokenizer, prompts):
    model = tiny_model(kind, random_seed=1, vocab_size=len(tokenizer), max_position_embeddings=128)
    compute_in_double(model)  # as a model loaded in float64
    found = answers(model, tokenizer, prompts, max_new_tokens=8)
    assert [answer.ids for answer in found] == slow_answers(model, tokenizer, prompts, length=8)
    assert len({answer.ids for answer in found}) > 1
    given = [tuple(prompt[::-1]) for prompt in prompts]
    expected = [slow_answer_nll(model, prompt, ids) for prompt, ids in zip(prompts, given, strict=True)]
    np.testing.assert_allclose(answer_nll(model, prompts, given, token_budget=256), expected, rtol=1e-5)


def test_an_active_mask_changes_the_answers_and_leaves_the_model(model, tokenizer, prompts):
    before = answers(model, tokenizer, prompts)
    layers = [np.arange(0, 24, 2)] * 2
    neurons = NeuronSet({"neuron": layers}, {"neuron": 24, "gate": 24, "up": 24, "down": 16})
    with masked(model, neurons):
        found = answers(model, tokenizer, prompts)
        assert [answer.ids for answer in found] == slow_answers(model, tokenizer, prompts)
    assert found != before
    assert answers(model, tokenizer, prompts) == before


def test_of_the_models_own_settings_only_end_tokens_count(model, tokenizer, prompts, monkeypatch):
    before = answers(model, tokenizer, prompts)
    sampling = GenerationConfig(
        do_sample=True,
        temperature=3.0,
        repetition_penalty=1.7,
        min_new_tokens=9,
        eos_token_id=1,
        forced_bos_token_id=7,
        forced_eos_token_id=8,
        suppress_tokens=list(before[0].ids),
        bad_words_ids=[list(before[1].ids[:2])],
        num_beams=2,
    )
    monkeypatch.setattr(model, "generation_config", sampling)
    assert answers(model, tokenizer, prompts) == before
    assert model.generation_config is sampling
    with pytest.raises(ValueError):  # noqa: PT011 (whatever transformers says)
        answers(model, tokenizer, prompts, max_new_tokens=-1)
    assert model.generation_config is sampling
    first = before[1].ids[2]
    monkeypatch.setattr(model, "generation_config", GenerationConfig(eos_token_id=[first, tokenizer.eos_token_id]))
    assert end_tokens(model, tokenizer) == sorted({first, tokenizer.eos_token_id})
    found = answers(model, tokenizer, prompts)[1]
    assert (found.finished, found.ids[-1]) == (True, first)


def test_a_question_is_a_users_turn(tokenizer):
    bare = chat_prompt(tokenizer, "grey bridge")
    assert tokenizer.decode(bare) == "<|begin|>grey bridge"
    chat = small_tokenizer()
    chat.chat_template = CHAT_TEMPLATE
    assert chat.decode(chat_prompt(chat, "grey bridge")) == "<|begin|><|user|> grey bridge<|end|><|assistant|>"


def slow_answer_nll(model, prompt, ids):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
    return -sum(float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(ids))
