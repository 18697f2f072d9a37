"""Partial pooling against quadrature written another way, against limits known in closed form, and against 20,000 draws."""

from __future__ import annotations

import numpy as np
import pytest
from bench.segments import EVEN_BAND, FEW, all_arms, ranks, uneven
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.interpolate import CubicSpline

from expnb.errors import PosteriorError
from expnb.posterior.exact.arms import Binomial, NormalMean, Poisson, StudentMean
from expnb.posterior.exact.engine import relative_effect
from expnb.posterior.pooling.pool import pool
from expnb.posterior.pooling.two_scales import evidence
from expnb.spec.prior import Prior

ZERO = np.zeros(1)
MARGIN = 0.02


def arms(k_c, n_c, k_t, n_t):
    k_c, n_c, k_t, n_t = (np.array(values, dtype=float) for values in (k_c, n_c, k_t, n_t))
    return Binomial(k_c, n_c), Binomial(k_t, n_t)


def means(m_c, s_c, m_t, s_t):
    m_c, s_c, m_t, s_t = (np.array(values, dtype=float) for values in (m_c, s_c, m_t, s_t))
    return NormalMean(m_c, s_c), NormalMean(m_t, s_t)


def log_t(prior, lam):
    return (
        stats.norm.logpdf(lam, 0, prior.scale)
        if prior.family == "normal"
        else stats.t.logpdf(lam / prior.scale, prior.df)
    )


def panels(breaks, nodes):
    x, w = np.polynomial.legendre.leggauss(nodes)
    half = 0.5 * np.diff(breaks)[:, None]
    return (breaks[:-1, None] + half * (x + 1)).ravel(), (half * w).ravel()


def brute_force(control, treatment, prior, margin, reach):
    """Three nested sums, every piece broken at the cut: effects inside, then mu, then tau."""
    data, cut, scale = evidence(control, treatment), np.log1p(-margin), prior.scale
    wide = np.linspace(-reach, reach, 8001)
    splines = [
        CubicSpline(wide, np.maximum(data.log_likelihood(np.array([s]), (wide - data.centre[s])[None])[0], -2000))
        for s in range(len(data))
    ]
    steps = np.geomspace(1e-4, 40, 26) * scale
    breaks = np.concatenate([np.linspace(-reach, reach, 31), [cut, 0], cut + steps, cut - steps, steps, -steps])
    mu, w_mu = panels(np.unique(np.clip(breaks, -reach, reach)), 10)
    u, w_u = np.polynomial.legendre.leggauss(40)
    tau, w_tau = 8 * scale * (0.5 * (u + 1)) ** 2, 8 * scale * 0.5 * (u + 1) * w_u
    y, w = np.polynomial.legendre.leggauss(50)
    log_post = np.empty((len(tau), len(mu)))
    all_above, mean, above = (
        np.ones_like(log_post),
        *(np.empty((len(data), *log_post.shape)) for _ in range(2)),
    )
    for g, t in enumerate(tau):
        log_post[g] = log_t(prior, mu) - 0.5 * (t / scale) ** 2 + np.log(w_tau[g] * w_mu)
        low, high = np.maximum(mu - 8 * t, -reach), np.minimum(mu + 8 * t, reach)
        middle = np.clip(cut, low, high)
        for s, spline in enumerate(splines):
            sums = []
            for a, b in ((low, middle), (middle, high)):
                d = a[:, None] + (b - a)[:, None] * (y + 1) / 2
                f = np.exp(spline(d) - spline(wide).max() - 0.5 * ((d - mu[:, None]) / t) ** 2)
                f *= (b - a)[:, None] / (2 * t) * w
                sums.append((f.sum(axis=1), (f * np.expm1(d)).sum(axis=1)))
            whole = np.maximum(sums[0][0] + sums[1][0], 1e-300)
            log_post[g] += np.log(whole)
            above[s, g], mean[s, g] = sums[1][0] / whole, (sums[0][1] + sums[1][1]) / whole
            all_above[g] *= above[s, g]
    weight = np.exp(log_post - log_post.max())
    weight /= weight.sum()
    return {
        "mu": (weight * np.expm1(mu)).sum(),
        "p_mu": weight[:, mu > cut].sum(),
        "tau": (weight.sum(axis=1) * tau).sum(),
        "mean": (weight * mean).sum(axis=(1, 2)),
        "above": (weight * above).sum(axis=(1, 2)),
        "all": (weight * all_above).sum(),
    }


