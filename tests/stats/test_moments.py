"""Moments add up."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expnb.stats.moments import EMPTY, Moments

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=30)


def moments(values):
    if not values:
        return EMPTY
    mean = math.fsum(values) / len(values)
    return Moments(len(values), mean, math.fsum((v - mean) ** 2 for v in values), min(values), max(values))


@given(VALUES, VALUES)
def test_moments_of_parts_add_up_to_the_whole(left, right):
    both, whole = moments(left) + moments(right), moments(left + right)
    assert both.n == whole.n
    if whole.n:
        assert both.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-6)
        assert both.m2 == pytest.approx(whole.m2, rel=1e-9, abs=1e-3)
        assert (both.low, both.high) == (whole.low, whole.high)


def test_variance_and_standard_error_match_numpy():
    values = [1.0, 4.0, 4.0, 9.5]
    assert moments(values).variance == pytest.approx(np.var(values, ddof=1))
    assert moments(values).se == pytest.approx(np.std(values, ddof=1) / 2)


def test_a_single_unit_has_no_variance():
    assert math.isnan(moments([3.0]).variance)
    assert math.isnan(moments([3.0]).se)
