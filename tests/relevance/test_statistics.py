import pytest
import torch
from safetensors.torch import save_file

from crane_lib.errors import CraneError
from crane_lib.relevance import SCHEMA, SITES, Moments, Statistics

PROVENANCE = {"model": "0123", "rule": "attnlrp", "seed": "gold_logit", "dtype": "float32", "max_length": "16"}


def some_statistics(values, **changes):
    """Statistics of B documents whose values at every site are `values` (B, 2, 3)."""
    moments = {site: Moments.of(values) for site in SITES}
    active = (values > 0).sum(0)
    return Statistics(moments, active, tokens=10 * len(values), provenance=PROVENANCE | changes, labels={"l": "vi"})


def test_a_file_gives_back_what_was_saved(tmp_path):
    statistics = some_statistics(torch.randn(6, 2, 3))
    statistics.save(tmp_path / "vi.safetensors")
    read = Statistics.load(tmp_path / "vi.safetensors")
    assert read.documents == 6
    assert read.tokens == 60
    assert (read.provenance, read.labels) == (statistics.provenance, {"l": "vi"})
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
    for metadata in (None, {"crane": "{"}, {"crane": "[]"}, {"crane": '{"schema": "crane.statistics/0"}'}):
        save_file({"active": torch.ones(2)}, path, metadata)
        with pytest.raises(CraneError, match=SCHEMA):
            Statistics.load(path)


def test_a_file_with_a_tensor_missing_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    statistics = some_statistics(torch.randn(2, 2, 3))
    del statistics.moments["up"]
    statistics.save(path)
    with pytest.raises(CraneError, match=r"up\.m2"):
        Statistics.load(path)