@pytest.mark.parametrize(
    ("pair", "prior", "reach"),
    [
        (arms([200, 30], [2000, 300], [230, 26], [2000, 300]), Prior(), 1.5),
        (arms([3, 5], [40, 60], [0, 6], [40, 60]), Prior(), 3.0),  # nobody converted in a treatment
        (means([10, 12], [0.1, 0.5], [10.5, 11], [0.1, 0.6]), Prior("normal"), 0.8),
        (means([10, 12, 10], [0.1, 0.1, 0.3], [10.1, 12.1, 13], [0.1, 0.1, 0.5]), Prior(), 1.2),  # an outlier
    ],
    ids=["conversions", "zero", "means", "outlier"],
)
def test_figures_agree_with_brute_force(pair, prior, reach):
    pooled, slow = pool(*pair, prior, np.array([-MARGIN]), margin=MARGIN), brute_force(*pair, prior, MARGIN, reach)
    assert pooled.effect.mean[0] == pytest.approx(slow["mu"], abs=2e-6)
    assert pooled.effect.p_above[0, 0] == pytest.approx(slow["p_mu"], abs=1e-6)
    assert pooled.tau_mean == pytest.approx(slow["tau"], rel=2e-5)
    assert pooled.segments.mean == pytest.approx(slow["mean"], abs=1e-6)
    assert pooled.segments.p_above[:, 0] == pytest.approx(slow["above"], abs=1e-6)
    assert pooled.p_any_harmed == pytest.approx(1 - slow["all"], abs=2e-6)


def test_one_segment_is_the_unpooled_posterior_under_the_prior_widened_by_tau():
    pair, prior = arms([20], [200], [30], [200]), Prior()
    slow = brute_force(*pair, prior, MARGIN, 1.5)
    pooled = pool(*pair, prior, np.array([-MARGIN]), margin=MARGIN)
    assert pooled.segments.mean[0] == pytest.approx(slow["mean"][0], abs=1e-6)
    assert pooled.p_any_harmed == pytest.approx(1 - pooled.segments.p_above[0, 0], abs=1e-6)
    alone = relative_effect(*pair, prior, ZERO)
    assert alone.mean[0] < pooled.segments.mean[0] < pooled.raw[0]


def test_without_differences_all_segments_are_the_closed_form_of_one_effect():
    """A Normal prior, Normal likelihoods and tau near 0: the precisions add up."""
    raw, se, scale = np.array([0.001, -0.0005, 0.002]), np.array([1e-3, 2e-3, 3e-3]), 1e-3
    pair = means([1, 1, 1], [1e-9] * 3, 1 + raw, se)
    pooled = pool(*pair, Prior("normal", scale), ZERO, tau_scale=1e-7)
    precision = 1 / scale**2 + (1 / se**2).sum()
    mean, sd = (raw / se**2).sum() / precision, precision**-0.5
    assert pooled.effect.mean[0] == pytest.approx(mean, abs=0.01 * sd)
    assert pooled.effect.sd[0] == pytest.approx(sd, rel=0.01)
    assert pooled.segments.mean == pytest.approx(np.full(3, pooled.effect.mean[0]), abs=1e-3 * sd)
    assert pooled.segments.hdi_high - pooled.segments.hdi_low == pytest.approx(np.full(3, 2 * 1.96 * sd), rel=0.01)


