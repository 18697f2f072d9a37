"""Arms that are neither rates nor bells: closed forms, and quadrature in two dimensions written another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from expnb.errors import PosteriorError
from expnb.posterior.exact.arms import NormalMean, Poisson, RatioMean, StudentMean
from expnb.posterior.exact.engine import absolute_effect, prob_best, relative_effect
from expnb.spec.prior import Prior

FLAT = Prior("flat")
CUTS = np.array([0.0, 0.02, -0.03])
NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)
STEPS = np.array([0.1, 0.3, 0.6, 1, 1.5, 2.1, 3, 4, 5.5, 7.5, 10, 14, 20, 30, 50, 100, 300])


def one(*values):
    return [np.array([float(value)]) for value in values]


def poisson(total, units):
    return Poisson(*one(total, units))


def student(mean, se, df):
    return StudentMean(*one(mean, se, df))


def ratio(upper, lower, var_upper, var_lower, cov):
    return RatioMean(*one(upper, lower, var_upper, var_lower, cov))


def nodes(breaks):
    breaks = np.unique(breaks)
    half = 0.5 * np.diff(breaks)
    return ((breaks[:-1] + half)[:, None] + half[:, None] * NODES).ravel(), (half[:, None] * WEIGHTS).ravel()


def log_prior(prior, lam):
    if prior.family == "flat":
        return np.zeros_like(lam)
    return (
        stats.norm.logpdf(lam, 0, prior.scale)
        if prior.family == "normal"
        else stats.t.logpdf(lam / prior.scale, prior.df)
    )


def log_like(arm, m):
    """Log likelihood of a mean, from the definition of each arm."""
    if isinstance(arm, Poisson):
        return stats.poisson.logpmf(arm.total[0], np.maximum(m, 1e-300) * arm.units[0])
    if isinstance(arm, StudentMean):
        return stats.t.logpdf((m - arm.mean[0]) / arm.se[0], arm.df[0])
    covariance = np.array([[arm.var_upper[0], arm.cov[0]], [arm.cov[0], arm.var_lower[0]]])
    both = stats.multivariate_normal([arm.upper[0], arm.lower[0]], covariance)
    x, weight = nodes(arm.lower[0] + math.sqrt(arm.var_lower[0]) * np.linspace(-9, 9, 25))
    m = np.asarray(m)
    points = np.stack([m[..., None] * x, np.broadcast_to(x, (*m.shape, len(x)))], axis=-1)
    with np.errstate(divide="ignore"):
        return np.log((both.pdf(points) * weight * x).sum(axis=-1))


def place(arm):
    if isinstance(arm, Poisson):
        return float((arm.total[0] + 0.5) / arm.units[0]), math.sqrt(arm.total[0] + 1) / float(arm.units[0])
    return float(arm.mean[0]), float(arm.se[0])


def reference(control, treatment, prior, cuts_abs):
    (m_c, s_c), (m_t, s_t) = place(control), place(treatment)
    ends = np.concatenate([[m_c], m_c - s_c * STEPS, m_c + s_c * STEPS])
    floor = 0.0 if isinstance(control, Poisson) else 0.05 * m_c
    m, weight_m = nodes(np.concatenate([[max(floor, 1e-12 * m_c)], ends[ends > max(floor, 1e-12 * m_c)]]))
    base = log_like(control, m)
    keep = base > base.max() - 30
    logs, weights, rel, sizes = [], [], [], []
    rel_se = min(s_t / m_t, 1.0)
    for value, share, log_c in zip(m[keep], weight_m[keep], base[keep], strict=True):
        middle = math.log(m_t / value)
        crosses = 1 + np.concatenate([CUTS, cuts_abs / value])
        breaks = [
            [0.0],
            middle + rel_se * np.concatenate([-STEPS, [0], STEPS]),
            np.log(crosses[crosses > 0]),
            np.linspace(-30, 4, 18),
        ]
        if prior.family != "flat":
            breaks.append(prior.scale * np.concatenate([-STEPS, STEPS]))
        lam, inner = nodes(np.clip(np.concatenate(breaks), -30, 4))
        log_t = log_like(treatment, value * np.exp(lam))
        logs.append(log_t + log_prior(prior, lam) + log_c + (lam + math.log(value) if prior.family == "flat" else 0))
        weights.append(inner * share)
        rel.append(np.expm1(lam))
        sizes.append(np.full_like(lam, value))
    log_f, effect = np.concatenate(logs), np.concatenate(rel)
    mass = np.exp(log_f - log_f.max()) * np.concatenate(weights)
    return effect, effect * np.concatenate(sizes), mass / mass.sum()


def agree(found, effect, mass, cuts):
    mean = effect @ mass
    sd = math.sqrt((effect - mean) ** 2 @ mass)
    assert found.mean[0] == pytest.approx(mean, abs=2e-6 * sd)
    assert found.sd[0] == pytest.approx(sd, rel=1e-5)
    assert found.loss[0] == pytest.approx(np.maximum(-effect, 0) @ mass, rel=1e-4, abs=1e-8 * sd)
    for place_, cut in enumerate(cuts):
        assert found.p_above[0, place_] == pytest.approx(mass[effect > cut].sum(), abs=1e-6)


PAIRS = [
    (poisson(300, 1000), poisson(330, 1000)),
    (poisson(12, 400), poisson(9, 300)),
    (student(10, 0.5, 29), student(10.7, 0.6, 19)),
    (student(10, 0.2, 19), student(9.0, 1.5, 150)),
]
RATIOS = [(ratio(2, 1, 0.01, 0.005, 0.003), ratio(2.2, 1, 0.012, 0.006, 0.003))]


@pytest.mark.parametrize("prior", [FLAT, Prior(), Prior(scale=0.3), Prior("normal", scale=0.05)], ids=lambda p: p.id)
@pytest.mark.parametrize("pair", PAIRS, ids=["events", "few events", "t", "t of unequal errors"])
def test_effects_equal_quadrature_in_two_dimensions(pair, prior):
    cuts_abs = CUTS * place(pair[0])[0]
    relative, absolute, mass = reference(*pair, prior, cuts_abs)
    agree(relative_effect(*pair, prior, CUTS), relative, mass, CUTS)
    if prior.family != "flat" or isinstance(pair[0], Poisson):  # without a prior the difference has no floor
        agree(absolute_effect(*pair, prior, cuts_abs), absolute, mass, cuts_abs)


@pytest.mark.parametrize("prior", [FLAT, Prior(scale=0.3)], ids=lambda p: p.id)
def test_a_ratio_with_a_weak_denominator_equals_quadrature_over_both_sums(prior):
    (pair,) = RATIOS
    relative, _, mass = reference(*pair, prior, CUTS)
    agree(relative_effect(*pair, prior, CUTS), relative, mass, CUTS)


@pytest.mark.parametrize(
    "counts", [(300, 1000, 330, 900), (0, 50, 3, 60), (2, 1e6, 9, 1e6), (10**9, 10**9, 10**9 + 10**5, 10**9)]
)
def test_two_event_rates_are_a_beta(counts):
    k_c, n_c, k_t, n_t = counts
    found = relative_effect(poisson(k_c, n_c), poisson(k_t, n_t), FLAT, CUTS)
    odds = n_t * (1 + CUTS) / n_c
    wanted = 1 - special.betainc(k_t + 1, k_c + 1, odds / (1 + odds))
    assert found.p_above[0] == pytest.approx(wanted, abs=1e-7)
    assert absolute_effect(poisson(k_c, n_c), poisson(k_t, n_t), FLAT, CUTS).p_above[0, 0] == pytest.approx(
        wanted[0], abs=1e-7
    )
    if k_c > 0:
        assert 1 + found.mean[0] == pytest.approx((k_t + 1) / n_t * n_c / k_c, rel=1e-9)


def test_the_interval_of_two_event_rates_is_the_shortest():
    k_c, n_c, k_t, n_t = 12, 400, 9, 300
    ratio_of = stats.betaprime(k_t + 1, k_c + 1, scale=n_c / n_t)
    start = optimize.minimize_scalar(
        lambda p: ratio_of.ppf(p + 0.95) - ratio_of.ppf(p), bounds=(0, 0.05), method="bounded", options={"xatol": 1e-12}
    ).x
    found = relative_effect(poisson(k_c, n_c), poisson(k_t, n_t), FLAT, CUTS)
    assert (1 + found.hdi_low[0], 1 + found.hdi_high[0]) == pytest.approx(
        (ratio_of.ppf(start), ratio_of.ppf(start + 0.95)), abs=1e-4 * ratio_of.std()
    )


def test_a_difference_of_two_t_with_equal_errors_has_the_known_tail():
    # the sum of two independent Cauchy-like t with 3 degrees of freedom, from their characteristic function
    found = absolute_effect(student(0, 1, 3), student(0, 1, 3), FLAT, np.array([0.0, 1.0, 5.0]))

    def phi(t):
        return ((1 + math.sqrt(3) * t) * np.exp(-math.sqrt(3) * t)) ** 2

    t, weight = nodes(np.linspace(1e-9, 30, 200))
    wanted = [0.5 - (np.sin(t * x) / t * phi(t) * weight).sum() / math.pi for x in (0.0, 1.0, 5.0)]
    assert found.p_above[0] == pytest.approx(wanted, abs=1e-7)


def test_many_degrees_of_freedom_are_a_normal():
    for prior in (FLAT, Prior()):
        t = relative_effect(student(10, 0.5, 1e9), student(10.7, 0.6, 1e9), prior, CUTS)
        normal = relative_effect(NormalMean(*one(10, 0.5)), NormalMean(*one(10.7, 0.6)), prior, CUTS)
        assert t.p_above[0] == pytest.approx(normal.p_above[0], abs=1e-7)
        assert t.hdi_low[0] == pytest.approx(normal.hdi_low[0], abs=1e-5)


@pytest.mark.parametrize("prior", [FLAT, Prior(), Prior(scale=0.3)], ids=lambda p: p.id)
@pytest.mark.parametrize(
    "arms", [*PAIRS, *RATIOS, (poisson(0, 1000), poisson(3, 1000))], ids=lambda pair: type(pair[0]).__name__
)
def test_the_best_of_two_is_the_better_one_on_both_scales(arms, prior):
    from expnb.posterior.exact.best import share_best

    best = share_best(arms, prior, largest=True)[0, 1]
    assert best == pytest.approx(absolute_effect(*arms, prior, np.zeros(1)).p_above[0, 0], abs=1e-6)
    if not isinstance(arms[0], Poisson) or arms[0].total[0] or prior.family != "flat":
        assert best == pytest.approx(relative_effect(*arms, prior, np.zeros(1)).p_above[0, 0], abs=1e-6)


def test_equal_treatments_are_best_equally_often():
    for pair in (*PAIRS, *RATIOS):
        for prior in (FLAT, Prior(scale=0.3)):
            shares = prob_best([pair[0], pair[1], pair[1]], prior, largest=True)[0]
            assert shares[1] == pytest.approx(shares[2], abs=1e-8)
            assert shares.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: poisson(-1, 5), "events start at 0"),
        (lambda: poisson(1, 0), "units above it"),
        (lambda: student(1, 0, 5), "error above 0"),
        (lambda: student(1, 1, 0), "degrees of freedom at least 1"),
        (lambda: ratio(2, 1, 0.01, 0.02, 0.0), "standard errors above 0; a ratio needs 10"),
        (
            lambda: relative_effect(student(10, 1.5, 19), student(10, 1, 19), FLAT, CUTS),
            "needs a control mean of at least 7.37",
        ),
    ],
)
def test_what_has_no_answer_says_why(make, says):
    with pytest.raises(PosteriorError, match=says):
        make()


@pytest.mark.parametrize("make", [lambda mean, se: NormalMean(*one(mean, se)), lambda mean, se: student(mean, se, 20)])
@pytest.mark.parametrize(("mean", "se"), [(1, 1e-170), (1, 1e298), (0, 1e-60), (1e200, 1e199), (1e20, 1)])
def test_errors_that_cannot_be_worked_with_are_refused(make, mean, se):
    with pytest.raises(PosteriorError, match=r"row 0 has mean .* with standard error .*; .* another unit"):
        relative_effect(make(mean, se), make(1.1 * mean, se), FLAT, CUTS)


@pytest.mark.parametrize("prior", [FLAT, Prior()], ids=lambda p: p.family)
@pytest.mark.parametrize("unit", [2e-39, 1e-20, 1e20, 4e38])
def test_the_unit_of_a_mean_does_not_matter(unit, prior):
    for verb, size in ((relative_effect, 1.0), (absolute_effect, unit)):
        found = verb(NormalMean(*one(20 * unit, unit)), NormalMean(*one(21 * unit, unit)), prior, np.zeros(1))
        wanted = verb(NormalMean(*one(20, 1)), NormalMean(*one(21, 1)), prior, np.zeros(1))
        assert found.p_above[0, 0] == pytest.approx(wanted.p_above[0, 0], abs=1e-9)
        assert found.mean[0] == pytest.approx(wanted.mean[0] * size, rel=1e-7)


def test_a_ratio_that_cannot_be_worked_with_is_refused():
    with pytest.raises(PosteriorError, match="another unit"):
        ratio(2e200, 1, 1e300, 0.005, 0.003)


@pytest.mark.parametrize("prior", [FLAT, Prior()], ids=lambda p: p.family)
def test_a_mean_next_to_nothing_is_judged_as_none(prior):
    arms = [NormalMean(*one(mean, 1)) for mean in (1e-300, 0.5)]
    if prior == FLAT:
        nothing = absolute_effect(NormalMean(*one(0, 1)), arms[1], FLAT, CUTS)
        assert absolute_effect(*arms, FLAT, CUTS).p_above.tolist() == nothing.p_above.tolist()
    else:
        with pytest.raises(PosteriorError, match="control mean"):
            absolute_effect(*arms, prior, CUTS)


def test_an_error_that_dwarfs_its_mean_gives_no_relative_effect():
    with pytest.raises(PosteriorError, match="control mean"):
        relative_effect(NormalMean(*one(1e-300, 1)), NormalMean(*one(1.01e-300, 1)), FLAT, CUTS)


def test_a_share_that_is_nothing_is_never_less():
    arms = [poisson(200, 2000), poisson(600, 2000), poisson(1200, 2000)]
    clear = prob_best(arms, FLAT, largest=True)
    assert 0.0 <= clear.min() <= clear.max() <= 1.0
    rates = [student(mean, 0.3 / math.sqrt(2000), 1999) for mean in (0.1, 0.12, 0.5)]
    assert prob_best(rates, FLAT, largest=True).min() >= 0.0
