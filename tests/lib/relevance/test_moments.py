import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from crane_lib.errors import CraneError
from crane_lib.relevance import Moments
from crane_lib.relevance import moments as module
from crane_lib.relevance.moments import TENSORS


def close(a: Moments, b: Moments) -> None:
    assert a.count == b.count
    for name in ("mean", "m2", "m3", "m4", "mean_absolute"):
        x, y = getattr(a, name), getattr(b, name)
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9 * max(1.0, float(y.abs().max())))


samples = st.builds(
    lambda count, shift, scale, random_seed: (
        shift + scale * np.random.default_rng(random_seed).standard_gamma(0.5, size=(count, 7))
    ),
    st.integers(4, 60),
    st.floats(-20, 20),
    st.floats(0.01, 100),
    st.integers(0, 10_000),
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(samples, st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_streamed_moments_equal_scipy(values, sizes):
    moments, start = Moments((7,)), 0
    for size in sizes:
        moments.update(torch.from_numpy(values[start : start + size]))
        start += size
    moments.update(torch.from_numpy(values[start:]))  # may be empty
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-10)
    np.testing.assert_allclose(moments.mean_absolute, np.abs(values).mean(0), rtol=1e-10)
    np.testing.assert_allclose(moments.variance(), values.var(0, ddof=1), rtol=1e-9)
    expected = stats.kurtosis(values, axis=0, bias=False)
    np.testing.assert_allclose(moments.excess_kurtosis(), expected, rtol=1e-8, atol=1e-8)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(samples, st.integers(1, 5), st.randoms(use_true_random=False))
def test_pieces_merge_in_any_order(values, pieces, random):
    parts = [Moments.of(torch.from_numpy(part)) for part in np.array_split(values, pieces)]
    random.shuffle(parts)
    while len(parts) > 1:  # a random tree of merges
        one = parts.pop(random.randrange(len(parts)))
        parts[random.randrange(len(parts))].merge(one)
    close(parts[0], Moments.of(torch.from_numpy(values)))


def test_constant_units_have_no_kurtosis():
    values = torch.tensor([[0.0, 0.1, 1.0], [0.0, 0.1, 2.0]] * 10, dtype=torch.float64)
    moments = Moments((3,))
    for value in values:
        moments.update(value[None])
    assert moments.excess_kurtosis().isnan().tolist() == [True, True, False]
    assert Moments((2,)).excess_kurtosis().isnan().all()
    assert Moments((2,)).variance().isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_of_other_types_are_taken_in_float64_and_stay_as_they_are(dtype):
    batch = (10 + torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))).to(dtype)
    before, moments = batch.clone(), Moments((2, 3))
    moments.update(batch[:20])
    moments.update(batch[20:])
    assert torch.equal(batch, before)
    assert moments.shape == (2, 3)
    assert moments.m4.dtype == torch.float64
    expected = stats.kurtosis(batch.double().numpy(), axis=0, bias=False)
    np.testing.assert_allclose(moments.excess_kurtosis(), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.filterwarnings("ignore")  # of SciPy, about few values
@pytest.mark.parametrize(
    ("count", "mean"), [*((count, 0) for count in range(1, 6)), (400, 1e3), (400, 1e5), (400, 1e7)]
)
def test_few_documents_and_large_means_as_scipy_has_them(count, mean):
    values = mean + np.random.default_rng(2).standard_gamma(2.0, size=(count, 5))
    moments = Moments((5,))
    for batch in np.array_split(values, 23):
        moments.update(torch.from_numpy(batch))
    expected = stats.kurtosis(values, axis=0, bias=False)
    np.testing.assert_allclose(moments.excess_kurtosis(), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("values", [1, 8, 30, 64, 1000])
def test_the_size_of_the_chunks_does_not_matter_and_merging_leaves_the_other_as_it_was(values, monkeypatch):
    batches = torch.randn(3, 4, 5, 7, dtype=torch.float64)
    whole, parts = Moments((5, 7)), Moments((5, 7))
    for batch in batches:
        whole.update(batch)
    monkeypatch.setattr(module, "CHUNK_VALUES_CPU", values)
    for batch in batches:
        parts.update(batch)
    close(parts, whole)
    other = Moments.of(batches.flatten(0, 1))
    before = other.m4.clone()
    parts.merge(whole)
    whole.merge(other)
    close(parts, whole)
    whole.update(batches[0])
    assert torch.equal(other.m4, before)
    assert other.count == 12


class Largest(TorchDispatchMode):
    """Notes the largest storage, in bytes, that is made inside the block."""

    def __init__(self, *known):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in self.known:
            self.bytes = max(self.bytes, out.untyped_storage().nbytes())
        return out


def test_nothing_large_is_made_on_the_way():
    units = 1 << 19
    moments, other = Moments((units,)), Moments((units,))
    other.update(torch.randn(2, units))
    batch = torch.randn(2, units)
    with Largest(batch, *(getattr(m, name) for m in (moments, other) for name in TENSORS)) as largest:
        moments.update(batch)
        moments.update(batch)
        moments.merge(other)
    assert 0 < largest.bytes <= 8 * module.CHUNK_VALUES_CPU < 8 * units
    assert moments.count == 6


def test_other_units_are_refused():
    with pytest.raises(CraneError, match=r"\(2, 3\).*\(2, 4\)"):
        Moments((2, 3)).merge(Moments((2, 4)))
    with pytest.raises(CraneError, match=r"\(2, 3\).*batch of \(5, 3\)"):
        Moments((2, 3)).update(torch.zeros(5, 3))
