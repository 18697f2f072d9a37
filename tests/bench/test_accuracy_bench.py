"""The reference of the accuracy benchmark is right where the answer is known, and the engine agrees with it."""

import math

import numpy as np
import pytest
from bench.accuracy import Case, cases, engine, errors, normal, rate, reference, share, student
from scipy import integrate, special, stats


def of_shares(k_c, n_c, k_t, n_t):
    return Case("conversion", ((n_c, k_c / n_c, 0.0), (n_t, k_t / n_t, 0.0)), (share(k_c, n_c), share(k_t, n_t)))


def miller(k_c, n_c, k_t, n_t):
    """Evan Miller (2015), Formulas for Bayesian A/B testing: P(B > A) under Beta(1, 1)."""
    a, b, c, d = k_c + 1, n_c - k_c + 1, k_t + 1, n_t - k_t + 1
    i = np.arange(c)
    return float(
        np.exp(special.betaln(a + i, b + d) - np.log(d + i) - special.betaln(1 + i, d) - special.betaln(a, b)).sum()
    )


@pytest.mark.parametrize("counts", [(15, 100, 12, 100), (0, 30, 2, 40), (29, 30, 30, 30), (300, 3000, 340, 3000)])
def test_rates_without_a_prior_have_the_known_sum(counts):
    assert reference(of_shares(*counts), "flat") == pytest.approx(miller(*counts), abs=1e-10)


def test_counts_without_a_prior_have_a_beta():
    case = Case("count", (), (rate(7, 40), rate(12, 45)))
    # of two Gammas, the share of the first in both is a Beta
    assert reference(case, "flat") == pytest.approx(special.betainc(8, 13, 40 / 85), abs=1e-10)


def test_means_without_a_prior_have_a_normal():
    case = Case("mean", (), (normal(10, 0.3), normal(10.4, 0.4)))
    assert reference(case, "flat") == pytest.approx(stats.norm.cdf(0.8), abs=1e-10)


def test_few_units_without_a_prior_have_two_ts():
    case = Case("mean", (), (student(1.0, 0.8, 5), student(3.0, 0.6, 6)), relative=False)
    known, _ = integrate.quad(lambda z: stats.t.pdf(z, 5) * stats.t.sf((1 + 0.8 * z - 3) / 0.6, 6), -math.inf, math.inf)
    assert reference(case, "flat") == pytest.approx(known, abs=1e-9)


def test_under_a_prior_equal_arms_that_are_known_well_are_a_toss():
    case = Case("mean", (), (normal(10, 1e-3), normal(10, 1e-3)))
    assert reference(case, "default") == pytest.approx(0.5, abs=1e-4)


def test_a_narrow_prior_gives_what_a_normal_approximation_gives():
    """Log ratio of two precise means: Student-t prior times a Normal likelihood, one dimension."""
    case = Case("mean", (), (normal(100, 0.3), normal(101, 0.4)))
    lam, se = math.log(1.01), math.hypot(0.3 / 100, 0.4 / 101)
    grid = np.linspace(-0.1, 0.1, 200_001)
    density = stats.t.pdf(grid / 0.03, 4) * np.exp(-0.5 * ((grid - lam) / se) ** 2)
    assert reference(case, "default") == pytest.approx(density[grid > 0].sum() / density.sum(), abs=1e-3)


def test_there_are_cases_of_every_kind_with_and_without_a_relative_effect():
    listed = cases()
    assert {case.kind for case in listed} == {"conversion", "count", "mean", "ratio"}
    assert {case.relative for case in listed} == {True, False}


@pytest.mark.parametrize("place", [1, 4, 7, 33, 40, 51, 58])
def test_the_engine_is_right_to_a_millionth(place):
    assert max(error for error, *_ in errors([cases()[place]])) < 1e-6


def test_cases_go_in_and_come_out_in_the_same_order():
    listed = cases()[-8:]  # means of few units and ratios
    assert engine(listed, "flat")[::-1] == pytest.approx(engine(listed[::-1], "flat"), abs=1e-9)
