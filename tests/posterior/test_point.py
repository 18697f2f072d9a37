"""A learnt prior with a point at no effect, in the exact engine: against brute force and against closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from expnb.posterior.exact import lattice
from expnb.posterior.exact.arms import Binomial, NormalMean, Poisson, StudentMean
from expnb.posterior.exact.engine import absolute_effect, both_effects, prob_best, relative_effect
from expnb.posterior.priors.mixture import shrink
from expnb.spec.prior import Prior

LEARNT = Prior(family="learnt", scales=(0.005, 0.03), weights=(0.6, 0.4), null_share=0.5)
WIDE = Prior(family="learnt", scales=(0.02, 0.15), weights=(0.7, 0.3), null_share=0.3, df=3.0)
SURE = Prior(family="learnt", scales=(0.03,), weights=(1.0,), null_share=0.999)
SPIKES = Prior(family="learnt", scales=(0.001, 0.05), weights=(0.5, 0.5), null_share=0.02)
CUTS = np.array([0.0, 0.01, -0.01, -0.03])

GRID = np.concatenate([-np.geomspace(1e-9, 3.0, 20_000)[::-1], [0.0], np.geomspace(1e-9, 3.0, 20_000)])


def prior_density(prior, lam):
    """A mixture of Student-t's, from scipy."""
    return sum(
        weight * stats.t(prior.df, scale=scale).pdf(lam)
        for scale, weight in zip(prior.scales, prior.weights, strict=True)
    )


def binomial_marginal(k_c, n_c, k_t, n_t):
    """Likelihood of the log ratios of `GRID`, the control's rate summed out on a fine grid."""
    rate = (k_c + 0.5) / (n_c + 1)
    half = 12 * np.sqrt(rate * (1 - rate) / n_c)
    m = np.linspace(max(rate - half, 1e-9), min(rate + half, 1 - 1e-9), 1201)
    log_c = k_c * np.log(m) + (n_c - k_c) * np.log1p(-m)
    peak = log_c.max() + k_t * np.log(k_t / n_t) + (n_t - k_t) * np.log1p(-k_t / n_t)
    out = np.empty(len(GRID))
    for first in range(0, len(GRID), 2000):
        rate_t = m * np.exp(GRID[first : first + 2000, None])
        inside = rate_t < 1
        safe = np.where(inside, rate_t, 0.5)
        log_t = np.where(inside, k_t * np.log(safe) + (n_t - k_t) * np.log1p(-safe), -np.inf)
        out[first : first + 2000] = np.trapezoid(np.exp(log_c + log_t - peak), m, axis=1)
    return out


def brute(prior, likelihood):
    """P(null), mean, P(above each cut) and loss of the relative effect by sums over `GRID`."""
    weight = likelihood * prior_density(prior, GRID)
    effect = np.expm1(GRID)
    total = np.trapezoid(weight, GRID)
    at_none = likelihood[len(GRID) // 2]
    null = prior.null_share * at_none / (prior.null_share * at_none + (1 - prior.null_share) * total)
    rest = (1 - null) / total
    above = []
    for cut in CUTS:
        x = np.log1p(cut)
        over = np.concatenate([[x], GRID[x < GRID]])
        at = np.exp(np.interp(over, GRID, np.log(np.maximum(likelihood, 1e-300)))) * prior_density(prior, over)
        above.append(rest * np.trapezoid(at, over) + null * (cut < 0))
    mean = rest * np.trapezoid(weight * effect, GRID)
    loss = rest * np.trapezoid(weight * np.maximum(-effect, 0), GRID)
    return null, mean, above, loss


def density_of_effect(prior, likelihood):
    """Effects in rising order, with the probability that each stands for: the point as a heap at 0."""
    middle = len(GRID) // 2
    weight = likelihood * prior_density(prior, GRID)
    mass = weight * np.gradient(GRID)
    null = brute(prior, likelihood)[0]
    mass *= (1 - null) / mass.sum()
    mass[middle] += null
    return np.expm1(GRID), mass


def shortest(effect, mass):
    """The shortest stretch that holds 95 %, its ends by straight lines between effects."""
    below = np.cumsum(mass) - 0.5 * mass * (mass < 0.01)  # a cell's mass lies around its effect; the point is all there
    starts = below <= 0.05
    ends = np.interp(below[starts] - mass[starts] * (mass[starts] >= 0.01) + 0.95, below, effect)
    first = int(np.argmin(ends - effect[starts]))
    return effect[first], ends[first]


CASES = [
    (LEARNT, (1200, 10_000, 1270, 10_000)),
    (LEARNT, (1200, 10_000, 1450, 10_000)),
    (WIDE, (60, 500, 75, 480)),
    (WIDE, (150, 1000, 95, 1000)),
    (SURE, (500, 4000, 520, 4000)),
    (SPIKES, (8000, 20_000, 8300, 20_000)),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].null_share}-{case[1]}")
