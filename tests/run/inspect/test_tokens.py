import numpy as np
import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.relevance import document_relevance
from crane_run.inspect import Neuron, read_documents, read_sentence, top_documents, top_pieces
from crane_study.data.corpora import token_ids

NEURON = Neuron("base", 1, 7)


@pytest.fixture(scope="module")
def readings(run):
    return read_documents(run, NEURON, "vi", count=99)


def test_the_contributions_are_those_that_the_statistics_sum_up(run, readings):
    """All documents of the split: their mean is the mean that the run stored, their firing rate its firing rate."""
    statistics = run.statistics("base")["vi"]
    assert len(readings) == statistics.documents
    mean = np.mean([reading.relevance for reading in readings])
    assert mean == pytest.approx(float(statistics.moments["neuron"].mean[1, 7]), rel=1e-5)
    assert sum(reading.tokens for reading in readings) == statistics.tokens
    assert sum(reading.firing_tokens for reading in readings) == int(statistics.active[1, 7])
    for reading in readings:
        assert sum(piece.relevance for piece in reading.pieces) == pytest.approx(reading.relevance, abs=1e-5)
        assert sum(piece.tokens for piece in reading.pieces) == reading.tokens


def test_a_sentence_is_read_as_the_engine_reads_it(run):
    """Activations are what enters down_proj, the relevance of a text is its sum over tokens."""
    model, tokenizer = run.model("base")
    text = "The river runs past old mills."
    ids = torch.from_numpy(token_ids([text], tokenizer, max_length=96)[0])[None]
    seen = []
    hook = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    try:
        with torch.no_grad():
            model(input_ids=ids)
    finally:
        hook.remove()
    reading = read_sentence(run, NEURON, "en", f"  {text}\n")
    values = [piece.activation for piece in reading.pieces]
    assert len(values) == ids.shape[1]  # plain letters: one token per piece
    np.testing.assert_allclose(values, seen[0][0, :, 7].numpy(), rtol=1e-5, atol=1e-7)
    whole = document_relevance(model, ids)
    assert reading.relevance == pytest.approx(float(whole.neuron[0, 1, 7]), rel=1e-4)


def test_texts_that_are_too_long_or_too_short(run, monkeypatch):
    reading = read_sentence(run, NEURON, "en", "mills and bridges, " * 80)
    assert reading.tokens == 96
    assert reading.pieces[-1].text == " …"
    with pytest.raises(CraneError, match="no text has two tokens or more"):
        read_sentence(run, NEURON, "vi", "  ")
    _, tokenizer = run.model("base")
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(CraneError, match="use its fast form"):
        read_sentence(run, NEURON, "vi", "a b c")


def test_the_top_documents_and_pieces_have_the_largest_contributions(readings):
    values = sorted((reading.relevance for reading in readings), reverse=True)
    assert [reading.relevance for reading in top_documents(readings, count=3)] == values[:3]
    table = top_pieces(readings, count=1000)
    assert table["relevance"].sum() == pytest.approx(sum(values), rel=1e-4)
    assert table["relevance"].is_monotonic_decreasing
    assert table.set_index("piece").loc["<|begin|>", "times"] == len(readings)
