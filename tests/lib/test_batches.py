"""Batches of documents whose rotary frequencies may depend on the longest: each document is as by itself."""

from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from crane_lib.ablation import ablation_effects
from crane_lib.batches import pad_batch, rope_section, token_batches
from crane_lib.errors import CraneError
from crane_lib.nll import document_nll
from crane_lib.precision import compute_in_double
from crane_lib.relevance import SITES, Moments, document_relevance, stream_statistics
from crane_lib.relevance.modules import parts_of
from crane_study.measure.generation import answer_nll, greedy_answers
from crane_study.measure.likelihoods import Requests
from crane_study.steps.activations import document_activations
from crane_study.steps.gates import gate_slopes
from tests.lib.relevance.tiny import documents, tiny_model
from tests.small import small_tokenizer

TRAINED = 16  # tokens of the longest text in training: some of the documents are longer, some as long, some shorter
MOST = 64
LONGROPE = {"short_factor": [1.0, 1.5], "long_factor": [2.0, 9.0], "original_max_position_embeddings": TRAINED}
ROPES = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": TRAINED},
    "longrope": LONGROPE,
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": TRAINED,
    },
    "proportional": {"partial_rotary_factor": 0.5},
}
LENGTHS = [40, 17, 16, 9, 15, 33, 3, 16]
CORPUS = [row.tolist() for row in documents(LENGTHS)]
PAIRS = [  # a prompt and its answer: below the switch, over it on the way, and above it
    *((CORPUS[3], answer) for answer in ([5], [6, 7], CORPUS[1], CORPUS[2][:7])),
    *((CORPUS[0], answer) for answer in ([5], [6, 7], [6, 8, 9])),
    ([2], [3, 4]),
]


def model_of(rope, kind="llama"):
    """A model whose rotary frequencies are of a type; every type changes the numbers of some document."""
    settings = {"rope_type": rope, "rope_theta": 100.0, **ROPES[rope]}
    extra = {"partial_rotary_factor": 1.0, "original_max_position_embeddings": TRAINED} if kind == "phi3" else {}
    model = tiny_model(kind, rope_parameters=settings, max_position_embeddings=MOST, **extra)
    compute_in_double(model)
    return model


def logits_of(make, ids):
    """Logarithms of the probabilities after each token, by a model that has read nothing before.  (T, V)"""
    with torch.no_grad():
        return make()(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


def slow_log_likelihood(make, context, answer):
    found = logits_of(make, context + answer)
    return sum(float(found[len(context) + place - 1, token]) for place, token in enumerate(answer))


MAKERS = [partial(model_of, rope) for rope in ROPES] + [partial(model_of, "longrope", "phi3")]
every_rope = pytest.mark.parametrize("make", MAKERS, ids=[*ROPES, "longrope, phi3"])


def test_every_rope_type_is_looked_at():
    assert set(ROPES) == {"default", *ROPE_INIT_FUNCTIONS}


@every_rope
def test_a_document_in_a_batch_is_the_document_by_itself(make):
    model = make()
    expected = [-slow_log_likelihood(make, ids[:1], ids[1:]) for ids in CORPUS]
    for budget in (1, 60, 10_000):
        np.testing.assert_allclose(document_nll(model, CORPUS, token_budget=budget)[0], expected, rtol=1e-12)
    single = [document_relevance(make(), torch.tensor([ids])) for ids in CORPUS]
    seen = stream_statistics(model, CORPUS, token_budget=10_000)
    for site in SITES:
        moments = Moments.of(torch.cat([found.sites[site] for found in single]))
        torch.testing.assert_close(seen.moments[site].mean, moments.mean, rtol=1e-10, atol=1e-12)
    few = CORPUS[1:4]
    effects = ablation_effects(model, few, token_budget=10_000)
    for index, document in enumerate(few):
        own = ablation_effects(make(), [document], token_budget=10_000)[0]
        np.testing.assert_allclose(effects[index], own, rtol=1e-9, atol=1e-11)


@every_rope
def test_answers_are_scored_as_by_themselves(make):
    model = make()
    expected = [slow_log_likelihood(make, context, answer) for context, answer in PAIRS]
    for size in (1, 3, 64):
        requests = Requests(PAIRS, batch_size=size, max_length=MOST, section=rope_section(model))
        np.testing.assert_allclose(requests.log_likelihoods(model), expected, rtol=1e-12)
    np.testing.assert_allclose(-answer_nll(model, *zip(*PAIRS, strict=True)), expected, rtol=1e-12)


@every_rope
def test_answers_are_generated_as_by_a_loop_without_a_cache(make):
    found = greedy_answers(make(), small_tokenizer(), CORPUS, max_new_tokens=9, repetition_penalty=1.0)
    for prompt, answer in zip(CORPUS, found, strict=True):
        ids = list(prompt)
        while len(ids) < len(prompt) + len(answer.ids):
            ids.append(int(logits_of(make, ids)[-1].argmax()))
        assert answer.ids == tuple(ids[len(prompt) :])


def test_sections_by_rope_type():
    switching = [rope for rope in ROPES if rope_section(model_of(rope))(TRAINED) != rope_section(model_of(rope))(17)]
    assert switching == ["longrope"]
    section = rope_section(model_of("longrope"))
    assert [section(length) for length in (1, TRAINED, TRAINED + 1, MOST)] == [0, 0, 1, 1]
    batches = token_batches(LENGTHS, token_budget=10_000, section=section)
    assert [[LENGTHS[index] for index in batch] for batch in batches] == [[3, 9, 15, 16, 16], [17, 33, 40]]
    by_layer_type = {"full_attention": {"rope_type": "longrope", **LONGROPE}, "sliding_attention": None}
    model = tiny_model()
    model.config.rope_parameters = by_layer_type
    assert [rope_section(model)(length) for length in (TRAINED, TRAINED + 1)] == [0, 1]
    with pytest.raises(CraneError, match=r"may have 65 tokens, but above 64 .*\(rope type dynamic\) depend on"):
        greedy_answers(model_of("dynamic"), small_tokenizer(), [CORPUS[0]], max_new_tokens=26)


def test_documents_that_would_change_one_another_are_refused_in_one_pass():
    model = model_of("longrope")
    with pytest.raises(CraneError, match=r"a document of 16 tokens in a batch 40 wide .* use stream_statistics"):
        document_relevance(model, *pad_batch([CORPUS[0], CORPUS[2]]))
    document_relevance(model, *pad_batch([CORPUS[0], CORPUS[1]]))
    ids, mask = pad_batch([CORPUS[2], CORPUS[3]])
    wide = torch.nn.functional.pad(ids, (0, 1)), torch.nn.functional.pad(mask, (0, 1))
    with pytest.raises(CraneError, match=r"a document of 16 tokens in a batch 17 wide"):
        document_relevance(model, *wide)


MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
]