def test_segments_of_a_hundred_million_units_that_hardly_differ_are_pooled():
    """Normal likelihoods far narrower than both priors: a sum over tau in closed form."""
    se = np.full(10, 1e-4)
    treated = 1.01 + np.array([4.0, 11.2, -6.6, 1.4, -3.1, 12.0, 4.2, -0.4, -7.3, 0.1]) * 1e-5
    pooled = pool(*means(np.ones(10), se, treated, se), Prior(), ZERO, margin=MARGIN)
    tau = np.linspace(0, 1e-3, 2001)[:, None]
    precision = 1 / (1e-8 * (1 + treated**-2.0) + tau**2)
    middle = (precision * np.log(treated)).sum(axis=1) / precision.sum(axis=1)
    log_f = 0.5 * np.log(precision).sum(axis=1) - 0.5 * np.log(precision.sum(axis=1))
    log_f -= 0.5 * (precision * (np.log(treated) - middle[:, None]) ** 2).sum(axis=1)
    weight = np.exp(log_f - log_f.max())
    weight[0] *= 0.5
    weight /= weight.sum()
    assert pooled.effect.mean[0] == pytest.approx(np.expm1(weight @ middle), abs=1e-7)
    assert pooled.tau_mean == pytest.approx(float(weight @ tau[:, 0]), rel=2e-3)
    assert pooled.p_all_improve == pytest.approx(1.0, abs=1e-7)


def test_segments_that_contradict_each_other_are_pooled():
    """Far from its data the likelihood of a precise segment is rounding error."""
    control, treatment = arms(
        [626, 1340, 572, 672, 922, 1976, 2487, 371],
        [2141, 1580, 3919, 3545, 1006, 4025, 3751, 553],
        [515, 863, 259, 442, 3992, 1146, 863, 1798],
        [1686, 1046, 1841, 2443, 4200, 2447, 1331, 2725],
    )
    pooled = pool(control, treatment, Prior(), ZERO)
    data, prior = evidence(control, treatment), Prior()
    d, mu = np.linspace(-0.45, 0.45, 1801), np.linspace(-0.4, 0.4, 801)
    values = np.stack([data.log_likelihood(np.array([s]), (d - data.centre[s])[None])[0] for s in range(8)])
    values = np.exp(values - values.max(axis=1, keepdims=True))
    log_f, means = [], []
    for tau, weight in zip(*panels(np.array([0.0, 0.22]), 40), strict=True):
        kernel = np.exp(-0.5 * ((d - mu[:, None]) / tau) ** 2).T / tau
        whole = np.maximum(values @ kernel, 1e-300)
        log_f.append(np.log(whole).sum(axis=0) + log_t(prior, mu) - 0.5 * (tau / prior.scale) ** 2 + np.log(weight))
        means.append((values * np.expm1(d)) @ kernel / whole)
    share = np.exp(np.array(log_f) - np.max(log_f))
    expected = (share[:, None] * np.array(means)).sum(axis=(0, 2)) / share.sum()
    assert pooled.segments.mean == pytest.approx(expected, abs=1e-5)


def test_a_learnt_prior_of_one_component_is_that_student_t_and_nulls_pull_to_no_effect():
    pair = arms([200, 30], [2000, 300], [260, 36], [2000, 300])
    learnt = {"family": "learnt", "scales": (0.03,), "weights": (1.0,)}
    plain, same = (pool(*pair, prior, ZERO) for prior in (Prior(), Prior(**learnt)))
    assert same.segments.mean == pytest.approx(plain.segments.mean, rel=1e-7)
    sceptical = pool(*pair, Prior(**learnt, null_share=0.8), ZERO)
    assert 0 < sceptical.effect.mean[0] < 0.7 * plain.effect.mean[0]


