"""Bins: a cap and a quantile from a histogram are those of the values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expnb.stats.bins import LOG_BASE, OFFSET, Bins, edge_above, edges

QS = (0.07, 0.25, 0.5, 0.9, 0.99)


def bins_of(values, cell=None, shift=0.0):
    """The histogram of some values, entry by entry, as the statement makes it."""
    values = np.asarray(values, dtype=float)
    cell = np.zeros(values.size, dtype=np.int64) if cell is None else np.asarray(cell)
    size = np.array([math.floor(math.log(abs(v)) / LOG_BASE) + OFFSET if v else 0 for v in values], dtype=np.int64)
    gap = values - shift
    return Bins(cell, np.where(values < 0, -size, size), np.ones_like(cell), gap, gap * gap).merged()


def heavy(n, seed=3):
    """Values of which 99 % are 0 and the rest have a long tail."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.01, rng.lognormal(3, 1.5, n), 0.0)


@given(st.floats(1e-12, 1e12))
def test_a_value_lies_between_the_edges_of_its_bin(value):
    bins = bins_of([value])
    (low,), (high,) = edges(bins.bin)
    assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9)
    assert high / low == pytest.approx(1.02)
    assert value * (1 - 1e-8) <= edge_above(value) <= 1.02 * value * (1 + 1e-8)


@pytest.mark.parametrize("shift", [0.0, 3.7, 250.0])
@pytest.mark.parametrize("cap", [0.5, 1.0, 20.0, 300.0])
def test_a_cap_at_an_edge_is_that_of_numpy(cap, shift):
    rng = np.random.default_rng(1)
    values = np.concatenate([heavy(20_000), rng.normal(0, 5, 5_000), -rng.lognormal(2, 1, 500)])
    cell = np.arange(values.size) % 3
    edge = edge_above(cap)
    s1, s2 = bins_of(values, cell, shift).capped(edge, shift, 3)
    for number in range(3):
        wanted = np.minimum(values[cell == number], edge) - shift
        assert s1[number] == pytest.approx(math.fsum(wanted), rel=1e-12)
        assert s2[number] == pytest.approx(math.fsum(wanted**2), rel=1e-12)


def test_a_cap_is_of_positive_values_so_that_zeros_do_not_make_it_0():
    values = heavy(50_000)
    cap, positive = bins_of(values).cap_at(0.95), np.sort(values[values > 0])
    assert cap > 0
    assert np.mean(positive <= cap) >= 0.95
    assert np.mean(positive <= cap / 1.02) < 0.951
    assert cap == pytest.approx(np.quantile(positive, 0.95), rel=0.03)


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("shift", [0.0, 17.3, -400.0])
def test_a_quantile_is_that_of_numpy_within_one_percent(q, shift):
    values = np.random.default_rng(4).lognormal(4, 1, 20_001)
    assert bins_of(values, shift=shift).quantile(q, shift)[0] == pytest.approx(np.quantile(values, q), rel=0.01)


@pytest.mark.parametrize("q", QS)
def test_a_quantile_of_negative_and_positive_values_keeps_their_order(q):
    values = np.random.default_rng(5).normal(-1, 10, 20_001)
    found = bins_of(values, shift=-1.0).quantile(q, -1.0)[0]
    assert found == pytest.approx(np.quantile(values, q), rel=0.01, abs=0.05)


@pytest.mark.parametrize("shift", [0.0, 7.3125, 7.31])
@given(values=st.lists(st.integers(0, 50), min_size=1, max_size=200), q=st.sampled_from(QS))
def test_a_quantile_of_whole_numbers_up_to_50_is_exact(values, q, shift):
    found = bins_of(values, shift=shift).quantile(q, shift)[0]
    assert found == pytest.approx(np.quantile(values, q, method="inverted_cdf"), abs=1e-9)


def test_a_quantile_of_prices_that_many_units_share_is_that_price():
    values = np.array([9.99] * 500 + [19.99] * 300 + [99.99] * 200)
    for q, price in ((0.25, 9.99), (0.7, 19.99), (0.9, 99.99)):
        assert bins_of(values, shift=28.3).quantile(q, 28.3)[0] == pytest.approx(price, rel=1e-9)


@pytest.mark.parametrize("q", [0.5, 0.9, 0.95])
def test_the_error_of_a_quantile_is_that_of_a_bootstrap(q):
    rng = np.random.default_rng(6)
    values = rng.lognormal(3, 0.8, 4_000)
    drawn = [np.quantile(rng.choice(values, values.size), q) for _ in range(400)]
    assert bins_of(values).quantile(q, 0.0)[1] == pytest.approx(np.std(drawn), rel=0.2)


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(-1e3, 1e3)), min_size=1, max_size=40), st.integers(0, 40))
def test_bins_of_parts_add_up_to_those_of_the_whole(rows, cut):
    cell, values = (list(part) for part in zip(*rows, strict=True))
    cut = min(cut, len(rows))
    parts = bins_of(values[:cut], np.array(cell[:cut], dtype=np.int64)) + bins_of(
        values[cut:], np.array(cell[cut:], dtype=np.int64)
    )
    whole, together = bins_of(values, np.array(cell)), parts.merged()
    for name in ("cell", "bin", "n"):
        assert getattr(together, name).tolist() == getattr(whole, name).tolist()
    np.testing.assert_allclose(together.s1, whole.s1, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(together.s2, whole.s2, rtol=1e-12, atol=1e-6)


def test_another_shift_changes_neither_a_cap_nor_a_quantile():
    values = np.random.default_rng(7).lognormal(2, 1, 3_000)
    first = bins_of(values, shift=5.0)
    moved = first.reshift(5.0 - 11.0)
    assert moved.quantile(0.8, 11.0)[0] == pytest.approx(first.quantile(0.8, 5.0)[0], rel=1e-9)
    assert moved.capped(edge_above(9.0), 11.0, 1)[0] + 11.0 * 3_000 == pytest.approx(
        first.capped(edge_above(9.0), 5.0, 1)[0] + 5.0 * 3_000, rel=1e-12
    )
