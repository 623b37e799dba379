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
    # 1 for the four letters, 1 and 2 for answers of one token and two; then for the two answers after one prompt 1 for
    # the first token of both, and 1 and 2 for their later ones
    assert seen == [(1 + 1 + 2,), (1,), (1 + 2,)]
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


def test_inputs_that_are_too_long_lose_their_beginning():
    model = small_model(VOCABULARY)
    requests = Requests(PAIRS, batch_size=2, max_length=5)
    assert requests.cut == 1
    (context, continuation) = PAIRS[-1]
    expected = slow_log_likelihood(model, context[2:], continuation)
    assert requests.log_likelihoods(model)[-1] == pytest.approx(expected, rel=1e-5)
