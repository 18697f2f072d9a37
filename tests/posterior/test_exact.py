"""Exact posteriors against quadrature written another way: two dimensions, over the control's mean and the log ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from expnb.errors import PosteriorError
from expnb.posterior.exact.engine import Binomial, NormalMean, Quantity, absolute_effect, prob_best, relative_effect
from expnb.spec.prior import Prior

Floats = NDArray[np.float64]

FLAT = Prior("flat")
PRIORS = [FLAT, Prior(), Prior("normal")]
CUTS = np.array([0.0, 0.005, -0.005, -0.02, 0.0123])
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)
STEPS = np.array(
    [0.05, 0.15, 0.3, 0.5, 0.75, 1, 1.3, 1.6, 2, 2.4, 2.8, 3.3, 3.8, 4.4, 5, 5.7, 6.4, 7.2, 8, 9, 11, 14, 20, 40, 100]
)

# control successes, units, treatment successes, units
COUNTS = [
    (300, 30_000, 330, 30_000),
    (15, 100, 12, 100),
    (0, 30, 0, 30),
    (30, 30, 30, 30),
    (1, 30, 0, 30),
    (2, 30, 1, 40),
    (29, 30, 30, 30),
    (9_998, 10_000, 9_990, 10_000),
    (950, 19_000, 40, 1_000),  # 95 % against 5 % of the units
    (3, 100, 330, 10_000),
    (50, 1_000, 86, 1_000),  # +72 %
    (500, 1_000, 50, 1_000),  # -90 %
    (100, 10_000_000, 120, 10_000_000),
    (5_000_000, 10_000_000, 5_003_000, 10_000_000),
]
# control mean, its error, treatment mean, its error
MEANS = [
    (10.0, 0.1, 10.2, 0.1),
    (10.0, 1.0, 17.2, 1.0),
    (10.0, 0.05, 1.0, 0.02),
    (1e9, 1.0, 1e9 + 1.0, 1.0),
    (1e-12, 1e-14, 1.02e-12, 3e-14),
    (10.0, 0.02, 9.0, 2.0),
    (10.0, 1.1, 3.0, 2.0),
    (10.0, 0.3, 10.0, 0.1),
]


def one(*values: float) -> list[Floats]:
    return [np.array([float(value)]) for value in values]


def rates(counts: tuple[float, float, float, float]) -> tuple[Binomial, Binomial]:
    k_c, n_c, k_t, n_t = one(*counts)
    return Binomial(k_c, n_c), Binomial(k_t, n_t)


def means(values: tuple[float, float, float, float]) -> tuple[NormalMean, NormalMean]:
    m_c, s_c, m_t, s_t = one(*values)
    return NormalMean(m_c, s_c), NormalMean(m_t, s_t)


# --- the other way: Gauss-Legendre panels in two dimensions, broken at every cut ---------------


def nodes(breaks: Floats) -> tuple[Floats, Floats]:
    breaks = np.unique(breaks)
    half = 0.5 * np.diff(breaks)
    return ((breaks[:-1] + half)[:, None] + half[:, None] * NODES).ravel(), (half[:, None] * WEIGHTS).ravel()


def log_prior(prior: Prior, lam: Floats) -> Floats:
    if prior.family == "flat":
        return np.zeros_like(lam)
    return np.asarray(
        stats.norm.logpdf(lam, 0, prior.scale)
        if prior.family == "normal"
        else stats.t.logpdf(lam / prior.scale, prior.df)
    )


@dataclass(frozen=True)
class Reference:
    """Nodes of the joint posterior: effect and weight, weights adding up to 1."""

    effect: Floats
    weight: Floats

    def mean_of(self, values: Floats) -> float:
        return float(values @ self.weight)

    @property
    def mean(self) -> float:
        return self.mean_of(self.effect)

    @property
    def sd(self) -> float:
        return math.sqrt(self.mean_of((self.effect - self.mean) ** 2))


def ladder(middle: float, scale: float) -> Floats:
    return np.concatenate([[middle], middle - scale * STEPS, middle + scale * STEPS])


def lam_breaks(prior: Prior, middle: float, spread: float, upper: float, extra: Floats) -> Floats:
    breaks = [ladder(middle, spread), extra, np.linspace(-40, 40, 21)]
    if prior.family != "flat":
        breaks += [
            ladder(0.0, prior.scale),
            np.geomspace(100 * prior.scale, 120 * prior.scale + 40, 12),
            -np.geomspace(100 * prior.scale, 120 * prior.scale + 40, 12),
        ]
    return np.append(np.unique(np.clip(np.concatenate(breaks), -40, upper)), upper)


def joint(
    arms: tuple[Binomial, Binomial] | tuple[NormalMean, NormalMean], prior: Prior, cuts_abs: Floats
) -> tuple[Reference, Reference]:
    """The joint posterior of the relative and of the absolute effect: control mean outside, log ratio inside, breaks where an effect equals a cut."""
    control, treatment = arms
    if isinstance(control, Binomial) and isinstance(treatment, Binomial):
        k_c, f_c, k_t, f_t = (
            float(a[0]) for a in (control.successes, control.failures, treatment.successes, treatment.failures)
        )
        middle = (k_c + 1) / (k_c + f_c + 2)
        spread_c = math.sqrt(middle * (1 - middle) / (k_c + f_c))
        edge = np.geomspace(1e-12, 0.5, 24)
        cut_edges = np.concatenate([-cuts_abs, 1 - cuts_abs, 1 / (1 + CUTS)])
        breaks = np.clip(
            np.concatenate(
                [
                    [0, 1],
                    edge,
                    1 - edge,
                    cut_edges,
                    ladder(middle, spread_c),
                    np.linspace(-14, 14, 29) * spread_c + middle,
                ]
            ),
            0,
            1,
        )
        m, weight = nodes(breaks)
        log_c = special.xlogy(k_c, m) + special.xlog1py(f_c, -m)
        spread, estimate = math.sqrt((f_t + 0.5) / ((k_t + 0.5) * (k_t + f_t + 1))), (k_t + 0.5) / (k_t + f_t + 1)
        top = 1.0

        def log_t(x: Floats) -> Floats:
            x = np.clip(x, 1e-300, 1.0)
            return np.asarray(special.xlogy(k_t, x) + special.xlog1py(f_t, -x))
    else:
        assert isinstance(control, NormalMean)
        assert isinstance(treatment, NormalMean)
        c, s_c, estimate, s_t = (float(a[0]) for a in (control.mean, control.se, treatment.mean, treatment.se))
        sharp = np.concatenate(
            [
                ladder((cross - c) / s_c, s_t / s_c)
                for cross in np.concatenate([estimate / (1 + CUTS), estimate - cuts_abs])
            ]
        )
        z, weight = nodes(
            np.clip(
                np.concatenate([np.linspace(-9, 9, 25), sharp if 3 * s_t < s_c else sharp[:0]]),
                max(-9, -0.95 * c / s_c),
                9,
            )
        )
        m, log_c = c + s_c * z, -0.5 * z**2
        spread, top = min(1.0, s_t / estimate), math.inf

        def log_t(x: Floats) -> Floats:
            return -0.5 * ((x - estimate) / s_t) ** 2

    keep = log_c > log_c.max() - (250 if prior.family == "normal" else 36)  # a Normal prior may pull far away
    logs, weights, lams, sizes = [], [], [], []
    for value, share, base in zip(m[keep], weight[keep], log_c[keep], strict=True):
        ratio = 1 + np.concatenate([CUTS, cuts_abs / value])
        breaks = lam_breaks(
            prior, math.log(estimate / value), spread, min(40.0, math.log(top / value)), np.log(ratio[ratio > 0])
        )
        lam, inner = nodes(breaks)
        logs.append(
            log_t(value * np.exp(lam))
            + log_prior(prior, lam)
            + base
            + (lam + math.log(value) if prior.family == "flat" else 0)
        )
        weights.append(inner * share)
        lams.append(lam)
        sizes.append(np.full_like(lam, value))
    log_f, effect = np.concatenate(logs), np.expm1(np.concatenate(lams))
    mass = np.exp(log_f - log_f.max()) * np.concatenate(weights)
    mass /= mass.sum()
    return Reference(effect, mass), Reference(effect * np.concatenate(sizes), mass)


def assert_agree(
    found: Quantity, wanted: Reference, cuts: Floats, *, moments: float = 2, tolerance: float = 1e-6
) -> None:
    sd = wanted.sd
    for i, cut in enumerate(cuts):
        assert found.p_above[0, i] == pytest.approx(wanted.mean_of(wanted.effect > cut), abs=tolerance), cut
    assert found.loss[0] == pytest.approx(wanted.mean_of(np.maximum(-wanted.effect, 0)), rel=1e-5, abs=1e-11 * sd)
    if moments >= 1:
        assert found.gain[0] == pytest.approx(wanted.mean_of(np.maximum(wanted.effect, 0)), rel=1e-5, abs=1e-11 * sd)
        assert found.mean[0] == pytest.approx(wanted.mean, abs=1e-6 * sd)
    if moments >= 2:
        assert found.sd[0] == pytest.approx(sd, rel=1e-5)


def name(value: object) -> str:
    return value.id if isinstance(value, Prior) else "-".join(f"{v:g}" for v in value)  # type: ignore[attr-defined]


CASES = [(counts, prior) for counts in COUNTS for prior in (FLAT, Prior())]
CASES += [(counts, Prior(scale=0.3)) for counts in COUNTS[:2] + COUNTS[4:6] + COUNTS[10:12]]
CASES += [(counts, prior) for counts in COUNTS[:2] + COUNTS[11:12] for prior in (Prior(scale=0.003), Prior("normal"))]


@pytest.mark.parametrize(("counts", "prior"), CASES, ids=name)
def test_effects_of_rates_equal_quadrature_in_two_dimensions(
    counts: tuple[float, float, float, float], prior: Prior
) -> None:
    arms = rates(counts)
    cuts_abs = CUTS * (counts[0] + 1) / (counts[1] + 2)
    relative, absolute = joint(arms, prior, cuts_abs)
    moments = min(counts[0] + {"flat": 0, "student_t": 1, "normal": 2}[prior.family], 2)
    found = relative_effect(*arms, prior, CUTS)
    assert np.isinf(found.sd[0]) == (moments < 2)
    assert np.isinf(found.mean[0]) == (moments < 1)
    assert_agree(found, relative, CUTS, moments=moments)
    # without any success and with a prior, the density of the difference has a pole at 0
    tolerance = 1e-6
    assert_agree(absolute_effect(*arms, prior, cuts_abs), absolute, cuts_abs, tolerance=tolerance)


@pytest.mark.parametrize("prior", [FLAT, Prior(), Prior(scale=0.3)], ids=name)
@pytest.mark.parametrize("values", MEANS, ids=name)
def test_effects_of_means_equal_quadrature_in_two_dimensions(
    values: tuple[float, float, float, float], prior: Prior
) -> None:
    arms = means(values)
    cuts_abs = CUTS * values[0]
    relative, absolute = joint(arms, prior, cuts_abs)
    assert_agree(relative_effect(*arms, prior, CUTS), relative, CUTS)
    if prior.family != "flat":
        assert_agree(absolute_effect(*arms, prior, cuts_abs), absolute, cuts_abs)


# --- the interval --------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS, ids=name)
@pytest.mark.parametrize(
    "counts", [(300, 30_000, 330, 30_000), (15, 100, 12, 100), (50, 1_000, 86, 1_000), (5, 50, 6, 50)], ids=name
)
def test_interval_holds_95_percent_and_no_other_of_that_mass_is_shorter(
    counts: tuple[float, float, float, float], prior: Prior
) -> None:
    arms = rates(counts)
    for verb in (relative_effect, absolute_effect):
        wide = verb(*arms, prior, CUTS)
        low, high, sd = wide.hdi_low[0], wide.hdi_high[0], wide.sd[0]
        step = 1e-5 * (high - low)
        at = verb(*arms, prior, np.array([low, low + step, high, high + step])).p_above[0]
        assert at[0] - at[2] == pytest.approx(0.95, abs=1e-8)
        # equal density at both ends: a shift changes no mass to first order
        edge_low, edge_high = (at[0] - at[1]) / step, (at[2] - at[3]) / step
        assert (edge_low - edge_high) * sd == pytest.approx(0.0, abs=1e-4)


def test_interval_of_the_difference_of_two_normal_means_is_the_closed_form() -> None:
    found = absolute_effect(*means((-3.0, 0.3, 1.0, 0.4)), FLAT, CUTS)
    assert found.hdi_low[0] == pytest.approx(4 - stats.norm.ppf(0.975) * 0.5, abs=1e-8)
    assert found.hdi_high[0] == pytest.approx(4 + stats.norm.ppf(0.975) * 0.5, abs=1e-8)


def test_interval_starts_at_the_edge_where_the_density_falls_from_there_on() -> None:
    found = relative_effect(*rates((5_000, 10_000, 0, 10_000)), FLAT, CUTS)
    assert found.hdi_low[0] == -1.0
    # the treatment's rate is Beta(1, 10001); the control's is 0.5 within 1 %
    assert found.hdi_high[0] == pytest.approx(2 * stats.beta(1, 10_001).ppf(0.95) - 1, abs=1e-6)


# --- closed forms from elsewhere -----------------------------------------------------------------


def miller(k_c: int, n_c: int, k_t: int, n_t: int) -> float:
    """P(B > A) of two Beta(1 + k, 1 + n - k), Evan Miller (2015), Formulas for Bayesian A/B Testing, equation 6."""
    a, b, a_t, b_t = k_c + 1, n_c - k_c + 1, k_t + 1, n_t - k_t + 1
    i = np.arange(a_t)
    return float(
        np.exp(
            special.betaln(a + i, b + b_t) - np.log(b_t + i) - special.betaln(1 + i, b_t) - special.betaln(a, b)
        ).sum()
    )


@pytest.mark.parametrize(
    "counts",
    [
        (0, 30, 0, 30),
        (30, 30, 29, 30),
        (0, 30, 59, 4_861_175),
        (9_999_990, 10_000_000, 30, 30),
        (12, 100, 15, 110),
        (100, 10_000, 130, 10_000),
        (3, 100, 330, 10_000),
    ],
)
def test_probability_of_the_better_rate_is_the_sum_of_evan_miller(counts: tuple[int, int, int, int]) -> None:
    for verb in (relative_effect, absolute_effect):
        assert verb(*rates(counts), FLAT, CUTS).p_above[0, 0] == pytest.approx(miller(*counts), abs=1e-8)


def test_difference_of_normal_means_is_the_closed_form() -> None:
    found = absolute_effect(*means((-3.0, 0.3, -2.8, 0.4)), FLAT, np.array([0.1]))
    normal, z = stats.norm(0.2, 0.5), 0.4
    assert found.p_above[0, 0] == pytest.approx(normal.sf(0.1), abs=1e-10)
    assert found.loss[0] == pytest.approx(0.5 * stats.norm.pdf(z) - 0.2 * stats.norm.cdf(-z), rel=1e-8)
    assert (found.mean[0], found.sd[0]) == (pytest.approx(0.2, abs=1e-10), pytest.approx(0.5, rel=1e-8))


@pytest.mark.parametrize("family", ["student_t", "normal"])
def test_a_narrow_prior_wins_and_a_wide_one_gives_way(family: str) -> None:
    arms = rates((500, 10_000, 600, 10_000))
    narrow = relative_effect(*arms, Prior(family, scale=1e-5), CUTS)  # type: ignore[arg-type]
    wide = relative_effect(*arms, Prior(family, scale=0.99), CUTS)  # type: ignore[arg-type]
    assert narrow.mean[0] == pytest.approx(0, abs=1e-4)
    assert wide.mean[0] == pytest.approx(0.2, abs=0.01)


# --- many arms -----------------------------------------------------------------------------------


def test_best_of_three_normal_means_is_the_known_orthant() -> None:
    arms = [NormalMean(*one(m, 1.0)) for m in (0.0, 0.0, 0.0)]
    assert prob_best(arms, FLAT, largest=True)[0] == pytest.approx([1 / 3] * 3, abs=1e-9)
    one_far = [NormalMean(*one(m, 1.0)) for m in (0.0, 0.0, 50.0)]
    assert prob_best(one_far, FLAT, largest=False)[0] == pytest.approx([0.5, 0.5, 0.0], abs=1e-9)


@pytest.mark.parametrize("prior", PRIORS, ids=name)
def test_the_order_of_the_treatments_does_not_matter(prior: Prior) -> None:
    first, second, third = (Binomial(*one(*count)) for count in [(100, 1_000), (120, 1_000), (1, 20)])
    there, back = (
        prob_best([first, second, third], prior, largest=True),
        prob_best([first, third, second], prior, largest=True),
    )
    assert there[0] == pytest.approx(back[0, [0, 2, 1]], abs=1e-9)


def test_best_of_three_rates_under_a_prior_equals_quadrature_in_three_dimensions() -> None:
    counts, prior = [(100, 1_000), (120, 1_000), (9, 60)], Prior(scale=0.1)
    m, weight = nodes(np.linspace(0.04, 0.2, 17))
    lam, inner = nodes(np.concatenate([np.linspace(-2, 1.6, 73), [0.0]]))
    size = np.exp(stats.binom.logpmf(100, 1_000, m)) * weight
    share = np.zeros(3)
    density = [
        stats.binom.pmf(k, n, np.clip(m[:, None] * np.exp(lam), 0, 1)) * np.exp(log_prior(prior, lam)) * inner
        for k, n in counts[1:]
    ]
    for i in range(len(m)):
        both = size[i] * density[0][i][:, None] * density[1][i]
        high = np.maximum(lam[:, None], lam)
        first = (lam[:, None] > lam) + 0.5 * (lam[:, None] == lam)
        share += [both[high < 0].sum(), (both * first)[high >= 0].sum(), (both * (1 - first))[high >= 0].sum()]
    arms = [Binomial(*one(*count)) for count in counts]
    # the panels on the diagonal are cut in steps here, hence the tolerance
    assert prob_best(arms, prior, largest=True)[0] == pytest.approx(share / share.sum(), abs=5e-4)


# --- algebra ---------------------------------------------------------------------------------------

count_pairs = st.integers(30, 200_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
positive = st.floats(1.0, 100.0)
quiet = settings(max_examples=8, deadline=None)


@given(count_pairs, count_pairs)
@quiet
def test_swapping_independent_arms_mirrors_the_absolute_effect(first: tuple[int, int], second: tuple[int, int]) -> None:
    there, back = (
        absolute_effect(*rates((*first, *second)), FLAT, np.zeros(1)),
        absolute_effect(*rates((*second, *first)), FLAT, np.zeros(1)),
    )
    sd = there.sd[0]
    assert there.mean[0] == pytest.approx(-back.mean[0], abs=1e-5 * sd)
    assert there.p_above[0, 0] == pytest.approx(1 - back.p_above[0, 0], abs=1e-7)
    assert there.loss[0] == pytest.approx(back.gain[0], rel=1e-4, abs=1e-6 * sd)
    assert there.hdi_low[0] == pytest.approx(-back.hdi_high[0], abs=2e-4 * sd)


@given(
    positive,
    st.floats(0.001, 0.15),
    positive,
    st.floats(0.001, 0.5),
    st.sampled_from([1e-9, 0.01, 1e9]),
    st.sampled_from(PRIORS),
)
@quiet
def test_scaling_a_metric_scales_the_absolute_effect_and_leaves_the_relative(
    m_c: float, r_c: float, m_t: float, r_t: float, by: float, prior: Prior
) -> None:
    small, large = (means((f * m_c, f * m_c * r_c, f * m_t, f * m_t * r_t)) for f in (1.0, by))
    for verb, factor in ((relative_effect, 1.0), (absolute_effect, by)):
        one_, other = verb(*small, prior, np.zeros(1)), verb(*large, prior, np.zeros(1))
        sd = one_.sd[0]
        assert other.mean[0] / factor == pytest.approx(one_.mean[0], abs=1e-6 * sd)
        assert other.hdi_high[0] / factor == pytest.approx(one_.hdi_high[0], abs=1e-4 * sd)
        assert other.p_above[0, 0] == pytest.approx(one_.p_above[0, 0], abs=1e-8)


@given(count_pairs, count_pairs, st.sampled_from(PRIORS))
@quiet
def test_probability_falls_with_the_cut_and_both_effects_agree_on_the_sign(
    first: tuple[int, int], second: tuple[int, int], prior: Prior
) -> None:
    arms = rates((*first, *second))
    cuts = np.linspace(-0.9, 0.9, 19)
    found = relative_effect(*arms, prior, cuts)
    assert (np.diff(found.p_above[0]) <= 1e-6).all()
    assert found.p_above[0, 9] == pytest.approx(prob_best(arms, prior, largest=True)[0, 1], abs=1e-6)
    assert found.p_above[0, 9] == pytest.approx(absolute_effect(*arms, prior, np.zeros(1)).p_above[0, 0], abs=1e-6)


@given(counts=st.lists(count_pairs, min_size=3, max_size=4), largest=st.booleans())
@quiet
def test_shares_of_being_best_add_up_to_one(*, counts: list[tuple[int, int]], largest: bool) -> None:
    shares = prob_best([Binomial(*one(*count)) for count in counts], FLAT, largest=largest)
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    assert (shares >= -1e-12).all()


@pytest.mark.parametrize("prior", [FLAT, Prior(scale=0.9)], ids=name)
def test_a_hundred_times_the_units_is_a_tenth_of_the_spread(prior: Prior) -> None:
    few, many = (
        relative_effect(*rates((100 * f, 1_000 * f, 120 * f, 1_000 * f)), prior, CUTS).sd[0] for f in (10, 1_000)
    )
    assert few / many == pytest.approx(10, rel=0.01)


def test_rows_do_not_know_of_each_other() -> None:
    some = COUNTS[:2] + COUNTS[5:9]
    several = np.array(some, dtype=float).T
    for verb in (relative_effect, absolute_effect):
        together = verb(Binomial(several[0], several[1]), Binomial(several[2], several[3]), Prior(), CUTS)
        for row, counts in enumerate(some):
            assert together.p_above[row] == pytest.approx(verb(*rates(counts), Prior(), CUTS).p_above[0], abs=1e-9)


def test_a_chart_integrates_to_one() -> None:
    for verb in (relative_effect, absolute_effect):
        found = verb(*rates((300, 30_000, 330, 30_000)), Prior(), CUTS)
        assert np.trapezoid(found.density[0], found.grid[0]) == pytest.approx(1, abs=1e-2)
        assert (np.diff(found.grid[0]) > 0).all()


# --- what cannot be answered ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Binomial(*one(5, 4)), "5 successes of 4 units"),
        (lambda: NormalMean(*one(5, 0)), "standard error 0"),
        (lambda: relative_effect(*means((1.0, 0.5, 2.0, 0.5)), Prior(), CUTS), "at least 5 standard errors"),
        (lambda: absolute_effect(*means((1.0, 0.1, -2.0, 0.5)), Prior(), CUTS), "treatment mean above 0"),
        (lambda: relative_effect(Binomial(*one(1, 4)), NormalMean(*one(1, 4)), Prior(), CUTS), "same kind"),
        (lambda: prob_best([Binomial(*one(1, 4))], Prior(), largest=True), "at least two"),
        (lambda: relative_effect(*rates((1, 4, 2, 4)), Prior(), np.array([math.nan])), "finite effect"),
    ],
)
def test_what_has_no_answer_says_why(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(PosteriorError, match=says):
        make()
