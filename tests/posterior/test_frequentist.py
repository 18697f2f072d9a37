"""p-values and intervals against SciPy, and a confidence sequence that is looked at a hundred times."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from expnb.posterior.frequentist import ALPHA, NARROWEST, confidence_sequence, pooled_z, welch
from expnb.posterior.table import Samples


def samples(*values):
    return Samples(*(np.array([float(value)]) for value in values))


def test_welch_is_the_one_of_scipy_for_many_rows_at_once():
    rng = np.random.default_rng(1)
    rows = [(rng.normal(0, 1, 12), rng.normal(0.5, 3, 30)) for _ in range(5)]
    arms = [
        Samples(*np.array([(len(x), x.mean(), x.var() * len(x)) for x in side]).T) for side in zip(*rows, strict=True)
    ]
    p, low, high = welch(*arms)
    for i, (control, treatment) in enumerate(rows):
        wanted = stats.ttest_ind(treatment, control, equal_var=False)
        interval = wanted.confidence_interval()
        assert (p[i], low[i], high[i]) == pytest.approx((wanted.pvalue, interval.low, interval.high), rel=1e-9)


def test_the_pooled_z_test_is_the_one_of_the_chi_square_table():
    control, treatment = samples(1000, 0.12, 105.6), samples(1100, 0.15, 140.25)
    wanted = stats.chi2_contingency([[120, 880], [165, 935]], correction=False).pvalue
    assert pooled_z(control, treatment)[0][0] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_where_nothing_varies_there_is_no_test(rate):
    arm = samples(50, rate, 0.0)
    for test in (pooled_z, welch):
        assert np.isnan([part[0] for part in test(arm, arm)]).all()


def test_the_confidence_sequence_is_narrowest_where_it_says():
    def width(units):
        low, high = confidence_sequence(np.zeros(1), np.ones(1), np.array([units]), np.array([5000.0]))
        return float(high[0] - low[0])

    found = optimize.minimize_scalar(width, bounds=(100, 50_000), method="bounded")
    assert found.x == pytest.approx(5000, rel=1e-3)
    assert pytest.approx(math.log((NARROWEST + 1) / ALPHA**2), abs=1e-3) == NARROWEST
    ratios = [width(units) / (2 * 1.959964) for units in (5000, 500, 500_000)]
    assert ratios == pytest.approx([1.55, 1.95, 1.82], abs=0.01)


@pytest.mark.parametrize("shape", ["normal", "exponential", "rare"])
@pytest.mark.parametrize("planned", [2_000.0, 50_000.0])
def test_a_confidence_sequence_covers_at_all_of_a_hundred_looks(shape, planned):
    rng = np.random.default_rng(5)
    trials, looks, batch = 4000, 100, 200  # units per arm and look
    ends = []
    for effect in (0.0, 0.1):
        if shape == "normal":
            sums = rng.normal(effect * batch, math.sqrt(batch), (trials, looks))
            squares = rng.chisquare(batch - 1, (trials, looks)) + sums**2 / batch
        elif shape == "exponential":
            values = rng.standard_exponential((trials, looks, 20)) * 1.0 + effect
            sums, squares = values.sum(axis=2), (values**2).sum(axis=2)
        else:
            sums = squares = rng.binomial(batch, 0.05 + 0.1 * effect, (trials, looks)).astype(float)
        n = (20 if shape == "exponential" else batch) * np.arange(1, looks + 1)
        total, square = sums.cumsum(axis=1), squares.cumsum(axis=1)
        ends.append((total / n, (square / n - (total / n) ** 2) / n, n))
    (mean_c, var_c, n), (mean_t, var_t, _) = ends
    truth = 0.01 if shape == "rare" else 0.1
    low, high = confidence_sequence(mean_t - mean_c, np.sqrt(var_c + var_t), 2.0 * n, np.full(looks, planned))
    covered = ((low <= truth) & (truth <= high)).all(axis=1).mean()
    assert covered >= 0.95
    fixed = 1.959964 * np.sqrt(var_c + var_t)
    assert (np.abs(mean_t - mean_c - truth) <= fixed).all(
        axis=1
    ).mean() < 0.75  # what looking does to the usual interval