@contextmanager
def memory_for(model, tokens, error):
    """Let passes over more than so many tokens fail, pads and copies included; gives the sizes of all passes."""
    sizes = []

    def check(_module, _args, given):
        states = given.get("input_ids") if given.get("inputs_embeds") is None else given["inputs_embeds"][..., 0]
        sizes.append(states.numel())
        if states.numel() > tokens:
            raise error

    handle = model.base_model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()


ANSWERS = [(ids[:1], ids[1:]) for ids in CORPUS]


def answered(model, budget):
    """Tokens of greedy answers, -1 after their ends; batches of a tenth of the budget."""
    given = {"max_new_tokens": 5, "batch_size": max(1, budget // 10)}
    rows = np.full((len(CORPUS), 5), -1)
    for row, answer in enumerate(greedy_answers(model, small_tokenizer(), CORPUS, **given)):
        rows[row, : len(answer.ids)] = answer.ids
    return rows


def scored(model, budget):
    requests = Requests(ANSWERS, batch_size=max(1, budget // 10), max_length=MOST)
    found = requests.log_likelihoods(model)
    np.testing.assert_allclose(requests.log_likelihoods(model), found, rtol=1e-12)  # batches stay as small as they are
    return found


def slopes(model, _budget):
    parts = parts_of(model)
    gates = torch.full((len(parts.layers), parts.widths["neuron"]), 0.7, dtype=torch.float64)
    nll, found = gate_slopes(model, CORPUS, gates)
    return [nll, *found.ravel()]


MEASURES = {
    "nll": lambda model, budget: document_nll(model, CORPUS, token_budget=budget)[0],
    "ablation": lambda model, budget: ablation_effects(model, CORPUS[3:7], token_budget=budget),
    "relevance": lambda model, budget: stream_statistics(model, CORPUS, token_budget=budget).moments["neuron"].mean,
    "activations": lambda model, budget: document_activations(model, CORPUS, token_budget=budget)["size"],
    "answers": answered,
    "nll of answers": lambda model, budget: answer_nll(model, *zip(*ANSWERS, strict=True), token_budget=budget),
    "questions": scored,
    "gates": slopes,
}


@pytest.mark.filterwarnings("ignore:memory ran out")
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=["cuda", "python", "cpu"])
def test_smaller_batches_have_the_same_numbers_when_memory_runs_out(measure, error):
    model, measured = tiny_model(), MEASURES[measure]
    compute_in_double(model)
    expected = np.asarray(measured(model, 60))
    with memory_for(model, 60, error) as sizes:
        found = np.asarray(measured(model, 1000))
        failed = sum(size > 60 for size in sizes)
    assert 1 <= failed <= 6  # about halved at each failure, and never raised again
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:memory ran out")
@pytest.mark.parametrize("measure", MEASURES)
def test_what_does_not_fit_alone_is_named_and_other_errors_pass(measure):
    model, measured = tiny_model(), MEASURES[measure]
    with (
        memory_for(model, 14, MEMORY_ERRORS[0]),
        pytest.raises(
            CraneError, match=r"(document \d|question \d|answer \d|answers): its \d+ tokens do not fit in memory; lower"
        ),
    ):
        measured(model, 1000)
    with memory_for(model, 14, RuntimeError("shapes differ")), pytest.raises(RuntimeError, match="shapes differ"):
        measured(model, 1000)