def case(request):
    prior, (k_c, n_c, k_t, n_t) = request.param
    arms = [Binomial(np.array([float(k)]), np.array([float(n)])) for k, n in ((k_c, n_c), (k_t, n_t))]
    return prior, arms, binomial_marginal(k_c, n_c, k_t, n_t)


def test_figures_under_a_point_equal_brute_force(case):
    prior, arms, likelihood = case
    made = relative_effect(*arms, prior, CUTS)
    null, mean, above, loss = brute(prior, likelihood)
    assert made.null[0] == pytest.approx(null, abs=1e-6)
    assert made.mean[0] == pytest.approx(mean, abs=1e-6)
    assert made.p_above[0] == pytest.approx(above, abs=1e-6)
    assert made.loss[0] == pytest.approx(loss, abs=1e-6)


def test_the_interval_is_the_shortest_that_holds_95_percent_with_the_point(case):
    prior, arms, likelihood = case
    made = relative_effect(*arms, prior, CUTS)
    low, high = shortest(*density_of_effect(prior, likelihood))
    assert made.hdi_high[0] - made.hdi_low[0] == pytest.approx(high - low, rel=1e-3, abs=1e-6)
    assert [made.hdi_low[0], made.hdi_high[0]] == pytest.approx([low, high], abs=5e-3 * (high - low) + 1e-6)


def test_the_absolute_effect_holds_the_same_point(case):
    prior, arms, _ = case
    relative = relative_effect(*arms, prior, CUTS)
    absolute = absolute_effect(*arms, prior, CUTS)
    assert absolute.null == pytest.approx(relative.null, abs=1e-9)
    assert absolute.p_above[0, 0] == pytest.approx(relative.p_above[0, 0], abs=1e-7)
    both = both_effects(*arms, prior, CUTS, CUTS)
    for together, alone in zip(both, (relative, absolute), strict=True):
        assert together.mean == pytest.approx(alone.mean, rel=1e-12)
        assert together.null == pytest.approx(alone.null, abs=1e-12)


def test_a_point_of_95_percent_is_the_whole_interval():
    arms = [Binomial(np.array([500.0]), np.array([4000.0]))] * 2
    for verb in (relative_effect, absolute_effect):
        made = verb(*arms, SURE, CUTS)
        assert made.null[0] > 0.95
        assert (made.hdi_low[0], made.hdi_high[0]) == (0.0, 0.0)


def test_an_interval_that_ends_at_no_effect_ends_there_exactly():
    arms = [Binomial(np.array([k]), np.array([100_000.0])) for k in (12_000.0, 12_450.0)]
    made = relative_effect(*arms, LEARNT, CUTS)
    assert 0.05 < made.null[0] < 0.95
    assert made.hdi_low[0] == 0.0 < made.hdi_high[0]


def test_small_effects_equal_the_closed_form_of_normal_estimates():
    prior = Prior(family="learnt", scales=(5e-6, 3e-5), weights=(0.6, 0.4), null_share=0.5)
    y = np.array([3e-5, -2e-6, 1e-4, 0.0, -8e-5])
    se = np.array([1e-5, 1e-5, 2e-5, 5e-5, 3e-5])
    control = NormalMean(np.full(5, 100.0), np.full(5, 1e-8))
    treatment = NormalMean(100 * np.exp(y), 100 * se)
    made, closed = relative_effect(control, treatment, prior, np.zeros(1)), shrink(prior, y, se)
    assert made.null == pytest.approx(closed.null, abs=5e-5)
    assert made.p_above[:, 0] == pytest.approx(closed.above_zero, abs=5e-5)
    assert made.mean == pytest.approx(closed.mean, abs=1e-8)


