import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from crane_lib.errors import CraneError
from crane_lib.relevance import Moments


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


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_few_documents_as_scipy_has_them(count):
    values = np.random.default_rng(0).normal(size=(count, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = stats.kurtosis(values, axis=0, bias=False)
    np.testing.assert_allclose(Moments.of(torch.from_numpy(values)).excess_kurtosis(), expected, rtol=1e-8, atol=1e-8)


def test_constant_units_have_no_kurtosis():
    values = torch.tensor([[0.0, 0.1, 1.0], [0.0, 0.1, 2.0]] * 10, dtype=torch.float64)
    moments = Moments((3,))
    for value in values:
        moments.update(value[None])
    assert moments.excess_kurtosis().isnan().tolist() == [True, True, False]
    assert Moments((2,)).excess_kurtosis().isnan().all()
    assert Moments((2,)).variance().isnan().all()


def test_float32_batches_are_taken_in_float64_and_shapes_are_kept():
    moments = Moments((2, 3))
    moments.update(torch.randn(5, 2, 3, dtype=torch.float32))
    assert moments.shape == (2, 3)
    assert moments.m4.dtype == torch.float64


def test_other_units_are_refused():
    with pytest.raises(CraneError, match=r"\(2, 3\).*\(2, 4\)"):
        Moments((2, 3)).merge(Moments((2, 4)))


def test_merging_leaves_the_other_as_it_was():
    a, b = Moments.of(torch.randn(3, 4)), Moments.of(torch.randn(5, 4))
    before = b.m4.clone()
    a.merge(b)
    a.update(torch.randn(2, 4))
    assert torch.equal(b.m4, before)
    assert b.count == 5
