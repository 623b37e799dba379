import numpy as np
import pandas as pd
import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.relevance import document_relevance
from crane_run.inspect import Neuron, read_documents, read_sentence, top_documents, top_pieces
from crane_run.inspect.texts import read_texts
from crane_study.data.corpora import token_ids
from crane_study.profile import Relevance

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


def test_pieces_add_up_to_the_document(readings):
    for reading in readings:
        assert sum(piece.relevance for piece in reading.pieces) == pytest.approx(reading.relevance, abs=1e-5)
        assert sum(piece.tokens for piece in reading.pieces) == reading.tokens


def test_the_activation_is_what_enters_down_proj(run):
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
    reading = read_sentence(run, NEURON, "en", text)
    values = [piece.activation for piece in reading.pieces]
    assert len(values) == ids.shape[1]  # plain letters: a token a piece
    np.testing.assert_allclose(values, seen[0][0, :, 7].numpy(), rtol=1e-5, atol=1e-7)


def test_a_sentence_of_ones_own_is_read_as_the_engine_reads_it(run):
    model, tokenizer = run.model("base")
    text = "Ở thị trấn"
    ids = torch.from_numpy(token_ids([text], tokenizer, max_length=96)[0])[None]
    whole = document_relevance(model, ids)
    assert read_sentence(run, NEURON, "vi", f"  {text}\n").relevance == pytest.approx(
        float(whole.neuron[0, 1, 7]), rel=1e-4
    )


def test_a_long_text_is_cut_and_says_so(run):
    reading = read_sentence(run, NEURON, "en", "mills and bridges, " * 80)
    assert reading.tokens == 96
    assert reading.pieces[-1].text == " …"


def test_an_empty_text(run):
    with pytest.raises(CraneError, match="no text has two tokens or more"):
        read_sentence(run, NEURON, "vi", "  ")


def test_a_tokenizer_without_offsets(run):
    class Slow:
        is_fast = False

    with pytest.raises(CraneError, match="use its fast form"):
        read_texts(None, Slow(), pd.Series(["a"]), neuron=(0, 0), language="en", objective="", options=Relevance())


def test_the_top_documents_have_the_largest_contributions(readings):
    top = top_documents(readings, count=3)
    values = sorted((reading.relevance for reading in readings), reverse=True)
    assert [reading.relevance for reading in top] == values[:3]


def test_top_pieces_are_sums_over_all_texts(readings):
    table = top_pieces(readings, count=1000)
    total = sum(reading.relevance for reading in readings)
    assert table["relevance"].sum() == pytest.approx(total, rel=1e-4)
    assert table["relevance"].is_monotonic_decreasing
    bridges = table.set_index("piece").loc["<|begin|>"]
    assert bridges["times"] == len(readings)
