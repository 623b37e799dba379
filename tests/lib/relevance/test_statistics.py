import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from crane_lib.errors import CraneError
from crane_lib.relevance import SCHEMA, SITES, Moments, Statistics
from crane_lib.relevance.statistics import NO_CORPUS, corpus_fingerprint, read_header

PROVENANCE = {"model": "0123", "rule": "attnlrp", "objective": "gold_logit", "dtype": "float32", "max_length": "16"}


UNGATED = ("neuron", "abs_neuron", "up", "down")


def some_statistics(values, *, sites=SITES, **changes):
    """Statistics of B documents whose values at every site are `values` (B, 2, 3)."""
    return Statistics(
        {site: Moments.of(values) for site in sites},
        (values > 0).sum(0),
        tokens=10 * len(values),
        provenance=PROVENANCE | changes,
        labels={"l": "vi"},
        corpus=corpus_fingerprint(document.flatten().long().numpy() for document in values),
    )


def test_a_file_gives_back_what_was_saved(tmp_path):
    statistics = some_statistics(torch.randn(6, 2, 3))
    statistics.save(tmp_path / "vi.safetensors")
    read = Statistics.load(tmp_path / "vi.safetensors")
    assert read.documents == 6
    assert read.tokens == 60
    assert (read.provenance, read.labels) == (statistics.provenance, {"l": "vi"})
    assert read.corpus == statistics.corpus != NO_CORPUS
    assert torch.equal(read.active, statistics.active)
    for site in SITES:
        assert torch.equal(read.moments[site].excess_kurtosis(), statistics.moments[site].excess_kurtosis())
        assert torch.equal(read.moments[site].mean_absolute, statistics.moments[site].mean_absolute)
        assert read.moments[site].m3.dtype == torch.float64


def test_equal_statistics_give_equal_bytes(tmp_path):
    statistics = some_statistics(torch.ones(2, 2, 3))
    for name in "abc":
        statistics.save(tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_merged_halves_are_the_whole():
    values = torch.randn(9, 2, 3)
    halves = some_statistics(values[:4])
    halves.merge(some_statistics(values[4:]))
    whole = some_statistics(values)
    assert (halves.documents, halves.tokens) == (9, 90)
    assert torch.equal(halves.active, whole.active)
    assert halves.corpus == whole.corpus
    torch.testing.assert_close(halves.moments["up"].m4, whole.moments["up"].m4)


def test_statistics_of_different_origin_do_not_merge():
    with pytest.raises(CraneError, match=r"rule 'attnlrp' and 'gradient'$"):
        some_statistics(torch.randn(2, 2, 3)).merge(some_statistics(torch.randn(2, 2, 3), rule="gradient"))


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(CraneError, match="no such file"):
        Statistics.load(path)
    path.write_bytes(b"not a tensor file at all")
    with pytest.raises(CraneError, match="not a readable safetensors file"):
        Statistics.load(path)
    for metadata in (None, {"crane": "{"}, {"crane": "[]"}, {"crane": '{"schema": "other/2"}'}):
        save_file({"active": torch.ones(2)}, path, metadata)
        with pytest.raises(CraneError, match=f"expected '{SCHEMA}' .not a file of statistics."):
            Statistics.load(path)


def test_a_file_of_an_older_version_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"active": torch.ones(2)}, path, {"crane": '{"schema": "crane.statistics/1"}'})
    for read in (Statistics.load, read_header):
        with pytest.raises(CraneError) as error:
            read(path)
        assert str(error.value) == (
            f"{path}: its schema is 'crane.statistics/1', expected '{SCHEMA}' (of an older version); make it again"
        )


def test_a_site_that_every_model_has_may_not_be_missing(tmp_path):
    path = tmp_path / "x.safetensors"
    statistics = some_statistics(torch.randn(2, 2, 3))
    del statistics.moments["up"]
    statistics.save(path)
    with pytest.raises(CraneError, match=r"has the sites \['neuron', 'abs_neuron', 'gate', 'down'\]"):
        Statistics.load(path)


def test_a_file_with_a_tensor_missing_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    header = {"schema": SCHEMA, "sites": list(UNGATED)}
    save_file({"active": torch.ones(2)}, path, {"crane": json.dumps(header)})
    with pytest.raises(CraneError, match=r"up\.m2"):
        Statistics.load(path)


def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    some_statistics(torch.randn(2, 2, 3)).save(path)
    path.write_bytes(path.read_bytes()[:-8])
    for read in (Statistics.load, read_header):
        with pytest.raises(CraneError, match="not a readable safetensors file"):
            read(path)


def test_models_without_a_gate_have_no_gate_in_the_file(tmp_path):
    statistics = some_statistics(torch.randn(4, 2, 3), sites=UNGATED)
    statistics.save(tmp_path / "x")
    assert list(Statistics.load(tmp_path / "x").moments) == list(UNGATED)
    assert read_header(tmp_path / "x")["sites"] == list(UNGATED)
    with pytest.raises(CraneError, match="cannot be merged with"):
        statistics.merge(some_statistics(torch.randn(2, 2, 3)))


def test_the_header_tells_what_the_file_holds(tmp_path):
    statistics = some_statistics(torch.randn(4, 2, 3))
    statistics.save(tmp_path / "x")
    assert read_header(tmp_path / "x") == {
        "schema": SCHEMA,
        "sites": list(SITES),
        "documents": 4,
        "tokens": 40,
        "corpus": statistics.corpus,
        "provenance": PROVENANCE,
        "labels": {"l": "vi"},
    }


texts = st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=6), max_size=8)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(texts, st.integers(0, 8), st.randoms(use_true_random=False))
def test_a_corpus_is_told_by_its_documents_in_any_order(documents, cut, random):
    whole = corpus_fingerprint(map(np.array, documents))
    shuffled = random.sample(documents, len(documents))
    assert corpus_fingerprint(np.array(document, dtype=np.int32) for document in shuffled) == whole
    first, second = (corpus_fingerprint(map(np.array, part)) for part in (shuffled[:cut], shuffled[cut:]))
    assert f"{(int(first, 16) + int(second, 16)) % 2**128:032x}" == whole
    assert corpus_fingerprint(map(np.array, [*documents, [1]])) != whole
    assert corpus_fingerprint([np.array([1, 2])]) != corpus_fingerprint([np.array([1]), np.array([2])])
