"""Log-likelihoods of continuations, compared with one forward pass per token."""

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from crane_study.measure.likelihoods import Requests
from tests.lib.relevance.tiny import FAMILY_KINDS, tiny_model
from tests.small import small_model

VOCABULARY = 50
# Letters after one prompt, answers of several tokens (two with the same beginning), and prompts of other lengths.
PAIRS = [
    *(([3, 17, 5, 29], [letter]) for letter in (6, 7, 8, 9)),
    ([3, 17, 5], [11, 12]),
    ([3, 17, 5], [11, 40, 2]),
    ([8], [30]),
    ([8, 41, 9, 23, 44, 10], [31, 4]),
]


def capped_model():
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "head_dim": 8}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Gemma2Config(**sizes, **heads, final_logit_softcapping=2.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma2ForCausalLM(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def slow_log_likelihood(model, context, continuation):
    total = 0.0
    for place, token in enumerate(continuation):
        logits = model(torch.tensor([context + continuation[:place]])).logits[0, -1].double()
        total += float(logits.log_softmax(-1)[token])
    return total


@pytest.mark.parametrize("make", [lambda: small_model(VOCABULARY), capped_model])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_log_likelihoods_are_those_of_single_passes(make, batch_size):
    model = make()
    found = Requests(PAIRS, batch_size=batch_size, max_length=20).log_likelihoods(model)
    expected = [slow_log_likelihood(model, *pair) for pair in PAIRS]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert len(set(expected)) == len(PAIRS)


def test_logits_are_computed_once_per_needed_position():
    model, seen = small_model(VOCABULARY), []
    handle = model.get_output_embeddings().register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[:-1]))
    requests = Requests(PAIRS, batch_size=64, max_length=20)
    for _batch, logits in requests.forward(model):
        assert logits.shape[1:] == (VOCABULARY,)
    handle.remove()
    # 1 and 2 for answers of one token and two; then for the two answers after one prompt 1 for the first token of both,
    # 1 and 2 for their later ones, and 1 for the four letters, whose prompt begins with the other
    assert seen == [(1 + 2,), (1,), (1 + 2 + 1,)]
    # A shared prompt is computed once.
    seen.clear()
    handle = model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: seen.append(tuple(args[0].shape)))
    pairs = [(prompt, answer) for prompt in ([3, 17, 5, 29], [9, 8, 7, 6]) for answer in ([11, 12], [11, 40, 2], [7])]
    Requests(pairs, batch_size=64, max_length=20).log_likelihoods(model)
    handle.remove()
    assert seen == [(2, 4), (4, 2)]


@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_answers_that_share_a_prompt_are_scored_as_if_alone(kind):
    """Also if layers see a window shorter than the prompt."""
    model = tiny_model(kind)
    prompts = [[3, 17, 5, 29, 11, 8, 40], [9, 9, 2, 31, 7, 6, 21], [4, 13, 22]]
    answers = [[11, 12], [11, 40, 2], [7], [40, 2, 2, 19, 30]]
    pairs = [(prompt, answer) for prompt in prompts for answer in answers]
    found = Requests(pairs, batch_size=64, max_length=60).log_likelihoods(model)
    np.testing.assert_allclose(found, [slow_log_likelihood(model, *pair) for pair in pairs], rtol=1e-5)


PARAGRAPH = [3, 17, 5, 29, 11, 8, 40, 9, 9, 2, 31, 7]
SHARING = [
    (PARAGRAPH + question, answer)
    for question in ([6, 21], [13], [], [22, 4, 30])
    for answer in ([11, 12], [11, 40, 2], [7])
] + [([8, 41, 9], [30, 4]), ([8, 41, 9], [7, 2])]


@pytest.mark.parametrize("kind", FAMILY_KINDS)
@pytest.mark.parametrize("batch_size", [3, 64])
def test_questions_about_a_paragraph_are_scored_as_if_alone(kind, batch_size):
    """Also if one prompt is the beginning of the others, and if layers see a window shorter than the paragraph."""
    model = tiny_model(kind)
    found = Requests(SHARING, batch_size=batch_size, max_length=60).log_likelihoods(model)
    np.testing.assert_allclose(found, [slow_log_likelihood(model, *pair) for pair in SHARING], rtol=1e-5)


def passes_over(model, pairs, **options):
    """Shapes of the inputs of the forward passes."""
    seen = []
    handle = model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: seen.append(tuple(args[0].shape)))
    Requests(pairs, **options).log_likelihoods(model)
    handle.remove()
    return seen


def test_a_paragraph_is_computed_once_where_that_saves_tokens():
    model = small_model(VOCABULARY)
    about = [(PARAGRAPH + question, [letter]) for question in ([6, 21], [13, 4], [22, 7]) for letter in (30, 31)]
    assert passes_over(model, about, batch_size=64, max_length=60) == [(1, 12), (3, 2)]
    # at most two prompts at once
    assert passes_over(model, about, batch_size=2, max_length=60) == [(1, 14), (1, 12), (2, 2)]
    # a beginning of which little is common, and inputs that lose theirs
    assert passes_over(model, [([3, 5, 6, 8], [9]), ([3, 4, 7, 2], [9])], batch_size=64, max_length=60) == [(2, 4)]
    assert passes_over(model, about, batch_size=64, max_length=13) == [(3, 13)]


def test_inputs_that_are_too_long_lose_their_beginning():
    model = small_model(VOCABULARY)
    requests = Requests(PAIRS, batch_size=2, max_length=5)
    assert requests.cut == 1
    (context, continuation) = PAIRS[-1]
    expected = slow_log_likelihood(model, context[2:], continuation)
    assert requests.log_likelihoods(model)[-1] == pytest.approx(expected, rel=1e-5)
