import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from crane_lib.errors import CraneError
from crane_lib.relevance import SCHEMA, SITES, Moments, Statistics
from crane_lib.relevance.statistics import NO_CORPUS, SUMS, corpus_fingerprint, read_header

PROVENANCE = {"model": "0123", "rule": "attnlrp", "objective": "gold_logit", "dtype": "float32", "max_length": "16"}
PROVENANCE["skip_first_tokens"] = "0"


UNGATED = ("neuron", "abs_neuron", "up", "down", "head", "abs_head", "head_magnitude")


def some_statistics(values, *, sites=SITES, **changes):
    """Statistics of B documents whose values at every site are `values` (B, 2, 3)."""
    return Statistics(
        {site: Moments.of(values) for site in sites},
        (values > 0).sum(0),
        values.double().abs().sum(0),
        norms=torch.arange(6.0).view(2, 3),
        head_norms=torch.arange(6.0).view(2, 3),
        tokens=10 * len(values),
        provenance=PROVENANCE | changes,
        labels={"l": "vi"},
        corpus=corpus_fingerprint(document.flatten().long().numpy() for document in values),
    )


def test_a_file_gives_back_what_was_saved(tmp_path):
    statistics = some_statistics(torch.randn(6, 2, 3))
    for name in "abc":
        statistics.save(tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    read = Statistics.load(tmp_path / "a")
    assert (read.documents, read.tokens) == (6, 60)
    assert (read.provenance, read.labels) == (statistics.provenance, {"l": "vi"})
    assert read.corpus == statistics.corpus != NO_CORPUS
    for name in SUMS:
        assert torch.equal(getattr(read, name), getattr(statistics, name))
    for site in SITES:
        assert torch.equal(read.moments[site].excess_kurtosis(), statistics.moments[site].excess_kurtosis())
        assert torch.equal(read.moments[site].mean_absolute, statistics.moments[site].mean_absolute)
        assert read.moments[site].m3.dtype == torch.float64
    counts = {"documents": 6, "tokens": 60, "corpus": statistics.corpus}
    labels = {"provenance": PROVENANCE, "labels": {"l": "vi"}}
    header = read_header(tmp_path / "a")
    assert len(header.pop("sha256")) == 64
    assert header == {"schema": SCHEMA, "sites": list(SITES), **counts, **labels}


def test_merged_halves_are_the_whole_if_they_are_of_the_same_origin():
    values = torch.randn(9, 2, 3)
    halves, whole = some_statistics(values[:4]), some_statistics(values)
    halves.merge(some_statistics(values[4:]))
    assert (halves.documents, halves.tokens) == (9, 90)
    assert torch.equal(halves.active, whole.active)
    torch.testing.assert_close(halves.magnitude, whole.magnitude)
    assert torch.equal(halves.norms, whole.norms)
    assert halves.corpus == whole.corpus
    torch.testing.assert_close(halves.moments["up"].m4, whole.moments["up"].m4)
    with pytest.raises(CraneError, match=r"rule 'attnlrp' and 'gradient'$"):
        whole.merge(some_statistics(values, rule="gradient"))


def test_foreign_older_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    both = (Statistics.load, read_header)

    def refused(words, *readers):
        for read in readers:
            with pytest.raises(CraneError, match=words):
                read(path)

    refused("no such file", *both)
    path.write_bytes(b"not a tensor file at all")
    refused("not a readable safetensors file", *both)
    for metadata in (None, {"crane": "{"}, {"crane": "[]"}, {"crane": '{"schema": "other/2"}'}):
        save_file({"active": torch.ones(2)}, path, metadata)
        refused(f"expected '{SCHEMA}' .not a file of statistics.", *both)
    save_file({"active": torch.ones(2)}, path, {"crane": '{"schema": "crane.statistics/3"}'})  # without heads
    older = f"{path}: its schema is 'crane.statistics/3', expected '{SCHEMA}' (of an older version); make it again"
    refused(f"^{re.escape(older)}$", *both)
    header = {"schema": SCHEMA, "sites": list(UNGATED)}
    save_file({"active": torch.ones(2)}, path, {"crane": json.dumps(header)})
    refused(r"up\.m2", Statistics.load)
    statistics = some_statistics(torch.randn(2, 2, 3))
    statistics.save(path)
    path.write_bytes(path.read_bytes()[:-8])
    refused("not a readable safetensors file", *both)
    statistics.save(path)
    whole = path.read_bytes()
    count = re.search(rb"documents[^0-9]*([0-9])", whole).start(1)
    for place in (count, 3 * len(whole) // 4, len(whole) - 1):  # the number of documents, and two values
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        refused("was changed after it was written; remove it and make it again", Statistics.load)
    del statistics.moments["up"]  # a site that every model has
    statistics.save(path)
    refused(r"has the sites \['neuron', 'abs_neuron', 'gate', 'down', 'head'", Statistics.load)


def test_models_without_a_gate_have_no_gate_in_the_file(tmp_path):
    statistics = some_statistics(torch.randn(4, 2, 3), sites=UNGATED)
    statistics.save(tmp_path / "x")
    assert list(Statistics.load(tmp_path / "x").moments) == list(UNGATED)
    assert read_header(tmp_path / "x")["sites"] == list(UNGATED)
    with pytest.raises(CraneError, match="cannot be merged with"):
        statistics.merge(some_statistics(torch.randn(2, 2, 3)))


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