PAIRS = {
    "events": [Poisson(np.array([k]), np.array([1000.0])) for k in (300.0, 340.0)],
    "few events": [Poisson(np.array([k]), np.array([100.0])) for k in (4.0, 7.0)],
    "means": [NormalMean(np.array([m]), np.array([0.3])) for m in (10.0, 10.5)],
    "few units": [StudentMean(np.array([m]), np.array([0.3]), np.array([30.0])) for m in (10.0, 10.5)],
    "few conversions": [Binomial(np.array([k]), np.array([60.0])) for k in (3.0, 8.0)],
}


@pytest.mark.parametrize("arms", PAIRS.values(), ids=PAIRS)
def test_every_kind_of_arm_knows_the_point(arms):
    continuous = Prior(family="learnt", scales=WIDE.scales, weights=WIDE.weights, df=WIDE.df)
    bare, made = (relative_effect(*arms, prior, CUTS) for prior in (continuous, WIDE))
    odds = WIDE.null_share / (1 - WIDE.null_share) * np.exp(-bare.log_factor)
    assert made.null == pytest.approx(odds / (1 + odds), rel=1e-9)
    assert made.p_above[:, 0] == pytest.approx((1 - made.null) * bare.p_above[:, 0], rel=1e-9)
    assert made.mean == pytest.approx((1 - made.null) * bare.mean, rel=1e-9)
    absolute, without = (absolute_effect(*arms, prior, CUTS[:1]) for prior in (WIDE, continuous))
    assert absolute.mean == pytest.approx((1 - made.null) * without.mean, rel=1e-6)
    assert absolute.p_above[:, 0] == pytest.approx(made.p_above[:, 0], abs=1e-6)


def test_one_part_without_a_point_is_the_student_t():
    one = Prior(family="learnt", scales=(0.03,), weights=(1.0,))
    for arms in PAIRS.values():
        for verb in (relative_effect, absolute_effect):
            made, plain = verb(*arms, one, CUTS[:1]), verb(*arms, Prior(), CUTS[:1])
            for name in ("mean", "sd", "hdi_low", "hdi_high", "p_above", "loss", "gain"):
                assert getattr(made, name) == pytest.approx(getattr(plain, name), rel=2e-6, abs=1e-9), name


@pytest.mark.parametrize("largest", [True, False])
def test_the_slow_way_to_the_best_arm_gives_ties_to_control(monkeypatch, largest):
    arms = [Binomial(np.array([k]), np.array([1000.0])) for k in (100.0, 110.0, 150.0)]
    fast = prob_best(arms, WIDE, largest=largest)
    assert len(list(lattice.shares(arms, WIDE, largest=largest))) == 1  # or both would be the same way
    monkeypatch.setattr(lattice, "shares", lambda *_, **__: iter(()))
    slow = prob_best(arms, WIDE, largest=largest)
    assert slow == pytest.approx(fast, abs=2e-6)
    assert slow.sum() == pytest.approx(1)


@pytest.mark.parametrize("largest", [True, False])
def test_of_two_arms_the_treatment_is_best_only_where_it_is_better(largest):
    arms = [Binomial(np.array([k]), np.array([1000.0])) for k in (100.0, 110.0)]
    made = relative_effect(*arms, LEARNT, np.zeros(1))
    better = made.p_above[0, 0] if largest else 1 - made.p_above[0, 0] - made.null[0]
    assert prob_best(arms, LEARNT, largest=largest)[0, 1] == pytest.approx(better, rel=1e-12)


def test_the_shortest_interval_is_found_where_many_are_nearly_as_short():
    prior = replace(LEARNT, scales=(0.005, 0.02, 0.1), weights=(0.5, 0.3, 0.2), null_share=0.5)
    arms = [Binomial(np.array([hits]), np.array([2178.0])) for hits in (1544.0, 921.0)]
    found = relative_effect(*arms, prior, CUTS)
    assert (found.hdi_low[0], found.hdi_high[0]) == pytest.approx((-0.43288, -0.36558), abs=2e-5)