def test_a_large_segment_keeps_its_own_estimate_and_small_ones_borrow():
    control, treatment = arms([200_000, 20, 20], [2_000_000, 200, 200], [220_000, 20, 40], [2_000_000, 200, 200])
    pooled = pool(control, treatment, Prior(), ZERO)
    alone = relative_effect(control, treatment, Prior("flat"), ZERO)
    assert pooled.segments.mean[0] == pytest.approx(alone.mean[0], abs=0.1 * alone.sd[0])
    assert pooled.shrinkage[0] < 0.1
    assert (pooled.shrinkage[1:] > 0.7).all()
    assert 0 < pooled.segments.mean[2] < 0.4 * pooled.raw[2]


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(5)))
def test_the_order_of_segments_changes_nothing(order):
    order = np.array(order)
    control, treatment = arms(
        [20, 200, 5, 0, 900], [100, 3000, 60, 40, 9000], [25, 210, 2, 3, 950], [90, 2900, 60, 40, 9000]
    )
    given_order = pool(control, treatment, Prior(), ZERO, margin=MARGIN)
    shuffled = pool(control.take(order), treatment.take(order), Prior(), ZERO, margin=MARGIN)
    assert shuffled.segments.mean == pytest.approx(given_order.segments.mean[order], rel=1e-6)
    assert shuffled.p_any_harmed == pytest.approx(given_order.p_any_harmed, abs=1e-7)


def test_the_chance_that_any_is_harmed_lies_between_the_largest_chance_and_their_sum():
    pair = arms([100, 110, 90, 100], [1000] * 4, [100, 105, 92, 110], [1000] * 4)
    pooled = pool(*pair, Prior(), np.array([-MARGIN]), margin=MARGIN)
    harmed = 1 - pooled.segments.p_above[:, 0]
    assert harmed.max() < pooled.p_any_harmed < harmed.sum()
    less_is_better = pool(*pair, Prior(), np.array([MARGIN]), sign=-1, margin=MARGIN)
    harmed = less_is_better.segments.p_above[:, 0]
    assert harmed.max() < less_is_better.p_any_harmed < harmed.sum()
    assert pooled.p_all_improve + less_is_better.p_all_improve < 1


def test_segments_of_twenty_and_of_two_million_units_go_together():
    draw = np.random.default_rng(3)
    units = np.exp(draw.uniform(np.log(20), np.log(2e6), (2, 30))).astype(int)
    hits = draw.binomial(units, np.array([[0.1], [0.103]]))
    pooled = pool(Binomial(hits[0], units[0]), Binomial(hits[1], units[1]), Prior(), ZERO, margin=MARGIN)
    for values in (pooled.segments.mean, pooled.segments.hdi_low, pooled.segments.hdi_high, pooled.shrinkage):
        assert np.isfinite(values).all()
    assert pooled.effect.hdi_low[0] < 0.03 < pooled.effect.hdi_high[0]


def test_events_of_many_units_are_pooled_like_conversions():
    hits, units = np.array([[40.0, 300.0], [52.0, 310.0]]), np.full(2, 1e6)
    events = pool(Poisson(hits[0], units), Poisson(hits[1], units), Prior(), ZERO, margin=MARGIN)
    conversions = pool(Binomial(hits[0], units), Binomial(hits[1], units), Prior(), ZERO, margin=MARGIN)
    assert events.segments.mean == pytest.approx(conversions.segments.mean, rel=1e-3)
    assert events.p_any_harmed == pytest.approx(conversions.p_any_harmed, rel=1e-3)


def test_means_with_many_degrees_of_freedom_are_normal():
    values = np.array([10.0, 12.0]), np.array([0.1, 0.2]), np.array([10.3, 12.1]), np.array([0.1, 0.2])
    df = np.full(2, 1e6)
    student = pool(StudentMean(*values[:2], df), StudentMean(*values[2:], df), Prior(), ZERO)
    assert student.segments.mean == pytest.approx(pool(*means(*values), Prior(), ZERO).segments.mean, rel=1e-3)


@pytest.mark.parametrize(
    ("pair", "prior", "sentence"),
    [
        (arms([], [], [], []), Prior(), "at least one"),
        (arms([1], [10], [1], [10]), Prior("flat"), "cannot be pooled under the flat prior"),
        ((arms([1], [10], [1], [10])[0], means([1], [0.1], [1], [0.1])[0]), Prior(), "both arms"),
        (means([0.1], [0.1], [1], [0.1]), Prior(), "control mean of at least 5 standard errors"),
    ],
    ids=["none", "flat", "mixed", "uncertain"],
)
def test_what_cannot_be_pooled_is_refused_with_a_reason(pair, prior, sentence):
    with pytest.raises(PosteriorError, match=sentence):
        pool(*pair, prior, ZERO)


def drawn(draw, effects, units=(1500, 4000)):
    size = draw.integers(*units, (2, len(effects)))
    rate = draw.uniform(0.08, 0.2, len(effects))
    hits = np.stack([draw.binomial(size[0], rate), draw.binomial(size[1], rate * np.exp(effects))])
    return arms(hits[0], size[0], hits[1], size[1])


def test_without_differences_no_segment_looks_significant():
    """30 segments, no effect anywhere: unpooled, most experiments show one."""
    draw, flat = np.random.default_rng(5), Prior("flat")
    pooled = unpooled = 0
    for _ in range(20):
        pair = drawn(draw, np.zeros(30))
        above = pool(*pair, Prior(), ZERO).segments.p_above
        alone = relative_effect(*pair, flat, ZERO).p_above
        pooled += bool(((above > 0.975) | (above < 0.025)).any())
        unpooled += bool(((alone > 0.975) | (alone < 0.025)).any())
    assert pooled <= 1
    assert unpooled >= 12


def test_the_truth_is_as_likely_at_any_rank():
    """As `python -m bench.segments` does for docs/segments.md, with fewer experiments."""
    found = np.stack([ranks(seed) for seed in range(150)])
    for rank in (found[:, 0], found[:, FEW]):  # the first segment and the pooled effect
        assert uneven(rank) < EVEN_BAND / np.sqrt(len(rank))
    for held, share in ((found[:, FEW + 1], 0.95), (found[:, FEW + 2 :].mean(axis=1), 0.95)):
        assert np.mean(held) == pytest.approx(share, abs=0.07)  # 4 standard errors of 150 trials


def test_the_yardstick_of_all_arms_agrees_where_there_is_one_treatment_and_much_data():
    draw = np.random.default_rng(9)
    control, treatment = drawn(draw, 0.05 + 0.03 * draw.standard_normal(6), (50_000, 90_000))
    share, mean, _ = all_arms([control, treatment])
    pooled = pool(control, treatment, Prior("normal", 0.03 * np.sqrt(2)), ZERO, tau_scale=0.03)
    expected = np.append(pooled.segments.mean, pooled.effect.mean)
    assert np.expm1(share @ mean[:, 0]) == pytest.approx(expected, abs=5e-4)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    """Effects drawn from the priors: the means of 0 / 1 over 120 experiments of 4 segments."""
    draw, prior, held, held_mu = np.random.default_rng(8), Prior(), [], []
    for _ in range(120):
        mu = prior.scale * draw.standard_t(prior.df)
        effects = mu + abs(draw.normal(0, prior.scale)) * draw.standard_normal(4)
        pooled = pool(*drawn(draw, np.clip(effects, -1.5, 1.5)), prior, ZERO)
        truth = np.expm1(effects)
        held += ((pooled.segments.hdi_low <= truth) & (truth <= pooled.segments.hdi_high)).tolist()
        held_mu.append(bool(pooled.effect.hdi_low[0] <= np.expm1(mu) <= pooled.effect.hdi_high[0]))
    assert np.mean(held) == pytest.approx(0.95, abs=0.04)  # 4 standard errors of 120 x 4 trials
    assert np.mean(held_mu) == pytest.approx(0.95, abs=0.08)
